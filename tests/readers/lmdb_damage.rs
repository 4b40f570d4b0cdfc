//! Damaged LMDBs: nothing panics or hangs, what can be read is, and the rest is reported.

use crate::lmdb::{DEPTH, ROOT, Step, all_of, block_on, contents, newer_meta, noise, number, put, reading, written};
use imagebart::datasets::{DatasetError, DatasetOptions, Entry};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use std::sync::LazyLock;

const PAGE: usize = 4096;
const MAX_BYTES: u64 = 20_000;
/// Where numbers stand in a meta page, beside [`DEPTH`] and [`ROOT`].
const VERSION: usize = 20;
const PAGE_SIZE: usize = 40;
const FLAGS: usize = 92;
const LEAF_PAGES: usize = 104;
const ENTRIES: usize = 120;
const LAST_PAGE: usize = 136;

/// Three levels, values in leaf pages and beyond.
static DATABASE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = noise(1);
    let steps: Vec<Step> = (0..300)
        .map(|n: usize| {
            put(format!("{:0200x}", random()), vec![n as u8; if n.is_multiple_of(5) { 3000 } else { 1 + n % 40 }])
        })
        .collect();
    let data = written(&[steps]).0;
    assert_eq!(number(&data, newer_meta(&data) + DEPTH, 2), 3);
    data
});

fn options() -> DatasetOptions {
    DatasetOptions { max_bytes: MAX_BYTES, ..reading(70) }
}

/// Images by key, and how often each reason was reported, with its messages.
struct Found {
    images: BTreeMap<Vec<u8>, Vec<u8>>,
    reasons: BTreeMap<&'static str, usize>,
    messages: Vec<String>,
}

/// Reads a database and checks what holds of any: indices count up, no image is larger than it may be.
fn found(data: &[u8]) -> Found {
    let units = block_on(all_of(data, options())).unwrap();
    let mut found = Found { images: BTreeMap::new(), reasons: BTreeMap::new(), messages: Vec::new() };
    for unit in &units {
        for (at, entry) in (0u64..).zip(unit) {
            match entry {
                Entry::Sample(sample) => {
                    assert_eq!(sample.index, at);
                    assert!(sample.image.len() as u64 <= MAX_BYTES);
                    found.images.insert(sample.key.clone().into_bytes(), sample.image.to_vec());
                }
                Entry::Reject(reject) => {
                    assert_eq!(reject.index, at);
                    *found.reasons.entry(reject.reason.code()).or_default() += 1;
                    found.messages.push(reject.message.clone());
                }
            }
        }
    }
    found
}

fn set(data: &mut [u8], at: usize, value: u64, size: usize) {
    data[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// The offsets of a page's nodes, as places in the file.
fn nodes(data: &[u8], page: usize) -> Vec<usize> {
    let count = (number(data, page * PAGE + 12, 2) as usize - 16) / 2;
    (0..count).map(|at| page * PAGE + number(data, page * PAGE + 16 + 2 * at, 2) as usize).collect()
}

/// The pages below a branch page.
fn children(data: &[u8], page: usize) -> Vec<usize> {
    nodes(data, page).into_iter().map(|node| number(data, node, 6) as usize).collect()
}

fn root(data: &[u8]) -> usize {
    number(data, newer_meta(data) + ROOT, 8) as usize
}

/// The database after `change`, which is shown where its meta page in force starts.
fn changed(change: impl FnOnce(&mut Vec<u8>, usize)) -> Found {
    let mut data = DATABASE.clone();
    let meta = newer_meta(&data);
    change(&mut data, meta);
    found(&data)
}

#[test]
fn a_database_that_cannot_be_trusted_is_one_reject() {
    type Change = fn(&mut Vec<u8>, usize);
    let cases: [(&str, &str, &str, Change); 14] = [
        ("no bytes", "empty", "no bytes", |data, _| data.clear()),
        ("a text", "corrupt_container", "no LMDB database", |data, _| *data = b"not a database".to_vec()),
        ("cut in a meta page", "truncated", "within a meta page", |data, _| data.truncate(60)),
        ("cut before the second", "truncated", "second meta page", |data, _| data.truncate(PAGE)),
        ("cut by a page", "truncated", "was not copied whole", |data, _| data.truncate(data.len() - PAGE)),
        ("the other magic", "corrupt_container", "magic", |data, meta| data[PAGE - meta + 16] = 0),
        ("big-endian", "unsupported_format", "big-endian", |data, _| data[16..20].reverse()),
        ("version", "unsupported_format", "version 999", |data, meta| set(data, meta + VERSION, 999, 4)),
        ("page size", "corrupt_container", "page size cannot be 5000", |data, _| set(data, PAGE_SIZE, 5000, 4)),
        ("large pages", "corrupt_container", "cannot be 65536", |data, _| set(data, PAGE_SIZE, 65536, 4)),
        ("flags", "unsupported_format", "flags 0x4", |data, meta| set(data, meta + FLAGS, 4, 2)),
        ("depth", "corrupt_container", "33 levels", |data, meta| set(data, meta + DEPTH, 33, 2)),
        ("no depth", "corrupt_container", "0 levels", |data, meta| set(data, meta + DEPTH, 0, 2)),
        ("counts", "corrupt_container", "pages in use", |data, meta| set(data, meta + LEAF_PAGES, u64::MAX, 8)),
    ];
    for (what, reason, message, change) in cases {
        let Found { images, reasons, messages } = changed(change);
        assert_eq!((images.len(), reasons), (0, BTreeMap::from([(reason, 1)])), "{what}: {messages:?}");
        assert!(messages[0].contains(message), "{what}: {messages:?}");
    }
}

#[test]
fn what_can_be_read_of_a_damaged_tree_is() {
    let whole = found(&DATABASE);
    assert_eq!((whole.images.len(), whole.reasons.len()), (300, 0));
    let pieces = |found: &Found, reason: &str| found.reasons.get(reason).copied().unwrap_or(0);
    let sound = |found: &Found| found.images.iter().all(|(key, value)| whole.images.get(key) == Some(value));
    let branches = children(&DATABASE, root(&DATABASE));
    let leaf = children(&DATABASE, branches[1])[2];
    let on_leaf = nodes(&DATABASE, leaf).len();
    assert!(branches.len() >= 2 && on_leaf > 5);

    // A circle: every child of the root is the root, which is no leaf page either.
    let lead_to = |data: &mut Vec<u8>, page: usize| {
        nodes(data, root(data)).into_iter().for_each(|node| set(data, node, page as u64, 6));
    };
    let circle = changed(|data, _| lead_to(data, root(data)));
    assert_eq!((circle.images.len(), pieces(&circle, "corrupt_container")), (0, 2 * branches.len() - 1));
    // All ways lead to one page: it is read once.
    let same = changed(|data, _| lead_to(data, branches[0]));
    assert!(sound(&same) && !same.images.is_empty() && same.images.len() < 300);
    assert_eq!(pieces(&same, "corrupt_container"), branches.len() - 1, "{:?}", same.messages);
    // Deeper, and less deep, than the tree is.
    for depth in [1, 2, 4, 32] {
        let other = changed(|data, meta| set(data, meta + DEPTH, depth, 2));
        assert!(other.images.is_empty() && !other.messages.is_empty(), "{depth}");
    }
    for page in [0, 1, 1 << 40, u64::MAX - 1] {
        let lost = changed(|data, meta| set(data, meta + ROOT, page, 8));
        assert_eq!((lost.images.len(), pieces(&lost, "corrupt_container")), (0, 1), "root {page}");
    }
    // A leaf page that is none: the others are read.
    for at in [0, 10, 12, 14] {
        let holed = changed(|data, _| set(data, leaf * PAGE + at, 0xfff7, 2));
        assert!(sound(&holed), "{at}");
        assert_eq!((holed.images.len(), pieces(&holed, "corrupt_container")), (300 - on_leaf, 1), "{at}");
    }
    // A node outside its page: its neighbours are read.
    let one = changed(|data, _| set(data, leaf * PAGE + 16 + 2, 0xffff, 2));
    assert!(sound(&one));
    assert_eq!((one.images.len(), pieces(&one, "corrupt_container")), (299, 1));
    // The same node twice.
    let twice = changed(|data, _| {
        let first = number(data, leaf * PAGE + 16, 2);
        set(data, leaf * PAGE + 18, first, 2);
    });
    assert_eq!((twice.images.len(), pieces(&twice, "corrupt_container")), (299, 1));
    // A count that does not fit.
    let more = changed(|data, meta| set(data, meta + ENTRIES, 301, 8));
    assert_eq!((more.images.len(), pieces(&more, "corrupt_container")), (300, 1));
    assert!(more.messages[0].contains("301 entries, but has 300"), "{:?}", more.messages);
    // Free pages at the end need not be there.
    let sparse = changed(|data, meta| set(data, meta + LAST_PAGE, 1 << 40, 8));
    assert_eq!((sparse.images.len(), sparse.messages.len()), (300, 0));
}

#[test]
fn damaged_values_are_rejected_one_by_one() {
    let pages: Vec<usize> = children(&DATABASE, root(&DATABASE)).iter().flat_map(|p| children(&DATABASE, *p)).collect();
    let all = || pages.iter().flat_map(|page| nodes(&DATABASE, *page));
    let node = all().find(|node| number(&DATABASE, node + 4, 2) == 1).unwrap();
    let value = node + 8 + number(&DATABASE, node + 6, 2) as usize;
    let run = number(&DATABASE, value, 8) as usize;
    let one = |change: &dyn Fn(&mut [u8])| {
        let Found { images, reasons, messages } = changed(|data, _| change(data));
        assert_eq!((images.len(), messages.len()), (299, 1), "{messages:?}");
        (*reasons.keys().next().unwrap(), messages[0].clone())
    };
    let outside = one(&|data| set(data, value, u64::MAX >> 12, 8));
    assert_eq!(outside.0, "corrupt_container");
    assert_eq!(one(&|data| set(data, value, 1, 8)).0, "corrupt_container");
    let other = one(&|data| set(data, value, pages[0] as u64, 8));
    assert!(other.1.contains("no first page of a value"), "{other:?}");
    let short = one(&|data| set(data, run * PAGE + 12, 0, 4));
    assert!(short.1.contains("hold less"), "{short:?}");
    // 4 GiB, of which nothing is read.
    assert_eq!(one(&|data| set(data, node, u64::from(u32::MAX), 4)).0, "too_large");
    assert_eq!(one(&|data| set(data, node + 4, 3, 2)).0, "unsupported_format");
}

/// Listed names lost in the damage do not stop the run; others do.
#[test]
fn lists_and_damage() {
    let keys: Vec<String> = found(&DATABASE).images.into_keys().map(|key| String::from_utf8(key).unwrap()).collect();
    let list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(list.path(), keys.join("\n")).unwrap();
    let with_list = || DatasetOptions { list: Some(list.path().display().to_string()), ..options() };
    let mut data = DATABASE.clone();
    assert_eq!(contents(&block_on(all_of(&data, with_list())).unwrap()).len(), 300);
    let leaf = children(&data, children(&data, root(&data))[0])[1];
    let on_leaf = nodes(&data, leaf).len();
    set(&mut data, leaf * PAGE + 10, 7, 2);
    let units = block_on(all_of(&data, with_list())).unwrap();
    let samples = units.iter().flatten().filter(|entry| matches!(entry, Entry::Sample(_))).count();
    assert_eq!((samples, contents(&units).len()), (300 - on_leaf, 301 - on_leaf));
    std::fs::write(list.path(), "unknown.webp\n").unwrap();
    match block_on(all_of(&DATABASE, with_list())) {
        Err(DatasetError::Config(text)) => {
            assert!(
                text.starts_with("1 of the 1 names in ") && text.ends_with("not in the database: unknown"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Bytes of meta pages, of page headers and nodes, and anywhere; and the end cut off.
    #[test]
    fn damage_is_reported_and_passed_over(
        metas in proptest::collection::vec((0..2usize, 0..152usize, any::<u8>()), 0..2),
        headers in proptest::collection::vec((any::<Index>(), 0..60usize, any::<u8>()), 0..4),
        anywhere in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        cut in proptest::option::weighted(0.2, any::<Index>()),
    ) {
        let mut data = DATABASE.clone();
        let pages = data.len() / PAGE;
        metas.into_iter().for_each(|(page, at, byte)| data[page * PAGE + at] = byte);
        headers.into_iter().for_each(|(page, at, byte)| data[page.index(pages) * PAGE + at] = byte);
        anywhere.into_iter().for_each(|(at, byte)| data[at.index(pages * PAGE)] = byte);
        data.truncate(cut.map_or(pages * PAGE, |cut| cut.index(pages * PAGE)));
        found(&data);
        let list = DatasetOptions { list: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lsun-list.txt").into()), ..options() };
        match block_on(all_of(&data, list)) {
            Ok(_) | Err(DatasetError::Config(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn noise_is_no_database(bytes in proptest::collection::vec(any::<u8>(), 0..10_000), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic && bytes.len() > 24 {
            bytes[8..24].copy_from_slice(&[0, 0, 8, 0, 0, 0, 0, 0, 0xde, 0xc0, 0xef, 0xbe, 1, 0, 0, 0]);
        }
        assert!(found(&bytes).images.is_empty());
    }
}
