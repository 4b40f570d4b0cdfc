//! The formats of tables and containers on the corpora of `$IMAGEBART_DATA_DIR`, against what the corpora say of themselves.

use crate::corpora::{corpora, jsonl, placed, samples, sha256};
use imagebart::datasets::{Captions, DatasetOptions, Format, Labels, Location, ParquetImages, Sample, Split, Table};
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
    // A rank among the wnids is a place among the names.
    let words = std::fs::read_to_string(data.join("imagenet-mini/ilsvrc/LOC_synset_mapping.txt")).unwrap();
    let table = include_str!("../../src/datasets/imagenet_synsets.txt");
    let wnids = table.lines().filter(|line| !line.starts_with('#'));
    for ((line, wnid), name) in words.lines().zip(wnids).zip(&names) {
        // Two synsets of one name are told apart: `crane [n02012849]`.
        let name = name.split(" [").next().unwrap();
        assert_eq!(line.split_once(' '), Some((wnid, name)));
    }
}

/// Every image of imagenet-mini of one split.
fn split_of(data: &Path, split: &str) -> BTreeSet<Fact> {
    let rows = jsonl(data.join("imagenet-mini/TRUTH.jsonl")).into_iter().filter(|row| row["split"] == split);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let name = |row: &serde_json::Value| text(&row["name"]).split('.').next().unwrap().to_owned();
    rows.map(|row| (name(&row), row["label"].as_i64(), text(&row["sha256"]))).collect()
}

/// What the names of the several forms have in common: without directories, ending, and the wnid that Hugging Face adds.
fn plain_names(mut samples: Vec<Sample>) -> Vec<Sample> {
    for sample in &mut samples {
        let base = sample.key.rsplit('/').next().unwrap();
        let stem = base.split('.').next().unwrap();
        sample.key = stem.rsplit_once("_n").map_or(stem, |(name, _)| name).to_owned();
    }
    samples
}

/// One row for each form of imagenet-mini: format, place, split, mapping.
#[tokio::test]
async fn every_form_of_imagenet_gives_the_same_images_and_classes() {
    let Some(data) = corpora("every_form_of_imagenet_gives_the_same_images_and_classes") else { return };
    let root = data.join("imagenet-mini");
    let at = |place: &str| root.join(place).display().to_string();
    let (train, val) = (split_of(&data, "train"), split_of(&data, "validation"));
    assert_eq!((train.len(), val.len()), (200, 34), "the truth was read");
    // The Kaggle tree holds a part of the images; its own lists say which. MDS shards, which do too, are tested below.
    let listed = |all: &BTreeSet<Fact>, list: &str| -> BTreeSet<Fact> {
        let list = std::fs::read_to_string(root.join("kaggle/ILSVRC/ImageSets/CLS-LOC").join(list)).unwrap();
        let name = |line: &str| line.split(' ').next().unwrap().rsplit('/').next().unwrap().to_owned();
        let names: BTreeSet<String> = list.lines().map(name).collect();
        let found: BTreeSet<Fact> = all.iter().filter(|(name, ..)| names.contains(name)).cloned().collect();
        assert_eq!(found.len(), names.len());
        found
    };
    let (some_train, some_val) = (listed(&train, "train_cls.txt"), listed(&val, "val.txt"));
    let devkit = at("ilsvrc/ILSVRC2012_devkit_t12.tar.gz");
    let synsets = at("ilsvrc/validation_synset.txt");
    let kaggle = format!("{}::{}", at("ilsvrc/LOC_val_solution.csv"), at("ilsvrc/LOC_synset_mapping.txt"));
    let truth = tempfile::tempdir().unwrap();
    let numbers = numbered(&val, &root.join("ilsvrc/ilsvrc2012_id_to_wnid.txt"));
    std::fs::write(truth.path().join("ground_truth.txt"), numbers).unwrap();
    let ground = truth.path().join("ground_truth.txt").display().to_string();
    let ids = format!("{ground}::{}", at("ilsvrc/ilsvrc2012_id_to_wnid.txt"));
    use Split::{Train, Val};
    let table = [
        (Format::ImageNetTar, at("ilsvrc"), Some(Train), None, &train),
        (Format::ImageNetTar, at("ilsvrc/ILSVRC2012_img_train.tar"), None, None, &train),
        (Format::ImageNetTar, at("ilsvrc"), Some(Val), Some(&devkit), &val),
        (Format::ImageNetTar, at("ilsvrc"), Some(Val), Some(&synsets), &val),
        (Format::ImageNetTar, at("ilsvrc"), Some(Val), Some(&kaggle), &val),
        (Format::ImageNetTar, at("ilsvrc/ILSVRC2012_img_val.tar"), None, Some(&ids), &val),
        (Format::ImageNetFolder, at("kaggle"), Some(Train), None, &some_train),
        (Format::ImageNetFolder, at("kaggle/ILSVRC/Data/CLS-LOC/train"), None, None, &some_train),
        (Format::ImageNetFolder, at("kaggle"), Some(Val), Some(&kaggle), &some_val),
        (Format::ImageNetFolder, at("kaggle/ILSVRC/Data/CLS-LOC/val/"), None, Some(&devkit), &some_val),
        (Format::WebDataset, at("wds/imagenet1k-train-*.tar"), None, None, &train),
        (Format::WebDataset, at("wds/imagenet1k-validation-*.tar"), None, None, &val),
        (Format::HfParquet, at("hf/data/train-*"), None, None, &train),
        (Format::HfParquet, at("hf/data/validation-*"), None, None, &val),
    ];
    for (format, url, split, mapping, expected) in table {
        for unit_rows in [7, 5000] {
            let mapping = mapping.cloned();
            let classes = Some(1000);
            let options = DatasetOptions { split, mapping, unit_rows, classes, ..DatasetOptions::default() };
            let found = samples(format, &url, options).await;
            assert_eq!(found.len(), expected.len(), "{format:?} at {url}: each image once");
            assert_eq!(&facts(&plain_names(found)), expected, "{format:?} at {url}");
        }
    }
}

/// The devkit's ground truth, made anew from the truth and a table of ids.
fn numbered(val: &BTreeSet<Fact>, ids: &Path) -> String {
    let ids = std::fs::read_to_string(ids).unwrap();
    let mut ids: Vec<(&str, &str)> = ids.lines().map(|line| line.split_once(' ').unwrap()).collect();
    ids.sort_unstable_by_key(|(_, wnid)| *wnid);
    // Facts are in order of their names, and classes are ranks.
    val.iter().map(|(_, class, _)| format!("{}\n", ids[class.unwrap() as usize].0)).collect()
}

#[tokio::test]
async fn shards_have_the_lengths_that_their_info_tells() {
    let Some(data) = corpora("shards_have_the_lengths_that_their_info_tells") else { return };
    let root = data.join("imagenet-mini/wds");
    let info: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join("_info.json")).unwrap()).unwrap();
    // The reader passes `_info.json` over: the shards themselves are what there is.
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for sample in samples(Format::WebDataset, &root.display().to_string(), DatasetOptions::default()).await {
        *found.entry(sample.source).or_default() += 1;
    }
    let mut told = BTreeMap::new();
    for split in ["train", "validation"].map(|split| &info["splits"][split]) {
        let lengths = split["shard_lengths"].as_array().unwrap().iter().map(|length| length.as_u64().unwrap());
        let names = split["filenames"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        told.extend(names.zip(lengths));
    }
    assert_eq!(found, told);
}

/// The files that ImageNet is known for: a PNG named JPEG, CMYK, one component, EXIF.
#[tokio::test]
async fn trouble_files_decode() {
    let Some(data) = corpora("trouble_files_decode") else { return };
    let mut notes = BTreeMap::new();
    let mut sizes = BTreeMap::new();
    for row in jsonl(data.join("imagenet-mini/TRUTH.jsonl")) {
        let name = row["name"].as_str().unwrap().to_owned();
        sizes.insert(name.clone(), (row["width"].as_u64().unwrap() as u32, row["height"].as_u64().unwrap() as u32));
        notes.insert(name, row["note"].as_str().unwrap().to_owned());
    }
    let url = data.join("imagenet-mini/ilsvrc").display().to_string();
    let mut decoded = 0;
    for split in [Split::Train, Split::Val] {
        let options = DatasetOptions { split: Some(split), labels: Labels::None, ..DatasetOptions::default() };
        for sample in samples(Format::ImageNetTar, &url, options).await {
            let image = decode(&sample.image, &Limits::default());
            let image = image.unwrap_or_else(|error| panic!("{} ({}): {error}", sample.key, notes[&sample.key]));
            assert_eq!((image.width, image.height), sizes[&sample.key], "{}: {}", sample.key, notes[&sample.key]);
            decoded += 1;
        }
    }
    assert_eq!(decoded, 234);
    for trouble in ["PNG bytes", "CMYK", "one-component", "EXIF"] {
        assert!(notes.values().any(|note| note.contains(trouble)), "the corpus has no {trouble} any more");
    }
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
