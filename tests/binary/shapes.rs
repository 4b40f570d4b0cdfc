//! The shapes from nothing to a chain that draws: the whole of `make demo-train`, a few steps long, and the demo with its model.

use crate::common::{stderr, tables};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::tempdir;

/// Runs the script in `root` on few pictures.
fn train(root: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shapes/train.sh");
    let small = [("STEPS", "2"), ("TRAINING", "96"), ("VALIDATION", "8"), ("PER_SHARD", "6"), ("COUNT", "3")];
    let output = Command::new("sh")
        .arg(script)
        .env("IMAGEBART", env!("CARGO_BIN_EXE_imagebart"))
        .envs(small)
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

#[test]
fn the_whole_training_runs_and_its_model_draws() {
    let root = tempdir().unwrap();
    let root = root.path();
    train(root);
    let shapes = root.join("out/shapes");
    let evaluation = fs::read(shapes.join("shipped-evaluation/evaluation.json")).unwrap();
    let evaluation: serde_json::Value = serde_json::from_slice(&evaluation).unwrap();
    assert_eq!((&evaluation["scales"], &evaluation["drawings"]["attributes"]), (&3.into(), &1.0.into()));
    let bits = evaluation["bits_by_scale"].as_array().unwrap();
    assert!(bits.len() == 3 && bits.iter().all(|bits| bits.as_f64().is_some_and(f64::is_finite)), "{evaluation}");
    let weights = ["tokenizer", "scale-1", "scale-2", "scale-3"].map(|name| format!("shipped/{name}.safetensors"));
    let bytes: u64 = weights.iter().map(|name| fs::metadata(shapes.join(name)).unwrap().len()).sum();
    assert!(bytes <= 12_000_000, "{bytes} bytes");

    // A second run finds everything done, and changes nothing.
    let before = tables(&shapes.join("shipped"));
    let again = train(root);
    assert!(stderr(&again).contains("nothing to do"), "{}", stderr(&again));
    assert_eq!(before, tables(&shapes.join("shipped")));

    let output = Command::new(env!("CARGO_BIN_EXE_imagebart"))
        .args(["demo", "--device", "cpu", "--out", "demo", "--model", "out/shapes/shipped"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("attributes right in 64 pictures"), "{text}");
    for file in ["model/chain.toml", "gallery.html", "drawn.html", "drawn.png", "completions.png", "captions.txt"] {
        assert!(root.join("demo").join(file).is_file(), "{file}");
    }
}
