//! `imagebart shrink`: the codes that latents really use, as a smaller codebook and as remapped latents.
//!
//! The paper keeps the entries that stand in the tokens of a validation split, and gives every other token, an outlier, a random
//! kept entry. So does this: the tokenizer gets `quantize.used`, and each row's outliers are drawn with the random numbers that
//! `encode` would draw them with. The remapped latents of a tokenizer without a remap are therefore, byte for byte, those that
//! `encode` writes with the shrunk tokenizer, and `encode` goes on in their directory. (Where a remap was there before, its own
//! outliers stay what they were made.)

mod usage;

pub use usage::{Usage, UsageFacts};

use super::{JobError, open_output, refusal};
use crate::config::{DType, Pipeline};
use crate::random::{Purpose, RowKey};
use crate::tables::{
    Identity, LatentRow, LatentsReader, Manifest, OutputDir, Provenance, TableError, UnitFile, UnitWriter,
    read_rejects, read_table,
};
use crate::torch::device::DeviceChoice;
use crate::torch::weights::{WeightsFile, write};
use crate::vqgan::{Tokenizer, TokenizerOptions, VqganConfig};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Tensor;

/// Units that are counted or remapped at once.
const UNITS_IN_FLIGHT: usize = 4;
/// The report beside the remapped latents.
const REPORT: &str = "usage.json";

/// What the command line adds to the pipeline file.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShrinkOptions {
    /// Replace a tokenizer and latents that are already there.
    pub overwrite: bool,
}

/// What a `shrink` did.
#[derive(Clone, Debug, Serialize)]
pub struct ShrinkSummary {
    /// Use of the codes in the latents that were counted.
    pub counted: UsageFacts,
    /// Use of the codes in the latents that were remapped: their outliers were drawn anew.
    pub remapped: UsageFacts,
    /// The smaller tokenizer's file and fingerprint.
    pub tokenizer: PathBuf,
    pub fingerprint: String,
    /// Units that were remapped by this run, and their rows.
    pub units: u64,
    pub rows: u64,
    /// How often each id of the tokenizer stands in the latents that were counted.
    pub counts: Vec<u64>,
}

impl fmt::Display for ShrinkSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.counted)?;
        writeln!(f, "tokenizer  {} ({})", self.tokenizer.display(), self.fingerprint)?;
        let outliers = self.remapped.outlier_share * 100.0;
        write!(f, "remapped   {} rows of {} units, {outliers:.3} % of their tokens drawn anew", self.rows, self.units)
    }
}

/// Where things are, checked.
struct Plan {
    /// The latents to remap.
    latents: LatentsReader,
    source: OutputDir,
    manifest: Manifest,
    /// The latents whose codes are counted.
    counted: LatentsReader,
    weights: PathBuf,
    /// The shrunk tokenizer's file, and the output of the remapped latents.
    tokenizer: PathBuf,
    to: String,
    min_count: u64,
}

impl Plan {
    async fn make(pipeline: &Pipeline) -> Result<Plan, JobError> {
        let section = &pipeline.shrink;
        let source = open_output(&pipeline.output.url, false).await?;
        let latents = LatentsReader::open(source.clone()).await.map_err(refusal)?;
        let Some(manifest) = source.manifest().await.map_err(refusal)? else {
            return Err(JobError::Usage(format!("{} has latents, but no manifest.json", pipeline.output.url)));
        };
        let done: BTreeSet<&str> = latents.files().iter().map(|file| file.unit.as_str()).collect();
        if let Some(unit) = manifest.units.iter().find(|unit| !done.contains(unit.name.as_str())) {
            return Err(JobError::Usage(format!(
                "{} is not finished, unit {} is missing: run `imagebart encode` to its end first",
                pipeline.output.url, unit.name
            )));
        }
        let counted = match &section.count {
            Some(url) => LatentsReader::open(open_output(url, false).await?).await.map_err(refusal)?,
            None => LatentsReader::open(source.clone()).await.map_err(refusal)?,
        };
        let (ours, theirs) = (&latents.provenance().identity.tokenizer, &counted.provenance().identity.tokenizer);
        if ours != theirs {
            return Err(JobError::Usage(format!(
                "{} and {} are of two tokenizers, {ours} and {theirs}: their codes have nothing to do with each other",
                pipeline.output.url,
                section.count.as_deref().unwrap_or_default()
            )));
        }
        let weights = PathBuf::from(&pipeline.tokenizer.weights);
        Ok(Plan {
            latents,
            source,
            manifest,
            counted,
            tokenizer: section.tokenizer.as_ref().map_or_else(|| beside(&weights), PathBuf::from),
            weights,
            to: section.to.clone(),
            min_count: section.min_count,
        })
    }
}

/// `vqgan-shrunk.safetensors` beside `vqgan.safetensors`.
fn beside(weights: &Path) -> PathBuf {
    let stem = weights.file_stem().unwrap_or_default().to_string_lossy();
    weights.with_file_name(format!("{stem}-shrunk.safetensors"))
}

/// What [`shrink`] would do, for `--dry-run`.
pub async fn describe(pipeline: &Pipeline) -> Result<String, JobError> {
    let plan = Plan::make(pipeline).await?;
    Ok(format!(
        "count      {} files of {} codes, those that stand {} times or more are kept\ntokenizer  {} to {}\nlatents    {} files at {} to {}",
        plan.counted.files().len(),
        plan.counted.provenance().codebook_size,
        plan.min_count.max(1),
        plan.weights.display(),
        plan.tokenizer.display(),
        plan.latents.files().len(),
        pipeline.output.url,
        plan.to,
    ))
}

/// Counts, writes the smaller tokenizer, and remaps the latents unit by unit: run again, it does what is missing.
///
/// # Errors
/// See [`JobError`]. Nothing is written before everything is checked; the latents read are never changed.
pub async fn shrink(pipeline: &Pipeline, options: &ShrinkOptions) -> Result<ShrinkSummary, JobError> {
    let plan = Plan::make(pipeline).await?;
    let usage = count(&plan.counted).await?;
    let kept = usage.used(plan.min_count);
    if kept.is_empty() {
        let message = format!("no code stands {} times or more: lower shrink.min_count", plan.min_count.max(1));
        return Err(JobError::Usage(message));
    }
    let shrunk = tokenizer(&plan, pipeline, &kept)?;
    let before = plan.latents.provenance();
    let provenance = Arc::new(Provenance {
        identity: Identity { tokenizer: shrunk.fingerprint.clone(), ..before.identity.clone() },
        codebook_size: kept.len() as u32,
        ..before.clone()
    });
    let output = open_output(&plan.to, true).await?;
    let manifest = Manifest::new(&provenance, plan.manifest.units.clone());
    match options.overwrite {
        true => {
            let units: Vec<&str> = manifest.units.iter().map(|unit| unit.name.as_str()).collect();
            output.overwrite(&manifest, &units, true).await.map_err(refusal)?;
        }
        false => output.begin(&manifest).await.map_err(refusal)?,
    }
    shrunk.write(options.overwrite)?;

    let remap = Arc::new(Remap::new(&kept, before));
    let remapped = remap_all(&plan, &output, &provenance, &remap).await?;
    let summary = ShrinkSummary {
        counted: usage.facts(&kept),
        remapped: remapped.before.facts(&kept),
        tokenizer: plan.tokenizer,
        fingerprint: shrunk.fingerprint,
        units: remapped.units,
        rows: remapped.rows,
        counts: usage.counts().to_vec(),
    };
    let mut report = serde_json::to_string_pretty(&summary).map_err(JobError::failed)?;
    report.push('\n');
    output.put(REPORT, report).await.map_err(JobError::failed)?;
    Ok(summary)
}

/// Counts the codes of all rows.
async fn count(latents: &LatentsReader) -> Result<Usage, JobError> {
    let codes = latents.provenance().codebook_size;
    let of_file = |file: &UnitFile| {
        let file = file.clone();
        async move {
            let mut usage = Usage::new(codes);
            let mut rows = latents.file(&file).await?.rows()?;
            while let Some(row) = rows.try_next().await? {
                usage.add(&row.tokens);
            }
            Ok::<_, TableError>(usage)
        }
    };
    let counts = futures::stream::iter(latents.files()).map(of_file).buffer_unordered(UNITS_IN_FLIGHT);
    let merge = |mut sum: Usage, more: Usage| async move {
        sum.merge(&more);
        Ok(sum)
    };
    counts.try_fold(Usage::new(codes), merge).await.map_err(refusal)
}

/// A tokenizer to be written.
struct Shrunk {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
    fingerprint: String,
}

/// The tokenizer that the latents were made with, with the codes `kept` alone in use.
fn tokenizer(plan: &Plan, pipeline: &Pipeline, kept: &[u16]) -> Result<Shrunk, JobError> {
    let usage = |error: &dyn std::error::Error| JobError::Usage(error.to_string());
    let config = super::encode::config_of(pipeline)?;
    let mut file = WeightsFile::open(&plan.weights).map_err(|error| usage(&error))?;
    let config = Tokenizer::config_of(&file, config).map_err(|error| usage(&error))?;
    let weights = file.load(&config.tensors()).map_err(|error| usage(&error))?;
    let expected = &plan.latents.provenance().identity.tokenizer;
    if weights.fingerprint() != expected {
        return Err(JobError::Usage(format!(
            "{} is not the tokenizer of {}: its fingerprint is {}, the latents' {expected}",
            plan.weights.display(),
            pipeline.output.url,
            weights.fingerprint()
        )));
    }
    let mut tensors = weights.into_tensors();
    let all = |used: &Tensor| Vec::<i64>::try_from(used.f_to_kind(tch::Kind::Int64)?);
    let before = tensors.get("quantize.used").map(all).transpose().map_err(|error| usage(&error))?;
    // The entries behind the ids that are kept; without a remap an id is its entry.
    let entry = |id: &u16| match &before {
        Some(used) => used.get(usize::from(*id)).copied().unwrap_or_else(|| i64::from(*id)),
        None => i64::from(*id),
    };
    let used: Vec<i64> = kept.iter().map(entry).collect();
    tensors.insert("quantize.used".to_owned(), Tensor::f_from_slice(&used).map_err(|error| usage(&error))?);
    let config = VqganConfig { used: Some(used.len() as i64), ..config };
    // What encode will say of the file.
    let weights = crate::torch::weights::Weights::from_tensors(&plan.tokenizer.display().to_string(), tensors)
        .map_err(|error| usage(&error))?;
    let device = DeviceChoice::Cpu.resolve().map_err(|error| usage(&error))?;
    let options = TokenizerOptions { device: device.device, dtype: DType::Fp32, ..TokenizerOptions::default() };
    let checked = Tokenizer::new(config, &weights, options).map_err(|error| usage(&error))?;
    let (fingerprint, metadata) = (checked.fingerprint().to_owned(), checked.config().to_metadata());
    Ok(Shrunk { path: plan.tokenizer.clone(), tensors: weights.into_tensors(), metadata, fingerprint })
}

impl Shrunk {
    /// Writes the file, unless it is there already.
    fn write(&self, overwrite: bool) -> Result<(), JobError> {
        let path = self.path.display();
        if self.path.exists() && !overwrite {
            let there = WeightsFile::open(&self.path).and_then(|mut file| file.fingerprint());
            return match there {
                Ok(there) if there == self.fingerprint => Ok(()),
                _ => Err(JobError::Usage(format!(
                    "{path} is there already, and another; pass --overwrite to replace it"
                ))),
            };
        }
        write(&self.path, &self.tensors, &self.metadata).map_err(JobError::failed)
    }
}

/// From the ids before to those kept.
struct Remap {
    ids: Vec<Option<u16>>,
    kept: u32,
    seed: u64,
}

impl Remap {
    fn new(kept: &[u16], before: &Provenance) -> Remap {
        let mut ids = vec![None; before.codebook_size as usize];
        for (new, old) in (0..=u16::MAX).zip(kept) {
            if let Some(slot) = ids.get_mut(usize::from(*old)) {
                *slot = Some(new);
            }
        }
        Remap { ids, kept: kept.len() as u32, seed: before.identity.seed }
    }

    /// Remaps the row that is the `crop`-th of its image.
    fn row(&self, unit: &str, crop: u32, row: &mut LatentRow) {
        let key = RowKey::new(self.seed, unit, row.index, crop);
        for (position, token) in (0u32..).zip(&mut row.tokens) {
            let kept = self.ids.get(usize::from(*token)).copied().flatten();
            *token = kept.unwrap_or_else(|| key.below(Purpose::Outlier, position, self.kept) as u16);
        }
    }
}

/// What was remapped.
struct Remapped {
    units: u64,
    rows: u64,
    before: Usage,
}

/// Remaps every file that is not there yet, rejects included.
async fn remap_all(
    plan: &Plan,
    output: &OutputDir,
    provenance: &Arc<Provenance>,
    remap: &Arc<Remap>,
) -> Result<Remapped, JobError> {
    let done = output.done().await.map_err(JobError::failed)?;
    let missing = |file: &&UnitFile| done.get(&file.unit).is_none_or(|newest| file.retry > *newest);
    let files: Vec<UnitFile> = plan.latents.files().iter().filter(missing).cloned().collect();
    for file in &files {
        output.sweep_file(file).await.map_err(JobError::failed)?;
    }
    let tasks = files.into_iter().map(|file| {
        let (source, output) = (plan.source.clone(), output.clone());
        let (provenance, remap) = (provenance.clone(), remap.clone());
        async move {
            let first = file.retry == 0;
            let task = tokio::spawn(async move { remap_file(&source, &output, &provenance, &remap, &file).await });
            let (rows, before) = task.await.map_err(JobError::failed)?.map_err(JobError::failed)?;
            Ok::<_, JobError>(Remapped { units: u64::from(first), rows, before })
        }
    });
    let codes = plan.latents.provenance().codebook_size;
    let none = Remapped { units: 0, rows: 0, before: Usage::new(codes) };
    let sum = |mut sum: Remapped, more: Remapped| async move {
        sum.before.merge(&more.before);
        Ok(Remapped { units: sum.units + more.units, rows: sum.rows + more.rows, before: sum.before })
    };
    futures::stream::iter(tasks).buffered(UNITS_IN_FLIGHT).try_fold(none, sum).await
}

/// Remaps one file of a unit. Returns its rows, and the use of its codes before.
async fn remap_file(
    source: &OutputDir,
    output: &OutputDir,
    provenance: &Arc<Provenance>,
    remap: &Remap,
    file: &UnitFile,
) -> Result<(u64, Usage), TableError> {
    let mut writer = UnitWriter::create(output, provenance, file.clone())?;
    let latents = read_table::<Identity>(source.store().clone(), &source.table(file)?).await?;
    let mut usage = Usage::new(latents.info().provenance.codebook_size);
    let mut rows = latents.rows()?;
    let mut last: Option<(u64, u32)> = None;
    while let Some(mut row) = rows.try_next().await? {
        usage.add(&row.tokens);
        let crop = last.filter(|(index, _)| *index == row.index).map_or(0, |(_, crop)| crop + 1);
        last = Some((row.index, crop));
        remap.row(&file.unit, crop, &mut row);
        writer.row(row).await?;
    }
    let mut rejects = read_rejects(source.store().clone(), &source.rejects(file)?).await?.rows()?;
    while let Some(reject) = rejects.try_next().await? {
        writer.reject(reject).await?;
    }
    let done = writer.commit().await?;
    Ok((done.rows, usage))
}
