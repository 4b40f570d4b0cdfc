//! What `sample` and `edit` share: the chain and how it runs, and the identity of what it draws.

use super::developer::Developer;
use super::outline::describe_chain;
use super::row_settings::{RowDraw, RunSettings};
use super::work::{dtype_name, dtype_named, processors, recorded};
use super::{JobError, work};
use crate::chain::{Chain, ChainConfig, Compat, LargeGrid, ModelDirectory, ModelError, SampleError};
use crate::config::{Auto, ByteSize, DType, Pipeline, SampleSection};
use crate::diffusion::Schedule;
use crate::flow::BoxError;
use crate::imaging::FileFormat;
use crate::tables::{
    ChooseSelection, EditSelection, FORMAT_VERSION, LargeSelection, Provenance, RowSelection, RowSettings,
    SamplesIdentity, TileSelection,
};
use crate::torch::device::{DeviceChoice, DeviceInUse, kind};
use crate::transformer::Placement;
use crate::vqgan::{Tiles, TokenizerOptions};
use serde::Serialize;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;

/// Rows per batch when nobody says. A step of the chain reads all weights whatever the batch, so small batches waste it.
const BATCH_ON_CPU: u32 = 16;
const BATCH_ON_CUDA: u32 = 256;
/// Images the VQGAN decodes at once: the activations of one take about 0.25 GB at 256².
const DECODED_ON_CPU: u32 = 4;
const DECODED_ON_CUDA: u32 = 64;
/// Quality of JPEG files when nobody says.
const JPEG_QUALITY: u8 = 90;

/// A model directory and how a run uses it, every `auto` decided. No weights are loaded yet.
pub struct Model {
    pub directory: ModelDirectory,
    pub device: DeviceInUse,
    pub settings: Settings,
    /// How tokens are drawn, and how they are where no row says otherwise.
    pub run: RunSettings,
    pub usual: RowDraw,
    pub compat: Compat,
    /// What images are written as.
    pub image: FileFormat,
    dtype: DType,
    tokenizer_dtype: DType,
    recorded: bool,
    seed: u64,
    /// Decodings that a row has in memory at once: one, or one of each window across a larger grid.
    decodings: u32,
}

/// What a run draws besides what [`Model`] knows, for its identity.
pub struct Selections {
    /// Rows and columns of its token grids.
    pub grid: (u32, u32),
    pub rows: RowSelection,
    pub choose: Option<ChooseSelection>,
    pub large: Option<LargeGrid>,
    pub tiles: Option<Tiles>,
    pub edit: Option<EditSelection>,
}

/// Settings with every `auto` decided.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Settings {
    /// Rows the networks see at once.
    pub batch_size: u32,
    /// Images the tokenizer sees at once.
    pub tokenizer_batch_size: u32,
    /// Threads of one tensor operation.
    pub threads: NonZeroUsize,
    /// Threads that write image files.
    pub image_workers: usize,
}

impl Model {
    /// Opens the pipeline's model directory, checks the settings against it, and decides what was left open. Settings on
    /// `auto` take what the output records.
    pub async fn open(
        pipeline: &Pipeline,
        (choice, overwrite): (DeviceChoice, bool),
        compat: &str,
    ) -> Result<Model, JobError> {
        let directory = directory(pipeline)?;
        let config = directory.config();
        let sample = &pipeline.sample;
        let compat = if compat == "authors" { Compat::Authors } else { Compat::None };
        let run = RunSettings::new(sample, config, compat);
        let usual = run.usual().map_err(|error| JobError::Usage(format!("sample.{error}")))?;
        let recorded = recorded::<SamplesIdentity>(&pipeline.output.url, overwrite).await?;
        let device = work::device_for(choice, recorded.as_ref().map(|id| id.device.as_str()))?;
        let on_cpu = device.class == "cpu";
        let old = recorded.as_ref();
        let dtype = sample.dtype.resolve(old.and_then(|id| dtype_named(&id.dtype)), || match on_cpu {
            true => DType::Fp32,
            false => DType::Bf16,
        });
        let tokenizer_dtype =
            pipeline.tokenizer.dtype.resolve(old.and_then(|id| dtype_named(&id.tokenizer_dtype)), || DType::Fp32);
        let batch_size = sample.batch_size.resolve(old.map(|id| id.batch_size), || match on_cpu {
            true => BATCH_ON_CPU,
            false => BATCH_ON_CUDA,
        });
        let decoded = pipeline.tokenizer.batch_size.resolve(old.map(|id| id.tokenizer_batch_size), || match on_cpu {
            true => DECODED_ON_CPU,
            false => DECODED_ON_CUDA,
        });
        let threads = pipeline.run.threads.resolve(old.map(|id| id.threads), processors);
        let workers = pipeline.run.decode_workers.resolve(None, processors) as usize;
        let threads = NonZeroUsize::new(threads as usize);
        let Some(threads) = threads.filter(|_| batch_size > 0 && decoded > 0 && workers > 0) else {
            let keys = "sample.batch_size, tokenizer.batch_size, run.threads and run.decode_workers must be 1 or more";
            return Err(JobError::Usage(keys.to_owned()));
        };
        Ok(Model {
            settings: Settings { batch_size, tokenizer_batch_size: decoded, threads, image_workers: workers },
            directory,
            device,
            run,
            usual,
            compat,
            image: file_format(sample),
            dtype,
            tokenizer_dtype,
            recorded: recorded.is_some(),
            seed: pipeline.run.seed,
            decodings: 1,
        })
    }

    /// The same for grids larger than the chain's. Batches that nobody chose become smaller, so that they take the memory of usual
    /// ones, if they are not small anyway: of rows, each of which has several decodings in memory, and of pictures.
    pub fn enlarged(mut self, pipeline: &Pipeline, large: &LargeGrid) -> Model {
        let config = self.directory.config();
        let times = (large.tokens() / config.tokens().max(1)).max(1) as u32;
        self.decodings = large.windows(config.grid).1 as u32;
        if !self.recorded && pipeline.sample.batch_size == Auto::Auto {
            let usual = self.settings.batch_size;
            self.settings.batch_size = (usual / self.decodings.max(1)).max(usual.min(BATCH_ON_CPU));
        }
        if !self.recorded && pipeline.tokenizer.batch_size == Auto::Auto {
            self.settings.tokenizer_batch_size = (self.settings.tokenizer_batch_size / times).max(1);
        }
        self
    }

    /// The tiles that pictures of `grid` = (rows, columns) tokens are decoded in; none where they are decoded whole.
    ///
    /// # Errors
    /// [`JobError::Usage`]: `tokenizer.decode_memory` is too little for any tile.
    pub fn tiles(&self, grid: (u32, u32), most: ByteSize) -> Result<Option<Tiles>, JobError> {
        let config = self.directory.tokenizer_config().map_err(refused)?;
        let number = if self.tokenizer_dtype == DType::Fp32 { 4 } else { 2 };
        Tiles::within(&config, grid, number, most.0).map_err(|least| {
            JobError::Usage(format!(
                "tokenizer.decode_memory = {most} is too little: the smallest tile takes {}",
                ByteSize(least)
            ))
        })
    }

    /// Pixels of a token's side.
    pub fn factor(&self) -> Result<u32, JobError> {
        let shape = self.directory.tokenizer_config().map_err(refused)?;
        Ok(u32::try_from(shape.downsampling()).unwrap_or(u32::MAX))
    }

    /// Loads the weights of all scales and of the tokenizer.
    pub fn load(&self) -> Result<Painter, JobError> {
        Ok(Painter { chain: self.load_chain()?, developer: self.load_developer()? })
    }

    /// Loads the weights of all scales.
    pub fn load_chain(&self) -> Result<Chain, JobError> {
        self.directory.load(self.placement(&self.device)).map_err(refused)
    }

    /// Loads the weights of each scale onto a device of its own, of `devices` from scale 1 up.
    pub fn load_apart(&self, devices: &[DeviceInUse]) -> Result<Vec<Chain>, JobError> {
        let device = |scale: u32| devices.get(scale as usize - 1).unwrap_or(&self.device);
        self.directory.load_apart(|scale| self.placement(device(scale))).map_err(refused)
    }

    fn placement(&self, device: &DeviceInUse) -> Placement {
        Placement { device: device.device, kind: kind(self.dtype) }
    }

    /// Loads the weights of the tokenizer alone.
    pub fn load_developer(&self) -> Result<Developer, JobError> {
        let (device, dtype) = (self.device.device, self.tokenizer_dtype);
        let options = TokenizerOptions { device, dtype, ..TokenizerOptions::default() };
        let tokenizer = self.directory.load_tokenizer(options).map_err(refused)?;
        let batch = self.settings.tokenizer_batch_size as usize;
        Ok(Developer::new(tokenizer, batch, self.directory.config().grid))
    }

    /// What the rows of a run with the chain of fingerprint `chain` and with `developer` have in common.
    pub fn provenance(
        &self,
        (chain, developer): (&str, &Developer),
        selections: Selections,
    ) -> Provenance<SamplesIdentity> {
        let Selections { grid, rows, choose, large, tiles, edit } = selections;
        let codebook_size = self.directory.config().codebook_size;
        let identity = SamplesIdentity {
            format_version: FORMAT_VERSION,
            tokenizer: developer.fingerprint().to_owned(),
            chain: chain.to_owned(),
            schedule: self.directory.schedule().cumulatives().to_vec(),
            settings: RowSettings::clone(&self.usual.recorded),
            compat: if self.compat == Compat::Authors { "authors" } else { "default" }.to_owned(),
            rows,
            choose,
            large: large.map(|LargeGrid { grid, stride }| LargeSelection { grid, stride }),
            tiles: tiles.map(|Tiles { size, overlap, margin }| TileSelection { size, overlap, margin }),
            edit,
            image: self.image.to_string(),
            seed: self.seed,
            batch_size: self.settings.batch_size,
            tokenizer_batch_size: self.settings.tokenizer_batch_size,
            dtype: dtype_name(self.dtype).to_owned(),
            tokenizer_dtype: dtype_name(self.tokenizer_dtype).to_owned(),
            device: self.device.class.clone(),
            threads: self.settings.threads.get() as u32,
        };
        Provenance { identity, grid, codebook_size, rows_per_image: 1 }
    }

    /// Whether the output was there already, to be gone on with.
    pub fn recorded(&self) -> bool {
        self.recorded
    }

    /// Writes the lines of `--dry-run` that `sample` and `edit` share.
    pub fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { batch_size, tokenizer_batch_size, threads, image_workers } = self.settings;
        writeln!(f, "device     {}", self.device.line)?;
        let bytes = if self.dtype == DType::Fp32 { 4 } else { 2 };
        describe_chain(f, self.directory.config(), bytes, batch_size.saturating_mul(self.decodings))?;
        writeln!(
            f,
            "batches    {batch_size} rows in {}, {tokenizer_batch_size} images in {}",
            dtype_name(self.dtype),
            dtype_name(self.tokenizer_dtype)
        )?;
        writeln!(f, "threads    {threads} for tensors, {image_workers} for image files")
    }
}

fn file_format(sample: &SampleSection) -> FileFormat {
    match sample.image.as_str() {
        "jpeg" => FileFormat::Jpeg(sample.quality.unwrap_or(JPEG_QUALITY)),
        "webp" => FileFormat::WebP,
        _ => FileFormat::Png,
    }
}

/// The pipeline's model directory, opened. What the pipeline says of the chain itself must agree with it.
fn directory(pipeline: &Pipeline) -> Result<ModelDirectory, JobError> {
    let path = &pipeline.chain.model;
    if path.contains("://") {
        return Err(JobError::Usage(format!(
            "chain.model = \"{path}\" is a URL: model directories are local, copy it here"
        )));
    }
    if !Path::new(path).is_dir() {
        return Err(JobError::Usage(format!(
            "chain.model = \"{path}\" is not a directory: make one with `imagebart import`, or train one"
        )));
    }
    let directory = ModelDirectory::open(path).map_err(refused)?;
    if !pipeline.chain.scale.is_empty() {
        let config = directory.config();
        let ours = ChainConfig::from_sections(&pipeline.chain, &pipeline.condition, Some(config.codebook_size))
            .map_err(|error| JobError::Usage(error.to_string()))?;
        if let Some(what) = disagreement(&ours, config) {
            let file = directory.config_file();
            return Err(JobError::Usage(format!(
                "the pipeline file and {} disagree: {what}; take [[chain.scale]] out of the pipeline file to use the model \
                 as it is",
                file.display()
            )));
        }
    }
    Ok(directory)
}

/// The first thing about which a pipeline's chain and a model's differ.
fn disagreement(ours: &ChainConfig, model: &ChainConfig) -> Option<String> {
    let shown = |key: &str, ours: &dyn fmt::Debug, model: &dyn fmt::Debug| {
        Some(format!("{key} is {ours:?} here, {model:?} there"))
    };
    if ours.codebook_size != model.codebook_size {
        return shown("chain.codebook_size", &ours.codebook_size, &model.codebook_size);
    }
    if ours.grid != model.grid {
        return shown("chain.grid", &ours.grid, &model.grid);
    }
    if ours.condition != model.condition {
        return shown("condition", &ours.condition, &model.condition);
    }
    if ours.scales() != model.scales() {
        return shown("the number of scales", &ours.scales(), &model.scales());
    }
    // One schedule has several names.
    let alphas =
        |config: &ChainConfig| Schedule::new(&config.schedule, config.scales()).map(|s| s.cumulatives().to_vec());
    match (alphas(ours), alphas(model)) {
        (Ok(a), Ok(b)) if a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5) => {}
        _ => return shown("chain.schedule", &ours.schedule, &model.schedule),
    }
    let scale = (1..=model.scales()).find(|&scale| {
        let network = |config: &ChainConfig| config.network(scale).map(|network| network.network.clone());
        network(ours) != network(model)
    })?;
    let network = |config: &ChainConfig| config.network(scale).map(|network| network.network.clone());
    shown(&format!("the network of scale {scale}"), &network(ours), &network(model))
}

/// What is wrong with a model is the user's to mend.
pub fn refused(error: ModelError) -> JobError {
    JobError::Usage(super::with_causes(&error))
}

/// Networks on a device, ready to draw.
pub struct Painter {
    pub chain: Chain,
    pub developer: Developer,
}

impl Painter {
    /// Chain and tokenizer for threads of their own.
    pub fn apart(self) -> (Chain, Developer) {
        (self.chain, self.developer)
    }
}

/// Rows that a message names.
const NAMED: usize = 4;

/// What stopped a batch of the unit `unit`, in the names its rows have in the table.
pub fn stopped(error: SampleError, unit: &str, names: &[&str]) -> BoxError {
    let SampleError::NotFinite { scale, rows } = error else { return format!("unit {unit}: {error}").into() };
    let mut named: Vec<&str> = rows.iter().take(NAMED).filter_map(|&row| names.get(row).copied()).collect();
    if rows.len() > NAMED {
        named.push("...");
    }
    let named = named.join(", ");
    format!(
        "unit {unit}: the network of scale {scale} gave NaN or infinity for row(s) {named}; check its weights, or use fp32"
    )
    .into()
}
