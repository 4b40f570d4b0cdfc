//! `--retry-rejects`: another try at the rejected samples of units that are done, into files of their own.

use crate::datasets::Unit;
use crate::flow::{BoxError, Sink};
use crate::jobs::JobError;
use crate::jobs::sink::{Committed, Writer};
use crate::jobs::work::{Finished, Pending};
use crate::reject::{Reason, Reject, Rejected};
use crate::tables::{Identity, LatentRow, OutputDir, UnitFile, UnitSummary, read_rejects};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Files of rejects read at a time.
const FILES_IN_FLIGHT: usize = 16;

/// Another try at a unit's rejects.
#[derive(Clone, Debug)]
struct Attempt {
    unit: Arc<Unit>,
    /// The files it writes, if it gives any rows.
    file: UnitFile,
    /// The samples that are tried again.
    again: Arc<Rejected>,
    /// Rejects that are not tried again.
    kept: Vec<Reject>,
}

/// The rejects of finished units that are tried again.
#[derive(Debug, Default)]
pub struct Attempts {
    all: BTreeMap<String, Attempt>,
    /// Units of this rank that were never done, which is another run's work.
    unfinished: usize,
}

impl Attempts {
    /// Collects from the newest rejects of every finished unit those with one of `reasons`; all of them when none is given.
    pub async fn find(
        output: &OutputDir<Identity>,
        pending: &Pending,
        reasons: &[Reason],
    ) -> Result<Attempts, JobError> {
        let found = futures::stream::iter(pending.finished.iter().cloned())
            .map(|finished| attempt(output, finished, reasons))
            .buffered(FILES_IN_FLIGHT)
            .try_filter_map(|attempt| async move { Ok(attempt.map(|attempt| (attempt.unit.name.clone(), attempt))) });
        Ok(Attempts { all: found.try_collect().await?, unfinished: pending.units.len() })
    }

    /// The units to read again, in the dataset's order.
    pub fn units(&self, pending: &Pending) -> Vec<Arc<Unit>> {
        let finished = pending.finished.iter().map(|finished| finished.unit.clone());
        finished.filter(|unit| self.all.contains_key(&unit.name)).collect()
    }

    /// Which samples of each unit are tried again.
    pub fn again(&self) -> BTreeMap<String, Arc<Rejected>> {
        self.all.iter().map(|(unit, attempt)| (unit.clone(), attempt.again.clone())).collect()
    }

    /// Removes what killed tries at the same files left.
    pub async fn sweep(&self, output: &OutputDir<Identity>) -> Result<(), JobError> {
        for attempt in self.all.values() {
            output.sweep_file(&attempt.file).await.map_err(JobError::failed)?;
        }
        Ok(())
    }
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rejects: usize = self.all.values().map(|attempt| attempt.again.indexes.len()).sum();
        match self.all.len() {
            0 => write!(f, "no rejects to try again")?,
            units => write!(f, "{rejects} rejects of {units} units are tried again")?,
        }
        match self.unfinished {
            0 => Ok(()),
            left => write!(f, "; {left} units are not done yet, which the command without --retry-rejects does"),
        }
    }
}

/// What there was before a retry that committed `committed`, by what there is `now`.
pub fn before(committed: &Committed, now: UnitSummary) -> UnitSummary {
    UnitSummary {
        rows: now.rows.saturating_sub(committed.rows),
        samples: now.samples.saturating_sub(committed.samples),
        rejects: now.rejects.saturating_sub(committed.rejects),
        ..now
    }
}

async fn attempt(
    output: &OutputDir<Identity>,
    Finished { unit, newest }: Finished,
    reasons: &[Reason],
) -> Result<Option<Attempt>, JobError> {
    let path = output.rejects(&UnitFile::retry(&unit.name, newest)).map_err(JobError::failed)?;
    let file = read_rejects(output.store().clone(), &path).await.map_err(JobError::failed)?;
    let mut rows = file.rows().map_err(JobError::failed)?;
    let (mut again, mut kept) = (Rejected::default(), Vec::new());
    while let Some(reject) = rows.try_next().await.map_err(JobError::failed)? {
        if reasons.is_empty() || reasons.contains(&reject.reason) { again.add(&reject) } else { kept.push(reject) }
    }
    if again == Rejected::default() {
        return Ok(None);
    }
    // Whatever lies behind a broken place is found again when the rest is read.
    kept.retain(|reject| !again.has(reject.index));
    let next = newest.checked_add(1).ok_or_else(|| JobError::Failed(format!("{} has no retry left", unit.name)))?;
    Ok(Some(Attempt { file: UnitFile::retry(&unit.name, next), unit, again: Arc::new(again), kept }))
}

/// Commits what a retry gave beside the unit's files, which stay as they are. Its rejects are all that are left of the unit's;
/// a retry that gives no rows leaves no files.
pub struct RetryWriter {
    writer: Writer<Identity>,
    attempts: Attempts,
    /// The rejects of the unit at hand: those kept, and those that failed again.
    rejects: Vec<Reject>,
    rows: u64,
}

impl RetryWriter {
    pub fn new(writer: Writer<Identity>, attempts: Attempts) -> RetryWriter {
        RetryWriter { writer, attempts, rejects: Vec::new(), rows: 0 }
    }

    /// The writer beneath, for what was committed.
    pub fn writer(&self) -> &Writer<Identity> {
        &self.writer
    }
}

impl Sink<Unit, LatentRow, Reject> for RetryWriter {
    async fn begin(&mut self, unit: &Arc<Unit>) -> Result<(), BoxError> {
        let Some(attempt) = self.attempts.all.remove(&unit.name) else { return Err("a unit without rejects".into()) };
        (self.rejects, self.rows) = (attempt.kept, 0);
        self.writer.begin_file(&attempt.file)
    }

    async fn row(&mut self, row: LatentRow) -> Result<(), BoxError> {
        self.rows += 1;
        self.writer.row(row).await
    }

    async fn reject(&mut self, reject: Reject) -> Result<(), BoxError> {
        self.rejects.push(reject);
        Ok(())
    }

    async fn end(&mut self, unit: &Arc<Unit>) -> Result<(), BoxError> {
        let mut rejects = std::mem::take(&mut self.rejects);
        if self.rows == 0 {
            return self.writer.discard().await;
        }
        rejects.sort_by_key(|reject| reject.index);
        for reject in rejects {
            self.writer.reject(reject).await?;
        }
        self.writer.end(unit).await
    }

    async fn abort(&mut self, unit: &Arc<Unit>, error: &BoxError) -> Result<(), BoxError> {
        self.writer.abort(unit, error).await
    }

    async fn finish(&mut self) -> Result<(), BoxError> {
        self.writer.finish().await
    }

    async fn abandon(&mut self) {
        self.writer.abandon().await;
    }
}
