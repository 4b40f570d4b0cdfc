//! The `imagebart` binary: parse, start logging, run one job, map its end to an exit code.

mod cli;
mod logging;

use clap::Parser;
use cli::{Cli, Command, Common, LogFormat, PipelineArgs};
use imagebart::config::Pipeline;
use imagebart::jobs::demo::{self, DemoOptions, demo};
use imagebart::jobs::encode::{EncodeOptions, EncodePlan, encode};
use imagebart::jobs::gallery::{self, GalleryOptions, gallery};
use imagebart::jobs::import::{self, ImportError, ImportOptions, import};
use imagebart::jobs::verify::verify;
use imagebart::jobs::{JobError, open_output};
use imagebart::launch::Rank;
use imagebart::progress::Display;
use imagebart::torch::device::DeviceChoice;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    imagebart::torch::steady_heap();
    // Where it cannot be done, tokens near a tie may differ from the CPU's; no reason not to run.
    let _ = imagebart::torch::exact_fp32();
    let cli = Cli::parse();
    // Bars would break up lines that a machine reads.
    let display = match cli.common.log_format {
        LogFormat::Text => Display::new(),
        LogFormat::Json => Display::plain(),
    };
    logging::start(cli.common.log_format, &display);
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(JobError::failed)
        .and_then(|runtime| runtime.block_on(run(cli, &display)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(cli: Cli, display: &Display) -> Result<(), JobError> {
    let cancel = on_interrupt()?;
    let common = &cli.common;
    match cli.command {
        Command::Encode { pipeline, overwrite } => {
            let pipeline = load(&pipeline, common)?;
            let options = EncodeOptions { device: device(common)?, rank: rank(common)?, overwrite };
            if common.dry_run {
                let plan = EncodePlan::make(&pipeline, &options).await?;
                print!("{}", plan.describe(&pipeline, &options).await?);
                return Ok(());
            }
            encode(&pipeline, &options, display, cancel).await.map(drop)
        }
        Command::Verify { url } => {
            let output = open_output(&url, false).await?;
            let report = verify(&output).await.map_err(JobError::failed)?;
            println!("{report}");
            if report.is_ok() { Ok(()) } else { Err(JobError::Failed(format!("{url} has problems"))) }
        }
        Command::Gallery { url, to, count, columns, tokenizer } => {
            let options = GalleryOptions { url, to, count, columns, tokenizer, device: device(common)? };
            if common.dry_run {
                println!("{}", gallery::describe(&options).await?);
                return Ok(());
            }
            println!("{}", gallery(&options).await?);
            Ok(())
        }
        Command::Demo { out } => {
            let options = DemoOptions { out, seed: common.seed.unwrap_or(0), device: device(common)? };
            if common.dry_run {
                println!("{}", demo::describe(&options)?);
                return Ok(());
            }
            println!("{}", demo(&options, display, cancel).await?);
            Ok(())
        }
        Command::Import { checkpoints, to, resolution, overwrite } => {
            let options = ImportOptions { checkpoints, to, resolution, overwrite };
            let failed = |error: ImportError| match error.is_usage() {
                true => JobError::Usage(error.to_string()),
                false => JobError::failed(error),
            };
            if common.dry_run {
                import::describe(&options).map_err(failed)?.iter().for_each(|line| println!("{line}"));
                return Ok(());
            }
            // Nothing in it waits for anything but the disk.
            let reports = tokio::task::spawn_blocking(move || import(&options)).await.map_err(JobError::failed)?;
            reports.map_err(failed)?.iter().for_each(|report| println!("{report}"));
            Ok(())
        }
    }
}

/// The pipeline file with `--set` and `--seed` applied.
fn load(arguments: &PipelineArgs, common: &Common) -> Result<Pipeline, JobError> {
    let mut pipeline = Pipeline::load(&arguments.pipeline, &arguments.overrides)?;
    pipeline.run.seed = common.seed.unwrap_or(pipeline.run.seed);
    Ok(pipeline)
}

fn device(common: &Common) -> Result<DeviceChoice, JobError> {
    common.device.parse().map_err(|error| JobError::Usage(format!("--device: {error}")))
}

fn rank(common: &Common) -> Result<Rank, JobError> {
    Rank::find(common.rank, common.world, |name| std::env::var(name).ok()).map_err(JobError::Usage)
}

/// A token that the first Ctrl-C (or SIGTERM, which schedulers send) cancels; the second one ends the process at once.
fn on_interrupt() -> Result<CancellationToken, JobError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).map_err(JobError::failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(JobError::failed)?;
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        tracing::warn!("stopping: the units in hand are put away (once more to stop at once)");
        token.cancel();
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        std::process::exit(130);
    });
    Ok(cancel)
}
