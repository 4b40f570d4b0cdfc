//! `imagebart encode --retry-rejects`: what was rejected is tried again, beside what is committed.

use crate::common::{folder, imagebart, pipeline, run, stderr, succeed, tables};
use futures::TryStreamExt;
use imagebart::tables::{LatentRow, LatentsReader, OutputDir};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

/// Twelve images in units of five, three of them damaged in place: their sizes, and so the dataset, stay the same.
struct Dataset {
    root: TempDir,
    pipeline: String,
    damaged: Vec<(PathBuf, Vec<u8>)>,
}

impl Dataset {
    fn new() -> Dataset {
        let root = tempdir().unwrap();
        let input = root.path().join("in");
        folder(&input, 12);
        let dataset = input.display().to_string();
        let file = pipeline(root.path(), "folder", &dataset, "max_reject_fraction = 1.0\n");
        let mut images: Vec<PathBuf> = tables(&input).into_keys().map(|name| input.join(name)).collect();
        images.sort();
        let mut damaged = Vec::new();
        // Two of the first unit, one of the second; the first has another reason than the others.
        for (position, range) in [(1, 0..8), (3, 60..80), (6, 60..80)] {
            let path = images[position].clone();
            let intact = fs::read(&path).unwrap();
            let mut bytes = intact.clone();
            bytes[range].fill(0);
            fs::write(&path, bytes).unwrap();
            damaged.push((path, intact));
        }
        Dataset { root, pipeline: file.display().to_string(), damaged }
    }

    fn repair(&self) {
        for (path, intact) in &self.damaged {
            fs::write(path, intact).unwrap();
        }
    }

    fn out(&self) -> PathBuf {
        self.root.path().join("out")
    }

    /// `encode` in units of five, with more arguments; returns what it says.
    fn encode(&self, more: &[&str]) -> String {
        let mut command = imagebart();
        command.args(["encode", &self.pipeline, "--set", "dataset.unit_rows=5"]).args(more);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output) + &String::from_utf8_lossy(&output.stdout)
    }

    fn verify(&self) -> String {
        let output = succeed(["verify", self.out().to_str().unwrap()]);
        String::from_utf8(output.stdout).unwrap()
    }
}

/// All rows of an output, by key.
fn rows(out: &Path) -> BTreeMap<String, LatentRow> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rows: Vec<LatentRow> = runtime.block_on(async {
        let reader = LatentsReader::open(OutputDir::local(out).unwrap()).await.unwrap();
        reader.rows().try_collect().await.unwrap()
    });
    let count = rows.len();
    let by_key: BTreeMap<String, LatentRow> = rows.into_iter().map(|row| (row.key.clone(), row)).collect();
    assert_eq!(by_key.len(), count, "a row is there twice");
    by_key
}

#[test]
fn retries_add_rows_and_leave_what_is_committed() {
    let dataset = Dataset::new();
    dataset.encode(&[]);
    let before = tables(&dataset.out());
    assert!(dataset.verify().contains("9 rows, 3 rejects"), "{}", dataset.verify());

    // Nothing got better: nothing is written.
    let said = dataset.encode(&["--retry-rejects"]);
    assert!(said.contains("3 rejects of 2 units are tried again"), "{said}");
    assert_eq!(tables(&dataset.out()), before);

    dataset.repair();
    let said = dataset.encode(&["--dry-run", "--retry-rejects", "decode_error"]);
    assert!(said.contains("2 rejects of 2 units are tried again"), "{said}");
    assert_eq!(tables(&dataset.out()), before);

    let said = dataset.encode(&["--retry-rejects", "decode_error"]);
    assert!(said.contains("2 rows of 2 images"), "{said}");
    let after = tables(&dataset.out());
    let added: Vec<&String> = after.keys().filter(|name| !before.contains_key(*name)).collect();
    assert_eq!(added.len(), 4, "{added:?}");
    assert!(added.iter().all(|name| name.ends_with("!1.parquet")), "{added:?}");
    assert!(before.iter().all(|(name, bytes)| after[name] == *bytes));
    assert!(dataset.verify().contains("11 rows, 1 rejects"), "{}", dataset.verify());
    let facts: serde_json::Value = serde_json::from_slice(&fs::read(dataset.out().join("run.json")).unwrap()).unwrap();
    let counts = ["samples", "rejects", "samples_before", "rejects_before"].map(|name| facts[name].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 9, 0]);

    let said = dataset.encode(&["--retry-rejects"]);
    assert!(said.contains("1 rejects of 1 units are tried again"), "{said}");
    assert!(dataset.verify().contains("12 rows, 0 rejects"), "{}", dataset.verify());
    assert!(tables(&dataset.out()).keys().any(|name| name.ends_with("!2.parquet")));
    let said = dataset.encode(&["--retry-rejects"]);
    assert!(said.contains("no rejects to try again"), "{said}");

    // The rows are those of a dataset that was never damaged.
    let retried = rows(&dataset.out());
    dataset.encode(&["--overwrite"]);
    assert!(tables(&dataset.out()).keys().all(|name| !name.contains('!')));
    assert_eq!(retried, rows(&dataset.out()));
}

#[test]
fn a_plain_run_keeps_retries_and_counts_them() {
    let dataset = Dataset::new();
    dataset.encode(&[]);
    dataset.repair();
    dataset.encode(&["--retry-rejects"]);
    let before = tables(&dataset.out());
    let said = dataset.encode(&["--set", "run.max_reject_fraction=0.0"]);
    assert!(said.contains("nothing to do"), "{said}");
    assert_eq!(tables(&dataset.out()), before);
}

#[test]
fn a_retry_without_its_first_file_is_found() {
    let dataset = Dataset::new();
    dataset.encode(&[]);
    dataset.repair();
    dataset.encode(&["--retry-rejects", "decode_error"]);
    dataset.encode(&["--retry-rejects"]);
    let latents = dataset.out().join("latents");
    let mut files = fs::read_dir(&latents).unwrap().map(|entry| entry.unwrap().path());
    let second = files.find(|path| path.display().to_string().ends_with("!2.parquet")).unwrap();
    let first = PathBuf::from(second.display().to_string().replace("!2.", "!1."));
    fs::remove_file(&first).unwrap();
    let output = run(["verify", dataset.out().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("what it was a retry of is missing"), "{text}");
    // A retry under another's name: its rows were not rejected before it.
    fs::rename(&second, &first).unwrap();
    let output = run(["verify", dataset.out().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("is the file of retry 2 of the unit"), "{text}");
}

#[test]
fn what_cannot_be_retried_is_refused() {
    let dataset = Dataset::new();
    let output = run(["encode", &dataset.pipeline, "--retry-rejects", "bad_luck"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--retry-rejects bad_luck: not a reason"), "{}", stderr(&output));
    let output = run(["encode", &dataset.pipeline, "--overwrite", "--retry-rejects"]);
    assert_eq!(output.status.code(), Some(2));
    // Nothing is done yet: that is said, and nothing written but the manifest.
    let said = dataset.encode(&["--retry-rejects"]);
    assert!(said.contains("3 units are not done yet"), "{said}");
    assert!(tables(&dataset.out()).keys().all(|name| !name.ends_with(".parquet")));
}
