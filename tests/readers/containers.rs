//! Small datasets in containers: TFRecord, MDS, zip and Parquet.

use crate::formats::{Fixture, lines, objects, options};
use imagebart::datasets::{Mds, ParquetImages, Records, StyleGanZip, Table, TfRecord};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::io::{Cursor, Write};
use std::sync::Arc;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A protobuf field of bytes.
fn field(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut length = body.len();
    let mut bytes = vec![tag << 3 | 2];
    while length > 0x7f {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    [&bytes, body].concat()
}

fn bytes_feature(value: &[u8]) -> Vec<u8> {
    field(1, &field(1, value))
}

/// Integers below 128, packed.
fn integers_feature(values: &[u8]) -> Vec<u8> {
    field(3, &field(1, values))
}

fn example(features: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entry = |(name, feature): &(&str, Vec<u8>)| field(1, &[field(1, name.as_bytes()), field(2, feature)].concat());
    field(1, &features.iter().flat_map(entry).collect::<Vec<u8>>())
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (payload.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), payload, &masked(payload)].concat()
}

/// Raw pixels of one row: `values` are the channels of each, one after the other.
fn raw(channels: u8, values: &[u8]) -> Vec<u8> {
    let width = values.len() as u8 / channels;
    framed(&example(&[("data", bytes_feature(values)), ("shape", integers_feature(&[channels, 1, width]))]))
}

/// The BMP of one row of RGB pixels, as the suite shows images.
fn shown(pixels: &[[u8; 3]]) -> String {
    let row: Vec<u8> = pixels.iter().flat_map(|[r, g, b]| [*b, *g, *r]).collect();
    let row = [&row[..], &[0; 3][..row.len().next_multiple_of(4) - row.len()]].concat();
    let mut file = b"BM".to_vec();
    for number in [54 + row.len() as u32, 0, 54, 40, pixels.len() as u32, 1, 24 << 16 | 1, 0, 0, 0, 0, 0, 0] {
        file.extend(number.to_le_bytes());
    }
    String::from_utf8_lossy(&[file, row].concat()).into_owned()
}

/// Records of one size, which are cut into units; and of several, which are not, the last one broken.
pub fn ffhq_records() -> Fixture {
    let same: Vec<u8> = (0..8u8).flat_map(|n| raw(3, &[n, 1, 2, 3, 4, 5])).collect();
    let mut mixed = [raw(1, &[7, 8, 9]), framed(&example(&[("shape", integers_feature(&[1, 1, 1]))]))].concat();
    mixed.extend(raw(3, &[1, 2, 3]));
    let mut bad = raw(3, &[4, 5, 6]);
    let crc = bad.len() - 1;
    bad[crc] ^= 1;
    mixed.extend(bad);
    mixed.extend(framed(&[1; 5_000_000]));
    mixed.extend(&raw(3, &[4, 5, 6])[..20]);
    let record = |n: u8| format!("a-r01.tfrecords|{n}|-|-|{}", shown(&[[n, 2, 4], [1, 3, 5]]));
    Fixture {
        name: "ffhq-tfrecord",
        objects: objects(vec![("t/a-r01.tfrecords", same), ("t/b.tfrecord", mixed)]),
        pattern: "t/",
        names_for_http: "t/{a-r01.tfrecords,b.tfrecord}",
        reader: |location| Arc::new(TfRecord::new(location, Records::RawPixels, options())),
        expected: vec![
            (0..3).map(record).collect(),
            (3..6).map(record).collect(),
            (6..8).map(record).collect(),
            vec![
                format!("b.tfrecord|0|-|-|{}", shown(&[[7; 3], [8; 3], [9; 3]])),
                "b.tfrecord|1|missing_field".to_owned(),
                format!("b.tfrecord|2|-|-|{}", shown(&[[1, 2, 3]])),
                "b.tfrecord|3|crc_mismatch".to_owned(),
                "b.tfrecord|4|too_large".to_owned(),
                "b.tfrecord||truncated".to_owned(),
            ],
        ],
    }
}

pub fn img2dataset_records() -> Fixture {
    let sample = |key: &str, image: &[u8], text: &[u8]| {
        let label = integers_feature(&[4]);
        framed(&example(&[
            ("key", bytes_feature(key.as_bytes())),
            ("webp", bytes_feature(image)),
            ("txt", bytes_feature(text)),
            ("label", label),
        ]))
    };
    let file = [sample("000", b"image a", b"a cat\n"), sample("002", b"", b"x"), sample("003", b"b", b"\xff")].concat();
    Fixture {
        name: "img2dataset-tfrecord",
        objects: objects(vec![
            ("c/00000.tfrecord", file),
            ("c/00000_stats.json", b"{}".to_vec()),
            ("c/other/00001.tfrecord", b"unfinished".to_vec()),
        ]),
        pattern: "c",
        names_for_http: "c/{00000,other/00001}.tfrecord",
        reader: |location| Arc::new(TfRecord::new(location, Records::Img2dataset, options())),
        expected: lines(&[&[
            "00000.tfrecord|000|4|a cat|image a",
            "00000.tfrecord|002|empty",
            "00000.tfrecord|003|bad_utf8_caption",
        ]]),
    }
}

fn mds_shard(samples: &[&[u8]]) -> Vec<u8> {
    let config = b"{}";
    let mut place = 4 * (samples.len() as u32 + 2) + config.len() as u32;
    let mut shard = (samples.len() as u32).to_le_bytes().to_vec();
    shard.extend(place.to_le_bytes());
    for sample in samples {
        place += sample.len() as u32;
        shard.extend(place.to_le_bytes());
    }
    shard.extend(config);
    samples.iter().for_each(|sample| shard.extend(*sample));
    shard
}

/// Columns: cls (uint8, fixed), image (bytes), text (str).
fn mds_sample(class: u8, image: &[u8], text: &[u8]) -> Vec<u8> {
    let size = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
    [&size(image)[..], &size(text), &[class], image, text].concat()
}

pub fn mds() -> Fixture {
    let long = [b'l'; 2000];
    let first = mds_shard(&[
        &mds_sample(1, b"image a", b"a cat"),
        &mds_sample(200, &long, b""),
        &mds_sample(3, &[0; 5001], b"big"),
        b"\x01\0\0\0\x01\0\0\0abcdef",
        &mds_sample(4, b"", b"empty"),
        &mds_sample(5, b"image b", b"\xff"),
        &mds_sample(6, b"image c", b"c"),
    ]);
    let second = mds_shard(&[&mds_sample(7, b"image d", b"d"), &mds_sample(8, &long, b"e")]);
    let packed = zstd::encode_all(&second[..], 3).unwrap();
    let third = mds_shard(&[&mds_sample(9, b"image f", b"f"), &mds_sample(9, b"image g", b"g")]);
    let third = third[..third.len() - 3].to_vec();
    let shard = |name: &str, samples: u32, compression: &str, zip: &str| {
        format!(
            r#"{{"format": "mds", "column_names": ["cls", "image", "text"], "column_encodings": ["uint8", "bytes", "str"],
            "column_sizes": [1, null, null], "compression": {compression}, "hashes": [], "samples": {samples}, "size_limit": 1,
            "version": 2, "raw_data": {{"basename": "{name}", "bytes": 1, "hashes": {{}}}}, "zip_data": {zip}}}"#
        )
    };
    let zip = r#"{"basename": "1.mds.zstd", "bytes": 1, "hashes": {}}"#;
    let shards =
        [shard("0.mds", 7, "null", "null"), shard("1.mds", 2, "\"zstd:3\"", zip), shard("2.mds", 2, "null", "null")];
    let index = format!(r#"{{"version": 2, "shards": [{}]}}"#, shards.join(", "));
    let long = "l".repeat(2000);
    let entries = [
        format!("train/0.mds|0|1|a cat|image a\ntrain/0.mds|1|200||{long}\ntrain/0.mds|2|too_large"),
        "train/0.mds|3|decode_error\ntrain/0.mds|4|empty\ntrain/0.mds|5|bad_utf8_caption\ntrain/0.mds|6|6|c|image c"
            .into(),
        format!("train/1.mds.zstd|0|7|d|image d\ntrain/1.mds.zstd|1|8|e|{long}"),
        "train/2.mds|0|9|f|image f\ntrain/2.mds||truncated".to_owned(),
    ];
    let of = |parts: &[String]| parts.iter().flat_map(|part| part.lines().map(str::to_owned)).collect();
    Fixture {
        name: "mds",
        objects: objects(vec![
            ("m/train/0.mds", first),
            ("m/train/1.mds.zstd", packed),
            ("m/train/2.mds", third),
            ("m/train/index.json", index.into_bytes()),
            ("m/val/index.json", br#"{"version": 2, "shards": []}"#.to_vec()),
        ]),
        pattern: "m",
        names_for_http: "m/{train,val}/index.json",
        reader: |location| Arc::new(Mds::new(location, options())),
        expected: vec![of(&entries[..2]), of(&entries[2..3]), of(&entries[3..])],
    }
}

fn zip_of(entries: &[(&str, &[u8])], method: CompressionMethod, large: bool) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, body) in entries {
        let options = SimpleFileOptions::default().compression_method(method).large_file(large);
        writer.start_file(*name, options).unwrap();
        writer.write_all(body).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub fn zips() -> Fixture {
    let labels = br#"{"labels": [["00/a.png", 3], ["00/c.png", [0.5, 1]], ["b.JPG", 0]]}"#;
    let entries: [(&str, &[u8]); 8] = [
        ("b.JPG", b"image b"),
        ("00/a.png", &[b'a'; 1500]),
        ("00/", b""),
        ("00/c.png", b"image c"),
        ("00/d.png", &[0; 5001]),
        ("00/e.png", b""),
        ("notes.txt", b"no image"),
        ("dataset.json", labels),
    ];
    let unlabelled: [(&str, &[u8]); 2] = [("../x.png", b"x"), ("y.png", b"image y")];
    let cut = zip_of(&unlabelled, CompressionMethod::Stored, false);
    let a = format!("a.zip|00/a.png|3|-|{}", "a".repeat(1500));
    Fixture {
        name: "stylegan-zip",
        objects: objects(vec![
            ("z/a.zip", zip_of(&entries, CompressionMethod::Stored, true)),
            ("z/b.zip", zip_of(&unlabelled, CompressionMethod::Deflated, false)),
            ("z/c.zip", cut[..cut.len() - 30].to_vec()),
        ]),
        pattern: "z",
        names_for_http: "z/{a..c}.zip",
        reader: |location| Arc::new(StyleGanZip::new(location, options())),
        expected: lines(&[
            &[&a, "a.zip|00/c.png|bad_label", "a.zip|00/d.png|too_large"],
            &["a.zip|00/e.png|empty", "a.zip|b.JPG|0|-|image b"],
            &["b.zip|../x.png|unsafe_path", "b.zip|y.png|-|-|image y"],
            &["c.zip||truncated"],
        ]),
    }
}

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields};

/// A table of row groups of two rows, its columns uncompressed.
fn table(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let batch = batch.unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn images(list: &[Option<&[u8]>]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter(list.iter().copied()))
}

pub fn hf_table() -> Fixture {
    let long = [b'l'; 3000];
    let bytes =
        images(&[Some(b"image a"), Some(&long), None, Some(b""), Some(b"image e"), Some(b"image f"), Some(b"g")]);
    let path: ArrayRef =
        Arc::new(StringArray::from(vec![Some("a.jpg"), None, Some("c.jpg"), None, Some("e.jpg"), Some("f.jpg"), None]));
    let fields: Fields =
        vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)].into();
    let image: ArrayRef = Arc::new(StructArray::new(fields, vec![bytes, path], None));
    let label: ArrayRef =
        Arc::new(Int64Array::from(vec![Some(5), Some(-1), Some(0), Some(0), None, Some(-2), Some(7)]));
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a cat"), None, None, None, None, None, Some("g")]));
    Fixture {
        name: "hf-parquet",
        objects: objects(vec![
            ("h/data/train-0.parquet", table(vec![("image", image), ("label", label), ("text", text)])),
            ("h/data/train-1.parquet", b"PAR1 and no more".to_vec()),
        ]),
        pattern: "h/data/train-*",
        names_for_http: "h/data/train-{0,1}.parquet",
        reader: |location| Arc::new(ParquetImages::new(location, Table::HuggingFace, options())),
        expected: lines(&[
            &[
                "train-0.parquet|a.jpg|5|a cat|image a",
                &format!("train-0.parquet|1|-|-|{}", "l".repeat(3000)),
                "train-0.parquet|c.jpg|missing_field",
                "train-0.parquet|3|empty",
            ],
            &["train-0.parquet|e.jpg|bad_label", "train-0.parquet|f.jpg|bad_label", "train-0.parquet|6|7|g|g"],
            &["train-1.parquet||truncated"],
        ]),
    }
}

pub fn img2dataset_table() -> Fixture {
    let text = |list: [&str; 4]| -> ArrayRef { Arc::new(StringArray::from(list.to_vec())) };
    let file = table(vec![
        ("caption", text(["a cat", "gone", "a dog", "lost"])),
        ("key", text(["0000", "0001", "0002", "0003"])),
        ("status", text(["success", "failed_to_download", "success", "success"])),
        ("jpg", images(&[Some(b"image a"), None, Some(&[b'b'; 1000]), None])),
    ]);
    Fixture {
        name: "img2dataset-parquet",
        objects: objects(vec![
            ("p/00000.parquet", file),
            ("p/00000_stats.json", b"{}".to_vec()),
            ("p/other/00001.parquet", b"unfinished".to_vec()),
        ]),
        pattern: "p",
        names_for_http: "p/{00000,other/00001}.parquet",
        reader: |location| Arc::new(ParquetImages::new(location, Table::Img2dataset, options())),
        expected: lines(&[&[
            "00000.parquet|0000|-|a cat|image a",
            &format!("00000.parquet|0002|-|a dog|{}", "b".repeat(1000)),
            "00000.parquet|0003|missing_field",
        ]]),
    }
}
