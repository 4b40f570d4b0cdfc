//! From logits to token ids, on the device: guide, temperature, top-k, top-p, and one uniform number through the inverse of
//! the cumulative distribution.
//!
//! Probabilities become whole numbers of 2^-40 before they are summed. Such sums are exact in float64 in whatever order a device
//! adds, so a code of probability 0 is never drawn, and the same logits give the same token everywhere.

use super::settings::ScaleSettings;
use tch::{Device, Kind, TchError, Tensor};

/// Units of probability.
const UNITS: f64 = (1_u64 << 40) as f64;

/// How a batch's tokens are drawn at one scale: each row by its own settings, all on the device. What no row asks for costs
/// nothing.
#[derive(Debug)]
pub struct Draw {
    /// `[batch, 1]` float64.
    temperature: Option<Tensor>,
    top_k: Option<TopK>,
    /// `[batch, 1]` float64; 2 where a row keeps everything.
    top_p: Option<Tensor>,
    greedy: Greedy,
}

#[derive(Debug)]
struct TopK {
    /// The largest k of the batch.
    widest: i64,
    /// k - 1 of each row: `[batch, 1]`.
    rank: Tensor,
    /// Rows that keep everything: `[batch, 1]`.
    open: Tensor,
}

#[derive(Debug)]
enum Greedy {
    Nobody,
    Everybody,
    /// `[batch]`.
    Some(Tensor),
}

/// Tokens of a batch at one position.
#[derive(Debug)]
pub struct Drawn {
    /// `[batch]` int64, each a valid id whatever the logits.
    pub tokens: Tensor,
    /// `[batch]` float64, not finite where the logits had NaN, infinity or nothing but zero probability.
    pub sound: Tensor,
}

impl Draw {
    /// For rows with these settings, which [`ScaleSettings::check`] has passed, over `codes` codes.
    pub fn new(settings: &[ScaleSettings], codes: u32, device: Device) -> Result<Draw, TchError> {
        let restricted = |row: &ScaleSettings| row.top_k.filter(|&k| k < codes).map(i64::from);
        let nucleus = |row: &ScaleSettings| row.top_p.filter(|&p| p < 1.0).map(f64::from);
        let drawn = || settings.iter().filter(|row| !row.greedy);
        let column = |values: Vec<f64>| Tensor::f_from_slice(&values)?.f_unsqueeze(1)?.f_to_device(device);
        let greedy = settings.iter().filter(|row| row.greedy).count();
        Ok(Draw {
            temperature: match drawn().any(|row| row.temperature != 1.0) {
                true => Some(column(settings.iter().map(|row| f64::from(row.temperature)).collect())?),
                false => None,
            },
            top_k: match drawn().filter_map(restricted).max() {
                Some(widest) => {
                    let rank: Vec<i64> = settings.iter().map(|row| restricted(row).map_or(0, |k| k - 1)).collect();
                    let rank: Vec<i64> = rank.into_iter().map(|rank| rank.min(widest - 1)).collect();
                    let open: Vec<bool> = settings.iter().map(|row| restricted(row).is_none()).collect();
                    Some(TopK {
                        widest,
                        rank: Tensor::f_from_slice(&rank)?.f_unsqueeze(1)?.f_to_device(device)?,
                        open: Tensor::f_from_slice(&open)?.f_unsqueeze(1)?.f_to_device(device)?,
                    })
                }
                None => None,
            },
            top_p: match drawn().any(|row| nucleus(row).is_some()) {
                true => Some(column(settings.iter().map(|row| nucleus(row).unwrap_or(2.0)).collect())?),
                false => None,
            },
            greedy: match greedy {
                0 => Greedy::Nobody,
                _ if greedy == settings.len() => Greedy::Everybody,
                _ => {
                    let rows: Vec<bool> = settings.iter().map(|row| row.greedy).collect();
                    Greedy::Some(Tensor::f_from_slice(&rows)?.f_to_device(device)?)
                }
            },
        })
    }

    /// The distribution that tokens are drawn from, `[batch, K]` float64, whether or not a row is greedy. `logits` is
    /// `[batch, K]`; a `guide` of that shape is added to it first (0 leaves a code as it is, minus infinity excludes it).
    pub fn probabilities(&self, logits: &Tensor, guide: Option<&Tensor>) -> Result<Tensor, TchError> {
        let units = match guide {
            Some(guide) => self.units(&logits.f_add(guide)?)?,
            None => self.units(logits)?,
        };
        units.f_div(&units.f_sum_dim_intlist(-1, true, Kind::Double)?)
    }

    /// Draws one token of each row: `logits` `[batch, K]`, `uniforms` `[batch]` in `[0, 1)`, multiples of 2^-24.
    pub fn tokens(&self, logits: &Tensor, uniforms: &Tensor) -> Result<Drawn, TchError> {
        if let Greedy::Everybody = self.greedy {
            let (largest, tokens) = logits.f_max_dim(-1, false)?;
            return Ok(Drawn { tokens, sound: largest.f_to_kind(Kind::Double)? });
        }
        let sums = self.units(logits)?.f_cumsum(-1, Kind::Double)?;
        let total = sums.f_select(-1, -1)?;
        // Below the total, since a uniform number is at most 1 - 2^-24: the count is below K. Comparing with NaN counts 0.
        let target = total.f_mul(&uniforms.f_to_kind(Kind::Double)?)?;
        let tokens = sums.f_le_tensor(&target.f_unsqueeze(1)?)?.f_sum_dim_intlist(-1, false, Kind::Int64)?;
        let tokens = match &self.greedy {
            Greedy::Some(rows) => logits.f_argmax(-1, false)?.f_where_self(rows, &tokens)?,
            _ => tokens,
        };
        Ok(Drawn { tokens, sound: total })
    }

    /// Probabilities in whole units, about 2^40 in all: `[batch, K]` float64.
    fn units(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let mut logits = logits.f_to_kind(Kind::Double)?;
        if let Some(temperature) = &self.temperature {
            // From the largest down, so that the smallest temperature cannot make infinity of it.
            logits = logits.f_sub(&logits.f_amax([-1], true)?)?.f_div(temperature)?;
        }
        if let Some(top_k) = &self.top_k {
            let (largest, _) = logits.f_topk(top_k.widest, -1, true, true)?;
            let threshold = largest.f_gather(-1, &top_k.rank, false)?.f_masked_fill(&top_k.open, f64::NEG_INFINITY)?;
            logits = logits.f_masked_fill(&logits.f_lt_tensor(&threshold)?, f64::NEG_INFINITY)?;
        }
        let units = logits.f_softmax(-1, Kind::Double)?.f_mul_scalar(UNITS)?.f_round()?;
        match &self.top_p {
            Some(top_p) => nucleus(&units, top_p),
            None => Ok(units),
        }
    }
}

/// Keeps what is among the fewest largest that together reach the share `top_p`, ties with the last of them included.
fn nucleus(units: &Tensor, top_p: &Tensor) -> Result<Tensor, TchError> {
    let (sorted, _) = units.f_sort(-1, true)?;
    let sums = sorted.f_cumsum(-1, Kind::Double)?;
    let target = sums.f_narrow(-1, -1, 1)?.f_mul(top_p)?;
    // Those before which the target was not reached yet; at least one, for the target is above 0.
    let needed = sums.f_sub(&sorted)?.f_lt_tensor(&target)?.f_sum_dim_intlist(-1, true, Kind::Int64)?;
    let threshold = sorted.f_gather(-1, &needed.f_sub_scalar(1)?.f_clamp_min(0)?, false)?;
    units.f_masked_fill(&units.f_lt_tensor(&threshold)?, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, RowKey};
    use proptest::prelude::*;

    fn logits(seed: u64, batch: usize, codes: usize) -> Tensor {
        let row = RowKey::new(seed, "logits", 0, 0);
        // Eighths, so that ties are common.
        let values: Vec<f32> =
            (0..batch * codes).map(|i| row.below(Purpose::Init, i as u32, 40) as f32 / 8.0).collect();
        Tensor::from_slice(&values).view([batch as i64, codes as i64])
    }

    /// The distribution of one row, computed the slow and obvious way.
    fn reference(logits: &[f64], settings: &ScaleSettings) -> Vec<f64> {
        let mut scaled: Vec<f64> = logits.iter().map(|x| x / f64::from(settings.temperature)).collect();
        if let Some(k) = settings.top_k {
            let mut sorted = scaled.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let least = sorted[k as usize - 1];
            scaled.iter_mut().filter(|x| **x < least).for_each(|x| *x = f64::NEG_INFINITY);
        }
        let normalised = |weights: Vec<f64>| {
            let sum: f64 = weights.iter().sum();
            weights.into_iter().map(|weight| weight / sum).collect::<Vec<f64>>()
        };
        let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut p = normalised(scaled.iter().map(|x| (x - largest).exp()).collect());
        if let Some(top_p) = settings.top_p.filter(|&top_p| top_p < 1.0) {
            let mut sorted = p.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let mut sum = 0.0;
            // A hair below, as sums of float64 are not exact.
            let last = sorted.iter().find(|&&x| {
                sum += x;
                sum >= f64::from(top_p) - 1e-9
            });
            let least = last.copied().unwrap_or(0.0) * (1.0 - 1e-9);
            p.iter_mut().filter(|x| **x < least).for_each(|x| *x = 0.0);
            p = normalised(p);
        }
        p
    }

    fn settings() -> impl Strategy<Value = ScaleSettings> {
        (0.2f32..3.0, prop::option::of(1u32..12), prop::option::of(0.05f32..1.0)).prop_map(
            |(temperature, top_k, top_p)| ScaleSettings { temperature, top_k, top_p, ..ScaleSettings::default() },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever mixture of settings shares the batch, each row has the distribution it would have alone.
        #[test]
        fn each_row_has_its_own_distribution(rows in prop::collection::vec(settings(), 1..6), seed: u64) {
            let logits = logits(seed, rows.len(), 11);
            let ours = Draw::new(&rows, 11, Device::Cpu).unwrap().probabilities(&logits, None).unwrap();
            let ours = Vec::<Vec<f64>>::try_from(ours).unwrap();
            let logits = Vec::<Vec<f64>>::try_from(logits.to_kind(Kind::Double)).unwrap();
            for ((ours, logits), settings) in ours.iter().zip(&logits).zip(&rows) {
                let expected = reference(logits, settings);
                for (ours, expected) in ours.iter().zip(&expected) {
                    prop_assert!((ours - expected).abs() < 1e-9, "{ours:?} {expected:?} {settings:?}");
                    prop_assert_eq!(*ours == 0.0, *expected == 0.0);
                }
            }
        }
    }

    #[test]
    fn the_inverse_of_the_cumulative_distribution() {
        // Probabilities 1/4, 0, 1/2, 1/4.
        let logits = Tensor::from_slice(&[0.0f32, f32::NEG_INFINITY, 2f32.ln(), 0.0]).repeat([5, 1]);
        let draw = Draw::new(&[ScaleSettings::default(); 5], 4, Device::Cpu).unwrap();
        let largest = 1.0 - 2f32.powi(-24);
        let uniforms = Tensor::from_slice(&[0.0f32, 0.249_999_9, 0.250_000_1, 0.750_001, largest]);
        let drawn = draw.tokens(&logits, &uniforms).unwrap();
        assert_eq!(Vec::<i64>::try_from(drawn.tokens).unwrap(), [0, 0, 2, 3, 3]);
        assert!(bool::try_from(drawn.sound.isfinite().all()).unwrap());
    }

    #[test]
    fn impossible_codes_are_never_drawn() {
        let codes = 64;
        let mut values = vec![f32::NEG_INFINITY; codes];
        for possible in [3, 17, 62] {
            values[possible] = (possible as f32).sin();
        }
        let batch = 1 << 14;
        let logits = Tensor::from_slice(&values).repeat([batch, 1]);
        let uniforms = Tensor::arange(batch, (Kind::Float, Device::Cpu)) / batch as f64;
        let draw = Draw::new(&vec![ScaleSettings::default(); batch as usize], codes as u32, Device::Cpu).unwrap();
        let tokens = Vec::<i64>::try_from(draw.tokens(&logits, &uniforms).unwrap().tokens).unwrap();
        assert!(tokens.iter().all(|token| [3, 17, 62].contains(token)));
        assert!(tokens.is_sorted(), "the inverse grows with the uniform number");
    }

    #[test]
    fn greedy_rows_and_tiny_temperatures_take_the_likeliest() {
        let logits = Tensor::randn([6, 30], (Kind::Float, Device::Cpu)) * 3.0;
        let likeliest = Vec::<i64>::try_from(logits.argmax(-1, false)).unwrap();
        let uniforms = Tensor::from_slice(&[0.0f32, 0.1, 0.4, 0.6, 0.8, 0.999]);
        let greedy = ScaleSettings { greedy: true, temperature: 5.0, ..ScaleSettings::default() };
        let cold = ScaleSettings { temperature: 1e-40, ..ScaleSettings::default() };
        let narrow = ScaleSettings { top_p: Some(1e-6), ..ScaleSettings::default() };
        let single = ScaleSettings { top_k: Some(1), ..ScaleSettings::default() };
        for rows in [vec![greedy; 6], vec![cold; 6], vec![narrow; 6], vec![single; 6], [greedy, cold, narrow].repeat(2)]
        {
            let drawn = Draw::new(&rows, 30, Device::Cpu).unwrap().tokens(&logits, &uniforms).unwrap();
            assert_eq!(Vec::<i64>::try_from(drawn.tokens).unwrap(), likeliest, "{rows:?}");
            assert!(bool::try_from(drawn.sound.isfinite().all()).unwrap());
        }
    }

    #[test]
    fn unsound_logits_are_flagged_and_give_valid_ids() {
        for value in [f32::NAN, f32::INFINITY] {
            let logits = Tensor::zeros([3, 5], (Kind::Float, Device::Cpu));
            let _ = logits.get(1).get(2).fill_(f64::from(value));
            let _ = logits.get(2).fill_(f64::NEG_INFINITY);
            let uniforms = Tensor::from_slice(&[0.9f32; 3]);
            let odd = ScaleSettings { top_k: Some(2), top_p: Some(0.5), temperature: 0.7, ..ScaleSettings::default() };
            let greedy = ScaleSettings { greedy: true, ..ScaleSettings::default() };
            for settings in [ScaleSettings::default(), odd, greedy] {
                let drawn = Draw::new(&[settings; 3], 5, Device::Cpu).unwrap().tokens(&logits, &uniforms).unwrap();
                assert_eq!(
                    Vec::<bool>::try_from(drawn.sound.isfinite()).unwrap(),
                    [true, false, false],
                    "{settings:?}"
                );
                let tokens = Vec::<i64>::try_from(drawn.tokens).unwrap();
                assert!(tokens.iter().all(|token| (0..5).contains(token)), "{tokens:?}");
            }
        }
    }
}
