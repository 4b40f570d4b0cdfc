//! What an `encode` will do, found out before any work: units, tokenizer, settings, identity.

use super::EncodeOptions;
use super::retry::Attempts;
use crate::config::{ByteSize, DType, Pipeline};
use crate::datasets::{self, DatasetOptions, NotDownloaded, Reader, Unit};
use crate::digest::hex;
use crate::imaging::{CropMode, Flip, Limits, Preprocess, Resize, Trim};
use crate::jobs::work::{self, Pending, Work, bytes_of};
use crate::jobs::{JobError, open_output};
use crate::tables::{FORMAT_VERSION, Identity, Preprocessing, Provenance, Run, Selection};
use crate::torch::device::DeviceInUse;
use crate::vqgan::{Tokenizer, TokenizerOptions, VqganConfig};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

/// Images per forward pass when nobody says: activations of a full-size VQGAN at 256² take about 0.25 GB an image.
const BATCH_ON_CPU: u32 = 4;
const BATCH_ON_CUDA: u32 = 64;

/// Everything `encode` needs, checked.
pub struct EncodePlan {
    pub reader: Arc<dyn Reader>,
    pub preprocess: Preprocess,
    pub tokenizer: Tokenizer,
    /// All units of the dataset, in its order, and where they go.
    pub work: Work<Identity>,
    /// Shards that are no units because they are not finished.
    pub unfinished: Vec<String>,
    /// Counts the rows without an image, while the work is done.
    pub not_downloaded: NotDownloaded,
    pub settings: Settings,
    pub device: DeviceInUse,
    /// When planning began: the time of a run counts from here.
    pub started: Instant,
}

/// Settings with every `auto` decided.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Settings {
    pub batch_size: u32,
    /// Threads of one tensor operation.
    pub threads: NonZeroUsize,
    pub decode_workers: usize,
}

impl EncodePlan {
    /// Opens dataset, weights and device, and decides what was left open. Settings on `auto` take what the output records.
    pub async fn make(pipeline: &Pipeline, options: &EncodeOptions) -> Result<EncodePlan, JobError> {
        let started = Instant::now();
        let recorded = work::recorded::<Identity>(&pipeline.output.url, options.overwrite).await?;
        let preprocess = preprocess_of(pipeline)?;
        let device = work::device_for(options.device, recorded.as_ref().map(|identity| identity.device.as_str()))?;
        let recorded_dtype = recorded.as_ref().and_then(|identity| work::dtype_named(&identity.dtype));
        let dtype = pipeline.tokenizer.dtype.resolve(recorded_dtype, || DType::Fp32);
        let tokenizer = tokenizer_of(pipeline, &device, dtype)?;
        let side = preprocess.size;
        let grid =
            tokenizer.grid(side, side).map_err(|error| JobError::Usage(format!("image.size = {side}: {error}")))?;

        let reader = reader_of(pipeline).await?;
        let units: Vec<Arc<Unit>> = reader.units().await.map_err(usage)?.into_iter().map(Arc::new).collect();
        let unfinished = reader.unfinished().await.map_err(usage)?;

        let batch = if device.class == "cpu" { BATCH_ON_CPU } else { BATCH_ON_CUDA };
        let threads = pipeline.run.threads.resolve(recorded.as_ref().map(|id| id.threads), work::processors);
        let batch_size = pipeline.tokenizer.batch_size.resolve(recorded.as_ref().map(|id| id.batch_size), || batch);
        let decode_workers = pipeline.run.decode_workers.resolve(None, work::processors) as usize;
        let threads = NonZeroUsize::new(threads as usize);
        let Some(threads) = threads.filter(|_| batch_size > 0 && decode_workers > 0) else {
            let message = "tokenizer.batch_size, run.threads and run.decode_workers must be 1 or more";
            return Err(JobError::Usage(message.to_owned()));
        };
        let settings = Settings { batch_size, threads, decode_workers };
        let identity = Identity {
            format_version: FORMAT_VERSION,
            tokenizer: tokenizer.fingerprint().to_owned(),
            preprocessing: preprocessing(pipeline),
            dataset: selection(pipeline).await?,
            seed: pipeline.run.seed,
            batch_size: settings.batch_size,
            dtype: work::dtype_name(dtype).to_owned(),
            device: device.class.clone(),
            threads: threads.get() as u32,
        };
        let provenance = Arc::new(Provenance {
            identity,
            grid,
            codebook_size: tokenizer.codebook_size(),
            rows_per_image: preprocess.rows_per_image(),
        });
        Ok(EncodePlan {
            reader,
            preprocess,
            tokenizer,
            work: Work { units, provenance, url: pipeline.output.url.clone(), recorded: recorded.is_some() },
            unfinished,
            not_downloaded: NotDownloaded::default(),
            settings,
            device,
            started,
        })
    }

    /// What would be done, for `--dry-run`.
    pub async fn describe(&self, pipeline: &Pipeline, options: &EncodeOptions) -> Result<String, JobError> {
        let pending = self.work.outlook(options.rank, options.overwrite).await?;
        let attempts = match &options.retry_rejects {
            Some(reasons) if self.work.recorded => {
                let output = open_output(&pipeline.output.url, false).await?;
                Some(Attempts::find(&output, &pending, reasons).await?)
            }
            Some(_) => Some(Attempts::default()),
            None => None,
        };
        Ok(Description { plan: self, pipeline, pending: &pending, attempts: attempts.as_ref() }.to_string())
    }
}

fn usage(error: impl std::error::Error) -> JobError {
    JobError::Usage(error.to_string())
}

/// The reader of the pipeline's dataset.
pub async fn reader_of(pipeline: &Pipeline) -> Result<Arc<dyn Reader>, JobError> {
    let section = &pipeline.dataset;
    let options = DatasetOptions {
        list: section.list.clone(),
        mapping: section.mapping.clone(),
        split: section.split.as_deref().map(str::parse).transpose().map_err(usage)?,
        index: index_of(pipeline),
        labels: section.labels.parse().map_err(usage)?,
        captions: section.captions.parse().map_err(usage)?,
        classes: section.classes,
        // The exact size of the bars follows from it.
        original_sizes: pipeline.image.trim != "none",
        max_bytes: pipeline.image.max_bytes.0,
        unit_rows: section.unit_rows,
        ..DatasetOptions::default()
    };
    datasets::open(section.format.parse().map_err(usage)?, &section.url, options).await.map_err(usage)
}

/// Where readers may keep what they found out: beside the tables.
fn index_of(pipeline: &Pipeline) -> Option<String> {
    let url = &pipeline.output.url;
    (!url.is_empty()).then(|| format!("{}/index", url.trim_end_matches('/')))
}

/// The preprocessing of the pipeline's `[image]`.
pub fn preprocess_of(pipeline: &Pipeline) -> Result<Preprocess, JobError> {
    let image = &pipeline.image;
    let unknown = |key: &str, value: &str| JobError::Usage(format!("image.{key} = \"{value}\" is not known"));
    Ok(Preprocess {
        size: image.size,
        resize: match image.resize.as_str() {
            "pillow-bicubic" => Resize::PillowBicubic,
            "pillow-lanczos" => Resize::PillowLanczos,
            "pillow-bilinear" => Resize::PillowBilinear,
            "pillow-box" => Resize::PillowBox,
            "cv2-linear" => Resize::Cv2Linear,
            other => return Err(unknown("resize", other)),
        },
        crop: match image.crop.as_str() {
            "center" => CropMode::Center,
            "random" => CropMode::Random,
            other => return Err(unknown("crop", other)),
        },
        crops: image.crops,
        flip: match image.flip.as_str() {
            "none" => Flip::None,
            "both" => Flip::Both,
            other => return Err(unknown("flip", other)),
        },
        trim: match image.trim.as_str() {
            "none" => Trim::None,
            "white-border" => Trim::WhiteBorder,
            other => return Err(unknown("trim", other)),
        },
        limits: Limits { max_pixels: image.max_pixels, max_bytes: image.max_bytes.0, min_side: image.min_side },
    })
}

/// The pipeline's tokenizer on a device.
pub fn tokenizer_of(pipeline: &Pipeline, device: &DeviceInUse, dtype: DType) -> Result<Tokenizer, JobError> {
    let options = TokenizerOptions { device: device.device, dtype, ..TokenizerOptions::default() };
    Tokenizer::load(&pipeline.tokenizer.weights, config_of(pipeline)?, options)
        .map_err(|error| JobError::Usage(error.to_string()))
}

/// The shape of the tokenizer's network, where the pipeline gives it.
pub fn config_of(pipeline: &Pipeline) -> Result<Option<VqganConfig>, JobError> {
    let section = &pipeline.tokenizer;
    let Some(ddconfig) = &section.ddconfig else { return Ok(None) };
    let value = serde_json::json!({
        "ddconfig": ddconfig, "embed_dim": section.embed_dim, "n_embed": section.n_embed,
    });
    let config = serde_json::from_value(value)
        .map_err(|error| JobError::Usage(format!("tokenizer.ddconfig, embed_dim, n_embed: {error}")))?;
    Ok(Some(config))
}

pub fn preprocessing(pipeline: &Pipeline) -> Preprocessing {
    let image = &pipeline.image;
    Preprocessing {
        size: image.size,
        resize: image.resize.clone(),
        crop: image.crop.clone(),
        crops: image.crops,
        flip: image.flip.clone(),
        max_pixels: image.max_pixels,
        max_bytes: image.max_bytes.0,
        min_side: image.min_side,
        trim: Some(image.trim.clone()).filter(|trim| trim != "none"),
    }
}

/// What chooses and names samples. The dataset's URL is not part of it: the same dataset may lie on many stores.
async fn selection(pipeline: &Pipeline) -> Result<Selection, JobError> {
    let section = &pipeline.dataset;
    let mut settings = BTreeMap::from([
        ("labels".to_owned(), section.labels.clone()),
        ("captions".to_owned(), section.captions.clone()),
    ]);
    if let Some(classes) = section.classes {
        settings.insert("classes".to_owned(), classes.to_string());
    }
    if ["folder", "imagenet-folder", "lsun-lmdb"].contains(&section.format.as_str()) {
        settings.insert("unit_rows".to_owned(), section.unit_rows.to_string());
    }
    if let Some(list) = &section.list {
        // A list counts by what is in it, not by its name.
        let text = datasets::read_list(list).await.map_err(usage)?;
        settings.insert("list".to_owned(), hex(&Sha256::digest(text.as_bytes())));
    }
    if let Some(mapping) = &section.mapping {
        // Likewise: the devkit and a list of wnids that say the same are the same.
        settings.insert("mapping".to_owned(), datasets::Mapping::read(mapping).await.map_err(usage)?.digest());
    }
    if let Some(split) = &section.split {
        settings.insert("split".to_owned(), split.clone());
    }
    Ok(Selection { format: section.format.clone(), settings })
}

/// The text of `--dry-run`.
struct Description<'a> {
    plan: &'a EncodePlan,
    pipeline: &'a Pipeline,
    pending: &'a Pending,
    attempts: Option<&'a Attempts>,
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { plan, pipeline, pending, attempts } = self;
        let provenance = &plan.work.provenance;
        let config = plan.tokenizer.config();
        let parameters: i64 = config.tensors().iter().map(|tensor| tensor.numel()).sum();
        let (height, width) = provenance.grid;
        let bytes = bytes_of(&pending.units);
        let size = plan.preprocess.size;
        writeln!(f, "device     {}", plan.device.line)?;
        writeln!(
            f,
            "dataset    {} units of {} at {}",
            plan.work.units.len(),
            pipeline.dataset.format,
            pipeline.dataset.url
        )?;
        if let Some(first) = plan.unfinished.first() {
            writeln!(f, "           {} unfinished shards are passed over, {first} first", plan.unfinished.len())?;
        }
        writeln!(
            f,
            "           {} for this process, {} to do, {}",
            pending.own(),
            pending.units.len(),
            ByteSize(bytes)
        )?;
        writeln!(
            f,
            "image      {size} × {size} by {}, {} row(s) an image",
            pipeline.image.resize, provenance.rows_per_image
        )?;
        writeln!(f, "tokens     {height} × {width} of {}", provenance.codebook_size)?;
        writeln!(
            f,
            "tokenizer  {parameters} parameters, {}, batches of {}",
            provenance.identity.dtype, plan.settings.batch_size
        )?;
        writeln!(
            f,
            "memory     {} for samples in flight, {} for weights, and the activations of one batch",
            pipeline.run.memory_budget,
            ByteSize(parameters as u64 * 4)
        )?;
        writeln!(f, "threads    {} for tensors, {} for decoding", plan.settings.threads, plan.settings.decode_workers)?;
        writeln!(f, "identity   {}", provenance.identity.sha256())?;
        writeln!(f, "output     {}", pipeline.output.url)?;
        if let Some(attempts) = attempts {
            return writeln!(f, "retry      {attempts}");
        }
        pending.list(f)
    }
}
