//! img2dataset's outputs: which shards count, and that every form of cc-mini gives what img2dataset says it wrote.

use crate::corpora::{corpora, samples};
use crate::formats::{objects, tar_of};
use crate::stores::{Served, in_memory, on_disk};
use arrow::array::{Array, AsArray};
use arrow::datatypes::Int32Type;
use imagebart::datasets::{
    Captions, DatasetOptions, Entry, Folder, Format, Location, Output, Reader, Sample, WebDataset, open, read_unit,
};
use imagebart::imaging::{Crop, CropMode, Flip, Limits, Preprocess, Resize, Trim, decode};
use imagebart::random::RowKey;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The sources of all samples, and what is passed over as unfinished.
async fn listed(reader: &dyn Reader) -> (Vec<String>, Vec<String>) {
    let mut keys = Vec::new();
    for unit in reader.units().await.unwrap() {
        for entry in read_unit(reader, &unit).await.unwrap() {
            let Entry::Sample(sample) = entry else { panic!("{entry:?}") };
            keys.push(format!("{}: {}", sample.source, sample.key));
        }
    }
    (keys, reader.unfinished().await.unwrap())
}

/// A finished shard, one without statistics, notes of a killed run; and beside them shards that nobody's statistics speak of.
fn shards() -> Vec<(String, Vec<u8>)> {
    let shard = |key: &str| tar_of(&[(&format!("{key}.jpg"), b"image")]);
    objects(vec![
        ("cc/00000.tar", shard("0")),
        ("cc/00000_stats.json", b"{}".to_vec()),
        ("cc/00000.parquet", b"table".to_vec()),
        ("cc/00001.tar", b"half".to_vec()),
        ("cc/00001.parquet", b"table".to_vec()),
        ("cc/_tmp/00002.tar", b"notes".to_vec()),
        ("cc/mine-0.tar", shard("m")),
        ("plain/00000.tar", shard("p")),
        ("plain/00001.tar", shard("q")),
        ("plain/_tmp/00002.tar", shard("r")),
    ])
}

fn webdataset(location: Location) -> WebDataset {
    WebDataset::new(location, DatasetOptions::default())
}

#[tokio::test]
async fn unfinished_tar_shards_are_passed_over() {
    let all = shards();
    let memory = in_memory(&all).await;
    let disk = on_disk(&all);
    let served = Served::start(&all).await;
    let cc = (vec!["00000.tar: 0".to_owned()], vec!["00001.tar".to_owned()]);
    for pattern in ["cc/0*.tar", "cc/{00000,00001}.tar"] {
        assert_eq!(listed(&webdataset(Location::in_store(memory.clone(), pattern))).await, cc, "{pattern}");
        let url = format!("{}/{pattern}", disk.path().display());
        assert_eq!(listed(&webdataset(Location::open(&url).await.unwrap())).await, cc, "{url}");
    }
    let url = format!("{}/cc/{{00000,00001}}.tar", served.url());
    assert_eq!(listed(&webdataset(Location::open(&url).await.unwrap())).await, cc, "{url}");
    // Shards of other names are somebody else's; a run's notes are nobody's.
    let (keys, unfinished) = listed(&webdataset(Location::in_store(memory.clone(), "cc"))).await;
    assert_eq!((keys, unfinished), (vec!["00000.tar: 0".into(), "mine-0.tar: m".into()], vec!["00001.tar".into()]));
    // Without any statistics, all shards of a directory are read.
    for pattern in ["plain", "plain/{00000,00001}.tar"] {
        let (keys, unfinished) = listed(&webdataset(Location::in_store(memory.clone(), pattern))).await;
        assert!(keys.len() >= 2 && unfinished.is_empty(), "{pattern}: {keys:?}");
    }
    // A directory's statistics say nothing of another one.
    let (keys, unfinished) = listed(&webdataset(Location::in_store(memory, ""))).await;
    assert_eq!(unfinished, ["cc/00001.tar"]);
    assert_eq!(keys.len(), 5, "{keys:?}");
}

#[tokio::test]
async fn unfinished_directories_are_passed_over() {
    let all = objects(vec![
        ("cc/00000/000.jpg", b"image".to_vec()),
        ("cc/00000_stats.json", b"{}".to_vec()),
        ("cc/00001/100.jpg", b"image".to_vec()),
        ("cc/_tmp/00002/200.jpg", b"image".to_vec()),
        ("cc/more/a.jpg", b"image".to_vec()),
        // FFHQ has directories of digits, too.
        ("ffhq/00000/00000.png", b"image".to_vec()),
        ("ffhq/01000/01000.png", b"image".to_vec()),
    ]);
    let memory = in_memory(&all).await;
    let served = Served::start(&all).await;
    let folder = |location| Folder::new(location, DatasetOptions::default());
    let in_memory = |pattern: &str| folder(Location::in_store(memory.clone(), pattern));
    let (keys, unfinished) = listed(&in_memory("cc")).await;
    assert_eq!(keys, ["00000/000.jpg: 00000/000.jpg", "more/a.jpg: more/a.jpg"]);
    assert_eq!(unfinished, ["00001"]);
    let (keys, unfinished) = listed(&in_memory("cc/{00000..00001}")).await;
    assert_eq!((keys.len(), unfinished), (1, vec!["00001".to_owned()]));
    let url = format!("{}/cc/{{00000/000,00001/100}}.jpg", served.url());
    let (keys, unfinished) = listed(&folder(Location::open(&url).await.unwrap())).await;
    assert_eq!((keys.len(), unfinished), (1, vec!["00001".to_owned()]));
    assert_eq!(listed(&in_memory("ffhq")).await.0.len(), 2);
    assert_eq!(listed(&in_memory("ffhq/{00000,01000}")).await.0.len(), 2);
}

/// A row of the table that img2dataset writes beside every shard.
#[derive(Debug)]
struct Row {
    key: String,
    caption: String,
    url: String,
    status: String,
    size: (i32, i32),
    original: (i32, i32),
}

/// The rows of `NNNNN.parquet` in a directory.
fn tables(directory: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "parquet"));
    files.sort();
    for file in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(file).unwrap()).unwrap();
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let text = |name: &str, row: usize| {
                let column = batch.column_by_name(name).unwrap().as_string::<i32>();
                if column.is_valid(row) { column.value(row).to_owned() } else { String::new() }
            };
            let number = |name: &str, row: usize| {
                let column = batch.column_by_name(name).unwrap().as_primitive::<Int32Type>();
                if column.is_valid(row) { column.value(row) } else { 0 }
            };
            rows.extend((0..batch.num_rows()).map(|row| Row {
                key: text("key", row),
                caption: text("caption", row),
                url: text("url", row),
                status: text("status", row),
                size: (number("width", row), number("height", row)),
                original: (number("original_width", row), number("original_height", row)),
            }));
        }
    }
    rows
}

const FORMS: [(&str, Format); 4] = [
    ("webdataset", Format::WebDataset),
    ("parquet", Format::Img2datasetParquet),
    ("files", Format::Folder),
    ("tfrecord", Format::Img2datasetTfRecord),
];

/// img2dataset's key: in folders the name of the file.
fn key(sample: &Sample) -> &str {
    let name = sample.key.rsplit('/').next().unwrap_or_default();
    name.split('.').next().unwrap_or_default()
}

#[tokio::test]
async fn every_form_gives_its_successes_with_their_captions() {
    let Some(data) = corpora("every_form_gives_its_successes_with_their_captions") else { return };
    let tsv = std::fs::read_to_string(data.join("cc-mini/Train_GCC-training.tsv")).unwrap();
    let published: BTreeSet<(&str, &str)> = tsv.lines().filter_map(|line| line.split_once('\t')).collect();
    assert!(published.len() > 60, "the table was read");
    for (directory, format) in FORMS {
        let root = data.join("cc-mini").join(directory);
        let url = root.display().to_string();
        let options = DatasetOptions { original_sizes: true, ..DatasetOptions::default() };
        let found = samples(format, &url, options).await;
        let by_url = DatasetOptions { captions: Captions::Json("url".into()), ..DatasetOptions::default() };
        let urls: BTreeMap<String, String> = samples(format, &url, by_url)
            .await
            .iter()
            .map(|s| (key(s).to_owned(), s.caption.clone().unwrap()))
            .collect();
        let rows = tables(&root);
        let successes: BTreeMap<&str, &Row> =
            rows.iter().filter(|row| row.status == "success").map(|row| (row.key.as_str(), row)).collect();
        assert!(!successes.is_empty() && successes.len() < rows.len(), "{directory}: some rows failed");
        assert_eq!(found.iter().map(key).collect::<BTreeSet<_>>(), successes.keys().copied().collect(), "{directory}");
        assert_eq!(found.len(), successes.len(), "{directory}");
        for sample in &found {
            let row = successes[key(sample)];
            assert_eq!(sample.caption.as_deref(), Some(row.caption.as_str()), "{directory} {row:?}");
            assert!(published.contains(&(row.caption.as_str(), row.url.as_str())), "{directory} {row:?}");
            assert_eq!(urls[key(sample)], row.url, "{directory}");
            let image = decode(&sample.image, &Limits::default()).unwrap();
            assert_eq!((image.width as i32, image.height as i32), row.size, "{directory} {row:?}");
            let original = sample.original.map(|(width, height)| (width as i32, height as i32));
            assert_eq!(original, Some(row.original), "{directory} {row:?}");
        }
    }
}

/// Rows without an image are neither samples nor rejects: they are counted by img2dataset's status.
#[tokio::test]
async fn failed_rows_are_counted_apart() {
    let Some(data) = corpora("failed_rows_are_counted_apart") else { return };
    let root = data.join("cc-mini/parquet");
    let mut expected = BTreeMap::<String, u64>::new();
    for row in tables(&root).into_iter().filter(|row| row.status != "success") {
        *expected.entry(row.status).or_default() += 1;
    }
    assert!(expected.len() > 1, "{expected:?}");
    let reader =
        open(Format::Img2datasetParquet, &root.display().to_string(), DatasetOptions::default()).await.unwrap();
    let (out, entries) = Output::channel(1000);
    for unit in reader.units().await.unwrap() {
        reader.read(&unit, &out).await.unwrap();
    }
    assert_eq!(out.not_downloaded().counts(), expected);
    drop(out);
    while let Ok(entry) = entries.recv().await {
        assert!(matches!(entry, Entry::Sample(_)), "{entry:?}");
    }
}

/// Without re-encoding img2dataset stores whatever it was served: HTML pages are found by their bytes.
#[tokio::test]
async fn pages_stored_as_images_are_found_by_their_bytes() {
    let Some(data) = corpora("pages_stored_as_images_are_found_by_their_bytes") else { return };
    let url = data.join("cc-mini/webdataset-noresize").display().to_string();
    let options = DatasetOptions { original_sizes: true, ..DatasetOptions::default() };
    let found = samples(Format::WebDataset, &url, options).await;
    let broken: Vec<_> = found.iter().filter_map(|sample| decode(&sample.image, &Limits::default()).err()).collect();
    assert!(!broken.is_empty() && broken.len() < found.len());
    assert!(broken.iter().all(|error| ["not_an_image", "empty"].contains(&error.reason().code())), "{broken:?}");
}

fn prepared(sample: &Sample, trim: Trim, original: Option<(u32, u32)>) -> Crop {
    let (resize, crop, limits) = (Resize::PillowBicubic, CropMode::Center, Limits::default());
    let preprocess = Preprocess { size: 64, resize, crop, crops: 1, flip: Flip::None, trim, limits };
    preprocess.prepare_padded(&sample.image, original, |_| RowKey::new(0, "cc", 0, 0)).unwrap().remove(0)
}

/// The bars that img2dataset pads with go: exactly where the original size is known, nearly where it is not; and images that
/// were cropped instead stay whole.
#[tokio::test]
async fn white_bars_go_from_padded_images() {
    let Some(data) = corpora("white_bars_go_from_padded_images") else { return };
    let options = DatasetOptions { original_sizes: true, ..DatasetOptions::default() };
    for (directory, format, padded) in [("webdataset", Format::WebDataset, true), ("files", Format::Folder, false)] {
        let url = data.join("cc-mini").join(directory).display().to_string();
        let found = samples(format, &url, options.clone()).await;
        let mut differ = Vec::new();
        for sample in &found {
            let (width, height) = sample.original.unwrap();
            let image = decode(&sample.image, &Limits::default()).unwrap();
            let scaled = f64::from(width.min(height)) * (f64::from(image.width) / f64::from(width.max(height)));
            let shorter = if padded { scaled.round_ties_even() as u32 } else { image.width };
            let known = prepared(sample, Trim::WhiteBorder, sample.original);
            assert_eq!(known.rect.size, shorter, "{directory} {}", sample.key);
            assert_eq!(known.original, (image.width, image.height));
            assert_eq!(prepared(sample, Trim::None, sample.original).rect.size, image.width);
            let seen = prepared(sample, Trim::WhiteBorder, None).rect.size;
            if seen != shorter {
                differ.push(format!("{}: {seen} of {shorter}", sample.key));
            }
        }
        println!("{directory}: without the original sizes {} of {} differ: {differ:?}", differ.len(), found.len());
        assert!(10 * differ.len() <= found.len(), "{directory}: {differ:?}");
        // Where it is wrong, a picture with white edges lost some of them; bars are not left.
        assert!(!padded || found.len() > 50);
    }
}
