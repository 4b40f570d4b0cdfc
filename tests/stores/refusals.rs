//! What a store refuses is one sentence: wrong credentials, buckets and objects that are not there, dead servers.

use crate::bucket;
use crate::common::stderr;
use crate::conformance::keeps_its_secrets;
use crate::corpus::{Corpus, clean, reaching, upload};
use crate::servers::{self, Bucket};
use std::process::Output;

/// One line of error, which says all of `words`, and the exit code for what the user got wrong.
fn refused(output: &Output, words: &[&str]) {
    let text = stderr(output);
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error")).collect();
    let [error] = errors[..] else { panic!("one line of error in: {text}") };
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.trim_end().ends_with(error), "nothing after the error: {text}");
    assert!(error.len() < 400 && !error.contains("<?xml") && !error.contains("RequestId"), "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} in {error}");
    }
}

/// Reading from and writing to a store that lets nobody in.
fn wrong_credentials(bucket: &Bucket, hint: &str) {
    let corpus = Corpus::new();
    let local = corpus.root.path().join("out").display().to_string();
    let (dataset, out) = (corpus.below(&bucket.url), format!("{}/out", bucket.url));
    for format in ["webdataset", "folder"] {
        let output = corpus.encode(&mut reaching(bucket), format, dataset.of(format), &local, &[]);
        refused(&output, &[dataset.of(format), "refused", hint]);
        keeps_its_secrets(bucket, &output);
    }
    let output = corpus.encode(&mut reaching(bucket), "webdataset", &corpus.local().shards, &out, &[]);
    refused(&output, &[&out, "refused", hint]);
    keeps_its_secrets(bucket, &output);
    let output = reaching(bucket).args(["verify", &out]).output().unwrap();
    refused(&output, &[&out, "refused", hint]);
    keeps_its_secrets(bucket, &output);
}

#[test]
fn wrong_credentials_for_s3() {
    let Some(bucket) = bucket("wrong_credentials_for_s3", servers::closed_s3()) else { return };
    wrong_credentials(&bucket, "AWS_ACCESS_KEY_ID");
}

#[test]
fn wrong_credentials_for_google_cloud_storage() {
    let found = servers::gcs_for("somebody@project.example", "else@project.example");
    let Some(bucket) = bucket("wrong_credentials_for_google_cloud_storage", found) else { return };
    wrong_credentials(&bucket, "GOOGLE_APPLICATION_CREDENTIALS");
}

#[test]
fn wrong_credentials_for_azure() {
    let Some(mut bucket) = bucket("wrong_credentials_for_azure", servers::azure()) else { return };
    let wrong = "d3Jvbmcta2V5LXdyb25nLWtleS13cm9uZy1rZXktd3Jvbmc=".to_owned();
    for (name, value) in &mut bucket.environment {
        if *name == "AZURE_STORAGE_ACCOUNT_KEY" {
            value.clone_from(&wrong);
        }
    }
    bucket.secrets.push(wrong);
    wrong_credentials(&bucket, "AZURE_STORAGE_ACCOUNT_KEY");
}

/// A signature that gives access travels in URLs, which errors and traces show otherwise.
#[test]
fn a_shared_access_signature_is_not_shown() {
    let Some(mut bucket) = bucket("a_shared_access_signature_is_not_shown", servers::azure()) else { return };
    bucket.environment.retain(|(name, _)| *name != "AZURE_STORAGE_ACCOUNT_KEY");
    let token = "sv=2021-12-02&ss=b&srt=sco&sp=rl&se=2100-01-01T00:00:00Z&sig=c2lnbmF0dXJl";
    bucket.environment.push(("AZURE_STORAGE_SAS_TOKEN", token.to_owned()));
    bucket.environment.push(("RUST_LOG", "trace".to_owned()));
    bucket.secrets.push("c2lnbmF0dXJl".to_owned());
    let corpus = Corpus::new();
    let out = corpus.root.path().join("out").display().to_string();
    let output = corpus.encode(&mut reaching(&bucket), "folder", &corpus.below(&bucket.url).folder, &out, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    keeps_its_secrets(&bucket, &output);
}

/// Reading from and writing to a bucket that is not there, and reading what is not in one that is.
async fn missing(bucket: &Bucket) {
    let corpus = Corpus::new();
    let (scheme, _) = bucket.url.split_once("://").unwrap();
    let nowhere = format!("{scheme}://no-such-bucket");
    let local = corpus.root.path().join("out").display().to_string();
    let dataset = corpus.below(&nowhere);
    let output = corpus.encode(&mut reaching(bucket), "folder", &dataset.folder, &local, &[]);
    refused(&output, &[&nowhere, "does not exist"]);
    let output = corpus.encode(&mut reaching(bucket), "webdataset", &dataset.shards, &local, &[]);
    refused(&output, &[&nowhere, "not exist"]);
    let out = format!("{nowhere}/out");
    let output = corpus.encode(&mut reaching(bucket), "webdataset", &corpus.local().shards, &out, &[]);
    refused(&output, &[&out, "does not exist"]);
    let output = reaching(bucket).args(["verify", &out]).output().unwrap();
    refused(&output, &[&out, "does not exist"]);

    let mut files = corpus.files();
    files.remove("in/shards/shard-0001.tar");
    upload(&*bucket.store, files).await;
    let shards = corpus.below(&bucket.url).shards;
    let output = corpus.encode(&mut reaching(bucket), "webdataset", &shards, &local, &[]);
    refused(&output, &[&shards, "1 of the 3 objects", "shard-0001.tar"]);
    let empty = format!("{}/nothing/", bucket.url);
    let output = corpus.encode(&mut reaching(bucket), "folder", &empty, &local, &[]);
    refused(&output, &[&empty, "no images"]);
}

#[tokio::test]
async fn missing_on_s3() {
    let Some(bucket) = bucket("missing_on_s3", servers::s3()) else { return };
    missing(&bucket).await;
}

#[tokio::test]
async fn missing_on_google_cloud_storage() {
    let Some(bucket) = bucket("missing_on_google_cloud_storage", servers::gcs()) else { return };
    missing(&bucket).await;
}

#[tokio::test]
async fn missing_on_azure() {
    let Some(bucket) = bucket("missing_on_azure", servers::azure()) else { return };
    missing(&bucket).await;
}

/// A key file that is none.
#[test]
fn a_broken_key_file_is_one_sentence() {
    let corpus = Corpus::new();
    let file = corpus.root.path().join("key.json");
    std::fs::write(&file, "{\"private_key\": \"hunter2").unwrap();
    let mut command = clean();
    command.env("GOOGLE_APPLICATION_CREDENTIALS", &file).env("RUST_LOG", "trace");
    let out = corpus.root.path().join("out").display().to_string();
    let output = corpus.encode(&mut command, "folder", "gs://bucket/in/", &out, &[]);
    refused(&output, &["gs://bucket"]);
    assert!(!stderr(&output).contains("hunter2"));
}
