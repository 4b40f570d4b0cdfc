//! `imagebart export`: the samples that were accepted and kept, as a data set that others read.
//!
//! As WebDataset shards, or as a folder of images with a `metadata.jsonl` that Hugging Face `datasets` takes as `imagefolder`. Images go
//! over as they are, byte for byte. `README.md`, the data-set card, is written last: where it is, the export is whole.

mod folder;
mod shards;

use super::card::{CARD, Card, Counts, Form, sealed};
use super::{JobError, facts, open_output, refusal};
use crate::config::CardSection;
use crate::tables::{Decisions, OutputDir, SampleRow, SamplesIdentity, SamplesReader, TableError};
use clap::ValueEnum;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use serde::Serialize;
use std::fmt;

/// How the data set lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Tar shards of `<key>.png`, `.json` and where there are any `.txt` and `.cls`.
    Webdataset,
    /// Image files in numbered folders, and `metadata.jsonl`.
    Folder,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The output with the samples.
    pub url: String,
    pub format: ExportFormat,
    /// A new or empty place: a local path or a URL.
    pub to: String,
    /// Images of a shard, or of a folder.
    pub per_shard: u64,
    /// Written into the card; where it is left out, the one that the run's pipeline has.
    pub licence: Option<String>,
    /// Write over what is there.
    pub overwrite: bool,
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportSummary {
    pub to: String,
    /// Rows of the run.
    pub rows: u64,
    /// Rows that the run itself did not accept.
    pub not_accepted: u64,
    /// Rows that `filter` did not keep; none where it was not run.
    pub not_kept: Option<u64>,
    pub exported: u64,
    /// Shards or folders.
    pub parts: u64,
}

impl fmt::Display for ExportSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exported   {} of {} rows in {} parts", self.exported, self.rows, self.parts)?;
        let kept = match self.not_kept {
            Some(count) => format!("{count} not kept by `imagebart filter`"),
            None => "`imagebart filter` was not run".to_owned(),
        };
        write!(f, "left out   {} not accepted by the run, {kept}\nto         {}", self.not_accepted, self.to)
    }
}

/// What is told of an image besides itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Facts<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<i32>,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a str>,
    #[serde(flatten)]
    settings: &'a crate::tables::RowSettings,
}

impl Facts<'_> {
    fn of(row: &SampleRow) -> Facts<'_> {
        Facts {
            key: &row.key,
            prompt: row.prompt.as_deref(),
            label: row.label,
            seed: row.seed,
            score: row.score,
            rank: row.rank,
            parent: row.parent.as_deref(),
            settings: &row.settings,
        }
    }
}

/// A row's name as a file's: what paths and WebDataset give a meaning is written as `%` and two hex digits.
fn file_stem(key: &str) -> String {
    let mut stem = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => stem.push(byte.into()),
            _ => stem.push_str(&format!("%{byte:02X}")),
        }
    }
    stem
}

/// The ending of a row's image file.
fn ending(row: &SampleRow) -> &str {
    row.image.path.rsplit_once('.').map_or("png", |(_, ending)| ending)
}

/// What takes the rows.
enum Writer {
    Shards(shards::Shards),
    Folder(folder::Folder),
}

/// Where the rows come from, and which of them go over.
struct Plan {
    samples: SamplesReader,
    decisions: Option<Decisions>,
    from: OutputDir<SamplesIdentity>,
    to: OutputDir<SamplesIdentity>,
}

impl Plan {
    async fn make(options: &ExportOptions, create: bool) -> Result<Plan, JobError> {
        let dir: OutputDir<SamplesIdentity> = open_output(&options.url, false).await?.of();
        let samples = SamplesReader::open(dir.clone()).await.map_err(refusal)?;
        super::filter::check_finished(&dir, &samples).await?;
        let decisions = Decisions::read(&dir).await.map_err(refusal)?;
        if let Some(decisions) = &decisions {
            decisions.check(&dir, &samples.provenance().identity).map_err(refusal)?;
        }
        // A dry run makes no folder.
        let to = match create || options.to.contains("://") {
            true => open_output(&options.to, true).await?.of(),
            false => dir.clone(),
        };
        if create && !options.overwrite && !to.list_below(to.root()).await.map_err(refusal)?.is_empty() {
            let message = format!("{} is not empty: choose another place with --to, or pass --overwrite", options.to);
            return Err(JobError::Usage(message));
        }
        Ok(Plan { samples, decisions, from: dir, to })
    }
}

/// What [`export`] would do, for `--dry-run`.
pub async fn describe(options: &ExportOptions) -> Result<String, JobError> {
    let plan = Plan::make(options, false).await?;
    let decisions = match &plan.decisions {
        Some(decisions) => {
            let kept = decisions.rows.iter().filter(|row| row.kept).count();
            format!("{kept} of {} rows are kept by `imagebart filter`", decisions.rows.len())
        }
        None => "all accepted rows: `imagebart filter` was not run".to_owned(),
    };
    Ok(format!(
        "samples    {} files at {}\ndecisions  {decisions}\nto         {}, {} images a part",
        plan.samples.files().len(),
        options.url,
        options.to,
        options.per_shard
    ))
}

/// Writes the accepted and kept samples of an output to a data set of their own.
///
/// # Errors
/// [`JobError::Usage`] for samples that are not finished, decisions about others, and a place that is not empty; damage and what stores
/// report are failures.
pub async fn export(options: &ExportOptions) -> Result<ExportSummary, JobError> {
    let plan = Plan::make(options, true).await?;
    let mut summary = ExportSummary {
        to: options.to.clone(),
        not_kept: plan.decisions.as_ref().map(|_| 0),
        ..ExportSummary::default()
    };
    let mut writer = match options.format {
        ExportFormat::Webdataset => Writer::Shards(shards::Shards::new(&plan.to, options.per_shard)),
        ExportFormat::Folder => Writer::Folder(folder::Folder::new(&plan.to, options.per_shard)),
    };
    let mut rows = plan.samples.rows();
    let mut decisions = plan.decisions.iter().flat_map(|decisions| &decisions.rows);
    while let Some(row) = rows.try_next().await.map_err(JobError::failed)? {
        summary.rows += 1;
        let kept = match plan.decisions {
            Some(_) => decided(&row, decisions.next())?,
            None => true,
        };
        if !row.accepted {
            summary.not_accepted += 1;
        } else if !kept {
            summary.not_kept = summary.not_kept.map(|count| count + 1);
        } else {
            summary.exported += 1;
            match &mut writer {
                Writer::Shards(shards) => shards.push(&row).await,
                Writer::Folder(folder) => folder.push(&row).await,
            }
            .map_err(JobError::failed)?;
        }
    }
    summary.parts = match writer {
        Writer::Shards(shards) => shards.finish().await,
        Writer::Folder(folder) => folder.finish().await,
    }
    .map_err(JobError::failed)?;
    card(&plan, options, &summary).await?;
    Ok(summary)
}

/// Writes the data-set card.
async fn card(plan: &Plan, options: &ExportOptions, summary: &ExportSummary) -> Result<(), JobError> {
    let counts = Counts::read(&plan.from, &plan.samples, plan.decisions.as_ref()).await.map_err(JobError::failed)?;
    let recorded = facts::recorded_pipeline(&plan.from).await;
    let said = recorded.as_ref().map(|pipeline| pipeline.card.clone()).unwrap_or_default();
    let section = CardSection { licence: options.licence.clone().or(said.licence), ..said };
    let form = match options.format {
        ExportFormat::Webdataset => Form::Webdataset(summary.exported),
        ExportFormat::Folder => Form::Folder(summary.exported),
    };
    let provenance = plan.samples.provenance();
    let card = Card { form, provenance, counts: &counts, section: &section, pipeline: recorded.as_ref() };
    plan.to.put(CARD, sealed(card.to_string())).await.map_err(JobError::failed)
}

/// Whether a row is kept by its decision, which must be its own.
fn decided(row: &SampleRow, decision: Option<&crate::tables::DecisionRow>) -> Result<bool, JobError> {
    match decision {
        Some(decision) if decision.key == row.key => Ok(decision.kept),
        _ => Err(JobError::Usage(format!(
            "there is no decision about row {} in its place: run `imagebart filter --overwrite`",
            row.key
        ))),
    }
}

/// Puts a file, whole or not at all.
async fn put(dir: &OutputDir<SamplesIdentity>, name: &str, bytes: bytes::Bytes) -> Result<(), TableError> {
    let path = object_store::path::Path::parse(format!("{}/{name}", dir.root()).trim_start_matches('/'))
        .map_err(|error| TableError::Format { path: name.to_owned(), detail: error.to_string() })?;
    let stored = dir.store().put(&path, bytes.into()).await;
    stored.map(drop).map_err(|source| TableError::Store { path: path.to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_safe_and_distinct() {
        assert_eq!(file_stem("a-0_9Z"), "a-0_9Z");
        assert_eq!(file_stem("../a.b %"), "%2E%2E%2Fa%2Eb%20%25");
        assert_ne!(file_stem("a%2E"), file_stem("a."));
    }
}
