//! The pictures that rows were made of: read again from the dataset, prepared again as the recorded pipeline says.

use super::rows::Chosen;
use crate::config::Pipeline;
use crate::datasets::{DatasetError, Entry, Output, Reader, Sample, Unit};
use crate::imaging::{Preprocess, Rgb};
use crate::jobs::JobError;
use crate::jobs::encode::{preprocess_of, reader_of};
use crate::random::RowKey;
use crate::tables::LatentRow;
use std::collections::BTreeMap;

/// Entries that wait between a reader and us.
const READER_LEAD: usize = 2;

/// What became of the search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Originals {
    /// For each chosen row its picture, if it was found.
    pub pictures: Vec<Option<Rgb>>,
    /// What kept pictures from being found: sentences for the user.
    pub problems: Vec<String>,
}

/// Looks for the originals of the chosen rows. What cannot be found is no error: the reconstructions are there anyway.
pub async fn find(pipeline: &Pipeline, seed: u64, chosen: &[Chosen<LatentRow>]) -> Originals {
    let mut found = Originals { pictures: vec![None; chosen.len()], problems: Vec::new() };
    let (reader, units, preprocess) = match open(pipeline).await {
        Ok(dataset) => dataset,
        Err(error) => {
            found.problems.push(format!("The originals cannot be read: {error}"));
            return found;
        }
    };
    let mut by_unit: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, chosen) in chosen.iter().enumerate() {
        by_unit.entry(&chosen.unit).or_default().push(i);
    }
    for (name, places) in by_unit {
        let Some(unit) = units.iter().find(|unit| unit.name == name) else {
            found.problems.push(format!("The dataset has no unit {name} any more."));
            continue;
        };
        let wanted = places.iter().map(|&i| (i, &chosen[i])).collect();
        let search = Search { unit, preprocess: &preprocess, seed, wanted };
        if let Err(error) = search.run(reader.as_ref(), &mut found.pictures).await {
            found.problems.push(format!("The originals of {name} cannot be read: {error}"));
        }
    }
    found
}

async fn open(pipeline: &Pipeline) -> Result<(std::sync::Arc<dyn Reader>, Vec<Unit>, Preprocess), JobError> {
    let preprocess = preprocess_of(pipeline)?;
    let reader = reader_of(pipeline).await?;
    let units = reader.units().await.map_err(JobError::failed)?;
    Ok((reader, units, preprocess))
}

/// The rows wanted of one unit.
struct Search<'a> {
    unit: &'a Unit,
    preprocess: &'a Preprocess,
    seed: u64,
    /// Place in the gallery, and row.
    wanted: Vec<(usize, &'a Chosen<LatentRow>)>,
}

impl Search<'_> {
    /// Reads the unit up to the last sample wanted.
    async fn run(&self, reader: &dyn Reader, pictures: &mut [Option<Rgb>]) -> Result<(), DatasetError> {
        let last = self.wanted.iter().map(|(_, chosen)| chosen.row.index).max();
        let (out, entries) = Output::channel(READER_LEAD);
        let read = async move {
            let result = reader.read(self.unit, &out).await;
            // Ends the channel, and with it the search.
            drop(out);
            result
        };
        let search = async move {
            while let Ok(entry) = entries.recv().await {
                let index = match &entry {
                    Entry::Sample(sample) => sample.index,
                    Entry::Reject(reject) => reject.index,
                };
                if let Entry::Sample(sample) = &entry {
                    self.take(sample, pictures);
                }
                if Some(index) >= last {
                    break;
                }
            }
            // Dropping the receiver stops the reader.
        };
        match futures::future::join(read, search).await.0 {
            Err(DatasetError::Cancelled) => Ok(()),
            result => result,
        }
    }

    /// Keeps the sample's crops that rows were made of.
    fn take(&self, sample: &Sample, pictures: &mut [Option<Rgb>]) {
        let same = |chosen: &Chosen<LatentRow>| {
            chosen.row.index == sample.index && chosen.row.key == sample.key && chosen.row.source == sample.source
        };
        let wanted: Vec<&(usize, &Chosen<LatentRow>)> = self.wanted.iter().filter(|(_, chosen)| same(chosen)).collect();
        if wanted.is_empty() {
            return;
        }
        let row = |crop| RowKey::new(self.seed, &self.unit.name, sample.index, crop);
        // A picture that cannot be decoded now is another one than before: the page shows that it is missing.
        let Ok(crops) = self.preprocess.prepare_padded(&sample.image, sample.original, row) else { return };
        for (place, chosen) in wanted {
            let (row, side) = (&chosen.row, self.preprocess.size);
            let crop = crops.iter().find(|crop| {
                let rect = (crop.rect.x, crop.rect.y, crop.rect.size);
                crop.original == (row.width, row.height)
                    && rect == (row.crop.x, row.crop.y, row.crop.size)
                    && crop.flipped == row.flipped
            });
            if let Some(slot) = pictures.get_mut(*place) {
                *slot = crop.and_then(|crop| Rgb::new(side, side, crop.pixels.clone()));
            }
        }
    }
}
