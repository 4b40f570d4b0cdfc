//! The readers on the real-format corpora of `$IMAGEBART_DATA_DIR`.

use imagebart::datasets::{Captions, DatasetOptions, Entry, Format, Sample, open, read_unit};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The corpora's directory, or a visible line that the test is skipped.
pub fn corpora(test: &str) -> Option<PathBuf> {
    let directory = std::env::var_os("IMAGEBART_DATA_DIR").map(PathBuf::from);
    if directory.is_none() {
        crate::skip::skipped(format_args!("{test}: IMAGEBART_DATA_DIR is not set"));
    }
    directory
}

/// Where a path of the corpora is read from: `$IMAGEBART_CORPORA_URL` is a copy of them in a store.
pub fn placed(path: &str) -> String {
    match (std::env::var("IMAGEBART_CORPORA_URL"), std::env::var("IMAGEBART_DATA_DIR")) {
        (Ok(url), Ok(data)) => path.replace(&data, &url),
        _ => path.to_owned(),
    }
}

/// Every sample of the dataset at `path`, on the local disk or where [`placed`] says.
pub async fn samples(format: Format, path: &str, mut options: DatasetOptions) -> Vec<Sample> {
    let url = &placed(path);
    options.list = options.list.map(|list| placed(&list));
    options.mapping = options.mapping.map(|mapping| placed(&mapping));
    let reader = open(format, url, options).await.unwrap();
    let mut samples = Vec::new();
    for unit in reader.units().await.unwrap() {
        for entry in read_unit(&*reader, &unit).await.unwrap() {
            match entry {
                Entry::Sample(sample) => samples.push(sample),
                Entry::Reject(reject) => panic!("{url}: {reject:?}"),
            }
        }
    }
    samples
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn jsonl(path: PathBuf) -> Vec<serde_json::Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn imagenet_shards_give_every_image_with_its_label() {
    let Some(data) = corpora("imagenet_shards_give_every_image_with_its_label") else { return };
    let url = format!("{}/imagenet-mini/wds", data.display());
    let options = DatasetOptions { classes: Some(1000), ..DatasetOptions::default() };
    let mut found: Vec<(String, String, i64, String)> = samples(Format::WebDataset, &url, options.clone())
        .await
        .into_iter()
        .map(|s| (s.source, s.key, s.label.unwrap().into(), sha256(&s.image)))
        .collect();
    let mut expected = Vec::new();
    for row in jsonl(data.join("imagenet-mini/TRUTH.jsonl")) {
        let text = |field: &str| row[field].as_str().unwrap().to_owned();
        let shards = row["in"].as_array().unwrap().iter().filter_map(|place| place.as_str()?.strip_prefix("wds/"));
        let key = text("name").split('.').next().unwrap().to_owned();
        expected.extend(shards.map(|s| (s.to_owned(), key.clone(), row["label"].as_i64().unwrap(), text("sha256"))));
    }
    assert!(expected.len() > 200, "the truth was read");
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    // The same shards by braces, without the validation set.
    let url = format!("{url}/imagenet1k-train-{{0000..0004}}.tar");
    assert_eq!(samples(Format::WebDataset, &url, options).await.len(), 200);
}

#[tokio::test]
async fn captions_come_from_txt_or_json() {
    let Some(data) = corpora("captions_come_from_txt_or_json") else { return };
    let url = format!("{}/cc-mini/webdataset", data.display());
    let from_txt = samples(Format::WebDataset, &url, DatasetOptions::default()).await;
    let options = DatasetOptions { captions: Captions::Json("caption".into()), ..DatasetOptions::default() };
    assert_eq!(samples(Format::WebDataset, &url, options).await, from_txt);
    // FORMATS §5: `_stats.json` counts the successes of a shard, and only those are in it.
    let mut per_shard: BTreeMap<&str, u64> = BTreeMap::new();
    from_txt.iter().for_each(|sample| *per_shard.entry(&sample.source).or_default() += 1);
    assert_eq!(per_shard.len(), 3);
    for (shard, n) in per_shard {
        let stats = data.join("cc-mini/webdataset").join(shard.replace(".tar", "_stats.json"));
        let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(stats).unwrap()).unwrap();
        assert_eq!(stats["successes"].as_u64(), Some(n), "{shard}");
    }
    let table = std::fs::read_to_string(data.join("cc-mini/Train_GCC-training.tsv")).unwrap();
    let known: Vec<&str> = table.lines().filter_map(|line| line.split('\t').next()).collect();
    for sample in &from_txt {
        let caption = sample.caption.as_deref().unwrap();
        assert!(known.contains(&caption), "{}: {caption:?} is a caption of the table", sample.key);
        assert_eq!(sample.label, None);
    }
}

#[tokio::test]
async fn lists_select_the_files_of_a_folder() {
    let Some(data) = corpora("lists_select_the_files_of_a_folder") else { return };
    let root = data.join("ffhq-mini");
    let mut all = Vec::new();
    for list in ["ffhqtrain.txt", "ffhqvalidation.txt"] {
        let names = std::fs::read_to_string(root.join(list)).unwrap();
        let options = DatasetOptions { list: Some(root.join(list).display().to_string()), ..DatasetOptions::default() };
        let found = samples(Format::Folder, &root.join("flat256").display().to_string(), options).await;
        let mut expected: Vec<&str> = names.lines().collect();
        expected.sort_unstable();
        assert_eq!(found.iter().map(|s| s.key.as_str()).collect::<Vec<_>>(), expected, "{list}");
        for sample in &found {
            assert_eq!(sample.image, std::fs::read(root.join("flat256").join(&sample.key)).unwrap());
        }
        all.extend(found.into_iter().map(|sample| sample.key));
    }
    let whole = samples(Format::Folder, &root.join("flat256").display().to_string(), DatasetOptions::default()).await;
    all.sort_unstable();
    assert_eq!(whole.into_iter().map(|sample| sample.key).collect::<Vec<_>>(), all);
}
