//! What an `evaluate` will measure, found out before any work.

use super::EvaluateOptions;
use super::figure::Group;
use super::generation::{self, ENOUGH, Generation, Reference};
use super::likelihood::Scoring;
use super::pictures::Pictures;
use super::reconstruction::Reconstruction;
use crate::chain::{Condition, ModelDirectory};
use crate::config::{DType, EvaluateSection, Pipeline};
use crate::datasets::Unit;
use crate::digest::hex;
use crate::evaluate::{FeatureInput, FeatureNetwork, FeatureResize, KidSettings, Window};
use crate::jobs::encode::{config_of, preprocess_of, preprocessing, reader_of};
use crate::jobs::model::refused;
use crate::jobs::train_tokenizer::perceptual;
use crate::jobs::work::{device_for, processors};
use crate::jobs::{JobError, open_output, output_error, refusal};
use crate::tables::{Identity, LatentsReader, OutputDir, Run, SamplesIdentity, SamplesReader};
use crate::text::TextTokenizer;
use crate::torch::device::{DeviceInUse, kind};
use crate::training::images::{ImageOptions, Images};
use crate::training::{Conditioning, Loader, LoaderError, LoaderOptions};
use crate::transformer::Placement;
use crate::vqgan::{Tokenizer, TokenizerOptions};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Images the VQGAN sees at once when nobody says: the activations of one take about 0.25 GB at 256².
const DECODED_ON_CPU: u32 = 4;
const DECODED_ON_CUDA: u32 = 64;

/// Everything `evaluate` needs, checked and loaded.
pub struct EvaluatePlan {
    pub(super) network: Option<FeatureNetwork>,
    pub(super) reconstruction: Option<(Reconstruction, Group)>,
    pub(super) generation: Option<(Generation, Group)>,
    pub(super) likelihood: Option<(Scoring, Group)>,
    /// What is measured.
    pub(super) subject: BTreeMap<String, String>,
    /// Rows of each set that are looked at.
    pub(super) limit: u64,
    pub(super) threads: NonZeroUsize,
    pub(super) to: PathBuf,
    device: DeviceInUse,
}

/// What the parts of a plan are made from.
struct Making<'a> {
    pipeline: &'a Pipeline,
    section: &'a EvaluateSection,
    device: DeviceInUse,
    /// Whether `evaluate.metrics` is left out: what is not there is no mistake then.
    chosen: bool,
    force: bool,
}

impl EvaluatePlan {
    /// Opens what the pipeline names.
    ///
    /// # Errors
    /// [`JobError::Usage`] for what the user has to mend.
    pub async fn make(pipeline: &Pipeline, options: &EvaluateOptions) -> Result<EvaluatePlan, JobError> {
        let section = &pipeline.evaluate;
        let to = folder(pipeline)?;
        let device = device_for(options.device, None)?;
        let chosen = section.metrics.is_empty();
        let making = Making { pipeline, section, device, chosen, force: options.force };
        let wanted = |metric: &str| chosen || section.metrics.iter().any(|it| it == metric);
        let mut subject = BTreeMap::from([
            ("seed".to_owned(), pipeline.run.seed.to_string()),
            ("program".to_owned(), format!("imagebart {}", env!("CARGO_PKG_VERSION"))),
        ]);
        let network = making.network()?;
        let reconstruction =
            if wanted("reconstruction") { making.reconstruction(network.is_some(), &mut subject).await? } else { None };
        let generation =
            if wanted("generation") { making.generation(network.is_some(), &mut subject).await? } else { None };
        let likelihood = if wanted("likelihood") { making.likelihood(&mut subject).await? } else { None };
        if reconstruction.is_none() && generation.is_none() && likelihood.is_none() {
            return Err(JobError::Usage(
                "there is nothing to evaluate: give dataset.url and tokenizer.weights for reconstructions, evaluate.network and samples \
                 at output.url for generation, chain.model and latents at output.url for the likelihood"
                    .to_owned(),
            ));
        }
        let threads = pipeline.run.threads.resolve(None, processors) as usize;
        let threads =
            NonZeroUsize::new(threads).ok_or_else(|| JobError::Usage("run.threads must be 1 or more".to_owned()))?;
        let limit = section.count.unwrap_or(u64::MAX);
        let device = making.device;
        Ok(EvaluatePlan { network, reconstruction, generation, likelihood, subject, limit, threads, to, device })
    }

    /// The text of `--dry-run`.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if self.reconstruction.is_some() {
            let rfid = if self.network.is_some() { ", rFID" } else { "" };
            parts.push(format!("reconstruction (PSNR, SSIM, L1, code use{rfid})"));
        }
        if self.generation.is_some() {
            parts.push("generation (FID, KID, Inception Score, precision, recall, density, coverage)".to_owned());
        }
        if let Some((scoring, _)) = &self.likelihood {
            parts.push(format!("likelihood of {} rows of latents", scoring.latents.rows()));
        }
        let mut text = format!("device     {}\nmeasure    {}\n", self.device.line, parts.join("; "));
        if let Some(network) = &self.network {
            let classes = network.classes().map_or("no logits".to_owned(), |classes| format!("{classes} logits"));
            text += &format!("features   {} dimensions, {classes}, {}\n", network.dims(), network.input());
        }
        text + &format!("to         {}\n", self.to.display())
    }
}

/// The report's folder.
fn folder(pipeline: &Pipeline) -> Result<PathBuf, JobError> {
    let to = match pipeline.evaluate.to.is_empty() {
        true => format!("{}/evaluate", pipeline.output.url.trim_end_matches('/')),
        false => pipeline.evaluate.to.clone(),
    };
    match to.strip_prefix("file://").unwrap_or(&to) {
        path if path.contains("://") => {
            Err(JobError::Usage(format!("evaluate.to = \"{to}\" is a URL: reports are local, give a folder")))
        }
        path => Ok(PathBuf::from(path)),
    }
}

fn usage(error: impl std::error::Error) -> JobError {
    JobError::Usage(error.to_string())
}

impl Making<'_> {
    /// A figure's group: how many resamples it has.
    fn group(&self, name: &'static str) -> Group {
        let bootstrap = (self.section.bootstrap, self.pipeline.run.seed);
        Group { name, rows: 0, rows_id: String::new(), settings: BTreeMap::new(), bootstrap }
    }

    fn network(&self) -> Result<Option<FeatureNetwork>, JobError> {
        let section = self.section;
        let Some(path) = &section.network else { return Ok(None) };
        let resize = match section.network_resize.as_str() {
            "legacy" => FeatureResize::Legacy,
            "none" => FeatureResize::None,
            _ => FeatureResize::Clean,
        };
        let input = FeatureInput {
            resize,
            size: section.network_size,
            mean: section.network_mean.clone(),
            std: section.network_std.clone(),
            flags: section.network_flags.clone(),
        };
        let side = self.pipeline.image.size;
        let network = FeatureNetwork::load(Path::new(path), input, side, self.device.device);
        Ok(Some(network.map_err(|error| JobError::Usage(format!("evaluate.network: {error}")))?))
    }

    /// What is asked for by name must be there.
    fn missing<T>(&self, what: &str) -> Result<Option<T>, JobError> {
        if self.chosen { Ok(None) } else { Err(JobError::Usage(what.to_owned())) }
    }

    /// Refuses a count that is too small from the start.
    fn enough(&self, metric: &str) -> Result<(), JobError> {
        generation::enough(metric, self.section.count.unwrap_or(ENOUGH), self.force).map(drop)
    }

    async fn reconstruction(
        &self,
        with_features: bool,
        subject: &mut BTreeMap<String, String>,
    ) -> Result<Option<(Reconstruction, Group)>, JobError> {
        let pipeline = self.pipeline;
        let weights = self.tokenizer_file();
        if pipeline.dataset.format.is_empty() || pipeline.dataset.url.is_empty() || weights.is_none() {
            return self.missing(
                "evaluate.metrics asks for reconstruction: give dataset.format, dataset.url, and tokenizer.weights or chain.model",
            );
        }
        if with_features {
            self.enough("rFID")?;
        }
        let tokenizer = self.tokenizer()?;
        tokenizer.grid(pipeline.image.size, pipeline.image.size).map_err(usage)?;
        subject.insert("tokenizer".to_owned(), tokenizer.fingerprint().to_owned());
        let (pictures, facts) = self.dataset().await?;
        let device = self.device.device;
        let perceptual = self
            .section
            .lpips
            .as_ref()
            .map(|path| perceptual::load(("evaluate.lpips", path), pipeline.image.size, device));
        let (perceptual, fingerprint) = perceptual.transpose()?.unzip();
        let mut group = self.group("reconstruction");
        group.settings = facts;
        if let Some(fingerprint) = fingerprint {
            group.settings.insert("lpips".to_owned(), fingerprint);
        }
        let reconstruction = Reconstruction {
            pictures,
            tokenizer,
            batch: self.decoded(),
            window: if self.section.ssim == "uniform" { Window::Uniform } else { Window::Gaussian },
            perceptual,
            device,
            seed: pipeline.run.seed,
        };
        Ok(Some((reconstruction, group)))
    }

    async fn generation(
        &self,
        with_features: bool,
        subject: &mut BTreeMap<String, String>,
    ) -> Result<Option<(Generation, Group)>, JobError> {
        let (pipeline, section) = (self.pipeline, self.section);
        if !with_features {
            return self.missing("evaluate.metrics asks for generation: give evaluate.network, a TorchScript module");
        }
        let url = &pipeline.output.url;
        if url.is_empty() {
            return self.missing("evaluate.metrics asks for generation: give output.url, where the samples are");
        }
        let workers = pipeline.run.decode_workers.resolve(None, processors) as usize;
        let generated = if section.generated == "latents" {
            let Some(dir) = self.output::<Identity>().await? else {
                return self.missing(&format!("there are no latents at {url} to decode"));
            };
            let tokenizer = self.tokenizer()?;
            let reader = LatentsReader::open(dir).await.map_err(refusal)?;
            let found = &reader.provenance().identity;
            if found.tokenizer != tokenizer.fingerprint() {
                return Err(JobError::Usage(format!(
                    "the latents at {url} were made by the tokenizer {}, tokenizer.weights is {}: give the one they were made with",
                    found.tokenizer,
                    tokenizer.fingerprint()
                )));
            }
            subject.insert("latents".to_owned(), found.sha256());
            Pictures::latents(reader, tokenizer)
        } else {
            let Some(dir) = self.output::<SamplesIdentity>().await? else {
                return self.missing(&format!("there are no samples at {url}: draw some with `imagebart sample`"));
            };
            let reader = SamplesReader::open(dir).await.map_err(refusal)?;
            let identity = &reader.provenance().identity;
            subject.insert("chain".to_owned(), identity.chain.clone());
            subject.insert("samples".to_owned(), identity.sha256());
            Pictures::samples(reader, workers)
        };
        self.enough("FID")?;
        let (reference, facts) = self.reference().await?;
        let kid = KidSettings { subsets: section.kid_subsets, size: section.kid_size, seed: pipeline.run.seed };
        let settings = generation::Settings {
            batch: section.batch_size as usize,
            neighbours: section.neighbours,
            splits: section.splits,
            kid,
            device: self.device.device,
        };
        Ok(Some((Generation { generated, reference, facts, settings }, self.group("generation"))))
    }

    /// The reference set, and what pins it.
    async fn reference(&self) -> Result<(Reference, BTreeMap<String, String>), JobError> {
        let file = self.section.reference.as_deref().map(Path::new);
        if let Some(file) = file.filter(|file| file.extension().is_some_and(|ending| ending == "npz")) {
            let bytes = std::fs::read(file)
                .map_err(|error| JobError::Usage(format!("evaluate.reference {}: {error}", file.display())))?;
            let facts = BTreeMap::from([("reference".to_owned(), format!("npz {}", hex(&Sha256::digest(&bytes))))]);
            return Ok((Reference::Published(file.to_owned()), facts));
        }
        if self.pipeline.dataset.url.is_empty() || self.pipeline.dataset.format.is_empty() {
            return Err(JobError::Usage(
                "samples need a reference: give dataset.format and dataset.url, or evaluate.reference, a .npz file"
                    .to_owned(),
            ));
        }
        let (pictures, mut facts) = self.dataset().await?;
        if let Some(count) = self.section.count {
            facts.insert("reference limit".to_owned(), count.to_string());
        }
        match file {
            None => Ok((Reference::Pictures(pictures), facts)),
            Some(file) if file.extension().is_some_and(|ending| ending == "safetensors") => {
                Ok((Reference::Kept { file: file.to_owned(), pictures }, facts))
            }
            Some(file) => Err(JobError::Usage(format!(
                "evaluate.reference {} must end in .npz (published by others) or .safetensors (kept by this program)",
                file.display()
            ))),
        }
    }

    async fn likelihood(&self, subject: &mut BTreeMap<String, String>) -> Result<Option<(Scoring, Group)>, JobError> {
        let (pipeline, section) = (self.pipeline, self.section);
        let (model, url) = (&pipeline.chain.model, &pipeline.output.url);
        if model.is_empty() || url.is_empty() {
            return self.missing("evaluate.metrics asks for likelihood: give chain.model, and latents at output.url");
        }
        let Some(dir) = self.output::<Identity>().await? else {
            return self.missing(&format!("there are no latents at {url} to score: make some with `imagebart encode`"));
        };
        let directory = ModelDirectory::open(model).map_err(refused)?;
        let reader = LatentsReader::open(dir).await.map_err(refusal)?;
        let (latents, config) = (reader.provenance().clone(), directory.config());
        if (latents.grid, latents.codebook_size) != (config.grid, config.codebook_size) {
            return Err(JobError::Usage(format!(
                "the latents at {url} are grids of {:?} of {} codes, the chain in {model} is for {:?} of {}",
                latents.grid, latents.codebook_size, config.grid, config.codebook_size
            )));
        }
        let loading = LoaderOptions {
            seed: pipeline.run.seed,
            batch: section.batch_size as usize,
            window_rows: pipeline.train.window_rows,
            ..LoaderOptions::default()
        };
        let loader = load(reader, directory.tokenizer_fingerprint(), loading).await?;
        let text = match config.condition {
            Condition::Text(_) => Some(TextTokenizer::open(directory.text_tokenizer_file()).map_err(usage)?),
            _ => None,
        };
        let conditioning = Conditioning::new(&config.condition, text)
            .ok_or_else(|| JobError::Failed("the chain has no text tokenizer".to_owned()))?;
        let dtype = pipeline.sample.dtype.resolve(None, || DType::Fp32);
        let chain = directory.load(Placement { device: self.device.device, kind: kind(dtype) }).map_err(refused)?;
        subject.insert("chain".to_owned(), chain.fingerprint().to_owned());
        let mut group = self.group("likelihood");
        group.settings.insert("noise seed".to_owned(), pipeline.run.seed.to_string());
        group.settings.insert("codes".to_owned(), config.codebook_size.to_string());
        group.settings.insert("latents".to_owned(), loader.identity());
        let side = u64::from(latents.identity.preprocessing.size);
        Ok(Some((Scoring { chain, conditioning, latents: loader, dimensions: side * side * 3 }, group)))
    }

    /// The output's directory, where it has files of this table.
    async fn output<I: Run>(&self) -> Result<Option<OutputDir<I>>, JobError> {
        let url = &self.pipeline.output.url;
        let dir = match open_output(url, false).await {
            Ok(dir) => dir.of::<I>(),
            Err(_) if self.chosen => return Ok(None),
            Err(error) => return Err(error),
        };
        let done = dir.done().await.map_err(|error| output_error(url, error))?;
        Ok((!done.is_empty()).then_some(dir))
    }

    /// The dataset's prepared images, and what pins them.
    async fn dataset(&self) -> Result<(Pictures, BTreeMap<String, String>), JobError> {
        let pipeline = self.pipeline;
        let reader = reader_of(pipeline).await?;
        let units: Vec<Arc<Unit>> = reader.units().await.map_err(usage)?.into_iter().map(Arc::new).collect();
        if units.is_empty() {
            return Err(JobError::Usage(format!("the dataset at {} has no images", pipeline.dataset.url)));
        }
        let options = ImageOptions {
            seed: pipeline.run.seed,
            batch: self.section.batch_size as usize,
            window: u64::from(self.section.batch_size),
            workers: (pipeline.run.decode_workers.resolve(None, processors) as usize).max(1),
            budget: pipeline.run.memory_budget.0,
        };
        let facts = dataset_facts(pipeline, &units)?;
        let images = Images::new(reader, units, preprocess_of(pipeline)?, options).map_err(usage)?.centred();
        Ok((Pictures::Dataset(images.once(), pipeline.image.size), facts))
    }

    /// Images the tokenizer sees at once.
    fn decoded(&self) -> usize {
        let batch = self.pipeline.tokenizer.batch_size.resolve(None, || match self.device.class == "cpu" {
            true => DECODED_ON_CPU,
            false => DECODED_ON_CUDA,
        });
        batch.max(1) as usize
    }

    fn tokenizer_file(&self) -> Option<PathBuf> {
        let (weights, model) = (&self.pipeline.tokenizer.weights, &self.pipeline.chain.model);
        match (weights.is_empty(), model.is_empty()) {
            (false, _) => Some(PathBuf::from(weights)),
            (true, false) => Some(Path::new(model).join("tokenizer.safetensors")),
            (true, true) => None,
        }
    }

    fn tokenizer(&self) -> Result<Tokenizer, JobError> {
        let file = self.tokenizer_file();
        let file =
            file.ok_or_else(|| JobError::Usage("tokenizer.weights is missing; set it to the VQGAN's file".into()))?;
        let dtype = self.pipeline.tokenizer.dtype.resolve(None, || DType::Fp32);
        let options = TokenizerOptions { device: self.device.device, dtype, ..TokenizerOptions::default() };
        Tokenizer::load(file, config_of(self.pipeline)?, options).map_err(usage)
    }
}

/// What pins a dataset's images: its format, its files by name and size, which of them are taken, and how they are prepared. Not where
/// they lie.
fn dataset_facts(pipeline: &Pipeline, units: &[Arc<Unit>]) -> Result<BTreeMap<String, String>, JobError> {
    let mut files = Sha256::new();
    for unit in units {
        files.update(format!("{}\n", unit.name).as_bytes());
        unit.sources.iter().for_each(|source| files.update(source.size.to_le_bytes()));
    }
    let mut prepared = preprocessing(pipeline);
    // As validation does: from the middle, not mirrored.
    (prepared.crop, prepared.crops, prepared.flip) = ("center".to_owned(), 1, "none".to_owned());
    Ok(BTreeMap::from([
        ("images".to_owned(), format!("{}, files {}", pipeline.dataset.format, hex(&files.finalize()))),
        ("image preprocessing".to_owned(), serde_json::to_string(&prepared).map_err(JobError::failed)?),
    ]))
}

/// Latents that must be of the tokenizer with this fingerprint; batches are no larger than there are rows.
async fn load(reader: LatentsReader, tokenizer: &str, options: LoaderOptions) -> Result<Arc<Loader>, JobError> {
    let opened = Loader::open(vec![reader], tokenizer, LoaderOptions { batch: 1, ..options.clone() }).await;
    let loader = opened.map_err(|error| match error {
        LoaderError::Table(error) => refusal(error),
        error => JobError::Usage(error.to_string()),
    })?;
    let rows = usize::try_from(loader.rows()).unwrap_or(usize::MAX);
    Ok(Arc::new(loader.with_batch(options.batch.min(rows))))
}
