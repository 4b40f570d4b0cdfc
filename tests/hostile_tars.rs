//! The tar items of `$IMAGEBART_DATA_DIR/hostile/MANIFEST.json`: what is good is kept, what is bad is reported under its reason.
//!
//! The items are taken as they come: no file is named here.

mod skip;

use imagebart::datasets::{DatasetOptions, Entry, Format, open, read_unit};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The manifest's archives are cut from ImageNet: 1000 classes.
const CLASSES: u32 = 1000;
/// FORMATS §6: a sample without any of these is none of this reader's.
const IMAGE_FIELDS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];

fn strings(value: &Value) -> BTreeSet<String> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    value.as_array().map(|list| list.iter().map(word).collect()).unwrap_or_default()
}

fn reasons(value: &Value) -> BTreeSet<String> {
    value.as_str().unwrap_or_default().split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The keys of `good` that hold an image: the manifest also lists samples that are fine but hold none.
fn good_images(item: &Value) -> BTreeSet<String> {
    let mut good = strings(&item["good"]);
    for sample in item["webdataset_library_yields"].as_array().into_iter().flatten() {
        let fields = strings(&sample[1]);
        if !IMAGE_FIELDS.iter().any(|field| fields.contains(*field)) {
            good.remove(sample[0].as_str().unwrap_or_default());
        }
    }
    good
}

/// Reads an archive: the keys of its samples, and the rejects' reasons by key.
async fn outcome(path: &Path) -> (Vec<String>, BTreeMap<String, BTreeSet<String>>) {
    let options = DatasetOptions { classes: Some(CLASSES), ..DatasetOptions::default() };
    let reader = open(Format::WebDataset, &path.display().to_string(), options).await.unwrap();
    let units = reader.units().await.unwrap();
    assert_eq!(units.len(), 1);
    let (mut samples, mut rejects) = (Vec::new(), BTreeMap::<String, BTreeSet<String>>::new());
    for entry in read_unit(&*reader, &units[0]).await.unwrap() {
        match entry {
            Entry::Sample(sample) => samples.push(sample.key),
            Entry::Reject(reject) => {
                assert!(!reject.message.is_empty());
                rejects.entry(reject.key).or_default().insert(reject.reason.code().to_owned());
            }
        }
    }
    (samples, rejects)
}

/// What speaks against the outcome of an item.
async fn complaints(item: &Value, path: &Path) -> Vec<String> {
    let (samples, rejects) = outcome(path).await;
    let found: BTreeSet<String> = samples.iter().cloned().collect();
    let reported: BTreeSet<String> = rejects.values().flatten().cloned().collect();
    let (good, expected) = (good_images(item), reasons(&item["reason"]));
    let accepted = strings(&item["accept"]);
    let alternative = reasons(&item["accept_reason"]);
    let refused_as_allowed = accepted.contains("reject") && samples.is_empty() && !reported.is_empty();
    let silent_as_allowed = accepted.contains("nothing reported") && reported.is_empty();
    let mut complaints = Vec::new();
    if samples.len() != found.len() {
        complaints.push(format!("a key came twice: {samples:?}"));
    }
    if found != good && !refused_as_allowed {
        complaints.push(format!("samples {found:?}, not {good:?}"));
    }
    let told = reported == expected || (!alternative.is_empty() && reported == alternative);
    if !told && !silent_as_allowed && !refused_as_allowed {
        complaints.push(format!("reported {rejects:?}, not {expected:?}"));
    }
    for (key, reason) in item["bad"].as_object().into_iter().flatten() {
        let reason = reason.as_str().unwrap_or_default().to_owned();
        if rejects.get(key).is_none_or(|codes| !codes.contains(&reason)) {
            complaints.push(format!("{key} is not reported as {reason} but {:?}", rejects.get(key)));
        }
    }
    match item["action"].as_str() {
        Some("partial") => {}
        Some("reject") if found.is_empty() && !reported.is_empty() => {}
        action => complaints.push(format!("the action is {action:?}; found {found:?}, reported {reported:?}")),
    }
    complaints
}

#[tokio::test]
async fn every_hostile_tar_is_read_as_its_manifest_says() {
    let Some(data) = std::env::var_os("IMAGEBART_DATA_DIR") else {
        skip::skipped(format_args!("every_hostile_tar_is_read_as_its_manifest_says: IMAGEBART_DATA_DIR is not set"));
        return;
    };
    let root = Path::new(&data).join("hostile");
    let manifest: Value = serde_json::from_slice(&std::fs::read(root.join("MANIFEST.json")).unwrap()).unwrap();
    let (mut tried, mut wrong) = (0, Vec::new());
    for item in manifest["items"].as_array().unwrap() {
        let file = item["file"].as_str().unwrap();
        if !file.starts_with("tar/") {
            continue;
        }
        tried += 1;
        for complaint in complaints(item, &root.join(file)).await {
            wrong.push(format!("{file} ({}): {complaint}", item["what"].as_str().unwrap_or_default()));
        }
    }
    assert!(tried > 0, "the manifest has tar items");
    assert!(wrong.is_empty(), "{} of {tried} items:\n{}", wrong.len(), wrong.join("\n"));
}
