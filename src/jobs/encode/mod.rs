//! `imagebart encode`: dataset shards to latents.

mod plan;
mod retry;
mod stages;

pub use plan::{EncodePlan, Settings, preprocess_of, reader_of, tokenizer_of};
pub(super) use plan::{config_of, preprocessing};

use self::retry::{Attempts, RetryWriter};
use super::running::{Running, unless_cancelled};
use super::sink::{Committed, Writer};
use super::{JobError, facts, open_output};
use crate::config::Pipeline;
use crate::datasets::Unit;
use crate::flow::{Flow, Report};
use crate::launch::Rank;
use crate::progress::Display;
use crate::reject::Reason;
use crate::tables::{Identity, OutputDir};
use crate::torch;
use crate::torch::device::DeviceChoice;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What an `encode` did.
pub type EncodeSummary = facts::Summary<Settings>;

/// What the command line adds to the pipeline file.
#[derive(Clone, Debug)]
pub struct EncodeOptions {
    pub device: DeviceChoice,
    pub rank: Rank,
    /// Delete what is there and start anew.
    pub overwrite: bool,
    /// Instead of the units that are not done: the rejects of those that are, with one of these reasons, or with any where
    /// none is given.
    pub retry_rejects: Option<Vec<Reason>>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        EncodeOptions { device: DeviceChoice::Auto, rank: Rank::ALONE, overwrite: false, retry_rejects: None }
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
    let plan = unless_cancelled(EncodePlan::make(pipeline, options), &cancel).await?;
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
    plan.reader.keep().await;
    let pending = plan.work.pending(&output, options.rank).await?;
    let attempts = match &options.retry_rejects {
        None => None,
        Some(reasons) => Some(Attempts::find(&output, &pending, reasons).await?),
    };
    match &attempts {
        None => tracing::info!("{}", pending.line()),
        Some(attempts) => tracing::info!("{attempts}"),
    }

    let recorder = facts::Recorder::new(
        if attempts.is_some() { "encode --retry-rejects" } else { "encode" },
        pipeline,
        (&plan.work, &pending),
        options.rank,
        &plan.device.line,
        plan.settings,
    );
    let (not_downloaded, unfinished) = (plan.not_downloaded.clone(), plan.unfinished.clone());
    let units = attempts.as_ref().map_or_else(|| pending.units.clone(), |attempts| attempts.units(&pending));
    let retried = attempts.is_some();
    let (committed, report) = if units.is_empty() {
        (Committed::default(), None)
    } else {
        let (committed, report) = run(plan, &output, (units, attempts), pipeline, display, cancel).await?;
        (committed, Some(report))
    };
    let earlier = match retried {
        false => pending.earlier(&output).await?,
        true => retry::before(&committed, pending.finished_in(&output).await?.earlier(&output).await?),
    };
    let mut summary = recorder.summary(committed, earlier, report.as_ref(), started.elapsed());
    summary.unfinished = unfinished;
    if !retried {
        summary.not_downloaded = not_downloaded.counts();
    }
    output.put(&facts::file_name::<Identity>(options.rank), summary.to_json()).await.map_err(JobError::failed)?;
    tracing::info!("{summary}");
    summary.verdict(pipeline.run.max_reject_fraction)?;
    Ok(summary)
}

/// The data's way, from top to bottom.
async fn run(
    plan: EncodePlan,
    output: &OutputDir,
    (units, attempts): (Vec<Arc<Unit>>, Option<Attempts>),
    pipeline: &Pipeline,
    display: &Display,
    cancel: CancellationToken,
) -> Result<(Committed, Report<Unit>), JobError> {
    let EncodePlan { reader, preprocess, tokenizer, work, settings, not_downloaded, .. } = plan;
    let seed = pipeline.run.seed;
    let running = Running::start(pipeline, &units, (display, cancel));

    let writer = Writer::new(output.clone(), work.provenance);
    let side = preprocess.size;
    let again = attempts.as_ref().map(Attempts::again).unwrap_or_default();
    let flow = Flow::source(&running.engine, "read", move |sample| stages::cost(sample, &preprocess), {
        move |out| stages::read(reader, units, again, not_downloaded, out)
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
    );
    match attempts {
        None => {
            let mut writer = writer;
            let result = flow.sink("write", &mut writer).await;
            running.end(result, &writer)
        }
        Some(attempts) => {
            attempts.sweep(output).await?;
            let mut writer = RetryWriter::new(writer, attempts);
            let result = flow.sink("write", &mut writer).await;
            running.end(result, writer.writer())
        }
    }
}
