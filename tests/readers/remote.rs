//! The tests on the corpora once more, with the corpora on an S3 server.

use crate::corpora::corpora;
use crate::servers;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The corpora with a truth to compare with.
const CORPORA: [&str; 4] = ["imagenet-mini", "ffhq-mini", "lsun-mini", "cc-mini"];
/// The modules whose tests read the corpora through [`crate::corpora::samples`].
const MODULES: [&str; 6] = ["corpora::", "truth::", "ffhq::", "lsun::", "img2dataset::", "imagenet::"];
const PARALLEL: usize = 32;

/// This binary again, as a process whose environment names the server: whatever the table says of the local disk, it says of
/// `s3://` URLs, also of forms that are added to it later.
#[tokio::test]
async fn the_truth_holds_on_s3() {
    let Some(data) = corpora("the_truth_holds_on_s3") else { return };
    let bucket = match servers::s3() {
        Ok(bucket) => bucket,
        Err(why) => return crate::skip::skipped(format_args!("the_truth_holds_on_s3: {why}")),
    };
    for corpus in CORPORA {
        upload(&*bucket.store, &data, files(&data.join(corpus))).await;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(MODULES).env("IMAGEBART_CORPORA_URL", format!("{}/data", bucket.url));
    let output = bucket.reach(&mut command).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && !said.contains("skipped:"), "{said}");
    let passed = said.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok());
    assert!(passed.is_some_and(|passed: u32| passed >= 8), "{said}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Puts the files below `data/` where they lie in the corpora.
async fn upload(store: &dyn ObjectStore, root: &Path, files: Vec<PathBuf>) {
    let put = |file: PathBuf| async move {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap();
        let bytes = std::fs::read(&file).unwrap();
        store.put(&StorePath::parse(format!("data/{name}")).unwrap(), bytes.into()).await.map(drop)
    };
    futures::stream::iter(files).map(put).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await.unwrap();
}
