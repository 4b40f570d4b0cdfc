//! Two evaluations beside each other: which differences are more than noise.

use super::figure::{Better, Figure, Report, short};
use crate::evaluate::difference;
use crate::jobs::JobError;
use std::fmt;
use std::path::Path;

/// What is to be said of a metric that both have.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// 0 lies in the interval of the difference.
    WithinNoise,
    /// The second is better, or worse; neither, where the metric has no direction.
    Better,
    Worse,
    Different,
    /// There are no resamples of it.
    NoInterval,
    /// Measured in different ways: what differs.
    Incomparable(String),
}

/// A metric of two evaluations.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The run it is of, where there are several; else empty.
    pub run: String,
    pub group: String,
    pub metric: String,
    pub first: f64,
    pub second: f64,
    /// Ends of the difference's 95 % interval.
    pub interval: Option<(f64, f64)>,
    /// Whether it was resampled in pairs.
    pub paired: bool,
    pub verdict: Verdict,
}

/// All metrics of two evaluations.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub metrics: Vec<Compared>,
    /// Metrics that only one of them has.
    pub alone: Vec<String>,
}

/// Compares the evaluations in two `evaluation.json`, or in the folders that hold them.
///
/// # Errors
/// [`JobError::Usage`] for files that are not there or no evaluations.
pub fn compare(first: &Path, second: &Path) -> Result<Comparison, JobError> {
    let (a, b) = (read(first)?, read(second)?);
    let same = |figure: &Figure, other: &Figure| figure.name() == other.name();
    let mut comparison = Comparison { metrics: Vec::new(), alone: Vec::new() };
    for figure in &a.figures {
        match b.figures.iter().find(|other| same(figure, other)) {
            Some(other) => comparison.metrics.push(beside(figure, other)),
            None => comparison.alone.push(format!("{} (the first)", figure.name())),
        }
    }
    let others = b.figures.iter().filter(|other| !a.figures.iter().any(|figure| same(figure, other)));
    comparison.alone.extend(others.map(|other| format!("{} (the second)", other.name())));
    Ok(comparison)
}

/// Reads a report; `path` is its file, or the folder it is in.
///
/// # Errors
/// [`JobError::Usage`] for a file that is not there or no report.
pub fn read(path: &Path) -> Result<Report, JobError> {
    let file = if path.is_dir() { path.join(super::report::JSON) } else { path.to_owned() };
    let wrong = |detail: String| JobError::Usage(format!("{}: {detail}", file.display()));
    let text = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
    let report: Report =
        serde_json::from_str(&text).map_err(|error| wrong(format!("not an evaluation of imagebart: {error}")))?;
    match report.format {
        super::figure::FORMAT => Ok(report),
        other => Err(wrong(format!("of format {other}, which this version does not know"))),
    }
}

/// A metric of two evaluations, or of two runs of one.
pub fn beside(first: &Figure, second: &Figure) -> Compared {
    let paired = first.rows_id == second.rows_id && first.rows == second.rows;
    let told = difference((first.value, &first.replicates), (second.value, &second.replicates), paired);
    let keys = first.settings.keys().chain(second.settings.keys());
    let differing = keys.into_iter().find(|key| first.settings.get(*key) != second.settings.get(*key));
    let verdict = match (differing, &told) {
        (Some(key), _) => {
            let value = |figure: &Figure| figure.settings.get(key).map_or("not told", String::as_str).to_owned();
            Verdict::Incomparable(format!("{key} is {} and {}", value(first), value(second)))
        }
        (None, None) => Verdict::NoInterval,
        (None, Some(told)) if told.within_noise() => Verdict::WithinNoise,
        (None, Some(told)) => match (first.better, told.difference > 0.0) {
            (Better::Neither, _) => Verdict::Different,
            (Better::Higher, true) | (Better::Lower, false) => Verdict::Better,
            _ => Verdict::Worse,
        },
    };
    Compared {
        run: first.run.clone(),
        group: first.group.clone(),
        metric: first.metric.clone(),
        first: first.value,
        second: second.value,
        interval: told.map(|told| (told.interval.low, told.interval.high)),
        paired,
        verdict,
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::WithinNoise => f.write_str("within noise"),
            Verdict::Better => f.write_str("the second is better"),
            Verdict::Worse => f.write_str("the second is worse"),
            Verdict::Different => f.write_str("different"),
            Verdict::NoInterval => f.write_str("no interval"),
            Verdict::Incomparable(what) => write!(f, "not comparable: {what}"),
        }
    }
}

impl fmt::Display for Comparison {
    /// A table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| metric | first | second | difference, 95 % interval | |\n|---|---|---|---|---|")?;
        for compared in &self.metrics {
            let Compared { run, group, metric, first, second, interval, paired, verdict } = compared;
            let run = if run.is_empty() { String::new() } else { format!("{run}: ") };
            let difference = short(second - first);
            let difference = match interval {
                Some((low, high)) => {
                    let pairs = if *paired { ", in pairs" } else { "" };
                    format!("{difference} [{}, {}]{pairs}", short(*low), short(*high))
                }
                None => difference,
            };
            let (first, second) = (short(*first), short(*second));
            write!(f, "\n| {run}{group} {metric} | {first} | {second} | {difference} | {verdict} |")?;
        }
        match self.alone.is_empty() {
            true => Ok(()),
            false => write!(f, "\nonly one of them has: {}", self.alone.join(", ")),
        }
    }
}
