//! `imagebart sample`: images from a chain, to the `samples` table.

mod plan;
mod prompts;

pub use plan::SamplePlan;
pub(super) use plan::condition;

use super::model::{Drawn, Painter, Settings, stopped, to_row};
use super::running::{Running, unless_cancelled};
use super::sink::{Committed, Writer};
use super::{JobError, facts};
use crate::chain;
use crate::config::Pipeline;
use crate::datasets::Unit;
use crate::flow::{BoxError, Emitter, Flow, Report};
use crate::launch::Rank;
use crate::progress::Display;
use crate::random::RowKey;
use crate::reject::Reject;
use crate::tables::{OutputDir, SamplesIdentity, row_key};
use crate::torch;
use crate::torch::device::DeviceChoice;
use plan::{Subject, Subjects};
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
    let (settings, scales, seed) = (model.settings, model.scales.clone(), pipeline.run.seed);
    let chain_options = chain::SampleOptions { compat: model.compat, ..chain::SampleOptions::default() };
    let subjects = plan.subjects.clone();
    // The pixels of a row, and its file.
    let cost = plan.pixels.saturating_mul(2);
    let recorded = Arc::new(model.row_settings());
    let result = Flow::source(&running.engine, "rows", move |_: &Wanted| cost, move |out| emit(units, subjects, out))
        .batch(settings.batch_size as usize)
        .device(
            "draw",
            move || {
                torch::device::set_threads(settings.threads);
                Ok(painter)
            },
            move |painter, batch| draw(painter, &scales, seed, chain_options, batch),
        )
        .map("png", settings.image_workers, move |drawn| to_row(drawn, &recorded, seed))
        .sink("write", &mut writer)
        .await;
    running.end(result, &writer)
}

/// A row to draw.
struct Wanted {
    number: u64,
    unit: Arc<Unit>,
    subject: Subject,
}

/// The random numbers of row `number` of a sampling run: they do not depend on how the rows are cut into units.
fn row_of(seed: u64, number: u64) -> RowKey {
    RowKey::new(seed, "rows", number, 0)
}

/// The rows of the units, one after the other.
async fn emit(
    units: Vec<Arc<Unit>>,
    subjects: Subjects,
    mut out: Emitter<Unit, Wanted, Reject>,
) -> Result<(), BoxError> {
    for unit in units {
        out.begin(unit.clone()).await?;
        for number in unit.range.clone().unwrap_or_default() {
            out.row(Wanted { number, unit: unit.clone(), subject: subjects.of(number) }).await?;
        }
        out.end().await?;
    }
    Ok(())
}

/// The unit of a batch, which never spans two.
fn unit_of(batch: &[Wanted]) -> &str {
    batch.first().map_or("", |row| row.unit.name.as_str())
}

/// A batch of rows to images.
fn draw(
    painter: &mut Painter,
    scales: &Arc<[chain::ScaleSettings]>,
    seed: u64,
    options: chain::SampleOptions<'static>,
    batch: Vec<Wanted>,
) -> Result<Vec<Drawn>, BoxError> {
    let condition = painter.chain.config().condition;
    let rows: Vec<chain::Row> = batch
        .iter()
        .map(|row| chain::Row {
            key: row_of(seed, row.number),
            condition: row.subject.condition(&condition),
            settings: scales.clone(),
        })
        .collect();
    let grids = painter.chain.sample_as(&rows, options).map_err(|error| {
        let names: Vec<String> = batch.iter().map(|row| row_key(row.number)).collect();
        stopped(error, unit_of(&batch), &names.iter().map(String::as_str).collect::<Vec<_>>())
    })?;
    let images = painter.decode(&grids)?;
    let drawn = batch.into_iter().zip(grids).zip(images).map(|((row, tokens), image)| Drawn {
        number: row.number,
        unit: row.unit.name.clone(),
        label: row.subject.label(),
        prompt: row.subject.prompt(),
        parent: None,
        tokens,
        image,
    });
    Ok(drawn.collect())
}
