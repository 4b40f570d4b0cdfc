//! The posterior q(x_{t-1} | x_t, x_0) in closed form.
//!
//! Bayes' rule gives, for code k of K, with a the cumulative alpha of t-1 and alpha that of step t,
//!
//! ```text
//! q(k | x_t, x_0) ~ (a [k = x_0] + (1 - a) / K) (alpha [k = x_t] + (1 - alpha) / K)
//! ```
//!
//! which is a mixture: a share `rest` for every code, one more for x_0 and one more for x_t. The three depend only on t and on
//! whether x_t = x_0, so they are computed once per schedule, in float64, and a batch needs no tensor over K.

use super::Schedule;
use tch::{Device, Kind, TchError, Tensor};

/// The mixture at one scale, for x_t = x_0 or for x_t other than x_0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mixture {
    /// Probability of a code that is neither x_0 nor x_t.
    rest: f64,
    /// What x_0 has above that.
    clean: f64,
    /// What x_t has above that; 0 where it is x_0.
    noisy: f64,
    /// Sum of p log p over the codes.
    pub(super) negative_entropy: f64,
}

impl Mixture {
    pub(super) fn new(cumulative_before: f64, alpha: f64, codes: f64, same: bool) -> Mixture {
        let (a, c, d) = (cumulative_before, (1.0 - cumulative_before) / codes, (1.0 - alpha) / codes);
        let (clean, noisy) = if same { (a * alpha + a * d + c * alpha, 0.0) } else { (a * d, c * alpha) };
        let total = codes * c * d + clean + noisy;
        // A total of 0 is a pair that cannot happen: no noise so far, yet x_t is not x_0. Then x_{t-1} is x_0 all the same.
        let (rest, clean, noisy) =
            if total > 0.0 { (c * d / total, clean / total, noisy / total) } else { (0.0, 1.0, 0.0) };
        let x_log_x = |x: f64| if x > 0.0 { x * x.ln() } else { 0.0 };
        let special = if same { x_log_x(rest + clean) } else { x_log_x(rest + clean) + x_log_x(rest + noisy) };
        let others = (codes - if same { 1.0 } else { 2.0 }).max(0.0);
        Mixture { rest, clean, noisy, negative_entropy: special + others * x_log_x(rest) }
    }
}

/// The posteriors of a schedule: what every scale's mixture is, on the device of the batches.
#[derive(Debug)]
pub struct Posteriors {
    /// float32 `[2 (T + 1), 4]`: row 2t for x_t = x_0, 2t + 1 for another x_t. Rows of t = 0 are NaN: there is no scale 0.
    mixtures: Tensor,
    codes: i64,
}

impl Posteriors {
    /// The posteriors of `schedule` over `codes` codes K.
    ///
    /// # Errors
    /// No codes, or what libtorch reports.
    pub fn new(schedule: &Schedule, codes: i64, device: Device) -> Result<Posteriors, TchError> {
        if codes < 1 {
            return Err(TchError::Shape(format!("a posterior over {codes} codes")));
        }
        let mut rows = vec![f32::NAN; 8];
        for t in 1..=schedule.scales() {
            let (before, alpha) = (f64::from(schedule.cumulative(t - 1)), f64::from(schedule.alpha(t)));
            for same in [true, false] {
                let mixture = Mixture::new(before, alpha, codes as f64, same);
                let entries = [mixture.rest, mixture.clean, mixture.noisy, mixture.negative_entropy];
                rows.extend(entries.map(|entry| entry as f32));
            }
        }
        let mixtures = Tensor::f_from_slice(&rows)?.f_view([-1, 4])?.f_to_device(device)?;
        Ok(Posteriors { mixtures, codes })
    }

    /// The posterior at every token of a batch: `x_0` and `x_t` int64 `[batch, tokens]`, `scales` int64 `[batch]`, 1..=T.
    ///
    /// # Errors
    /// Shapes or devices that do not go together.
    pub fn at(&self, scales: &Tensor, x_0: &Tensor, x_t: &Tensor) -> Result<Posterior, TchError> {
        let (batch, tokens) = x_0.size2()?;
        let row = x_t.f_ne_tensor(x_0)?.f_to_kind(Kind::Int64)?.f_add(&scales.f_mul_scalar(2)?.f_view([batch, 1])?)?;
        let mixtures = self.mixtures.f_index_select(0, &row.f_reshape([-1])?)?.f_view([batch, tokens, 4])?;
        let part = |index| mixtures.f_select(-1, index);
        Ok(Posterior {
            x_0: x_0.shallow_clone(),
            x_t: x_t.shallow_clone(),
            rest: part(0)?,
            clean: part(1)?,
            noisy: part(2)?,
            negative_entropy: part(3)?,
            codes: self.codes,
        })
    }
}

/// q(x_{t-1} | x_t, x_0) at every token of a batch. All tensors are `[batch, tokens]`.
#[derive(Debug)]
pub struct Posterior {
    x_0: Tensor,
    x_t: Tensor,
    rest: Tensor,
    clean: Tensor,
    noisy: Tensor,
    negative_entropy: Tensor,
    codes: i64,
}

impl Posterior {
    /// Probability of one code per token: `ids` is int64 `[batch, tokens]`, and so is the result, in float32.
    ///
    /// # Errors
    /// Shapes or devices that do not go together.
    pub fn of(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        let where_equal = |share: &Tensor, id: &Tensor| share.f_mul(&ids.f_eq_tensor(id)?.f_to_kind(Kind::Float)?);
        self.rest.f_add(&where_equal(&self.clean, &self.x_0)?)?.f_add(&where_equal(&self.noisy, &self.x_t)?)
    }

    /// Entropy in nats, float32 `[batch, tokens]`.
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn entropy(&self) -> Result<Tensor, TchError> {
        self.negative_entropy.f_neg()
    }

    /// KL(posterior || p) in nats, float32 `[batch, tokens]`, where `log_p` (float32 `[batch, tokens, K]`) is log p.
    ///
    /// A code the posterior excludes adds nothing, whatever log p says of it. Differentiable in `log_p`.
    ///
    /// # Errors
    /// Shapes or devices that do not go together.
    pub fn divergence(&self, log_p: &Tensor) -> Result<Tensor, TchError> {
        let at = |id: &Tensor| log_p.f_gather(-1, &id.f_unsqueeze(-1)?, false)?.f_squeeze_dim(-1);
        let all = log_p.f_sum_dim_intlist(-1, false, Kind::Float)?;
        let cross = weighted(&self.rest, &all)?
            .f_add(&weighted(&self.clean, &at(&self.x_0)?)?)?
            .f_add(&weighted(&self.noisy, &at(&self.x_t)?)?)?;
        self.negative_entropy.f_sub(&cross)
    }

    /// All probabilities, float32 `[batch, tokens, K]`: for tests and small models, the losses do without.
    ///
    /// # Errors
    /// Ids beyond the codes, or what libtorch reports.
    pub fn dense(&self) -> Result<Tensor, TchError> {
        let (batch, tokens) = self.rest.size2()?;
        let rest = self.rest.f_unsqueeze(-1)?.f_expand([batch, tokens, self.codes], false)?.f_contiguous()?;
        rest.f_scatter_add(-1, &self.x_0.f_unsqueeze(-1)?, &self.clean.f_unsqueeze(-1)?)?.f_scatter_add(
            -1,
            &self.x_t.f_unsqueeze(-1)?,
            &self.noisy.f_unsqueeze(-1)?,
        )
    }
}

/// share * value, and 0 where the share is 0 even if the value is infinite.
fn weighted(share: &Tensor, value: &Tensor) -> Result<Tensor, TchError> {
    share.f_mul(value)?.f_masked_fill(&share.f_eq(0.0)?, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScheduleValue;
    use proptest::prelude::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn grid(id: i64) -> Tensor {
        Tensor::from_slice(&[id]).view([1, 1])
    }

    fn at(schedule: &Schedule, codes: i64, t: u32, x_0: i64, x_t: i64) -> Posterior {
        let posteriors = Posteriors::new(schedule, codes, Device::Cpu).expect("posteriors");
        posteriors.at(&Tensor::from_slice(&[i64::from(t)]), &grid(x_0), &grid(x_t)).expect("a posterior")
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).expect("numbers")
    }

    /// Joint probability of every (x_{t-1}, x_t) given x_0, by walking all K^t paths of the Markov chain.
    fn enumerate(schedule: &Schedule, codes: usize, t: u32, x_0: usize) -> Vec<Vec<f64>> {
        let step = |t: u32, from: usize, to: usize| {
            let alpha = f64::from(schedule.alpha(t));
            (1.0 - alpha) / codes as f64 + if from == to { alpha } else { 0.0 }
        };
        let mut joint = vec![vec![0.0; codes]; codes];
        for path in 0..codes.pow(t) {
            let (mut at, mut before, mut probability, mut digits) = (x_0, x_0, 1.0, path);
            for s in 1..=t {
                before = at;
                at = digits % codes;
                digits /= codes;
                probability *= step(s, before, at);
            }
            joint[before][at] += probability;
        }
        joint
    }

    fn beta() -> impl Strategy<Value = f32> {
        prop_oneof![Just(0.0f32), Just(1.0f32), 0.0f32..1.0, 1e-7f32..1e-4]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn agrees_with_enumeration(betas in prop::collection::vec(beta(), 1..5), codes in 1usize..5) {
            let schedule = Schedule::from_betas(betas.into_iter());
            for t in 1..=schedule.scales() {
                for x_0 in 0..codes {
                    let joint = enumerate(&schedule, codes, t, x_0);
                    for x_t in 0..codes {
                        let posterior = at(&schedule, codes as i64, t, x_0 as i64, x_t as i64);
                        let dense = numbers(&posterior.dense().expect("dense"));
                        prop_assert!((dense.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{dense:?}");
                        let total: f64 = joint.iter().map(|row| row[x_t]).sum();
                        let kept = f64::from(schedule.cumulative(t));
                        let marginal = (1.0 - kept) / codes as f64 + if x_t == x_0 { kept } else { 0.0 };
                        prop_assert!((total - marginal).abs() < 1e-6, "q(x_t | x_0): {marginal} for {total}");
                        // The cumulative alpha is rounded to float32: in a pair this rare, its 6e-8 is all there is.
                        if total < 1e-3 {
                            continue;
                        }
                        let mut entropy = 0.0;
                        for (k, ours) in dense.iter().enumerate() {
                            let expected = joint[k][x_t] / total;
                            prop_assert!((ours - expected).abs() < 2e-4, "t {t}, {x_0} to {x_t}: {ours} for {expected}");
                            entropy -= if *ours > 0.0 { ours * ours.ln() } else { 0.0 };
                            let of = numbers(&posterior.of(&grid(k as i64)).expect("a value"));
                            prop_assert!((of[0] - ours).abs() < 1e-7);
                        }
                        let closed = numbers(&posterior.entropy().expect("entropy"))[0];
                        prop_assert!((closed - entropy).abs() < 1e-5, "{closed} for {entropy}");
                    }
                }
            }
        }

        #[test]
        fn divergence_and_its_gradient_are_those_of_the_dense_posterior(
            betas in prop::collection::vec(beta(), 1..4), codes in 1i64..7, seed: u32, spread in 0.1..20.0f64,
        ) {
            let schedule = Schedule::from_betas(betas.into_iter());
            let scales = i64::from(schedule.scales());
            let uniform = |count: i64, salt: f64| {
                (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + f64::from(seed) % 1e4 + salt).sin() * 43758.5453
            };
            let ids = |count, salt| (uniform(count, salt).frac().abs() * codes as f64).floor().to_kind(Kind::Int64).clamp_max(codes - 1);
            let (x_0, x_t) = (ids(12, 0.1).view([3, 4]), ids(12, 0.7).view([3, 4]));
            let scale = Tensor::from_slice(&[1, scales, (scales + 1) / 2]);
            let posterior = Posteriors::new(&schedule, codes, Device::Cpu).unwrap().at(&scale, &x_0, &x_t).unwrap();
            let logits = (uniform(12 * codes, 0.3).frac() * spread).to_kind(Kind::Float).view([3, 4, codes]);

            let run = |divergence: &dyn Fn(&Tensor) -> Tensor| {
                let logits = logits.copy().set_requires_grad(true);
                let value = divergence(&logits.log_softmax(-1, Kind::Float));
                value.sum(Kind::Float).backward();
                (value.detach(), logits.grad())
            };
            let dense = posterior.dense().unwrap();
            let (ours, gradient) = run(&|log_p| posterior.divergence(log_p).unwrap());
            let (expected, expected_gradient) =
                run(&|log_p| (dense.special_xlogy(&dense) - &dense * log_p).sum_dim_intlist(-1, false, Kind::Float));
            prop_assert!((ours - expected).abs().max().double_value(&[]) < 1e-4);
            prop_assert!((gradient - expected_gradient).abs().max().double_value(&[]) < 1e-5);
        }
    }

    #[test]
    fn the_first_step_is_exactly_x_0() -> Outcome {
        for beta in [0.0, 1e-7, 0.3, 1.0] {
            let schedule = Schedule::new(&ScheduleValue::Number(beta), 2)?;
            for x_t in 0..4 {
                assert_eq!(numbers(&at(&schedule, 4, 1, 2, x_t).dense()?), [0.0, 0.0, 1.0, 0.0]);
            }
        }
        Ok(())
    }

    #[test]
    fn pure_noise_says_nothing_of_what_was_before() -> Outcome {
        let schedule = Schedule::new(&ScheduleValue::Name("geometric".to_owned()), 3)?;
        assert_eq!(schedule.alpha(3), 0.0);
        let seen: Vec<_> = (0..5).map(|x_t| numbers(&at(&schedule, 5, 3, 1, x_t).dense().expect("dense"))).collect();
        for other in &seen {
            assert!(other.iter().zip(&seen[0]).all(|(a, b)| (a - b).abs() < 1e-7));
        }
        assert!((seen[0][1] - (1.0 / 3.0 + 2.0 / 15.0)).abs() < 1e-6);
        Ok(())
    }

    /// Scale 1 excludes every code but x_0: infinite logits elsewhere, as the residual term gives at alpha 1, do no harm.
    #[test]
    fn excluded_codes_do_not_count() -> Outcome {
        let schedule = Schedule::new(&ScheduleValue::Number(0.0), 2)?;
        let logits = Tensor::from_slice(&[0.5f32, f32::NEG_INFINITY, 1.5]).view([1, 1, 3]).set_requires_grad(true);
        for t in [1, 2] {
            let log_p = logits.log_softmax(-1, Kind::Float);
            let divergence = at(&schedule, 3, t, 2, 2).divergence(&log_p)?;
            assert!((divergence.double_value(&[0, 0]) - (1.0 + (-1f64).exp()).ln()).abs() < 1e-6);
            let gradients = Tensor::f_run_backward(&[divergence], &[&logits], false, false)?;
            assert!(numbers(&gradients[0]).iter().all(|value| value.is_finite()), "{gradients:?}");
        }
        Ok(())
    }

    #[test]
    fn a_large_codebook_is_exact() -> Outcome {
        let schedule = Schedule::new(&ScheduleValue::Name("geometric".to_owned()), 4)?;
        for (t, x_t) in [(2, 7), (3, 9), (4, 9)] {
            let posterior = at(&schedule, 16_384, t, 7, x_t);
            let dense = posterior.dense()?;
            assert!((dense.sum(Kind::Double).double_value(&[]) - 1.0).abs() < 1e-6);
            let log_p = Tensor::zeros([1, 1, 16_384], (Kind::Float, Device::Cpu)).log_softmax(-1, Kind::Float);
            let expected = (16_384f64).ln() - posterior.entropy()?.double_value(&[0, 0]);
            assert!((posterior.divergence(&log_p)?.double_value(&[0, 0]) - expected).abs() < 1e-5);
        }
        assert!(Posteriors::new(&schedule, 0, Device::Cpu).is_err());
        Ok(())
    }
}
