//! What an evaluation reads: a dataset, tables, a reference set.

use super::generation::{Pinned, Reference, refused};
use super::pictures::Source;
use super::plan::{Making, usage};
use crate::config::Pipeline;
use crate::datasets::Unit;
use crate::digest::hex;
use crate::evaluate::{Published, Statistics};
use crate::jobs::encode::{preprocess_of, preprocessing, reader_of};
use crate::jobs::work::processors;
use crate::jobs::{JobError, open_output, output_error, refusal};
use crate::tables::{Identity, LatentsReader, OutputDir, Run, SamplesIdentity, SamplesReader, TableReader};
use crate::training::images::{ImageOptions, Images};
use crate::training::{Loader, LoaderError, LoaderOptions};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A reference set, what pins it, and what a reader must know of it.
pub type ReferenceSet = (Reference, BTreeMap<String, String>, Vec<String>);

impl Making<'_> {
    /// The images to judge, and how many rows they come from; none where their table is not there.
    pub async fn generated(&self, subject: &mut BTreeMap<String, String>) -> Result<Option<(Source, u64)>, JobError> {
        let url = &self.pipeline.output.url;
        if self.section.generated == "latents" {
            let Some(dir) = self.output::<Identity>().await? else { return Ok(None) };
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
            let rows = rows_of(&reader).await?;
            return Ok(Some((Source::Latents(Arc::new(reader), Box::new(tokenizer)), rows)));
        }
        let Some(dir) = self.output::<SamplesIdentity>().await? else { return Ok(None) };
        let reader = SamplesReader::open(dir).await.map_err(refusal)?;
        let identity = &reader.provenance().identity;
        subject.insert("chain".to_owned(), identity.chain.clone());
        subject.insert("samples".to_owned(), identity.sha256());
        let workers = self.pipeline.run.decode_workers.resolve(None, processors) as usize;
        let rows = rows_of(&reader).await?;
        Ok(Some((Source::Samples(Arc::new(reader), workers), rows)))
    }

    /// The reference set for the features of a network.
    pub async fn reference(&self, pinned: &Pinned) -> Result<ReferenceSet, JobError> {
        let file = self.section.reference.as_deref().map(Path::new);
        if let Some(file) = file.filter(|file| file.extension().is_some_and(|ending| ending == "npz")) {
            return published(file, pinned);
        }
        if self.pipeline.dataset.url.is_empty() || self.pipeline.dataset.format.is_empty() {
            return Err(JobError::Usage(
                "samples need a reference: give dataset.format and dataset.url, or evaluate.reference, a .npz file"
                    .to_owned(),
            ));
        }
        let (source, mut facts) = self.dataset().await?;
        if let Some(count) = self.section.count {
            facts.insert("reference limit".to_owned(), count.to_string());
        }
        let reference = match file {
            None => Reference::Pictures(source, None),
            Some(file) if file.extension().is_none_or(|ending| ending != "safetensors") => {
                return Err(JobError::Usage(format!(
                    "evaluate.reference {} must end in .npz (published by others) or .safetensors (kept by this program)",
                    file.display()
                )));
            }
            Some(file) if file.exists() => {
                let expected = facts.clone().into_iter().chain(pinned.settings.clone()).collect();
                Reference::Known(Statistics::read(file, &expected).map_err(refused)?, Some(source))
            }
            Some(file) => Reference::Pictures(source, Some(file.to_owned())),
        };
        Ok((reference, facts, Vec::new()))
    }

    /// The output's directory, where it has files of this table.
    pub async fn output<I: Run>(&self) -> Result<Option<OutputDir<I>>, JobError> {
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
    pub async fn dataset(&self) -> Result<(Source, BTreeMap<String, String>), JobError> {
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
        Ok((Source::Dataset(images, pipeline.image.size), facts))
    }
}

/// A reference of others: a file of statistics, or one of images.
fn published(file: &Path, pinned: &Pinned) -> Result<ReferenceSet, JobError> {
    let bytes = std::fs::read(file)
        .map_err(|error| JobError::Usage(format!("evaluate.reference {}: {error}", file.display())))?;
    let facts = BTreeMap::from([("reference".to_owned(), format!("npz {}", hex(&Sha256::digest(&bytes))))]);
    let gaussian = match Published::read(file).map_err(refused)? {
        Published::Images(images) => return Ok((Reference::Pictures(Source::Array(images), None), facts, Vec::new())),
        Published::Statistics(gaussian) => gaussian,
    };
    if gaussian.dims() != pinned.dims {
        return Err(JobError::Usage(format!(
            "evaluate.reference {} is of features of {} dimensions, evaluate.network gives {}: it is of another network or layer",
            file.display(),
            gaussian.dims(),
            pinned.dims
        )));
    }
    let note = format!(
        "{} does not say of which network and preprocessing it is: that they are those of this evaluation is taken on trust.",
        file.display()
    );
    let statistics = Statistics { gaussian, features: None, logits: None };
    Ok((Reference::Known(statistics, None), facts, vec![note]))
}

/// Rows of a table, as its files' footers tell.
async fn rows_of<I: Run>(reader: &TableReader<I>) -> Result<u64, JobError> {
    let mut rows = 0;
    for file in reader.files() {
        rows += reader.file(file).await.map_err(refusal)?.info().rows;
    }
    Ok(rows)
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
pub async fn load(reader: LatentsReader, tokenizer: &str, options: LoaderOptions) -> Result<Arc<Loader>, JobError> {
    let opened = Loader::open(vec![reader], tokenizer, LoaderOptions { batch: 1, ..options.clone() }).await;
    let loader = opened.map_err(|error| match error {
        LoaderError::Table(error) => refusal(error),
        error => JobError::Usage(error.to_string()),
    })?;
    let rows = usize::try_from(loader.rows()).unwrap_or(usize::MAX);
    Ok(Arc::new(loader.with_batch(options.batch.min(rows))))
}
