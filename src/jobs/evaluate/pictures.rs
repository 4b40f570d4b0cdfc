//! Where images come from, batch by batch: a dataset, samples, latents that are decoded, an array of others.

use crate::imaging::{Limits, Rgb, decode};
use crate::jobs::{JobError, refusal};
use crate::tables::{LatentsReader, SamplesReader};
use crate::training::images::ImageFeed;
use crate::vqgan::Tokenizer;
use futures::StreamExt;
use tch::Tensor;

/// Images that are decoded before they are asked for.
const READY: usize = 64;

/// A stream of images for a thread that may block. Must be made on a tokio runtime.
pub enum Pictures {
    /// A prepared dataset, of this side.
    Dataset(Box<ImageFeed>, u32),
    Samples(async_channel::Receiver<Result<Rgb, JobError>>),
    Latents(async_channel::Receiver<Result<Vec<u16>, JobError>>, Box<Tokenizer>, (u32, u32)),
    /// uint8 `[rows, height, width, 3]`, and how many of them were taken.
    Array(Tensor, i64),
}

impl Pictures {
    /// The accepted samples of a table, decoded by `workers` at a time.
    pub fn samples(reader: SamplesReader, workers: usize) -> Pictures {
        let (to, from) = async_channel::bounded(READY);
        tokio::spawn(async move {
            let rows = reader.rows().filter(|row| std::future::ready(!matches!(row, Ok(row) if !row.accepted)));
            let decoded = rows.map(|row| async move {
                let row = row.map_err(refusal)?;
                let decoded = tokio::task::spawn_blocking(move || {
                    decode(&row.image.bytes, &Limits::default())
                        .map_err(|error| JobError::Failed(format!("the image of sample {}: {error}", row.key)))
                });
                decoded.await.map_err(JobError::failed)?
            });
            let mut decoded = std::pin::pin!(decoded.buffered(workers.max(1)));
            while let Some(image) = decoded.next().await {
                if to.send(image).await.is_err() {
                    return;
                }
            }
        });
        Pictures::Samples(from)
    }

    /// The images that a tokenizer makes of latents.
    pub fn latents(reader: LatentsReader, tokenizer: Tokenizer) -> Pictures {
        let grid = reader.provenance().grid;
        let (to, from) = async_channel::bounded(READY);
        tokio::spawn(async move {
            let mut rows = reader.rows();
            while let Some(row) = rows.next().await {
                if to.send(row.map(|row| row.tokens).map_err(refusal)).await.is_err() {
                    return;
                }
            }
        });
        Pictures::Latents(from, Box::new(tokenizer), grid)
    }

    /// The next images: about `count`, a feed's own batches as they are; none at the end. Blocks until they are there.
    ///
    /// # Errors
    /// What went wrong while reading or decoding.
    pub fn next_batch(&mut self, count: usize) -> Result<Option<Vec<Rgb>>, JobError> {
        let images = match self {
            Pictures::Dataset(feed, side) => {
                let Some(batch) = feed.next_batch().map_err(JobError::failed)? else { return Ok(None) };
                let bytes = *side as usize * *side as usize * 3;
                let picture = |pixels: &[u8]| Rgb { width: *side, height: *side, pixels: pixels.to_vec() };
                batch.pixels.chunks_exact(bytes.max(1)).map(picture).collect()
            }
            Pictures::Samples(images) => taken(images, count)?,
            Pictures::Latents(grids, tokenizer, grid) => {
                let grids = taken(grids, count)?;
                let grids: Vec<&[u16]> = grids.iter().map(Vec::as_slice).collect();
                tokenizer.decode(&grids, *grid).map_err(JobError::failed)?
            }
            Pictures::Array(array, used) => {
                let images = of_array(array, *used, count).map_err(JobError::failed)?;
                *used += images.len() as i64;
                images
            }
        };
        Ok((!images.is_empty()).then_some(images))
    }
}

/// Up to `count` items; fewer at the end.
fn taken<T>(from: &async_channel::Receiver<Result<T, JobError>>, count: usize) -> Result<Vec<T>, JobError> {
    let mut items = Vec::with_capacity(count);
    while items.len() < count
        && let Ok(item) = from.recv_blocking()
    {
        items.push(item?);
    }
    Ok(items)
}

fn of_array(array: &Tensor, from: i64, count: usize) -> Result<Vec<Rgb>, tch::TchError> {
    let [rows, height, width, _] = array.size()[..] else { return Ok(Vec::new()) };
    let count = (rows - from).min(count as i64).max(0);
    let pixels = Vec::<u8>::try_from(array.f_narrow(0, from, count)?.f_contiguous()?.f_flatten(0, -1)?)?;
    let (width, height) = (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0));
    let bytes = (width as usize * height as usize * 3).max(1);
    Ok(pixels.chunks_exact(bytes).map(|pixels| Rgb { width, height, pixels: pixels.to_vec() }).collect())
}
