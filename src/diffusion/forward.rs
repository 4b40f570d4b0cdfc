//! The forward process: x_0 to x_T, one redraw per step, every draw keyed by (seed, row, step, position).

use super::Schedule;
use crate::random::{Purpose, RowKey};
use tch::{Device, TchError, Tensor};

/// One step of the forward process: each token whose uniform number is below `beta` becomes that of `noise`.
///
/// - `tokens`, `noise`: int64, and `uniforms`: float32 in `[0, 1)`, all `[batch, tokens]`.
///
/// # Errors
/// Shapes or devices that do not go together.
pub fn redraw(tokens: &Tensor, beta: f64, uniforms: &Tensor, noise: &Tensor) -> Result<Tensor, TchError> {
    noise.f_where_self(&uniforms.f_lt(beta)?, tokens)
}

/// The random numbers of one step for a batch of rows.
#[derive(Debug)]
pub struct StepDraws {
    /// Whether a token is redrawn: float32 in `[0, 1)`, `[batch, tokens]`.
    pub uniforms: Tensor,
    /// What it is redrawn to: int64 below the number of codes, `[batch, tokens]`.
    pub noise: Tensor,
}

impl StepDraws {
    /// The draws of rows at `scale` and `pass`, for grids of `tokens` tokens out of `codes` codes, on `device`.
    ///
    /// # Errors
    /// A scale or grid beyond what draws can be numbered for, no codes, or what libtorch reports.
    pub fn new(
        rows: &[RowKey],
        (scale, pass): (u32, u16),
        tokens: i64,
        codes: i64,
        device: Device,
    ) -> Result<StepDraws, TchError> {
        let shape = |what: &str| TchError::Shape(format!("no draws for {what}"));
        let scale = u16::try_from(scale).map_err(|_| shape(&format!("scale {scale}")))?;
        let positions = u32::try_from(tokens).map_err(|_| shape(&format!("{tokens} tokens")))?;
        let bound =
            u32::try_from(codes).ok().filter(|&codes| codes > 0).ok_or_else(|| shape(&format!("{codes} codes")))?;
        let capacity = rows.len().saturating_mul(positions as usize);
        let (mut uniforms, mut noise) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        for row in rows.iter().map(|row| row.at(scale, pass)) {
            uniforms.extend((0..positions).map(|position| row.uniform(Purpose::Redraw, position)));
            noise.extend((0..positions).map(|position| i64::from(row.below(Purpose::Noise, position, bound))));
        }
        let size = [rows.len() as i64, tokens];
        Ok(StepDraws {
            uniforms: Tensor::f_from_slice(&uniforms)?.f_view(size)?.f_to_device(device)?,
            noise: Tensor::f_from_slice(&noise)?.f_view(size)?.f_to_device(device)?,
        })
    }
}

/// All grids x_0 to x_T of a batch.
#[derive(Debug)]
pub struct Trajectory {
    /// int64, `[T + 1, batch, tokens]`.
    grids: Tensor,
}

impl Trajectory {
    /// The grids x_0 to x_T, each int64 `[batch, tokens]`, in this order.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn from_grids(grids: &[Tensor]) -> Result<Trajectory, TchError> {
        Ok(Trajectory { grids: Tensor::f_stack(grids, 0)? })
    }

    /// x_t, `[batch, tokens]`.
    ///
    /// # Errors
    /// `t` above T.
    pub fn at(&self, t: u32) -> Result<Tensor, TchError> {
        self.grids.f_select(0, i64::from(t))
    }

    /// x_{t-1} and x_t, each `[batch, tokens]`, where `scales` (int64, `[batch]`, values 1..=T) holds every row's t.
    ///
    /// # Errors
    /// A scale outside 1..=T (on CUDA, where nothing may wait for the device, an assertion there).
    pub fn pair(&self, scales: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let size = self.grids.size();
        let [_, batch, tokens] = size[..] else {
            return Err(TchError::Shape(format!("grids of shape {size:?}, not [T + 1, batch, tokens]")));
        };
        let index = scales.f_view([1, batch, 1])?.f_expand([1, batch, tokens], false)?;
        let of = |index: &Tensor| self.grids.f_gather(0, index, false)?.f_squeeze_dim(0);
        Ok((of(&index.f_sub_scalar(1)?)?, of(&index)?))
    }
}

/// Runs the forward process on a batch: x_0 is int64 `[batch, tokens]` with ids below `codes`, `rows` are its rows' keys.
///
/// Step t of a row takes the draws of [`Purpose::Redraw`] and [`Purpose::Noise`] at scale t, pass 0. They depend on nothing else,
/// so a row's x_t is the same in any batch.
///
/// # Errors
/// As many keys as rows are needed; a grid or a number of codes that draws cannot be numbered for.
pub fn forward(x_0: &Tensor, schedule: &Schedule, codes: i64, rows: &[RowKey]) -> Result<Trajectory, TchError> {
    let (batch, tokens) = x_0.size2()?;
    if batch != rows.len() as i64 {
        return Err(TchError::Shape(format!("{} keys for {batch} rows of tokens", rows.len())));
    }
    let mut grids = vec![x_0.shallow_clone()];
    let mut current = x_0.shallow_clone();
    for t in 1..=schedule.scales() {
        let draws = StepDraws::new(rows, (t, 0), tokens, codes, x_0.device())?;
        current = redraw(&current, f64::from(schedule.beta(t)), &draws.uniforms, &draws.noise)?;
        grids.push(current.shallow_clone());
    }
    Trajectory::from_grids(&grids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScheduleValue;
    use proptest::prelude::*;
    use tch::Kind;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    const CODES: i64 = 5;

    fn rows(count: u64) -> Vec<RowKey> {
        (0..count).map(|index| RowKey::new(11, "unit", index, 0)).collect()
    }

    fn ids(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor.flatten(0, -1)).expect("ids")
    }

    /// A grid that holds every code.
    fn clean(batch: i64, tokens: i64) -> Tensor {
        Tensor::arange(batch * tokens, (Kind::Int64, Device::Cpu)).remainder(CODES).view([batch, tokens])
    }

    #[test]
    fn without_noise_nothing_changes() -> Outcome {
        let x_0 = clean(2, 9);
        let schedule = Schedule::new(&ScheduleValue::Number(0.0), 3)?;
        let trajectory = forward(&x_0, &schedule, CODES, &rows(2))?;
        for t in 0..=3 {
            assert_eq!(trajectory.at(t)?, x_0);
        }
        assert!(trajectory.at(4).is_err());
        Ok(())
    }

    #[test]
    fn one_code_stays_one_code() -> Outcome {
        let x_0 = Tensor::zeros([2, 4], (Kind::Int64, Device::Cpu));
        let schedule = Schedule::new(&ScheduleValue::Name("geometric".to_owned()), 2)?;
        assert_eq!(forward(&x_0, &schedule, 1, &rows(2))?.at(2)?, x_0);
        Ok(())
    }

    #[test]
    fn a_row_is_the_same_in_any_batch() -> Outcome {
        let (x_0, rows) = (clean(3, 8), rows(3));
        let schedule = Schedule::new(&ScheduleValue::Number(0.4), 3)?;
        let together = forward(&x_0, &schedule, CODES, &rows)?;
        let alone = forward(&x_0.narrow(0, 1, 1), &schedule, CODES, &rows[1..2])?;
        for t in 0..=3 {
            assert_eq!(together.at(t)?.narrow(0, 1, 1), alone.at(t)?);
        }
        assert!(forward(&x_0, &schedule, CODES, &rows[1..2]).is_err());
        Ok(())
    }

    #[test]
    fn pairs_follow_each_rows_scale() -> Outcome {
        let schedule = Schedule::new(&ScheduleValue::Name("geometric".to_owned()), 3)?;
        let trajectory = forward(&clean(3, 6), &schedule, CODES, &rows(3))?;
        let (before, after) = trajectory.pair(&Tensor::from_slice(&[3i64, 1, 2]))?;
        for (row, t) in [(0, 3), (1, 1), (2, 2)] {
            assert_eq!(before.get(row), trajectory.at(t - 1)?.get(row));
            assert_eq!(after.get(row), trajectory.at(t)?.get(row));
        }
        Ok(())
    }

    #[test]
    fn impossible_draws_are_errors() {
        let draws = |scale, tokens, codes| StepDraws::new(&rows(1), (scale, 0), tokens, codes, Device::Cpu);
        assert!(draws(1, 4, 5).is_ok());
        assert!(draws(70_000, 4, 5).is_err() && draws(1, -1, 5).is_err() && draws(1, 4, 0).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// Of 40 000 tokens, those with each pair (x_{t-1}, x_t) and each x_t are as many as q says.
        #[test]
        fn frequencies_are_those_of_q(beta in 0.0..=1.0f64, scales in 1u32..4, seed: u64) {
            let tokens = 40_000;
            let x_0 = clean(1, tokens);
            let schedule = Schedule::new(&ScheduleValue::Number(beta), scales).expect("a schedule");
            let rows = [RowKey::new(seed, "frequencies", 0, 0)];
            let trajectory = forward(&x_0, &schedule, CODES, &rows).expect("the process");
            let start = ids(&x_0);
            for t in 1..=scales {
                let (before, after) = (ids(&trajectory.at(t - 1).expect("a grid")), ids(&trajectory.at(t).expect("a grid")));
                for (from, kept) in [(&before, schedule.alpha(t)), (&start, schedule.cumulative(t))] {
                    check_transitions(from, &after, f64::from(kept));
                }
            }
        }
    }

    /// Every code's share among the tokens that were `code`: kept + (1 - kept) / K of them still are, (1 - kept) / K is another.
    fn check_transitions(from: &[i64], to: &[i64], kept: f64) {
        for code in 0..CODES {
            let arrived: Vec<i64> = from.iter().zip(to).filter(|(from, _)| **from == code).map(|(_, to)| *to).collect();
            let total = arrived.len() as f64;
            for target in 0..CODES {
                let uniform = (1.0 - kept) / CODES as f64;
                let expected = if target == code { kept + uniform } else { uniform };
                let count = arrived.iter().filter(|&&id| id == target).count() as f64;
                let deviation = (total * expected * (1.0 - expected)).max(0.0).sqrt();
                // By Bernstein's inequality a run of all cases fails by chance less than once in a million.
                let allowed = 6.0 * deviation + 20.0;
                assert!((count - total * expected).abs() <= allowed, "{code} to {target}: {count} of {total}");
            }
        }
    }
}
