//! `imagebart sample`: images from a chain, to the `samples` table.

mod draws;
mod plan;
mod requests;
mod subjects;
mod survey;
mod units;

pub use plan::SamplePlan;
pub(super) use subjects::condition;

use super::model::{Developer, Drawn, Painter, Settings, stopped, to_row};
use super::running::{Running, unless_cancelled};
use super::sink::{Committed, Writer};
use super::{JobError, facts};
use crate::chain::{self, Chain};
use crate::config::Pipeline;
use crate::datasets::Unit;
use crate::flow::{BoxError, Flow, Report};
use crate::launch::Rank;
use crate::progress::Display;
use crate::tables::{OutputDir, SamplesIdentity};
use crate::torch;
use crate::torch::device::DeviceChoice;
use draws::Draw;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a `sample` did.
pub type SampleSummary = facts::Summary<Settings>;

/// What the command line adds to the pipeline file.
#[derive(Clone, Copy, Debug)]
pub struct SampleOptions {
    pub device: DeviceChoice,
    pub rank: Rank,
    /// Delete what is there and start anew.
    pub overwrite: bool,
}

impl Default for SampleOptions {
    fn default() -> Self {
        SampleOptions { device: DeviceChoice::Auto, rank: Rank::ALONE, overwrite: false }
    }
}

/// Draws the rows of `pipeline`'s `[sample]`: every unit of this rank that is not done yet. `cancel` abandons the units in hand.
///
/// # Errors
/// See [`JobError`]. Units that were committed stay whatever happens.
pub async fn sample(
    pipeline: &Pipeline,
    options: &SampleOptions,
    display: &Display,
    cancel: CancellationToken,
) -> Result<SampleSummary, JobError> {
    let started = Instant::now();
    let plan = unless_cancelled(SamplePlan::make(pipeline, options), &cancel).await?;
    tracing::info!("{}", plan.model.device.line);
    let (painter, work) = plan.load(pipeline)?;
    let output = work.open(options.rank, options.overwrite).await?;
    let pending = work.pending(&output, options.rank).await?;
    tracing::info!("{}", pending.line());

    let line = &plan.model.device.line;
    let recorder = facts::Recorder::new("sample", pipeline, (&work, &pending), options.rank, line, plan.model.settings);
    let (committed, report) = if pending.units.is_empty() {
        (Committed::default(), None)
    } else {
        let writer = Writer::new(output.clone(), work.provenance.clone());
        let (committed, report) =
            run(&plan, painter, writer, pending.units.clone(), pipeline, (display, cancel)).await?;
        (committed, Some(report))
    };
    let recorder = facts::Recorder { prompts_cut: plan.cut(), ..recorder };
    finish(recorder, &pending, &output, committed, report.as_ref(), (started, options.rank, pipeline)).await
}

/// Writes the facts of a run, and says how it ended.
pub(super) async fn finish(
    recorder: facts::Recorder<Settings>,
    pending: &super::work::Pending,
    output: &OutputDir<SamplesIdentity>,
    committed: Committed,
    report: Option<&Report<Unit>>,
    (started, rank, pipeline): (Instant, Rank, &Pipeline),
) -> Result<SampleSummary, JobError> {
    let earlier = pending.earlier(output).await?;
    let summary = recorder.summary(committed, earlier, report, started.elapsed());
    output.put(&facts::file_name::<SamplesIdentity>(rank), summary.to_json()).await.map_err(JobError::failed)?;
    tracing::info!("{summary}");
    summary.verdict(pipeline.run.max_reject_fraction)?;
    Ok(summary)
}

/// The data's way, from top to bottom.
async fn run(
    plan: &SamplePlan,
    painter: Painter,
    mut writer: Writer<SamplesIdentity>,
    units: Vec<Arc<Unit>>,
    pipeline: &Pipeline,
    (display, cancel): (&Display, CancellationToken),
) -> Result<(Committed, Report<Unit>), JobError> {
    let running = Running::start(pipeline, &units, (display, cancel));

    let model = &plan.model;
    let (settings, format) = (model.settings, model.image);
    let options = chain::SampleOptions { compat: model.compat, ..chain::SampleOptions::default() };
    let draws = plan.draws.clone();
    // The pixels of a row, and its file.
    let cost = plan.pixels.saturating_mul(2);
    let (chain, developer) = painter.apart();
    let batch = settings.batch_size as usize;
    let result = Flow::source(&running.engine, "rows", move |_: &Draw| cost, move |out| draws.emit(units, out))
        .batch(batch)
        .device("draw", move || on_threads(settings.threads, chain), move |chain, batch| draw(chain, options, batch))
        // The same rows again: while they become images, the next ones are drawn.
        .batch(batch)
        .device("decode", move || on_threads(settings.threads, developer), develop)
        .map("image", settings.image_workers, move |drawn| to_row(drawn, format))
        .sink("write", &mut writer)
        .await;
    running.end(result, &writer)
}

/// What owns a device, on its own thread.
fn on_threads<T>(threads: NonZeroUsize, state: T) -> Result<T, BoxError> {
    torch::device::set_threads(threads);
    Ok(state)
}

/// Tokens that were drawn, on their way to an image.
struct Sketch {
    draw: Draw,
    tokens: Vec<u16>,
}

/// A batch of rows to tokens.
fn draw(chain: &mut Chain, options: chain::SampleOptions<'static>, batch: Vec<Draw>) -> Result<Vec<Sketch>, BoxError> {
    let condition = chain.config().condition;
    let row = |draw: &Draw| chain::Row {
        key: draw.random,
        condition: draw.subject.condition(&condition),
        settings: draw.settings.scales.clone(),
    };
    let rows: Vec<chain::Row> = batch.iter().map(row).collect();
    let grids = chain.sample_as(&rows, options).map_err(|error| {
        let unit = batch.first().map_or("", |draw| draw.unit.name.as_str());
        stopped(error, unit, &batch.iter().map(|draw| draw.key.as_str()).collect::<Vec<_>>())
    })?;
    Ok(batch.into_iter().zip(grids).map(|(draw, tokens)| Sketch { draw, tokens }).collect())
}

/// A batch of tokens to images.
fn develop(developer: &mut Developer, batch: Vec<Sketch>) -> Result<Vec<Drawn>, BoxError> {
    let grids: Vec<&[u16]> = batch.iter().map(|sketch| sketch.tokens.as_slice()).collect();
    let images = developer.decode(&grids)?;
    let drawn = batch.into_iter().zip(images).map(|(Sketch { draw, tokens }, image)| Drawn {
        number: draw.number,
        unit: draw.unit.name.clone(),
        label: draw.subject.label(),
        prompt: draw.subject.prompt(),
        parent: None,
        seed: draw.seed,
        settings: draw.settings.recorded,
        key: draw.key,
        tokens,
        image,
    });
    Ok(drawn.collect())
}
