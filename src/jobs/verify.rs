//! `imagebart verify`: is an output directory what it says, whole and undamaged?
//!
//! Every file is read to its end. Checked are the manifest; each file's seal, schema and provenance; its counts; every
//! row's place, tokens and checksum; latents against rejects of the same unit; units without a file, and files without a
//! unit. Nothing is changed.

use super::with_causes;
use crate::tables::{
    FileInfo, Manifest, OutputDir, Provenance, RowCheck, TableError, check_seal, read_latents, read_rejects,
    unit_of_path,
};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Units that are read at once.
const UNITS_IN_FLIGHT: usize = 4;
/// Problems and gaps that the report's text lists in full.
const SHOWN: usize = 50;

/// What is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file's path in its store.
    pub file: String,
    /// One sentence.
    pub detail: String,
}

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The directory's path in its store.
    pub root: String,
    /// Units the manifest lists; none without a readable manifest.
    pub units: Option<u64>,
    /// Units with a latents file, damaged or not.
    pub done: u64,
    /// Readable rows of latents.
    pub rows: u64,
    /// Readable rows of rejects.
    pub rejects: u64,
    /// What is wrong, in the order of files.
    pub problems: Vec<Problem>,
    /// Units of the manifest that are not done.
    pub gaps: Vec<String>,
}

impl VerifyReport {
    /// Whether everything is there and nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty() && self.gaps.is_empty()
    }

    fn add(&mut self, file: impl ToString, detail: impl ToString) {
        self.problems.push(Problem { file: file.to_string(), detail: detail.to_string() });
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = self.units.map_or("an unknown number of".to_owned(), |units| units.to_string());
        writeln!(f, "{} of {units} units done, {} rows, {} rejects", self.done, self.rows, self.rejects)?;
        for problem in self.problems.iter().take(SHOWN) {
            writeln!(f, "problem: {}: {}", problem.file, problem.detail)?;
        }
        for gap in self.gaps.iter().take(SHOWN) {
            writeln!(f, "missing: unit {gap}")?;
        }
        let hidden = self.problems.len().saturating_sub(SHOWN) + self.gaps.len().saturating_sub(SHOWN);
        if hidden > 0 {
            writeln!(f, "... and {hidden} more")?;
        }
        match (self.problems.len(), self.gaps.len()) {
            (0, 0) => write!(f, "OK"),
            (0, gaps) => {
                write!(f, "INCOMPLETE: what is there is sound; {gaps} units are missing, encode again to add them")
            }
            (problems, gaps) => write!(f, "NOT OK: {problems} problems, {gaps} units missing"),
        }
    }
}

/// Checks the output directory `dir`. Nothing needs to be known of it, and it may be unfinished.
///
/// # Errors
///
/// Only when the directory cannot be listed, or there is nothing of ours in it. Damage is reported, not an error.
pub async fn verify(dir: &OutputDir) -> Result<VerifyReport, TableError> {
    let mut report = VerifyReport { root: dir.root().to_string(), ..VerifyReport::default() };
    let (latents, rejects) = (dir.list("latents").await?, dir.list("rejects").await?);
    let manifest_path = dir.root().clone().join("manifest.json");
    let manifest = match dir.manifest().await {
        Ok(Some(manifest)) => Some(manifest),
        Ok(None) if latents.is_empty() && rejects.is_empty() => {
            let detail = "neither a manifest nor latents: not an output directory of imagebart";
            return Err(TableError::Format { path: dir.root().to_string(), detail: detail.to_owned() });
        }
        Ok(None) => {
            report.add(&manifest_path, "missing");
            None
        }
        Err(error) => {
            report.add(&manifest_path, with_causes(&error));
            None
        }
    };
    report.units = manifest.as_ref().map(|manifest| manifest.units.len() as u64);

    let known: Option<BTreeSet<&str>> =
        manifest.as_ref().map(|manifest| manifest.units.iter().map(|unit| unit.name.as_str()).collect());
    let done = units_of(dir, "latents", &latents, known.as_ref(), &mut report);
    let rejected = units_of(dir, "rejects", &rejects, known.as_ref(), &mut report);
    report.done = done.len() as u64;
    for stage in dir.stages().await? {
        report.add(stage, "left by a killed run, or of one that is writing now; encoding again sweeps it");
    }
    if let Some(manifest) = &manifest {
        find_gaps(manifest, &manifest_path, &done, &mut report);
    }
    check_units(dir, manifest.map(|manifest| manifest.provenance()), &done, &rejected, &mut report).await;
    report.problems.sort();
    Ok(report)
}

/// The units whose files are in the folder of `table`; other files, and those of unknown units, are reported.
fn units_of(
    dir: &OutputDir,
    table: &str,
    paths: &[Path],
    known: Option<&BTreeSet<&str>>,
    report: &mut VerifyReport,
) -> BTreeMap<String, Path> {
    let mut units = BTreeMap::new();
    for path in paths {
        match unit_of_path(dir.root(), table, path) {
            None => report.add(path, "a stray file: no unit's file has this name"),
            Some(unit) if known.is_some_and(|known| !known.contains(unit.as_str())) => {
                report.add(path, format!("a stray file: the manifest has no unit {unit}"));
            }
            Some(unit) => {
                units.insert(unit, path.clone());
            }
        }
    }
    units
}

fn find_gaps(manifest: &Manifest, path: &Path, done: &BTreeMap<String, Path>, report: &mut VerifyReport) {
    let mut seen = BTreeSet::new();
    for unit in &manifest.units {
        if !seen.insert(unit.name.as_str()) {
            report.add(path, format!("lists the unit {} twice", unit.name));
        } else if !done.contains_key(&unit.name) {
            report.gaps.push(unit.name.clone());
        }
    }
}

/// Reads every unit's files. `expected` is the manifest's provenance; without one, the first sound file's.
async fn check_units(
    dir: &OutputDir,
    mut expected: Option<Provenance>,
    done: &BTreeMap<String, Path>,
    rejected: &BTreeMap<String, Path>,
    report: &mut VerifyReport,
) {
    let units: BTreeSet<&String> = done.keys().chain(rejected.keys()).collect();
    let checks = units.into_iter().map(|unit| {
        let task = check_unit(dir.clone(), unit.clone(), done.get(unit).cloned(), rejected.get(unit).cloned());
        // Tasks of their own, so that several processors decode.
        async move { (unit, tokio::spawn(task).await) }
    });
    let mut checks = futures::stream::iter(checks).buffered(UNITS_IN_FLIGHT);
    while let Some((unit, check)) = checks.next().await {
        let check = match check {
            Ok(check) => check,
            Err(error) => {
                report.add(unit, format!("could not be checked: {error}"));
                continue;
            }
        };
        report.rows += check.rows;
        report.rejects += check.rejects;
        for (path, info) in &check.infos {
            let expected = expected.get_or_insert_with(|| info.provenance.clone());
            for difference in info.provenance.difference(expected) {
                report.add(path, format!("of another run: {difference}"));
            }
        }
        report.problems.extend(check.problems);
    }
}

/// What was found in one unit's files.
#[derive(Default)]
struct UnitCheck {
    rows: u64,
    rejects: u64,
    infos: Vec<(Path, FileInfo)>,
    problems: Vec<Problem>,
}

impl UnitCheck {
    fn add(&mut self, file: &Path, detail: impl ToString) {
        self.problems.push(Problem { file: file.to_string(), detail: detail.to_string() });
    }

    /// Notes an error that ended the reading of `file`; its text names the file itself.
    fn fail(&mut self, file: &Path, error: &TableError) {
        let text = with_causes(error);
        self.add(file, text.strip_prefix(&format!("{file}: ")).unwrap_or(&text));
    }
}

async fn check_unit(dir: OutputDir, unit: String, latents: Option<Path>, rejects: Option<Path>) -> UnitCheck {
    let mut check = UnitCheck::default();
    let mut rejected = None;
    if let Some(path) = &rejects {
        match check_rejects(&dir, path, &unit, &mut check).await {
            Ok(found) => rejected = Some(found),
            Err(error) => check.fail(path, &error),
        }
    }
    let Some(path) = &latents else { return check };
    match check_latents(&dir, path, &unit, rejected.as_ref(), &mut check).await {
        Ok(()) if rejects.is_none() => check.add(path, "the unit has no rejects file, which is written first"),
        Ok(()) => {}
        Err(error) => check.fail(path, &error),
    }
    check
}

/// What the rejects of a unit say about it.
struct Rejected {
    /// What the file says of itself.
    info: FileInfo,
    /// Samples that were refused.
    indexes: BTreeSet<u64>,
}

async fn check_rejects(
    dir: &OutputDir,
    path: &Path,
    unit: &str,
    check: &mut UnitCheck,
) -> Result<Rejected, TableError> {
    check_seal(dir.store(), path).await?;
    let file = read_rejects(dir.store().clone(), path).await?;
    let info = file.info().clone();
    check_name(path, unit, &info, check);
    check.infos.push((path.clone(), info.clone()));
    let mut indexes = BTreeSet::new();
    let mut rows = file.rows()?;
    while let Some(row) = rows.try_next().await? {
        check.rejects += 1;
        if row.unit != unit {
            check.add(path, format!("has a reject of the unit {}", row.unit));
        }
        indexes.insert(row.index);
    }
    if info.rejects != info.rows {
        check.add(path, format!("records {} rejects, has {}", info.rejects, info.rows));
    }
    Ok(Rejected { info, indexes })
}

async fn check_latents(
    dir: &OutputDir,
    path: &Path,
    unit: &str,
    rejected: Option<&Rejected>,
    check: &mut UnitCheck,
) -> Result<(), TableError> {
    check_seal(dir.store(), path).await?;
    let file = read_latents(dir.store().clone(), path).await?;
    let info = Arc::new(file.info().clone());
    check_name(path, unit, &info, check);
    check.infos.push((path.clone(), (*info).clone()));
    let mut check_rows = RowCheck::new(&info, rejected.map(|rejected| &rejected.indexes));
    let mut rows = file.rows()?;
    while let Some(row) = rows.try_next().await? {
        check.rows += 1;
        check_rows.row(&row);
    }
    for detail in check_rows.finish() {
        check.add(path, detail);
    }
    if let Some(rejected) = rejected {
        let other = &rejected.info;
        if (info.rejects, info.samples) != (other.rejects, other.samples) {
            let detail = format!(
                "records {} samples and {} rejects, the rejects file beside it {} and {}",
                info.samples, info.rejects, other.samples, other.rejects
            );
            check.add(path, detail);
        }
    }
    Ok(())
}

/// A file must lie where its unit's file belongs.
fn check_name(path: &Path, unit: &str, info: &FileInfo, check: &mut UnitCheck) {
    if info.unit != unit {
        check.add(path, format!("is the file of the unit {}, not of {unit}: it was moved or renamed", info.unit));
    }
}
