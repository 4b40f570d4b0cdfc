//! What an `evaluate` will measure, found out before any work.

use super::EvaluateOptions;
use super::figure::Group;
use super::generation::{self, ENOUGH, Generation, Pinned, Reference};
use super::likelihood::Scoring;
use super::pictures::Source;
use super::reconstruction::Reconstruction;
use super::sources::load;
use super::texts::{Judge, Texts};
use crate::chain::directory::{CONFIG_FILE, TOKENIZER_FILE};
use crate::chain::{Condition, ModelDirectory};
use crate::config::{DType, EvaluateSection, Pipeline};
use crate::evaluate::{FeatureInput, FeatureNetwork, FeatureResize, Gaussian, KidSettings, Statistics, Window};
use crate::jobs::encode::config_of;
use crate::jobs::model::refused;
use crate::jobs::train_tokenizer::perceptual;
use crate::jobs::work::{device_for, processors};
use crate::jobs::{JobError, refusal};
use crate::tables::{Identity, LatentsReader};
use crate::text::TextTokenizer;
use crate::torch::device::{DeviceInUse, kind};
use crate::training::{Conditioning, LoaderOptions};
use crate::transformer::Placement;
use crate::vqgan::{Tokenizer, TokenizerOptions};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Images the VQGAN sees at once when nobody says: the activations of one take about 0.25 GB at 256².
const DECODED_ON_CPU: u32 = 4;
const DECODED_ON_CUDA: u32 = 64;

/// Everything `evaluate` needs, checked and loaded.
pub struct EvaluatePlan {
    pub(super) network: Option<FeatureNetwork>,
    pub(super) reconstruction: Option<(Reconstruction, Group)>,
    /// Images that generation and text metrics are of.
    pub(super) generated: Option<Source>,
    pub(super) generation: Option<(Generation, Group)>,
    pub(super) text: Option<(Texts, Group)>,
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
pub(super) struct Making<'a> {
    pub pipeline: &'a Pipeline,
    pub section: &'a EvaluateSection,
    pub device: DeviceInUse,
    /// Whether `evaluate.metrics` is left out: what is not there is no mistake then.
    pub chosen: bool,
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
        let made = network.is_some() && wanted("generation") || section.scorer.is_some() && wanted("text");
        let generated =
            if made && !pipeline.output.url.is_empty() { making.generated(&mut subject).await? } else { None };
        let pinned = network.as_ref().map(Pinned::of);
        let rows = generated.as_ref().map(|(_, rows)| *rows);
        let generation = if wanted("generation") { making.generation(pinned, rows).await? } else { None };
        let generated = generated.map(|(source, _)| source);
        let text = if wanted("text") { making.text(generated.as_ref()).await? } else { None };
        let likelihood = if wanted("likelihood") { making.likelihood(&mut subject).await? } else { None };
        if reconstruction.is_none() && generation.is_none() && text.is_none() && likelihood.is_none() {
            return Err(JobError::Usage(
                "there is nothing to evaluate: give dataset.url and tokenizer.weights for reconstructions, evaluate.network and samples \
                 at output.url for generation, evaluate.scorer and samples for their texts, chain.model and latents at output.url for \
                 the likelihood"
                    .to_owned(),
            ));
        }
        let threads = pipeline.run.threads.resolve(None, processors) as usize;
        let threads =
            NonZeroUsize::new(threads).ok_or_else(|| JobError::Usage("run.threads must be 1 or more".to_owned()))?;
        let limit = section.count.unwrap_or(u64::MAX);
        let device = making.device;
        Ok(EvaluatePlan {
            network,
            reconstruction,
            generated,
            generation,
            text,
            likelihood,
            subject,
            limit,
            threads,
            to,
            device,
        })
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
        match self.text.as_ref().map(|(texts, _)| &texts.judge) {
            Some(Judge::Shapes) => parts.push("text (the rule reader of the demo's shapes)".to_owned()),
            Some(Judge::Module(_, name)) => parts.push(format!("text (the scorer {name})")),
            None => {}
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
pub(super) fn folder(pipeline: &Pipeline) -> Result<PathBuf, JobError> {
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

pub(super) fn usage(error: impl std::error::Error) -> JobError {
    JobError::Usage(error.to_string())
}

impl Making<'_> {
    /// A figure's group: how many resamples it has.
    pub fn group(&self, name: &'static str) -> Group {
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
    pub fn missing<T>(&self, what: &str) -> Result<Option<T>, JobError> {
        if self.chosen { Ok(None) } else { Err(JobError::Usage(what.to_owned())) }
    }

    /// Refuses from the start what has fewer than enough rows.
    fn enough(&self, metric: &str, rows: u64) -> Result<(), JobError> {
        generation::enough(metric, self.section.count.unwrap_or(u64::MAX).min(rows), self.force).map(drop)
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
            // How many images a dataset has, it tells only by being read.
            self.enough("rFID", ENOUGH)?;
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

    /// `rows`: those of the generated images, where there are any.
    async fn generation(
        &self,
        pinned: Option<Pinned>,
        rows: Option<u64>,
    ) -> Result<Option<(Generation, Group)>, JobError> {
        let (pipeline, section) = (self.pipeline, self.section);
        let Some(pinned) = pinned else {
            return self.missing("evaluate.metrics asks for generation: give evaluate.network, a TorchScript module");
        };
        let Some(rows) = rows else { return self.nothing_generated("generation") };
        self.enough("FID", rows)?;
        let (reference, facts, notes) = self.reference(&pinned).await?;
        if let Reference::Known(Statistics { gaussian: Gaussian { rows: Some(rows), .. }, .. }, _) = &reference {
            generation::enough(generation::AGAINST, *rows, self.force)?;
        }
        let kid = KidSettings { subsets: section.kid_subsets, size: section.kid_size, seed: pipeline.run.seed };
        let settings = generation::Settings {
            batch: section.batch_size as usize,
            neighbours: section.neighbours,
            splits: section.splits,
            kid,
            device: self.device.device,
        };
        Ok(Some((Generation { reference, facts, notes, settings }, self.group("generation"))))
    }

    /// There are no images for `metric`.
    pub fn nothing_generated<T>(&self, metric: &str) -> Result<Option<T>, JobError> {
        let (url, section) = (&self.pipeline.output.url, self.section);
        if url.is_empty() {
            let what = format!("evaluate.metrics asks for {metric}: give output.url, where the samples are");
            return self.missing(&what);
        }
        let what = if section.generated == "latents" { "latents to decode" } else { "samples" };
        self.missing(&format!("there are no {what} at {url}"))
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
        // A folder of a tokenizer alone, as the demo's may be, has no chain to score with.
        let has = |file: &str| Path::new(model).join(file).exists();
        if has(TOKENIZER_FILE) && !has(CONFIG_FILE) {
            return self.missing(&format!("evaluate.metrics asks for likelihood, and {model} has no chain"));
        }
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
            (true, false) => Some(Path::new(model).join(TOKENIZER_FILE)),
            (true, true) => None,
        }
    }

    pub fn tokenizer(&self) -> Result<Tokenizer, JobError> {
        let file = self.tokenizer_file();
        let file =
            file.ok_or_else(|| JobError::Usage("tokenizer.weights is missing; set it to the VQGAN's file".into()))?;
        let dtype = self.pipeline.tokenizer.dtype.resolve(None, || DType::Fp32);
        let options = TokenizerOptions { device: self.device.device, dtype, ..TokenizerOptions::default() };
        Tokenizer::load(file, config_of(self.pipeline)?, options).map_err(usage)
    }
}
