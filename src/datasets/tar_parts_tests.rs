use super::*;
use crate::datasets::Source;
use crate::retry::Retries;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;
use std::time::Duration;

async fn object(bytes: &[u8]) -> Object {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    store.put(&Path::from("o"), bytes.to_vec().into()).await.unwrap();
    let source = Source { path: "o".into(), size: bytes.len() as u64, etag: None };
    let retries = Retries { attempts: 1, backoff: Duration::ZERO, ..Retries::default() };
    let options = ReadAhead { retries, ..ReadAhead::default() };
    Object::new(store, Path::from("o"), &source, &stepping(&options))
}

/// 40 members of 0 to 2340 bytes; those with long names have an extended header.
fn archive() -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for number in 0..40usize {
        let name = if number % 3 == 0 { format!("{number:0>150}.JPEG") } else { format!("{number:04}.JPEG") };
        let body = vec![number as u8; number * 60];
        let mut header = ::tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        builder.append_data(&mut header, name, &body[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

async fn walk(bytes: &[u8]) -> Vec<Place> {
    let mut walk = Walk::new(object(bytes).await);
    let mut places = Vec::new();
    while let Some(place) = walk.next().await.unwrap() {
        places.push(place);
    }
    places
}

const NONE: Vec<u64> = Vec::new();

#[tokio::test]
async fn a_walk_finds_every_member() {
    let bytes = archive();
    let places = walk(&bytes).await;
    assert_eq!(places.len(), 40);
    let mut at = 0;
    for (number, place) in places.iter().enumerate() {
        assert_eq!(place.start, at, "{}", place.name);
        assert!(place.file && place.name.ends_with(&format!("{number:04}.JPEG")), "{}", place.name);
        let body = &bytes[place.end as usize - number * 60..place.end as usize];
        assert!(body.iter().all(|byte| *byte == number as u8));
        at = place.next();
    }
    assert!(bytes[at as usize..].iter().all(|byte| *byte == 0), "the end mark follows");
}

#[tokio::test]
async fn cuts_are_beginnings_of_members() {
    let bytes = archive();
    let beginnings: Vec<u64> = walk(&bytes).await.iter().map(|place| place.start).collect();
    let object = object(&bytes).await;
    for size in [1, 512, 3000, 7000, 20_000, 60_000] {
        let cuts = cuts(&object, size, 5000).await.unwrap();
        assert!(cuts.iter().all(|cut| beginnings.contains(cut)), "{size}: {cuts:?}");
        assert!(cuts.is_sorted_by(|a, b| a < b));
        let wanted = bytes.len() as u64 / size.next_multiple_of(512);
        assert!(size < 7000 || cuts.len() as u64 + 2 >= wanted, "{size}: {} of {wanted}", cuts.len());
    }
    assert_eq!(cuts(&object, 1 << 20, 5000).await.unwrap(), NONE);
}

#[tokio::test]
async fn without_headers_there_are_no_cuts() {
    assert_eq!(cuts(&object(&[0; 40_000]).await, 5000, 5000).await.unwrap(), NONE);
    assert_eq!(cuts(&object(&[7; 40_001]).await, 5000, 5000).await.unwrap(), NONE);
    // Blocks that look like headers, followed by nothing that does.
    let lone = [&archive()[..512], &[7; 512]].concat().repeat(40);
    assert_eq!(cuts(&object(&lone).await, 5000, 5000).await.unwrap(), NONE);
}
