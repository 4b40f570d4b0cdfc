//! `imagebart evaluate`: how good a tokenizer and a chain are, in figures that can be compared.
//!
//! - reconstruction: images of a dataset beside what the tokenizer makes of them;
//! - generation: samples beside a reference set, by the features of the user's network;
//! - likelihood: bits that the chain needs for latents.
//!
//! Every [figure](Figure) carries what pins it, and its bootstrap resamples, so that [`compare()`] can tell a difference from noise.

mod compare;
mod figure;
mod generation;
mod likelihood;
mod pictures;
mod plan;
mod reconstruction;
mod report;
mod sources;

pub use compare::{Compared, Comparison, Verdict, compare};
pub use figure::{Better, Figure, Report};
pub use plan::EvaluatePlan;

use super::JobError;
use super::running::unless_cancelled;
use crate::config::Pipeline;
use crate::torch::device::{DeviceChoice, set_threads};
use figure::FORMAT;
use reconstruction::Extremes;
use std::fmt;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// What the command line adds to the pipeline file.
#[derive(Clone, Copy, Debug)]
pub struct EvaluateOptions {
    pub device: DeviceChoice,
    /// Lets too few rows and singular covariances pass.
    pub force: bool,
}

/// Whether to go on, and how strictly.
#[derive(Clone, Debug)]
struct Stop {
    cancel: CancellationToken,
    force: bool,
}

impl Stop {
    fn check(&self) -> Result<(), JobError> {
        if self.cancel.is_cancelled() { Err(JobError::Interrupted) } else { Ok(()) }
    }
}

/// What an evaluation found, and where it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluateSummary {
    pub report: Report,
    pub files: Vec<PathBuf>,
}

impl fmt::Display for EvaluateSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for figure in &self.report.figures {
            let name = format!("{} {}", figure.group, figure.metric);
            writeln!(f, "{name:<42} {}", figure.told())?;
        }
        for note in &self.report.notes {
            writeln!(f, "{note}")?;
        }
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        write!(f, "{}", files.join(", "))
    }
}

/// Measures what the pipeline asks for, and writes the report.
///
/// # Errors
/// [`JobError::Usage`] for what the user has to mend; nothing is written then.
pub async fn evaluate(
    pipeline: &Pipeline,
    options: &EvaluateOptions,
    cancel: CancellationToken,
) -> Result<EvaluateSummary, JobError> {
    let plan = unless_cancelled(EvaluatePlan::make(pipeline, options), &cancel).await?;
    let stop = Stop { cancel, force: options.force };
    // On a thread of its own: it computes, and waits for what tasks read.
    tokio::task::spawn_blocking(move || run(plan, &stop)).await.map_err(JobError::failed)?
}

fn run(plan: EvaluatePlan, stop: &Stop) -> Result<EvaluateSummary, JobError> {
    set_threads(plan.threads);
    let limit = plan.limit;
    let mut report = Report { format: FORMAT, subject: plan.subject, ..Report::default() };
    let mut extremes: Option<Extremes> = None;
    if let Some((reconstruction, group)) = plan.reconstruction {
        let (figures, pairs) = reconstruction.run(plan.network.as_ref(), (group, limit), stop)?;
        report.figures.extend(figures);
        extremes = Some(pairs);
    }
    if let (Some((generation, group)), Some(network)) = (plan.generation, &plan.network) {
        let (figures, notes) = generation.run(network, (group, limit), stop)?;
        report.figures.extend(figures);
        report.notes.extend(notes);
    }
    if let Some((scoring, group)) = plan.likelihood {
        report.figures.extend(scoring.run((group, limit), stop)?);
    }
    let files = report::write(&plan.to, &report, extremes.as_ref())?;
    Ok(EvaluateSummary { report, files })
}
