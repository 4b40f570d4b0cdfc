//! How sure a figure is: bootstrap intervals (Efron and Tibshirani, "An introduction to the bootstrap", 1993).

use crate::random::{Purpose, RowKey};
use serde::{Deserialize, Serialize};

/// Share of the resamples outside an interval.
const OUTSIDE: f64 = 0.05;

/// A metric, and what each row adds to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    pub value: f64,
    /// Of each row, up to a constant. For a mean these are the rows' values; for other metrics their influence (Hampel 1974): how
    /// the metric moves, to first order, with the weight of the row.
    pub contributions: Vec<f64>,
}

impl Estimate {
    /// The mean of `values`; none of none.
    pub fn mean(values: Vec<f64>) -> Option<Estimate> {
        let value = values.iter().sum::<f64>() / values.len() as f64;
        (!values.is_empty()).then_some(Estimate { value, contributions: values })
    }

    /// What the metric is, to first order, on `count` resamples of the rows. Resample i takes the same rows of every metric with as
    /// many rows, so that differences of metrics on the same rows are resampled in pairs.
    pub fn replicates(&self, count: u32, seed: u64) -> Vec<f64> {
        let rows = self.contributions.len();
        let mean = self.contributions.iter().sum::<f64>() / rows.max(1) as f64;
        let bound = u32::try_from(rows).unwrap_or(u32::MAX);
        let resample = |number: u32| {
            let key = RowKey::new(seed, "bootstrap", u64::from(number), 0);
            let drawn = (0..bound).map(|position| {
                let row = key.below(Purpose::Resample, position, bound);
                self.contributions.get(row as usize).copied().unwrap_or(mean)
            });
            self.value + drawn.sum::<f64>() / rows.max(1) as f64 - mean
        };
        (0..count).map(resample).collect()
    }
}

/// Where a metric lies, as its resamples tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The middle 95 % of the resamples.
    pub low: f64,
    pub high: f64,
    /// Their standard deviation.
    pub error: f64,
}

impl Interval {
    /// That of `replicates`; none of fewer than two.
    pub fn of(replicates: &[f64]) -> Option<Interval> {
        if replicates.len() < 2 || replicates.iter().any(|it| !it.is_finite()) {
            return None;
        }
        let mut sorted = replicates.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let variance = sorted.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let (low, high) = (quantile(&sorted, OUTSIDE / 2.0), quantile(&sorted, 1.0 - OUTSIDE / 2.0));
        Some(Interval { low, high, error: variance.sqrt() })
    }
}

/// Two figures of one metric beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The second less the first.
    pub difference: f64,
    pub interval: Interval,
}

impl Difference {
    /// Whether 0 lies in the interval: chance alone explains the difference.
    pub fn within_noise(&self) -> bool {
        self.interval.low <= 0.0 && 0.0 <= self.interval.high
    }
}

/// The difference of two figures, each a value with its replicates. `paired`: both are of the same rows, and resample i of the same
/// draw; otherwise the second's replicates are shifted by half, so that no common draw makes them look alike.
pub fn difference(first: (f64, &[f64]), second: (f64, &[f64]), paired: bool) -> Option<Difference> {
    let count = first.1.len().min(second.1.len());
    let shift = if paired { 0 } else { count / 2 };
    let shifted = second.1.iter().take(count).cycle().skip(shift);
    let differences: Vec<f64> = first.1.iter().take(count).zip(shifted).map(|(first, second)| second - first).collect();
    let interval = Interval::of(&differences)?;
    Some(Difference { difference: second.0 - first.0, interval })
}

/// The value below which the share `at` of the sorted values lies, between neighbours linearly (numpy's default).
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let place = at * sorted.len().saturating_sub(1) as f64;
    let value = |index: f64| sorted.get(index as usize).copied().unwrap_or(f64::NAN);
    let (low, high) = (value(place.floor()), value(place.ceil()));
    low + (high - low) * place.fract()
}
