//! `imagebart encode`: dataset shards to latents.

mod plan;
mod stages;

pub(super) use plan::preprocessing;
pub use plan::{EncodePlan, Settings, preprocess_of, reader_of, tokenizer_of};

use super::running::Running;
use super::sink::{Committed, Writer};
use super::{JobError, facts};
use crate::config::Pipeline;
use crate::flow::{Flow, Report};
use crate::launch::Rank;
use crate::progress::Display;
use crate::tables::{Identity, OutputDir};
use crate::torch::device::DeviceChoice;
use crate::{datasets::Unit, torch};
use std::sync::Arc;
use std::time::Instant;
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
    let started = Instant::now();
    let prepared = EncodePlan::make(pipeline, options);
    let plan = tokio::select! {
        plan = prepared => plan?,
        () = cancel.cancelled() => return Err(JobError::Interrupted),
    };
    tracing::info!("{}", plan.device.line);
    let output = plan.work.open(options.rank, options.overwrite).await?;
    plan.reader.keep().await;
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
