//! The tables from outside: what is written is read back, commits are whole, resumes are refused when they must be, and
//! damage is found.

use crate::support::{dataset, provenance, reject, rows, write_unit};
use futures::TryStreamExt;
use imagebart::jobs::verify::{VerifyReport, verify};
use imagebart::reject::{Reason, Reject};
use imagebart::tables::{
    LatentRow, LatentsReader, LatentsWriter, Manifest, OutputDir, Provenance, RowsWriter, TableError, UnitFile,
    UnitWriter, read_latents, read_rejects,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use std::path::Path as DiskPath;
use std::sync::Arc;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const UNITS: [&str; 3] = ["a.tar", "b/c d.tar@000000000-000000100", "ü#1%.tar"];

fn memory() -> OutputDir {
    OutputDir::new(Arc::new(InMemory::new()), Path::from("bucket/out"), None)
}

fn manifest(provenance: &Provenance) -> Manifest {
    Manifest::new(provenance, dataset(&UNITS))
}

/// A directory with all units of [`UNITS`], of 20, 30 and 0 samples.
async fn complete(dir: &OutputDir, provenance: &Arc<Provenance>) -> Result<(), TableError> {
    dir.begin(&manifest(provenance)).await?;
    for (unit, samples) in UNITS.into_iter().zip([20, 30, 0]) {
        write_unit(dir, provenance, unit, samples).await?;
    }
    Ok(())
}

#[tokio::test]
async fn rows_are_read_back_as_written() -> Outcome {
    for codes in [1, 256, 1024, 16384, 65536] {
        let provenance = Arc::new(provenance(codes));
        for samples in [0, 1, 1500] {
            let dir = memory();
            write_unit(&dir, &provenance, "a/b.tar", samples).await?;
            let file = read_latents(dir.store().clone(), &dir.latents("a/b.tar")?).await?;
            assert_eq!(file.info().file.unit, "a/b.tar");
            assert_eq!(file.info().provenance, *provenance);
            let read: Vec<LatentRow> = file.rows()?.try_collect().await?;
            assert_eq!(read, rows(&provenance, samples), "K = {codes}, {samples} samples");
            let file = read_rejects(dir.store().clone(), &dir.rejects(&"a/b.tar".into())?).await?;
            assert_eq!(file.info().rejects, 2);
            let read: Vec<Reject> = file.rows()?.try_collect().await?;
            assert_eq!(read, [reject("a/b.tar", samples), reject("a/b.tar", samples + 1)]);
        }
    }
    Ok(())
}

/// Units beyond a row group: bytes depend on the rows alone, every row group but the last is full, the last is no scrap.
#[tokio::test]
async fn the_same_rows_are_the_same_bytes_in_any_store() -> Outcome {
    let provenance = Arc::new(Provenance { grid: (16, 16), ..provenance(548) });
    let disk = tempfile::tempdir()?;
    let (ours, other) = (memory(), OutputDir::local(disk.path())?);
    let mut files = Vec::new();
    for dir in [&ours, &other, &ours] {
        write_unit(dir, &provenance, "big.tar", 8_300).await?;
        for path in [dir.latents("big.tar")?, dir.rejects(&"big.tar".into())?] {
            files.push(dir.store().get(&path).await?.bytes().await?);
        }
    }
    assert!(files[0] == files[2] && files[2] == files[4], "latents differ");
    assert!(files[1] == files[3] && files[3] == files[5], "rejects differ");
    let metadata = parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&files[0])?;
    let groups: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [8192, 8408]);
    for group in metadata.row_groups() {
        // The dictionary held all tokens: there is no page of another encoding.
        let encodings: Vec<_> = group.column(group.num_columns() - 1).encodings().collect();
        assert!(!encodings.contains(&parquet::basic::Encoding::BYTE_STREAM_SPLIT), "{encodings:?}");
        let bytes = group.column(group.num_columns() - 1).compressed_size() as f64;
        let bits = bytes * 8.0 / (group.num_rows() * 256) as f64;
        assert!(bits < 10.05, "{bits} bits a token: the dictionary fell back");
    }
    Ok(())
}

#[tokio::test]
async fn a_unit_is_visible_whole_or_not_at_all() -> Outcome {
    let provenance = Arc::new(provenance(1024));
    let disk = tempfile::tempdir()?;
    let dir = OutputDir::local(disk.path())?;
    // Enough bytes for a multipart upload to be under way.
    let mut unit = UnitWriter::create(&dir, &provenance, "a.tar")?;
    for row in rows(&Provenance { grid: (16, 16), ..(*provenance).clone() }, 1) {
        assert!(unit.row(row).await.is_err(), "a grid of another size");
    }
    for row in rows(&provenance, 300_000) {
        unit.row(row).await?;
    }
    unit.reject(reject("a.tar", 300_000)).await?;
    assert!(files(disk.path()).iter().any(|file| file.contains("a.tar.parquet#")), "{:?}", files(disk.path()));
    assert_eq!(dir.done().await?.len(), 0);
    unit.abort().await?;
    assert_eq!(files(disk.path()), Vec::<String>::new());

    // A writer that is merely dropped leaves nothing under the final name either.
    let mut unit = UnitWriter::create(&dir, &provenance, "a.tar")?;
    for row in rows(&provenance, 5000) {
        unit.row(row).await?;
    }
    drop(unit);
    assert_eq!(dir.done().await?.len(), 0);

    write_unit(&dir, &provenance, "a.tar", 10).await?;
    assert_eq!(dir.done().await?.into_keys().collect::<Vec<_>>(), ["a.tar"]);
    assert_eq!(files(disk.path()), ["latents/a.tar.parquet", "rejects/a.tar.parquet"]);
    Ok(())
}

#[tokio::test]
async fn rejects_are_committed_before_latents() -> Outcome {
    let provenance = Arc::new(provenance(1024));
    let disk = tempfile::tempdir()?;
    let dir = OutputDir::local(disk.path())?;
    // Latents cannot be written: a folder lies in the way.
    std::fs::create_dir_all(disk.path().join("latents/a.tar.parquet/in the way"))?;
    let failed = write_unit(&dir, &provenance, "a.tar", 3).await;
    assert!(failed.is_err());
    assert_eq!(files(disk.path()), ["rejects/a.tar.parquet"]);
    Ok(())
}

#[tokio::test]
async fn a_writer_refuses_rows_that_do_not_belong() -> Outcome {
    let provenance = Arc::new(provenance(100));
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut writer = LatentsWriter::create(store, Path::from("a.parquet"), &"a".into(), provenance.clone())?;
    let good = rows(&provenance, 3);
    writer.push(good[2].clone()).await?;
    let too_large = LatentRow { tokens: vec![100; 16], ..good[2].clone() };
    let error = writer.push(too_large).await.unwrap_err().to_string();
    assert!(error.contains("token 100 is not below the codebook size 100"), "{error}");
    let error = writer.push(good[0].clone()).await.unwrap_err().to_string();
    assert!(error.contains("unit a, sample 0") && error.contains("order"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_run_goes_on_where_another_stopped() -> Outcome {
    for disk in [None, Some(tempfile::tempdir()?)] {
        let dir = match &disk {
            Some(disk) => OutputDir::local(disk.path())?,
            None => memory(),
        };
        let provenance = Arc::new(provenance(1024));
        dir.begin(&manifest(&provenance)).await?;
        write_unit(&dir, &provenance, UNITS[1], 5).await?;
        write_unit(&dir, &provenance, UNITS[2], 5).await?;
        dir.begin(&manifest(&provenance)).await?;
        if let Some(disk) = &disk {
            let other = Provenance { codebook_size: 5, ..(*provenance).clone() };
            let error = dir.begin(&manifest(&other)).await.unwrap_err().to_string();
            let path = disk.path().join("manifest.json").display().to_string();
            assert!(error.starts_with(&path) && error.contains("codebook_size: 5 here, 1024 recorded"), "{error}");
        }
        let done: Vec<String> = dir.done().await?.into_keys().collect();
        assert_eq!(done, [UNITS[1], UNITS[2]]);
        assert_eq!(dir.manifest().await?.map(|manifest| manifest.identity), Some(provenance.identity.clone()));
    }
    Ok(())
}

#[tokio::test]
async fn several_ranks_begin_at_once() -> Outcome {
    let disk = tempfile::tempdir()?;
    let provenance = provenance(1024);
    let ranks = (0..8).map(|_| {
        let (dir, manifest) = (OutputDir::local(disk.path()), manifest(&provenance));
        tokio::spawn(async move { dir?.begin(&manifest).await })
    });
    for rank in ranks.collect::<Vec<_>>() {
        rank.await??;
    }
    assert_eq!(files(disk.path()), ["manifest.json"]);
    Ok(())
}

#[tokio::test]
async fn another_identity_is_refused_with_both_sides_shown() -> Outcome {
    let dir = memory();
    let ours = Arc::new(provenance(1024));
    complete(&dir, &ours).await?;
    let mut other = (*ours).clone();
    other.identity.batch_size = 3;
    other.identity.preprocessing.resize = "cv2-linear".to_owned();
    let error = dir.begin(&manifest(&other)).await.unwrap_err().to_string();
    assert!(error.contains("batch_size: 3 here, 8 recorded"), "{error}");
    assert!(error.contains("resize: \"cv2-linear\" here, \"pillow-bicubic\" recorded"), "{error}");
    assert!(error.contains("--overwrite") && error.contains("bucket/out/manifest.json"), "{error}");

    let mut changed = manifest(&ours);
    changed.units[1].sources[0].size += 1;
    let error = dir.begin(&changed).await.unwrap_err().to_string();
    assert!(error.contains("b/c d.tar") && error.contains("1001 bytes, 1000 recorded"), "{error}");

    dir.store().delete(&Path::from("bucket/out/manifest.json")).await?;
    let error = dir.begin(&manifest(&ours)).await.unwrap_err().to_string();
    assert!(error.contains("missing beside a latents folder"), "{error}");
    Ok(())
}

#[tokio::test]
async fn overwriting_deletes_only_what_is_rewritten() -> Outcome {
    let disk = tempfile::tempdir()?;
    let dir = OutputDir::local(disk.path())?;
    let old = Arc::new(provenance(1024));
    complete(&dir, &old).await?;
    std::fs::write(disk.path().join("notes.txt"), "mine")?;
    std::fs::write(disk.path().join("latents/a.tar.parquet#3"), "stage of a killed run")?;
    let mut new = (*old).clone();
    new.identity.seed = 99;
    let manifest = Manifest::new(&new, dataset(&UNITS[..2]));
    dir.overwrite(&manifest, &[UNITS[0]], false).await?;
    let other = "latents/b/c d.tar@000000000-000000100.parquet".to_owned();
    let left: Vec<String> = files(disk.path()).into_iter().filter(|file| file.starts_with("latents")).collect();
    assert_eq!(left, [other.clone(), "latents/ü%231%25.tar.parquet".to_owned()]);
    dir.overwrite(&manifest, &[UNITS[0]], true).await?;
    let left: Vec<String> = files(disk.path()).into_iter().filter(|file| file.starts_with("latents")).collect();
    assert_eq!(left, [other]);
    assert!(disk.path().join("notes.txt").exists());
    dir.begin(&manifest).await?;
    Ok(())
}

#[tokio::test]
async fn stages_of_killed_runs_are_swept_for_own_units_only() -> Outcome {
    let disk = tempfile::tempdir()?;
    let dir = OutputDir::local(disk.path())?;
    let provenance = Arc::new(provenance(1024));
    complete(&dir, &provenance).await?;
    for stage in
        ["latents/a.tar.parquet#1", "rejects/a.tar.parquet#12", "latents/ü%231%25.tar.parquet#2", "manifest.json#1"]
    {
        std::fs::write(disk.path().join(stage), "half a file")?;
    }
    let report = verify(&dir).await?;
    assert_eq!(report.problems.len(), 4, "{report}");
    assert_eq!(dir.sweep(&["a.tar"]).await?, 2);
    dir.begin(&manifest(&provenance)).await?;
    assert_eq!(dir.stages().await?, ["latents/ü%231%25.tar.parquet#2"]);
    assert_eq!(dir.sweep(&UNITS).await?, 1);
    assert!(verify(&dir).await?.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_reader_of_a_directory_keeps_its_order_and_refuses_to_mix() -> Outcome {
    let dir = memory();
    let ours = Arc::new(provenance(1024));
    let nothing = LatentsReader::open(dir.clone()).await.err().map(|error| error.to_string());
    assert!(nothing.is_some_and(|text| text.contains("no latents")));
    complete(&dir, &ours).await?;
    let reader = LatentsReader::open(dir.clone()).await?;
    assert_eq!(reader.files(), UNITS.map(UnitFile::from));
    let read: Vec<LatentRow> = reader.rows().try_collect().await?;
    assert_eq!(read, [rows(&ours, 20), rows(&ours, 30)].concat());

    let mut other = (*ours).clone();
    other.identity.seed = 5;
    write_unit(&dir, &Arc::new(other), UNITS[1], 3).await?;
    let reader = LatentsReader::open(dir.clone()).await?;
    let error = reader.rows().try_collect::<Vec<_>>().await.unwrap_err().to_string();
    assert!(error.contains("never mixed") && error.contains("seed: 5 here, 23 recorded"), "{error}");
    assert!(error.contains("b/c d.tar"), "{error}");
    let report = verify(&dir).await?;
    assert!(names(&report, "b/c d.tar", "of another run: seed"), "{report}");
    Ok(())
}

#[tokio::test]
async fn a_sound_directory_verifies() -> Outcome {
    let dir = memory();
    let provenance = Arc::new(provenance(1024));
    let error = verify(&dir).await.unwrap_err().to_string();
    assert!(error.contains("not an output directory"), "{error}");
    dir.begin(&manifest(&provenance)).await?;
    write_unit(&dir, &provenance, UNITS[1], 7).await?;
    let report = verify(&dir).await?;
    assert_eq!(report.gaps, [UNITS[0], UNITS[2]]);
    assert!(report.problems.is_empty() && !report.is_ok(), "{report}");
    assert!(report.to_string().contains("1 of 3 units done, 14 rows, 2 rejects"), "{report}");
    assert!(report.to_string().ends_with("run the same command again to add them"), "{report}");
    complete(&dir, &provenance).await?;
    let report = verify(&dir).await?;
    assert!(report.is_ok() && report.to_string().ends_with("OK"), "{report}");
    let [latents] = report.tables.as_slice() else { panic!("{report}") };
    assert_eq!((latents.table, latents.done, latents.rows, latents.rejects), ("latents", 3, 100, 6));
    Ok(())
}

#[tokio::test]
async fn moved_missing_and_stray_files_are_found() -> Outcome {
    let dir = memory();
    let provenance = Arc::new(provenance(1024));
    complete(&dir, &provenance).await?;
    let store = dir.store().clone();
    let (a, b) = (dir.latents(UNITS[0])?, dir.latents(UNITS[1])?);
    let bytes = [store.get(&a).await?.bytes().await?, store.get(&b).await?.bytes().await?];

    store.put(&a, bytes[1].clone().into()).await?;
    store.put(&b, bytes[0].clone().into()).await?;
    let report = verify(&dir).await?;
    assert!(names(&report, "latents/a.tar", "moved") && names(&report, "latents/b/c d.tar", "moved"), "{report}");
    store.put(&a, bytes[0].clone().into()).await?;

    store.delete(&b).await?;
    store.put(&Path::from("bucket/out/latents/notes.txt"), "x".into()).await?;
    store.put(&dir.latents("z.tar")?, bytes[0].clone().into()).await?;
    store.delete(&dir.rejects(&UNITS[2].into())?).await?;
    let report = verify(&dir).await?;
    assert_eq!(report.gaps, [UNITS[1]], "{report}");
    assert!(names(&report, "latents/notes.txt", "stray"), "{report}");
    assert!(names(&report, "latents/z.tar", "the manifest has no unit z.tar"), "{report}");
    assert!(names(&report, "latents/ü%231%25.tar", "no rejects file"), "{report}");
    assert_eq!(report.problems.len(), 3, "{report}");

    store.delete(&Path::from("bucket/out/manifest.json")).await?;
    let report = verify(&dir).await?;
    assert!(names(&report, "manifest.json", "missing"), "{report}");
    store.put(&Path::from("bucket/out/manifest.json"), "{}".into()).await?;
    let report = verify(&dir).await?;
    assert!(names(&report, "manifest.json", "not a manifest"), "{report}");
    Ok(())
}

/// Whether the report says this of a file.
fn names(report: &VerifyReport, file: &str, detail: &str) -> bool {
    report.problems.iter().any(|problem| problem.file.contains(file) && problem.detail.contains(detail))
}

/// All files below a folder, relative and sorted.
fn files(disk: &DiskPath) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![disk.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.extend(path.strip_prefix(disk).ok().map(|path| path.display().to_string())),
            }
        }
    }
    found.sort();
    found
}

/// One way to damage a file.
#[derive(Clone, Debug)]
enum Damage {
    /// Flip one bit, at this fraction of the file.
    Flip(f64, u8),
    /// Keep this fraction of the file.
    Truncate(f64),
    /// Append a byte.
    Append(u8),
    /// Set bytes to zero from this fraction on.
    Zero(f64, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (0.0..1.0f64, 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => (0.0..1.0f64).prop_map(Damage::Truncate),
        1 => any::<u8>().prop_map(Damage::Append),
        1 => (0.0..1.0f64, 1..400usize).prop_map(|(at, length)| Damage::Zero(at, length)),
    ]
}

fn apply(damage: &Damage, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let place = |at: f64| ((bytes.len() as f64 * at) as usize).min(bytes.len() - 1);
    match *damage {
        Damage::Flip(at, bit) => {
            let at = place(at);
            bytes[at] ^= 1 << bit;
        }
        Damage::Truncate(at) => {
            let at = place(at);
            bytes.truncate(at);
        }
        Damage::Append(byte) => bytes.push(byte),
        Damage::Zero(at, length) => {
            let at = place(at);
            let end = (at + length).min(bytes.len());
            bytes[at..end].fill(0);
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is done to a file's bytes, verify names the file.
    #[test]
    fn damage_is_found(damage in damage(), in_rejects: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (file, changed, report) = runtime.block_on(async {
            let dir = memory();
            let provenance = Arc::new(provenance(1024));
            complete(&dir, &provenance).await.unwrap();
            let path = if in_rejects { dir.rejects(&UNITS[0].into()) } else { dir.latents(UNITS[0]) }.unwrap();
            let bytes = dir.store().get(&path).await.unwrap().bytes().await.unwrap();
            let damaged = apply(&damage, &bytes);
            let changed = damaged != bytes;
            dir.store().put(&path, damaged.into()).await.unwrap();
            (path.to_string(), changed, verify(&dir).await.unwrap())
        });
        prop_assert_eq!(report.problems.iter().any(|problem| problem.file == file), changed, "{}", report);
    }
}

/// A reason that a reader of today does not know must not pass for another.
#[test]
fn every_reason_has_a_code_of_its_own() {
    let codes: std::collections::BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(codes.len(), Reason::ALL.len());
}
