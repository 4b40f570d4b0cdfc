//! Rows, units and runs of samples.

use bytes::Bytes;
use imagebart::imaging::{Rgb, encode_png};
use imagebart::random::{Purpose, RowKey};
use imagebart::tables::{
    FORMAT_VERSION, ImageFile, ManifestUnit, OutputDir, Provenance, RowSelection, RowSettings, SampleRow,
    SamplesIdentity, TableError, UnitSummary, UnitWriter, row_key,
};
use std::ops::Range;
use std::sync::Arc;

/// A run of two scales over 4×4 grids of `codes` codes.
pub fn provenance(codes: u32) -> Provenance<SamplesIdentity> {
    let settings = RowSettings {
        temperature: vec![1.0, 0.9],
        top_k: vec![codes, 50],
        top_p: vec![1.0, 0.95],
        guidance: vec![1.0, 2.5],
    };
    let identity = SamplesIdentity {
        format_version: FORMAT_VERSION,
        tokenizer: "c0de".repeat(16),
        chain: "cafe".repeat(16),
        schedule: vec![1.0, 0.63605, 0.0],
        settings,
        compat: "default".to_owned(),
        rows: RowSelection { count: 10, unit_rows: 4, labels: "all".to_owned(), prompts: None },
        choose: None,
        large: None,
        tiles: None,
        edit: None,
        image: "png".to_owned(),
        seed: 23,
        batch_size: 8,
        tokenizer_batch_size: 4,
        dtype: "fp32".to_owned(),
        tokenizer_dtype: "fp32".to_owned(),
        device: "cpu".to_owned(),
        threads: 2,
    };
    Provenance { identity, grid: (4, 4), codebook_size: codes, rows_per_image: 1 }
}

/// The manifest's units of `count` rows.
#[allow(dead_code)]
pub fn units(count: u64, unit_rows: u64) -> Vec<ManifestUnit> {
    let starts = (0..count).step_by(unit_rows as usize);
    let unit = |start: u64| ManifestUnit { name: name(start..(start + unit_rows).min(count)), sources: Vec::new() };
    starts.map(unit).collect()
}

/// The name of a unit of these rows.
pub fn name(rows: Range<u64>) -> String {
    format!("rows@{:09}-{:09}", rows.start, rows.end)
}

/// Rows of random tokens and small images; what may be left out is there or not.
pub fn rows(provenance: &Provenance<SamplesIdentity>, numbers: Range<u64>) -> Vec<SampleRow> {
    let settings = Arc::new(provenance.identity.settings.clone());
    numbers.map(|number| row(provenance, number, &settings)).collect()
}

fn row(provenance: &Provenance<SamplesIdentity>, number: u64, settings: &Arc<RowSettings>) -> SampleRow {
    let random = RowKey::new(1, "samples", number, 0);
    let token = |position: usize| random.below(Purpose::Token, position as u32, provenance.codebook_size) as u16;
    let pixels = (0..8 * 8 * 3).map(|position| random.below(Purpose::Noise, position, 256) as u8).collect();
    let picture = Rgb { width: 8, height: 8, pixels };
    let key = row_key(number);
    SampleRow {
        image: ImageFile { bytes: Bytes::from(encode_png(&picture).expect("a picture")), path: format!("{key}.png") },
        key,
        prompt: (!number.is_multiple_of(3)).then(|| format!("prompt \"{number}\" of 漢")),
        label: (!number.is_multiple_of(2)).then_some(number as i32),
        seed: u64::MAX - number,
        tokens: (0..provenance.tokens()).map(token).collect(),
        score: (!number.is_multiple_of(4)).then_some(number as f32 / 2.0),
        rank: (!number.is_multiple_of(5)).then_some(number as u32),
        accepted: !number.is_multiple_of(7),
        parent: number.is_multiple_of(3).then(|| format!("faces/{number}.jpg")),
        settings: settings.clone(),
    }
}

/// Writes and commits a unit of these rows.
pub async fn write_unit(
    dir: &OutputDir<SamplesIdentity>,
    provenance: &Arc<Provenance<SamplesIdentity>>,
    numbers: Range<u64>,
) -> Result<UnitSummary, TableError> {
    let mut writer = UnitWriter::create(dir, provenance, name(numbers.clone()).as_str())?;
    for row in rows(provenance, numbers) {
        writer.row(row).await?;
    }
    writer.commit().await
}
