//! The facts of a run: its summary for the user, and `run.json` beside the tables.

use super::JobError;
use super::sink::Committed;
use super::work::{Pending, Work};
use crate::config::{ByteSize, Pipeline};
use crate::datasets::Unit;
use crate::flow::Report;
use crate::launch::Rank;
use crate::progress::peak_memory;
use crate::tables::{OutputDir, Run, UnitSummary};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `run.json`, or `run-<rank>.json` where several processes share the work; `run-samples.json` of sampling.
pub fn file_name<I: Run>(rank: Rank) -> String {
    if rank.world == 1 { format!("{}.json", I::FACTS) } else { format!("{}-{}.json", I::FACTS, rank.rank) }
}

/// The part of a run's facts that is read back.
#[derive(Deserialize)]
struct Recorded {
    pipeline: Pipeline,
}

/// The pipeline that the last run of kind `I` recorded in `dir`, by the facts of the only process or of the first. None when there are
/// none that are understood.
pub async fn recorded_pipeline<I: Run>(dir: &OutputDir<I>) -> Option<Pipeline> {
    for name in [Rank::ALONE, Rank { rank: 0, world: 2 }].map(file_name::<I>) {
        let Ok(Some(bytes)) = dir.get(&dir.root().clone().join(name.as_str())).await else { continue };
        match serde_json::from_slice::<Recorded>(&bytes) {
            Ok(recorded) => return Some(recorded.pipeline),
            Err(error) => tracing::warn!("{}/{name} is not understood: {error}", dir.root()),
        }
    }
    None
}

/// What a job did that fills a table. Serialises as `run.json`; `S` are the settings with every `auto` decided.
#[derive(Clone, Debug, Serialize)]
pub struct Summary<S> {
    pub command: &'static str,
    /// Of the program; never part of the identity.
    pub version: &'static str,
    /// The run's identity, as in every file.
    pub identity: String,
    pub rank: u32,
    pub world: u32,
    /// Seconds since 1970 when the run ended.
    pub ended_unix: u64,
    pub seconds: f64,
    pub device: String,
    pub settings: S,
    /// Units committed by this run, and before it.
    pub units: u64,
    pub units_before: u64,
    /// Units that could not be read: the next run tries them again.
    pub failed: Vec<FailedUnit>,
    /// Rows, samples with rows, rejects and bytes on disk, of this run.
    pub rows: u64,
    pub samples: u64,
    pub rejects: u64,
    pub bytes: u64,
    pub reasons: BTreeMap<&'static str, u64>,
    /// Rows of the units of this run that img2dataset could not fetch or scale, by its status: neither samples nor rejects.
    pub not_downloaded: BTreeMap<String, u64>,
    /// Prompts of the run, done or not, that were longer than the chain's condition: their end is lost.
    pub prompts_cut: u64,
    /// Images of this run that were drawn and not accepted, and so are in no table.
    pub dropped: u64,
    /// Shards of the dataset that were passed over because img2dataset has not finished them.
    pub unfinished: Vec<String>,
    /// Samples and rejects of the units that were done before.
    pub samples_before: u64,
    pub rejects_before: u64,
    /// Of each stage: the share of its time that it worked, waited for input, waited for output.
    pub stages: Vec<StageShare>,
    /// One sentence on what the run waited for.
    pub bottleneck: Option<String>,
    /// The process's largest resident memory, where the system tells it.
    pub peak_memory: Option<u64>,
    /// The pipeline file as it was understood, overrides included.
    pub pipeline: Pipeline,
}

/// A unit that could not be read.
#[derive(Clone, Debug, Serialize)]
pub struct FailedUnit {
    pub unit: String,
    pub error: String,
}

/// Where a stage's time went.
#[derive(Clone, Debug, Serialize)]
pub struct StageShare {
    pub stage: &'static str,
    pub workers: usize,
    pub busy: f64,
    pub starved: f64,
    pub blocked: f64,
    /// Busy share of the time from the stage's first row to its last: while its input lasted.
    pub busy_while_fed: f64,
}

/// Collects what is known before the work, for the summary after it.
pub struct Recorder<S> {
    pub command: &'static str,
    pub pipeline: Pipeline,
    pub identity: String,
    pub rank: Rank,
    pub device: String,
    pub settings: S,
    pub units_before: u64,
    pub prompts_cut: u64,
    pub dropped: u64,
}

impl<S> Recorder<S> {
    /// A recorder of `command`, which does `pending` of `work`.
    pub fn new<I: Run>(
        command: &'static str,
        pipeline: &Pipeline,
        (work, pending): (&Work<I>, &Pending),
        rank: Rank,
        device: &str,
        settings: S,
    ) -> Recorder<S> {
        Recorder {
            command,
            pipeline: pipeline.clone(),
            identity: work.provenance.identity.sha256(),
            rank,
            device: device.to_owned(),
            settings,
            units_before: pending.finished.len() as u64,
            prompts_cut: 0,
            dropped: 0,
        }
    }

    /// The summary of a run that committed `done`, after `earlier` ones.
    pub fn summary(
        self,
        done: Committed,
        earlier: UnitSummary,
        report: Option<&Report<Unit>>,
        elapsed: Duration,
    ) -> Summary<S> {
        let failed = report.map_or(Vec::new(), |report| {
            let failed = |lost: &crate::flow::Aborted<Unit>| FailedUnit {
                unit: lost.unit.name.clone(),
                error: lost.error.to_string(),
            };
            report.aborted.iter().map(failed).collect()
        });
        Summary {
            command: self.command,
            version: env!("CARGO_PKG_VERSION"),
            identity: self.identity,
            rank: self.rank.rank,
            world: self.rank.world,
            ended_unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            seconds: elapsed.as_secs_f64(),
            device: self.device,
            settings: self.settings,
            units: done.units,
            units_before: self.units_before,
            failed,
            rows: done.rows,
            samples: done.samples,
            rejects: done.rejects,
            bytes: done.bytes,
            reasons: done.reasons.iter().map(|(reason, count)| (reason.code(), *count)).collect(),
            not_downloaded: BTreeMap::new(),
            prompts_cut: self.prompts_cut,
            dropped: self.dropped,
            unfinished: Vec::new(),
            samples_before: earlier.samples,
            rejects_before: earlier.rejects,
            stages: report.map_or(Vec::new(), stage_shares),
            bottleneck: report.map(Report::bottleneck),
            peak_memory: peak_memory(),
            pipeline: self.pipeline,
        }
    }
}

fn stage_shares(report: &Report<Unit>) -> Vec<StageShare> {
    let share = |part: Duration, stage: &crate::flow::StageSnapshot| {
        part.as_secs_f64() / (report.stats.wall.as_secs_f64() * stage.workers as f64).max(f64::MIN_POSITIVE)
    };
    let shares = report.stats.stages.iter().map(|stage| StageShare {
        stage: stage.name,
        workers: stage.workers,
        busy: share(stage.busy, stage),
        starved: share(stage.starved, stage),
        blocked: share(stage.blocked, stage),
        busy_while_fed: stage.busy_while_fed(),
    });
    shares.collect()
}

impl<S: Serialize> Summary<S> {
    /// The text of `run.json`.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("numbers, strings and maps with string keys are JSON");
        text.push('\n');
        text
    }

    /// Whether the run counts as done: units that failed, or too large a share of rejects over all units, are errors.
    pub fn verdict(&self, limit: f64) -> Result<(), JobError> {
        if let Some(first) = self.failed.first() {
            return Err(JobError::Failed(format!(
                "{} unit(s) could not be read and are left for the next run; the first is {}: {}",
                self.failed.len(),
                first.unit,
                first.error
            )));
        }
        let rejected = self.rejects + self.rejects_before;
        let samples = self.samples + self.samples_before + rejected;
        if rejected as f64 > limit * samples as f64 {
            return Err(JobError::TooManyRejects { rejected, samples, limit });
        }
        Ok(())
    }
}

impl<S> fmt::Display for Summary<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.samples as f64 / self.seconds.max(1e-9);
        write!(
            f,
            "{} rows of {} images in {} units, {} on disk, in {:.1} s ({rate:.1} images/s); {} rejects",
            self.rows,
            self.samples,
            self.units,
            ByteSize(self.bytes),
            self.seconds,
            self.rejects
        )?;
        for (position, (reason, count)) in self.reasons.iter().enumerate() {
            write!(f, "{} {count} {reason}", if position == 0 { ":" } else { "," })?;
        }
        let missing = self.not_downloaded.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
        if missing > 0 {
            write!(f, "; {missing} rows not downloaded")?;
        }
        if self.prompts_cut > 0 {
            write!(f, "; {} prompts cut", self.prompts_cut)?;
        }
        if self.dropped > 0 {
            write!(f, "; {} more drawn and not accepted", self.dropped)?;
        }
        if !self.unfinished.is_empty() {
            write!(f, "; {} unfinished shards passed over", self.unfinished.len())?;
        }
        if let Some(sentence) = &self.bottleneck {
            write!(f, "; {sentence}")?;
        }
        Ok(())
    }
}
