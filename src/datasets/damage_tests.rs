//! Damaged containers, for every reader of one: nothing panics, every read ends, and what is reported is sound.

use super::*;
use crate::retry::Retries;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use std::sync::Arc;

/// The largest image that is taken: nothing larger may come out, however damaged the container.
const MAX_BYTES: u64 = 2000;

fn options() -> DatasetOptions {
    let retries = Retries { attempts: 1, ..Retries::default() };
    let read_ahead = ReadAhead { chunk: 512, parallel: 1, retries };
    DatasetOptions { max_bytes: MAX_BYTES, unit_rows: 3, read_ahead, ..DatasetOptions::default() }
}

/// Everything that a reader finds in one damaged file.
fn read(path: &str, bytes: Vec<u8>, reader: fn(Location) -> Arc<dyn Reader>) -> Result<Vec<Vec<Entry>>, DatasetError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        store.put(&Path::from(path), bytes.into()).await.unwrap();
        let index = MDS_INDEX.as_bytes().to_vec();
        store.put(&Path::from("d/index.json"), index.into()).await.unwrap();
        let reader = reader(Location::in_store(store, "d"));
        let mut units = Vec::new();
        for unit in reader.units().await? {
            units.push(read_unit(&*reader, &unit).await?);
        }
        Ok(units)
    })
}

/// Indices count up, and no image is larger than it may be. A file without an image column is refused as a whole.
fn check(result: Result<Vec<Vec<Entry>>, DatasetError>) {
    let units = match result {
        Ok(units) => units,
        Err(DatasetError::Config(_)) => return,
        Err(error) => panic!("{error}"),
    };
    for unit in units {
        for (at, entry) in (0u64..).zip(unit) {
            match entry {
                Entry::Sample(sample) => {
                    assert_eq!(sample.index, at);
                    assert!(sample.image.len() as u64 <= MAX_BYTES);
                }
                Entry::Reject(reject) => assert_eq!(reject.index, at),
            }
        }
    }
}

const MDS_INDEX: &str = r#"{"version": 2, "shards": [{"format": "mds", "column_names": ["image", "label", "name"],
    "column_encodings": ["pil", "int", "str"], "column_sizes": [null, 8, null], "compression": "zstd", "samples": 5,
    "raw_data": {"basename": "x.mds"}, "zip_data": {"basename": "x.mds.zstd"}}]}"#;

fn records() -> Vec<u8> {
    // Example { data: 3 bytes, shape: [3, 1, 1] }.
    let record =
        b"\x0a\x22\x0a\x0f\x0a\x04data\x12\x07\x0a\x05\x0a\x03abc\x0a\x0f\x0a\x05shape\x12\x06\x1a\x04\x08\x03\x08\x01";
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (record.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), record, &masked(record)].concat().repeat(5)
}

fn shard() -> Vec<u8> {
    // Pillow's raw pixels, 2x1 RGB; int64; str.
    let image = [&[2, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0][..], b"RGB", b"abcdef"].concat();
    let sample = [&[image.len() as u8, 0, 0, 0, 1, 0, 0, 0][..], &image, &[7, 0, 0, 0, 0, 0, 0, 0], b"n"].concat();
    let mut shard = 5u32.to_le_bytes().to_vec();
    for at in 0..=5 {
        shard.extend((28 + at * sample.len() as u32).to_le_bytes());
    }
    [shard, sample.repeat(5)].concat()
}

fn table() -> Vec<u8> {
    use ::arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch};
    use ::parquet::arrow::ArrowWriter;
    use ::parquet::basic::Compression;
    use ::parquet::file::properties::WriterProperties;
    let image: ArrayRef = Arc::new(BinaryArray::from_iter_values([&b"one"[..], &[7; 900], b"three", b"four", b"five"]));
    let label: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5));
    let batch = RecordBatch::try_from_iter([("image", image), ("label", label)]).unwrap();
    let properties =
        WriterProperties::builder().set_max_row_group_row_count(Some(2)).set_compression(Compression::SNAPPY);
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

type Change = (prop::sample::Index, u8);

fn damaged(mut bytes: Vec<u8>, changes: &[Change], cut: Option<prop::sample::Index>) -> Vec<u8> {
    for (at, value) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    let end = cut.map_or(bytes.len(), |cut| cut.index(bytes.len()));
    bytes.truncate(end);
    bytes
}

#[test]
fn undamaged_containers_are_read() {
    let samples = |units: Vec<Vec<Entry>>| units.concat().iter().filter(|e| matches!(e, Entry::Sample(_))).count();
    assert_eq!(samples(read("d/x.tfrecords", records(), tfrecord).unwrap()), 0, "two numbers are no shape");
    assert_eq!(samples(read("d/x.mds", shard(), mds).unwrap()), 5);
    assert_eq!(samples(read("d/x.mds.zstd", zstd::encode_all(&shard()[..], 1).unwrap(), mds).unwrap()), 5);
    assert_eq!(samples(read("d/x.parquet", table(), parquet).unwrap()), 5);
    assert_eq!(samples(read("d/x.tar", images("n01440764"), imagenet).unwrap()), 8);
    assert_eq!(samples(read("d/x.tar", synsets(), imagenet).unwrap()), 24);
}

fn tfrecord(location: Location) -> Arc<dyn Reader> {
    Arc::new(TfRecord::new(location, Records::RawPixels, options()))
}

fn mds(location: Location) -> Arc<dyn Reader> {
    Arc::new(Mds::new(location, options()))
}

fn parquet(location: Location) -> Arc<dyn Reader> {
    Arc::new(ParquetImages::new(location, Table::HuggingFace, options()))
}

fn zip(location: Location) -> Arc<dyn Reader> {
    Arc::new(StyleGanZip::new(location, options()))
}

fn archive() -> Vec<u8> {
    use ::zip::write::{SimpleFileOptions, ZipWriter};
    use std::io::Write;
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let labels = br#"{"labels": [["a.png", 1], ["b.png", 2], ["c.png", 3], ["d.png", 4]]}"#;
    for (name, body) in
        [("a.png", &b"one"[..]), ("c.png", &[3; 700]), ("b.png", b"two"), ("d.png", b"four"), ("dataset.json", labels)]
    {
        writer.start_file(name, SimpleFileOptions::default()).unwrap();
        writer.write_all(body).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn imagenet(location: Location) -> Arc<dyn Reader> {
    Arc::new(ImageNetTar::new(location, options()))
}

fn tar_of(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, body) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        builder.append_data(&mut header, name, &body[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Eight images of one synset.
fn images(wnid: &str) -> Vec<u8> {
    let image = |number: usize| (format!("{wnid}_{number}.JPEG"), vec![b'x'; number * 150]);
    tar_of(&(1..=8).map(image).collect::<Vec<_>>())
}

fn synsets() -> Vec<u8> {
    tar_of(&["n01440764", "n01443537", "n15075141"].map(|wnid| (format!("{wnid}.tar"), images(wnid))))
}

proptest! {
    #[test]
    fn damage_is_reported_and_passed_over(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        check(read("d/x.tfrecords", damaged(records(), &changes, cut), tfrecord));
        check(read("d/x.mds", damaged(shard(), &changes, cut), mds));
        check(read("d/x.mds.zstd", damaged(zstd::encode_all(&shard()[..], 1).unwrap(), &changes, cut), mds));
        check(read("d/x.zip", damaged(archive(), &changes, cut), zip));
        check(read("d/x.parquet", damaged(table(), &changes, cut), parquet));
    }

    #[test]
    fn damage_within_parts_of_archives_is_reported(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        check(read("d/x.tar", damaged(images("n01440764"), &changes, cut), imagenet));
        check(read("d/x.tar", damaged(synsets(), &changes, cut), imagenet));
    }

    #[test]
    fn noise_is_no_container(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(read("d/x.tfrecords", bytes.clone(), tfrecord));
        check(read("d/x.mds", bytes.clone(), mds));
        check(read("d/x.mds.zstd", bytes.clone(), mds));
        check(read("d/x.zip", bytes.clone(), zip));
        check(read("d/x.tar", bytes.clone(), imagenet));
        let footer = [&b"PAR1"[..], &bytes, &(bytes.len() as u32).to_le_bytes(), b"PAR1"].concat();
        check(read("d/x.parquet", footer, parquet));
        check(read("d/x.parquet", bytes, parquet));
    }
}
