//! `cargo bench --bench encode`: the whole command over generated shards. Prints how busy the device was while input lasted, and
//! the peak memory over ten times the shards against that over one.

#[path = "../tests/binary/common/mod.rs"]
mod common;

use common::{imagebart, pipeline};
use imagebart::config::ByteSize;
use std::path::Path;

/// Shards and samples a shard of the smaller run.
const SHARDS: u64 = 4;
const SAMPLES: u64 = 100;
const TIMES: u64 = 10;
/// Side of the photographs: about 0.2 megapixels.
const SIDE: u32 = 450;
/// Small enough that the run has to live within it.
const BUDGET: u64 = 64 << 20;

/// Shards of JPEGs, of which eight differ: what is measured is the way, not the pictures.
fn shards(root: &Path, count: u64) {
    std::fs::create_dir_all(root).expect("folder");
    let pictures: Vec<Vec<u8>> = (0..8)
        .map(|index| {
            let picture = common::picture(index, SIDE, SIDE);
            let rgb = imagebart::imaging::Rgb::new(SIDE, SIDE, picture.into_raw()).expect("a whole picture");
            imagebart::imaging::encode_jpeg(&rgb, 90).expect("JPEG encodes")
        })
        .collect();
    for shard in 0..count {
        let members: Vec<(String, Vec<u8>)> = (0..SAMPLES)
            .map(|sample| (format!("{shard:04}-{sample:04}.jpg"), pictures[sample as usize % 8].clone()))
            .collect();
        std::fs::write(root.join(format!("{shard:04}.tar")), common::tar(&members)).expect("shard");
    }
}

/// Encodes `count` shards and returns the run's facts.
fn encode(root: &Path, count: u64) -> serde_json::Value {
    let out = root.join("out");
    let _ = std::fs::remove_dir_all(&out);
    let dataset = format!("{}/{{0000..{:04}}}.tar", root.join("in").display(), count - 1);
    // Crops large enough that the tokenizer is what the run waits for, as with real weights.
    let size = "image.size=128";
    let file = pipeline(root, "webdataset", &dataset, &format!("memory_budget = {BUDGET}\n"));
    let output = imagebart().arg("encode").arg(file).args(["--set", size]).output().expect("the binary starts");
    assert!(output.status.success(), "{}", common::stderr(&output));
    let text = std::fs::read(out.join("run.json")).expect("run.json");
    serde_json::from_slice(&text).expect("run.json is JSON")
}

fn main() {
    let root = tempfile::tempdir().expect("folder");
    shards(&root.path().join("in"), SHARDS * TIMES);
    // The first run reads libtorch from the disk; it is not counted.
    encode(root.path(), 1);
    let runs = [SHARDS, SHARDS * TIMES].map(|count| (count, encode(root.path(), count)));
    for (count, facts) in &runs {
        let number = |key: &str| facts[key].as_f64().unwrap_or(f64::NAN);
        let device = facts["stages"].as_array().into_iter().flatten().find(|stage| stage["stage"] == "tokenize");
        let busy = device.and_then(|stage| stage["busy_while_fed"].as_f64()).unwrap_or(f64::NAN);
        println!(
            "{count:4} shards: {:6} images, {:7.1} images/s, peak memory {}, tokenize busy {:.1} % while input lasted",
            number("samples"),
            number("samples") / number("seconds"),
            ByteSize(number("peak_memory") as u64),
            busy * 100.0
        );
    }
    let peak = |index: usize| runs[index].1["peak_memory"].as_f64().unwrap_or(f64::NAN);
    println!("peak memory of {TIMES}x the shards: {:.3}x, with a budget of {}", peak(1) / peak(0), ByteSize(BUDGET));
}
