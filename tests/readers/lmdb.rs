//! LMDBs: small datasets for the suite, liblmdb (through `heed`) as the oracle of our own reader of pages, and how many requests
//! it makes. What is damaged is in `lmdb_damage.rs`.

use crate::corpora::{corpora, sha256};
use crate::formats::{Fixture, lines, objects, options};
pub use crate::lmdb_writer::{Entries, Step, put, written};
use crate::stores::{Fault, Faulty, in_memory};
use imagebart::datasets::{
    DatasetError, DatasetOptions, Entry, Labels, Location, LsunLmdb, ReadAhead, Reader, read_unit,
};
use imagebart::retry::Retries;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

fn database_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    written(&[entries.iter().map(|(key, value)| put(*key, *value)).collect()]).0
}

/// Two databases, one of two units, beside what is no database. `lock.mdb` may be there or not.
pub fn databases() -> Fixture {
    let far = [b'f'; 4500];
    let a = database_of(&[
        ("0a", b"image a"),
        ("0b", &far),
        ("1", b""),
        ("2", &[0; 5001]),
        ("not a hash", b"text"),
        ("z", &far[..3000]),
        ("zz", b"last"),
    ]);
    let broken = [&[0; 16][..], &[7; 3000]].concat();
    Fixture {
        name: "lsun-lmdb",
        objects: objects(vec![
            ("l/a_lmdb/data.mdb", a),
            ("l/a_lmdb/lock.mdb", vec![0; 100]),
            ("l/b_lmdb/data.mdb", database_of(&[("k", &far)])),
            ("l/c_lmdb/data.mdb", broken),
            ("l/d_lmdb/data.mdb", written(&[vec![], vec![put("x", "y")], vec![("x".into(), None)]]).0),
            ("l/other/notes.txt", b"no database".to_vec()),
        ]),
        pattern: "l",
        // Without listing a directory stands for the file that must be in it.
        names_for_http: "l/{a_lmdb,b_lmdb,c_lmdb,d_lmdb}",
        reader: |location| {
            let options = DatasetOptions { labels: Labels::Directory, ..options() };
            Arc::new(LsunLmdb::new(location, options))
        },
        expected: lines(&[
            &[
                "a_lmdb/data.mdb|0a|0|-|image a",
                &format!("a_lmdb/data.mdb|0b|0|-|{}", "f".repeat(4500)),
                "a_lmdb/data.mdb|1|empty",
            ],
            &[
                "a_lmdb/data.mdb|2|too_large",
                "a_lmdb/data.mdb|not a hash|0|-|text",
                &format!("a_lmdb/data.mdb|z|0|-|{}", "f".repeat(3000)),
            ],
            &["a_lmdb/data.mdb|zz|0|-|last"],
            &[&format!("b_lmdb/data.mdb|k|1|-|{}", "f".repeat(4500))],
            &["c_lmdb/data.mdb||corrupt_container"],
            &[],
        ]),
    }
}

/// The same databases, of which a list names four images and one that has no bytes.
pub fn listed_databases() -> Fixture {
    let all = databases();
    let far = "f".repeat(4500);
    Fixture {
        name: "lsun-lmdb, with a list",
        objects: all.objects.into_iter().filter(|(path, _)| !path.starts_with("l/c_lmdb")).collect(),
        names_for_http: "l/{a_lmdb,b_lmdb,d_lmdb}/data.mdb",
        reader: |location| {
            let list = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lsun-list.txt").to_owned();
            Arc::new(LsunLmdb::new(location, DatasetOptions { list: Some(list), ..options() }))
        },
        expected: lines(&[
            &[
                &format!("a_lmdb/data.mdb|0b|-|-|{far}"),
                "a_lmdb/data.mdb|1|empty",
                &format!("a_lmdb/data.mdb|z|-|-|{}", "f".repeat(3000)),
            ],
            &["a_lmdb/data.mdb|zz|-|-|last"],
            &[&format!("b_lmdb/data.mdb|k|-|-|{far}")],
            &[],
        ]),
        ..databases()
    }
}

/// Deterministic noise: the same numbers each time.
pub fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 16
    }
}

/// `count` entries with LSUN's kind of keys, in random order, of `size` bytes each.
fn like_lsun(count: u64, size: usize) -> Vec<Step> {
    (0..count).map(|n| put(&sha256(&n.to_le_bytes())[..40], vec![n as u8; size])).collect()
}

pub fn reading(unit_rows: u64) -> DatasetOptions {
    let retries = Retries { attempts: 1, backoff: Duration::ZERO, ..Retries::default() };
    let read_ahead = ReadAhead { retries, ..ReadAhead::default() };
    DatasetOptions { unit_rows, read_ahead, ..DatasetOptions::default() }
}

/// Everything that a reader finds in a database, unit by unit.
pub async fn all_of(data: &[u8], options: DatasetOptions) -> Result<Vec<Vec<Entry>>, DatasetError> {
    let store = in_memory(&[("d/x_lmdb/data.mdb".to_owned(), data.to_vec())]).await;
    let reader = LsunLmdb::new(Location::in_store(store, "d/x_lmdb"), options);
    let mut units = Vec::new();
    for unit in reader.units().await? {
        units.push(read_unit(&reader, &unit).await?);
    }
    Ok(units)
}

/// Keys and values, those without bytes or with too many as their reject's reason.
pub fn contents(units: &[Vec<Entry>]) -> Entries {
    let content = |entry: &Entry| match entry {
        Entry::Sample(sample) => (sample.key.clone().into_bytes(), sample.image.to_vec()),
        Entry::Reject(reject) => (reject.key.clone().into_bytes(), reject.reason.code().into()),
    };
    units.iter().flatten().map(content).collect()
}

fn expected(entries: &Entries, max_bytes: u64) -> Entries {
    let content = |(key, value): &(Vec<u8>, Vec<u8>)| match value.len() as u64 {
        0 => (key.clone(), b"empty".to_vec()),
        n if n > max_bytes => (key.clone(), b"too_large".to_vec()),
        _ => (key.clone(), value.clone()),
    };
    entries.iter().map(content).collect()
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// The same contents as liblmdb reads, whatever the units; and with a list those that it names.
fn agrees((data, entries): &(Vec<u8>, Entries), unit_rows: u64, listed: &[u64]) {
    let options = DatasetOptions { max_bytes: 9000, ..reading(unit_rows) };
    let units = block_on(all_of(data, options.clone())).unwrap();
    assert!(units.iter().all(|unit| unit.len() as u64 <= unit_rows));
    assert_eq!(units.len(), entries.len().div_ceil(unit_rows as usize).max(1));
    assert_eq!(contents(&units), expected(entries, 9000));

    let mut names: Vec<usize> = listed.iter().map(|n| *n as usize % entries.len().max(1)).collect();
    names.sort_unstable();
    names.dedup();
    let names: Entries = names.into_iter().filter_map(|at| entries.get(at).cloned()).collect();
    if names.is_empty() {
        return;
    }
    let list = tempfile::NamedTempFile::new().unwrap();
    let lines: Vec<String> = names.iter().rev().map(|(key, _)| String::from_utf8(key.clone()).unwrap()).collect();
    std::fs::write(list.path(), lines.join(".webp\n")).unwrap();
    let options = DatasetOptions { list: Some(list.path().display().to_string()), ..options };
    assert_eq!(contents(&block_on(all_of(data, options)).unwrap()), expected(&names, 9000));
}

/// A value of no, few, many, or more bytes than a leaf page has.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![Just(0..1usize), Just(1..60), Just(1000..2100), Just(2000..14_000)];
    (size.prop_flat_map(|sizes| sizes), any::<u8>()).prop_map(|(size, byte)| vec![byte; size])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Few enough keys that later transactions overwrite and delete what earlier ones put: pages become free and are used again.
    #[test]
    fn what_liblmdb_writes_is_read_as_it_reads_it(
        transactions in proptest::collection::vec(
            proptest::collection::vec(("[a-c]{1,4}(-{30})?", proptest::option::weighted(0.8, value())), 0..80), 1..6),
        listed in proptest::collection::vec(any::<u64>(), 0..20),
        unit_rows in 1..30u64,
    ) {
        let steps: Vec<Vec<Step>> = transactions
            .into_iter()
            .map(|steps| steps.into_iter().map(|(key, value)| (key.into_bytes(), value)).collect())
            .collect();
        agrees(&written(&steps), unit_rows, &listed);
    }
}

/// Where a number stands in a meta page.
pub const DEPTH: usize = 94;
pub const ROOT: usize = 128;
const TRANSACTION: usize = 144;

/// Where the meta page in force starts.
pub fn newer_meta(data: &[u8]) -> usize {
    let transaction = |page: usize| number(data, page + TRANSACTION, 8);
    if transaction(4096) > transaction(0) { 4096 } else { 0 }
}

/// A little-endian number of a database's bytes.
pub fn number(data: &[u8], at: usize, size: usize) -> u64 {
    data[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[test]
fn trees_of_every_depth_are_read() {
    for (count, key_size, depth) in [(0, 40, 0), (1, 40, 1), (2000, 40, 2), (6000, 400, 5), (15_000, 40, 3)] {
        let mut random = noise(count);
        let steps: Vec<Step> =
            (0..count).map(|n| put(format!("{:0key_size$x}", random()), vec![n as u8; 1 + n as usize % 30])).collect();
        // Half of them go again, so that pages are merged.
        let gone = steps.iter().step_by(2).skip(count as usize / 4 + 1).map(|(key, _)| (key.clone(), None)).collect();
        let database = written(&[steps, gone]);
        let newer = newer_meta(&database.0);
        assert_eq!(number(&database.0, newer + DEPTH, 2), depth, "{count} keys of {key_size} bytes");
        let listed: Vec<u64> = std::iter::repeat_with(&mut random).take(50).collect();
        agrees(&database, 700, &listed);
    }
}

/// Requests for each image, listing and opening included.
async fn requests_per_image(objects: &[(String, Vec<u8>)], pattern: &str) -> f64 {
    let store = Arc::new(Faulty::new(in_memory(objects).await, Fault::Refuse, 0));
    let reader = LsunLmdb::new(Location::in_store(store.clone(), pattern), reading(5000));
    let mut images = 0;
    for unit in reader.units().await.unwrap() {
        images += read_unit(&reader, &unit).await.unwrap().len();
    }
    f64::from(store.requests()) / images as f64
}

/// Two pages a value and keys in random order: leaf pages lie far apart, as in LSUN's.
#[tokio::test]
async fn an_image_is_one_request() {
    let data = written(&[like_lsun(6000, 7000)]).0;
    let found = requests_per_image(&[("d/x_lmdb/data.mdb".to_owned(), data)], "d").await;
    assert!(found < 1.1, "{found} requests an image");
}

#[tokio::test]
async fn the_corpus_takes_few_requests() {
    let Some(data) = corpora("the_corpus_takes_few_requests") else { return };
    let names =
        ["church_outdoor_train_lmdb", "church_outdoor_val_lmdb", "bedroom_train_lmdb", "cat", "tower_train_lmdb"];
    let mut all = Vec::new();
    for name in names {
        let path = format!("{name}/data.mdb");
        let object = (format!("lsun/{path}"), std::fs::read(data.join("lsun-mini").join(&path)).unwrap());
        let alone = requests_per_image(std::slice::from_ref(&object), &format!("lsun/{name}")).await;
        assert!(alone <= 1.2, "{name}: {alone} requests an image");
        all.push(object);
    }
    let found = requests_per_image(&all, "lsun").await;
    assert!(found <= 1.2, "{found} requests an image");
}
