//! What the networks are trained on: cross entropy with the drawn x_{t-1}, and divergence from the posterior.

use super::Posterior;
use tch::{Kind, TchError, Tensor};

/// What the soft loss compares the network with.
#[derive(Clone, Copy, Debug)]
pub enum SoftTarget<'a> {
    /// The posterior of the chain, in closed form.
    Posterior(&'a Posterior),
    /// Any distribution, float32 `[batch, tokens, K]`.
    Dense(&'a Tensor),
}

/// A loss and its parts, all float32 scalars.
#[derive(Debug)]
pub struct Loss {
    /// What to differentiate: alpha * soft + (1 - alpha) * hard.
    pub total: Tensor,
    /// Mean cross entropy with the drawn x_{t-1}, weighted, without gradient.
    pub hard: Tensor,
    /// Mean divergence from the posterior, unweighted (so it is what the authors log), without gradient.
    pub soft: Tensor,
}

/// Cross entropy with the drawn ids, mean over a row's tokens.
///
/// `log_p` is float32 `[batch, tokens, K]`, `drawn` int64 `[batch, tokens]`; the result is `[batch]`.
///
/// # Errors
/// Shapes or devices that do not go together.
pub fn hard_loss(log_p: &Tensor, drawn: &Tensor) -> Result<Tensor, TchError> {
    let at = log_p.f_gather(-1, &drawn.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1)?;
    at.f_mean_dim(-1, false, Kind::Float)?.f_neg()
}

/// KL(target || p), mean over a row's tokens: `log_p` float32 `[batch, tokens, K]` to `[batch]`.
///
/// # Errors
/// Shapes or devices that do not go together.
pub fn soft_loss(log_p: &Tensor, target: SoftTarget) -> Result<Tensor, TchError> {
    let by_token = match target {
        SoftTarget::Posterior(posterior) => posterior.divergence(log_p)?,
        SoftTarget::Dense(target) => {
            let cross = target.f_mul(log_p)?.f_masked_fill(&target.f_eq(0.0)?, 0.0)?;
            target.f_special_xlogy(target)?.f_sub(&cross)?.f_sum_dim_intlist(-1, false, Kind::Float)?
        }
    };
    by_token.f_mean_dim(-1, false, Kind::Float)
}

/// The training loss: `alpha` of the soft loss and the rest of the hard one, mean over tokens, then over rows.
///
/// - `logits`: `[batch, tokens, K]` in any floating-point type; computed in float32.
/// - `drawn`: x_{t-1}, int64 `[batch, tokens]`.
/// - `reciprocal_weights`: `[batch]`, what each row's loss is divided by; none divides by 1.
///
/// # Errors
/// Shapes or devices that do not go together.
pub fn loss(
    logits: &Tensor,
    drawn: &Tensor,
    target: SoftTarget,
    alpha: f64,
    reciprocal_weights: Option<&Tensor>,
) -> Result<Loss, TchError> {
    let log_p = logits.f_log_softmax(-1, Kind::Float)?;
    let mean = |by_row: &Tensor| match reciprocal_weights {
        Some(weights) => by_row.f_div(weights)?.f_mean(Kind::Float),
        None => by_row.f_mean(Kind::Float),
    };
    let by_row = soft_loss(&log_p, target)?;
    let (hard, soft) = (mean(&hard_loss(&log_p, drawn)?)?, mean(&by_row)?);
    // A part without weight stays out of the graph: its infinity must not become the total's NaN.
    let total = if alpha <= 0.0 {
        hard.shallow_clone()
    } else if alpha >= 1.0 {
        soft
    } else {
        soft.f_mul_scalar(alpha)?.f_add(&hard.f_mul_scalar(1.0 - alpha)?)?
    };
    Ok(Loss { total, hard: hard.f_detach()?, soft: by_row.f_detach()?.f_mean(Kind::Float)? })
}

#[cfg(test)]
mod tests {
    use super::super::{Posteriors, Schedule};
    use super::*;
    use crate::config::ScheduleValue;
    use tch::Device;

    #[test]
    fn closed_form_and_dense_agree() -> Result<(), Box<dyn std::error::Error>> {
        let schedule = Schedule::new(&ScheduleValue::Name("geometric".to_owned()), 3)?;
        let x_0 = Tensor::from_slice(&[0i64, 1, 2, 3]).view([2, 2]);
        let x_t = Tensor::from_slice(&[0i64, 2, 2, 0]).view([2, 2]);
        let scales = Tensor::from_slice(&[2i64, 3]);
        let posterior = Posteriors::new(&schedule, 4, Device::Cpu)?.at(&scales, &x_0, &x_t)?;
        let dense = posterior.dense()?;
        let logits = Tensor::arange(16, (Kind::Float, Device::Cpu)).sin().view([2, 2, 4]);
        let weights = Tensor::from_slice(&[0.5f32, 2.0]);
        for alpha in [0.0, 0.4, 1.0] {
            let closed = loss(&logits, &x_0, SoftTarget::Posterior(&posterior), alpha, Some(&weights))?;
            let full = loss(&logits, &x_0, SoftTarget::Dense(&dense), alpha, Some(&weights))?;
            for (ours, other) in [(closed.total, full.total), (closed.hard, full.hard), (closed.soft, full.soft)] {
                assert!((ours.double_value(&[]) - other.double_value(&[])).abs() < 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn a_part_without_weight_cannot_spoil_the_total() -> Result<(), Box<dyn std::error::Error>> {
        let logits = Tensor::from_slice(&[0.0f32, f32::NEG_INFINITY]).view([1, 1, 2]);
        let dense = Tensor::from_slice(&[0.5f32, 0.5]).view([1, 1, 2]);
        let drawn = Tensor::from_slice(&[0i64]).view([1, 1]);
        let hard_only = loss(&logits, &drawn, SoftTarget::Dense(&dense), 0.0, None)?;
        assert_eq!(hard_only.total.double_value(&[]), 0.0);
        assert_eq!(hard_only.soft.double_value(&[]), f64::INFINITY);
        Ok(())
    }
}
