//! What an `encode` will do, found out before any work: units, tokenizer, settings, identity.

use super::EncodeOptions;
use crate::config::{ByteSize, DType, Pipeline};
use crate::datasets::{self, DatasetOptions, Reader, Unit};
use crate::digest::hex;
use crate::imaging::{CropMode, Flip, Limits, Preprocess, Resize};
use crate::jobs::{JobError, places, refusal};
use crate::launch::Rank;
use crate::tables::{
    FORMAT_VERSION, Identity, Manifest, ManifestUnit, OutputDir, Preprocessing, Provenance, Selection, SourceFile,
    TableError, UnitSummary, read_latents,
};
use crate::torch::device::{DeviceChoice, DeviceInUse};
use crate::vqgan::{Tokenizer, TokenizerOptions, VqganConfig};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Images per forward pass when nobody says: activations of a full-size VQGAN at 256² take about 0.25 GB an image.
const BATCH_ON_CPU: u32 = 4;
const BATCH_ON_CUDA: u32 = 64;
/// Footers of finished units read at a time.
const FOOTERS_IN_FLIGHT: usize = 16;

/// Everything `encode` needs, checked.
pub struct EncodePlan {
    pub reader: Arc<dyn Reader>,
    /// All units of the dataset, in its order.
    pub units: Vec<Arc<Unit>>,
    pub preprocess: Preprocess,
    pub tokenizer: Tokenizer,
    pub provenance: Arc<Provenance>,
    pub settings: Settings,
    pub device: DeviceInUse,
    output_url: String,
    recorded: bool,
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
        let recorded = recorded(&pipeline.output.url, options.overwrite).await?;
        let preprocess = preprocess_of(pipeline)?;
        // A run that began on the CPU goes on there, also where there is a GPU now.
        let begun_on_cpu = recorded.as_ref().is_some_and(|identity| identity.device == "cpu");
        let choice = match options.device {
            DeviceChoice::Auto if begun_on_cpu => DeviceChoice::Cpu,
            choice => choice,
        };
        let device = choice.resolve().map_err(|error| JobError::Usage(error.to_string()))?;
        let dtype = pipeline.tokenizer.dtype.resolve(recorded_dtype(recorded.as_ref()), || DType::Fp32);
        let tokenizer = tokenizer_of(pipeline, &device, dtype)?;
        let side = preprocess.size;
        let grid =
            tokenizer.grid(side, side).map_err(|error| JobError::Usage(format!("image.size = {side}: {error}")))?;

        let reader = reader_of(pipeline).await?;
        let units: Vec<Arc<Unit>> = reader.units().await.map_err(usage)?.into_iter().map(Arc::new).collect();

        let processors = std::thread::available_parallelism().map_or(1, |count| count.get()) as u32;
        let batch = if device.class == "cpu" { BATCH_ON_CPU } else { BATCH_ON_CUDA };
        let threads = pipeline.run.threads.resolve(recorded.as_ref().map(|id| id.threads), || processors);
        let batch_size = pipeline.tokenizer.batch_size.resolve(recorded.as_ref().map(|id| id.batch_size), || batch);
        let decode_workers = pipeline.run.decode_workers.resolve(None, || processors) as usize;
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
            dtype: dtype_name(dtype).to_owned(),
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
            units,
            preprocess,
            tokenizer,
            provenance,
            settings,
            device,
            output_url: pipeline.output.url.clone(),
            recorded: recorded.is_some(),
        })
    }

    /// The manifest of the output: depends on identity and dataset alone.
    fn manifest(&self) -> Manifest {
        let source = |source: &datasets::Source| SourceFile {
            path: source.path.clone(),
            size: source.size,
            etag: source.etag.clone(),
        };
        let unit = |unit: &Arc<Unit>| ManifestUnit {
            name: unit.name.clone(),
            sources: unit.sources.iter().map(source).collect(),
        };
        Manifest::new(&self.provenance, self.units.iter().map(unit).collect())
    }

    /// Opens the output for writing: refuses one of another identity, or clears it when told to.
    pub async fn open_output(&self, options: &EncodeOptions) -> Result<OutputDir, JobError> {
        let output = places::open_output(&self.output_url, true).await?;
        let own = self.own(options.rank);
        let own: Vec<&str> = own.iter().map(|unit| unit.name.as_str()).collect();
        let manifest = self.manifest();
        if options.overwrite {
            output.overwrite(&manifest, &own, options.rank.rank == 0).await.map_err(refusal)?;
        } else {
            output.begin(&manifest).await.map_err(refusal)?;
            output.sweep(&own).await.map_err(JobError::failed)?;
        }
        Ok(output)
    }

    fn own(&self, rank: Rank) -> Vec<Arc<Unit>> {
        let mine = self.units.iter().enumerate().filter(|(position, _)| rank.owns(*position));
        mine.map(|(_, unit)| unit.clone()).collect()
    }

    /// This rank's units that are not done.
    pub async fn pending(&self, output: &OutputDir, rank: Rank) -> Result<Pending, JobError> {
        let done = output.done().await.map_err(JobError::failed)?;
        let own = self.own(rank);
        let (finished, units) = own.into_iter().partition::<Vec<_>, _>(|unit| done.contains(&unit.name));
        Ok(Pending { units, finished: finished.into_iter().map(|unit| unit.name.clone()).collect() })
    }

    /// What would be done, for `--dry-run`.
    pub async fn describe(&self, pipeline: &Pipeline, options: &EncodeOptions) -> Result<String, JobError> {
        let done = match places::open_output(&self.output_url, false).await {
            Ok(output) if self.recorded && !options.overwrite => output.done().await.map_err(JobError::failed)?,
            _ => BTreeSet::new(),
        };
        let own = self.own(options.rank);
        let pending: Vec<&Arc<Unit>> = own.iter().filter(|unit| !done.contains(&unit.name)).collect();
        Ok(Description { plan: self, pipeline, own: own.len(), pending: &pending }.to_string())
    }
}

/// This rank's share of the work.
pub struct Pending {
    pub units: Vec<Arc<Unit>>,
    /// Names of the units that earlier runs committed.
    pub finished: BTreeSet<String>,
}

impl Pending {
    /// One line for the user.
    pub fn line(&self) -> String {
        let all = self.units.len() + self.finished.len();
        match (self.units.len(), self.finished.len()) {
            (0, _) => format!("nothing to do: all {all} units are done"),
            (_, 0) => format!("{all} units to do"),
            (left, done) => format!("{done} of {all} units are done already, {left} to do"),
        }
    }

    /// What earlier runs committed, read from the files' own words.
    pub async fn earlier(&self, output: &OutputDir) -> Result<UnitSummary, JobError> {
        let read = |unit: String| async move {
            let file = read_latents(output.store().clone(), &output.latents(&unit)?).await?;
            Ok::<_, TableError>(file.info().clone())
        };
        let infos = futures::stream::iter(self.finished.iter().cloned()).map(read).buffer_unordered(FOOTERS_IN_FLIGHT);
        let total = infos.try_fold(UnitSummary::default(), |mut total, info| async move {
            total.rows += info.rows;
            total.samples += info.samples;
            total.rejects += info.rejects;
            Ok(total)
        });
        total.await.map_err(JobError::failed)
    }
}

/// The identity that the output records, if there is an output.
async fn recorded(url: &str, overwrite: bool) -> Result<Option<Identity>, JobError> {
    if overwrite {
        return Ok(None);
    }
    // A local directory that is not there yet is no fault; everything else shows when the output is opened for writing.
    match places::open_output(url, false).await {
        Ok(output) => Ok(output.manifest().await.map_err(refusal)?.map(|manifest| manifest.identity)),
        Err(error) if url.contains("://") && !url.starts_with("file://") => Err(error),
        Err(_) => Ok(None),
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
        labels: section.labels.parse().map_err(usage)?,
        captions: section.captions.parse().map_err(usage)?,
        classes: section.classes,
        max_bytes: pipeline.image.max_bytes.0,
        unit_rows: section.unit_rows,
        ..DatasetOptions::default()
    };
    datasets::open(section.format.parse().map_err(usage)?, &section.url, options).await.map_err(usage)
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
        limits: Limits { max_pixels: image.max_pixels, max_bytes: image.max_bytes.0, min_side: image.min_side },
    })
}

/// The pipeline's tokenizer on a device.
pub fn tokenizer_of(pipeline: &Pipeline, device: &DeviceInUse, dtype: DType) -> Result<Tokenizer, JobError> {
    let section = &pipeline.tokenizer;
    let config = match &section.ddconfig {
        None => None,
        Some(ddconfig) => {
            let value = serde_json::json!({
                "ddconfig": ddconfig, "embed_dim": section.embed_dim, "n_embed": section.n_embed,
            });
            let config: VqganConfig = serde_json::from_value(value)
                .map_err(|error| JobError::Usage(format!("tokenizer.ddconfig, embed_dim, n_embed: {error}")))?;
            Some(config)
        }
    };
    let options = TokenizerOptions { device: device.device, dtype, ..TokenizerOptions::default() };
    Tokenizer::load(&section.weights, config, options).map_err(|error| JobError::Usage(error.to_string()))
}

fn preprocessing(pipeline: &Pipeline) -> Preprocessing {
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
    if section.format == "folder" {
        settings.insert("unit_rows".to_owned(), section.unit_rows.to_string());
    }
    if let Some(list) = &section.list {
        // A list counts by what is in it, not by its name.
        let text = datasets::read_list(list).await.map_err(usage)?;
        settings.insert("list".to_owned(), hex(&Sha256::digest(text.as_bytes())));
    }
    Ok(Selection { format: section.format.clone(), settings })
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::Fp32 => "fp32",
        DType::Bf16 => "bf16",
    }
}

fn recorded_dtype(recorded: Option<&Identity>) -> Option<DType> {
    [DType::Fp32, DType::Bf16].into_iter().find(|dtype| recorded.is_some_and(|id| id.dtype == dtype_name(*dtype)))
}

/// The text of `--dry-run`.
struct Description<'a> {
    plan: &'a EncodePlan,
    pipeline: &'a Pipeline,
    own: usize,
    pending: &'a [&'a Arc<Unit>],
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { plan, pipeline, own, pending } = self;
        let config = plan.tokenizer.config();
        let parameters: i64 = config.tensors().iter().map(|tensor| tensor.numel()).sum();
        let (height, width) = plan.provenance.grid;
        let bytes: u64 = pending.iter().flat_map(|unit| &unit.sources).map(|source| source.size).sum();
        let size = plan.preprocess.size;
        writeln!(f, "device     {}", plan.device.line)?;
        writeln!(
            f,
            "dataset    {} units of {} at {}",
            plan.units.len(),
            pipeline.dataset.format,
            pipeline.dataset.url
        )?;
        writeln!(f, "           {own} for this process, {} to do, {}", pending.len(), ByteSize(bytes))?;
        writeln!(
            f,
            "image      {size} × {size} by {}, {} row(s) an image",
            pipeline.image.resize, plan.provenance.rows_per_image
        )?;
        writeln!(f, "tokens     {height} × {width} of {}", plan.provenance.codebook_size)?;
        writeln!(
            f,
            "tokenizer  {parameters} parameters, {}, batches of {}",
            plan.provenance.identity.dtype, plan.settings.batch_size
        )?;
        writeln!(
            f,
            "memory     {} for samples in flight, {} for weights, and the activations of one batch",
            pipeline.run.memory_budget,
            ByteSize(parameters as u64 * 4)
        )?;
        writeln!(f, "threads    {} for tensors, {} for decoding", plan.settings.threads, plan.settings.decode_workers)?;
        writeln!(f, "identity   {}", plan.provenance.identity.sha256())?;
        writeln!(f, "output     {}", pipeline.output.url)?;
        for unit in pending.iter().take(10) {
            writeln!(f, "           {}", unit.name)?;
        }
        if pending.len() > 10 {
            writeln!(f, "           and {} more", pending.len() - 10)?;
        }
        Ok(())
    }
}
