//! The last stage of every job that fills a table: each unit's files, committed at its end.

use crate::datasets::Unit;
use crate::flow::{BoxError, Sink};
use crate::reject::{Reason, Reject};
use crate::tables::{OutputDir, Provenance, Run, TableError, UnitFile, UnitSummary, UnitWriter};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What was committed, for the summary.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    pub units: u64,
    pub rows: u64,
    pub samples: u64,
    pub rejects: u64,
    pub bytes: u64,
    pub reasons: BTreeMap<Reason, u64>,
}

/// Writes each unit's tables and commits them at its end, while the next unit's rows arrive already.
pub struct Writer<I: Run> {
    output: OutputDir<I>,
    provenance: Arc<Provenance<I>>,
    open: Option<Open<I>>,
    committing: Option<Committing>,
    committed: Committed,
}

/// The unit being written.
struct Open<I: Run> {
    writer: UnitWriter<I>,
    reasons: BTreeMap<Reason, u64>,
}

/// The unit before it, on its way to the store. One at a time: a slow store slows the run rather than piling up uploads.
struct Committing {
    unit: String,
    task: JoinHandle<Result<UnitSummary, TableError>>,
    reasons: BTreeMap<Reason, u64>,
}

impl<I: Run> Writer<I> {
    pub fn new(output: OutputDir<I>, provenance: Arc<Provenance<I>>) -> Writer<I> {
        Writer { output, provenance, open: None, committing: None, committed: Committed::default() }
    }

    /// What was committed so far.
    pub fn committed(&self) -> Committed {
        self.committed.clone()
    }

    /// Begins a unit whose rows go to `file`.
    pub fn begin_file(&mut self, file: &UnitFile) -> Result<(), BoxError> {
        let writer = UnitWriter::create(&self.output, &self.provenance, file.clone())?;
        self.open = Some(Open { writer, reasons: BTreeMap::new() });
        Ok(())
    }

    fn open(&mut self) -> Result<&mut Open<I>, BoxError> {
        self.open.as_mut().ok_or_else(|| "a row outside a unit".into())
    }

    /// Waits for the commit that is under way, if any, and counts it.
    async fn settle(&mut self) -> Result<(), BoxError> {
        // Taken out only once it is done: this future may be dropped half-way, when the run is stopped.
        let Some(committing) = &mut self.committing else { return Ok(()) };
        let result = (&mut committing.task).await;
        let Some(Committing { unit, reasons, .. }) = self.committing.take() else { return Ok(()) };
        let done = result??;
        tracing::debug!("committed {unit}: {} rows, {} rejects", done.rows, done.rejects);
        let total = &mut self.committed;
        total.units += 1;
        total.rows += done.rows;
        total.samples += done.samples;
        total.rejects += done.rejects;
        total.bytes += done.bytes;
        for (reason, count) in reasons {
            *total.reasons.entry(reason).or_default() += count;
        }
        Ok(())
    }

    /// Drops the unit at hand: nothing of it appears.
    pub async fn discard(&mut self) -> Result<(), BoxError> {
        match self.open.take() {
            Some(open) => Ok(open.writer.abort().await?),
            None => Ok(()),
        }
    }
}

impl<I: Run> Sink<Unit, I::Row, Reject> for Writer<I> {
    async fn begin(&mut self, unit: &Arc<Unit>) -> Result<(), BoxError> {
        self.begin_file(&unit.name.as_str().into())
    }

    async fn row(&mut self, row: I::Row) -> Result<(), BoxError> {
        Ok(self.open()?.writer.row(row).await?)
    }

    async fn reject(&mut self, reject: Reject) -> Result<(), BoxError> {
        tracing::debug!("{} {}: {} ({})", reject.source, reject.key, reject.reason, reject.message);
        let open = self.open()?;
        *open.reasons.entry(reject.reason).or_default() += 1;
        Ok(open.writer.reject(reject).await?)
    }

    async fn end(&mut self, unit: &Arc<Unit>) -> Result<(), BoxError> {
        self.settle().await?;
        let Some(Open { writer, reasons }) = self.open.take() else { return Err("the end of no unit".into()) };
        let task = tokio::spawn(writer.commit());
        self.committing = Some(Committing { unit: unit.name.clone(), task, reasons });
        Ok(())
    }

    async fn abort(&mut self, _unit: &Arc<Unit>, _error: &BoxError) -> Result<(), BoxError> {
        self.discard().await
    }

    async fn finish(&mut self) -> Result<(), BoxError> {
        self.settle().await
    }

    async fn abandon(&mut self) {
        for result in [self.settle().await, self.discard().await] {
            if let Err(error) = result {
                tracing::warn!("the units in hand could not be put away: {error}");
            }
        }
    }
}
