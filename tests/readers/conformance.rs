//! What a reader owes: see the points of [`conformance`].

use crate::formats::Fixture;
use crate::stores::{Fault, Faulty, Served, in_memory, on_disk};
use imagebart::datasets::{DatasetError, Entry, Location, Output, Reader, Unit, read_unit as read};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::sync::Arc;

/// Units with all that must be the same on every store: entity tags need not be.
fn bare(units: &[Unit]) -> Vec<Unit> {
    let mut units = units.to_vec();
    units.iter_mut().flat_map(|unit| &mut unit.sources).for_each(|source| source.etag = None);
    units
}

async fn everything(reader: &dyn Reader) -> (Vec<Unit>, Vec<Vec<Entry>>) {
    let units = reader.units().await.unwrap();
    let mut entries = Vec::new();
    for unit in &units {
        entries.push(read(reader, unit).await.unwrap());
    }
    (units, entries)
}

pub async fn conformance(fixture: &Fixture) {
    let memory = (fixture.reader)(Location::in_store(in_memory(&fixture.objects).await, fixture.pattern));
    let (units, entries) = everything(&*memory).await;
    gives_what_is_expected(fixture, &entries);
    units_are_sound(fixture, &units, &entries);
    units_are_listed_and_read_the_same_twice(fixture, &units, &entries, &*memory).await;
    the_same_on_every_store(fixture, &units, &entries).await;
    faults_that_pass_change_nothing(fixture, &units, &entries).await;
    lasting_faults_and_changes_fail_the_unit(fixture, &units).await;
    a_dropped_receiver_cancels(fixture, &units, &entries, &*memory).await;
    a_hanging_store_can_be_cancelled(fixture, &units).await;
}

fn gives_what_is_expected(fixture: &Fixture, entries: &[Vec<Entry>]) {
    let short = |entry: &Entry| match entry {
        Entry::Sample(s) => {
            let caption = s.caption.as_deref().unwrap_or("-");
            let label = s.label.map_or("-".to_owned(), |label| label.to_string());
            format!("{}|{}|{label}|{caption}|{}", s.source, s.key, String::from_utf8_lossy(&s.image))
        }
        Entry::Reject(r) => format!("{}|{}|{}", r.source, r.key, r.reason),
    };
    let found: Vec<Vec<String>> = entries.iter().map(|unit| unit.iter().map(short).collect()).collect();
    assert_eq!(found, fixture.expected, "{}: entries", fixture.name);
}

/// Names are unique and relative; sizes add up to the dataset; indices count from 0 without gaps; rejects name their unit.
fn units_are_sound(fixture: &Fixture, units: &[Unit], entries: &[Vec<Entry>]) {
    let name = fixture.name;
    let mut names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), units.len(), "{name}: unit names are unique");
    assert!(names.iter().all(|n| !n.is_empty() && !n.starts_with('/') && !n.contains("..")), "{name}: {names:?}");
    // A source of several units, which are slices of it, counts once.
    let mut sources: Vec<(&str, u64)> =
        units.iter().flat_map(|unit| &unit.sources).map(|source| (source.path.as_str(), source.size)).collect();
    sources.sort_unstable();
    sources.dedup();
    let total: u64 = sources.iter().map(|(_, size)| size).sum();
    assert_eq!(total, fixture.bytes(), "{name}: every byte of the dataset belongs to a unit");
    for (unit, entries) in units.iter().zip(entries) {
        for (at, entry) in (0u64..).zip(entries) {
            let index = match entry {
                Entry::Sample(sample) => sample.index,
                Entry::Reject(reject) => {
                    assert_eq!((reject.unit.as_str(), reject.stage), (unit.name.as_str(), "read"), "{name}");
                    assert!(!reject.message.is_empty(), "{name}: a reject says what is wrong");
                    reject.index
                }
            };
            assert_eq!(index, at, "{name}: indices of {} are consecutive", unit.name);
        }
    }
}

async fn units_are_listed_and_read_the_same_twice(
    fixture: &Fixture,
    units: &[Unit],
    entries: &[Vec<Entry>],
    reader: &dyn Reader,
) {
    assert_eq!(reader.units().await.unwrap(), units, "{}: listed twice", fixture.name);
    // Backwards, and without listing first in a fresh reader: a resumed rank begins anywhere.
    let fresh = (fixture.reader)(Location::in_store(in_memory(&fixture.objects).await, fixture.pattern));
    for (unit, expected) in units.iter().zip(entries).rev() {
        assert_eq!(&read(reader, unit).await.unwrap(), expected, "{}: {} read twice", fixture.name, unit.name);
        assert_eq!(&read(&*fresh, unit).await.unwrap(), expected, "{}: {} read afresh", fixture.name, unit.name);
    }
}

async fn the_same_on_every_store(fixture: &Fixture, units: &[Unit], entries: &[Vec<Entry>]) {
    let disk = on_disk(&fixture.objects);
    let local = Location::open(&format!("{}/{}", disk.path().display(), fixture.pattern)).await.unwrap();
    let file_url = Location::open(&format!("file://{}/{}", disk.path().display(), fixture.pattern)).await.unwrap();
    let served = Served::start(&fixture.objects).await;
    let http = Location::open(&format!("{}/{}", served.url(), fixture.names_for_http)).await.unwrap();
    let breaking = Served::start_breaking(&fixture.objects, 2).await;
    let broken = Location::open(&format!("{}/{}", breaking.url(), fixture.names_for_http)).await.unwrap();
    for (store, location) in [("local path", local), ("file URL", file_url), ("http", http), ("broken http", broken)] {
        let reader = (fixture.reader)(location);
        let (others, found) = everything(&*reader).await;
        assert_eq!(bare(&others), bare(units), "{}: units on {store}", fixture.name);
        assert_eq!(found, entries, "{}: entries on {store}", fixture.name);
    }
}

async fn faults_that_pass_change_nothing(fixture: &Fixture, units: &[Unit], entries: &[Vec<Entry>]) {
    for fault in [Fault::Refuse, Fault::CutBody, Fault::ShortBody] {
        // Every request fails once; the next one for the same place succeeds.
        let store = Arc::new(Faulty::new(in_memory(&fixture.objects).await, fault, 1));
        let reader = (fixture.reader)(Location::in_store(store.clone(), fixture.pattern));
        for (unit, expected) in units.iter().zip(entries) {
            assert_eq!(&read(&*reader, unit).await.unwrap(), expected, "{}: {fault:?} in {}", fixture.name, unit.name);
        }
        assert!(store.faults() > 0, "{}: {fault:?} was tried", fixture.name);
    }
}

async fn lasting_faults_and_changes_fail_the_unit(fixture: &Fixture, units: &[Unit]) {
    let Some(unit) = units.iter().find(|unit| unit.sources.iter().any(|source| source.size > 0)) else {
        panic!("{}: a fixture needs a unit with bytes", fixture.name)
    };
    for fault in [Fault::Refuse, Fault::CutBody, Fault::ShortBody] {
        let store = Arc::new(Faulty::new(in_memory(&fixture.objects).await, fault, u32::MAX));
        let reader = (fixture.reader)(Location::in_store(store, fixture.pattern));
        let error = read(&*reader, unit).await.unwrap_err();
        assert!(matches!(error, DatasetError::Store { .. }), "{}: lasting {fault:?} gave {error}", fixture.name);
    }
    let store = in_memory(&fixture.objects).await;
    let reader = (fixture.reader)(Location::in_store(store.clone(), fixture.pattern));
    reader.units().await.unwrap();
    for (path, bytes) in &fixture.objects {
        let longer = [bytes.as_slice(), b"more"].concat();
        store.put(&Path::parse(path).unwrap(), longer.into()).await.unwrap();
    }
    let error = read(&*reader, unit).await.unwrap_err();
    assert!(matches!(error, DatasetError::Changed { .. }), "{}: a changed object gave {error}", fixture.name);
}

/// A reader whose output is gone ends at its next entry, with [`DatasetError::Cancelled`].
async fn a_dropped_receiver_cancels(fixture: &Fixture, units: &[Unit], entries: &[Vec<Entry>], reader: &dyn Reader) {
    for (unit, _) in units.iter().zip(entries).filter(|(_, entries)| !entries.is_empty()) {
        let (out, receiver) = Output::channel(1);
        drop(receiver);
        let error = reader.read(unit, &out).await.unwrap_err();
        assert!(matches!(error, DatasetError::Cancelled), "{}: {error}", fixture.name);
    }
    for (unit, _) in units.iter().zip(entries).filter(|(_, entries)| entries.len() > 2) {
        let (out, receiver) = Output::channel(1);
        let listen = async {
            receiver.recv().await.unwrap();
            receiver.close();
        };
        let (result, ()) = tokio::join!(reader.read(unit, &out), listen);
        assert!(matches!(result, Err(DatasetError::Cancelled)), "{}: cancelled half-way", fixture.name);
    }
}

/// Cancelling does not wait for an answer of the store.
async fn a_hanging_store_can_be_cancelled(fixture: &Fixture, units: &[Unit]) {
    let store = Arc::new(Faulty::new(in_memory(&fixture.objects).await, Fault::Hang, u32::MAX));
    let reader = (fixture.reader)(Location::in_store(store.clone(), fixture.pattern));
    let unit = units.iter().find(|unit| unit.sources.iter().any(|source| source.size > 0)).unwrap();
    let (out, receiver) = Output::channel(1);
    let close = async {
        while store.faults() == 0 {
            tokio::task::yield_now().await;
        }
        receiver.close();
    };
    let (result, ()) = tokio::join!(reader.read(unit, &out), close);
    assert!(matches!(result, Err(DatasetError::Cancelled)), "{}: cancelled while the store hangs", fixture.name);
}
