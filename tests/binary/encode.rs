//! `imagebart encode` as its user sees it: what it writes, resumes, refuses and says.

use crate::common::{folder, imagebart, pipeline, run, stderr, succeed, tables, webdataset};
use std::fs;
use tempfile::tempdir;

#[test]
fn a_folder_becomes_latents_that_verify() {
    let root = tempdir().unwrap();
    folder(&root.path().join("in"), 30);
    let dataset = root.path().join("in").display().to_string();
    let file = pipeline(root.path(), "folder", &dataset, "");
    let file = file.to_str().unwrap();
    let set = ["--set", "dataset.unit_rows=12", "--set", "dataset.labels=directory", "--set", "image.flip=both"];
    let output = imagebart().args(["encode", file]).args(set).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("60 rows"), "{}", stderr(&output));

    let files = tables(&root.path().join("out"));
    let latents = files.keys().filter(|name| name.starts_with("latents/")).count();
    assert_eq!(latents, 3, "{:?}", files.keys());
    let verified = succeed(["verify", root.path().join("out").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("OK"));
    let facts: serde_json::Value =
        serde_json::from_slice(&fs::read(root.path().join("out/run.json")).unwrap()).unwrap();
    assert_eq!(facts["rows"], 60);
    assert_eq!(facts["pipeline"]["image"]["size"], 32);
}

#[test]
fn a_second_run_does_only_what_is_missing() {
    let root = tempdir().unwrap();
    webdataset(&root.path().join("in"), 3, 6);
    let dataset = root.path().join("in/shard-{0000..0002}.tar").display().to_string();
    let file = pipeline(root.path(), "webdataset", &dataset, "");
    let file = file.to_str().unwrap();
    succeed(["encode", file]);
    let out = root.path().join("out");
    let before = tables(&out);
    let removed = out.join("latents/shard-0001.tar.parquet");
    fs::remove_file(&removed).unwrap();
    let output = succeed(["encode", file]);
    assert!(stderr(&output).contains("2 of 3 units are done already"), "{}", stderr(&output));
    assert_eq!(before, tables(&out));
    let output = succeed(["encode", file]);
    assert!(stderr(&output).contains("nothing to do"), "{}", stderr(&output));
}

#[test]
fn another_identity_is_refused_with_both_sides() {
    let root = tempdir().unwrap();
    webdataset(&root.path().join("in"), 1, 4);
    let dataset = root.path().join("in/*.tar").display().to_string().replace("*.tar", "shard-0000.tar");
    let file = pipeline(root.path(), "webdataset", &dataset, "");
    let file = file.to_str().unwrap();
    succeed(["encode", file]);
    let before = tables(&root.path().join("out"));
    let output = run(["encode", file, "--seed", "8"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("seed") && text.contains('7') && text.contains('8'), "{text}");
    assert_eq!(before, tables(&root.path().join("out")));

    // Batch size left on auto takes the recorded value.
    let automatic = run(["encode", file, "--set", "tokenizer.batch_size=auto"]);
    assert!(automatic.status.success(), "{}", stderr(&automatic));
    succeed(["encode", file, "--seed", "8", "--overwrite"]);
    assert_ne!(before, tables(&root.path().join("out")));
}

#[test]
fn a_source_that_changed_is_refused() {
    let root = tempdir().unwrap();
    webdataset(&root.path().join("in"), 2, 4);
    let dataset = root.path().join("in/shard-{0000..0001}.tar").display().to_string();
    let file = pipeline(root.path(), "webdataset", &dataset, "");
    let file = file.to_str().unwrap();
    succeed(["encode", file]);
    let shard = root.path().join("in/shard-0001.tar");
    let mut bytes = fs::read(&shard).unwrap();
    bytes.extend([0; 512]);
    fs::write(&shard, bytes).unwrap();
    let output = run(["encode", file]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("shard-0001.tar"), "{}", stderr(&output));
}

#[test]
fn ranks_together_write_what_one_process_writes() {
    let root = tempdir().unwrap();
    webdataset(&root.path().join("in"), 5, 3);
    let dataset = root.path().join("in/shard-{0000..0004}.tar").display().to_string();
    let file = pipeline(root.path(), "webdataset", &dataset, "");
    let file = file.to_str().unwrap();
    let mut results = Vec::new();
    for world in 1..=3 {
        let out = root.path().join(format!("out-{world}"));
        let url = format!("output.url={}", out.display());
        let world = world.to_string();
        let children: Vec<_> = (0..world.parse::<u32>().unwrap())
            .map(|rank| {
                let rank = rank.to_string();
                imagebart().args(["encode", file, "--set", &url, "--rank", &rank, "--world", &world]).spawn().unwrap()
            })
            .collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        results.push(tables(&out));
    }
    assert_eq!(results[0].keys().filter(|name| name.starts_with("latents/")).count(), 5);
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[test]
fn too_many_rejects_end_with_three_and_keep_the_data() {
    let root = tempdir().unwrap();
    folder(&root.path().join("in"), 8);
    fs::write(root.path().join("in/cats/broken.png"), b"<html>404</html>").unwrap();
    fs::write(root.path().join("in/dogs/empty.jpg"), b"").unwrap();
    let dataset = root.path().join("in").display().to_string();
    let file = pipeline(root.path(), "folder", &dataset, "");
    let output = run(["encode", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(text.contains("2 of 10 samples were rejected"), "{text}");
    assert!(text.contains("not_an_image") && text.contains("empty"), "{text}");
    succeed(["verify", root.path().join("out").to_str().unwrap()]);
    // The answer is the same when there is nothing left to do.
    assert_eq!(run(["encode", file.to_str().unwrap()]).status.code(), Some(3));
}

#[test]
fn what_the_user_got_wrong_is_one_sentence_before_any_work() {
    let root = tempdir().unwrap();
    webdataset(&root.path().join("in"), 1, 2);
    let dataset = root.path().join("in/shard-0000.tar").display().to_string();
    let file = pipeline(root.path(), "webdataset", &dataset, "");
    let file = file.to_str().unwrap();
    let absent = root.path().join("absent").display().to_string();
    let notes = root.path().join("notes.txt");
    fs::write(&notes, "not weights").unwrap();
    let cases = [
        (format!("tokenizer.weights={absent}.safetensors"), "absent.safetensors"),
        (format!("tokenizer.weights={}", notes.display()), "notes.txt"),
        (format!("dataset.url={absent}/{{0000..0003}}.tar"), "absent/0000.tar"),
        ("dataset.url=ftp://example.invalid/x.tar".to_owned(), "ftp"),
        ("output.url=http://127.0.0.1:9/out".to_owned(), "http"),
        ("image.size=33".to_owned(), "33"),
        ("image.siez=32".to_owned(), "did you mean `size`?"),
    ];
    for (setting, expected) in cases {
        let output = run(["encode", file, "--set", &setting]);
        let text = stderr(&output);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{setting}: {text}");
        assert!(text.contains(expected), "{setting}: {text}");
        assert_eq!(text.lines().filter(|line| line.contains("error")).count(), 1, "{setting}: {text}");
        assert!(!root.path().join("out/latents").exists(), "{setting} wrote latents");
    }
}

#[test]
fn a_dry_run_touches_nothing() {
    let root = tempdir().unwrap();
    webdataset(&root.path().join("in"), 2, 2);
    let dataset = root.path().join("in/shard-{0000..0001}.tar").display().to_string();
    let file = pipeline(root.path(), "webdataset", &dataset, "");
    let output = succeed(["encode", file.to_str().unwrap(), "--dry-run"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for expected in ["2 units", "8 × 8", "64", "parameters", "memory"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!root.path().join("out").exists());
}

/// Credentials are looked for where the store's users keep them, and their absence is one sentence before any work.
#[test]
fn missing_credentials_are_one_sentence() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), "webdataset", "s3://bucket/{0000..0003}.tar", "");
    let mut command = imagebart();
    for name in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SKIP_SIGNATURE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    ] {
        command.env_remove(name);
    }
    // Without keys the store asks the instance's metadata service: a closed port of this machine answers at once.
    command.env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9").env("AWS_REGION", "us-east-1");
    let output = command.arg("encode").arg(file).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("no credentials for s3://bucket") && text.contains("AWS_ACCESS_KEY_ID"), "{text}");
    assert!(!root.path().join("out/latents").exists());
}

/// A list selects by name, and counts for the identity by what is in it: wherever it lies, and whatever it is called.
#[test]
fn a_list_selects_and_belongs_to_the_identity() {
    let root = tempdir().unwrap();
    folder(&root.path().join("in"), 12);
    let list = root.path().join("keep.txt");
    fs::write(&list, "cats/00002.png\n00005.png\n\n00006.png\n").unwrap();
    let dataset = root.path().join("in").display().to_string();
    let file = pipeline(root.path(), "folder", &dataset, "");
    let file = file.to_str().unwrap();
    let set = |list: &std::path::Path| format!("dataset.list=file://{}", list.display());
    let output = succeed(["encode", file, "--set", &set(&list)]);
    assert!(stderr(&output).contains("3 rows of 3 images"), "{}", stderr(&output));

    let renamed = root.path().join("renamed.txt");
    fs::rename(&list, &renamed).unwrap();
    let output = succeed(["encode", file, "--set", &set(&renamed)]);
    assert!(stderr(&output).contains("nothing to do"), "{}", stderr(&output));
    fs::write(&renamed, "00002.png\n").unwrap();
    let output = run(["encode", file, "--set", &set(&renamed)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("dataset.settings.list"), "{}", stderr(&output));
}
