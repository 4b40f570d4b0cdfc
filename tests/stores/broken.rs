//! Bodies that break, stand still or change under way, as a web server sends them: resumed from one version, or an error.

use crate::http::{Answer, HttpServer, Request};
use imagebart::datasets::{DatasetError, DatasetOptions, Listing, Location, Object, ReadAhead, Wanted, WebDataset};
use imagebart::datasets::{Reader, read_unit};
use imagebart::retry::Retries;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const QUICK: Retries = Retries { attempts: 5, backoff: Duration::from_millis(1), stall: Duration::from_secs(60) };
const SHARDS: Wanted = Wanted { what: "shards", extensions: &[".tar"] };

/// The object `x.tar` of a server, as it is now.
async fn object(server: &HttpServer, retries: Retries) -> Object {
    let location = Location::open(&format!("{}/x.tar", server.url())).await.unwrap();
    let listing = Listing::find(&location, &SHARDS).await.unwrap();
    let read_ahead = ReadAhead { retries, ..ReadAhead::default() };
    let path = listing.location(&listing.objects[0].path).unwrap();
    Object::new(location.store, path, &listing.objects[0], &read_ahead)
}

fn numbers(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// Answers every GET but notes where it starts.
fn noting(starts: &Arc<Mutex<Vec<usize>>>, request: &Request, size: usize) {
    if request.method == "GET" {
        starts.lock().unwrap().push(request.range(size).map_or(0, |(start, _)| start));
    }
}

#[tokio::test]
async fn a_broken_body_goes_on_where_it_broke() {
    // With an entity tag the store's client resumes by itself; without one, we do.
    for version in ["etag: \"1\"\r\n", "last-modified: Mon, 02 Jan 2023 03:04:05 GMT\r\n", ""] {
        let bytes = numbers(1000);
        let starts = Arc::new(Mutex::new(Vec::new()));
        let (sent, seen) = (bytes.clone(), starts.clone());
        let server = HttpServer::start(move |request| {
            noting(&seen, request, sent.len());
            Answer::object(request, &sent, version).cut(300)
        });
        let object = object(&server, QUICK).await;
        assert_eq!(object.get(0..1000).await.unwrap(), bytes, "{version:?}");
        assert_eq!(*starts.lock().unwrap(), [0, 300, 600, 900], "{version:?}: nothing is sent twice");
        starts.lock().unwrap().clear();
        assert_eq!(object.get(500..1000).await.unwrap(), bytes[500..], "{version:?}");
        assert_eq!(*starts.lock().unwrap(), [500, 800], "{version:?}");
    }
}

#[tokio::test]
async fn a_body_that_always_breaks_ends_after_so_many_attempts() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let server = HttpServer::start(move |request| {
        counted.fetch_add(usize::from(request.method == "GET"), Ordering::SeqCst);
        // No entity tag: the store's client leaves it to us.
        Answer::object(request, &numbers(1000), "").cut(0)
    });
    let error = object(&server, QUICK).await.get(0..1000).await.unwrap_err();
    assert!(matches!(error, DatasetError::Store { .. }), "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn an_answer_that_stands_still_is_asked_for_again() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let server = HttpServer::start(move |request| {
        if request.method == "GET" && counted.fetch_add(1, Ordering::SeqCst) < 2 {
            return Answer::Silence;
        }
        Answer::object(request, &numbers(1000), "etag: \"1\"\r\n")
    });
    let retries = Retries { stall: Duration::from_millis(300), ..QUICK };
    assert_eq!(object(&server, retries).await.get(0..1000).await.unwrap(), numbers(1000));
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

/// The object is replaced by one of the same size while its body is under way.
#[tokio::test]
async fn a_replaced_object_is_an_error_and_never_a_mix() {
    let versions = [
        ("etag: \"1\"\r\n", "etag: \"2\"\r\n"),
        ("last-modified: Mon, 02 Jan 2023 03:04:05 GMT\r\n", "last-modified: Mon, 02 Jan 2023 03:04:06 GMT\r\n"),
    ];
    for (before, after) in versions {
        let count = Arc::new(AtomicUsize::new(0));
        let server = HttpServer::start(move |request| {
            let first = request.method == "HEAD" || count.fetch_add(1, Ordering::SeqCst) == 0;
            match first {
                true => Answer::object(request, &numbers(1000), before).cut(300),
                false => Answer::object(request, &vec![7; 1000], after),
            }
        });
        let object = object(&server, QUICK).await;
        let error = object.get(0..1000).await.unwrap_err();
        assert!(matches!(error, DatasetError::Changed { .. }), "{before:?}: {error}");
        assert!(error.to_string().contains("x.tar changed"), "{error}");
        // Nor does a later range come from the new one.
        let error = object.get(400..500).await.unwrap_err();
        assert!(matches!(error, DatasetError::Changed { .. }), "{before:?}: {error}");
    }
}

/// An object that shrank has no bytes where we go on; one that grew has another size.
#[tokio::test]
async fn an_object_of_another_size_is_an_error() {
    for size in [200, 5000] {
        let count = Arc::new(AtomicUsize::new(0));
        let server = HttpServer::start(move |request| {
            let first = request.method == "HEAD" && count.fetch_add(1, Ordering::SeqCst) == 0;
            let size = if first { 1000 } else { size };
            Answer::object(request, &numbers(size), "")
        });
        let object = object(&server, QUICK).await;
        let error = object.get(300..1000).await.unwrap_err();
        assert!(matches!(error, DatasetError::Changed { .. }), "{size}: {error}");
    }
}

/// The mark of a weak entity tag, which servers add as they compress, is no change.
#[tokio::test]
async fn weak_and_strong_entity_tags_agree() {
    let server = HttpServer::start(|request| {
        let etag = if request.method == "HEAD" { "etag: \"1\"\r\n" } else { "etag: W/\"1\"\r\n" };
        Answer::object(request, &numbers(1000), etag)
    });
    assert_eq!(object(&server, QUICK).await.get(0..1000).await.unwrap(), numbers(1000));
}

/// A whole shard, read by a reader, whose every body breaks.
#[tokio::test]
async fn a_reader_does_not_notice_broken_bodies() {
    let members: Vec<(String, Vec<u8>)> =
        (0..20).map(|index| (format!("{index:04}.png"), crate::common::png(index, 33, 34))).collect();
    let shard = crate::common::tar(&members);
    let size = shard.len();
    let server = HttpServer::start(move |request| Answer::object(request, &shard, "").cut(size / 3));
    let location = Location::open(&format!("{}/x.tar", server.url())).await.unwrap();
    let read_ahead = ReadAhead { retries: QUICK, ..ReadAhead::default() };
    let reader = WebDataset::new(location, DatasetOptions { read_ahead, ..DatasetOptions::default() });
    let unit = &reader.units().await.unwrap()[0];
    assert_eq!(read_unit(&reader, unit).await.unwrap().len(), 20);
}
