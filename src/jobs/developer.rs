//! From token grids to image files: what `sample` and `edit` do once tokens are drawn.

use super::sample::Candidate;
use crate::flow::BoxError;
use crate::imaging::{FileFormat, Rgb};
use crate::random::RowKey;
use crate::reject::{Reason, Reject};
use crate::tables::{ImageFile, RowSettings, SampleRow};
use crate::vqgan::{Tiles, Tokenizer};
use bytes::Bytes;
use std::sync::Arc;

/// The tokenizer on a device, which makes images of token grids.
pub struct Developer {
    tokenizer: Tokenizer,
    batch: usize,
    grid: (u32, u32),
    tiles: Option<Tiles>,
}

impl Developer {
    /// Decodes and encodes `batch` images at once, of `grid` = (rows, columns) tokens, whole.
    pub fn new(tokenizer: Tokenizer, batch: usize, grid: (u32, u32)) -> Developer {
        Developer { tokenizer, batch, grid, tiles: None }
    }

    /// Of the tokenizer's weights.
    pub fn fingerprint(&self) -> &str {
        self.tokenizer.fingerprint()
    }

    /// The same for grids of `grid` = (rows, columns) tokens, which are decoded in `tiles`, if there are.
    pub fn with_grid(self, grid: (u32, u32), tiles: Option<Tiles>) -> Developer {
        Developer { grid, tiles, ..self }
    }

    /// The token grids of images of `side` × `side` pixels, each three bytes a pixel; `rows` key the ids of outliers.
    pub fn encode(&self, images: &[&[u8]], side: u32, rows: &[RowKey]) -> Result<Vec<Vec<u16>>, BoxError> {
        let Developer { tokenizer, batch, .. } = self;
        let mut grids = Vec::with_capacity(images.len());
        for (images, rows) in images.chunks(*batch).zip(rows.chunks(*batch)) {
            grids.extend(tokenizer.encode(images, (side, side), rows)?);
        }
        Ok(grids)
    }

    /// The images of token grids.
    pub fn decode(&self, grids: &[&[u16]]) -> Result<Vec<Rgb>, BoxError> {
        let mut images = Vec::with_capacity(grids.len());
        for grids in grids.chunks(self.batch) {
            images.extend(match &self.tiles {
                Some(tiles) => self.tokenizer.decode_tiled(grids, self.grid, tiles)?,
                None => self.tokenizer.decode(grids, self.grid)?,
            });
        }
        Ok(images)
    }
}

/// A drawn image on its way to a file.
pub struct Drawn {
    /// The row's number over the whole run.
    pub number: u64,
    /// Its name in the table.
    pub key: String,
    /// As the table has it.
    pub seed: u64,
    pub settings: Arc<RowSettings>,
    /// The work unit's name.
    pub unit: String,
    pub prompt: Option<Arc<str>>,
    pub label: Option<i32>,
    pub parent: Option<String>,
    pub tokens: Vec<u16>,
    pub image: Rgb,
    pub score: Option<f32>,
    pub rank: Option<u32>,
    pub accepted: bool,
    /// Its place among the images of which some are chosen.
    pub candidate: Option<Candidate>,
}

/// Makes the table's row of a drawn image, with its file.
pub fn to_row(drawn: Drawn, format: FileFormat) -> Vec<Result<SampleRow, Reject>> {
    let key = drawn.key;
    let bytes = match format.encode(&drawn.image) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => {
            return vec![Err(Reject {
                source: drawn.parent.unwrap_or_default(),
                key,
                index: drawn.number,
                unit: drawn.unit,
                stage: "encode",
                reason: Reason::UnsupportedFormat,
                message: error.to_string(),
            })];
        }
    };
    vec![Ok(SampleRow {
        image: ImageFile { bytes, path: format!("{key}.{}", format.extension()) },
        key,
        prompt: drawn.prompt.map(|text| text.to_string()),
        label: drawn.label,
        seed: drawn.seed,
        tokens: drawn.tokens,
        score: drawn.score,
        rank: drawn.rank,
        accepted: drawn.accepted,
        parent: drawn.parent,
        settings: drawn.settings,
    })]
}
