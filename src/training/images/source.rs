//! What comes before the windows: reading units in the epoch's order, and decoding.

use super::Images;
use crate::datasets::{DatasetError, Entry, Output, Reader, Sample, Unit};
use crate::flow::{BoxError, Emitter};
use crate::imaging::{Flip, Preprocess};
use crate::random::{Purpose, RowKey};
use crate::reject::Reject;
use crate::training::loader::permutation;
use std::sync::Arc;

/// Entries a reader may be ahead of the byte budget: what is in this channel is not yet accounted for.
const READER_LEAD: usize = 2;

/// A unit's turn in an epoch.
#[derive(Debug)]
pub struct Turn {
    pub epoch: u64,
    /// Its place in the epoch's order.
    pub place: u64,
    pub unit: Arc<Unit>,
}

/// A sample that is to be decoded.
pub struct Encoded {
    turn: Arc<Turn>,
    sample: Sample,
}

/// A decoded image.
pub struct Decoded {
    /// Its index in the unit.
    pub index: u64,
    /// `[side, side, 3]`.
    pub pixels: Vec<u8>,
}

/// Reads the units of epoch after epoch, from the sample `index` of the unit at `place` in `epoch` on; without `forever` once,
/// in the dataset's order.
pub async fn read(
    images: Images,
    (mut epoch, place, index): (u64, u64, u64),
    forever: bool,
    mut out: Emitter<Turn, Encoded, Reject>,
) -> Result<(), BoxError> {
    let mut first = index;
    let mut skipped = usize::try_from(place).unwrap_or(usize::MAX);
    loop {
        let order = match forever {
            true => permutation(
                RowKey::new(images.options.seed, "order of units", epoch, 0),
                Purpose::Shuffle,
                images.units.len(),
            ),
            false => (0..images.units.len()).collect(),
        };
        for (place, unit) in order.into_iter().enumerate().skip(skipped) {
            let Some(unit) = images.units.get(unit) else { continue };
            let turn = Arc::new(Turn { epoch, place: place as u64, unit: unit.clone() });
            read_unit(&images.reader, &turn, first, &mut out).await?;
            first = 0;
        }
        (epoch, skipped, first) = (epoch + 1, 0, 0);
        if !forever {
            return Ok(());
        }
    }
}

/// Reads a unit from its sample `first` on. Training sees every unit in its turn or stops: passing over one that a store
/// fails to give would make the run depend on the store's weather.
async fn read_unit(
    reader: &Arc<dyn Reader>,
    turn: &Arc<Turn>,
    first: u64,
    out: &mut Emitter<Turn, Encoded, Reject>,
) -> Result<(), BoxError> {
    out.begin(turn.clone()).await?;
    let (sender, entries) = Output::channel(READER_LEAD);
    let reading = {
        let (reader, turn) = (reader.clone(), turn.clone());
        tokio::spawn(async move { reader.read(&turn.unit, &sender).await })
    };
    while let Ok(entry) = entries.recv().await {
        match entry {
            Entry::Sample(Sample { index, .. }) | Entry::Reject(Reject { index, .. }) if index < first => {}
            Entry::Sample(sample) => {
                out.input(sample.image.len() as u64);
                out.row(Encoded { turn: turn.clone(), sample }).await?;
            }
            Entry::Reject(reject) => out.reject(reject).await?,
        }
    }
    drop(entries);
    match reading.await {
        Ok(Ok(())) => Ok(out.end().await?),
        Ok(Err(DatasetError::Cancelled)) => Err(Box::new(DatasetError::Cancelled)),
        Ok(Err(error)) => Err(format!("unit {} cannot be read: {error}", turn.unit.name).into()),
        Err(panicked) => Err(format!("the reader of {} panicked: {panicked}", turn.unit.name).into()),
    }
}

/// The memory a sample takes on its way.
pub fn cost(encoded: &Encoded, preprocess: &Preprocess) -> u64 {
    preprocess.cost(&encoded.sample.image)
}

/// Encoded bytes to the one crop of this epoch, or a reject with its reason.
pub fn decode(encoded: Encoded, preprocess: &Preprocess, seed: u64) -> Vec<Result<Decoded, Reject>> {
    let Encoded { turn, sample } = encoded;
    let key = RowKey::new(seed, &format!("epoch {} of {}", turn.epoch, turn.unit.name), sample.index, 0);
    let mirrored = preprocess.flip == Flip::Both && key.below(Purpose::Flip, 0, 2) == 1;
    let crops = preprocess.prepare_padded(&sample.image, sample.original, |_| key);
    match crops {
        Ok(crops) => {
            let wanted = crops.into_iter().find(|crop| crop.flipped == mirrored);
            let decoded = wanted.map(|crop| Decoded { index: sample.index, pixels: crop.pixels });
            decoded.into_iter().map(Ok).collect()
        }
        Err(error) => vec![Err(Reject {
            source: sample.source,
            key: sample.key,
            index: sample.index,
            unit: turn.unit.name.clone(),
            stage: "decode",
            reason: error.reason(),
            message: error.to_string(),
        })],
    }
}
