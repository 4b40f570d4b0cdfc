//! `imagebart encode`: dataset shards to latents.

mod facts;
mod plan;
mod stages;

pub use facts::EncodeSummary;
pub use plan::{EncodePlan, preprocess_of, reader_of, tokenizer_of};

use super::JobError;
use crate::config::Pipeline;
use crate::flow::{Engine, EngineConfig, Flow, FlowError, Report};
use crate::launch::Rank;
use crate::progress::{Display, Totals};
use crate::torch::device::DeviceChoice;
use crate::{datasets::Unit, torch};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

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
    let output = plan.open_output(options).await?;
    let pending = plan.pending(&output, options.rank).await?;
    tracing::info!("{}", pending.line());

    let recorder = facts::Recorder::new(pipeline, &plan, options, &pending);
    let (committed, report) = if pending.units.is_empty() {
        (stages::Committed::default(), None)
    } else {
        let (committed, report) = run(plan, &output, pending.units.clone(), pipeline, display, cancel).await?;
        (committed, Some(report))
    };
    let earlier = pending.earlier(&output).await?;
    let summary = recorder.summary(committed, earlier, report.as_ref(), started.elapsed());
    output.put(&facts::file_name(options.rank), summary.to_json()).await.map_err(JobError::failed)?;
    tracing::info!("{summary}");
    summary.verdict(pipeline.run.max_reject_fraction)?;
    Ok(summary)
}

/// The data's way, from top to bottom.
async fn run(
    plan: EncodePlan,
    output: &crate::tables::OutputDir,
    units: Vec<Arc<Unit>>,
    pipeline: &Pipeline,
    display: &Display,
    cancel: CancellationToken,
) -> Result<(stages::Committed, Report<Unit>), JobError> {
    let EncodePlan { reader, preprocess, tokenizer, provenance, settings, .. } = plan;
    let engine = Engine::new(EngineConfig { budget_bytes: pipeline.run.memory_budget.0, ..EngineConfig::default() });
    let seed = pipeline.run.seed;
    let totals = Totals { units: Some(units.len() as u64), bytes: Some(stages::bytes_of(&units)) };
    let shown = display.watch(engine.clone(), totals);
    let stopper = engine.clone();
    let on_cancel = tokio::spawn(async move {
        cancel.cancelled().await;
        stopper.cancel();
    });

    let mut writer = stages::Writer::new(output.clone(), provenance);
    let side = preprocess.size;
    let result = Flow::source(&engine, "read", move |sample| stages::cost(sample, &preprocess), {
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
    drop(shown);
    on_cancel.abort();
    match result {
        Ok(report) => Ok((writer.committed(), report)),
        Err(FlowError::Cancelled) => Err(JobError::Interrupted),
        Err(error) => Err(JobError::failed(error)),
    }
}
