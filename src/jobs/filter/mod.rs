//! `imagebart filter`: what of a run's samples belongs to the data set.
//!
//! What can be said of a row by itself was decided while it was drawn (`accepted`). This pass has all rows before it: duplicates
//! within the run, near copies of what the chain was trained on, caps and rates. It reads committed samples and writes the
//! [`Decisions`] beside them; samples never change.

mod hash;
mod near;
mod read;
mod rules;

pub use near::{Near, Neighbour};
pub use rules::{Against, Decision, Facts, Rule, Rules, decide};

use super::{JobError, card, facts, open_output, refusal};
use crate::config::{FilterSection, Pipeline};
use crate::tables::{DecisionRow, Decisions, OutputDir, Run, SamplesIdentity, SamplesReader};
pub(super) use read::check_finished;
use read::{Latents, Samples};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What the command line adds to the pipeline file.
#[derive(Clone, Copy, Debug, Default)]
pub struct FilterOptions {
    /// Replace decisions that were made with other settings.
    pub overwrite: bool,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSummary {
    /// Where the decisions lie.
    pub place: String,
    pub rows: u64,
    /// Rows by the rule that decided.
    pub by_rule: BTreeMap<String, u64>,
    /// Whether they were there already.
    pub there: bool,
}

impl fmt::Display for FilterSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.by_rule.get(Rule::Kept.name()).copied().unwrap_or(0);
        let there = if self.there { ", as decided before: nothing to do" } else { "" };
        write!(f, "kept       {kept} of {} rows{there}", self.rows)?;
        for (rule, count) in self.by_rule.iter().filter(|(rule, _)| *rule != Rule::Kept.name()) {
            write!(f, "\n{rule:<18} {count}")?;
        }
        write!(f, "\ndecisions  {}", self.place)
    }
}

/// What decisions rest on besides the samples: in clear in their file.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Settings<'a> {
    rules: &'a FilterSection,
    /// SHA-256 of the identities of the latents in `against`.
    against: Vec<String>,
}

/// The samples and latents, opened and checked.
struct Plan {
    dir: OutputDir<SamplesIdentity>,
    samples: SamplesReader,
    latents: Vec<Latents>,
    settings: String,
}

impl Plan {
    async fn make(pipeline: &Pipeline) -> Result<Plan, JobError> {
        let section = &pipeline.filter;
        let dir: OutputDir<SamplesIdentity> = open_output(&pipeline.output.url, false).await?.of();
        let samples = SamplesReader::open(dir.clone()).await.map_err(refusal)?;
        read::check_finished(&dir, &samples).await?;
        let mut latents = Vec::new();
        for url in &section.against {
            latents.push(Latents::open(url, samples.provenance()).await?);
        }
        let against = latents.iter().map(Latents::identity).collect();
        let settings = serde_json::to_string(&Settings { rules: section, against }).map_err(JobError::failed)?;
        Ok(Plan { dir, samples, latents, settings })
    }
}

/// What [`filter`] would do, for `--dry-run`.
pub async fn describe(pipeline: &Pipeline) -> Result<String, JobError> {
    let plan = Plan::make(pipeline).await?;
    let latents: usize = plan.latents.iter().map(Latents::files).sum();
    Ok(format!(
        "samples    {} files at {}\nagainst    {latents} files of latents\nrules      {}\ndecisions  {}",
        plan.samples.files().len(),
        pipeline.output.url,
        plan.settings,
        Decisions::path(&plan.dir)
    ))
}

/// Decides about every sample of the output, and writes the decisions beside them.
///
/// # Errors
/// [`JobError::Usage`] for samples that are not finished, a rule for scores where rows have none, latents of another tokenizer, and
/// decisions of other settings; damage and what stores report are failures.
pub async fn filter(pipeline: &Pipeline, options: &FilterOptions) -> Result<FilterSummary, JobError> {
    let plan = Plan::make(pipeline).await?;
    let identity = plan.samples.provenance().identity.sha256();
    let place = format!("{}/decisions/decisions.parquet", plan.samples.place().trim_end_matches('/'));
    if !options.overwrite
        && let Some(there) = Decisions::read(&plan.dir).await.map_err(refusal)?
    {
        if (&there.samples, &there.filter) == (&identity, &plan.settings) {
            return Ok(summary(&there.rows, place, true));
        }
        return Err(JobError::Usage(format!(
            "{place} has decisions of other samples or rules ({}); pass --overwrite to replace them",
            there.filter
        )));
    }
    let section = &pipeline.filter;
    let samples = Samples::read(&plan.samples, section).await?;
    let (near, latent_keys) = read::index(&plan.latents, plan.samples.provenance().tokens(), section).await?;
    let rules = Rules {
        min_score: section.min_score,
        tokens: section.duplicate_tokens,
        bits: section.duplicate_image,
        per_prompt: section.per_prompt,
        rate: section.rate,
    };
    tracing::info!(rows = samples.facts.len(), latents = latent_keys.len(), "deciding");
    // Minutes for millions of rows.
    let deciding = tokio::task::spawn_blocking(move || {
        let decisions = decide(&samples.facts, &rules, near.as_ref());
        rows(&samples.keys, &latent_keys, decisions)
    });
    let rows = deciding.await.map_err(JobError::failed)?;
    let summary = summary(&rows, place, false);
    let decisions = Decisions { samples: identity, filter: plan.settings, rows };
    decisions.write(&plan.dir).await.map_err(JobError::failed)?;
    if let Some(recorded) = facts::recorded_pipeline(&plan.dir).await {
        card::write(&plan.dir, &recorded).await?;
    }
    Ok(summary)
}

/// The table's rows, in the samples' order.
fn rows(keys: &[String], latents: &[String], decisions: Vec<Decision>) -> Vec<DecisionRow> {
    let neighbour = |against: Against| match against {
        Against::Sample(row) => keys.get(row).cloned(),
        Against::Latent(row) => latents.get(row as usize).cloned(),
    };
    let row = |(key, decision): (&String, Decision)| DecisionRow {
        key: key.clone(),
        kept: decision.rule == Rule::Kept,
        rule: decision.rule.name().to_owned(),
        value: decision.value,
        neighbour: decision.neighbour.and_then(neighbour),
    };
    keys.iter().zip(decisions).map(row).collect()
}

fn summary(rows: &[DecisionRow], place: String, there: bool) -> FilterSummary {
    let mut by_rule = BTreeMap::new();
    for row in rows {
        *by_rule.entry(row.rule.clone()).or_default() += 1;
    }
    FilterSummary { place, rows: rows.len() as u64, by_rule, there }
}
