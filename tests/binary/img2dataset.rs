//! `imagebart encode` of img2dataset's output: what the run says of shards and rows that gave nothing.

use crate::common::{corpus, imagebart, pipeline, run, stderr, succeed, tables};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::tempdir;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn facts(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("run.json")).unwrap()).unwrap()
}

#[test]
fn shards_and_rows_without_images_are_told_apart_from_rejects() {
    let Some(data) = corpus("IMAGEBART_DATA_DIR", "shards_and_rows_without_images_are_told_apart_from_rejects") else {
        return;
    };
    let root = tempdir().unwrap();
    let input = root.path().join("in");
    copy(&data.join("cc-mini/parquet"), &input);
    fs::write(input.join("00002.parquet"), b"PAR1 half a shard").unwrap();
    let (mut failed, mut successes) = (0, 0);
    for shard in ["00000", "00001"] {
        let stats: Value =
            serde_json::from_slice(&fs::read(input.join(format!("{shard}_stats.json"))).unwrap()).unwrap();
        successes += stats["successes"].as_u64().unwrap();
        failed += stats["failed_to_download"].as_u64().unwrap() + stats["failed_to_resize"].as_u64().unwrap();
    }
    assert!(failed > 0);
    let file = pipeline(root.path(), "img2dataset-parquet", &input.display().to_string(), "");
    let file = file.to_str().unwrap();
    let planned = succeed(["encode", file, "--dry-run"]);
    let planned = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(planned.contains("1 unfinished shards are passed over, 00002.parquet first"), "{planned}");
    let output = imagebart().args(["encode", file, "--set", "image.trim=white-border"]).output().unwrap();
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 of 3 shards are passed over") && text.contains("00002.parquet"), "{text}");
    assert!(
        text.contains(&format!("0 rejects; {failed} rows not downloaded; 1 unfinished shards passed over")),
        "{text}"
    );
    let facts = facts(&root.path().join("out"));
    assert_eq!((facts["rejects"].as_u64(), facts["samples"].as_u64()), (Some(0), Some(successes)));
    let counted: u64 = facts["not_downloaded"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(counted, failed, "{facts}");
    assert_eq!(facts["unfinished"], serde_json::json!(["00002.parquet"]));
    succeed(["verify", root.path().join("out").to_str().unwrap()]);
}

/// Trimming changes bytes: an output that was begun without it is not gone on with.
#[test]
fn trimming_belongs_to_the_identity() {
    let Some(data) = corpus("IMAGEBART_DATA_DIR", "trimming_belongs_to_the_identity") else { return };
    let root = tempdir().unwrap();
    let dataset = data.join("cc-mini/webdataset/00002.tar").display().to_string();
    let file = pipeline(root.path(), "webdataset", &dataset, "");
    let file = file.to_str().unwrap();
    succeed(["encode", file]);
    let plain = tables(&root.path().join("out"));
    let output = run(["encode", file, "--set", "image.trim=white-border"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("preprocessing.trim: \"white-border\" here, nothing recorded"), "{text}");
    assert_eq!(tables(&root.path().join("out")), plain);
    succeed(["encode", file, "--set", "image.trim=none"]);
    succeed(["encode", file, "--set", "image.trim=white-border", "--overwrite"]);
    assert_ne!(tables(&root.path().join("out")), plain);
}
