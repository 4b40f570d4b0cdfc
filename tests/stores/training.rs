//! A chain is trained from latents in a bucket as it is from the disk, and leaves its checkpoints there.

use crate::bucket;
use crate::common::{corpus, pipeline, stderr};
use crate::corpus::{clean, download, reaching, upload};
use crate::servers;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Networks as small as they can be, over grids of 8 × 8 of 64 codes.
const CHAIN: &str = r#"
[chain]
grid = [8, 8]

[[chain.scale]]
network = "encoder-decoder"
dim = 16
encoder_depth = 1
decoder_depth = 1
heads = 1

[[chain.scale]]
network = "gpt"
dim = 16
depth = 1
heads = 1
alpha = 1.0

[condition]
kind = "class"
classes = 1000

[train]
steps = 6
batch_size = 4
warm_up_steps = 2
log_every = 2
checkpoint_every = 3
validate_every = 6
"#;

fn run(mut command: Command, arguments: &[&str], settings: &[(&str, &str)]) {
    let sets = settings.iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]);
    let output = command.args(arguments).args(sets).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The networks of a model directory.
fn networks(model: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: &str| (name.to_owned(), std::fs::read(model.join(name)).unwrap());
    ["scale-1.safetensors", "scale-2.safetensors"].into_iter().map(read).collect()
}

#[tokio::test]
async fn imagenet_trains_from_s3_as_from_the_disk() {
    let test = "imagenet_trains_from_s3_as_from_the_disk";
    let Some(data) = corpus("IMAGEBART_DATA_DIR", test) else { return };
    let Some(bucket) = bucket(test, servers::s3()) else { return };
    let root = tempfile::tempdir().unwrap();
    let shards = format!("{}/*.tar", data.join("imagenet-mini/wds").display());
    let file = pipeline(root.path(), "webdataset", &shards, CHAIN).display().to_string();
    let out = root.path().join("out").display().to_string();
    run(clean(), &["encode", &file], &[("run.max_reject_fraction", "1.0")]);
    let latents = crate::common::tables(&root.path().join("out"));
    upload(&*bucket.store, latents.into_iter().map(|(name, bytes)| (format!("mini/{name}"), bytes)).collect()).await;

    let there = format!("{}/mini", bucket.url);
    let (here, far) = (root.path().join("here"), root.path().join("far"));
    let train = |command, url: &str, model: &Path| {
        let model = model.display().to_string();
        let all = [("output.url", url), ("train.validation", url), ("chain.model", model.as_str())];
        run(command, &["train", &file], &all);
    };
    train(clean(), &out, &here);
    train(reaching(&bucket), &there, &far);
    assert_eq!(networks(&here), networks(&far));

    let left = download(&*bucket.store, "mini/train/scale-1").await;
    for name in ["report.html", "step-0000000003.json", "step-0000000006.safetensors"] {
        assert!(left.contains_key(name), "{:?}", left.keys());
    }
    // Nothing is left to do, and nothing is done again: the checkpoints in the bucket are found.
    std::fs::remove_file(far.join("scale-1.safetensors")).unwrap();
    train(reaching(&bucket), &there, &far);
    assert_eq!(networks(&here), networks(&far));
    let again = download(&*bucket.store, "mini/train/scale-1").await;
    assert_eq!(left["step-0000000006.safetensors"], again["step-0000000006.safetensors"]);
}
