//! What each stage of `encode` does with an item.

use crate::datasets::{NotDownloaded, Reader, Sample, Unit};
use crate::flow::{BoxError, Emitter};
use crate::imaging::{Crop, Preprocess};
use crate::jobs::reading;
use crate::random::RowKey;
use crate::reject::{Reason, Reject, Rejected};
use crate::tables::LatentRow;
use crate::vqgan::Tokenizer;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

/// A sample with the unit it belongs to, which keys its random draws.
pub struct Read {
    unit: Arc<Unit>,
    sample: Sample,
}

/// A crop on its way to the tokenizer.
pub struct Prepared {
    row: RowKey,
    sample: Arc<Described>,
    crop: Crop,
}

/// What is kept of a sample once its image is decoded.
struct Described {
    source: String,
    key: String,
    index: u64,
    label: Option<i32>,
    caption: Option<String>,
}

/// The memory a sample takes on its way: its file, its pixels while they are decoded, its crops.
pub fn cost(read: &Read, preprocess: &Preprocess) -> u64 {
    preprocess.cost(&read.sample.image)
}

/// Reads the units one after the other; of those in `again`, only the samples it names.
pub async fn read(
    reader: Arc<dyn Reader>,
    units: Vec<Arc<Unit>>,
    again: BTreeMap<String, Arc<Rejected>>,
    not_downloaded: NotDownloaded,
    out: Emitter<Unit, Read, Reject>,
) -> Result<(), BoxError> {
    let wanted = |unit: &Unit, index: u64| again.get(&unit.name).is_none_or(|again| again.has(index));
    let item = |unit, sample| -> BoxFuture<'static, _> { Box::pin(ready(Ok(Read { unit, sample }))) };
    reading::read(reader, units, wanted, item, not_downloaded, out).await
}

/// Encoded bytes to crops, or a reject with its reason.
pub fn decode(read: Read, preprocess: &Preprocess, seed: u64) -> Vec<Result<Prepared, Reject>> {
    let Read { unit, sample } = read;
    let row = |crop| RowKey::new(seed, &unit.name, sample.index, crop);
    let crops = match preprocess.prepare_padded(&sample.image, sample.original, row) {
        Ok(crops) => crops,
        Err(error) => {
            let reason = error.reason();
            return vec![Err(reject(&unit.name, &sample, reason, error.to_string()))];
        }
    };
    let sample = Arc::new(Described {
        source: sample.source,
        key: sample.key,
        index: sample.index,
        label: sample.label,
        caption: sample.caption,
    });
    let mut rows = Vec::with_capacity(crops.len());
    for crop in crops {
        let row = RowKey::new(seed, &unit.name, sample.index, crop.index);
        rows.push(Ok(Prepared { row, sample: sample.clone(), crop }));
    }
    rows
}

fn reject(unit: &str, sample: &Sample, reason: Reason, message: String) -> Reject {
    Reject {
        source: sample.source.clone(),
        key: sample.key.clone(),
        index: sample.index,
        unit: unit.to_owned(),
        stage: "decode",
        reason,
        message,
    }
}

/// A batch of crops to rows of the table.
pub fn tokenize(tokenizer: &Tokenizer, side: u32, batch: Vec<Prepared>) -> Result<Vec<LatentRow>, BoxError> {
    let images: Vec<&[u8]> = batch.iter().map(|item| item.crop.pixels.as_slice()).collect();
    let rows: Vec<RowKey> = batch.iter().map(|item| item.row).collect();
    let grids = tokenizer.encode(&images, (side, side), &rows)?;
    Ok(batch.into_iter().zip(grids).map(|(item, tokens)| latent(item, tokens)).collect())
}

fn latent(item: Prepared, tokens: Vec<u16>) -> LatentRow {
    let Prepared { sample, crop, .. } = item;
    LatentRow {
        key: sample.key.clone(),
        source: sample.source.clone(),
        index: sample.index,
        label: sample.label,
        caption: sample.caption.clone(),
        width: crop.original.0,
        height: crop.original.1,
        crop: crop.rect,
        flipped: crop.flipped,
        tokens,
    }
}
