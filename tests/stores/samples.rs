//! Samples go into a bucket as they go to the disk, with their card; there an output stands for its pipeline file, too.

use crate::bucket;
use crate::common::{stderr, tables};
use crate::corpus::{clean, download, reaching};
use crate::servers;
use object_store::ObjectStoreExt;
use object_store::path::Path as StorePath;
use std::path::Path;
use std::process::{Command, Output};

fn run(mut command: Command, arguments: &[&str]) -> Output {
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    output
}

#[tokio::test]
async fn samples_and_their_card_are_the_same_in_a_bucket() {
    let Some(bucket) = bucket("samples_and_their_card_are_the_same_in_a_bucket", servers::s3()) else { return };
    let root = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shapes/model");
    let (prompts, file) = (root.path().join("captions.txt"), root.path().join("pipeline.toml"));
    std::fs::write(&prompts, "a large red circle above a small blue square\na small green cross\na blue circle\n")
        .unwrap();
    let text = format!(
        "[chain]\nmodel = \"{}\"\n[sample]\nprompts = \"{}\"\nunit_rows = 2\n[run]\nthreads = 1\n[card]\nlicence = \"cc0-1.0\"\n",
        model.display(),
        prompts.display()
    );
    std::fs::write(&file, text).unwrap();
    let (file, here, there) = (file.display().to_string(), root.path().join("out"), format!("{}/drawn", bucket.url));
    let (to_here, to_there) = (format!("output.url={}", here.display()), format!("output.url={there}"));
    run(clean(), &["sample", &file, "--set", &to_here]);
    run(reaching(&bucket), &["sample", &file, "--set", &to_there]);
    let facts = |name: &String| name.starts_with("run-");
    let mut found = download(&*bucket.store, "drawn").await;
    found.retain(|name, _| !facts(name));
    assert!(found == tables(&here), "{:?}", found.keys());
    let card = String::from_utf8(found["README.md"].clone()).unwrap();
    assert!(card.contains("license: cc0-1.0") && card.contains("| accepted by the run | 3 |"), "{card}");

    let again = root.path().join("again.png");
    let said = run(reaching(&bucket), &["sample", &there, "--key", "000000001-0", "--to", again.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("the same tokens and bytes as recorded"));
    let page = root.path().join("page.html");
    run(reaching(&bucket), &["gallery", &there, "--to", page.to_str().unwrap()]);
    assert!(std::fs::read_to_string(&page).unwrap().contains(&format!("\"output\":\"{there}\"")));

    // The user's own words stay.
    let path = StorePath::from("drawn/README.md");
    bucket.store.put(&path, format!("{card}Mine.\n").into()).await.unwrap();
    let said = run(reaching(&bucket), &["sample", &file, "--set", &to_there]);
    assert!(stderr(&said).contains("is left as it is"), "{}", stderr(&said));
    assert!(download(&*bucket.store, "drawn").await["README.md"].ends_with(b"Mine.\n"));
}
