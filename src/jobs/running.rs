//! What every job on the flow does around it: an engine with the pipeline's budget, shown to the user, stopped on a signal.

use super::JobError;
use super::sink::{Committed, Writer};
use super::work::bytes_of;
use crate::config::Pipeline;
use crate::datasets::Unit;
use crate::flow::{Engine, EngineConfig, FlowError, Report};
use crate::progress::{Display, Shown, Totals};
use crate::tables::Run;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What `prepared` gives, unless the user is faster to `cancel`.
pub async fn unless_cancelled<T>(
    prepared: impl Future<Output = Result<T, JobError>>,
    cancel: &CancellationToken,
) -> Result<T, JobError> {
    tokio::select! {
        prepared = prepared => prepared,
        () = cancel.cancelled() => Err(JobError::Interrupted),
    }
}

/// A flow under way.
pub struct Running {
    pub engine: Engine,
    shown: Shown,
    on_cancel: JoinHandle<()>,
}

impl Running {
    /// Makes the engine for a run over `units`, and shows how far it is. `cancel` stops it.
    pub fn start(
        pipeline: &Pipeline,
        units: &[Arc<Unit>],
        (display, cancel): (&Display, CancellationToken),
    ) -> Running {
        let budget_bytes = pipeline.run.memory_budget.0;
        let engine = Engine::new(EngineConfig { budget_bytes, ..EngineConfig::default() });
        // Rows that are drawn come from no source.
        let bytes = Some(bytes_of(units)).filter(|&bytes| bytes > 0);
        let shown = display.watch(engine.clone(), Totals { units: Some(units.len() as u64), bytes });
        let stopper = engine.clone();
        let on_cancel = tokio::spawn(async move {
            cancel.cancelled().await;
            stopper.cancel();
        });
        Running { engine, shown, on_cancel }
    }

    /// Ends the showing, and tells what `writer` committed.
    pub fn end<I: Run>(
        self,
        result: Result<Report<Unit>, FlowError>,
        writer: &Writer<I>,
    ) -> Result<(Committed, Report<Unit>), JobError> {
        drop(self.shown);
        self.on_cancel.abort();
        match result {
            Ok(report) => Ok((writer.committed(), report)),
            Err(FlowError::Cancelled) => Err(JobError::Interrupted),
            Err(error) => Err(JobError::failed(error)),
        }
    }
}
