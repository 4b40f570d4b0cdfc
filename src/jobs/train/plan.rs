//! What a `train` will do, found out before any work: the chain, its latents, and which networks are trained.

use super::TrainOptions;
use crate::chain::{ChainConfig, Condition, ModelDirectory, ScaleConfig};
use crate::config::{DType, Pipeline, TrainSection};
use crate::diffusion::Schedule;
use crate::jobs::work::{device_for, dtype_name, processors};
use crate::jobs::{JobError, open_output, refusal};
use crate::tables::{LatentsReader, Provenance};
use crate::text::TextTokenizer;
use crate::torch::device::{DeviceInUse, kind};
use crate::torch::weights::WeightsFile;
use crate::training::{LearningRate, Loader, LoaderError, LoaderOptions, TrainerSettings};
use crate::transformer::{NetworkConfig, Placement};
use crate::vqgan::Tokenizer;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// Everything `train` needs, checked. No weights of a network are made yet.
pub struct TrainPlan {
    pub(super) config: ChainConfig,
    pub(super) schedule: Schedule,
    /// The networks to train, in the order of their scales.
    pub(super) networks: Vec<ScaleConfig>,
    pub(super) loader: Arc<Loader>,
    pub(super) validation: Option<Arc<Loader>>,
    pub(super) section: TrainSection,
    pub(super) seed: u64,
    pub(super) device: DeviceInUse,
    pub(super) dtype: DType,
    pub(super) threads: NonZeroUsize,
    /// The model directory.
    pub(super) model: PathBuf,
    pub(super) tokenizer: PathBuf,
    pub(super) fingerprint: String,
    pub(super) text: Option<PathBuf>,
    text_fingerprint: Option<String>,
    /// Where checkpoints go.
    pub(super) to: String,
}

impl TrainPlan {
    /// Checks a pipeline, and opens its latents: reads the footers of all their files.
    ///
    /// # Errors
    /// [`JobError::Usage`] for what the user has to mend: latents of another tokenizer, an impossible chain, too few rows.
    pub async fn make(pipeline: &Pipeline, options: &TrainOptions) -> Result<TrainPlan, JobError> {
        let usage = |error: &dyn std::error::Error| JobError::Usage(error.to_string());
        let section = pipeline.train.clone();
        let tokenizer = PathBuf::from(&pipeline.tokenizer.weights);
        let mut weights = WeightsFile::open(&tokenizer).map_err(|error| usage(&error))?;
        let shape = Tokenizer::config_of(&weights, None).map_err(|error| usage(&error))?;
        let fingerprint = weights.fingerprint().map_err(|error| usage(&error))?;

        let (condition, text) = condition(pipeline)?;
        let codes = u32::try_from(shape.ids()).ok();
        let config = ChainConfig::from_sections(&pipeline.chain, &condition, codes).map_err(|error| usage(&error))?;
        let schedule = Schedule::new(&config.schedule, config.scales())
            .map_err(|error| JobError::Usage(format!("chain.schedule: {error}")))?;
        let networks = chosen(&config, options)?;
        if section.condition_dropout > 0.0 && !config.condition.has_null() {
            return Err(JobError::Usage(format!(
                "train.condition_dropout = {} needs a condition to leave out: a text, or a class with condition.null = true",
                section.condition_dropout
            )));
        }

        let sources = match section.latents.is_empty() {
            true => vec![pipeline.output.url.clone()],
            false => section.latents.clone(),
        };
        let batch = section.batch_size as usize;
        let loading = LoaderOptions {
            seed: pipeline.run.seed,
            batch,
            window_rows: section.window_rows,
            ..LoaderOptions::default()
        };
        let loader = open(&sources, &fingerprint, loading.clone()).await?;
        fits(&config, loader.provenance(), &sources)?;
        let validation = match &section.validation {
            Some(url) => {
                let once = LoaderOptions { batch: 1, ..loading };
                // Checked with batches of one row: a small split is no error, an empty one is.
                let rows = open(std::slice::from_ref(url), &fingerprint, once.clone()).await?.rows();
                let batch = batch.min(usize::try_from(rows).unwrap_or(usize::MAX));
                let loader = open(std::slice::from_ref(url), &fingerprint, LoaderOptions { batch, ..once }).await?;
                fits(&config, loader.provenance(), std::slice::from_ref(url))?;
                Some(loader)
            }
            None => None,
        };

        let device = device_for(options.device, None)?;
        let dtype = section.dtype.resolve(None, || match device.class == "cpu" {
            true => DType::Fp32,
            false => DType::Bf16,
        });
        let threads = pipeline.run.threads.resolve(None, processors) as usize;
        let threads =
            NonZeroUsize::new(threads).ok_or_else(|| JobError::Usage("run.threads must be 1 or more".to_owned()))?;
        let model = model(pipeline, &config, &fingerprint, options.overwrite)?;
        let to = match section.to.is_empty() {
            true => format!("{}/train", pipeline.output.url.trim_end_matches('/')),
            false => section.to.clone(),
        };
        Ok(TrainPlan {
            config,
            schedule,
            networks,
            loader,
            validation,
            seed: pipeline.run.seed,
            device,
            dtype,
            threads,
            model,
            tokenizer,
            fingerprint,
            text_fingerprint: text.as_ref().map(|text| text.fingerprint().to_owned()),
            text: text.map(|text| text.path().to_owned()),
            to,
            section,
        })
    }

    /// Where the networks compute.
    pub(super) fn placement(&self) -> Placement {
        Placement { device: self.device.device, kind: kind(self.dtype) }
    }

    pub(super) fn settings(&self) -> TrainerSettings {
        let section = &self.section;
        TrainerSettings {
            seed: self.seed,
            rate: LearningRate {
                warm_up_steps: section.warm_up_steps,
                max_decay_steps: section.decay_steps.unwrap_or(section.steps),
                start: section.lr_start,
                max: section.lr,
                min: section.lr_min,
            },
            weight_decay: section.weight_decay,
            clip: section.clip,
            ema: section.ema,
            condition_dropout: section.condition_dropout,
            checkpoint_activations: section.checkpoint_activations,
        }
    }

    /// What a checkpoint of `network` must agree with: all that changes what training makes of it, but how long it goes on. The
    /// device, threads and the loader's windows ahead are not in it.
    pub(super) fn identity(&self, network: &ScaleConfig) -> BTreeMap<String, String> {
        let section = &self.section;
        let settings = self.settings();
        let latents = self.loader.identity();
        let text = |value: Option<&str>| value.unwrap_or("none").to_owned();
        let fields = [
            ("network", format!("{:?}", network.network)),
            ("scales", format!("{:?}", network.scales)),
            ("alpha", network.alpha.to_string()),
            ("schedule", format!("{:?}", self.schedule.cumulatives())),
            ("tokenizer", self.fingerprint.clone()),
            ("text tokenizer", text(self.text_fingerprint.as_deref())),
            ("condition", format!("{:?}", self.config.condition)),
            ("latents", latents),
            ("seed", self.seed.to_string()),
            ("train.batch_size", section.batch_size.to_string()),
            ("train.accumulate", section.accumulate.to_string()),
            ("train.window_rows", section.window_rows.to_string()),
            ("train.lr", settings.rate.max.to_string()),
            ("train.lr_start", settings.rate.start.to_string()),
            ("train.lr_min", settings.rate.min.to_string()),
            ("train.warm_up_steps", settings.rate.warm_up_steps.to_string()),
            ("train.decay_steps", settings.rate.max_decay_steps.to_string()),
            ("train.weight_decay", settings.weight_decay.to_string()),
            ("train.clip", settings.clip.map_or("none".to_owned(), |clip| clip.to_string())),
            ("train.ema", settings.ema.to_string()),
            ("train.condition_dropout", settings.condition_dropout.to_string()),
            ("dtype", dtype_name(self.dtype).to_owned()),
        ];
        fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The text of `--dry-run`.
    pub fn describe(&self) -> String {
        let (loader, section) = (&self.loader, &self.section);
        let per_step = u64::from(section.batch_size) * u64::from(section.accumulate);
        let epochs = (section.steps * u64::from(section.accumulate)) as f64 / loader.steps().max(1) as f64;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<10} {value}");
        };
        line("device", self.device.line.clone());
        line("latents", format!("{} rows, {} tokens each", loader.rows(), self.config.tokens()));
        let held_out = |loader: &Arc<Loader>| format!("{} rows", loader.rows());
        line("validation", self.validation.as_ref().map_or("none".to_owned(), held_out));
        line("steps", format!("{} of {per_step} rows: {epochs:.1} epochs", section.steps));
        for network in &self.networks {
            line("network", describe_network(network, self.dtype, section.checkpoint_activations));
        }
        line("to", format!("{}, checkpoints at {}", self.model.display(), self.to));
        text
    }
}

/// A line about a network: scales, shape, parameters, and the memory that training it takes beside the activations.
fn describe_network(network: &ScaleConfig, dtype: DType, recompute: bool) -> String {
    let shape = match &network.network {
        NetworkConfig::EncoderDecoder(shape) => {
            format!("encoder-decoder, width {}, {} + {} layers", shape.dim, shape.encoder_depth, shape.decoder_depth)
        }
        NetworkConfig::Gpt(shape) => format!("gpt, width {}, {} layers", shape.dim, shape.depth),
    };
    let parameters = network.network.parameters().unsigned_abs();
    // Weights, gradients, averages and two moments, in float32.
    let state = crate::config::ByteSize(parameters.saturating_mul(20));
    let recompute = if recompute { ", activations computed twice" } else { "" };
    format!(
        "scales {:?}: {shape}: {parameters} parameters, {state} of state, {}{recompute}",
        network.scales,
        dtype_name(dtype)
    )
}

/// The condition's section with the vocabulary of its text tokenizer, and the tokenizer.
fn condition(pipeline: &Pipeline) -> Result<(crate::config::ConditionSection, Option<TextTokenizer>), JobError> {
    let mut section = pipeline.condition.clone();
    if section.kind != "text" {
        return Ok((section, None));
    }
    let Some(path) = &section.tokenizer else {
        return Err(JobError::Usage(
            "condition.tokenizer is missing; set it to the text tokenizer's .json file (`imagebart train-text-tokenizer` \
             makes one)"
                .to_owned(),
        ));
    };
    let tokenizer = TextTokenizer::open(path).map_err(|error| JobError::Usage(error.to_string()))?;
    let vocabulary = u32::try_from(tokenizer.vocabulary()).unwrap_or(u32::MAX);
    match section.vocabulary {
        Some(given) if given != vocabulary => Err(JobError::Usage(format!(
            "condition.vocabulary = {given}, but {path} has {vocabulary} ids: leave it out, or give that tokenizer"
        ))),
        _ => {
            section.vocabulary = Some(vocabulary);
            Ok((section, Some(tokenizer)))
        }
    }
}

/// The networks that serve the scales asked for; all, when none is.
fn chosen(config: &ChainConfig, options: &TrainOptions) -> Result<Vec<ScaleConfig>, JobError> {
    if let Some(scale) = options.scales.iter().find(|scale| config.network(**scale).is_none()) {
        return Err(JobError::Usage(format!("--scale {scale}: the chain has the scales 1 to {}", config.scales())));
    }
    let wanted = |network: &&ScaleConfig| {
        options.scales.is_empty() || network.scales.iter().any(|scale| options.scales.contains(scale))
    };
    Ok(config.networks.iter().filter(wanted).cloned().collect())
}

/// Opens latents that must be of the tokenizer with this fingerprint.
async fn open(sources: &[String], fingerprint: &str, options: LoaderOptions) -> Result<Arc<Loader>, JobError> {
    let mut readers = Vec::with_capacity(sources.len());
    for url in sources {
        readers.push(LatentsReader::open(open_output(url, false).await?).await.map_err(refusal)?);
    }
    let loader = Loader::open(readers, fingerprint, options).await.map_err(|error| match error {
        LoaderError::Table(error) => refusal(error),
        error => JobError::Usage(error.to_string()),
    })?;
    Ok(Arc::new(loader))
}

/// Latents must have the chain's grid and codebook.
fn fits(config: &ChainConfig, latents: &Provenance, sources: &[String]) -> Result<(), JobError> {
    let (place, grid, codes) = (sources.join(", "), latents.grid, latents.codebook_size);
    if grid != config.grid {
        return Err(JobError::Usage(format!(
            "chain.grid is {} × {}, the latents at {place} have {} × {} tokens",
            config.grid.0, config.grid.1, grid.0, grid.1
        )));
    }
    if codes != config.codebook_size {
        return Err(JobError::Usage(format!(
            "chain.codebook_size is {}, the latents at {place} have {codes} codes",
            config.codebook_size
        )));
    }
    Ok(())
}

/// The model directory. One that describes another chain is refused.
fn model(pipeline: &Pipeline, config: &ChainConfig, fingerprint: &str, overwrite: bool) -> Result<PathBuf, JobError> {
    let path = &pipeline.chain.model;
    if path.contains("://") {
        return Err(JobError::Usage(format!("chain.model = \"{path}\" is a URL: model directories are local")));
    }
    let path = PathBuf::from(path);
    if overwrite || !path.join("chain.toml").exists() {
        return Ok(path);
    }
    let there = ModelDirectory::describe(&path).map_err(|error| JobError::Usage(error.to_string()))?;
    let other = match (there.config() == config, there.tokenizer_fingerprint() == fingerprint) {
        (true, true) => return Ok(path),
        (false, _) => "describes another chain",
        (true, false) => "was made for another tokenizer",
    };
    Err(JobError::Usage(format!(
        "{} {other}: choose another chain.model, or start anew with --overwrite",
        there.config_file().display()
    )))
}

/// How the chain is conditioned, for a trainer.
pub(super) fn conditioning(plan: &TrainPlan) -> Result<crate::training::Conditioning, JobError> {
    let text = plan.text.as_ref().map(TextTokenizer::open).transpose();
    let text = text.map_err(|error| JobError::Usage(error.to_string()))?;
    crate::training::Conditioning::new(&plan.config.condition, text)
        .ok_or_else(|| JobError::Usage("a chain conditioned on text needs condition.tokenizer".to_owned()))
}

/// Whether a chain has text, for the files of its directory.
pub(super) fn has_text(config: &ChainConfig) -> bool {
    matches!(config.condition, Condition::Text(_))
}
