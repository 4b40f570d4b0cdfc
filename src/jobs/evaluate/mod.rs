//! `imagebart evaluate`: how good a tokenizer and a chain are, in figures that can be compared.
//!
//! - reconstruction: images of a dataset beside what the tokenizer makes of them;
//! - generation: samples beside a reference set, by the features of the user's network;
//! - text: samples beside the texts they were drawn of, by the user's scorer or the demo's rule reader;
//! - likelihood: bits that the chain needs for latents.
//!
//! Of one chain, or of several checkpoints one after the other. Every [figure](Figure) carries what pins it, and its bootstrap resamples, so that [`compare()`] can tell a difference from noise.

mod compare;
mod curves;
mod figure;
mod generation;
mod likelihood;
mod neighbours;
mod pictures;
mod plan;
mod reconstruction;
mod report;
mod runs;
mod sources;
mod texts;

pub use compare::{Compared, Comparison, Verdict, compare};
pub use figure::{Better, Figure, Measured, Report};

use super::JobError;
use super::running::unless_cancelled;
use super::sample::scorer::Module;
use crate::config::Pipeline;
use crate::torch::device::{DeviceChoice, set_threads};
use figure::FORMAT;
use neighbours::Neighbourhoods;
use plan::EvaluatePlan;
use reconstruction::Extremes;
use runs::Run;
use std::collections::BTreeMap;
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
            writeln!(f, "{:<42} {}", figure.name(), figure.told())?;
        }
        for note in &self.report.notes {
            writeln!(f, "{note}")?;
        }
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        write!(f, "{}", files.join(", "))
    }
}

/// What was found of one run.
#[derive(Default)]
struct Findings {
    subject: BTreeMap<String, String>,
    figures: Vec<Figure>,
    notes: Vec<String>,
    pictures: Shown,
}

/// Images of a run that the report shows.
#[derive(Default)]
struct Shown {
    /// Empty where there is no other.
    run: String,
    extremes: Option<Extremes>,
    neighbours: Option<Neighbourhoods>,
}

/// Measures what the pipeline asks for, of each of its runs, and writes the report.
///
/// # Errors
/// [`JobError::Usage`] for what the user has to mend; nothing is written then.
pub async fn evaluate(
    pipeline: &Pipeline,
    options: &EvaluateOptions,
    cancel: CancellationToken,
) -> Result<EvaluateSummary, JobError> {
    let runs = Run::all(pipeline)?;
    let stop = Stop { cancel, force: options.force };
    if runs.len() > 1 {
        // What is wrong with the last one is said before the first is measured. One at a time: networks are large.
        for run in &runs {
            unless_cancelled(planned(run, options), &stop.cancel).await?;
        }
    }
    let (mut measured, mut notes, mut figures, mut shown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut to = PathBuf::new();
    for run in runs {
        let plan = unless_cancelled(planned(&run, options), &stop.cancel).await?;
        to.clone_from(&plan.to);
        if !run.name.is_empty() {
            tracing::info!("measuring {}", run.name);
        }
        // On a thread of its own: it computes, and waits for what tasks read.
        let stop = stop.clone();
        let measuring = tokio::task::spawn_blocking(move || measure(plan, &stop));
        let found = measuring.await.map_err(JobError::failed)?.map_err(|error| run.named(error))?;
        figures.extend(found.figures.into_iter().map(|figure| Figure { run: run.name.clone(), ..figure }));
        shown.push(Shown { run: run.name.clone(), ..found.pictures });
        notes.push((run.name.clone(), found.notes));
        measured.push((run, found.subject));
    }
    let (subject, runs) = runs::subjects(measured);
    let report = Report { format: FORMAT, subject, notes: runs::notes(&notes), runs, figures };
    let files = report::write(&to, &report, &shown)?;
    Ok(EvaluateSummary { report, files })
}

/// The text of `--dry-run`.
///
/// # Errors
/// [`JobError::Usage`] for what the user has to mend.
pub async fn describe(pipeline: &Pipeline, options: &EvaluateOptions) -> Result<String, JobError> {
    let mut text = String::new();
    for run in Run::all(pipeline)? {
        if !run.name.is_empty() {
            text += &format!("run        {}\n", run.name);
        }
        text += &planned(&run, options).await?.describe();
    }
    Ok(text)
}

async fn planned(run: &Run, options: &EvaluateOptions) -> Result<EvaluatePlan, JobError> {
    EvaluatePlan::make(&run.pipeline, options).await.map_err(|error| run.named(error))
}

fn measure(plan: EvaluatePlan, stop: &Stop) -> Result<Findings, JobError> {
    set_threads(plan.threads);
    // Else a module's first calls give the same image other bits than the later ones.
    Module::on_thread().map_err(JobError::failed)?;
    let limit = plan.limit;
    let mut found = Findings { subject: plan.subject, ..Findings::default() };
    if let Some((reconstruction, group)) = plan.reconstruction {
        let (figures, pairs) = reconstruction.run(plan.network.as_ref(), (group, limit), stop)?;
        found.figures.extend(figures);
        found.pictures.extremes = Some(pairs);
    }
    if let (Some((generation, group)), Some(network), Some(source)) = (plan.generation, &plan.network, &plan.generated)
    {
        let generated = generation.run((network, source), (group, limit), stop)?;
        found.figures.extend(generated.figures);
        found.notes.extend(generated.notes);
        found.pictures.neighbours = generated.neighbours;
    }
    if let (Some((texts, group)), Some(source)) = (plan.text, &plan.generated) {
        let (figures, notes) = texts.run(source, (group, limit), stop)?;
        found.figures.extend(figures);
        found.notes.extend(notes);
    }
    if let Some((scoring, group)) = plan.likelihood {
        found.figures.extend(scoring.run((group, limit), stop)?);
    }
    Ok(found)
}
