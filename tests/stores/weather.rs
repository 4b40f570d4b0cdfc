//! A whole run over a bad network: the client's own repetitions carry it, input and output, and the log tells of them.

use crate::bucket;
use crate::common::stderr;
use crate::corpus::{Corpus, clean, download, latents_and_rejects, upload};
use crate::proxy::Proxy;
use crate::servers;

#[tokio::test]
async fn a_bad_network_changes_no_byte() {
    let Some(bucket) = bucket("a_bad_network_changes_no_byte", servers::s3()) else { return };
    let corpus = Corpus::new();
    upload(&*bucket.store, corpus.files()).await;
    let proxy = Proxy::before(bucket.address(), 11);
    let (dataset, out) = (corpus.below(&bucket.url), format!("{}/out", bucket.url));
    let mut command = clean();
    bucket.reach(&mut command).env("AWS_ENDPOINT_URL", proxy.server.url());
    let more = ["dataset.unit_rows=11"];
    let output = corpus.encode(&mut command, "folder", &dataset.folder, &out, &more);
    assert!(output.status.success(), "{}", stderr(&output));
    let made = latents_and_rejects(download(&*bucket.store, "out").await);
    assert_eq!(made, corpus.expected("folder", &more));

    let faults = proxy.faults();
    assert!(faults.iter().all(|&count| count > 0), "{faults:?} of {} requests", proxy.requests());
    // The store's client says that it repeats, without being asked to.
    let text = stderr(&output);
    assert!(text.contains("backing off") && text.contains("503 Service Unavailable"), "{text}");
    let total: u64 = faults.iter().sum();
    assert!(proxy.requests() < 200 + 3 * total, "{} requests, {total} of them spoilt", proxy.requests());
}
