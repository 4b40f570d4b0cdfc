//! Datasets of random images, in each format.

use super::Failure;
use super::lmdb_writer::{put, write};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// Mean size of ImageNet's images.
const IMAGE: usize = 110_000;
const SHARD: usize = 1000;

/// A format, and how a dataset of it is written.
pub struct Dataset {
    pub format: &'static str,
    /// What the reader is pointed at, below the folder.
    pub url: &'static str,
    pub write: fn(&Path, usize) -> Result<(), Failure>,
}

pub const DATASETS: &[Dataset] = &[
    Dataset { format: "webdataset", url: "", write: webdataset },
    Dataset { format: "hf-parquet", url: "", write: parquet },
    Dataset { format: "img2dataset-tfrecord", url: "", write: records },
    Dataset { format: "stylegan-zip", url: "x.zip", write: zip },
    Dataset { format: "mds", url: "", write: mds },
    Dataset { format: "imagenet-tar", url: "ILSVRC2012_img_train.tar", write: imagenet },
    Dataset { format: "folder", url: "", write: folder },
    Dataset { format: "lsun-lmdb", url: "bench_train_lmdb", write: lmdb },
];

/// Bytes that no compression shrinks and no two images share: xorshift.
fn image(number: usize) -> Vec<u8> {
    let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let size = IMAGE / 2 + (number * 7919) % IMAGE;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(size.div_ceil(8)).flatten().take(size).collect()
}

fn shards(images: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    (0..images).step_by(SHARD).enumerate().map(move |(shard, first)| (shard, first..images.min(first + SHARD)))
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    Ok(tar.append_data(&mut header, name, bytes)?)
}

fn webdataset(root: &Path, images: usize) -> Result<(), Failure> {
    for (shard, range) in shards(images) {
        let file = BufWriter::new(File::create(root.join(format!("{shard:05}.tar")))?);
        let mut tar = tar::Builder::new(file);
        for number in range {
            append(&mut tar, &format!("{number:09}.cls"), (number % 1000).to_string().as_bytes())?;
            append(&mut tar, &format!("{number:09}.jpg"), &image(number))?;
        }
        tar.into_inner()?.flush()?;
    }
    Ok(())
}

/// The tar of tars, of the first synsets.
fn imagenet(root: &Path, images: usize) -> Result<(), Failure> {
    let mut outer = tar::Builder::new(BufWriter::new(File::create(root.join("ILSVRC2012_img_train.tar"))?));
    for (wnid, (_, range)) in ["n01440764", "n01443537", "n01484850", "n01491361"].iter().zip(shards(images)) {
        let mut inner = tar::Builder::new(Vec::new());
        for number in range {
            append(&mut inner, &format!("{wnid}_{number}.JPEG"), &image(number))?;
        }
        append(&mut outer, &format!("{wnid}.tar"), &inner.into_inner()?)?;
    }
    outer.into_inner()?.flush()?;
    Ok(())
}

fn folder(root: &Path, images: usize) -> Result<(), Failure> {
    for (shard, range) in shards(images) {
        let folder = root.join(format!("{shard:05}"));
        std::fs::create_dir_all(&folder)?;
        for number in range {
            std::fs::write(folder.join(format!("{number:09}.jpg")), image(number))?;
        }
    }
    Ok(())
}

fn zip(root: &Path, images: usize) -> Result<(), Failure> {
    let mut zip = zip::ZipWriter::new(BufWriter::new(File::create(root.join("x.zip"))?));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for number in 0..images {
        zip.start_file(format!("{:05}/img{number:08}.png", number / 1000), stored)?;
        zip.write_all(&image(number))?;
    }
    zip.start_file("dataset.json", stored)?;
    zip.write_all(br#"{"labels": null}"#)?;
    zip.finish()?.flush()?;
    Ok(())
}

/// Image structs and labels in row groups of 100 rows, uncompressed, as `datasets` writes them.
fn parquet(root: &Path, images: usize) -> Result<(), Failure> {
    use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
    use arrow::datatypes::{DataType, Field};
    use parquet::file::properties::{EnabledStatistics, WriterProperties};
    for (shard, range) in shards(images) {
        let file = File::create(root.join(format!("train-{shard:05}-of-{:05}.parquet", images.div_ceil(SHARD))))?;
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(100))
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let mut writer = None;
        for first in range.clone().step_by(100) {
            let numbers: Vec<usize> = (first..range.end.min(first + 100)).collect();
            let bytes: Vec<Vec<u8>> = numbers.iter().map(|number| image(*number)).collect();
            let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(&bytes));
            let paths: ArrayRef = Arc::new(StringArray::from_iter_values(numbers.iter().map(|n| format!("{n}.jpg"))));
            let images: ArrayRef = Arc::new(StructArray::from(vec![
                (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
                (Arc::new(Field::new("path", DataType::Utf8, true)), paths),
            ]));
            let labels: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.iter().map(|n| (n % 1000) as i64)));
            let batch = RecordBatch::try_from_iter([("image", images), ("label", labels)])?;
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(parquet::arrow::ArrowWriter::try_new(
                    file.try_clone()?,
                    batch.schema(),
                    Some(properties.clone()),
                )?),
            };
            writer.write(&batch)?;
        }
        if let Some(writer) = writer {
            writer.close()?;
        }
    }
    Ok(())
}

/// A protobuf field of bytes.
fn field(number: u8, body: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = body.iter().map(|part| part.len()).sum::<usize>();
    while length > 0x7f {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    body.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

fn records(root: &Path, images: usize) -> Result<(), Failure> {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let feature = |name: &str, value: &[u8]| {
        field(1, &[&field(1, &[name.as_bytes()]), &field(2, &[&field(1, &[&field(1, &[value])])])])
    };
    for (shard, range) in shards(images) {
        let mut file = BufWriter::new(File::create(root.join(format!("{shard:05}.tfrecord")))?);
        std::fs::write(root.join(format!("{shard:05}_stats.json")), "{}")?;
        for number in range {
            let key = format!("{number:09}");
            let features = [feature("key", key.as_bytes()), feature("jpg", &image(number)), feature("txt", b"words")];
            let payload = field(1, &[&features.concat()]);
            let length = (payload.len() as u64).to_le_bytes();
            for part in [&length[..], &masked(&length), &payload, &masked(&payload)] {
                file.write_all(part)?;
            }
        }
        file.flush()?;
    }
    Ok(())
}

fn mds(root: &Path, images: usize) -> Result<(), Failure> {
    let mut entries = Vec::new();
    for (shard, range) in shards(images) {
        let name = format!("shard.{shard:05}.mds");
        let samples: Vec<Vec<u8>> = range
            .map(|number| {
                let image = image(number);
                [&(image.len() as u32).to_le_bytes()[..], &image, &((number % 1000) as u64).to_le_bytes()].concat()
            })
            .collect();
        let mut at = 4 + 4 * (samples.len() as u32 + 1);
        let mut shard = (samples.len() as u32).to_le_bytes().to_vec();
        shard.extend(at.to_le_bytes());
        for sample in &samples {
            at += sample.len() as u32;
            shard.extend(at.to_le_bytes());
        }
        shard.extend(samples.concat());
        entries.push(serde_json::json!({
            "format": "mds", "version": 2, "column_names": ["image", "label"], "column_encodings": ["jpeg", "int"],
            "column_sizes": [null, 8], "compression": null, "hashes": [], "samples": samples.len(), "size_limit": 1u64 << 30,
            "raw_data": {"basename": name, "bytes": shard.len(), "hashes": {}}, "zip_data": null,
        }));
        std::fs::write(root.join(&name), shard)?;
    }
    let index = serde_json::json!({"version": 2, "shards": entries});
    Ok(std::fs::write(root.join("index.json"), index.to_string())?)
}

/// Keys that are hashes, as LSUN's: in their order, which is the one to read in, the images lie all over the file.
fn lmdb(root: &Path, images: usize) -> Result<(), Failure> {
    let folder = root.join("bench_train_lmdb");
    std::fs::create_dir_all(&folder)?;
    let step = |number: usize| {
        let key: String =
            Sha256::digest(number.to_le_bytes()).iter().take(20).map(|byte| format!("{byte:02x}")).collect();
        put(key, image(number))
    };
    write(&folder, shards(images).map(|(_, range)| range.map(step).collect::<Vec<_>>()));
    Ok(std::fs::remove_file(folder.join("lock.mdb"))?)
}
