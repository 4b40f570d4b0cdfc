//! Noise schedules: how much of the token grid each step of the forward process destroys.
//!
//! Step t redraws a token with probability beta_t, uniformly over all K codes, the same one included. With alpha_t = 1 - beta_t and
//! the product of all alphas up to t, q(x_t | x_0) is x_0 with that product as probability, else uniform: the multinomial diffusion of
//! Hoogeboom et al. (2021) and of ImageBART (Esser et al. 2021).
//! All numbers are float32, rounded where the authors round them, so that released models see the values they were trained with.

use crate::config::{ScheduleValue, nearest};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most scales a chain may have: counter-based draws number them in 16 bits.
pub const MAX_SCALES: u32 = u16::MAX as u32;

/// Metrics of the published tables that fall with noise.
const FALLING: [&str; 3] = ["IS", "PSNR", "SSIM"];

/// What may be written for a schedule.
const FORMS: &str = "geometric, a number, alphacum:1,..., or [in_|ffhq_]bernoulli_PSIM (or _FID)";

/// A noise schedule over T scales. Index 0 is the clean grid: beta 0, alpha 1, cumulative 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    betas: Vec<f32>,
    alphas: Vec<f32>,
    cumulative: Vec<f32>,
}

/// Why there is no such schedule.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ScheduleError {
    #[error("unknown schedule \"{name}\"{hint}: write {FORMS}")]
    Unknown { name: String, hint: String },
    #[error(
        "schedule \"{name}\": {metric} falls with noise, and levels are placed where a metric rises; use PSIM or FID"
    )]
    Metric { name: String, metric: String },
    #[error("a schedule needs 1 to {MAX_SCALES} scales, not {0}")]
    Scales(u32),
    #[error("schedule \"{name}\": \"{entry}\" is not a number")]
    NotANumber { name: String, entry: String },
    #[error("a redraw probability must be between 0 and 1, not {0}")]
    Constant(f64),
    #[error("the schedule lists {found} cumulative alphas; a chain of {scales} scales needs {}: from alpha 0 to {scales}", scales + 1)]
    Length { found: usize, scales: u32 },
    #[error("cumulative alpha {step} of the schedule is {value}: each must be between 0 and 1")]
    Range { step: usize, value: f64 },
    #[error("cumulative alpha {step} of the schedule, {value}, is above the one before it, {before}: noise only grows")]
    Rising { step: usize, value: f64, before: f64 },
    #[error(
        "cumulative alpha {step} of the schedule is 0, and only the last may be: after it nothing is left to destroy"
    )]
    EarlyZero { step: usize },
}

impl Schedule {
    /// The schedule `value` names, over `scales` scales T.
    ///
    /// - `geometric`: beta_t = 1 / (T - t + 1), so the cumulative alphas fall in equal steps to 0;
    /// - a number: beta_t is that number at every step;
    /// - `alphacum:a_0,...,a_T`: the cumulative alphas themselves;
    /// - `[dataset_]bernoulli_METRIC`: T equal steps of an image metric, measured on `in` (ImageNet, the default) or `ffhq`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the name, the list or the number.
    pub fn new(value: &ScheduleValue, scales: u32) -> Result<Schedule, ScheduleError> {
        if !(1..=MAX_SCALES).contains(&scales) {
            return Err(ScheduleError::Scales(scales));
        }
        match value {
            ScheduleValue::Number(beta) if (0.0..=1.0).contains(beta) => {
                Ok(Schedule::from_betas((0..scales).map(|_| *beta as f32)))
            }
            ScheduleValue::Number(beta) => Err(ScheduleError::Constant(*beta)),
            ScheduleValue::Name(name) if name == "geometric" => {
                Ok(Schedule::from_betas((1..=scales).rev().map(|left| 1.0 / left as f32)))
            }
            ScheduleValue::Name(name) => match name.strip_prefix("alphacum:") {
                Some(list) => {
                    let cumulative = numbers(name, list)?;
                    if cumulative.len() != scales as usize + 1 {
                        return Err(ScheduleError::Length { found: cumulative.len(), scales });
                    }
                    Schedule::from_cumulative(&cumulative)
                }
                None => Schedule::from_cumulative(&metric_levels(name, scales)?),
            },
        }
    }

    /// The schedule with these cumulative alphas 0..=T. Only their ratios count: the first is 1 whatever it says.
    ///
    /// # Errors
    /// Values that rise, lie outside 0..=1, or reach 0 before the last; fewer than two or too many.
    pub fn from_cumulative<N: Copy + Into<f64>>(cumulative: &[N]) -> Result<Schedule, ScheduleError> {
        let scales = u32::try_from(cumulative.len()).unwrap_or(u32::MAX).saturating_sub(1);
        if !(1..=MAX_SCALES).contains(&scales) {
            return Err(ScheduleError::Scales(scales));
        }
        let mut betas = Vec::with_capacity(scales as usize);
        let mut before: Option<f64> = None;
        for (step, &value) in cumulative.iter().enumerate() {
            let value = value.into();
            if !(0.0..=1.0).contains(&value) {
                return Err(ScheduleError::Range { step, value });
            }
            match before {
                Some(0.0) => return Err(ScheduleError::EarlyZero { step: step - 1 }),
                Some(before) if value > before => return Err(ScheduleError::Rising { step, value, before }),
                Some(before) => betas.push((1.0 - value / before) as f32),
                None => {}
            }
            before = Some(value);
        }
        Ok(Schedule::from_betas(betas.into_iter()))
    }

    /// Betas of steps 1..=T, each between 0 and 1.
    pub(super) fn from_betas(betas: impl Iterator<Item = f32>) -> Schedule {
        let betas: Vec<f32> = std::iter::once(0.0).chain(betas).collect();
        let alphas: Vec<f32> = betas.iter().map(|beta| 1.0 - beta).collect();
        // torch.cumprod on the CPU multiplies in float64 and rounds what it stores.
        let mut product = 1.0;
        let cumulative = alphas.iter().map(|&alpha| {
            product *= f64::from(alpha);
            product as f32
        });
        Schedule { cumulative: cumulative.collect(), betas, alphas }
    }

    /// Number of scales T.
    pub fn scales(&self) -> u32 {
        (self.betas.len() - 1) as u32
    }

    /// Probability that step `t` redraws a token. Above T it is that of T.
    pub fn beta(&self, t: u32) -> f32 {
        self.betas[self.index(t)]
    }

    /// 1 - beta.
    pub fn alpha(&self, t: u32) -> f32 {
        self.alphas[self.index(t)]
    }

    /// Product of the alphas up to `t`: probability that a token survived undisturbed.
    pub fn cumulative(&self, t: u32) -> f32 {
        self.cumulative[self.index(t)]
    }

    /// Alphas 0..=T.
    pub fn alphas(&self) -> &[f32] {
        &self.alphas
    }

    /// Betas 0..=T.
    pub fn betas(&self) -> &[f32] {
        &self.betas
    }

    /// Products of the alphas, 0..=T.
    pub fn cumulatives(&self) -> &[f32] {
        &self.cumulative
    }

    fn index(&self, t: u32) -> usize {
        (t as usize).min(self.betas.len() - 1)
    }
}

/// The comma-separated numbers of an `alphacum:` schedule.
fn numbers(name: &str, list: &str) -> Result<Vec<f64>, ScheduleError> {
    let number = |entry: &str| {
        let not_a_number = || ScheduleError::NotANumber { name: name.to_owned(), entry: entry.trim().to_owned() };
        entry.trim().parse().map_err(|_| not_a_number())
    };
    list.split(',').map(number).collect()
}

/// The published measurements (`schedule_tables.toml`): means of a metric at each cumulative alpha.
#[derive(Deserialize)]
struct Tables {
    /// Falling from 1 to 0.
    alphacum: Vec<f64>,
    /// By dataset, then by metric.
    datasets: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

/// Cumulative alphas 0..=T at which the metric of `name` takes T + 1 values evenly spaced from its least to its largest.
fn metric_levels(name: &str, scales: u32) -> Result<Vec<f64>, ScheduleError> {
    let tables: Tables = toml::from_str(include_str!("schedule_tables.toml")).map_err(|_| unknown(name, &[]))?;
    let (dataset, metric) = match name.split('_').collect::<Vec<_>>()[..] {
        ["bernoulli", metric] => ("in", metric),
        [dataset, "bernoulli", metric] => (dataset, metric),
        _ => return Err(unknown(name, &tables.names())),
    };
    let metrics = tables.datasets.get(dataset).ok_or_else(|| unknown(name, &tables.names()))?;
    if FALLING.contains(&metric) {
        return Err(ScheduleError::Metric { name: name.to_owned(), metric: metric.to_owned() });
    }
    let values = metrics.get(metric).ok_or_else(|| unknown(name, &tables.names()))?;
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let step = (largest - least) / f64::from(scales);
    let level = |t: u32| if t == scales { largest } else { f64::from(t) * step + least };
    let crossings = (0..=scales).map(|t| first_crossing(&tables.alphacum, values, level(t)));
    crossings.collect::<Option<Vec<f64>>>().ok_or_else(|| unknown(name, &[]))
}

impl Tables {
    /// Every schedule name there is but the lists of numbers.
    fn names(&self) -> Vec<String> {
        let metrics = self
            .datasets
            .iter()
            .flat_map(|(dataset, metrics)| metrics.keys().map(move |metric| format!("{dataset}_bernoulli_{metric}")));
        let of_default = self.datasets.get("in").into_iter().flat_map(BTreeMap::keys);
        let short = of_default.map(|metric| format!("bernoulli_{metric}"));
        std::iter::once("geometric".to_owned()).chain(short).chain(metrics).collect()
    }
}

/// Where the polyline through (`x`, `y`) first meets `level`. A metric that is not monotone meets it again later.
fn first_crossing(x: &[f64], y: &[f64], level: f64) -> Option<f64> {
    let sign = |value: f64| (value > level) as i8 - (value < level) as i8;
    let (x, y) = x.windows(2).zip(y.windows(2)).find(|(_, y)| sign(y[0]) != sign(y[1]))?;
    // Written as the authors wrote it, for the same rounding; a first value of 0 makes the share 0.
    let share = ((y[1] - level) / (y[0] - level)).abs() + 1.0;
    Some(x[0] + (x[1] - x[0]) / share)
}

fn unknown(name: &str, known: &[String]) -> ScheduleError {
    let meant = nearest(name, known.iter().map(String::as_str));
    let hint = meant.map_or_else(String::new, |meant| format!(" (did you mean \"{meant}\"?)"));
    ScheduleError::Unknown { name: name.to_owned(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, scales: u32) -> Result<Schedule, ScheduleError> {
        Schedule::new(&ScheduleValue::Name(name.to_owned()), scales)
    }

    fn message(name: &str, scales: u32) -> String {
        named(name, scales).expect_err("refused").to_string()
    }

    #[test]
    fn geometric_falls_in_equal_steps() -> Result<(), ScheduleError> {
        let schedule = named("geometric", 4)?;
        assert_eq!(schedule.scales(), 4);
        assert_eq!(schedule.betas(), [0.0, 0.25, 1.0 / 3.0, 0.5, 1.0]);
        for (t, expected) in [1.0, 0.75, 0.5, 0.25, 0.0].into_iter().enumerate() {
            assert!((schedule.cumulative(t as u32) - expected).abs() < 1e-6);
        }
        Ok(())
    }

    /// The released FFHQ-2 and ImageNet-5 models.
    #[test]
    fn metric_tables_give_the_released_schedules() -> Result<(), ScheduleError> {
        assert_eq!(named("ffhq_bernoulli_PSIM", 2)?.cumulatives(), [1.0, 0.636_047_54, 0.0]);
        let imagenet = [1.0, 0.909_888_86, 0.815_096_86, 0.701_633_4, 0.514_983_8, 0.0];
        assert_eq!(named("bernoulli_PSIM", 5)?.cumulatives(), imagenet);
        assert_eq!(named("bernoulli_PSIM", 5)?, named("in_bernoulli_PSIM", 5)?);
        Ok(())
    }

    #[test]
    fn metric_levels_fall_strictly_for_any_length() -> Result<(), ScheduleError> {
        for name in ["bernoulli_PSIM", "bernoulli_FID", "ffhq_bernoulli_PSIM", "ffhq_bernoulli_FID"] {
            for scales in 1..=40 {
                let schedule = named(name, scales)?;
                assert!(schedule.cumulatives().windows(2).all(|pair| pair[0] > pair[1]), "{name} over {scales}");
                assert_eq!(schedule.cumulative(scales), 0.0);
            }
        }
        Ok(())
    }

    #[test]
    fn tables_are_the_numbers_written() {
        let text = include_str!("schedule_tables.toml");
        let tables: Tables = toml::from_str(text).expect("the tables");
        let lines = text.lines().filter(|line| line.starts_with(' '));
        let written = lines.flat_map(|line| line.split(',')).filter_map(|word| word.trim().parse::<f64>().ok());
        let metrics = ["in", "ffhq"].into_iter().flat_map(|dataset| ["PSIM", "FID"].map(|metric| (dataset, metric)));
        let read =
            tables.alphacum.iter().chain(metrics.flat_map(|(dataset, metric)| &tables.datasets[dataset][metric]));
        assert_eq!(read.copied().collect::<Vec<_>>(), written.collect::<Vec<_>>());
        assert!(
            tables
                .datasets
                .values()
                .flat_map(|metrics| metrics.values())
                .all(|means| means.len() == tables.alphacum.len())
        );
    }

    #[test]
    fn a_list_is_taken_by_its_ratios() -> Result<(), ScheduleError> {
        assert_eq!(named("alphacum:1., .9 ,.3", 2)?.betas(), [0.0, 0.1, 0.666_666_7]);
        assert_eq!(named("alphacum:0.5,0.25,0.25", 2)?.betas(), [0.0, 0.5, 0.0]);
        assert_eq!(Schedule::from_cumulative(&[1.0f32, 0.5, 0.0])?, named("geometric", 2)?);
        Ok(())
    }

    #[test]
    fn refusals_are_sentences() {
        assert_eq!(
            message("bernouli_PSIM", 2),
            "unknown schedule \"bernouli_PSIM\" (did you mean \"bernoulli_PSIM\"?): write geometric, a number, \
             alphacum:1,..., or [in_|ffhq_]bernoulli_PSIM (or _FID)"
        );
        assert!(message("cosine", 2).starts_with("unknown schedule \"cosine\": write geometric"));
        assert!(message("lsun_bernoulli_PSIM", 2).contains("unknown schedule \"lsun_bernoulli_PSIM\""));
        for metric in FALLING {
            assert!(message(&format!("ffhq_bernoulli_{metric}"), 3).contains(&format!("{metric} falls with noise")));
        }
        assert!(message("alphacum:1,0.5,0", 3).contains("lists 3 cumulative alphas; a chain of 3 scales needs 4"));
        assert!(message("alphacum:1,0.5,0.6", 2).contains("cumulative alpha 2 of the schedule, 0.6, is above"));
        assert!(message("alphacum:1,1.5", 1).contains("is 1.5"));
        assert!(message("alphacum:1,NaN", 1).contains("is NaN"));
        assert!(message("alphacum:1,-0.1", 1).contains("between 0 and 1"));
        assert!(message("alphacum:1,0,0", 2).contains("alpha 1 of the schedule is 0, and only the last may be"));
        assert!(message("alphacum:1,half", 1).contains("\"half\" is not a number"));
        assert!(message("geometric", 0).contains("1 to 65535 scales, not 0"));
        for beta in [1.01, -0.5, f64::NAN, f64::INFINITY] {
            let refused = Schedule::new(&ScheduleValue::Number(beta), 3);
            assert!(matches!(refused, Err(ScheduleError::Constant(_))), "{beta}");
        }
    }
}
