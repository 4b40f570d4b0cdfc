//! Rows, units and runs for the tests of the tables.
#![allow(dead_code)] // Each test file uses its own part.

#[allow(dead_code)]
pub mod samples;

use imagebart::random::{Purpose, RowKey};
use imagebart::reject::{Reason, Reject};
use imagebart::tables::{
    CropRect, FORMAT_VERSION, Identity, LatentRow, ManifestUnit, OutputDir, Preprocessing, Provenance, Selection,
    SourceFile, TableError, UnitSummary, UnitWriter,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A run over 4×4 grids of `codes` codes, two rows an image.
pub fn provenance(codes: u32) -> Provenance {
    let preprocessing = Preprocessing {
        size: 64,
        resize: "pillow-bicubic".to_owned(),
        crop: "center".to_owned(),
        crops: 1,
        flip: "both".to_owned(),
        max_pixels: 1 << 28,
        max_bytes: 1 << 28,
        min_side: 1,
        trim: None,
    };
    let identity = Identity {
        format_version: FORMAT_VERSION,
        tokenizer: "c0de".repeat(16),
        preprocessing,
        dataset: Selection {
            format: "webdataset".to_owned(),
            settings: BTreeMap::from([("label".to_owned(), "cls".to_owned())]),
        },
        seed: 23,
        batch_size: 8,
        dtype: "fp32".to_owned(),
        device: "cpu".to_owned(),
        threads: 2,
    };
    Provenance { identity, grid: (4, 4), codebook_size: codes, rows_per_image: 2 }
}

/// The manifest's units of these names, each reading one source.
pub fn dataset(units: &[&str]) -> Vec<ManifestUnit> {
    let source = |name: &str| SourceFile { path: name.to_owned(), size: 1000, etag: None };
    units.iter().map(|name| ManifestUnit { name: (*name).to_owned(), sources: vec![source(name)] }).collect()
}

/// Two rows of random tokens for each of `samples` samples; labels and captions are there or not.
pub fn rows(provenance: &Provenance, samples: u64) -> Vec<LatentRow> {
    (0..samples).flat_map(|index| [false, true].map(|flipped| row(provenance, index, flipped))).collect()
}

fn row(provenance: &Provenance, index: u64, flipped: bool) -> LatentRow {
    let random = RowKey::new(1, "rows", index, u32::from(flipped));
    let token = |position: usize| random.below(Purpose::Init, position as u32, provenance.codebook_size) as u16;
    LatentRow {
        key: format!("a/{index:06} ü"),
        source: format!("shard-{}.tar", index / 8),
        index,
        label: (!index.is_multiple_of(3)).then_some(index as i32 - 5),
        caption: (!index.is_multiple_of(2)).then(|| format!("caption \"{index}\"\nof 漢")),
        width: 500 + index as u32,
        height: 375,
        crop: CropRect { x: 62, y: index as u32, size: 375 },
        flipped,
        tokens: (0..provenance.tokens()).map(token).collect(),
    }
}

/// A reject of sample `index`.
pub fn reject(unit: &str, index: u64) -> Reject {
    Reject {
        source: "shard.tar".to_owned(),
        key: format!("bad/{index}"),
        index,
        unit: unit.to_owned(),
        stage: "decode",
        reason: Reason::Truncated,
        message: "the data ends at byte 17".to_owned(),
    }
}

/// Writes and commits a unit of `samples` good samples, followed by two rejects.
pub async fn write_unit(
    dir: &OutputDir,
    provenance: &Arc<Provenance>,
    unit: &str,
    samples: u64,
) -> Result<UnitSummary, TableError> {
    let mut writer = UnitWriter::create(dir, provenance, unit)?;
    for row in rows(provenance, samples) {
        writer.row(row).await?;
    }
    for index in samples..samples + 2 {
        writer.reject(reject(unit, index)).await?;
    }
    writer.commit().await
}
