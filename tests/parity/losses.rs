//! `vqgan_losses`: the training losses and their gradients; `lpips_formula_weights`: the perceptual distance.

use super::fixture::{Fixture, GRADIENTS, Outcome, VALUES};
use imagebart::torch::weights::Weights;
use imagebart::vqgan::discriminator::{Discriminator, DiscriminatorConfig};
use imagebart::vqgan::losses::{Adversarial, LossConfig, Pair, VqganLoss};
use imagebart::vqgan::lpips::Lpips;
use serde_json::Value;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

type Error = Box<dyn std::error::Error>;

pub fn check(fixture: &mut Fixture) -> Outcome {
    let cases = fixture.config.get("cases").and_then(Value::as_array).ok_or("the config has no cases")?.clone();
    for case in &cases {
        compare_case(fixture, case)?;
    }
    Ok(())
}

/// The losses as the case describes them, with a fresh copy of its discriminator.
fn losses(fixture: &mut Fixture, name: &str, case: &Value) -> Result<VqganLoss, Error> {
    let number = |key: &str| case.get(key).and_then(Value::as_f64);
    let needed = |key: &str| number(key).ok_or(format!("case {name} has no {key}"));
    let defaults = LossConfig::starting_at(needed("disc_start")? as i64);
    let config = LossConfig {
        disc_factor: number("disc_factor").unwrap_or(defaults.disc_factor),
        disc_weight: number("disc_weight").unwrap_or(defaults.disc_weight),
        codebook_weight: number("codebook_weight").unwrap_or(defaults.codebook_weight),
        perceptual_weight: 0.0,
        disc_loss: match case.get("disc_loss").and_then(Value::as_str) {
            Some("hinge") => Adversarial::Hinge,
            Some("vanilla") => Adversarial::Vanilla,
            other => return Err(format!("case {name} has the loss {other:?}").into()),
        },
        ..defaults
    };
    let (ndf, layers) = (needed("disc_ndf")? as i64, needed("disc_num_layers")? as usize);
    let shape = DiscriminatorConfig { in_channels: 3, ndf, layers };
    let weights = fixture.weights(&format!("w.{name}.discriminator."))?;
    let discriminator = Discriminator::load(shape, &weights, Device::Cpu)?;
    Ok(VqganLoss { config, discriminator: Some(discriminator), perceptual: None })
}

fn discriminator(losses: &VqganLoss) -> Result<&Discriminator, Error> {
    Ok(losses.discriminator.as_ref().ok_or("there is no discriminator")?)
}

fn compare_case(fixture: &mut Fixture, case: &Value) -> Outcome {
    let name = case.get("case").and_then(Value::as_str).ok_or("a case has no name")?;
    let step = case.get("step").and_then(Value::as_i64).ok_or("a case has no step")?;
    let input = |part: &str| format!("in.{name}.{part}");
    let images = fixture.read(&input("inputs"))?;
    let last_layer = fixture.read(&input("last_layer"))?.set_requires_grad(true);
    let features = fixture.read(&input("feat"))?;
    let reconstructions = features.conv2d(&last_layer, None::<Tensor>, [1, 1], [1, 1], [1, 1], 1);
    fixture.close(&format!("out.{name}.recon"), &reconstructions, VALUES)?;
    let pair = Pair { images: &images, reconstructions: &reconstructions };

    let losses = losses(fixture, name, case)?;
    for (what, batch) in [("real", &images), ("fake", &reconstructions)] {
        let logits = tch::no_grad(|| discriminator(&losses)?.forward(batch, false).map_err(Error::from))?;
        fixture.close(&format!("out.{name}.eval_logits_{what}"), &logits, VALUES)?;
    }
    let codebook_loss = fixture.read(&input("codebook_loss"))?;
    compare_generator(fixture, name, &losses, pair, &codebook_loss, &last_layer, step)?;
    compare_discriminator(fixture, name, &losses, pair, step)
}

fn compare_generator(
    fixture: &mut Fixture,
    name: &str,
    losses: &VqganLoss,
    pair: Pair,
    codebook_loss: &Tensor,
    last_layer: &Tensor,
    step: i64,
) -> Outcome {
    let loss = losses.generator(pair, codebook_loss, last_layer, step)?;
    let factor = Tensor::from(loss.factor);
    let parts = [
        ("loss", &loss.total),
        ("total_loss", &loss.total),
        ("nll_loss", &loss.nll),
        // Without a perceptual loss the two are one.
        ("rec_loss", &loss.nll),
        ("p_loss", &loss.perceptual),
        ("quant_loss", &loss.quantizer),
        ("g_loss", &loss.adversarial),
        ("d_weight", &loss.weight),
        ("disc_factor", &factor),
    ];
    for (part, ours) in parts {
        fixture.close(&format!("out.{name}.gen.{part}"), ours, VALUES)?;
    }
    let gradients = Tensor::f_run_backward(&[&loss.total], &[last_layer], true, false)?;
    fixture.close(&format!("out.{name}.gen.grad.last_layer"), &gradients[0], GRADIENTS)
}

fn compare_discriminator(fixture: &mut Fixture, name: &str, losses: &VqganLoss, pair: Pair, step: i64) -> Outcome {
    let loss = losses.discriminator(pair, step)?;
    let parts = [
        ("loss", &loss.total),
        ("disc_loss", &loss.total),
        ("logits_real", &loss.logits_real),
        ("logits_fake", &loss.logits_fake),
    ];
    for (part, ours) in parts {
        fixture.close(&format!("out.{name}.disc.{part}"), ours, VALUES)?;
    }
    let (names, parameters): (Vec<&str>, Vec<&Tensor>) = discriminator(losses)?.parameters().unzip();
    let gradients = Tensor::f_run_backward(&[&loss.total], &parameters, false, false)?;
    for (parameter, gradient) in names.iter().zip(&gradients) {
        fixture.close(&format!("out.{name}.disc.grad.{parameter}"), gradient, GRADIENTS)?;
    }
    for (statistic, ours) in discriminator(losses)?.tensors() {
        let name = format!("out.{name}.disc.after.{statistic}");
        match statistic.rsplit_once('.') {
            Some((_, "num_batches_tracked")) => fixture.equal(&name, ours)?,
            Some((_, "running_mean" | "running_var")) => fixture.close(&name, ours, VALUES)?,
            _ => {}
        }
    }
    Ok(())
}

pub fn lpips(fixture: &mut Fixture) -> Outcome {
    let _guard = tch::no_grad_guard();
    let mut tensors = fixture.weights("w.")?.into_tensors();
    tensors.extend(formula_weights(&fixture.config)?);
    let network = Lpips::load(&Weights::from_tensors("the formula", tensors)?, Device::Cpu)?;
    let (a, b) = (fixture.read("in.a")?, fixture.read("in.b")?);
    fixture.close("out.lpips", &network.distance(&a, &b)?, VALUES)?;
    fixture.close("out.lpips_self", &network.distance(&a, &a)?, VALUES)?;
    for (slice, features) in network.features(&a)?.iter().enumerate() {
        fixture.close(&format!("out.feat{slice}"), features, VALUES)?;
    }
    Ok(())
}

/// The weights of the fixture's notes: pseudo-random numbers of the key's rank and the element's place, with their sums.
fn formula_weights(config: &Value) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut keys: Vec<&str> =
        config.get("keys").and_then(Value::as_array).ok_or("no keys")?.iter().filter_map(Value::as_str).collect();
    keys.sort_unstable();
    let salt = config.get("salt").and_then(Value::as_u64).ok_or("no salt")? as u32;
    let shapes: BTreeMap<String, Vec<i64>> = Lpips::tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect();
    let mut tensors = BTreeMap::new();
    for (rank, key) in keys.iter().enumerate() {
        let shape = shapes.get(*key).ok_or_else(|| format!("LPIPS has no {key}"))?;
        let first = (rank as u32).wrapping_add(salt.wrapping_mul(4096)).wrapping_mul(1_000_003);
        let count = shape.iter().product::<i64>() as u32;
        let uniform = (0..count).map(|i| (mix32(first.wrapping_add(i)) >> 8) as f32 * (1.0 / 16_777_216.0));
        let values: Vec<f32> = if key.starts_with("lin") {
            uniform.map(|u| 0.1 * u).collect()
        } else {
            let fan_in = (shape.iter().skip(1).product::<i64>()) as f64;
            let bound = if shape.len() == 1 { 0.05 } else { (6.0 / fan_in).sqrt() as f32 };
            uniform.map(|u| (2.0 * u - 1.0) * bound).collect()
        };
        let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
        let expected = config.get("sums").and_then(|sums| sums.get(*key)).and_then(Value::as_f64).ok_or("no sum")?;
        if (sum - expected).abs() > 1e-6 {
            return Err(format!("{key} sums to {sum}, not {expected}").into());
        }
        tensors.insert((*key).to_owned(), Tensor::from_slice(&values).to_kind(Kind::Float).view(&shape[..]));
    }
    Ok(tensors)
}

fn mix32(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
