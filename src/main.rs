//! The `imagebart` binary: parse, start logging, run one job, map its end to an exit code.

mod cli;
mod logging;

use clap::Parser;
use cli::{Cli, Command, Common, ImportArgs, LogFormat, PipelineArgs, WhichTable, WhichVariant, WhichWeights};
use imagebart::chain::SettingsLists;
use imagebart::config::{Needs, Pipeline};
use imagebart::jobs::demo::artist::Completing;
use imagebart::jobs::demo::data::{self, DataOptions};
use imagebart::jobs::demo::evaluate::{EvaluateOptions as DemoEvaluation, evaluate};
use imagebart::jobs::demo::{self, DemoModel, DemoOptions, demo};
use imagebart::jobs::edit::{EditPlan, edit};
use imagebart::jobs::encode::{EncodeOptions, EncodePlan, encode};
use imagebart::jobs::evaluate::EvaluateOptions;
use imagebart::jobs::export::{self, ExportOptions};
use imagebart::jobs::filter::{self, FilterOptions};
use imagebart::jobs::gallery::{self, GalleryOptions, gallery};
use imagebart::jobs::half::{self, HalfOptions};
use imagebart::jobs::import::{self, ChosenWeights, ImportError, ImportOptions, import};
use imagebart::jobs::sample::{AgainOptions, SampleOptions, SamplePlan, draw_again, recorded_run, sample};
use imagebart::jobs::shrink::{self, ShrinkOptions};
use imagebart::jobs::text_tokenizer::{self, TextTokenizerOptions, train_text_tokenizer};
use imagebart::jobs::train::{TrainOptions, TrainPlan, train};
use imagebart::jobs::train_tokenizer::{TokenizerPlan, TrainTokenizerOptions, train_tokenizer};
use imagebart::jobs::verify::verify;
use imagebart::jobs::{self, JobError, open_output, output_error};
use imagebart::launch::Rank;
use imagebart::progress::Display;
use imagebart::reject::Reason;
use imagebart::tables::TableError;
use imagebart::torch::device::DeviceChoice;
use imagebart::transformer::Variant;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    imagebart::torch::steady_heap();
    let cli = Cli::parse();
    // Where it cannot be done, tokens near a tie may differ from the CPU's; no reason not to run.
    let _ = imagebart::torch::tf32(wants_tf32(&cli));
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

/// Whether a training asks for TF32. It has to be said before there are threads; what is wrong with the pipeline is told later.
fn wants_tf32(cli: &Cli) -> bool {
    let asks = |needs, pipeline, wants: fn(&Pipeline) -> bool| {
        load_for(needs, pipeline, [], &cli.common).is_ok_and(|pipeline| wants(&pipeline))
    };
    match &cli.command {
        Command::Train { pipeline, .. } => asks(Needs::Train, pipeline, |pipeline| pipeline.train.tf32),
        Command::TrainTokenizer { pipeline, .. } => {
            asks(Needs::TrainTokenizer, pipeline, |pipeline| pipeline.train_tokenizer.tf32)
        }
        _ => false,
    }
}

async fn run(cli: Cli, display: &Display) -> Result<(), JobError> {
    let cancel = on_interrupt()?;
    let common = &cli.common;
    match cli.command {
        Command::Encode { pipeline, overwrite, retry_rejects } => {
            let pipeline = load(&pipeline, common)?;
            let retry_rejects = retry_rejects.map(|reasons| reasons.iter().map(|reason| reason_of(reason)).collect());
            let options = EncodeOptions {
                device: device(common)?,
                rank: rank(common)?,
                overwrite,
                retry_rejects: retry_rejects.transpose()?,
            };
            if common.dry_run {
                let plan = EncodePlan::make(&pipeline, &options).await?;
                print!("{}", plan.describe(&pipeline, &options).await?);
                return Ok(());
            }
            encode(&pipeline, &options, display, cancel).await.map(drop)
        }
        Command::Shrink { pipeline, overwrite } => {
            let pipeline = load_for(Needs::Shrink, &pipeline, [], common)?;
            if common.dry_run {
                println!("{}", shrink::describe(&pipeline).await?);
                return Ok(());
            }
            println!("{}", shrink::shrink(&pipeline, &ShrinkOptions { overwrite }).await?);
            Ok(())
        }
        Command::Filter { pipeline, overwrite } => {
            let pipeline = load_for(Needs::Filter, &pipeline, [], common)?;
            if common.dry_run {
                println!("{}", filter::describe(&pipeline).await?);
                return Ok(());
            }
            println!("{}", filter::filter(&pipeline, &FilterOptions { overwrite }).await?);
            Ok(())
        }
        Command::Export { url, format, to, per_shard, licence, overwrite } => {
            let options = ExportOptions { url, format, to, per_shard, licence, overwrite };
            match common.dry_run {
                true => println!("{}", export::describe(&options).await?),
                false => println!("{}", export::export(&options).await?),
            }
            Ok(())
        }
        Command::Train { pipeline, scale, overwrite } => {
            let pipeline = load_for(Needs::Train, &pipeline, [], common)?;
            let options = TrainOptions { device: device(common)?, scales: scale, overwrite };
            if common.dry_run {
                print!("{}", TrainPlan::make(&pipeline, &options).await?.describe());
                return Ok(());
            }
            println!("{}", train(&pipeline, &options, cancel).await?);
            Ok(())
        }
        Command::TrainTokenizer { pipeline, overwrite } => {
            let pipeline = load_for(Needs::TrainTokenizer, &pipeline, [], common)?;
            let options = TrainTokenizerOptions { device: device(common)?, overwrite };
            if common.dry_run {
                print!("{}", TokenizerPlan::make(&pipeline, &options).await?.describe().await?);
                return Ok(());
            }
            println!("{}", train_tokenizer(&pipeline, &options, cancel).await?);
            Ok(())
        }
        Command::Sample { pipeline, count, prompts, overwrite, key, to, force } => {
            let count = count.map(|count| format!("sample.count={count}"));
            let given = [count, prompts.map(|prompts| format!("sample.prompts={}", quoted(prompts)))];
            let pipeline = match key.as_ref().and_then(|_| output_of(&pipeline)) {
                Some(_) if !pipeline.overrides.is_empty() || given != [None, None] || common.seed.is_some() => {
                    let text =
                        "a run's own record tells what was drawn: leave out --set, --count, --prompts and --seed";
                    return Err(JobError::Usage(format!("{}: {text}", pipeline.pipeline.display())));
                }
                Some(url) => recorded_run(url).await?,
                None => load_for(Needs::Sample, &pipeline, given, common)?,
            };
            let options = SampleOptions { device: device(common)?, rank: rank(common)?, overwrite };
            if common.dry_run {
                print!("{}", SamplePlan::describe(&pipeline, &options).await?);
                return Ok(());
            }
            if let Some(key) = key {
                println!("{}", draw_again(&pipeline, &options, &AgainOptions { key, to, force }, cancel).await?);
                return Ok(());
            }
            sample(&pipeline, &options, display, cancel).await.map(drop)
        }
        Command::Edit { pipeline, images, masks, count, overwrite } => {
            let text = |key: &str, value: Option<String>| value.map(|value| format!("edit.{key}={}", quoted(value)));
            let count = count.map(|count| format!("edit.count={count}"));
            let given = [text("images", images), text("masks", masks), count];
            let pipeline = load_for(Needs::Edit, &pipeline, given, common)?;
            let options = SampleOptions { device: device(common)?, rank: rank(common)?, overwrite };
            if common.dry_run {
                print!("{}", EditPlan::describe(&pipeline, &options).await?);
                return Ok(());
            }
            edit(&pipeline, &options, display, cancel).await.map(drop)
        }
        Command::Evaluate { pipeline, overrides, force, compare } => {
            if let [first, second] = compare.as_slice() {
                println!("{}", jobs::evaluate::compare(first, second)?);
                return Ok(());
            }
            // One of the two is given: the command line sees to that.
            let pipeline = PipelineArgs { pipeline: pipeline.unwrap_or_default(), overrides };
            let pipeline = load_for(Needs::Evaluate, &pipeline, [], common)?;
            let options = EvaluateOptions { device: device(common)?, force };
            if common.dry_run {
                print!("{}", jobs::evaluate::describe(&pipeline, &options).await?);
                return Ok(());
            }
            println!("{}", jobs::evaluate::evaluate(&pipeline, &options, cancel).await?);
            Ok(())
        }
        Command::Verify { url } => {
            let output = open_output(&url, false).await?;
            let report = verify(&output).await.map_err(|error| match error {
                TableError::Store { .. } => output_error(&url, error),
                error => JobError::failed(error),
            })?;
            println!("{report}");
            if report.is_ok() { Ok(()) } else { Err(JobError::Failed(format!("{url} has problems"))) }
        }
        Command::Gallery { url, to, count, columns, tokenizer, table, steps } => {
            let table = table.map(|table| match table {
                WhichTable::Latents => gallery::Table::Latents,
                WhichTable::Samples => gallery::Table::Samples,
            });
            let options = GalleryOptions { url, to, count, columns, tokenizer, device: device(common)?, table, steps };
            if common.dry_run {
                println!("{}", gallery::describe(&options).await?);
                return Ok(());
            }
            println!("{}", gallery(&options).await?);
            Ok(())
        }
        Command::Demo { out, model } => {
            let (seed, model) = (common.seed.unwrap_or(0), DemoModel::choose(model));
            let options = DemoOptions { out, seed, device: device(common)?, model };
            if common.dry_run {
                println!("{}", demo::describe(&options)?);
                return Ok(());
            }
            println!("{}", demo(&options, display, cancel).await?);
            Ok(())
        }
        Command::DemoData { out, training, validation, test, per_shard, captions } => {
            let pictures = [training, validation, test];
            let options = DataOptions { out, seed: common.seed.unwrap_or(0), pictures, per_shard, captions };
            if common.dry_run {
                println!("{}", options.describe());
                return Ok(());
            }
            let drawn = tokio::task::spawn_blocking(move || data::draw(&options, &cancel)).await;
            println!("{}", drawn.map_err(JobError::failed)??);
            Ok(())
        }
        Command::DemoEval { model, to, count, temperature, top_k, top_p, guidance, repeats, candidates, draws } => {
            let settings = SettingsLists { temperature, top_k, top_p, guidance, greedy: false };
            let seed = common.seed.unwrap_or(0);
            let completing = Completing { repeats, candidates, draws };
            let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
            let options =
                DemoEvaluation { model, to, count, seed, device: device(common)?, settings, completing, threads };
            if common.dry_run {
                println!("draw {count} captions with {} and judge them", options.model.display());
                return Ok(());
            }
            let evaluated = tokio::task::spawn_blocking(move || evaluate(&options)).await;
            println!("{}", evaluated.map_err(JobError::failed)??);
            Ok(())
        }
        Command::Half { model, to, overwrite } => {
            let options = HalfOptions { model, to, overwrite };
            if common.dry_run {
                half::check(&options)?;
                println!("copy {} to {}, weights as 16-bit floats", options.model.display(), options.to.display());
                return Ok(());
            }
            let halved = tokio::task::spawn_blocking(move || half::half(&options)).await;
            println!("{}", halved.map_err(JobError::failed)??);
            Ok(())
        }
        Command::Import(arguments) => {
            let options = import_options(*arguments);
            let failed = |error: ImportError| match error.is_usage() {
                true => JobError::Usage(error.to_string()),
                false => JobError::failed(error),
            };
            if common.dry_run {
                import::describe(&options).map_err(failed)?.iter().for_each(|line| println!("{line}"));
                return Ok(());
            }
            // Nothing in it waits for anything but the disk.
            let imported = tokio::task::spawn_blocking(move || import(&options)).await.map_err(JobError::failed)?;
            println!("{}", imported.map_err(failed)?);
            Ok(())
        }
        Command::TrainTextTokenizer { url, to, vocabulary, overwrite } => {
            let options = TextTokenizerOptions { url, to, vocabulary, overwrite };
            if common.dry_run {
                println!("{}", text_tokenizer::describe(&options).await?);
                return Ok(());
            }
            println!("{}", train_text_tokenizer(&options).await?);
            Ok(())
        }
    }
}

/// The output that is named in place of a pipeline file, if it is one: a folder or a URL.
fn output_of(arguments: &PipelineArgs) -> Option<&str> {
    let text = arguments.pipeline.to_str()?;
    (text.contains("://") || arguments.pipeline.is_dir()).then_some(text)
}

/// As TOML text, so that no path is taken for a number.
fn quoted(value: String) -> String {
    toml::Value::String(value).to_string()
}

/// The reason that the user names.
fn reason_of(code: &str) -> Result<Reason, JobError> {
    let known = Reason::ALL.into_iter().find(|reason| reason.code() == code);
    known.ok_or_else(|| {
        let all = Reason::ALL.map(Reason::code).join(", ");
        JobError::Usage(format!("--retry-rejects {code}: not a reason of rejects, which are {all}"))
    })
}

fn import_options(arguments: ImportArgs) -> ImportOptions {
    let variant = |variant| match variant {
        WhichVariant::Scaled => Variant::Scaled,
        WhichVariant::Residual => Variant::Residual,
        WhichVariant::ResidualScaled => Variant::ResidualScaled,
    };
    ImportOptions {
        checkpoints: arguments.checkpoints,
        to: arguments.to,
        configs: arguments.config,
        weights: match arguments.weights {
            WhichWeights::Ema => ChosenWeights::Ema,
            WhichWeights::Raw => ChosenWeights::Raw,
        },
        tokenizer: arguments.tokenizer,
        tokenizer_only: arguments.tokenizer_only,
        variant: arguments.variant.map(variant),
        heads: arguments.heads,
        classes: arguments.classes,
        resolution: arguments.resolution,
        overwrite: arguments.overwrite,
    }
}

/// The pipeline file with `--set` and `--seed` applied.
fn load(arguments: &PipelineArgs, common: &Common) -> Result<Pipeline, JobError> {
    load_for(Needs::Encode, arguments, [], common)
}

/// The same for a command that `needs` other keys; `given` are those of its own options, which win.
fn load_for<const N: usize>(
    needs: Needs,
    arguments: &PipelineArgs,
    given: [Option<String>; N],
    common: &Common,
) -> Result<Pipeline, JobError> {
    let overrides: Vec<String> = arguments.overrides.iter().cloned().chain(given.into_iter().flatten()).collect();
    let mut pipeline = Pipeline::load_for(needs, &arguments.pipeline, &overrides)?;
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
