//! What became of the images of a run, counted in its tables.

use crate::reject::Reason;
use crate::tables::{Decisions, OutputDir, SamplesIdentity, SamplesReader, TableError, UnitFile, read_rejects_of};
use arrow::array::{Array, AsArray};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;

/// Files that are read at a time.
const FILES_IN_FLIGHT: usize = 16;
/// Rows of a batch of one or two small columns.
const BATCH_ROWS: usize = 1 << 14;

/// How many images were drawn, and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Images that the run was to draw.
    pub drawn: u64,
    /// Those in the table that were accepted, and those that were not.
    pub accepted: u64,
    pub not_accepted: u64,
    /// Those that are in no table because they were not accepted.
    pub dropped: u64,
    /// Those that could not be made, by reason.
    pub rejected: BTreeMap<Reason, u64>,
    /// Rows by the rule of `imagebart filter` that decided; none where it was not run.
    pub rules: Option<BTreeMap<String, u64>>,
    /// Whether any row has a prompt.
    pub prompts: bool,
}

impl Counts {
    /// Counts what is in the tables. Of images and tokens nothing is read.
    pub async fn read(
        dir: &OutputDir<SamplesIdentity>,
        samples: &SamplesReader,
        decisions: Option<&Decisions>,
    ) -> Result<Counts, TableError> {
        let files = futures::stream::iter(samples.files()).map(|file| of_file(dir, samples, file));
        let mut counts = files
            .buffered(FILES_IN_FLIGHT)
            .try_fold(Counts::default(), |mut sum, file| async move {
                sum.accepted += file.accepted;
                sum.not_accepted += file.not_accepted;
                sum.prompts |= file.prompts;
                for (reason, count) in file.rejected {
                    *sum.rejected.entry(reason).or_default() += count;
                }
                Ok(sum)
            })
            .await?;
        counts.drawn = samples.provenance().identity.rows.count;
        let there = counts.accepted + counts.not_accepted + counts.rejected.values().sum::<u64>();
        counts.dropped = counts.drawn.saturating_sub(there);
        counts.rules = decisions.map(|decisions| {
            let mut rules = BTreeMap::new();
            decisions.rows.iter().for_each(|row| *rules.entry(row.rule.clone()).or_default() += 1);
            rules
        });
        Ok(counts)
    }

    /// Images that `imagebart filter` kept; all that were accepted where it was not run.
    pub fn kept(&self) -> u64 {
        match &self.rules {
            Some(rules) => rules.get(crate::jobs::filter::Rule::Kept.name()).copied().unwrap_or(0),
            None => self.accepted,
        }
    }
}

/// What one file and the rejects beside it have.
async fn of_file(
    dir: &OutputDir<SamplesIdentity>,
    samples: &SamplesReader,
    file: &UnitFile,
) -> Result<Counts, TableError> {
    let mut counts = Counts::default();
    let rows = samples.file(file).await?;
    let rejects = rows.info().rejects;
    let mut batches = rows.columns(&["prompt", "accepted"], BATCH_ROWS)?;
    while let Some(batch) = batches.try_next().await? {
        let accepted = batch.column_by_name("accepted").and_then(|column| column.as_boolean_opt());
        let accepted = accepted.map_or(0, |column| column.true_count() as u64);
        counts.accepted += accepted;
        counts.not_accepted += batch.num_rows() as u64 - accepted;
        counts.prompts |= batch.column_by_name("prompt").is_some_and(|column| column.null_count() < column.len());
    }
    if rejects > 0 {
        let path = dir.rejects(file)?;
        let mut rows = read_rejects_of::<SamplesIdentity>(dir.store().clone(), &path).await?.rows()?;
        while let Some(reject) = rows.try_next().await? {
            *counts.rejected.entry(reject.reason).or_default() += 1;
        }
    }
    Ok(counts)
}
