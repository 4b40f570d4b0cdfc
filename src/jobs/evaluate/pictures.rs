//! Where images come from, batch by batch: a dataset, samples, latents that are decoded, an array of others.

use crate::imaging::{Limits, Rgb, decode};
use crate::jobs::{JobError, refusal};
use crate::tables::{LatentsReader, SampleRow, SamplesReader};
use crate::training::images::{ImageFeed, Images};
use crate::vqgan::Tokenizer;
use async_channel::Receiver;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tch::Tensor;

/// Images that are decoded before they are asked for.
const READY: usize = 64;
/// Images that are looked at together where some are picked.
const PICKED: usize = 16;

/// An image, and what its table says of it.
#[derive(Clone, Debug)]
pub struct Picture {
    pub image: Rgb,
    /// Empty where there is no table.
    pub key: String,
    /// What it was drawn of, or what it shows.
    pub text: Option<String>,
}

/// Images that can be read more than once.
pub enum Source {
    /// A prepared dataset, of this side.
    Dataset(Images, u32),
    /// The accepted samples of a table, decoded by so many at a time.
    Samples(Arc<SamplesReader>, usize),
    /// What a tokenizer makes of latents.
    Latents(Arc<LatentsReader>, Box<Tokenizer>),
    /// uint8 `[rows, height, width, 3]`.
    Array(Tensor),
}

/// A stream of images for a thread that may block.
pub enum Pictures<'a> {
    Dataset(Box<ImageFeed>, u32),
    Samples(Receiver<Result<Picture, JobError>>),
    Latents(Receiver<Result<Grid, JobError>>, &'a Tokenizer, (u32, u32)),
    /// And how many of them were taken.
    Array(&'a Tensor, i64),
}

/// A row of latents.
pub struct Grid {
    key: String,
    text: Option<String>,
    tokens: Vec<u16>,
}

impl Source {
    /// All images, from the first one on. Must be called on a tokio runtime.
    pub fn open(&self) -> Pictures<'_> {
        self.opened(None)
    }

    /// Width and height of the images.
    ///
    /// # Errors
    /// A first image that cannot be read; no images.
    pub async fn size(&self) -> Result<(u32, u32), JobError> {
        let nothing = || JobError::Usage("there are no images to look at".to_owned());
        let size = |image: &Rgb| (image.width, image.height);
        match self {
            Source::Dataset(_, side) => Ok((*side, *side)),
            Source::Samples(reader, _) => {
                let accepted = reader.rows().filter(|row| std::future::ready(taken(row)));
                let first = std::pin::pin!(accepted).next().await.ok_or_else(nothing)?.map_err(refusal)?;
                Ok(size(&decoded(first)?.image))
            }
            Source::Latents(reader, tokenizer) => {
                let ((rows, columns), factor) = (reader.provenance().grid, tokenizer.config().downsampling());
                let side = |tokens: u32| u32::try_from(i64::from(tokens) * factor).map_err(JobError::failed);
                Ok((side(columns)?, side(rows)?))
            }
            Source::Array(array) => match array.size()[..] {
                [_, height, width, _] => Ok((u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0))),
                _ => Err(nothing()),
            },
        }
    }

    /// The images with these numbers, from 0 on. Must be called on a tokio runtime, by a thread that may block.
    ///
    /// # Errors
    /// What went wrong while reading or decoding.
    pub fn pick(&self, rows: &BTreeSet<u64>) -> Result<BTreeMap<u64, Rgb>, JobError> {
        let mut numbers: Box<dyn Iterator<Item = u64>> = match self {
            Source::Dataset(..) | Source::Array(_) => Box::new(0..),
            // These leave the others out themselves.
            Source::Samples(..) | Source::Latents(..) => Box::new(rows.iter().copied()),
        };
        let mut pictures = self.opened(Some(rows));
        let mut found = BTreeMap::new();
        while found.len() < rows.len()
            && let Some(batch) = pictures.next_batch(PICKED)?
        {
            let numbered = batch.into_iter().zip(numbers.by_ref());
            let wanted = numbered.filter(|(_, number)| rows.contains(number));
            found.extend(wanted.map(|(picture, number)| (number, picture.image)));
        }
        Ok(found)
    }

    /// With `rows`, tables give these alone.
    fn opened(&self, rows: Option<&BTreeSet<u64>>) -> Pictures<'_> {
        let rows = Rows(rows.map(|rows| Arc::new(rows.clone())));
        match self {
            Source::Dataset(images, side) => Pictures::Dataset(Box::new(images.once()), *side),
            Source::Samples(reader, workers) => Pictures::Samples(samples(reader.clone(), *workers, rows)),
            Source::Latents(reader, tokenizer) => {
                Pictures::Latents(latents(reader.clone(), rows), tokenizer, reader.provenance().grid)
            }
            Source::Array(array) => Pictures::Array(array, 0),
        }
    }
}

impl Pictures<'_> {
    /// The next images: about `count`, a feed's own batches as they are; none at the end. Blocks until they are there.
    ///
    /// # Errors
    /// What went wrong while reading or decoding.
    pub fn next_batch(&mut self, count: usize) -> Result<Option<Vec<Picture>>, JobError> {
        let plain = |image: Rgb| Picture { image, key: String::new(), text: None };
        let pictures: Vec<Picture> = match self {
            Pictures::Dataset(feed, side) => {
                let Some(batch) = feed.next_batch().map_err(JobError::failed)? else { return Ok(None) };
                let bytes = *side as usize * *side as usize * 3;
                let image = |pixels: &[u8]| Rgb { width: *side, height: *side, pixels: pixels.to_vec() };
                batch.pixels.chunks_exact(bytes.max(1)).map(image).map(plain).collect()
            }
            Pictures::Samples(images) => received(images, count)?,
            Pictures::Latents(grids, tokenizer, grid) => {
                let grids = received(grids, count)?;
                let tokens: Vec<&[u16]> = grids.iter().map(|grid| grid.tokens.as_slice()).collect();
                let images = tokenizer.decode(&tokens, *grid).map_err(JobError::failed)?;
                let named = grids.into_iter().zip(images);
                named.map(|(Grid { key, text, .. }, image)| Picture { image, key, text }).collect()
            }
            Pictures::Array(array, used) => {
                let images = of_array(array, *used, count).map_err(JobError::failed)?;
                *used += images.len() as i64;
                images.into_iter().map(plain).collect()
            }
        };
        Ok((!pictures.is_empty()).then_some(pictures))
    }
}

/// Numbers of the rows that are wanted, where not all are.
#[derive(Clone)]
struct Rows(Option<Arc<BTreeSet<u64>>>);

impl Rows {
    fn has(&self, number: usize) -> bool {
        self.0.as_ref().is_none_or(|rows| rows.contains(&(number as u64)))
    }

    fn count(&self) -> usize {
        self.0.as_ref().map_or(usize::MAX, |rows| rows.len())
    }
}

/// Samples that were not accepted are no part of what was made.
fn taken<E>(row: &Result<SampleRow, E>) -> bool {
    !matches!(row, Ok(row) if !row.accepted)
}

fn decoded(row: SampleRow) -> Result<Picture, JobError> {
    let image = decode(&row.image.bytes, &Limits::default())
        .map_err(|error| JobError::Failed(format!("the image of sample {}: {error}", row.key)))?;
    Ok(Picture { image, key: row.key, text: row.prompt })
}

fn samples(reader: Arc<SamplesReader>, workers: usize, rows: Rows) -> Receiver<Result<Picture, JobError>> {
    let (to, from) = async_channel::bounded(READY);
    tokio::spawn(async move {
        let accepted = reader.rows().filter(|row| std::future::ready(taken(row))).enumerate();
        let wanted = accepted.filter(|(number, row)| std::future::ready(row.is_err() || rows.has(*number)));
        let pictures = wanted.take(rows.count()).map(|(_, row)| async move {
            let row = row.map_err(refusal)?;
            tokio::task::spawn_blocking(move || decoded(row)).await.map_err(JobError::failed)?
        });
        let mut pictures = std::pin::pin!(pictures.buffered(workers.max(1)));
        while let Some(picture) = pictures.next().await {
            if to.send(picture).await.is_err() {
                return;
            }
        }
    });
    from
}

fn latents(reader: Arc<LatentsReader>, rows: Rows) -> Receiver<Result<Grid, JobError>> {
    let (to, from) = async_channel::bounded(READY);
    tokio::spawn(async move {
        let numbered = reader.rows().enumerate();
        let wanted = numbered.filter(|(number, row)| std::future::ready(row.is_err() || rows.has(*number)));
        let mut wanted = std::pin::pin!(wanted.take(rows.count()));
        while let Some((_, row)) = wanted.next().await {
            let grid = row.map(|row| Grid { key: row.key, text: row.caption, tokens: row.tokens }).map_err(refusal);
            if to.send(grid).await.is_err() {
                return;
            }
        }
    });
    from
}

/// Up to `count` items; fewer at the end.
fn received<T>(from: &Receiver<Result<T, JobError>>, count: usize) -> Result<Vec<T>, JobError> {
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
