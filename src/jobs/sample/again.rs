//! One image of a run once more, from the batch it was drawn in.

use super::SampleOptions;
use super::plan::SamplePlan;
use super::scales::How;
use super::stages::{develop, on_threads};
use crate::config::Pipeline;
use crate::datasets::Unit;
use crate::jobs::developer::to_row;
use crate::jobs::facts::recorded_pipeline;
use crate::jobs::running::unless_cancelled;
use crate::jobs::{JobError, open_output, output_error};
use crate::tables::{Difference, OutputDir, Provenance, SampleRow, SamplesIdentity, TableError, read_samples};
use futures::TryStreamExt;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Which image is drawn again.
#[derive(Clone, Debug)]
pub struct AgainOptions {
    /// Its key in the table of samples.
    pub key: String,
    /// The file it is written to; one of its name in the current directory when left out.
    pub to: Option<PathBuf>,
    /// Go on where the run's identity names another class of device: the image may then be another.
    pub force: bool,
}

/// An image that was drawn again.
#[derive(Clone, Debug)]
pub struct Again {
    pub row: SampleRow,
    /// The file it was written to.
    pub to: PathBuf,
    pub comparison: Comparison,
}

/// How an image compares with the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Same,
    /// Drawn by another class of device: of this many tokens so many differ.
    Differs {
        tokens: usize,
        of: usize,
    },
    /// It is not in the table: it was not accepted, or its unit is not done.
    Absent,
}

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.row.key)?;
        match self.comparison {
            Comparison::Same => write!(f, "the same tokens and bytes as recorded"),
            Comparison::Differs { tokens, of } => write!(f, "{tokens} of {of} tokens are not those recorded"),
            Comparison::Absent => write!(f, "not in the table, so there is nothing to compare it with"),
        }?;
        write!(f, "; written to {}", self.to.display())
    }
}

/// The pipeline of the run at `url`, as its own record tells it: an output may stand for the pipeline file that made it. What an
/// output has been moved or copied to is where it is.
///
/// # Errors
/// [`JobError::Usage`] where no run of `sample` is recorded.
pub async fn recorded_run(url: &str) -> Result<Pipeline, JobError> {
    let output = open_output(url, false).await?.of::<SamplesIdentity>();
    let Some(mut pipeline) = recorded_pipeline(&output).await else {
        return Err(JobError::Usage(format!(
            "{url} has no run-samples.json, which tells how its samples were drawn: give the pipeline file of the run"
        )));
    };
    pipeline.output.url = url.to_owned();
    Ok(pipeline)
}

/// Draws an image of the finished or unfinished run of `pipeline` again: the recorded batch that holds it, with the settings that
/// are recorded.
///
/// # Errors
/// [`JobError::Usage`]: no run there, a run of another identity, no such key. [`JobError::Failed`]: on the recorded class of device
/// it is not the image that is recorded.
pub async fn draw_again(
    pipeline: &Pipeline,
    options: &SampleOptions,
    again: &AgainOptions,
    cancel: CancellationToken,
) -> Result<Again, JobError> {
    let plan = unless_cancelled(SamplePlan::make(pipeline, options), &cancel).await?;
    let url = &pipeline.output.url;
    let (drawer, developer, work) = plan.load(pipeline)?;
    let output = open_output(url, false).await?.of::<SamplesIdentity>();
    check(&output, &work.provenance, url, again.force).await?;

    let found = plan.draws.find(&again.key).await.map_err(|error| JobError::Usage(error.to_string()))?;
    let holds = |unit: &&Arc<Unit>, number| unit.range.as_ref().is_some_and(|range| range.contains(&number));
    let place = found.and_then(|number| Some((number, plan.units.iter().find(|unit| holds(unit, number))?)));
    let Some((number, unit)) = place else {
        return Err(JobError::Usage(format!("there is no image called {} in the run at {url}", again.key)));
    };
    let batch = batch_of(number, unit, plan.model.settings.batch_size.into());
    let mut stream = plan.draws.clone().start();
    let mut draws = Vec::new();
    for number in batch {
        draws.push(stream.draw(number, unit.clone()).await.map_err(|error| JobError::Failed(error.to_string()))?);
    }
    let how = How { likelihood: false, ..plan.how() };
    let (format, key) = (plan.model.image, again.key.clone());
    let drawing = tokio::task::spawn_blocking(move || {
        let (drawer, developer) = on_threads(how.threads, (drawer, developer))?;
        develop(&developer, None, drawer.draw(how, draws)?)
    });
    let drawn = drawing.await.map_err(JobError::failed)?.map_err(|error| JobError::Failed(error.to_string()))?;
    let row = drawn.into_iter().find(|drawn| drawn.key == key).map(|drawn| to_row(drawn, format));
    let row = match row.into_iter().flatten().next() {
        Some(Ok(row)) => row,
        Some(Err(reject)) => return Err(JobError::Failed(reject.message)),
        None => return Err(JobError::Failed(format!("{} is not in its batch", again.key))),
    };
    let comparison = compare(&output, unit, &row).await.map_err(JobError::failed)?;
    if let Comparison::Differs { tokens, of } = comparison
        && !again.force
    {
        return Err(JobError::Failed(format!(
            "{}: {tokens} of {of} tokens, or the file made of them, are not those recorded, although the identity is",
            again.key
        )));
    }
    let to = again.to.clone().unwrap_or_else(|| file_name(&row.image.path));
    std::fs::write(&to, &row.image.bytes)
        .map_err(|error| JobError::Usage(format!("cannot write {}: {error}", to.display())))?;
    Ok(Again { row, to, comparison })
}

/// The rows of `unit` that are drawn together with row `number`, in batches of `size`.
fn batch_of(number: u64, unit: &Unit, size: u64) -> std::ops::Range<u64> {
    let range = unit.range.clone().unwrap_or_default();
    let start = number - (number - range.start) % size.max(1);
    start..start.saturating_add(size).min(range.end)
}

/// The run must be the one that is recorded; another class of device is let pass by `force`.
pub(super) async fn check(
    output: &OutputDir<SamplesIdentity>,
    ours: &Provenance<SamplesIdentity>,
    url: &str,
    force: bool,
) -> Result<(), JobError> {
    let manifest = output.manifest().await.map_err(|error| output_error(url, error))?;
    let Some(manifest) = manifest else {
        return Err(JobError::Usage(format!("there are no samples at {url}: --key draws an image of a run again")));
    };
    let mut differences: Vec<Difference> = ours.difference(&manifest.provenance());
    let foreign = differences.iter().any(|difference| difference.field == "device");
    if foreign && force {
        // What follows from it, too.
        differences.retain(|difference| {
            !["device", "dtype", "tokenizer_dtype", "threads"].contains(&difference.field.as_str())
        });
    }
    if differences.is_empty() {
        return Ok(());
    }
    let path = format!("{}/{}", output.root(), "samples-manifest.json");
    let hint = if foreign { "; --force draws on another class of device, where the image may be another" } else { "" };
    Err(JobError::Usage(format!("{}{hint}", TableError::Identity { path, differences })))
}

/// Compares a row with the one of its key in the table.
async fn compare(output: &OutputDir<SamplesIdentity>, unit: &Unit, row: &SampleRow) -> Result<Comparison, TableError> {
    if !output.done().await?.contains_key(&unit.name) {
        return Ok(Comparison::Absent);
    }
    let path = output.table(&unit.name.as_str().into())?;
    let mut rows = read_samples(output.store().clone(), &path).await?.rows()?;
    while let Some(recorded) = rows.try_next().await? {
        if recorded.key == row.key {
            let differ = recorded.tokens.iter().zip(&row.tokens).filter(|(a, b)| a != b).count();
            return Ok(match differ == 0 && recorded.image == row.image {
                true => Comparison::Same,
                false => Comparison::Differs { tokens: differ, of: row.tokens.len() },
            });
        }
    }
    Ok(Comparison::Absent)
}

/// A file of the current directory called like an image, whatever its key.
fn file_name(path: &str) -> PathBuf {
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = path.chars().map(plain).collect();
    Path::new(name.trim_start_matches('.')).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_of_a_row_is_counted_from_its_unit() {
        let unit = Unit { name: "rows@4-9".to_owned(), sources: Vec::new(), range: Some(4..9) };
        assert_eq!((batch_of(4, &unit, 3), batch_of(6, &unit, 3)), (4..7, 4..7));
        assert_eq!((batch_of(7, &unit, 3), batch_of(8, &unit, 100)), (7..9, 4..9));
    }

    #[test]
    fn names_of_files_stay_in_the_folder() {
        assert_eq!(file_name("../a/b c-0.png"), Path::new("_a_b_c-0.png"));
        assert_eq!(file_name("ü-0.png"), Path::new("ü-0.png"));
    }
}
