//! What a `train-tokenizer` will do, found out before any work: images, network, losses, and what the run is.

use super::{TrainTokenizerOptions, perceptual, settings};
use crate::config::{ByteSize, Pipeline, TrainTokenizerSection};
use crate::datasets::{Reader, Unit};
use crate::digest::hex;
use crate::jobs::encode::{config_of, preprocess_of, reader_of};
use crate::jobs::work::{bytes_of, processors};
use crate::jobs::{JobError, open_output};
use crate::torch::device::DeviceInUse;
use crate::torch::weights::{TensorSpec, WeightsFile};
use crate::training::images::{ImageOptions, Images};
use crate::training::tokenizer::TrainerConfig;
use crate::training::{CheckpointError, Checkpoints, RunFolder};
use crate::vqgan::VqganConfig;
use crate::vqgan::lpips::Perceptual;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use tch::Tensor;

/// Where checkpoints lie under the run's folder.
const CHECKPOINTS: &str = "checkpoints";

/// Everything `train-tokenizer` needs, checked.
pub struct TokenizerPlan {
    pub(super) section: TrainTokenizerSection,
    pub(super) trainer: TrainerConfig,
    /// Taken out when training begins.
    pub(super) perceptual: Option<Perceptual>,
    pub(super) images: Images,
    pub(super) validation: Option<Images>,
    pub(super) device: DeviceInUse,
    pub(super) threads: NonZeroUsize,
    pub(super) side: u32,
    /// The tokenizer to be written.
    pub(super) weights: PathBuf,
    /// Where the run keeps its files.
    to: String,
    /// What its checkpoints must agree with.
    identity: BTreeMap<String, String>,
    units: Vec<Arc<Unit>>,
}

impl TokenizerPlan {
    /// Opens datasets and device, reads the weights that are given, and decides what was left open.
    ///
    /// # Errors
    /// What the user got wrong.
    pub async fn make(pipeline: &Pipeline, options: &TrainTokenizerOptions) -> Result<TokenizerPlan, JobError> {
        let section = pipeline.train_tokenizer.clone();
        let network = network_of(pipeline)?;
        let device = options.device.resolve().map_err(usage)?;
        let perceptual = section
            .lpips
            .as_ref()
            .map(|path| perceptual::load(("train_tokenizer.lpips", path), pipeline.image.size, device.device));
        let (perceptual, fingerprint) = perceptual.transpose()?.unzip();
        let (reader, units) = split_of(pipeline, "dataset").await?;
        let options_of = image_options(pipeline)?;
        let preprocess = preprocess_of(pipeline)?;
        let images = Images::new(reader, units.clone(), preprocess, options_of).map_err(usage)?;
        let validation = match validation_of(pipeline) {
            Some(held_out) => {
                let (reader, units) = split_of(&held_out, "validation").await?;
                Some(Images::new(reader, units, preprocess, options_of).map_err(usage)?.centred())
            }
            None if section.shrink || section.merge.is_some() => {
                let message = "train_tokenizer.shrink and merge go by the codes that held-out images use: give train_tokenizer.validation";
                return Err(JobError::Usage(message.to_owned()));
            }
            None => None,
        };
        let threads = pipeline.run.threads.resolve(None, processors);
        let threads = NonZeroUsize::new(threads as usize)
            .ok_or_else(|| JobError::Usage("run.threads must be 1 or more".to_owned()))?;
        let trainer = settings::trainer(pipeline, network, &device);
        let identity = settings::identity(pipeline, &trainer.network, fingerprint, &units)?;
        let base = pipeline.output.url.trim_end_matches('/');
        let to = if section.to.is_empty() { format!("{base}/train-tokenizer") } else { section.to.clone() };
        let plan = TokenizerPlan {
            weights: PathBuf::from(&pipeline.tokenizer.weights),
            side: pipeline.image.size,
            section,
            trainer,
            perceptual,
            images,
            validation,
            device,
            threads,
            to,
            identity,
            units,
        };
        plan.check_target(options.overwrite)?;
        Ok(plan)
    }

    /// A tokenizer that this run did not write is not to be replaced unasked.
    fn check_target(&self, overwrite: bool) -> Result<(), JobError> {
        if overwrite || !self.weights.exists() {
            return Ok(());
        }
        let found = WeightsFile::open(&self.weights).map_err(usage)?;
        if found.metadata().get("trained_as") == Some(&self.digest()) {
            return Ok(());
        }
        Err(JobError::Usage(format!(
            "{} is there already, and not of this training: give another tokenizer.weights, or pass --overwrite to replace it",
            self.weights.display()
        )))
    }

    /// The run's identity in one word, as the tokenizer's metadata has it.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (key, value) in &self.identity {
            hash.update(format!("{key}={value}\n").as_bytes());
        }
        hex(&hash.finalize())
    }

    /// Opens the run's checkpoints.
    pub(super) async fn checkpoints(&self, overwrite: bool) -> Result<Checkpoints, JobError> {
        let folder = self.folder().await?.below(CHECKPOINTS);
        if overwrite {
            Checkpoints::clear(&folder).await.map_err(refused)?;
        }
        Checkpoints::open(folder, self.identity.clone(), self.section.keep).await.map_err(refused)
    }

    /// The run's folder.
    pub(super) async fn folder(&self) -> Result<RunFolder, JobError> {
        Ok(RunFolder::of(&open_output(&self.to, true).await?))
    }
}

fn usage(error: impl std::error::Error) -> JobError {
    JobError::Usage(error.to_string())
}

/// Checkpoints of another run are the user's to resolve; a failing store is not.
pub(super) fn refused(error: CheckpointError) -> JobError {
    match error {
        CheckpointError::Other { .. } | CheckpointError::AllBroken { .. } => JobError::Usage(error.to_string()),
        error => JobError::failed(error),
    }
}

/// The network's shape, which the pipeline must give.
fn network_of(pipeline: &Pipeline) -> Result<VqganConfig, JobError> {
    let refuse = |message: &str| Err(JobError::Usage(message.to_owned()));
    let Some(config) = config_of(pipeline)? else {
        return refuse(
            "the shape of the network to train is missing: give [tokenizer.ddconfig], embed_dim and n_embed",
        );
    };
    if config.gumbel {
        return refuse("a Gumbel tokenizer cannot be trained here: leave gumbel out of [tokenizer]");
    }
    if config.dropout != 0.0 {
        return refuse("tokenizer.ddconfig has dropout, which no released VQGAN was trained with: set it to 0");
    }
    if config.n_embed > i64::from(u16::MAX) + 1 {
        return refuse("tokenizer.n_embed must be 65536 or less: tokens have 16 bits");
    }
    let (side, factor) = (i64::from(pipeline.image.size), config.downsampling());
    if side % factor != 0 {
        return Err(JobError::Usage(format!("image.size = {side} does not divide into tokens of {factor} pixels")));
    }
    Ok(config)
}

/// Reader and units of a split.
async fn split_of(pipeline: &Pipeline, what: &str) -> Result<(Arc<dyn Reader>, Vec<Arc<Unit>>), JobError> {
    let reader = reader_of(pipeline).await?;
    let units: Vec<Arc<Unit>> = reader.units().await.map_err(usage)?.into_iter().map(Arc::new).collect();
    if units.is_empty() {
        return Err(JobError::Usage(format!("the {what} at {} has no images", pipeline.dataset.url)));
    }
    Ok((reader, units))
}

/// The pipeline whose dataset is the held-out images.
fn validation_of(pipeline: &Pipeline) -> Option<Pipeline> {
    let section = &pipeline.train_tokenizer;
    if section.validation.is_none() && section.validation_list.is_none() {
        return None;
    }
    let mut held_out = pipeline.clone();
    if let Some(url) = &section.validation {
        (held_out.dataset.url, held_out.dataset.list) = (url.clone(), None);
    }
    if let Some(list) = &section.validation_list {
        held_out.dataset.list = Some(list.clone());
    }
    Some(held_out)
}

fn image_options(pipeline: &Pipeline) -> Result<ImageOptions, JobError> {
    let section = &pipeline.train_tokenizer;
    let workers = pipeline.run.decode_workers.resolve(None, processors) as usize;
    if workers == 0 {
        return Err(JobError::Usage("run.decode_workers must be 1 or more".to_owned()));
    }
    Ok(ImageOptions {
        seed: pipeline.run.seed,
        batch: section.batch_size as usize,
        window: section.window_images,
        workers,
        budget: pipeline.run.memory_budget.0,
    })
}

impl TokenizerPlan {
    /// What would be done, for `--dry-run`.
    ///
    /// # Errors
    /// A folder of checkpoints that cannot be read.
    pub async fn describe(&self) -> Result<String, JobError> {
        let section = &self.section;
        let step = u64::from(section.batch_size) * u64::from(section.accumulate);
        let epochs = match self.images.estimate().await {
            Some(images) => format!(
                "{} of them make an epoch of about {images} images, by the size of the first ones",
                images / step.max(1)
            ),
            None => "the images of an epoch are known when they are read".to_owned(),
        };
        Ok(format!("{self}epochs     {epochs}\n"))
    }
}

impl fmt::Display for TokenizerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = &self.trainer.network;
        let count = |tensors: &[TensorSpec]| tensors.iter().map(|tensor| tensor.numel()).sum::<i64>();
        let parameters = count(&network.tensors());
        let critic = self.trainer.discriminator.map_or(0, |critic| count(&critic.tensors()));
        let grid = i64::from(self.side) / network.downsampling();
        // Weights, gradients, two moments, and averages where they are kept.
        let copies = if self.trainer.ema.is_some() { 5 } else { 4 };
        let state = (parameters * copies + critic * 4) as u64 * 4;
        let section = &self.section;
        writeln!(f, "device     {}", self.device.line)?;
        writeln!(f, "dataset    {} units, {}", self.units.len(), ByteSize(bytes_of(&self.units)))?;
        writeln!(f, "image      {0} × {0} to {grid} × {grid} tokens of {1}", self.side, network.n_embed)?;
        writeln!(f, "network    {parameters} parameters, discriminator {critic}")?;
        writeln!(f, "steps      {} of {} × {} images", section.steps, section.accumulate, section.batch_size)?;
        writeln!(
            f,
            "memory     {} for weights, gradients and optimizer, {} for windows of images, and the activations of one batch",
            ByteSize(state),
            ByteSize(self.images.window_bytes())
        )?;
        writeln!(f, "folder     {}", self.to)?;
        writeln!(f, "tokenizer  {}", self.weights.display())
    }
}

/// Pixels `[n, side, side, 3]` on the device, as the network takes them.
pub(super) fn upload(pixels: &[u8], side: u32, device: tch::Device) -> Result<Tensor, tch::TchError> {
    let side = i64::from(side);
    let bytes = Tensor::f_from_data_size(
        pixels,
        &[pixels.len() as i64 / (side * side * 3).max(1), side, side, 3],
        tch::Kind::Uint8,
    )?;
    crate::vqgan::tokenizer::normalise(&bytes.f_to_device(device)?)
}
