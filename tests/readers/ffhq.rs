//! FFHQ in all its forms, on ffhq-mini: each gives the images that the corpus says are in it, and both splits choose theirs.

use crate::corpora::{corpora, samples, sha256};
use imagebart::datasets::{DatasetError, DatasetOptions, Format, Labels, Sample, open};
use imagebart::imaging::{Limits, decode};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Index and hash of the pixels at 256, in the order of the indices.
fn truth(root: &Path) -> Vec<(u64, String)> {
    let contents = json(&root.join("CONTENTS.json"));
    let images = contents.as_array().unwrap().iter();
    images
        .map(|image| (image["index"].as_u64().unwrap(), image["rgb_sha256_256"].as_str().unwrap().to_owned()))
        .collect()
}

fn pixels(sample: &Sample) -> Vec<u8> {
    decode(&sample.image, &Limits::default()).unwrap().pixels
}

/// The number that a file is named after.
fn index(key: &str) -> u64 {
    key.rsplit('/').next().unwrap().split('.').next().unwrap().parse().unwrap()
}

async fn folder(directory: &Path, list: Option<String>) -> Vec<Sample> {
    let options = DatasetOptions { list, ..DatasetOptions::default() };
    samples(Format::Folder, &directory.display().to_string(), options).await
}

#[tokio::test]
async fn folders_give_the_images_of_the_metadata() {
    let Some(data) = corpora("folders_give_the_images_of_the_metadata") else { return };
    let root = data.join("ffhq-mini");
    let metadata = json(&root.join("ffhq-dataset-v2.json"));
    for (directory, field) in [("images1024x1024", "image"), ("thumbnails128x128", "thumbnail")] {
        let found = folder(&root.join(directory), None).await;
        assert!(!found.is_empty());
        for sample in &found {
            let file = &metadata[index(&sample.key).to_string()][field];
            assert_eq!(file["file_path"].as_str().unwrap(), format!("{directory}/{}", sample.key));
            assert_eq!(file["file_size"].as_u64(), Some(sample.image.len() as u64), "{}", sample.key);
            let image = decode(&sample.image, &Limits::default()).unwrap();
            assert_eq!(file["pixel_size"][0].as_u64(), Some(image.width.into()));
            assert_eq!(sample.caption, None);
        }
    }
    let flat = folder(&root.join("flat256"), None).await;
    let flat: Vec<(u64, String)> = flat.iter().map(|sample| (index(&sample.key), sha256(&pixels(sample)))).collect();
    assert_eq!(flat, truth(&root));
}

/// CompVis's lists name base names, NVIDIA's split is in the metadata; both fit flat and nested folders.
#[tokio::test]
async fn both_splits_choose_from_folders() {
    let Some(data) = corpora("both_splits_choose_from_folders") else { return };
    let root = data.join("ffhq-mini");
    let all: BTreeSet<u64> = truth(&root).into_iter().map(|(index, _)| index).collect();
    let list = |name: &str| Some(root.join(name).display().to_string());
    for directory in ["flat256", "thumbnails128x128"] {
        let mut of_list = BTreeMap::new();
        for name in
            ["ffhqtrain.txt", "ffhqvalidation.txt", "ffhq-dataset-v2.json#training", "ffhq-dataset-v2.json#validation"]
        {
            let found = folder(&root.join(directory), list(name)).await;
            of_list.insert(name, found.iter().map(|sample| index(&sample.key)).collect::<BTreeSet<u64>>());
        }
        for (train, validation) in [
            ("ffhqtrain.txt", "ffhqvalidation.txt"),
            ("ffhq-dataset-v2.json#training", "ffhq-dataset-v2.json#validation"),
        ] {
            assert!(of_list[train].is_disjoint(&of_list[validation]), "{directory} {train}");
            assert_eq!(&of_list[train] | &of_list[validation], all, "{directory} {train}");
        }
        let names = std::fs::read_to_string(root.join("ffhqvalidation.txt")).unwrap();
        assert_eq!(of_list["ffhqvalidation.txt"], names.lines().map(index).collect(), "{directory}");
        // FORMATS §2: index < 60000 is training.
        let (training, validation) = all.iter().partition(|index| **index < 60_000);
        assert_eq!(of_list["ffhq-dataset-v2.json#training"], training, "{directory}");
        assert_eq!(of_list["ffhq-dataset-v2.json#validation"], validation, "{directory}");
    }
    let options = DatasetOptions { list: list("ffhq-dataset-v2.json#test"), ..DatasetOptions::default() };
    let reader = open(Format::Folder, &root.join("flat256").display().to_string(), options).await.unwrap();
    let error = reader.units().await.unwrap_err();
    assert!(matches!(&error, DatasetError::Config(text) if text.contains("there are training, validation")), "{error}");
}

/// Lists name a zip's images by name or base name. In archives made of `images1024x1024/` the number is the image's rank, which
/// in the whole dataset is its index.
#[tokio::test]
async fn lists_choose_from_zips() {
    let Some(data) = corpora("lists_choose_from_zips") else { return };
    let root = data.join("ffhq-mini");
    let hashes: Vec<String> = truth(&root).into_iter().map(|(_, hash)| hash).collect();
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("list.txt");
    std::fs::write(&list, "img00000003.png\n00000/img00000000.png\nimg00000012.png\n").unwrap();
    let url = root.join("zips/ffhq-256x256.zip").display().to_string();
    for unit_rows in [2, 5000] {
        let list = Some(list.display().to_string());
        let options = DatasetOptions { list, unit_rows, ..DatasetOptions::default() };
        let found = samples(Format::StyleGanZip, &url, options.clone()).await;
        let keys: Vec<&str> = found.iter().map(|sample| sample.key.as_str()).collect();
        assert_eq!(keys, ["00000/img00000000.png", "00000/img00000003.png", "00000/img00000012.png"]);
        for sample in &found {
            let number = sample.key.trim_start_matches("00000/img").trim_end_matches(".png").parse::<usize>().unwrap();
            assert_eq!(sha256(&pixels(sample)), hashes[number]);
        }
    }
    std::fs::write(&list, "52535.png\n").unwrap();
    let options = DatasetOptions { list: Some(list.display().to_string()), ..DatasetOptions::default() };
    for (url, expected) in [
        (url.clone(), "1 of the 1 names in"),
        (
            root.join("zips/{ffhq-256x256,labelled-64x64}.zip").display().to_string(),
            "dataset.list goes with one archive",
        ),
    ] {
        let reader = open(Format::StyleGanZip, &url, options.clone()).await.unwrap();
        let error = reader.units().await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

/// Every level of the TFRecords is the exact box mean of the levels above, up to the full size, which is the flat folder's.
#[tokio::test]
async fn every_level_of_the_records_is_the_mean_of_the_one_above() {
    let Some(data) = corpora("every_level_of_the_records_is_the_mean_of_the_one_above") else { return };
    let root = data.join("ffhq-mini");
    let flat = folder(&root.join("flat256"), None).await;
    let mut exact: Vec<Vec<f32>> =
        flat.iter().map(|sample| pixels(sample).into_iter().map(f32::from).collect()).collect();
    for level in (2..=8).rev() {
        let side = 1usize << level;
        let url = root.join(format!("tfrecords/ffhq/ffhq-r{level:02}.tfrecords")).display().to_string();
        let found = samples(Format::FfhqTfRecord, &url, DatasetOptions::default()).await;
        assert_eq!(found.len(), exact.len());
        for (sample, exact) in found.iter().zip(&mut exact) {
            let expected: Vec<u8> = exact.iter().map(|value| value.round_ties_even() as u8).collect();
            assert!(pixels(sample) == expected, "level {level}, record {}", sample.key);
            *exact = halved(exact, side);
        }
    }
}

/// Means of 2 x 2 pixels of an image of `side` pixels, three channels each.
fn halved(pixels: &[f32], side: usize) -> Vec<f32> {
    let half = side / 2;
    let mut means = Vec::with_capacity(half * half * 3);
    for (y, x, channel) in
        (0..half).flat_map(|y| (0..half).flat_map(move |x| (0..3).map(move |channel| (y, x, channel))))
    {
        let at = |dy: usize, dx: usize| pixels[((2 * y + dy) * side + 2 * x + dx) * 3 + channel];
        means.push((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) * 0.25);
    }
    means
}

/// EDM's tool invents a class for every directory: they can be ignored.
#[tokio::test]
async fn invented_labels_can_be_ignored() {
    let Some(data) = corpora("invented_labels_can_be_ignored") else { return };
    let url = data.join("ffhq-mini/zips/ffhq-64x64-edm.zip").display().to_string();
    for (labels, invented) in [(Labels::Auto, true), (Labels::None, false)] {
        let options = DatasetOptions { labels, ..DatasetOptions::default() };
        let found = samples(Format::StyleGanZip, &url, options).await;
        assert!(!found.is_empty() && found.iter().all(|sample| sample.label.is_some() == invented));
        assert!(found.iter().all(|sample| decode(&sample.image, &Limits::default()).unwrap().width == 64));
    }
}
