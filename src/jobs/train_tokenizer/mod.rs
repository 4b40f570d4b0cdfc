//! `imagebart train-tokenizer`: images to the weights of a VQGAN.

mod export;
mod merge;
pub(super) mod perceptual;
mod plan;
mod settings;
mod train;
mod validate;
mod watch;

pub use plan::TokenizerPlan;
pub use validate::Validation;

use super::JobError;
use super::running::unless_cancelled;
use crate::config::Pipeline;
use crate::torch::device::DeviceChoice;
use crate::training::images::Tally;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// What the command line adds to the pipeline file.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainTokenizerOptions {
    pub device: DeviceChoice,
    /// Delete the checkpoints that are there and start anew, and replace a tokenizer of another origin.
    pub overwrite: bool,
}

/// What a training run came to.
#[derive(Clone, Debug, Serialize)]
pub struct TrainTokenizerSummary {
    /// Optimizer steps, those of earlier runs included.
    pub steps: u64,
    /// The step whose weights were exported.
    pub exported: u64,
    /// Steps whose loss was not a number.
    pub skipped: u64,
    /// Epochs that were begun.
    pub epochs: u64,
    pub read: Tally,
    pub validation: Option<Validation>,
    /// The tokenizer that was written, its fingerprint and its ids.
    pub tokenizer: PathBuf,
    pub fingerprint: String,
    pub ids: u64,
}

impl fmt::Display for TrainTokenizerSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, exported, skipped, epochs, .. } = self;
        writeln!(
            f,
            "trained    {steps} steps, {skipped} of them skipped, in {epochs} epochs; step {exported} is exported"
        )?;
        if self.read.rejected() > 0 {
            let reasons: Vec<String> = self.read.rejects.iter().map(|(why, count)| format!("{why}: {count}")).collect();
            writeln!(f, "images     {} read, left out: {}", self.read.samples, reasons.join(", "))?;
        }
        if let Some(validation) = &self.validation {
            writeln!(f, "validation {validation}")?;
        }
        write!(f, "tokenizer  {} ({} ids, {})", self.tokenizer.display(), self.ids, self.fingerprint)
    }
}

/// Trains the tokenizer of `pipeline`, from where an earlier run of the same stopped. `cancel` ends it with a checkpoint.
///
/// # Errors
/// See [`JobError`]. What the user got wrong stops it before any work.
pub async fn train_tokenizer(
    pipeline: &Pipeline,
    options: &TrainTokenizerOptions,
    cancel: CancellationToken,
) -> Result<TrainTokenizerSummary, JobError> {
    let plan = unless_cancelled(TokenizerPlan::make(pipeline, options), &cancel).await?;
    tracing::info!("{}", plan.device.line);
    let checkpoints = plan.checkpoints(options.overwrite).await?;
    let limit = pipeline.run.max_reject_fraction;
    let runtime = tokio::runtime::Handle::current();
    // One thread owns the device; it may wait for the stores, and for the images.
    let training = tokio::task::spawn_blocking(move || train::run(plan, &checkpoints, &runtime, &cancel));
    let summary = training.await.map_err(JobError::failed)??;
    let (rejected, samples) = (summary.read.rejected(), summary.read.samples);
    if rejected as f64 > limit * samples as f64 {
        tracing::info!("{summary}");
        return Err(JobError::TooManyRejects { rejected, samples, limit });
    }
    Ok(summary)
}
