//! Grids a second that the loader gives from Parquet on a local disk, to someone who does nothing with them.

use super::{Error, best, median};
use imagebart::random::{Purpose, RowKey};
use imagebart::tables::{
    CropRect, FORMAT_VERSION, Identity, LatentRow, LatentsReader, Manifest, ManifestUnit, OutputDir, Preprocessing,
    Provenance, Selection, SourceFile, UnitWriter,
};
use imagebart::training::{Loader, LoaderOptions, Position};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

const UNITS: usize = 10;
const UNIT_ROWS: u64 = 10_000;
const BATCH: usize = 32;
const ROUNDS: usize = 5;

pub fn run(_: &[String]) -> Result<(), Error> {
    let cores = std::thread::available_parallelism()?;
    println!("loader, {cores} core(s), batches of {BATCH}, {} rows in {UNITS} files", UNITS as u64 * UNIT_ROWS);
    println!("tokens     K   captions   grids/s (best; median)   tokens/s");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for (side, codes, captions) in [(16, 1024, false), (16, 1024, true), (16, 16_384, false), (8, 512, true)] {
        let disk = tempfile::tempdir()?;
        let loader = runtime.block_on(open(disk.path(), side, codes, captions))?;
        let times = rounds(&Arc::new(loader), &runtime)?;
        let grids = |seconds: f64| UNITS as f64 * UNIT_ROWS as f64 / seconds;
        let (most, middle) = (grids(best(&times)), grids(median(&times)));
        let (tokens, captions) = (side * side, if captions { "yes" } else { "no" });
        println!("{tokens:6} {codes:6} {captions:>8}   {most:9.0}; {middle:9.0}    {:10.0}", most * f64::from(tokens));
    }
    Ok(())
}

/// Seconds an epoch, the first one, which warms the page cache, left out.
fn rounds(loader: &Arc<Loader>, runtime: &tokio::runtime::Runtime) -> Result<Vec<f64>, Error> {
    let _guard = runtime.enter();
    let mut feed = loader.train(Position::default());
    let mut times = Vec::new();
    for _ in 0..=ROUNDS {
        let start = Instant::now();
        for _ in 0..loader.steps() {
            feed.next_batch()?.ok_or("training never ends")?;
        }
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times.split_off(1))
}

/// Writes latents of random tokens as `encode` writes them, and opens them.
async fn open(disk: &std::path::Path, side: u32, codes: u32, captions: bool) -> Result<Loader, Error> {
    let dir = || -> Result<OutputDir, Error> {
        let store = Arc::new(LocalFileSystem::new_with_prefix(disk)?);
        Ok(OutputDir::new(store, Path::from("latents"), Some(disk.join("latents"))))
    };
    let provenance = Arc::new(provenance((side, side), codes));
    let names: Vec<String> = (0..UNITS).map(|unit| format!("{unit:05}.tar")).collect();
    let units = names.iter().map(|name| ManifestUnit {
        name: name.clone(),
        sources: vec![SourceFile { path: name.clone(), size: 1 << 30, etag: None }],
    });
    let out = dir()?;
    out.begin(&Manifest::new(&provenance, units.collect())).await?;
    for name in &names {
        let mut writer = UnitWriter::create(&out, &provenance, name.as_str())?;
        for index in 0..UNIT_ROWS {
            writer.row(row(&provenance, name, index, captions)).await?;
        }
        writer.commit().await?;
    }
    let options = LoaderOptions { seed: 1, batch: BATCH, ..LoaderOptions::default() };
    Ok(Loader::open(vec![LatentsReader::open(dir()?).await?], &provenance.identity.tokenizer, options).await?)
}

fn row(provenance: &Provenance, unit: &str, index: u64, captions: bool) -> LatentRow {
    let random = RowKey::new(3, unit, index, 0);
    let token = |at: usize| random.below(Purpose::Init, at as u32, provenance.codebook_size) as u16;
    LatentRow {
        key: format!("{index:09}"),
        source: unit.to_owned(),
        index,
        label: (!captions).then_some(index as i32 % 1000),
        caption: captions.then(|| format!("picture {index} of {unit}: a large red circle above a small blue square")),
        width: 640,
        height: 480,
        crop: CropRect { x: 80, y: 0, size: 480 },
        flipped: false,
        tokens: (0..provenance.tokens()).map(token).collect(),
    }
}

fn provenance(grid: (u32, u32), codebook_size: u32) -> Provenance {
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
        tokenizer: "c0de".repeat(16),
        preprocessing,
        dataset: Selection { format: "webdataset".to_owned(), settings: BTreeMap::new() },
        seed: 1,
        batch_size: 32,
        dtype: "fp32".to_owned(),
        device: "cpu".to_owned(),
        threads: 2,
    };
    Provenance { identity, grid, codebook_size, rows_per_image: 1 }
}
