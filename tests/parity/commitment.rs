//! `vq_commitment`: loss, straight-through output and gradients of the quantizer.

use super::fixture::{Fixture, GRADIENTS, Outcome, VALUES};
use imagebart::vqgan::quantizer::{Commitment, Quantizer, Unknown};
use tch::{Device, Kind, Tensor};

pub fn check(fixture: &mut Fixture) -> Outcome {
    let beta = fixture.config.get("beta").and_then(serde_json::Value::as_f64).ok_or("the config has no beta")?;
    let probe = fixture.read("in.probe")?;
    for (case, legacy) in [("", true), ("new.", false)] {
        let z = fixture.read("in.z")?.set_requires_grad(true);
        let codebook = fixture.read("in.codebook")?.set_requires_grad(true);
        let quantizer = Quantizer::new(&codebook, None, Unknown::Outlier, Device::Cpu)?;
        let quantized = quantizer.quantize(&z, Commitment { beta, legacy })?;
        fixture.equal(&format!("out.{case}indices"), &quantized.indices)?;
        fixture.close(&format!("out.{case}z_q"), &quantized.z_q, VALUES)?;
        fixture.close(&format!("out.{case}loss"), &quantized.loss, VALUES)?;
        let total = &quantized.loss + (&quantized.z_q * &probe).sum(Kind::Float);
        let gradients = Tensor::f_run_backward(&[&total], &[&z, &codebook], false, false)?;
        for (gradient, name) in gradients.iter().zip(["grad_z", "grad_codebook"]) {
            fixture.close(&format!("out.{case}{name}"), gradient, GRADIENTS)?;
        }
    }
    Ok(())
}
