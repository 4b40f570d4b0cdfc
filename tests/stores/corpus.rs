//! The small dataset of these tests: shards and loose files, and how they get into a store and out of it.

use crate::common::{self, folder, imagebart, stderr, webdataset};
use crate::servers::Bucket;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeMap;
use std::process::{Command, Output};

/// Uploads and downloads at a time.
const PARALLEL: usize = 32;

/// Three shards below `in/shards`, thirty pictures in two classes below `in/folder`, and what `encode` makes of them, on the
/// local disk.
pub struct Corpus {
    pub root: tempfile::TempDir,
}

impl Corpus {
    pub fn new() -> Corpus {
        let root = tempfile::tempdir().expect("a directory");
        webdataset(&root.path().join("in/shards"), 3, 4);
        folder(&root.path().join("in/folder"), 30);
        Corpus { root }
    }

    /// The corpus as it lies below a URL.
    pub fn below(&self, place: &str) -> Dataset {
        Dataset { shards: format!("{place}/in/shards/shard-{{0000..0002}}.tar"), folder: format!("{place}/in/folder/") }
    }

    /// The corpus on the local disk.
    pub fn local(&self) -> Dataset {
        self.below(&self.root.path().display().to_string())
    }

    /// All its files.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let files = common::tables(&self.root.path().join("in"));
        files.into_iter().map(|(name, bytes)| (format!("in/{name}"), bytes)).collect()
    }

    /// `encode` of `format` from `url` to `out`, with `more` settings.
    pub fn encode(&self, command: &mut Command, format: &str, url: &str, out: &str, more: &[&str]) -> Output {
        let file = common::pipeline(self.root.path(), format, url, "");
        command.arg("encode").arg(file).args(["--set", &format!("output.url={out}")]);
        let more = more.iter().flat_map(|setting| ["--set", setting]);
        command.args(more).output().expect("the binary starts")
    }

    /// The tables of an `encode` of `format` on the local disk.
    pub fn expected(&self, format: &str, more: &[&str]) -> BTreeMap<String, Vec<u8>> {
        let out = tempfile::tempdir().expect("a directory");
        let url = out.path().display().to_string();
        let output = self.encode(&mut clean(), format, self.local().of(format), &url, more);
        assert!(output.status.success(), "{}", stderr(&output));
        latents_and_rejects(common::tables(out.path()))
    }
}

/// Where the two forms of the corpus lie.
pub struct Dataset {
    pub shards: String,
    pub folder: String,
}

impl Dataset {
    pub fn of(&self, format: &str) -> &str {
        if format == "folder" { &self.folder } else { &self.shards }
    }
}

/// Without the manifest, which records entity tags where there are some.
pub fn latents_and_rejects(mut files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    files.retain(|name, _| name.starts_with("latents/") || name.starts_with("rejects/"));
    files
}

/// The binary with no way to a store, and no proxy, in its environment.
pub fn clean() -> Command {
    let mut command = imagebart();
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_ascii_uppercase();
        let of_stores = ["AWS_", "AZURE_", "AZURITE_", "GOOGLE_", "SERVICE_ACCOUNT"];
        if upper.ends_with("_PROXY") || of_stores.iter().any(|prefix| upper.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// The binary with the way to `bucket` in its environment.
pub fn reaching(bucket: &Bucket) -> Command {
    let mut command = clean();
    bucket.reach(&mut command);
    command
}

/// Puts objects into a store, many at a time.
pub async fn upload(store: &dyn ObjectStore, objects: BTreeMap<String, Vec<u8>>) {
    let put = |(name, bytes): (String, Vec<u8>)| async move {
        store.put(&Path::parse(name).expect("a path"), bytes.into()).await.map(drop)
    };
    let puts = futures::stream::iter(objects).map(put).buffer_unordered(PARALLEL);
    puts.try_collect::<Vec<()>>().await.expect("uploads");
}

/// The objects below `prefix`, by their paths from there.
pub async fn download(store: &dyn ObjectStore, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let listed = store.list(Some(&Path::parse(prefix).expect("a path"))).map_ok(|meta| meta.location);
    let get = |path: Path| async move {
        let bytes = store.get(&path).await?.bytes().await?;
        let name = path.as_ref().strip_prefix(prefix).unwrap_or_default().trim_start_matches('/').to_owned();
        Ok::<_, object_store::Error>((name, bytes.to_vec()))
    };
    listed.map_ok(get).try_buffer_unordered(PARALLEL).try_collect().await.expect("downloads")
}
