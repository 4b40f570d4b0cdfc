//! `imagebart verify`: is an output directory what it says, whole and undamaged?
//!
//! Latents, samples or both: whatever is there. Every file is read to its end. Checked are the manifest; each file's seal,
//! schema and provenance; its counts; every row's place, tokens and checksum; that images are of one size, which fits the
//! grid; rows against rejects of the same unit, and what a retry gave against the rejects before it; units without a file, and
//! files without a unit; decisions about samples against these. Nothing is changed.

mod decisions;
mod report;

pub use report::{Counts, Problem, VerifyReport};

use super::with_causes;
use crate::reject::Rejected;
use crate::tables::{
    FileInfo, Identity, Manifest, OutputDir, Provenance, RowCheck, Run, SamplesIdentity, TableError, TableRow,
    UnitFile, check_seal, file_of_path, read_rejects_of, read_table,
};
use decisions::Keys;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Units that are read at once.
const UNITS_IN_FLIGHT: usize = 4;

/// Checks the output directory `dir`. Nothing needs to be known of it, and it may be unfinished.
///
/// # Errors
///
/// Only when the directory cannot be listed, or there is nothing of ours in it. Damage is reported, not an error.
pub async fn verify(dir: &OutputDir) -> Result<VerifyReport, TableError> {
    let mut report = VerifyReport { root: dir.root().to_string(), ..VerifyReport::default() };
    let latents = verify_run::<Identity>(dir, &mut report).await?;
    let samples = verify_run::<SamplesIdentity>(&dir.of(), &mut report).await?;
    if let Some(Found { identity, units }) = &samples {
        decisions::check(&dir.of(), (identity.as_ref(), units), &mut report).await;
    } else if latents.is_none() {
        let detail = "neither a manifest nor latents nor samples: not an output directory of imagebart";
        return Err(TableError::Format { path: dir.root().to_string(), detail: detail.to_owned() });
    }
    report.problems.sort();
    // Both kinds of run see the stages of files beside the tables.
    report.problems.dedup();
    Ok(report)
}

/// What is there of a run.
struct Found<I> {
    /// The manifest's.
    identity: Option<I>,
    /// The units that have rows, in the order they are read in, with the keys of these.
    units: Vec<(String, Keys)>,
}

/// Checks what runs of one kind left in `dir`; none where there is nothing of theirs.
async fn verify_run<I: Run>(dir: &OutputDir<I>, report: &mut VerifyReport) -> Result<Option<Found<I>>, TableError> {
    let (rows, rejects) = (dir.list(I::TABLE).await?, dir.list(I::REJECTS).await?);
    let manifest_path = dir.root().clone().join(I::MANIFEST);
    let manifest = match dir.manifest().await {
        Ok(Some(manifest)) => Some(manifest),
        Ok(None) if rows.is_empty() && rejects.is_empty() => return Ok(None),
        Ok(None) => {
            report.add(&manifest_path, "missing");
            None
        }
        Err(error) => {
            report.add(&manifest_path, with_causes(&error));
            None
        }
    };
    let known: Option<BTreeSet<&str>> =
        manifest.as_ref().map(|manifest| manifest.units.iter().map(|unit| unit.name.as_str()).collect());
    let done = units_of(dir, I::TABLE, &rows, known.as_ref(), report);
    let rejected = units_of(dir, I::REJECTS, &rejects, known.as_ref(), report);
    for stage in dir.stages().await? {
        report.add(stage, "left by a killed run, or of one that is writing now; the same command sweeps it");
    }
    if let Some(manifest) = &manifest {
        find_gaps(manifest, &manifest_path, &done, report);
    }
    let mut counts = Counts {
        table: I::TABLE,
        units: manifest.as_ref().map(|manifest| manifest.units.len() as u64),
        done: done.values().filter(|files| files.contains_key(&0)).count() as u64,
        ..Counts::default()
    };
    let provenance = manifest.as_ref().map(|manifest| manifest.provenance());
    let mut keys = check_units(dir, provenance, (&done, &rejected), &mut counts, report).await;
    report.tables.push(counts);
    let units = match &manifest {
        Some(manifest) => manifest.units.iter().filter_map(|unit| keys.remove_entry(&unit.name)).collect(),
        None => keys.into_iter().collect(),
    };
    Ok(Some(Found { identity: manifest.map(|manifest| manifest.identity), units }))
}

/// A unit's files in one table, by retry: 0 is the one that makes the unit done.
type Files = BTreeMap<u32, Path>;

/// The units whose files are in the folder of `table`; other files, and those of unknown units, are reported.
fn units_of<I: Run>(
    dir: &OutputDir<I>,
    table: &str,
    paths: &[Path],
    known: Option<&BTreeSet<&str>>,
    report: &mut VerifyReport,
) -> BTreeMap<String, Files> {
    let mut units: BTreeMap<String, Files> = BTreeMap::new();
    for path in paths {
        match file_of_path(dir.root(), table, path) {
            None => report.add(path, "a stray file: no unit's file has this name"),
            Some(UnitFile { unit, .. }) if known.is_some_and(|known| !known.contains(unit.as_str())) => {
                report.add(path, format!("a stray file: the manifest has no unit {unit}"));
            }
            Some(UnitFile { unit, retry }) => {
                units.entry(unit).or_default().insert(retry, path.clone());
            }
        }
    }
    units
}

fn find_gaps<I: Run>(manifest: &Manifest<I>, path: &Path, done: &BTreeMap<String, Files>, report: &mut VerifyReport) {
    let mut seen = BTreeSet::new();
    for unit in &manifest.units {
        if !seen.insert(unit.name.as_str()) {
            report.add(path, format!("lists the unit {} twice", unit.name));
        } else if !done.get(&unit.name).is_some_and(|files| files.contains_key(&0)) {
            report.gaps.push(unit.name.clone());
        }
    }
}

/// Reads every unit's files, and gives the keys of its rows. `expected` is the manifest's provenance; without one, the first sound
/// file's.
async fn check_units<I: Run>(
    dir: &OutputDir<I>,
    mut expected: Option<Provenance<I>>,
    (done, rejected): (&BTreeMap<String, Files>, &BTreeMap<String, Files>),
    counts: &mut Counts,
    report: &mut VerifyReport,
) -> BTreeMap<String, Keys> {
    let mut keys = BTreeMap::new();
    let units: BTreeSet<&String> = done.keys().chain(rejected.keys()).collect();
    let checks = units.into_iter().map(|unit| {
        let files = |of: &BTreeMap<String, Files>| of.get(unit).cloned().unwrap_or_default();
        let task = check_unit(dir.clone(), unit.clone(), files(done), files(rejected));
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
        counts.rows += check.rows;
        counts.rejects += check.rejects;
        for (path, info) in &check.infos {
            let expected = expected.get_or_insert_with(|| info.provenance.clone());
            for difference in info.provenance.difference(expected) {
                report.add(path, format!("of another run: {difference}"));
            }
        }
        report.problems.extend(check.problems);
        if done.contains_key(unit) {
            keys.insert(unit.clone(), check.keys);
        }
    }
    keys
}

/// What was found in one unit's files.
struct UnitCheck<I> {
    rows: u64,
    keys: Keys,
    rejects: u64,
    infos: Vec<(Path, FileInfo<I>)>,
    problems: Vec<Problem>,
}

impl<I> UnitCheck<I> {
    fn add(&mut self, file: &Path, detail: impl ToString) {
        self.problems.push(Problem { file: file.to_string(), detail: detail.to_string() });
    }

    /// Notes an error that ended the reading of `file`; its text names the file itself.
    fn fail(&mut self, file: &Path, error: &TableError) {
        let text = with_causes(error);
        self.add(file, text.strip_prefix(&format!("{file}: ")).unwrap_or(&text));
    }
}

async fn check_unit<I: Run>(dir: OutputDir<I>, unit: String, rows: Files, rejects: Files) -> UnitCheck<I> {
    let mut check = UnitCheck { rows: 0, keys: Keys::default(), rejects: 0, infos: Vec::new(), problems: Vec::new() };
    let mut before: Option<RejectsFile<I>> = None;
    let numbers: BTreeSet<u32> = rows.keys().chain(rejects.keys()).copied().collect();
    for retry in numbers {
        let (rows_path, rejects_path) = (rows.get(&retry), rejects.get(&retry));
        if retry > 0 && rows_path.is_none() {
            // A retry that was killed between its two files: the next one writes both.
            continue;
        }
        let file = UnitFile::retry(&unit, retry);
        let mut rejected = None;
        if let Some(path) = rejects_path {
            match check_rejects(&dir, path, &file, &mut check).await {
                Ok(found) => rejected = Some(found),
                Err(error) => check.fail(path, &error),
            }
        }
        if let Some(path) = rows_path {
            if retry > 0 && !rows.contains_key(&(retry - 1)) {
                check.add(path, "what it was a retry of is missing");
            }
            match check_rows(&dir, path, &file, (rejected.as_ref(), before.as_ref()), &mut check).await {
                Ok(()) if rejects_path.is_none() => {
                    check.add(path, "the unit has no rejects file, which is written first");
                }
                Ok(()) => {}
                Err(error) => check.fail(path, &error),
            }
        }
        before = rejected;
    }
    // A retry's rejects are all that it left of those before it.
    check.rejects = before.map_or(0, |newest| newest.info.rows);
    check
}

/// What the rejects of a unit say about it.
struct RejectsFile<I> {
    /// What the file says of itself.
    info: FileInfo<I>,
    samples: Rejected,
}

async fn check_rejects<I: Run>(
    dir: &OutputDir<I>,
    path: &Path,
    file: &UnitFile,
    check: &mut UnitCheck<I>,
) -> Result<RejectsFile<I>, TableError> {
    check_seal(dir.store(), path).await?;
    let table = read_rejects_of::<I>(dir.store().clone(), path).await?;
    let info = table.info().clone();
    check_name(path, file, &info, check);
    check.infos.push((path.clone(), info.clone()));
    let mut samples = Rejected::default();
    let mut rows = table.rows()?;
    while let Some(row) = rows.try_next().await? {
        if row.unit != file.unit {
            check.add(path, format!("has a reject of the unit {}", row.unit));
        }
        samples.add(&row);
    }
    if info.rejects != info.rows {
        check.add(path, format!("records {} rejects, has {}", info.rejects, info.rows));
    }
    Ok(RejectsFile { info, samples })
}

/// Checks a file of rows against the `rejected` beside it and, of a retry, against the rejects `before` it.
async fn check_rows<I: Run>(
    dir: &OutputDir<I>,
    path: &Path,
    file: &UnitFile,
    (rejected, before): (Option<&RejectsFile<I>>, Option<&RejectsFile<I>>),
    check: &mut UnitCheck<I>,
) -> Result<(), TableError> {
    check_seal(dir.store(), path).await?;
    let table = read_table::<I>(dir.store().clone(), path).await?;
    let info = Arc::new(table.info().clone());
    check_name(path, file, &info, check);
    check.infos.push((path.clone(), (*info).clone()));
    let mut faults = RowCheck::new(&info, rejected.map(|rejected| &rejected.samples.indexes));
    let (mut rows, mut position, mut twice) = (table.rows()?, 0, None);
    while let Some(row) = rows.try_next().await? {
        let index = row.index(position);
        if before.is_some_and(|before| !before.samples.has(index)) {
            twice.get_or_insert(index);
        }
        position += 1;
        check.rows += 1;
        check.keys.add(row.key());
        faults.row(&row);
    }
    for detail in faults.finish() {
        check.add(path, detail);
    }
    if let Some(index) = twice {
        check.add(path, format!("sample {index} was not rejected before it: it is there twice"));
    }
    let found = info.rows.saturating_add(info.rejects);
    if let Some(expected) = info.provenance.identity.rows_of_unit(&file.unit).filter(|&expected| expected != found) {
        check.add(path, format!("has {found} rows with its rejects, its unit {expected}"));
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
fn check_name<I>(path: &Path, file: &UnitFile, info: &FileInfo<I>, check: &mut UnitCheck<I>) {
    if info.file != *file {
        let UnitFile { unit, retry } = &info.file;
        let of = if *retry == 0 { String::new() } else { format!("retry {retry} of ") };
        check.add(path, format!("is the file of {of}the unit {unit}, not of {}: it was moved or renamed", file.unit));
    }
}
