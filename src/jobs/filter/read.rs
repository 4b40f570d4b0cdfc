//! What the rules need of samples and latents, read once, in order.

use super::hash::bits;
use super::near::Near;
use super::rules::{Facts, places};
use crate::config::FilterSection;
use crate::imaging::{Limits, decode};
use crate::jobs::{JobError, open_output, refusal};
use crate::tables::{
    LatentsReader, OutputDir, Provenance, Run, SamplesIdentity, SamplesReader, TableError, TokenColumn,
};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int32Type};
use futures::TryStreamExt;
use std::collections::{BTreeSet, HashMap};

/// Rows that are read at a time, with and without their images.
const BATCH_ROWS: usize = 4096;
const IMAGE_ROWS: usize = 64;

/// All samples of a run.
pub(super) struct Samples {
    pub keys: Vec<String>,
    pub facts: Vec<Facts>,
}

/// Refuses samples of which units are missing: caps and rates are of the whole run.
pub(in crate::jobs) async fn check_finished(
    dir: &OutputDir<SamplesIdentity>,
    samples: &SamplesReader,
) -> Result<(), JobError> {
    let Some(manifest) = dir.manifest().await.map_err(refusal)? else { return Ok(()) };
    let done: BTreeSet<&str> = samples.files().iter().map(|file| file.unit.as_str()).collect();
    match manifest.units.iter().find(|unit| !done.contains(unit.name.as_str())) {
        None => Ok(()),
        Some(unit) => Err(JobError::Usage(format!(
            "the samples at {} are not finished, unit {} is missing: run `imagebart sample` or `edit` to its end first",
            samples.place(),
            unit.name
        ))),
    }
}

impl Samples {
    /// Reads what `section`'s rules look at, and no other column.
    pub async fn read(samples: &SamplesReader, section: &FilterSection) -> Result<Samples, JobError> {
        let tokens = section.duplicate_tokens.is_some() || !section.against.is_empty();
        let images = section.duplicate_image.is_some();
        let mut columns = vec!["key", "prompt", "label", "score", "accepted"];
        columns.extend(tokens.then_some("tokens"));
        columns.extend(images.then_some("image"));
        let rows = if images { IMAGE_ROWS } else { BATCH_ROWS };
        let mut all = Samples { keys: Vec::new(), facts: Vec::new() };
        let mut groups = HashMap::new();
        for file in samples.files() {
            let opened = samples.file(file).await.map_err(refusal)?;
            let mut batches = opened.columns(&columns, rows).map_err(JobError::failed)?;
            while let Some(batch) = batches.try_next().await.map_err(JobError::failed)? {
                let unit = &file.unit;
                let malformed = || JobError::Failed(format!("unit {unit} of the samples has columns of a wrong type"));
                all.push(&batch, &mut groups, images)?.ok_or_else(malformed)?;
            }
        }
        let scores = section.min_score.is_some() || section.rate.is_some();
        if let Some(at) = all.facts.iter().position(|row| row.score.is_none()).filter(|_| scores) {
            return Err(JobError::Usage(format!(
                "filter.min_score and filter.rate need scores, and row {} has none: draw with a scorer, or leave these rules out",
                all.keys[at]
            )));
        }
        Ok(all)
    }

    /// Adds the rows of a batch; none when it is not one of samples.
    fn push(
        &mut self,
        batch: &RecordBatch,
        groups: &mut HashMap<(Option<String>, Option<i32>), u32>,
        images: bool,
    ) -> Result<Option<()>, JobError> {
        let Some(columns) = Columns::of(batch) else { return Ok(None) };
        for row in 0..batch.num_rows() {
            let bits = match images {
                true => {
                    let Some(file) = columns.image(batch, row) else { return Ok(None) };
                    let picture = decode(file, &Limits::default());
                    bits(&picture.map_err(|error| {
                        JobError::Failed(format!("the image of row {}: {error}", columns.keys.value(row)))
                    })?)
                }
                false => Vec::new(),
            };
            let next = groups.len() as u32;
            self.facts.push(Facts {
                group: *groups.entry(columns.group(row)).or_insert(next),
                score: columns.scores.is_valid(row).then(|| columns.scores.value(row)),
                accepted: columns.accepted.value(row),
                tokens: columns.tokens.as_ref().and_then(|tokens| tokens.row(row)).unwrap_or_default(),
                bits,
            });
            self.keys.push(columns.keys.value(row).to_owned());
        }
        Ok(Some(()))
    }
}

/// The columns of a batch of samples.
struct Columns<'a> {
    keys: &'a arrow::array::StringArray,
    prompts: &'a arrow::array::StringArray,
    labels: &'a arrow::array::Int32Array,
    scores: &'a arrow::array::Float32Array,
    accepted: &'a arrow::array::BooleanArray,
    tokens: Option<TokenColumn<'a>>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Columns<'a>> {
        let column = |name: &str| batch.column_by_name(name);
        Some(Columns {
            keys: column("key")?.as_string_opt()?,
            prompts: column("prompt")?.as_string_opt()?,
            labels: column("label")?.as_primitive_opt::<Int32Type>()?,
            scores: column("score")?.as_primitive_opt::<Float32Type>()?,
            accepted: column("accepted")?.as_boolean_opt()?,
            tokens: TokenColumn::of(batch),
        })
    }

    /// What rows of one prompt or class share.
    fn group(&self, row: usize) -> (Option<String>, Option<i32>) {
        let prompt = self.prompts.is_valid(row).then(|| self.prompts.value(row).to_owned());
        (prompt, self.labels.is_valid(row).then(|| self.labels.value(row)))
    }

    fn image(&self, batch: &'a RecordBatch, row: usize) -> Option<&'a [u8]> {
        let files = batch.column_by_name("image")?.as_struct_opt()?.column_by_name("bytes")?.as_binary_opt::<i32>()?;
        Some(files.value(row))
    }
}

/// Latents that copies are looked for among.
pub(super) struct Latents(LatentsReader);

impl Latents {
    /// Opens those at `url`, whose tokens must mean what those of `samples` mean.
    pub async fn open(url: &str, samples: &Provenance<SamplesIdentity>) -> Result<Latents, JobError> {
        let latents = LatentsReader::open(open_output(url, false).await?).await.map_err(refusal)?;
        let theirs = latents.provenance();
        let ours = (&samples.identity.tokenizer, samples.grid);
        if ours != (&theirs.identity.tokenizer, theirs.grid) {
            let ((rows, columns), (height, width)) = (samples.grid, theirs.grid);
            return Err(JobError::Usage(format!(
                "the latents at {url} cannot be compared with the samples: they are of tokenizer {} and a grid of \
                 {height}x{width}, the samples of {} and {rows}x{columns}",
                theirs.identity.tokenizer, ours.0
            )));
        }
        Ok(Latents(latents))
    }

    pub fn identity(&self) -> String {
        self.0.provenance().identity.sha256()
    }

    pub fn files(&self) -> usize {
        self.0.files().len()
    }
}

/// All rows of all latents, to be searched, and their keys.
pub(super) async fn index(
    latents: &[Latents],
    tokens: usize,
    section: &FilterSection,
) -> Result<(Option<Near>, Vec<String>), JobError> {
    if latents.is_empty() {
        return Ok((None, Vec::new()));
    }
    let (mut near, mut keys) = (Near::new(tokens, places(tokens, section.copy_tokens)), Vec::new());
    for Latents(reader) in latents {
        for file in reader.files() {
            let opened = reader.file(file).await.map_err(refusal)?;
            let mut batches = opened.columns(&["key", "tokens"], BATCH_ROWS).map_err(JobError::failed)?;
            while let Some(batch) = batches.try_next().await.map_err(JobError::failed)? {
                let malformed = || malformed(reader, &file.unit);
                let names =
                    batch.column_by_name("key").and_then(|keys| keys.as_string_opt::<i32>()).ok_or_else(malformed)?;
                let column = TokenColumn::of(&batch).ok_or_else(malformed)?;
                for row in 0..batch.num_rows() {
                    if !near.insert(&column.row(row).unwrap_or_default()) {
                        return Err(malformed());
                    }
                    keys.push(names.value(row).to_owned());
                }
            }
        }
    }
    Ok((Some(near), keys))
}

fn malformed(reader: &LatentsReader, unit: &str) -> JobError {
    let detail = "has columns of a wrong type, or there are more than 2^32 rows".to_owned();
    JobError::failed(TableError::Format { path: format!("{} (unit {unit})", reader.place()), detail })
}
