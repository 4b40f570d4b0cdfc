//! What the user got wrong is one clear sentence, before any work.

use crate::formats::tar_of;
use crate::stores::{Served, in_memory, on_disk};
use imagebart::datasets::{DatasetError, DatasetOptions, Folder, Format, Labels, Location, Reader, open};
use std::sync::Arc;

/// The sentence that opening and listing a dataset fails with.
pub async fn sentence(format: Format, url: &str, options: DatasetOptions) -> String {
    let result = async { open(format, url, options).await?.units().await };
    match result.await {
        Err(DatasetError::Config(sentence)) => sentence,
        other => panic!("{url} gave {other:?}"),
    }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let disk = on_disk(&[("d/notes.txt".into(), b"text".to_vec()), ("d/0.tar".into(), tar_of(&[]))]);
    let root = disk.path().display().to_string();
    let plain = DatasetOptions::default;
    let text = sentence(Format::WebDataset, &format!("{root}/none/*.tar"), plain()).await;
    assert_eq!(text, format!("no WebDataset shards at {root}/none/*.tar (looked for .tar, .tar.gz, .tgz)"));
    let text = sentence(Format::WebDataset, &format!("{root}/none.tar"), plain()).await;
    assert_eq!(text, format!("{root}/none.tar does not exist"));
    let text = sentence(Format::WebDataset, &format!("{root}/d/{{0..2}}.tar"), plain()).await;
    assert!(text.starts_with("2 of the 3 objects") && text.contains("d/1.tar"), "{text}");
    let text = sentence(Format::Folder, &format!("{root}/d"), plain()).await;
    assert!(text.contains("no images") && text.contains(".jpeg") && text.contains("2 other objects"), "{text}");
    let text = sentence(Format::Folder, "", plain()).await;
    assert!(text.contains("empty"), "{text}");
}

#[tokio::test]
async fn plain_http_cannot_list() {
    let served = Served::start(&[("d/0.tar".into(), tar_of(&[]))]).await;
    let text = sentence(Format::WebDataset, &format!("{}/d/*.tar", served.url()), DatasetOptions::default()).await;
    assert!(text.contains("cannot list") && text.contains("{0000..0123}"), "{text}");
    let text = sentence(Format::WebDataset, &format!("{}/d/1.tar", served.url()), DatasetOptions::default()).await;
    assert!(text.ends_with("/d/1.tar does not exist"), "{text}");
}

#[tokio::test]
async fn options_that_do_not_fit_are_refused() {
    let list = DatasetOptions { list: Some("list.txt".into()), ..DatasetOptions::default() };
    assert!(sentence(Format::WebDataset, "x.tar", list).await.contains("dataset.list"));
    let labels = DatasetOptions { labels: Labels::Directory, ..DatasetOptions::default() };
    assert!(sentence(Format::WebDataset, "x.tar", labels.clone()).await.contains("dataset.label"));
    let zero = DatasetOptions { unit_rows: 0, ..DatasetOptions::default() };
    assert!(sentence(Format::StyleGanZip, "x.zip", zero).await.contains("dataset.unit_rows"));
    let list = DatasetOptions { list: Some("list.txt".into()), ..DatasetOptions::default() };
    let text = sentence(Format::FfhqTfRecord, "x.tfrecords", list).await;
    assert!(text.contains("dataset.list works with format = \"folder\", \"imagenet-folder\""), "{text}");
    assert!("tfrecord".parse::<Format>().unwrap_err().to_string().contains("folder, webdataset"));
    let store = in_memory(&[("d/a/1.jpg".into(), vec![1]), ("d/2.jpg".into(), vec![1])]).await;
    let folder = Arc::new(Folder::new(Location::in_store(store.clone(), "d"), labels.clone()));
    let text = folder.units().await.unwrap_err().to_string();
    assert!(text.contains("2.jpg lies directly in"), "{text}");
    let few = DatasetOptions { classes: Some(0), ..labels };
    let text = Folder::new(Location::in_store(store, "d/a*"), few).units().await.unwrap_err().to_string();
    assert!(text.contains("dataset.classes = 0"), "{text}");
}

#[tokio::test]
async fn a_list_with_unknown_names_stops_the_run() {
    let disk = on_disk(&[("d/a.png".into(), vec![1]), ("list.txt".into(), b"a.png\nb.png\n".to_vec())]);
    let root = disk.path().display();
    let options = DatasetOptions { list: Some(format!("{root}/list.txt")), ..DatasetOptions::default() };
    let text = sentence(Format::Folder, &format!("{root}/d"), options).await;
    assert_eq!(text, format!("1 of the 2 names in {root}/list.txt are not in the folder: b.png"));
    let options = DatasetOptions { list: Some(format!("{root}/missing.txt")), ..DatasetOptions::default() };
    let text = sentence(Format::Folder, &format!("{root}/d"), options).await;
    assert!(text.ends_with("missing.txt does not exist"), "{text}");
}

#[tokio::test]
async fn tables_that_cannot_be_read_say_what_to_do() {
    let index = |columns: &str, rest: &str| {
        let shard = format!(r#""format": "mds", {columns}, "samples": 1, "raw_data": {{"basename": "0.mds"}}, {rest}"#);
        format!(r#"{{"version": 2, "shards": [{{{shard}}}]}}"#).into_bytes()
    };
    let columns = |label: &str| {
        format!(
            r#""column_names": ["image", "label"], "column_encodings": ["jpeg:90", "{label}"], "column_sizes": [null, null]"#
        )
    };
    let plain = r#""compression": null, "zip_data": null"#;
    let disk = on_disk(&[
        ("pickled/index.json".into(), index(&columns("pkl"), plain)),
        ("gone/index.json".into(), index(&columns("int"), plain)),
        ("packed/index.json".into(), index(&columns("int"), r#""compression": "br:9", "zip_data": null"#)),
        ("c/00000.parquet".into(), b"unfinished".to_vec()),
    ]);
    let root = disk.path().display().to_string();
    let said = |format: Format, directory: &str, labels: Labels| {
        let url = format!("{root}/{directory}");
        async move { sentence(format, &url, DatasetOptions { labels, ..DatasetOptions::default() }).await }
    };
    let text = said(Format::Mds, "pickled", Labels::Auto).await;
    assert!(text.contains("column label is pickled") && text.contains("dataset.labels = \"none\""), "{text}");
    // Nobody asks for the pickle: the next complaint is that the shard is missing.
    assert!(said(Format::Mds, "pickled", Labels::None).await.contains("0.mds that it names does not exist"));
    assert!(said(Format::Mds, "gone", Labels::Auto).await.contains("0.mds that it names does not exist"));
    assert!(said(Format::Mds, "packed", Labels::Auto).await.contains("compressed with br:9"));
    let text = said(Format::Img2datasetParquet, "c", Labels::Auto).await;
    assert!(text.contains("none of the 1 shards") && text.contains("_stats.json"), "{text}");
}

#[tokio::test]
async fn databases_that_are_not_there_say_what_to_do() {
    let disk = on_disk(&[
        ("locked_lmdb/lock.mdb".into(), vec![0; 100]),
        ("zips/cat.zip".into(), b"PK".to_vec()),
        ("a/data.mdb".into(), Vec::new()),
    ]);
    let root = disk.path().display().to_string();
    let said = |place: &str, options: DatasetOptions| {
        let url = format!("{root}/{place}");
        async move { sentence(Format::LsunLmdb, &url, options).await }
    };
    let text = said("locked_lmdb", DatasetOptions::default()).await;
    assert!(text.contains("has a lock.mdb, but no data.mdb"), "{text}");
    let text = said("zips", DatasetOptions::default()).await;
    assert!(text.contains("no LMDB databases at") && text.contains("1 other objects"), "{text}");
    let text = said("zips/cat.zip", DatasetOptions::default()).await;
    assert!(text.contains("unzip it"), "{text}");
    let few = DatasetOptions { labels: Labels::Directory, classes: Some(0), ..DatasetOptions::default() };
    let text = said("a", few).await;
    assert!(text.contains("1 databases, but dataset.classes = 0"), "{text}");
}

/// Whoever points at Conceptual Captions as it is published is told how to fetch its images, with the command that fits.
#[tokio::test]
async fn tables_of_captions_are_explained() {
    let cc3m = b"a cat .\thttp://host/1.jpg\n".repeat(5000);
    let cc12m = b"url\tcaption\nhttp://host/1.jpg\ta cat\n".to_vec();
    let objects = [
        ("three/Train_GCC-training.tsv".into(), cc3m),
        ("three/README.md".into(), b"captions".to_vec()),
        ("twelve/cc12m.TSV".into(), cc12m),
        ("other/notes.tsv".into(), b"size\tname\n".to_vec()),
        ("both/00000.tar".into(), tar_of(&[])),
        ("both/cc12m.tsv".into(), b"http://host/1.jpg\ta cat\n".to_vec()),
    ];
    let disk = on_disk(&objects);
    let root = disk.path().display().to_string();
    for (name, format) in Format::ALL {
        for url in ["three", "three/", "three/Train_GCC-training.tsv", "three/*.tar"] {
            let text = sentence(format, &format!("{root}/{url}"), DatasetOptions::default()).await;
            let command = format!(
                r"sed -i '1s/^/caption\turl\n/' {root}/three/Train_GCC-training.tsv && img2dataset --url_list "
            );
            assert!(text.contains("as CC3M is published") && text.contains(&command), "{name} {url}: {text}");
            assert!(text.contains("--url_col url --caption_col caption --output_format webdataset"), "{text}");
        }
    }
    let text = sentence(Format::WebDataset, &format!("{root}/twelve"), DatasetOptions::default()).await;
    assert!(text.contains("a table of URLs and captions, as CC12M is published"), "{text}");
    assert!(
        text.contains(&format!("instead: img2dataset --url_list {root}/twelve/cc12m.TSV ")),
        "no header is added: {text}"
    );
    let text = sentence(Format::WebDataset, &format!("{root}/other"), DatasetOptions::default()).await;
    assert!(text.starts_with("no WebDataset shards"), "{text}");
    // Beside shards a table says nothing.
    let reader = open(Format::WebDataset, &format!("{root}/both"), DatasetOptions::default()).await.unwrap();
    assert_eq!(reader.units().await.unwrap().len(), 1);
    // Elsewhere the file has to be fetched first: the command names it without the store.
    let served = Served::start(&objects).await;
    let url = format!("{}/three/Train_GCC-training.tsv", served.url());
    let text = sentence(Format::Folder, &url, DatasetOptions::default()).await;
    assert!(text.contains("img2dataset --url_list Train_GCC-training.tsv "), "{text}");
}
