//! `encode` killed at any instant and run again writes the bytes of an undisturbed run.

use crate::common::{Kills, imagebart, pipeline, succeed, tables, webdataset};
use std::fs;
use std::process::Stdio;
use std::time::Instant;
use tempfile::tempdir;

const KILLS: u32 = 30;

#[test]
fn thirty_kills_leave_no_trace() {
    let root = tempdir().unwrap();
    webdataset(&root.path().join("in"), 12, 24);
    // A broken image in a shard, so that rejects are at stake too.
    let broken = crate::common::tar(&[
        ("x.png".to_owned(), b"no image".to_vec()),
        ("y.png".to_owned(), crate::common::png(3, 40, 40)),
    ]);
    fs::write(root.path().join("in/shard-0012.tar"), broken).unwrap();
    let dataset = root.path().join("in/shard-{0000..0012}.tar").display().to_string();
    let file = pipeline(root.path(), "webdataset", &dataset, "");
    let file = file.to_str().unwrap();

    let start = Instant::now();
    succeed(["encode", file]);
    let undisturbed_time = start.elapsed();
    let out = root.path().join("out");
    let undisturbed = tables(&out);

    let disturbed = root.path().join("disturbed");
    let url = format!("output.url={}", disturbed.display());
    let undisturbed = (undisturbed_time, &undisturbed);
    Kills { count: KILLS, undisturbed, place: &disturbed, completions: 200 }.inflict(|| {
        let mut command = imagebart();
        command.args(["encode", file, "--set", &url]).stderr(Stdio::null());
        command
    });
    succeed(["encode", file, "--set", &url]);
    assert_eq!(*undisturbed.1, tables(&disturbed));
    succeed(["verify", disturbed.to_str().unwrap()]);
}

/// Ctrl-C ends the run with 130, whatever it was doing, and the next run goes on.
#[cfg(unix)]
#[test]
fn interrupts_end_with_130_and_resume() {
    use std::io::{BufRead, BufReader};

    let root = tempdir().unwrap();
    webdataset(&root.path().join("in"), 40, 24);
    let dataset = root.path().join("in/shard-{0000..0039}.tar").display().to_string();
    let file = pipeline(root.path(), "webdataset", &dataset, "");
    let file = file.to_str().unwrap();
    let mut child = imagebart().args(["encode", file]).stderr(Stdio::piped()).spawn().unwrap();
    // The line that tells the units is written when work begins.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.by_ref().map_while(Result::ok).find(|line| line.contains("units"));
    assert!(begun.is_some());
    let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    let stages = tables(&root.path().join("out")).into_keys().filter(|name| name.contains('#')).count();
    assert_eq!(stages, 0, "an interrupted run leaves no stage files");
    succeed(["encode", file]);
    succeed(["verify", root.path().join("out").to_str().unwrap()]);
}
