//! Every kind of store, as the library and the binary see it: servers on the loopback, faults, keys, credentials.
//!
//! What every store owes is in `conformance.rs`. A server that cannot be installed here skips its tests, visibly.

mod broken;
#[path = "../binary/common/mod.rs"]
mod common;
mod conformance;
mod corpus;
mod faults;
mod faulty;
mod http;
mod keys;
mod proxy;
#[path = "../python/mod.rs"]
mod python;
mod refusals;
mod samples;
mod servers;
mod training;
mod weather;
mod web;

use common::skip;
use servers::Bucket;

/// The bucket, or a visible line that says the test is skipped.
fn bucket(test: &str, found: Result<Bucket, String>) -> Option<Bucket> {
    found.map_err(|why| skip::skipped(format_args!("{test}: {why}"))).ok()
}

#[tokio::test]
async fn s3_conforms() {
    let Some(bucket) = bucket("s3_conforms", servers::s3()) else { return };
    conformance::conformance(&bucket).await;
}

#[tokio::test]
async fn google_cloud_storage_conforms() {
    let Some(bucket) = bucket("google_cloud_storage_conforms", servers::gcs()) else { return };
    conformance::conformance(&bucket).await;
}

#[tokio::test]
async fn azure_conforms() {
    let Some(bucket) = bucket("azure_conforms", servers::azure()) else { return };
    conformance::conformance(&bucket).await;
}
