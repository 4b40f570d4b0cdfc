//! `vqgan_encode_decode`, `vqgan_remap`, `vqgan_tanh_out`.

use super::fixture::{Fixture, Outcome, VALUES};
use imagebart::torch::weights::Weights;
use imagebart::vqgan::ops::{Layout, Placement};
use imagebart::vqgan::quantizer::{Commitment, OUTLIER, Quantizer, Unknown};
use imagebart::vqgan::{Codebook, Vqgan};
use tch::{Device, Kind, Tensor};

const LEGACY: Commitment = Commitment { beta: 0.25, legacy: true };

fn quantizer(network: &Vqgan) -> Result<&Quantizer, Box<dyn std::error::Error>> {
    match &network.codebook {
        Codebook::Nearest(quantizer) => Ok(quantizer),
        Codebook::Gumbel(_) => Err("the fixture's network is a GumbelVQ".into()),
    }
}

/// Both memory layouts, each compared with everything.
fn networks(fixture: &mut Fixture, tanh: bool) -> Result<(Vec<Vqgan>, Weights), Box<dyn std::error::Error>> {
    let config = fixture.vqgan("first_stage_config")?;
    let weights = fixture.weights("w.")?;
    let mut networks = Vec::new();
    for layout in [Layout::Contiguous, Layout::ChannelsLast] {
        let placement = Placement { layout, ..Placement::cpu() };
        networks.push(Vqgan::load(&config, &weights, placement, tanh)?);
    }
    Ok((networks, weights))
}

/// What a remapped fixture calls indices before the remap.
fn compare_image(fixture: &mut Fixture, network: &Vqgan, suffix: &str, indices: &str) -> Outcome {
    let out = |name: &str| format!("out.{name}{suffix}");
    let image = fixture.read(&format!("in.image{suffix}"))?;
    let features = network.features(&image)?;
    if fixture.has(&out("enc_h")) {
        fixture.close(&out("enc_h"), &network.encoder.forward(&image)?, VALUES)?;
    }
    fixture.close(&out("prequant"), &features, VALUES)?;
    let quantized = quantizer(network)?.quantize(&features, LEGACY)?;
    fixture.equal(&out(indices), &quantized.indices)?;
    fixture.close(&out("z_q"), &quantized.z_q, VALUES)?;
    fixture.close(&out("emb_loss"), &quantized.loss, VALUES)?;
    if fixture.has(&out("post_quant")) {
        fixture.close(&out("post_quant"), &network.post_quant_conv.forward(&quantized.z_q)?, VALUES)?;
    }
    fixture.close(&out("dec"), &network.decode(&quantized.z_q)?, VALUES)
}

fn compare_ids(fixture: &mut Fixture, network: &Vqgan) -> Outcome {
    let ids = fixture.read("in.ids")?;
    let entries = network.codebook.entries(&network.codebook.remap().to_indices(&ids)?)?;
    fixture.close("out.entry", &entries, VALUES)?;
    fixture.close("out.dec_from_ids", &network.decode(&entries)?, VALUES)
}

pub fn encode_decode(fixture: &mut Fixture) -> Outcome {
    let _guard = tch::no_grad_guard();
    let (networks, _) = networks(fixture, false)?;
    for network in &networks {
        for suffix in fixture.names("in.image") {
            compare_image(fixture, network, &suffix, "indices")?;
        }
        compare_ids(fixture, network)?;
    }
    Ok(())
}

pub fn remap(fixture: &mut Fixture) -> Outcome {
    let _guard = tch::no_grad_guard();
    let (networks, weights) = networks(fixture, false)?;
    for network in &networks {
        compare_image(fixture, network, "", "raw_indices")?;
        compare_ids(fixture, network)?;
        let raw = quantizer(network)?.indices(&network.features(&fixture.read("in.image")?)?)?;
        let ids = network.codebook.remap().to_ids(&raw)?;
        fixture.equal("out.indices_known", &ids)?;
        fixture.equal("out.known", &ids.ne(OUTLIER))?;
        // The authors draw an id for each outlier, in row-major order.
        let drawn = ids.masked_scatter(&ids.eq(OUTLIER), &fixture.read("in.unknown_draw")?);
        fixture.equal("out.indices", &drawn)?;
        let given = fixture.read("in.ids")?;
        fixture.equal("out.unmapped", &network.codebook.remap().to_indices(&given)?)?;
        compare_unknown(fixture, &weights, &raw, "extra", Unknown::Extra)?;
        let fixed = fixture.read("out.int.indices")?.masked_select(&ids.eq(OUTLIER)).int64_value(&[0]);
        compare_unknown(fixture, &weights, &raw, "int", Unknown::Id(fixed))?;
    }
    Ok(())
}

fn compare_unknown(fixture: &mut Fixture, weights: &Weights, raw: &Tensor, case: &str, unknown: Unknown) -> Outcome {
    let (codebook, used) = (weights.get("quantize.embedding.weight")?, weights.get("quantize.used")?);
    let quantizer = Quantizer::new(codebook, Some(used), unknown, Device::Cpu)?;
    let ids = quantizer.remap().to_ids(raw)?;
    fixture.equal(&format!("out.{case}.indices"), &ids)?;
    fixture.equal(&format!("out.{case}.unmapped"), &quantizer.remap().to_indices(&ids)?)?;
    let count = quantizer.remap().ids().ok_or("the codebook is not remapped")?;
    fixture.equal(&format!("out.{case}.re_embed"), &Tensor::from(count))
}

pub fn tanh_out(fixture: &mut Fixture) -> Outcome {
    let _guard = tch::no_grad_guard();
    let z_q = fixture.read("in.z_q")?.to_kind(Kind::Float);
    for (tanh, out) in [(false, "out.dec"), (true, "out.dec_if_tanh")] {
        let (networks, _) = networks(fixture, tanh)?;
        for network in &networks {
            fixture.close(out, &network.decode(&z_q)?, VALUES)?;
        }
    }
    Ok(())
}
