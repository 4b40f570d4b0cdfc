//! `imagebart encode`: dataset shards to latents.

mod plan;
mod stages;

pub(super) use plan::preprocessing;
pub use plan::{EncodePlan, Settings, preprocess_of, reader_of, tokenizer_of};

use super::running::Running;
use super::sink::{Committed, Writer};
use super::{JobError, facts, open_output};
use crate::config::Pipeline;
use crate::flow::{Flow, Report};
use crate::launch::Rank;
use crate::progress::Display;
use crate::tables::{Identity, OutputDir};
use crate::torch::device::DeviceChoice;
use crate::{datasets::Unit, torch};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What an `encode` did.
pub type EncodeSummary = facts::Summary<Settings>;

/// What the command line adds to the pipeline file.
#[derive(Clone, Copy, Debug)]
pub struct EncodeOptions {
    pub device: DeviceChoice,
    pub rank: Rank,
    /// Delete what is there and start anew.
    pub overwrite: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        EncodeOptions { device: DeviceChoice::Auto, rank: Rank::ALONE, overwrite: false }
    }
}

/// Encodes the dataset of `pipeline`: every unit of this rank that is not done yet. `cancel` abandons the units in hand.
///
/// # Errors
/// See [`JobError`]. Units that were committed stay whatever happens.
pub async fn encode(
    pipeline: &Pipeline,
    options: &EncodeOptions,
    display: &Display,
    cancel: CancellationToken,
) -> Result<EncodeSummary, JobError> {
    let prepared = EncodePlan::make(pipeline, options);
    let plan = tokio::select! {
        plan = prepared => plan?,
        () = cancel.cancelled() => return Err(JobError::Interrupted),
    };
    let output = open_output(&plan.work.url, true).await?;
    encode_into(plan, output, pipeline, options, display, cancel).await
}

/// The same for a plan and an output at hand: [`EncodePlan::reader`] may have been replaced by one of the caller's own, over a
/// store that no URL names, as long as its units are those of the plan; `output` may lie in such a store.
///
/// # Errors
/// As of [`encode`].
pub async fn encode_into(
    plan: EncodePlan,
    output: OutputDir,
    pipeline: &Pipeline,
    options: &EncodeOptions,
    display: &Display,
    cancel: CancellationToken,
) -> Result<EncodeSummary, JobError> {
    let started = plan.started;
    tracing::info!("{}", plan.device.line);
    let output = plan.work.begin(output, options.rank, options.overwrite).await?;
    let pending = plan.work.pending(&output, options.rank).await?;
    tracing::info!("{}", pending.line());

    let recorder = facts::Recorder::new(
        "encode",
        pipeline,
        (&plan.work, &pending),
        options.rank,
        &plan.device.line,
        plan.settings,
    );
    let (committed, report) = if pending.units.is_empty() {
        (Committed::default(), None)
    } else {
        let (committed, report) = run(plan, &output, pending.units.clone(), pipeline, display, cancel).await?;
        (committed, Some(report))
    };
    let earlier = pending.earlier(&output).await?;
    let summary = recorder.summary(committed, earlier, report.as_ref(), started.elapsed());
    output.put(&facts::file_name::<Identity>(options.rank), summary.to_json()).await.map_err(JobError::failed)?;
    tracing::info!("{summary}");
    summary.verdict(pipeline.run.max_reject_fraction)?;
    Ok(summary)
}

/// The data's way, from top to bottom.
async fn run(
    plan: EncodePlan,
    output: &OutputDir,
    units: Vec<Arc<Unit>>,
    pipeline: &Pipeline,
    display: &Display,
    cancel: CancellationToken,
) -> Result<(Committed, Report<Unit>), JobError> {
    let EncodePlan { reader, preprocess, tokenizer, work, settings, .. } = plan;
    let seed = pipeline.run.seed;
    let running = Running::start(pipeline, &units, (display, cancel));

    let mut writer = Writer::new(output.clone(), work.provenance);
    let side = preprocess.size;
    let result = Flow::source(&running.engine, "read", move |sample| stages::cost(sample, &preprocess), {
        move |out| stages::read(reader, units, out)
    })
    .map("decode", settings.decode_workers, move |sample| stages::decode(sample, &preprocess, seed))
    .batch(settings.batch_size as usize)
    .device(
        "tokenize",
        move || {
            torch::device::set_threads(settings.threads);
            Ok(tokenizer)
        },
        move |tokenizer, batch| stages::tokenize(tokenizer, side, batch),
    )
    .sink("write", &mut writer)
    .await;
    running.end(result, &writer)
}
