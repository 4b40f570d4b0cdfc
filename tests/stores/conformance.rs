//! What a store owes that is input and output: see [`conformance`].

use crate::common::{png, stderr, tar};
use crate::corpus::{Corpus, clean, download, latents_and_rejects, reaching, upload};
use crate::servers::Bucket;
use imagebart::datasets::{DatasetOptions, Folder, Listing, Location, Reader, Wanted, WebDataset, read_unit};
use imagebart::random::{Purpose, RowKey};
use imagebart::tables::OutputDir;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::process::Output;
use std::sync::Arc;

/// More than the pages that stores list in.
const MANY: usize = 1003;
/// More than a part of a multipart upload, and than a ranged GET of a reader.
const LARGE: usize = 20 << 20;

pub async fn conformance(bucket: &Bucket) {
    let corpus = Corpus::new();
    upload(&*bucket.store, corpus.files()).await;
    the_readers_see_the_same(bucket, &corpus).await;
    the_binary_makes_the_same_tables(bucket, &corpus).await;
    a_run_is_resumed(bucket, &corpus).await;
    large_files_go_up_in_parts(bucket, &corpus).await;
    more_than_a_page_is_listed(bucket).await;
}

/// The bucket as the library opens it.
fn location(bucket: &Bucket, pattern: &str) -> Location {
    Location {
        store: bucket.store.clone(),
        url: format!("{}/{pattern}", bucket.url),
        patterns: vec![pattern.to_owned()],
        lists: true,
        local: false,
        lasting_etags: true,
    }
}

async fn the_readers_see_the_same(bucket: &Bucket, corpus: &Corpus) {
    let local = corpus.local();
    let (there, options) = (corpus.below(""), DatasetOptions { unit_rows: 11, ..DatasetOptions::default() });
    let shards = |at| WebDataset::new(at, DatasetOptions::default());
    let folder = |at| Folder::new(at, options.clone());
    let pairs: [(Arc<dyn Reader>, Arc<dyn Reader>); 2] = [
        (
            Arc::new(shards(Location::open(&local.shards).await.unwrap())),
            Arc::new(shards(location(bucket, there.shards.trim_start_matches('/')))),
        ),
        (
            Arc::new(folder(Location::open(&local.folder).await.unwrap())),
            Arc::new(folder(location(bucket, there.folder.trim_start_matches('/')))),
        ),
    ];
    for (local, remote) in pairs {
        let (here, there) = (local.units().await.unwrap(), remote.units().await.unwrap());
        let bare = |units: &[imagebart::datasets::Unit]| -> Vec<_> {
            units.iter().map(|unit| (unit.name.clone(), unit.range.clone(), unit.sources[0].size)).collect()
        };
        assert_eq!(bare(&here), bare(&there), "{}: units", bucket.url);
        for (a, b) in here.iter().zip(&there) {
            let (a, b) = (read_unit(&*local, a).await.unwrap(), read_unit(&*remote, b).await.unwrap());
            assert_eq!(a, b, "{}: entries", bucket.url);
        }
    }
}

async fn the_binary_makes_the_same_tables(bucket: &Bucket, corpus: &Corpus) {
    let dataset = corpus.below(&bucket.url);
    for (format, more) in [("webdataset", vec![]), ("folder", vec!["dataset.unit_rows=11", "image.flip=both"])] {
        let out = format!("{}/out/{format}", bucket.url);
        let mut loud = reaching(bucket);
        loud.env("RUST_LOG", "trace").args(["--log-format", "json"]);
        let output = corpus.encode(&mut loud, format, dataset.of(format), &out, &more);
        assert!(output.status.success(), "{out}: {}", last_lines(&output));
        keeps_its_secrets(bucket, &output);
        let made = latents_and_rejects(download(&*bucket.store, &format!("out/{format}")).await);
        assert_eq!(made.keys().collect::<Vec<_>>(), corpus.expected(format, &more).keys().collect::<Vec<_>>());
        assert_eq!(made, corpus.expected(format, &more), "{out}: the bytes of the tables");

        let output = reaching(bucket).env("RUST_LOG", "trace").args(["verify", &out]).output().unwrap();
        assert!(output.status.success(), "{out}: {}", last_lines(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains("OK"));
        keeps_its_secrets(bucket, &output);

        let page = corpus.root.path().join("gallery.html");
        let mut gallery = reaching(bucket);
        gallery.args(["gallery", &out, "--to"]).arg(&page).env("RUST_LOG", "trace");
        let output = gallery.output().unwrap();
        assert!(output.status.success(), "{out}: {}", last_lines(&output));
        keeps_its_secrets(bucket, &output);
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains("<img") && !page.contains("cannot be read"), "{out}: the gallery shows the originals");
    }
}

/// The end of what a process said: traces are long.
fn last_lines(output: &Output) -> String {
    let text = stderr(output);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Nothing that opens the store leaves the process, however much it says.
pub fn keeps_its_secrets(bucket: &Bucket, output: &Output) {
    let said = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat();
    for secret in &bucket.secrets {
        assert!(!said.contains(secret), "{}: a secret was said", bucket.url);
    }
}

/// A run that lost a unit does that unit only, also when it is shared by three ranks.
async fn a_run_is_resumed(bucket: &Bucket, corpus: &Corpus) {
    let (dataset, out) = (corpus.below(&bucket.url), format!("{}/out/webdataset", bucket.url));
    let lost = Path::from("out/webdataset/latents/shard-0001.tar.parquet");
    bucket.store.delete(&lost).await.unwrap();
    let output = corpus.encode(&mut reaching(bucket), "webdataset", &dataset.shards, &out, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("2 of 3 units are done already"), "{}", stderr(&output));

    let out = format!("{}/out/ranks", bucket.url);
    for rank in ["0", "1", "2"] {
        let mut command = reaching(bucket);
        command.args(["--rank", rank, "--world", "3"]);
        let output = corpus.encode(&mut command, "webdataset", &dataset.shards, &out, &[]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let made = |name: &'static str| async move {
        let mut files = download(&*bucket.store, name).await;
        files.retain(|name, _| !name.starts_with("run"));
        files
    };
    // Of one process and of three: everything is the same but the facts of the runs.
    assert_eq!(made("out/ranks").await, made("out/webdataset").await);
}

/// Captions that do not compress make a table of several parts.
async fn large_files_go_up_in_parts(bucket: &Bucket, corpus: &Corpus) {
    let caption = |index: u64| -> Vec<u8> {
        let row = RowKey::new(3, "caption", index, 0);
        (0..LARGE as u32 / 20).map(|at| b'a' + row.below(Purpose::Init, at, 26) as u8).collect()
    };
    let members =
        |index: u64| [(format!("{index:03}.png"), png(index, 33, 34)), (format!("{index:03}.txt"), caption(index))];
    let shard = tar(&(0..20).flat_map(members).collect::<Vec<_>>());
    assert!(shard.len() >= LARGE);
    let local = corpus.root.path().join("large.tar");
    std::fs::write(&local, &shard).unwrap();
    let put = object_store::buffered::BufWriter::with_capacity(bucket.store.clone(), Path::from("large.tar"), 8 << 20);
    let mut put = put;
    put.put(shard.into()).await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut put).await.unwrap();

    let (url, out) = (format!("{}/large.tar", bucket.url), format!("{}/out/large", bucket.url));
    let output = corpus.encode(&mut reaching(bucket), "webdataset", &url, &out, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let here = tempfile::tempdir().unwrap();
    let (url, out) = (local.display().to_string(), here.path().display().to_string());
    let output = corpus.encode(&mut clean(), "webdataset", &url, &out, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let made = latents_and_rejects(download(&*bucket.store, "out/large").await);
    assert!(made["latents/large.tar.parquet"].len() > 9 << 20, "two parts or more");
    assert_eq!(made, latents_and_rejects(crate::common::tables(here.path())));
    if !bucket.url.starts_with("az:") {
        // S3 and Google tell by the entity tag.
        let meta = bucket.store.head(&Path::from("out/large/latents/large.tar.parquet")).await.unwrap();
        assert!(meta.e_tag.as_deref().is_some_and(|tag| tag.contains('-')), "{:?}", meta.e_tag);
    }
}

async fn more_than_a_page_is_listed(bucket: &Bucket) {
    let objects: BTreeMap<String, Vec<u8>> = (0..MANY).map(|n| (format!("many/{n:05}.png"), vec![1])).collect();
    upload(&*bucket.store, objects.clone()).await;
    let wanted = Wanted { what: "pictures", extensions: &[".png"] };
    let listing = Listing::find(&location(bucket, "many/"), &wanted).await.unwrap();
    let found: Vec<String> = listing.objects.iter().map(|object| format!("many/{}", object.path)).collect();
    assert_eq!(found, objects.into_keys().collect::<Vec<_>>(), "{}", bucket.url);

    // The output's listing says which units are done: it must not end with the first page either.
    let latents = (0..MANY).map(|n| (format!("done/latents/{n:05}.tar.parquet"), vec![1])).collect();
    upload(&*bucket.store, latents).await;
    let dir = OutputDir::new(bucket.store.clone(), Path::from("done"), None);
    assert_eq!(dir.done().await.unwrap().len(), MANY, "{}", bucket.url);
}
