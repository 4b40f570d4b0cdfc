//! `imagebart edit`: parts of images drawn anew, to the `samples` table.

mod canvas;
mod mask;
mod plan;
mod prepare;
mod read;
mod stages;

pub use plan::EditPlan;

use super::JobError;
use super::facts::Recorder;
use super::model::{Developer, Painter};
use super::running::{Running, unless_cancelled};
use super::sample::{Choice, Finishing, Module, SampleOptions, SampleSummary, Scorer, finish, on_threads};
use super::sink::{Committed, Writer};
use crate::config::Pipeline;
use crate::datasets::Unit;
use crate::flow::{Flow, Report};
use crate::progress::Display;
use crate::tables::SamplesIdentity;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Edits the images of `pipeline`'s `[edit]`: every unit of this rank that is not done yet. `cancel` abandons the units in hand.
///
/// # Errors
/// See [`JobError`]. Units that were committed stay whatever happens.
pub async fn edit(
    pipeline: &Pipeline,
    options: &SampleOptions,
    display: &Display,
    cancel: CancellationToken,
) -> Result<SampleSummary, JobError> {
    let started = Instant::now();
    let plan = unless_cancelled(EditPlan::make(pipeline, options), &cancel).await?;
    tracing::info!("{}", plan.model.device.line);
    let (painter, work) = plan.load(pipeline)?;
    let networks = Networks { painter, encoder: plan.model.load_developer()?, module: plan.load_scorer()? };
    let output = work.open(options.rank, options.overwrite).await?;
    let pending = work.pending(&output, options.rank).await?;
    tracing::info!("{}", pending.line());

    let line = &plan.model.device.line;
    let recorder = Recorder::new("edit", pipeline, (&work, &pending), options.rank, line, plan.model.settings);
    let dropped = Arc::new(AtomicU64::new(0));
    let (committed, report) = if pending.units.is_empty() {
        (Committed::default(), None)
    } else {
        let writer = Writer::new(output.clone(), work.provenance.clone());
        let units = pending.units.clone();
        let (committed, report) = run(&plan, networks, (writer, &dropped), units, pipeline, (display, cancel)).await?;
        (committed, Some(report))
    };
    let recorder = Recorder { prompts_cut: plan.survey.cut, dropped: dropped.load(Relaxed), ..recorder };
    finish(recorder, &pending, &output, committed, report.as_ref(), (started, options.rank, pipeline)).await
}

/// All networks of a run.
struct Networks {
    painter: Painter,
    /// A tokenizer of its own, so that images are encoded beside the drawing and the decoding.
    encoder: Developer,
    module: Option<Module>,
}

/// The data's way, from top to bottom.
async fn run(
    plan: &EditPlan,
    Networks { painter, encoder, module }: Networks,
    (mut writer, dropped): (Writer<SamplesIdentity>, &Arc<AtomicU64>),
    units: Vec<Arc<Unit>>,
    pipeline: &Pipeline,
    (display, cancel): (&Display, CancellationToken),
) -> Result<(Committed, Report<Unit>), JobError> {
    let running = Running::start(pipeline, &units, (display, cancel));

    let (settings, format) = (plan.model.settings, plan.model.image);
    let (batch, workers) = (settings.batch_size as usize, settings.image_workers);
    let (how, canvas, options) = (plan.preparation, plan.preparation.canvas, plan.options.clone());
    let input = (plan.pairs.clone(), plan.interpreter.clone());
    let (chain, developer) = painter.apart();
    let likelihood = matches!(plan.scorer, Some(Scorer::Likelihood));
    let choice = plan.scorer.clone().map(|scorer| Choice::new(scorer, &pipeline.choose, dropped));
    let flow =
        Flow::source(&running.engine, "read", move |edit| how.cost(edit), move |out| read::read(input, units, out))
            .map("prepare", workers, move |edit| how.prepare(edit))
            .batch(batch)
            .device(
                "encode",
                move || on_threads(settings.threads, encoder),
                move |encoder, batch| stages::encode(encoder, how.preprocess.size, batch),
            )
            // The same batches again: while one is drawn, the next is encoded.
            .batch(batch)
            .device(
                "draw",
                move || on_threads(settings.threads, chain),
                move |chain, batch| stages::draw(chain, &canvas, (&options, likelihood), batch),
            );
    let finishing = Finishing { developer: developer.with_grid(canvas.size()), module, choice, settings, format };
    let result = finishing.write(flow, &mut writer).await;
    running.end(result, &writer)
}
