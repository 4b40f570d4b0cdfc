//! What every job that fills a table shares: its output, its units, and which of them are left to do.

use super::{JobError, card, facts, open_output, output_error};
use crate::config::DType;
use crate::datasets::{Source, Unit};
use crate::launch::Rank;
use crate::tables::{
    Manifest, ManifestUnit, OutputDir, Provenance, Run, SourceFile, TableError, UnitFile, UnitSummary, read_table,
};
use crate::torch::device::{DeviceChoice, DeviceInUse};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Units that a dry run names.
const NAMED: usize = 10;
/// Footers of finished units read at a time.
const FOOTERS_IN_FLIGHT: usize = 16;

/// The identity that the output at `url` records, if there is one and it is to be kept.
pub async fn recorded<I: Run>(url: &str, overwrite: bool) -> Result<Option<I>, JobError> {
    if overwrite {
        return Ok(None);
    }
    // A local directory that is not there yet is no fault; everything else shows when the output is opened for writing.
    match open_output(url, false).await {
        Ok(output) => {
            let manifest = output.of::<I>().manifest().await.map_err(|error| output_error(url, error))?;
            Ok(manifest.map(|manifest| manifest.identity))
        }
        Err(error) if url.contains("://") && !url.starts_with("file://") => Err(error),
        Err(_) => Ok(None),
    }
}

/// The device to use. A run that began on the CPU (`recorded` is the device it names) goes on there, also where there is a GPU
/// now.
pub fn device_for(choice: DeviceChoice, recorded: Option<&str>) -> Result<DeviceInUse, JobError> {
    let choice = match choice {
        DeviceChoice::Auto if recorded == Some("cpu") => DeviceChoice::Cpu,
        choice => choice,
    };
    choice.resolve().map_err(|error| JobError::Usage(error.to_string()))
}

/// Processors of this machine: what `auto` takes for threads and workers.
pub fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get()) as u32
}

/// A number type's name in identities.
pub fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::Fp32 => "fp32",
        DType::Bf16 => "bf16",
    }
}

/// The number type an identity names.
pub fn dtype_named(name: &str) -> Option<DType> {
    [DType::Fp32, DType::Bf16].into_iter().find(|dtype| dtype_name(*dtype) == name)
}

/// Bytes of the units' sources; one that several units share counts once.
pub fn bytes_of(units: &[Arc<Unit>]) -> u64 {
    let sources: BTreeMap<&str, u64> =
        units.iter().flat_map(|unit| &unit.sources).map(|source| (source.path.as_str(), source.size)).collect();
    sources.values().fold(0, |sum, &size| sum.saturating_add(size))
}

/// All units of a job, in order, and where their output goes.
pub struct Work<I: Run> {
    pub units: Vec<Arc<Unit>>,
    pub provenance: Arc<Provenance<I>>,
    /// The pipeline's `output.url`.
    pub url: String,
    /// Whether the output was there already, to be gone on with.
    pub recorded: bool,
}

impl<I: Run> Work<I> {
    /// The manifest of the output: depends on identity and input alone.
    fn manifest(&self) -> Manifest<I> {
        let source =
            |source: &Source| SourceFile { path: source.path.clone(), size: source.size, etag: source.etag.clone() };
        let unit = |unit: &Arc<Unit>| ManifestUnit {
            name: unit.name.clone(),
            sources: unit.sources.iter().map(source).collect(),
        };
        Manifest::new(&self.provenance, self.units.iter().map(unit).collect())
    }

    /// Opens the output for writing: see [`Work::begin`].
    pub async fn open(&self, rank: Rank, overwrite: bool) -> Result<OutputDir<I>, JobError> {
        self.begin(open_output(&self.url, true).await?.of::<I>(), rank, overwrite).await
    }

    /// Begins a run in `output`, or goes on with one: refuses one of another identity, or clears it when told to.
    pub async fn begin(&self, output: OutputDir<I>, rank: Rank, overwrite: bool) -> Result<OutputDir<I>, JobError> {
        let own = self.own(rank);
        let own: Vec<&str> = own.iter().map(|unit| unit.name.as_str()).collect();
        let manifest = self.manifest();
        let refused = |error| output_error(&self.url, error);
        if overwrite {
            output.overwrite(&manifest, &own, rank.rank == 0).await.map_err(refused)?;
        } else {
            output.begin(&manifest).await.map_err(refused)?;
            output.sweep(&own).await.map_err(JobError::failed)?;
        }
        let beside = [&facts::file_name::<I>(rank), card::CARD];
        output.sweep_beside(&beside).await.map_err(JobError::failed)?;
        Ok(output)
    }

    /// This rank's units that are not done in `output`.
    pub async fn pending(&self, output: &OutputDir<I>, rank: Rank) -> Result<Pending, JobError> {
        Ok(split(&self.units, rank, &output.done().await.map_err(JobError::failed)?))
    }

    /// This rank's units that are not done, for `--dry-run`: an output that is not there yet has none.
    pub async fn outlook(&self, rank: Rank, overwrite: bool) -> Result<Pending, JobError> {
        outlook::<I>(&self.units, (&self.url, self.recorded && !overwrite), rank).await
    }

    /// This rank's units.
    fn own(&self, rank: Rank) -> Vec<Arc<Unit>> {
        split(&self.units, rank, &BTreeMap::new()).units
    }
}

/// This rank's share of `units` that is not done at `url`, if what is there is to be kept.
pub async fn outlook<I: Run>(units: &[Arc<Unit>], (url, keep): (&str, bool), rank: Rank) -> Result<Pending, JobError> {
    let done = match open_output(url, false).await {
        Ok(output) if keep => output.of::<I>().done().await.map_err(|error| output_error(url, error))?,
        _ => BTreeMap::new(),
    };
    Ok(split(units, rank, &done))
}

/// This rank's share of `units`, by whether they are `done`.
fn split(units: &[Arc<Unit>], rank: Rank, done: &BTreeMap<String, u32>) -> Pending {
    let own = units.iter().enumerate().filter(|(position, _)| rank.owns(*position)).map(|(_, unit)| unit.clone());
    let (finished, units) = own.partition::<Vec<_>, _>(|unit| done.contains_key(&unit.name));
    let finished = finished.into_iter().map(|unit| (done.get(&unit.name).copied().unwrap_or(0), unit));
    Pending { units, finished: finished.map(|(newest, unit)| Finished { unit, newest }).collect() }
}

/// This rank's share of the work.
pub struct Pending {
    pub units: Vec<Arc<Unit>>,
    /// The units that earlier runs committed.
    pub finished: Vec<Finished>,
}

/// A unit that is done.
#[derive(Clone, Debug)]
pub struct Finished {
    pub unit: Arc<Unit>,
    /// The newest retry of its rejects, 0 where there was none.
    pub newest: u32,
}

impl Pending {
    /// Units of this rank, done or not.
    pub fn own(&self) -> usize {
        self.units.len() + self.finished.len()
    }

    /// The first units that are left to do, a line each, for `--dry-run`.
    pub fn list(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for unit in self.units.iter().take(NAMED) {
            writeln!(f, "           {}", unit.name)?;
        }
        match self.units.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => writeln!(f, "           and {more} more"),
        }
    }

    /// One line for the user.
    pub fn line(&self) -> String {
        let all = self.own();
        match (self.units.len(), self.finished.len()) {
            (0, _) => format!("nothing to do: all {all} units are done"),
            (_, 0) => format!("{all} units to do"),
            (left, done) => format!("{done} of {all} units are done already, {left} to do"),
        }
    }

    /// The same units with the retries that are there now.
    pub async fn finished_in<I: Run>(&self, output: &OutputDir<I>) -> Result<Pending, JobError> {
        let done = output.done().await.map_err(JobError::failed)?;
        let now = |finished: &Finished| Finished {
            newest: done.get(&finished.unit.name).copied().unwrap_or(finished.newest),
            ..finished.clone()
        };
        Ok(Pending { units: self.units.clone(), finished: self.finished.iter().map(now).collect() })
    }

    /// What earlier runs committed, read from the files' own words.
    pub async fn earlier<I: Run>(&self, output: &OutputDir<I>) -> Result<UnitSummary, JobError> {
        let files = self.finished.iter().flat_map(|Finished { unit, newest }| {
            UnitFile::all(&unit.name, *newest).map(move |file| (file.retry == *newest, file))
        });
        let read = |(is_newest, file): (bool, UnitFile)| async move {
            let file = read_table::<I>(output.store().clone(), &output.table(&file)?).await?;
            Ok::<_, TableError>((file.info().clone(), is_newest))
        };
        let infos = futures::stream::iter(files).map(read).buffer_unordered(FOOTERS_IN_FLIGHT);
        let total = infos.try_fold(UnitSummary::default(), |mut total, (info, is_newest)| async move {
            total.rows += info.rows;
            total.samples += info.samples;
            // Each retry's rejects are what it left of those before it.
            total.rejects += if is_newest { info.rejects } else { 0 };
            Ok(total)
        });
        total.await.map_err(JobError::failed)
    }
}
