//! `encode` over real corpora: the reference crops' token grids, and ImageNet shards' labels.

use crate::common::{corpus, imagebart, stderr};
use futures::TryStreamExt;
use imagebart::tables::{LatentRow, LatentsReader, OutputDir};
use imagebart::torch::weights::WeightsFile;
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::tempdir;

/// Encodes with the corpus' tokenizer, verifies, and reads the rows back.
fn encode(root: &Path, tokens: &Path, settings: &[String]) -> Vec<LatentRow> {
    let out = root.join("out");
    let pipeline = root.join("pipeline.toml");
    let weights = tokens.join("tokenizer.safetensors");
    let text = format!(
        "[image]\nsize = 256\n[tokenizer]\nweights = \"{}\"\n[output]\nurl = \"{}\"\n",
        weights.display(),
        out.display()
    );
    std::fs::write(&pipeline, text).unwrap();
    let mut command = imagebart();
    command.arg("encode").arg(&pipeline);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let verified = imagebart().arg("verify").arg(&out).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let reader = LatentsReader::open(OutputDir::local(&out).unwrap()).await.unwrap();
        reader.rows().try_collect().await.unwrap()
    })
}

#[test]
fn reference_crops_give_the_reference_tokens() {
    let test = "reference_crops_give_the_reference_tokens";
    let Some(data) = corpus("IMAGEBART_DATA_DIR", test) else { return };
    let Some(tokens) = corpus("IMAGEBART_TOKENS_DIR", test) else { return };
    let root = tempdir().unwrap();
    let crops = data.join("reference/center_bicubic256");
    let settings = ["dataset.format=folder".to_owned(), format!("dataset.url={}", crops.display())];
    let rows = encode(root.path(), &tokens, &settings);
    assert_eq!(rows.len(), 40);

    let mut expected = WeightsFile::open(tokens.join("tokens.safetensors")).unwrap();
    let (mut same, mut all) = (0, 0);
    for row in &rows {
        let grid = expected.read(&format!("tokens.{}", row.key)).unwrap();
        let grid = Vec::<i64>::try_from(grid.f_flatten(0, -1).unwrap()).unwrap();
        assert_eq!(grid.len(), row.tokens.len());
        for (&expected, &token) in grid.iter().zip(&row.tokens).filter(|(expected, _)| **expected >= 0) {
            all += 1;
            same += usize::from(expected == i64::from(token));
        }
    }
    println!("{same} of {all} tokens are those of the reference");
    assert!(same as f64 >= 0.999 * f64::from(all), "{same} of {all}");
}

#[test]
fn imagenet_shards_give_a_row_an_image_with_its_label() {
    let test = "imagenet_shards_give_a_row_an_image_with_its_label";
    let Some(data) = corpus("IMAGEBART_DATA_DIR", test) else { return };
    let Some(tokens) = corpus("IMAGEBART_TOKENS_DIR", test) else { return };
    let root = tempdir().unwrap();
    let shards = data.join("imagenet-mini/wds");
    let settings = ["dataset.format=webdataset".to_owned(), format!("dataset.url={}/*.tar", shards.display())];
    let rows = encode(root.path(), &tokens, &settings);

    // Labels by shard: keys of the shards are not the names of the truth file.
    let truth = std::fs::read_to_string(data.join("imagenet-mini/TRUTH.jsonl")).unwrap();
    let mut expected: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for line in truth.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let label = line["label"].as_i64().unwrap() as i32;
        let places = line["in"].as_array().unwrap().iter().filter_map(|place| place.as_str());
        for shard in places.filter_map(|place| place.strip_prefix("wds/")) {
            expected.entry(shard.to_owned()).or_default().push(label);
        }
    }
    let mut found: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for row in &rows {
        found.entry(row.source.clone()).or_default().push(row.label.expect("every image has a label"));
    }
    expected.values_mut().chain(found.values_mut()).for_each(|labels| labels.sort_unstable());
    assert_eq!(found, expected);
    assert_eq!(rows.len(), truth.lines().count());
}
