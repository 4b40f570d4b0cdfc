//! `noise_schedules`: beta, alpha and cumulative alpha of every step, equal to the last bit.

use super::fixture::{Fixture, Outcome};
use imagebart::config::ScheduleValue;
use imagebart::diffusion::Schedule;
use serde_json::Value;
use tch::Tensor;

type Error = Box<dyn std::error::Error>;

pub fn check(fixture: &mut Fixture) -> Outcome {
    for case in &fixture.cases()? {
        let name = case.get("case").and_then(Value::as_str).ok_or("a case has no name")?;
        let schedule = schedule(case)?;
        let parts = [("beta", schedule.betas()), ("alphat", schedule.alphas()), ("alphacum", schedule.cumulatives())];
        for (part, ours) in parts {
            fixture.equal(&format!("out.{name}.{part}"), &Tensor::from_slice(ours))?;
        }
    }
    Ok(())
}

/// The schedule that `redraw_prob` and `n_scales` describe.
pub fn schedule(config: &Value) -> Result<Schedule, Error> {
    let value: ScheduleValue = serde_json::from_value(config.get("redraw_prob").ok_or("no redraw_prob")?.clone())?;
    let scales = config.get("n_scales").and_then(Value::as_u64).ok_or("no n_scales")?;
    Ok(Schedule::new(&value, scales.try_into()?)?)
}
