//! What an evaluation found: figures, each with everything that pins it.

use crate::evaluate::{Estimate, Interval};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The format of `evaluation.json`.
pub const FORMAT: u32 = 1;

/// Which way a metric is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
    Neither,
}

impl Better {
    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Better::Lower => "lower",
            Better::Higher => "higher",
            Better::Neither => "neither",
        }
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The run it is of, where there are several; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// `reconstruction`, `generation`, `text` or `likelihood`.
    pub group: String,
    pub metric: String,
    pub value: f64,
    pub unit: String,
    pub better: Better,
    /// Images or token grids it was measured on.
    pub rows: u64,
    /// Where it lies, as resamples of the rows tell; none where a metric has no such interval.
    pub interval: Option<Interval>,
    /// How it was measured. Figures with other settings cannot be compared.
    pub settings: BTreeMap<String, String>,
    /// Identifies the rows: figures on the same ones are compared in pairs.
    pub rows_id: String,
    /// The resamples, for comparisons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicates: Vec<f64>,
}

/// Everything an evaluation found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: u32,
    /// What was measured: tokenizer, chain, data, seed. Of several runs, what they have in common.
    pub subject: BTreeMap<String, String>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// The runs, in the pipeline's order; none where there is but one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Measured>,
    pub figures: Vec<Figure>,
}

/// One of several checkpoints or runs that were measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub name: String,
    /// Where it stands along the curves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<f64>,
    /// What was measured of it alone.
    pub subject: BTreeMap<String, String>,
}

impl Report {
    /// The run with this name, where there are several.
    pub fn run(&self, name: &str) -> Option<&Measured> {
        self.runs.iter().find(|run| run.name == name)
    }

    /// What a figure was measured of: the common part and its run's own.
    pub fn subject_of(&self, figure: &Figure) -> BTreeMap<String, String> {
        let own = self.run(&figure.run).map(|run| run.subject.clone());
        self.subject.clone().into_iter().chain(own.into_iter().flatten()).collect()
    }
}

/// Figures of one group under way: what they have in common.
#[derive(Clone, Debug)]
pub struct Group {
    pub name: &'static str,
    pub rows: u64,
    pub rows_id: String,
    /// Of every figure.
    pub settings: BTreeMap<String, String>,
    /// Resamples, and their seed.
    pub bootstrap: (u32, u64),
}

impl Group {
    /// A figure without an interval.
    pub fn plain(&self, metric: &str, value: f64, (unit, better): (&str, Better)) -> Figure {
        Figure {
            run: String::new(),
            group: self.name.to_owned(),
            metric: metric.to_owned(),
            value,
            unit: unit.to_owned(),
            better,
            rows: self.rows,
            interval: None,
            settings: self.settings.clone(),
            rows_id: self.rows_id.clone(),
            replicates: Vec::new(),
        }
    }

    /// A figure with its interval.
    pub fn figure(&self, metric: &str, estimate: &Estimate, what: (&str, Better)) -> Figure {
        let (count, seed) = self.bootstrap;
        let replicates = estimate.replicates(count, seed);
        Figure { interval: Interval::of(&replicates), replicates, ..self.plain(metric, estimate.value, what) }
    }

    /// The mean of `values` with its interval; none of none.
    pub fn mean(&self, metric: &str, values: Vec<f64>, what: (&str, Better)) -> Option<Figure> {
        Some(self.figure(metric, &Estimate::mean(values)?, what))
    }
}

impl Figure {
    /// The same with one more setting.
    pub fn with(mut self, setting: &str, value: impl ToString) -> Figure {
        self.settings.insert(setting.to_owned(), value.to_string());
        self
    }

    /// Group and metric, behind the run where there are several.
    pub fn name(&self) -> String {
        let run = if self.run.is_empty() { String::new() } else { format!("{}: ", self.run) };
        format!("{run}{} {}", self.group, self.metric)
    }

    /// Value and interval for people.
    pub fn told(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        match &self.interval {
            Some(interval) => {
                format!("{}{unit} [{}, {}]", short(self.value), short(interval.low), short(interval.high))
            }
            None => format!("{}{unit}", short(self.value)),
        }
    }
}

/// A number with about four significant digits.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 => 1,
        size if size >= 100.0 => 2,
        size if size >= 1.0 || size == 0.0 => 3,
        size if size >= 0.001 => 5,
        _ => return format!("{value:.3e}"),
    };
    format!("{value:.digits$}")
}
