//! Every form of lsun-mini gives the same names and hashes: the truth file's.

use crate::corpora::{corpora, jsonl, samples, sha256};
use imagebart::datasets::{DatasetError, DatasetOptions, Format, Labels, Sample, open};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// Key and hash.
type Fact = (String, String);

/// The key of a sample: its file's name in a folder.
fn key(sample: &Sample) -> &str {
    let name = sample.key.rsplit('/').next().unwrap_or_default();
    name.strip_suffix(".webp").unwrap_or(name)
}

fn facts(samples: &[Sample]) -> BTreeSet<Fact> {
    samples.iter().map(|sample| (key(sample).to_owned(), sha256(&sample.image))).collect()
}

fn truth(data: &Path, databases: &[&str]) -> BTreeSet<Fact> {
    let rows = jsonl(data.join("lsun-mini/TRUTH.jsonl"));
    let text = |row: &serde_json::Value, field: &str| row[field].as_str().unwrap().to_owned();
    let wanted = rows.iter().filter(|row| databases.contains(&row["db"].as_str().unwrap()));
    let facts: BTreeSet<Fact> = wanted.map(|row| (text(row, "key"), text(row, "sha256"))).collect();
    assert!(!facts.is_empty(), "the truth was read");
    facts
}

/// What a form of the corpus gives, in units of five images: the truth of these databases, each image once, in the order of
/// the keys within each source.
async fn gives(data: &Path, format: Format, place: &str, list: Option<&Path>, expected: &BTreeSet<Fact>) {
    let url = data.join("lsun-mini").join(place).display().to_string();
    let list = list.map(|list| list.display().to_string());
    let options = DatasetOptions { list, unit_rows: 5, ..DatasetOptions::default() };
    let found = samples(format, &url, options).await;
    assert_eq!(facts(&found), *expected, "{place}");
    assert_eq!(found.len(), expected.len(), "{place}: each once");
    for pair in found.windows(2).filter(|pair| pair[0].source == pair[1].source) {
        assert!(pair[0].key < pair[1].key, "{place}: in order");
    }
    assert!(found.iter().all(|sample| sample.label.is_none() && sample.caption.is_none()), "{place}");
}

#[tokio::test]
async fn every_form_of_lsun_gives_the_same_images() {
    let Some(data) = corpora("every_form_of_lsun_gives_the_same_images") else { return };
    let [train, validation, bedroom] = ["church_outdoor_train_lmdb", "church_outdoor_val_lmdb", "bedroom_train_lmdb"];
    for name in [train, validation, bedroom, "cat"] {
        let expected = truth(&data, &[name]);
        for place in [name.to_owned(), format!("{name}/"), format!("{name}/data.mdb")] {
            gives(&data, Format::LsunLmdb, &place, None, &expected).await;
        }
    }
    gives(&data, Format::LsunLmdb, "{church_outdoor_train,bedroom_train}_lmdb", None, &truth(&data, &[train, bedroom]))
        .await;
    gives(&data, Format::LsunLmdb, "church_outdoor_*_lmdb", None, &truth(&data, &[train, validation])).await;
    gives(&data, Format::Folder, "churches", None, &truth(&data, &[train])).await;
    gives(&data, Format::Folder, "church_outdoor_val_export", None, &truth(&data, &[validation])).await;
}

#[tokio::test]
async fn splits_select_the_same_images_of_every_form() {
    let Some(data) = corpora("splits_select_the_same_images_of_every_form") else { return };
    let root = data.join("lsun-mini");
    let all = truth(&data, &["church_outdoor_train_lmdb"]);
    let mut rest = all.clone();
    for list in ["church_outdoor_train.txt", "church_outdoor_val.txt"] {
        let list = root.join(list);
        let text = std::fs::read_to_string(&list).unwrap();
        let names: BTreeSet<&str> = text.lines().map(|line| line.strip_suffix(".webp").unwrap()).collect();
        let expected: BTreeSet<Fact> = all.iter().filter(|(key, _)| names.contains(key.as_str())).cloned().collect();
        assert_eq!(expected.len(), names.len());
        rest.retain(|fact| !expected.contains(fact));
        gives(&data, Format::LsunLmdb, "church_outdoor_train_lmdb", Some(&list), &expected).await;
        gives(&data, Format::Folder, "churches", Some(&list), &expected).await;
        // A list of one database's images says which of several are read.
        gives(&data, Format::LsunLmdb, "{church_outdoor_train_lmdb,cat}", Some(&list), &expected).await;
    }
    assert!(rest.is_empty(), "both lists together are the whole: {rest:?}");

    // Bare keys in LMDBs; file names in the nested export.
    let validation = truth(&data, &["church_outdoor_val_lmdb"]);
    let some: BTreeSet<Fact> = validation.into_iter().step_by(3).collect();
    let list = tempfile::NamedTempFile::new().unwrap();
    let lines = |ending: &str| some.iter().rev().map(|(key, _)| format!("{key}{ending}\n")).collect::<String>();
    std::fs::write(list.path(), lines("")).unwrap();
    gives(&data, Format::LsunLmdb, "church_outdoor_val_lmdb", Some(list.path()), &some).await;
    std::fs::write(list.path(), lines(".webp")).unwrap();
    gives(&data, Format::Folder, "church_outdoor_val_export", Some(list.path()), &some).await;
}

/// Thousands of small values, three levels, pages that transactions freed and used again.
#[tokio::test]
async fn the_large_database_is_read_whole() {
    let Some(data) = corpora("the_large_database_is_read_whole") else { return };
    let root = data.join("lsun-mini");
    let truth: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.join("tower_train_lmdb.truth.json")).unwrap()).unwrap();
    let url = root.join("tower_train_lmdb").display().to_string();
    for unit_rows in [1, 999, 5000] {
        let reader =
            open(Format::LsunLmdb, &url, DatasetOptions { unit_rows, ..DatasetOptions::default() }).await.unwrap();
        let units = reader.units().await.unwrap();
        assert_eq!(units.len() as u64, truth["entries"].as_u64().unwrap().div_ceil(unit_rows));
        assert_eq!(units[0].name, format!("tower_train_lmdb@000000000-{unit_rows:09}"));
    }
    let found = samples(Format::LsunLmdb, &url, DatasetOptions::default()).await;
    assert_eq!(found.len() as u64, truth["entries"].as_u64().unwrap());
    assert_eq!(found.first().map(|sample| sample.key.as_str()), truth["first_key"].as_str());
    assert_eq!(found.last().map(|sample| sample.key.as_str()), truth["last_key"].as_str());
    let mut hash = Sha256::new();
    for sample in &found {
        hash.update(sample.key.as_bytes());
        hash.update(Sha256::digest(&sample.image));
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(Some(digest.as_str()), truth["sha256_over_sorted(key_ascii + sha256(value))"].as_str());
}

#[tokio::test]
async fn classes_are_the_directories() {
    let Some(data) = corpora("classes_are_the_directories") else { return };
    let root = data.join("lsun-mini").display().to_string();
    let options = DatasetOptions { labels: Labels::Directory, ..DatasetOptions::default() };
    let all = samples(Format::LsunLmdb, &format!("{root}/{{cat,bedroom_train_lmdb}}"), options).await;
    let by = |name: &str| all.iter().filter(|s| s.source.starts_with(name)).map(|s| s.label).collect::<BTreeSet<_>>();
    assert_eq!((by("bedroom_train_lmdb/"), by("cat/")), ([Some(0)].into(), [Some(1)].into()));
}

#[tokio::test]
async fn an_archive_of_a_database_says_what_to_do() {
    let Some(data) = corpora("an_archive_of_a_database_says_what_to_do") else { return };
    let url = data.join("lsun-mini/church_outdoor_val_lmdb.zip").display().to_string();
    let reader = open(Format::LsunLmdb, &url, DatasetOptions::default()).await.unwrap();
    match reader.units().await {
        Err(DatasetError::Config(text)) => assert!(text.contains("unzip it"), "{text}"),
        other => panic!("{other:?}"),
    }
}
