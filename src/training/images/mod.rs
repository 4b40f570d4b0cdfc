//! Batches of images for training a tokenizer, streamed from a dataset of any format on any store.
//!
//! The images of an epoch come in an order that depends on seed, epoch and the dataset alone, never on timing: units are
//! shuffled and read one after the other, consecutive images make a window, and a window's images leave it shuffled again. Where
//! an image is cropped, and whether it is mirrored, is drawn for the image and the epoch. A dataset tells how many images it has
//! only by being read, so that the place to go on from ([`Cursor`]) is that of a window's first image: a run that stopped in the
//! middle of an epoch reads the one unit that this image is in from its start, and none before it.
//!
//! While a window is used up the next one waits ready and the one after it is being read: three are in memory.

mod feed;
mod source;
mod window;

pub use feed::{ImageBatch, ImageFeed};

use crate::datasets::{Entry, Output, Reader, Unit};
use crate::flow::FlowError;
use crate::imaging::{CropMode, Flip, Preprocess};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Windows in memory: in use, ready, being read.
const WINDOWS: u64 = 3;
/// Images that an estimate of their number looks at.
const LOOKED_AT: u64 = 64;

/// Why images cannot be streamed.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    #[error("{images} readable images make no batch of {batch}: lower train_tokenizer.batch_size, or give more data")]
    TooFew { images: u64, batch: usize },
    #[error(
        "windows of {images} images of {side}x{side} take {bytes} of memory, more than half of run.memory_budget: lower \
         train_tokenizer.window_images, or raise the budget"
    )]
    Memory { images: u64, side: u32, bytes: crate::config::ByteSize },
    #[error("the images cannot be read on")]
    Stopped(#[from] FlowError),
}

/// How images become batches.
#[derive(Clone, Copy, Debug)]
pub struct ImageOptions {
    /// Of the order, and of crops and mirror images.
    pub seed: u64,
    /// Images of a batch.
    pub batch: usize,
    /// Images that are shuffled together.
    pub window: u64,
    /// Threads that decode.
    pub workers: usize,
    /// Bytes for windows and for samples on their way.
    pub budget: u64,
}

/// A place in the sequence of batches: what a checkpoint keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub epoch: u64,
    /// Number of the window in its epoch.
    pub window: u64,
    /// Where the window's first image lies: the place of its unit in the epoch's order, and its index in the unit.
    pub place: u64,
    pub index: u64,
    /// Images of the window that were used before.
    pub row: u64,
    /// What was read before the window.
    pub read: Tally,
}

/// What was read so far, all epochs together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Samples, unreadable ones included.
    pub samples: u64,
    /// Those of them that could not be read, by reason.
    pub rejects: BTreeMap<String, u64>,
}

impl Tally {
    /// Samples that could not be read.
    pub fn rejected(&self) -> u64 {
        self.rejects.values().sum()
    }
}

/// The images of one split of a dataset.
#[derive(Clone)]
pub struct Images {
    reader: Arc<dyn Reader>,
    units: Vec<Arc<Unit>>,
    preprocess: Preprocess,
    options: ImageOptions,
}

impl Images {
    /// The images of `units`, prepared one crop each: with [`Flip::Both`], the crop or its mirror image.
    ///
    /// # Errors
    /// [`ImagesError::Memory`].
    pub fn new(
        reader: Arc<dyn Reader>,
        units: Vec<Arc<Unit>>,
        preprocess: Preprocess,
        options: ImageOptions,
    ) -> Result<Images, ImagesError> {
        let preprocess = Preprocess { crops: 1, ..preprocess };
        let images = Images { reader, units, preprocess, options };
        let bytes = images.window_bytes();
        if bytes > options.budget / 2 {
            let bytes = crate::config::ByteSize(bytes);
            return Err(ImagesError::Memory { images: options.window, side: preprocess.size, bytes });
        }
        Ok(images)
    }

    /// The same images as they are validated: from the middle, not mirrored.
    pub fn centred(mut self) -> Images {
        self.preprocess = Preprocess { crop: CropMode::Center, flip: Flip::None, ..self.preprocess };
        self
    }

    /// Bytes that the windows take.
    pub fn window_bytes(&self) -> u64 {
        let side = u64::from(self.preprocess.size);
        (side * side).saturating_mul(3).saturating_mul(self.options.window.max(1)).saturating_mul(WINDOWS)
    }

    /// About how many images there are, by the mean size of the first ones: only reading all would tell exactly. None where
    /// these cannot be read.
    pub async fn estimate(&self) -> Option<u64> {
        let unit = self.units.first()?.clone();
        let (sender, entries) = Output::channel(1);
        let reader = self.reader.clone();
        let reading = tokio::spawn(async move { reader.read(&unit, &sender).await });
        let (mut found, mut size) = (0u64, 0u64);
        while found < LOOKED_AT
            && let Ok(entry) = entries.recv().await
        {
            found += 1;
            size += if let Entry::Sample(sample) = entry { sample.image.len() as u64 } else { 0 };
        }
        // Nobody listens any more, and the reader ends.
        drop(entries);
        let _ = reading.await;
        if found < LOOKED_AT {
            // Those are all of a unit, and units are alike.
            return Some(found * self.units.len() as u64).filter(|images| *images > 0);
        }
        // A source that several units share counts once.
        let sources = self.units.iter().flat_map(|unit| &unit.sources);
        let sizes: BTreeMap<&str, u64> = sources.map(|source| (source.path.as_str(), source.size)).collect();
        let all: u64 = sizes.values().sum();
        (size > 0).then(|| (all as f64 / size as f64 * found as f64).round() as u64)
    }

    /// Batches from `cursor` on, without end. Must be called on a tokio runtime, where the reading goes on.
    pub fn train(&self, cursor: Cursor) -> ImageFeed {
        ImageFeed::start(self, cursor, true)
    }

    /// All images once, in the dataset's order, the last batch smaller where it must be. Must be called on a tokio runtime.
    pub fn once(&self) -> ImageFeed {
        // Nothing is shuffled: a window need not be larger than a batch.
        let options = ImageOptions { window: self.options.batch as u64, ..self.options };
        ImageFeed::start(&Images { options, ..self.clone() }, Cursor::default(), false)
    }
}
