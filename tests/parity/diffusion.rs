//! `forward_posterior`: noisy grids from given draws, and the posterior between them; `compute_loss`: losses and their gradients.

use super::fixture::{Fixture, GRADIENTS, Outcome, VALUES};
use super::schedules::schedule;
use imagebart::diffusion::{Posteriors, SoftTarget, Trajectory, loss, redraw};
use imagebart::vqgan::quantizer::{Quantizer, Unknown};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Largest error of a probability: the authors multiply and divide float32, the closed form rounds once.
const PROBABILITIES: f64 = 1e-6;

pub fn forward_posterior(fixture: &mut Fixture) -> Outcome {
    for case in &fixture.cases()? {
        let name = case.get("case").and_then(Value::as_str).ok_or("a case has no name")?;
        let codes = case.get("K").and_then(Value::as_i64).ok_or("a case has no K")?;
        let input = |part: &str| format!("in.{name}.{part}");
        let output = |part: &str| format!("out.{name}.{part}");
        let schedule = schedule(case)?;

        let codebook = fixture.read(&format!("w.{name}.first_stage_model.quantize.embedding.weight"))?;
        let quantizer = Quantizer::new(&codebook, None, Unknown::Outlier, Device::Cpu)?;
        let x_0 = fixture.read(&input("x0"))?;
        if quantizer.indices(&fixture.read(&input("prequant"))?)? != x_0 {
            return Err(format!("case {name}: x0 is not the nearest codes").into());
        }
        let [batch, rows, columns] = x_0.size()[..] else { return Err("x0 is not [batch, h, w]".into()) };
        let flat = |grid: &Tensor| grid.reshape([batch, rows * columns]);
        let mut grids = vec![flat(&x_0)];
        for t in 1..=schedule.scales() {
            // A token is redrawn where its uniform number is below beta: 0 where the fixture says so, 1 elsewhere.
            let uniforms = 1.0 - flat(&fixture.read(&input(&format!("redraw.{t}")))?).to_kind(Kind::Float);
            let noise = flat(&fixture.read(&input(&format!("rand.{t}")))?);
            grids.push(redraw(&grids[t as usize - 1], f64::from(schedule.beta(t)), &uniforms, &noise)?);
        }
        let scales = fixture.read(&input("scale"))?;
        let (before, after) = Trajectory::from_grids(&grids)?.pair(&scales)?;
        fixture.equal(&output("scale"), &scales.unsqueeze(-1))?;
        for (ids, ours, entries) in [("x", &before, "zq_x"), ("c", &after, "zq_c")] {
            fixture.equal(&output(ids), ours)?;
            fixture.equal(&output(entries), &quantizer.entries(&ours.view([batch, rows, columns]))?)?;
        }

        let posterior = Posteriors::new(&schedule, codes, Device::Cpu)?.at(&scales, &grids[0], &after)?;
        let dense = posterior.dense()?;
        fixture.close(
            &output("posterior"),
            &dense.view([batch, rows, columns, codes]).permute([0, 3, 1, 2]),
            PROBABILITIES,
        )?;
        let drawn = dense.gather(-1, &before.unsqueeze(-1), false).squeeze_dim(-1);
        if (posterior.of(&before)? - drawn).abs().max().double_value(&[]) > PROBABILITIES {
            return Err(format!("case {name}: the posterior at x_(t-1) is not the dense one's").into());
        }
    }
    Ok(())
}

pub fn compute_loss(fixture: &mut Fixture) -> Outcome {
    let (drawn, weights) = (fixture.read("in.target")?, fixture.read("in.recp_loss_weights")?);
    let posterior = dense(&fixture.read("in.posterior")?);
    for case in &fixture.cases()? {
        let name = case.get("case").and_then(Value::as_str).ok_or("a case has no name")?;
        let alpha = case.get("alpha").and_then(Value::as_f64).ok_or("a case has no alpha")?;
        let weighted = case.get("weighted").and_then(Value::as_bool).ok_or("a case has no weighted")?;
        let logits = fixture.read("in.logits")?.set_requires_grad(true);
        let ours = loss(&logits, &drawn, SoftTarget::Dense(&posterior), alpha, weighted.then_some(&weights))?;
        fixture.close(&format!("out.{name}.loss"), &ours.total, VALUES)?;
        fixture.close(&format!("out.{name}.loss_hard"), &ours.hard, VALUES)?;
        fixture.close(&format!("out.{name}.loss_soft"), &ours.soft, VALUES)?;
        let gradients = Tensor::f_run_backward(&[&ours.total], &[&logits], false, false)?;
        fixture.close(&format!("out.{name}.grad"), &gradients[0], GRADIENTS)?;
    }
    Ok(())
}

/// The authors' `[batch, K, h, w]` as `[batch, tokens, K]`.
pub fn dense(posterior: &Tensor) -> Tensor {
    posterior.flatten(2, -1).transpose(1, 2).contiguous()
}
