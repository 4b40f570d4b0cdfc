//! Bits per token on disk, and MB/s to write and read: ours against plain + zstd and byte-stream-split + zstd, in one run.
//!
//! `cargo bench --bench latents`. MB are of tokens as u16, 512 bytes a row; keys, crops and the rest of a row go along.

use arrow::array::{Array, AsArray, RecordBatch};
use bytes::Bytes;
use futures::TryStreamExt;
use imagebart::random::{Purpose, RowKey};
use imagebart::tables::{
    CropRect, FORMAT_VERSION, Identity, LatentRow, LatentsWriter, Layout, Preprocessing, Provenance, RowsWriter,
    Selection, read_latents,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

const TOKENS: usize = 256;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    println!(
        "tokens   K     rows  layout             bits/token  bound    plain+zstd  bss+zstd  write MB/s  read MB/s  (plain: write read)"
    );
    let mut over = 0;
    for (name, zipf) in [("uniform", false), ("zipf", true)] {
        for codes in [256, 548, 973, 1014, 1024, 4096, 16384] {
            for rows in [1000, 5000, 20000] {
                over += u32::from(!measure(name, zipf, codes, rows).await?);
            }
        }
    }
    println!("cases of 5 000 rows and more above log2 K + 0.05 bits: {over}");
    Ok(())
}

/// Prints one line; whether the case keeps its bound.
async fn measure(name: &str, zipf: bool, codes: u32, rows: usize) -> Result<bool, Failure> {
    let grids = grids(zipf, codes, rows);
    let megabytes = (rows * TOKENS * 2) as f64 / 1e6;

    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let path = Path::from("unit.parquet");
    let (mut write, mut read) = (f64::MAX, f64::MAX);
    let mut batches = Vec::new();
    for _ in 0..3 {
        let latents = latents(&grids);
        let start = Instant::now();
        let mut writer =
            LatentsWriter::create(store.clone(), path.clone(), &"unit".into(), Arc::new(provenance(codes)))?;
        for row in latents {
            writer.push(row).await?;
        }
        writer.finish(0).await?;
        write = write.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        batches = read_latents(store.clone(), &path).await?.batches(1024)?.try_collect().await?;
        read = read.min(start.elapsed().as_secs_f64());
    }
    let ours = bits(&store.get(&path).await?.bytes().await?, rows)?;

    let plain = reference(&batches, None)?;
    let split = reference(&batches, Some(Encoding::BYTE_STREAM_SPLIT))?;
    let plain_bits = bits(&plain.0, rows)?;
    let split_bits = bits(&split.0, rows)?;
    let bound = f64::from(codes).log2().ceil() + 0.05;
    let layout = Layout::choose(codes, TOKENS, rows);
    let kept = rows < 5000 || ours <= bound;
    println!(
        "{name:8} {codes:<5} {rows:<5} {layout:<18} {ours:10.4}  {bound:5.2}{}  {plain_bits:6.2} {:4.2}x  {split_bits:8.4}  \
         {:10.0}  {:9.0}  ({:.0} {:.0})",
        if kept { " " } else { "!" },
        plain_bits / ours,
        megabytes / write,
        megabytes / read,
        megabytes / plain.1,
        megabytes / plain.2,
        layout = format!("{layout:?}"),
    );
    Ok(kept)
}

/// Token grids `[rows, TOKENS]`: uniform, or by Zipf's law over a shuffled codebook.
fn grids(zipf: bool, codes: u32, rows: usize) -> Vec<Vec<u16>> {
    let mut cumulative = Vec::new();
    let mut total = 0.0;
    for rank in 1..=codes {
        total += 1.0 / f64::from(rank);
        cumulative.push(total);
    }
    let draw = |key: &RowKey, position: usize| {
        if !zipf {
            return key.below(Purpose::Init, position as u32, codes) as u16;
        }
        let place = f64::from(key.uniform(Purpose::Init, position as u32)) * total;
        let rank = cumulative.partition_point(|&sum| sum < place) as u64;
        // An odd multiplier coprime to every K of the bench spreads the frequent entries over the codebook.
        ((rank * 5003) % u64::from(codes)) as u16
    };
    (0..rows)
        .map(|row| {
            let key = RowKey::new(1, "bench", row as u64, 0);
            (0..TOKENS).map(|position| draw(&key, position)).collect()
        })
        .collect()
}

fn latents(grids: &[Vec<u16>]) -> Vec<LatentRow> {
    let row = |(index, tokens): (usize, &Vec<u16>)| LatentRow {
        key: format!("train/{index:08}"),
        source: "train/0001.tar".to_owned(),
        index: index as u64,
        label: Some(index as i32 % 1000),
        caption: None,
        width: 500,
        height: 375,
        crop: CropRect { x: 62, y: 0, size: 375 },
        flipped: false,
        tokens: tokens.clone(),
    };
    grids.iter().enumerate().map(row).collect()
}

/// The same rows with the token column in another encoding: the file, and seconds to write and to read it.
fn reference(batches: &[RecordBatch], encoding: Option<Encoding>) -> Result<(Bytes, f64, f64), Failure> {
    let column = ColumnPath::new(["tokens", "list", "element"].map(str::to_owned).to_vec());
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_dictionary_enabled(column.clone(), false)
        .set_column_encoding(column, encoding.unwrap_or(Encoding::PLAIN))
        .build();
    let start = Instant::now();
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    let file = Bytes::from(writer.into_inner()?);
    let write = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut rows = 0;
    for batch in ParquetRecordBatchReaderBuilder::try_new(file.clone())?.with_batch_size(1024).build()? {
        rows += batch?.column_by_name("tokens").map_or(0, |tokens| tokens.as_fixed_size_list().len());
    }
    assert_eq!(rows, batches.iter().map(RecordBatch::num_rows).sum::<usize>());
    Ok((file, write, start.elapsed().as_secs_f64()))
}

/// Bits per token of the token column as it lies in the file: pages, dictionaries, levels and page headers.
fn bits(file: &Bytes, rows: usize) -> Result<f64, Failure> {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(file)?;
    let mut bytes = 0;
    for group in metadata.row_groups() {
        for column in group.columns().iter().filter(|column| column.column_path().string().starts_with("tokens")) {
            bytes += column.compressed_size();
        }
    }
    Ok(bytes as f64 * 8.0 / (rows * TOKENS) as f64)
}

fn provenance(codes: u32) -> Provenance {
    let preprocessing = Preprocessing {
        size: 256,
        resize: "pillow-bicubic".to_owned(),
        crop: "center".to_owned(),
        crops: 1,
        flip: "none".to_owned(),
        max_pixels: 1 << 28,
        max_bytes: 1 << 28,
        min_side: 1,
        trim: None,
    };
    let identity = Identity {
        format_version: FORMAT_VERSION,
        tokenizer: "0".repeat(64),
        preprocessing,
        dataset: Selection { format: "webdataset".to_owned(), settings: BTreeMap::new() },
        seed: 1,
        batch_size: 8,
        dtype: "fp32".to_owned(),
        device: "cpu".to_owned(),
        threads: 1,
    };
    Provenance { identity, grid: (16, 16), codebook_size: codes, rows_per_image: 1 }
}
