//! `$IMAGEBART_DATA_DIR/hostile/MANIFEST.json`: odd and broken images, containers and tables. One walk takes every item to the
//! check of its kind, which is the directory it lies in; no file is named here, so that other manifests of this form need no
//! new code. An item that no check is there for fails the walk.

mod containers;
mod images;
#[path = "../skip/mod.rs"]
mod skip;
mod tables;

use imagebart::datasets::Format;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How an item is checked.
enum Check {
    Image,
    Container(Format),
    CaptionTable,
}

/// The check of an item, by its directory. A format with a directory of its own gets a line here.
fn check_of(file: &str) -> Option<(&str, Check)> {
    let (kind, _) = file.split_once('/')?;
    let check = match kind {
        "images" => Check::Image,
        "tsv" => Check::CaptionTable,
        "tar" => Check::Container(Format::WebDataset),
        "tfrecord" => Check::Container(Format::FfhqTfRecord),
        "parquet" => Check::Container(Format::HfParquet),
        "zip" => Check::Container(Format::StyleGanZip),
        "lmdb" => Check::Container(Format::LsunLmdb),
        _ => return None,
    };
    Some((kind, check))
}

#[tokio::test]
async fn every_hostile_item_is_treated_as_its_manifest_says() {
    let Some(root) = std::env::var_os("IMAGEBART_DATA_DIR").map(PathBuf::from) else {
        skip::skipped(format_args!(
            "every_hostile_item_is_treated_as_its_manifest_says: IMAGEBART_DATA_DIR is not set"
        ));
        return;
    };
    let manifest = json(&root.join("hostile/MANIFEST.json"));
    let items = manifest["items"].as_array().expect("MANIFEST.json lists items");
    let images = images::References::load(&root.join("reference"));
    let (mut checked, mut wrong) = (BTreeMap::<&str, usize>::new(), Vec::new());
    for item in items {
        let file = item["file"].as_str().expect("an item has a file");
        let path = root.join("hostile").join(file);
        let complaints = match check_of(file) {
            None => vec!["there is no check for items of this kind".to_owned()],
            Some((kind, check)) => {
                *checked.entry(kind).or_default() += 1;
                match check {
                    Check::Image => images::check(item, &path, &images).err().into_iter().collect(),
                    Check::Container(format) => containers::complaints(item, format, &path).await,
                    Check::CaptionTable => tables::complaints(item, &path).await,
                }
            }
        };
        let what = item["what"].as_str().unwrap_or_default();
        wrong.extend(complaints.into_iter().map(|complaint| format!("{file} ({what}): {complaint}")));
    }
    let count: usize = checked.values().sum();
    println!("{count} of {} items of the manifest were checked: {checked:?}", items.len());
    assert!(!items.is_empty(), "the manifest is empty");
    assert!(wrong.is_empty(), "{} complaints:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(count, items.len());
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
