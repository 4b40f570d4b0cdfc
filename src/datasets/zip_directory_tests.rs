use super::*;
use crate::datasets::{ReadAhead, Source};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use std::io::{Cursor, Write};
use std::sync::Arc;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

async fn object(bytes: Vec<u8>) -> Object {
    let store = Arc::new(InMemory::new());
    let source = Source { path: "o".into(), size: bytes.len() as u64, etag: None };
    store.put(&Path::from("o"), bytes.into()).await.unwrap();
    Object::new(store, Path::from("o"), &source, &ReadAhead::default())
}

fn archive(entries: &[(&str, &[u8], CompressionMethod)], large: bool, comment: &str) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, body, method) in entries {
        let options = SimpleFileOptions::default().compression_method(*method).large_file(large);
        writer.start_file(*name, options).unwrap();
        writer.write_all(body).unwrap();
    }
    writer.set_comment(comment).unwrap();
    writer.finish().unwrap().into_inner()
}

async fn contents(bytes: Vec<u8>) -> Result<Vec<(String, Result<Bytes, Reason>)>, ZipError> {
    let object = object(bytes).await;
    let directory = Directory::load(&object).await?;
    let mut found = Vec::new();
    for entry in &directory.entries {
        let data = match entry.range() {
            Some(range) if entry.cost() < 10_000 => {
                entry.unpack(object.get(range).await?).map_err(|(reason, _)| reason)
            }
            _ => Err(Reason::TooLarge),
        };
        found.push((String::from_utf8_lossy(directory.name(entry)).into_owned(), data));
    }
    Ok(found)
}

#[tokio::test]
async fn entries_of_every_kind_come_back() {
    let (stored, deflated) = (CompressionMethod::Stored, CompressionMethod::Deflated);
    let zeros = [0; 5000];
    let entries: [(&str, &[u8], CompressionMethod); 4] =
        [("b/1.png", b"one", stored), ("a.png", &zeros, deflated), ("empty", b"", stored), ("c", b"three", deflated)];
    for large in [false, true] {
        for comment in ["", "a comment", "PK\u{5}\u{6} is the signature"] {
            let found = contents(archive(&entries, large, comment)).await.unwrap();
            let expected: Vec<_> =
                entries.iter().map(|(name, body, _)| ((*name).to_owned(), Ok(Bytes::copy_from_slice(body)))).collect();
            assert_eq!(found, expected, "{large} {comment}");
        }
    }
    assert_eq!(contents(archive(&[], false, "")).await.unwrap(), []);
}

#[tokio::test]
async fn more_entries_than_16_bits_count() {
    let names: Vec<String> = (0..70_000).map(|i| format!("{i}.png")).collect();
    let entries: Vec<(&str, &[u8], CompressionMethod)> =
        names.iter().map(|name| (name.as_str(), &b"x"[..], CompressionMethod::Stored)).collect();
    let object = object(archive(&entries, false, "")).await;
    let directory = Directory::load(&object).await.unwrap();
    assert_eq!(directory.entries.len(), 70_000);
    assert_eq!(directory.name(&directory.entries[69_999]), b"69999.png");
}

#[tokio::test]
async fn damage_is_told_from_a_cut() {
    let bytes = archive(&[("a", b"body", CompressionMethod::Stored)], false, "");
    let reason = |error| match error {
        ZipError::Broken(reason, _) => reason,
        ZipError::Dataset(error) => panic!("{error}"),
    };
    for cut in 4..bytes.len() {
        assert_eq!(reason(contents(bytes[..cut].to_vec()).await.unwrap_err()), Reason::Truncated, "{cut}");
    }
    assert_eq!(reason(contents(Vec::new()).await.unwrap_err()), Reason::Empty);
    assert_eq!(reason(contents(b"text, not zip".to_vec()).await.unwrap_err()), Reason::CorruptContainer);
    let mut flipped = bytes.clone();
    flipped[31] ^= 1;
    assert_eq!(contents(flipped).await.unwrap()[0].1, Err(Reason::CrcMismatch));
}

/// Entries that claim to lie behind the directory have no place, and nothing is asked of the store for them.
#[tokio::test]
async fn places_behind_the_directory_are_damage() {
    let entries: [(&str, &[u8], CompressionMethod); 2] =
        [("a", b"body", CompressionMethod::Stored), ("b", b"body", CompressionMethod::Stored)];
    let mut bytes = archive(&entries, false, "");
    let directory = bytes.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    let second = directory + 46 + 1;
    for (entry, start) in [(directory, 60_000u32), (second, 70_000)] {
        bytes[entry + 42..entry + 46].copy_from_slice(&start.to_le_bytes());
    }
    let found = contents(bytes).await.unwrap();
    assert!(found.len() == 2 && found.iter().all(|(_, body)| body.is_err()), "{found:?}");
}

proptest! {
    #[test]
    fn no_damage_panics(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), large: bool) {
        let entries: [(&str, &[u8], CompressionMethod); 2] =
            [("a.png", b"stored", CompressionMethod::Stored), ("b.png", &[7; 300], CompressionMethod::Deflated)];
        let mut bytes = archive(&entries, large, "");
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = runtime.block_on(contents(bytes));
    }

    #[test]
    fn no_directory_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), start: u64) {
        let _ = Directory::parse([&ENTRY[..], &bytes].concat().into(), 1, start);
    }
}
