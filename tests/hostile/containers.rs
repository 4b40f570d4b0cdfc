//! Containers: what is good is kept, what is bad is reported under its reason.

use imagebart::datasets::{DatasetOptions, Entry, Format, open, read_unit};
use imagebart::imaging::{Limits, decode};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The manifest's archives are cut from ImageNet: 1000 classes.
const CLASSES: u32 = 1000;
/// FORMATS §6: a sample without any of these is none of this reader's.
const IMAGE_FIELDS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];

/// Keys as they stand, positions as digits.
fn strings(value: &Value) -> BTreeSet<String> {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
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

/// What became of a container.
struct Outcome {
    samples: Vec<String>,
    rejects: BTreeMap<String, BTreeSet<String>>,
}

/// Reads a container and decodes its images: the good samples, and the rejects' reasons, by key, or by position where the manifest counts.
async fn outcome(format: Format, path: &Path, counted: bool) -> Outcome {
    let options = DatasetOptions { classes: Some(CLASSES), ..DatasetOptions::default() };
    let reader = open(format, &path.display().to_string(), options).await.unwrap();
    let units = reader.units().await.unwrap();
    assert_eq!(units.len(), 1);
    let mut outcome = Outcome { samples: Vec::new(), rejects: BTreeMap::new() };
    for entry in read_unit(&*reader, &units[0]).await.unwrap() {
        let name = |key: String, index: u64| if counted { index.to_string() } else { key };
        match entry {
            Entry::Sample(sample) => match decode(&sample.image, &Limits::default()) {
                Ok(_) => outcome.samples.push(name(sample.key, sample.index)),
                // Damage that no container notices is found by the next stage.
                Err(error) => {
                    let codes = outcome.rejects.entry(name(sample.key, sample.index)).or_default();
                    codes.insert(error.reason().code().to_owned());
                }
            },
            Entry::Reject(reject) => {
                assert!(!reject.message.is_empty());
                let codes = outcome.rejects.entry(name(reject.key, reject.index)).or_default();
                codes.insert(reject.reason.code().to_owned());
            }
        }
    }
    outcome
}

/// Whether the manifest names samples by their position.
fn is_counted(item: &Value) -> bool {
    let first = item["good"].as_array().and_then(|good| good.first());
    first.is_some_and(Value::is_number) || item["bad"].as_object().is_some_and(|bad| bad.contains_key("1"))
}

/// Whether the samples are those that the manifest wants, and else what it wants.
fn samples_fit(item: &Value, found: &BTreeSet<String>) -> Result<(), String> {
    if let Some(most) = item["good_at_most"].as_u64() {
        // Some are lost, not all.
        let fits = !found.is_empty() && found.len() as u64 <= most;
        return if fits { Ok(()) } else { Err(format!("1 to {most}")) };
    }
    if let Some(count) = item["good_count"].as_u64() {
        return if found.len() as u64 == count { Ok(()) } else { Err(format!("{count}")) };
    }
    if item["action"] == "reject" && item["good"].is_null() {
        return if found.is_empty() { Ok(()) } else { Err("none".to_owned()) };
    }
    let good = good_images(item);
    let accepted = item["accept_good"].as_array().map(|_| strings(&item["accept_good"]));
    // "all three": the others are as good, and the reader may say so.
    let all = strings(&item["accept"]).iter().any(|word| word.starts_with("all")) && found.is_superset(&good);
    match *found == good || accepted.is_some_and(|accepted| *found == accepted) || all {
        true => Ok(()),
        false => Err(format!("{good:?}")),
    }
}

/// What speaks against the outcome of an item.
pub async fn complaints(item: &Value, format: Format, path: &Path) -> Vec<String> {
    let Outcome { samples, rejects } = outcome(format, path, is_counted(item)).await;
    let found: BTreeSet<String> = samples.iter().cloned().collect();
    let reported: BTreeSet<String> = rejects.values().flatten().cloned().collect();
    let mut expected = reasons(&item["reason"]);
    let bad = item["bad"].as_object();
    expected.extend(bad.into_iter().flatten().flat_map(|(_, reason)| reasons(reason)));
    let accepted = strings(&item["accept"]);
    let alternative = reasons(&item["accept_reason"]);
    let refused_as_allowed = accepted.contains("reject") && samples.is_empty() && !reported.is_empty();
    let all_as_allowed = accepted.iter().any(|word| word.starts_with("all")) && reported.is_empty();
    let silent_as_allowed = accepted.contains("nothing reported") && reported.is_empty();
    let mut complaints = Vec::new();
    if samples.len() != found.len() {
        complaints.push(format!("a key came twice: {samples:?}"));
    }
    if let Err(wanted) = samples_fit(item, &found)
        && !refused_as_allowed
    {
        complaints.push(format!("samples {found:?}, not {wanted}"));
    }
    let told = reported == expected || (!alternative.is_empty() && reported == alternative);
    if !told && !silent_as_allowed && !refused_as_allowed && !all_as_allowed {
        complaints.push(format!("reported {rejects:?}, not {expected:?}"));
    }
    for (key, reason) in bad.into_iter().flatten() {
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
