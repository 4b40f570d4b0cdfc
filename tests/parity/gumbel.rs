//! `gumbelvq`, `gumbelvq_remap`.

use super::fixture::{Fixture, Outcome, VALUES};
use imagebart::vqgan::ops::{Layout, Placement};
use imagebart::vqgan::{Codebook, Vqgan};

pub fn check(fixture: &mut Fixture) -> Outcome {
    let _guard = tch::no_grad_guard();
    let config = fixture.vqgan("model")?;
    let kl_weight = fixture.config.pointer("/model/params/kl_weight").and_then(serde_json::Value::as_f64);
    let kl_weight = kl_weight.ok_or("the config has no kl_weight")?;
    let weights = fixture.weights("w.")?;
    let (image, noise) = (fixture.read("in.image")?, fixture.read("in.gumbel")?);
    for layout in [Layout::Contiguous, Layout::ChannelsLast] {
        let network = Vqgan::load(&config, &weights, Placement { layout, ..Placement::cpu() }, false)?;
        let Codebook::Gumbel(quantizer) = &network.codebook else { return Err("the config is no GumbelVQ".into()) };
        let features = network.features(&image)?;
        fixture.close("out.prequant", &features, VALUES)?;
        let logits = quantizer.logits(&features)?;
        fixture.close("out.logits", &logits, VALUES)?;
        let ids = quantizer.ids(&logits, Some(&noise))?;
        fixture.equal("out.indices", &ids)?;
        fixture.close("out.kl", &(quantizer.kl(&logits)? * kl_weight), VALUES)?;
        let entries = quantizer.entries(&quantizer.remap().to_indices(&ids)?)?;
        fixture.close("out.entry", &entries, VALUES)?;
        fixture.close("out.z_q", &entries, VALUES)?;
        fixture.close("out.dec", &network.decode(&entries)?, VALUES)?;
    }
    Ok(())
}
