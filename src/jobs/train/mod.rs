//! `imagebart train`: the networks of a chain from tables of latents.
//!
//! Each network is trained by itself, from its own folder of checkpoints: those of one chain may be trained one after the other by
//! one process, or at the same time by several (`--scale`). A run that stopped goes on from its last checkpoint, and is then, on the
//! CPU, the run that never stopped, to the last bit.

mod export;
mod plan;
mod run;
mod watch;

pub use plan::TrainPlan;
pub use run::NetworkSummary;

use super::JobError;
use crate::config::Pipeline;
use crate::torch::device::DeviceChoice;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What the command line adds to the pipeline file.
#[derive(Clone, Debug, Default)]
pub struct TrainOptions {
    pub device: DeviceChoice,
    /// Only the networks that serve these scales; all, when empty.
    pub scales: Vec<u32>,
    /// Delete the checkpoints that are there, and start anew.
    pub overwrite: bool,
}

/// What a `train` did.
#[derive(Clone, Debug)]
pub struct TrainSummary {
    pub model: PathBuf,
    pub networks: Vec<NetworkSummary>,
}

impl fmt::Display for TrainSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for network in &self.networks {
            writeln!(f, "{network}")?;
        }
        write!(f, "model    {}", self.model.display())
    }
}

/// Trains the networks of the pipeline's chain, one after the other, and writes each into the model directory when it is done.
///
/// # Errors
/// [`JobError::Usage`], before any work, for what the user has to mend; [`JobError::Interrupted`] after a checkpoint, when `cancel`
/// is cancelled; [`JobError::Failed`] when losses are no numbers any more, or a store or the device fails.
pub async fn train(
    pipeline: &Pipeline,
    options: &TrainOptions,
    cancel: CancellationToken,
) -> Result<TrainSummary, JobError> {
    let plan = Arc::new(TrainPlan::make(pipeline, options).await?);
    tracing::info!("device: {}", plan.device.line);
    export::describe(&plan)?;
    let mut networks = Vec::with_capacity(plan.networks.len());
    for network in &plan.networks {
        let one = run::Run::open(plan.clone(), network.clone(), options.overwrite, cancel.clone()).await?;
        // One thread owns the device.
        networks.push(tokio::task::spawn_blocking(move || one.train()).await.map_err(JobError::failed)??);
    }
    Ok(TrainSummary { model: plan.model.clone(), networks })
}
