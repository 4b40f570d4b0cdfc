//! `imagebart sample`: images from a chain, to the `samples` table.

mod again;
mod ahead;
mod choose;
mod draws;
mod estimate;
mod plan;
mod requests;
mod scales;
pub(super) mod scorer;
mod size;
mod stages;
mod subjects;
mod survey;
mod units;
mod way;

pub use again::{Again, AgainOptions, draw_again, recorded_run};
pub(super) use ahead::Requests;
pub(super) use choose::{Candidate, Choice, Share};
pub(super) use draws::Draw;
pub use plan::SamplePlan;
pub(super) use requests::Interpreter;
pub(super) use scorer::{Module, Scorer};
pub(super) use size::whole_tokens;
pub(super) use stages::{Finishing, Sketch, SketchSource, on_threads};
pub(super) use subjects::Subject;
pub(super) use survey::{Survey, survey};
pub(super) use units::Cutter;
pub(super) use way::{Wanted, ways};

use super::developer::Developer;
use super::model::Settings;
use super::running::{Running, unless_cancelled};
use super::sink::{Committed, Writer};
use super::work::Work;
use super::{JobError, card, facts};
use crate::config::Pipeline;
use crate::datasets::Unit;
use crate::flow::{Flow, Report};
use crate::launch::Rank;
use crate::progress::Display;
use crate::tables::{OutputDir, SamplesIdentity};
use crate::torch::device::DeviceChoice;
use scales::Drawer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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
    let (drawer, developer, work) = plan.load(pipeline)?;
    let module = plan.load_scorer()?;
    let output = open(&work, options).await?;
    let pending = work.pending(&output, options.rank).await?;
    tracing::info!("{}", pending.line());

    let line = &plan.model.device.line;
    let recorder = facts::Recorder::new("sample", pipeline, (&work, &pending), options.rank, line, plan.model.settings);
    let dropped = Arc::new(AtomicU64::new(0));
    let (committed, report) = if pending.units.is_empty() {
        (Committed::default(), None)
    } else {
        let writer = Writer::new(output.clone(), work.provenance.clone());
        let (committed, report) = run(
            &plan,
            (drawer, developer, module),
            (writer, &dropped),
            pending.units.clone(),
            pipeline,
            (display, cancel),
        )
        .await?;
        (committed, Some(report))
    };
    let recorder = facts::Recorder { prompts_cut: plan.cut(), dropped: dropped.load(Relaxed), ..recorder };
    finish(recorder, &pending, &output, committed, report.as_ref(), (started, options.rank, pipeline)).await
}

/// Opens the output of a run for writing.
pub(super) async fn open(
    work: &Work<SamplesIdentity>,
    options: &SampleOptions,
) -> Result<OutputDir<SamplesIdentity>, JobError> {
    let output = work.open(options.rank, options.overwrite).await?;
    if options.overwrite {
        card::clear(&output).await?;
    }
    Ok(output)
}

/// Writes the facts of a run, and the card once all of it is done; says how it ended.
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
    card::write(output, pipeline).await?;
    tracing::info!("{summary}");
    summary.verdict(pipeline.run.max_reject_fraction)?;
    Ok(summary)
}

/// The data's way, from top to bottom.
async fn run(
    plan: &SamplePlan,
    (drawer, developer, module): (Drawer, Developer, Option<Module>),
    (mut writer, dropped): (Writer<SamplesIdentity>, &Arc<AtomicU64>),
    units: Vec<Arc<Unit>>,
    pipeline: &Pipeline,
    (display, cancel): (&Display, CancellationToken),
) -> Result<(Committed, Report<Unit>), JobError> {
    let running = Running::start(pipeline, &units, (display, cancel));

    let model = &plan.model;
    let settings = model.settings;
    let draws = plan.draws.clone();
    // The pixels of a row, and its file.
    let cost = plan.pixels.saturating_mul(2);
    let choice = plan.scorer.clone().map(|scorer| Choice::new(scorer, &pipeline.choose, dropped));
    let flow = Flow::source(&running.engine, "rows", move |_: &Draw| cost, move |out| draws.emit(units, out))
        .batch(settings.batch_size as usize);
    let flow = drawer.stages(flow, plan.how());
    let finishing = Finishing { developer, module, choice, settings, format: model.image };
    let result = finishing.write(flow, &mut writer).await;
    running.end(result, &writer)
}
