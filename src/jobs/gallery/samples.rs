//! A gallery of samples: the images as they are in the table.

use super::rows::{self, Chosen};
use super::{GalleryOptions, Original, Shown, Table, Tile, facts};
use crate::imaging::{Limits, decode};
use crate::jobs::{JobError, refusal};
use crate::tables::{OutputDir, SampleRow, SamplesIdentity, SamplesReader};

/// The samples of `dir` that the gallery shows.
pub async fn show(dir: OutputDir<SamplesIdentity>, options: &GalleryOptions) -> Result<Shown, JobError> {
    let samples = SamplesReader::open(dir).await.map_err(refusal)?;
    let choice = rows::choose(&samples, options.count).await.map_err(refusal)?;
    let of = (choice.rows_seen, choice.files_seen);
    let header = facts::samples_header(&options.url, samples.provenance(), choice.rows.len(), of);
    let tiles: Result<Vec<Tile>, JobError> = choice.rows.into_iter().map(tile).collect();
    Ok(Shown { table: Table::Samples, header, tiles: tiles? })
}

fn tile(chosen: Chosen<SampleRow>) -> Result<Tile, JobError> {
    let Chosen { unit, row } = chosen;
    let picture = decode(&row.image.bytes, &Limits::default())
        .map_err(|error| JobError::Failed(format!("the image of row {} in unit {unit}: {error}", row.key)))?;
    Ok(Tile {
        original: Original::None,
        picture,
        source: row.parent.map_or_else(|| format!("seed {}", row.seed), |parent| format!("edit of {parent}")),
        key: row.key,
        label: row.label,
        caption: row.prompt,
    })
}
