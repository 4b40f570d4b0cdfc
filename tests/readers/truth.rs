//! The formats of tables and containers on the corpora of `$IMAGEBART_DATA_DIR`, against what the corpora say of themselves.

use crate::corpora::{corpora, jsonl, placed, samples, sha256};
use imagebart::datasets::{Captions, DatasetOptions, Format, Labels, Location, ParquetImages, Sample, Table};
use imagebart::imaging::{Limits, decode};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name without endings, class, hash.
type Fact = (String, Option<i64>, String);

fn facts(samples: &[Sample]) -> BTreeSet<Fact> {
    let name = |key: &str| key.split('.').next().unwrap_or_default().to_owned();
    samples.iter().map(|s| (name(&s.key), s.label.map(i64::from), sha256(&s.image))).collect()
}

/// The images of imagenet-mini that lie in places that start with `place`.
fn imagenet(data: &Path, place: &str) -> Vec<(String, Fact)> {
    let mut facts = Vec::new();
    for row in jsonl(data.join("imagenet-mini/TRUTH.jsonl")) {
        let text = |field: &str| row[field].as_str().unwrap().to_owned();
        let name = text("name").split('.').next().unwrap().to_owned();
        for file in row["in"].as_array().unwrap().iter().filter_map(|file| file.as_str()?.strip_prefix(place)) {
            facts.push((file.to_owned(), (name.clone(), row["label"].as_i64(), text("sha256"))));
        }
    }
    facts
}

#[tokio::test]
async fn hugging_face_tables_give_every_image_with_its_label() {
    let Some(data) = corpora("hugging_face_tables_give_every_image_with_its_label") else { return };
    let url = format!("{}/imagenet-mini/hf/data", data.display());
    let options = DatasetOptions { classes: Some(1000), ..DatasetOptions::default() };
    let truth = imagenet(&data, "hf/data/");
    assert!(truth.len() > 200, "the truth was read");
    let expected: BTreeSet<Fact> = truth.into_iter().map(|(_, fact)| fact).collect();
    // `path` repeats the wnid: n01440764_13_n01440764.JPEG.
    let bare = |mut found: Vec<Sample>| {
        for sample in &mut found {
            let stem = sample.key.split('.').next().unwrap();
            let (name, wnid) = stem.rsplit_once("_n").unwrap_or((stem, ""));
            assert!(name.contains(&format!("n{wnid}_")) || name.starts_with("ILSVRC2012_val"), "{}", sample.key);
            sample.key = name.to_owned();
        }
        found
    };
    for unit_rows in [1, 30, 5000] {
        let options = DatasetOptions { unit_rows, ..options.clone() };
        let found = samples(Format::HfParquet, &format!("{url}/{{train,validation}}-*"), options).await;
        assert_eq!(facts(&bare(found)), expected, "units of {unit_rows} rows");
    }
    let test = samples(Format::HfParquet, &format!("{url}/test-*"), options.clone()).await;
    assert_eq!(test.len(), 5);
    assert!(test.iter().all(|sample| sample.label.is_none()), "-1 is no class");
    let location = Location::open(&placed(&url)).await.unwrap();
    let names = ParquetImages::new(location, Table::HuggingFace, options).class_names().await.unwrap();
    assert_eq!(names.len(), 1000);
    assert!(names[0].starts_with("tench"), "{}", names[0]);
}

#[tokio::test]
async fn mds_shards_give_every_image_with_its_label() {
    let Some(data) = corpora("mds_shards_give_every_image_with_its_label") else { return };
    let known: BTreeSet<Fact> = imagenet(&data, "").into_iter().map(|(_, fact)| fact).collect();
    let mut both = Vec::new();
    for set in ["mds", "mds-zstd"] {
        let root = data.join("imagenet-mini").join(set);
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(root.join("train/index.json")).unwrap()).unwrap();
        let count: u64 = index["shards"].as_array().unwrap().iter().map(|s| s["samples"].as_u64().unwrap()).sum();
        let found = samples(Format::Mds, &root.display().to_string(), DatasetOptions::default()).await;
        assert_eq!(found.len() as u64, count, "{set}");
        let found = facts(&found);
        assert_eq!(found.len() as u64, count, "{set}: different images");
        assert!(found.is_subset(&known), "{set}: {:?}", found.difference(&known).next());
        both.push(found);
    }
    assert_eq!(both[0], both[1]);
}

#[tokio::test]
async fn ffhq_records_give_the_pixels_of_every_level() {
    let Some(data) = corpora("ffhq_records_give_the_pixels_of_every_level") else { return };
    let root = data.join("ffhq-mini");
    let contents: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.join("CONTENTS.json")).unwrap()).unwrap();
    let expected: Vec<&str> =
        contents.as_array().unwrap().iter().map(|image| image["rgb_sha256_256"].as_str().unwrap()).collect();
    for level in 2..=8 {
        let url = root.join(format!("tfrecords/ffhq/ffhq-r{level:02}.tfrecords")).display().to_string();
        for unit_rows in [7, 5000] {
            let options = DatasetOptions { unit_rows, ..DatasetOptions::default() };
            let found = samples(Format::FfhqTfRecord, &url, options).await;
            let keys: Vec<String> = (0..expected.len()).map(|number| number.to_string()).collect();
            assert_eq!(found.iter().map(|sample| &sample.key).collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
            let images: Vec<_> = found.iter().map(|s| decode(&s.image, &Limits::default()).unwrap()).collect();
            assert!(images.iter().all(|image| (image.width, image.height) == (1 << level, 1 << level)));
            if level == 8 {
                let hashes: Vec<String> = images.iter().map(|image| sha256(&image.pixels)).collect();
                assert_eq!(hashes, expected, "units of {unit_rows} rows");
            }
        }
    }
}

#[tokio::test]
async fn zips_give_every_image_with_its_label() {
    let Some(data) = corpora("zips_give_every_image_with_its_label") else { return };
    let archive = |name: &str| data.join("ffhq-mini/zips").join(name);
    let read = |name: &str, labels: Labels| {
        let url = archive(name).display().to_string();
        let options = DatasetOptions { labels, unit_rows: 3, ..DatasetOptions::default() };
        async move { samples(Format::StyleGanZip, &url, options).await }
    };
    for name in ["ffhq-256x256.zip", "ffhq-64x64-edm.zip", "labelled-64x64.zip"] {
        // The oracle is the `zip` crate.
        let mut oracle = zip::ZipArchive::new(std::fs::File::open(archive(name)).unwrap()).unwrap();
        let mut expected = BTreeMap::new();
        for at in 0..oracle.len() {
            let mut entry = oracle.by_index(at).unwrap();
            let mut body = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut body).unwrap();
            expected.insert(entry.name().unwrap().into_owned(), body);
        }
        let labels: serde_json::Value = serde_json::from_slice(&expected.remove("dataset.json").unwrap()).unwrap();
        let label = |key: &str| {
            let list = labels["labels"].as_array()?;
            list.iter().find(|pair| pair[0] == key).and_then(|pair| i32::try_from(pair[1].as_i64()?).ok())
        };
        let found = read(name, Labels::Auto).await;
        assert_eq!(found.iter().map(|s| &s.key).collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
        for sample in &found {
            assert_eq!(sample.image, expected[&sample.key], "{name} {}", sample.key);
            assert_eq!(sample.label, label(&sample.key), "{name} {}", sample.key);
        }
        assert!(read(name, Labels::None).await.iter().all(|sample| sample.label.is_none()));
    }
}

#[tokio::test]
async fn captioned_shards_give_their_successes() {
    let Some(data) = corpora("captioned_shards_give_their_successes") else { return };
    let table = std::fs::read_to_string(data.join("cc-mini/Train_GCC-training.tsv")).unwrap();
    let known: BTreeSet<&str> = table.lines().filter_map(|line| line.split('\t').next()).collect();
    for (directory, format, ending) in
        [("parquet", Format::Img2datasetParquet, ".parquet"), ("tfrecord", Format::Img2datasetTfRecord, ".tfrecord")]
    {
        let root = data.join("cc-mini").join(directory);
        let url = root.display().to_string();
        let found = samples(format, &url, DatasetOptions::default()).await;
        let mut per_shard: BTreeMap<&str, u64> = BTreeMap::new();
        for sample in &found {
            *per_shard.entry(&sample.source).or_default() += 1;
            let caption = sample.caption.as_deref().unwrap();
            assert!(known.contains(&caption), "{}: {caption:?} is a caption of the table", sample.key);
            decode(&sample.image, &Limits::default()).unwrap();
        }
        for (shard, count) in &per_shard {
            let stats = root.join(shard.replace(ending, "_stats.json"));
            let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(stats).unwrap()).unwrap();
            assert_eq!(stats["successes"].as_u64(), Some(*count), "{directory}/{shard}");
        }
        let keys: BTreeSet<&str> = found.iter().map(|sample| sample.key.as_str()).collect();
        assert_eq!(keys.len(), found.len(), "{directory}: keys are img2dataset's");
        assert!(keys.iter().all(|key| key.len() == 7), "{keys:?}");
        let named = DatasetOptions { captions: Captions::Json("url".into()), ..DatasetOptions::default() };
        let urls = samples(format, &url, named).await;
        assert!(urls.iter().all(|sample| sample.caption.as_deref().unwrap().starts_with("http://")), "{directory}");
    }
}
