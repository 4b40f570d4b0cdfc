//! Keys with odd characters: read as they are, written so that every store takes them.

use crate::common::stderr;
use crate::corpus::{Corpus, clean, download, latents_and_rejects, reaching, upload};
use crate::servers::{self, Bucket};
use crate::{bucket, common};

/// Folders and files that need quoting somewhere: in URLs, in XML, in Azure's signatures, on disks.
const NAMES: [&str; 11] = [
    "a b.png",
    "100%.png",
    "50%25.png",
    "x#1.png",
    "a+b&c=d.png",
    "what?.png",
    "semi;colon,'quote'.png",
    "(brackets) [and] {braces}.png",
    "größe/日本.png",
    "tilde~/@at!.png",
    "<xml>/\"&amp;\".png",
];

async fn odd_keys(bucket: &Bucket) {
    let corpus = Corpus::new();
    let pictures: Vec<(String, Vec<u8>)> =
        (0..).zip(NAMES).map(|(n, name)| (format!("odd #1/50%25/{name}"), common::png(n, 33, 34))).collect();
    upload(&*bucket.store, pictures.iter().cloned().collect()).await;
    for (name, bytes) in &pictures {
        let path = corpus.root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let shard = (
        "odd #1/shards/s #1+%.tar".to_owned(),
        std::fs::read(corpus.root.path().join("in/shards/shard-0000.tar")).unwrap(),
    );
    upload(&*bucket.store, [shard.clone()].into()).await;
    let local = corpus.root.path().join(&shard.0);
    std::fs::create_dir_all(local.parent().unwrap()).unwrap();
    std::fs::write(local, &shard.1).unwrap();

    for (format, below) in [("folder", "odd #1/50%25/"), ("webdataset", "odd #1/shards/")] {
        // The output's own name is odd, too.
        let out = format!("{}/out #1/{format} 50%/ü", bucket.url);
        let url = format!("{}/{below}", bucket.url);
        let output = corpus.encode(&mut reaching(bucket), format, &url, &out, &[]);
        assert!(output.status.success(), "{url}: {}", stderr(&output));
        let here = tempfile::tempdir().unwrap();
        let local = format!("{}/{below}", corpus.root.path().display());
        let output = corpus.encode(&mut clean(), format, &local, &here.path().display().to_string(), &[]);
        assert!(output.status.success(), "{local}: {}", stderr(&output));
        let made = latents_and_rejects(download(&*bucket.store, &format!("out #1/{format} 50%/ü")).await);
        assert_eq!(made, latents_and_rejects(common::tables(here.path())), "{url}");
        let output = reaching(bucket).args(["verify", &out]).output().unwrap();
        assert!(output.status.success(), "{out}: {}", stderr(&output));
    }
    // One key by its name: what is no pattern stands for itself.
    let one = format!("{}/odd #1/shards/s #1+%.tar", bucket.url);
    let output = corpus.encode(&mut reaching(bucket), "webdataset", &one, &format!("{}/out/one", bucket.url), &[]);
    assert!(output.status.success(), "{one}: {}", stderr(&output));
}

#[tokio::test]
async fn odd_keys_on_s3() {
    let Some(bucket) = bucket("odd_keys_on_s3", servers::s3()) else { return };
    odd_keys(&bucket).await;
}

#[tokio::test]
async fn odd_keys_on_google_cloud_storage() {
    let Some(bucket) = bucket("odd_keys_on_google_cloud_storage", servers::gcs()) else { return };
    odd_keys(&bucket).await;
}

#[tokio::test]
async fn odd_keys_on_azure() {
    let Some(bucket) = bucket("odd_keys_on_azure", servers::azure()) else { return };
    odd_keys(&bucket).await;
}

/// A key that `object_store` cannot hold, `a//b`, is a mistake to be told of, not one to be passed over.
#[tokio::test]
async fn an_empty_folder_name_is_told_of() {
    let Some(bucket) = bucket("an_empty_folder_name_is_told_of", servers::s3()) else { return };
    let corpus = Corpus::new();
    let target = format!("/{}/twice/a//b.png", bucket.url.trim_start_matches("s3://"));
    assert!(servers::plain_request(bucket.address(), "PUT", &target, "picture").unwrap());
    let url = format!("{}/twice/", bucket.url);
    let out = corpus.root.path().join("out").display().to_string();
    let output = corpus.encode(&mut reaching(&bucket), "folder", &url, &out, &[]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("twice/a//b.png") && text.contains("rename"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("error")).count(), 1, "{text}");
    // The marker of a folder, as consoles make it, is none.
    let marker = format!("/{}/marked/", bucket.url.trim_start_matches("s3://"));
    assert!(servers::plain_request(bucket.address(), "PUT", &marker, "").unwrap());
    upload(&*bucket.store, [("marked/a.png".to_owned(), common::png(1, 33, 34))].into()).await;
    let output = corpus.encode(&mut reaching(&bucket), "folder", &format!("{}/marked/", bucket.url), &out, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
}
