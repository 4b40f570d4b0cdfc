//! Batches on their way from the reading tasks to the thread that trains.

use super::source::{self, Turn};
use super::window::{Window, Windows};
use super::{Cursor, Images, ImagesError, Tally};
use crate::flow::{Engine, EngineConfig, Flow, FlowError};
use crate::random::{Purpose, RowKey};
use crate::training::loader::permutation;
use std::time::{Duration, Instant};

/// The images of one forward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBatch {
    /// Where the batch after it begins.
    pub next: Cursor,
    /// What had been read when it was there.
    pub read: Tally,
    /// `[images, side, side, 3]`.
    pub pixels: Vec<u8>,
    pub images: usize,
}

/// A stream of batches for a thread that may block. Dropped, it stops reading.
pub struct ImageFeed {
    windows: async_channel::Receiver<Result<Window, ImagesError>>,
    engine: Engine,
    batch: usize,
    /// Of the windows' orders; none keeps them.
    seed: Option<u64>,
    window: Window,
    /// The order of its images, and how many of them are used.
    order: Vec<usize>,
    used: usize,
    /// Images of the first window that were used before this feed began.
    skip: usize,
    /// Whether a batch of this epoch was seen, here or before the feed began.
    seen: bool,
    waited: Duration,
}

impl ImageFeed {
    pub(super) fn start(images: &Images, cursor: Cursor, forever: bool) -> ImageFeed {
        let options = images.options;
        let (to, windows) = async_channel::bounded(1);
        let budget_bytes = options.budget.saturating_sub(images.window_bytes()).max(1);
        // Training is slower than reading: the watchdog would call that a standstill.
        let engine = Engine::new(EngineConfig { budget_bytes, watchdog: None, ..EngineConfig::default() });
        let mut sink = Windows::new(to.clone(), options.window, (cursor.epoch, cursor.window), cursor.read.clone());
        let preprocess = images.preprocess;
        let seed = options.seed;
        let (source, start) = (images.clone(), (cursor.epoch, cursor.place, cursor.index));
        let flow = Flow::source(
            &engine,
            "read",
            move |encoded: &source::Encoded| source::cost(encoded, &preprocess),
            move |out| source::read(source, start, forever, out),
        )
        .map("decode", options.workers, move |encoded| source::decode(encoded, &preprocess, seed));
        tokio::spawn(async move {
            let ended: Result<crate::flow::Report<Turn>, FlowError> = flow.sink("window", &mut sink).await;
            if let Err(error) = ended {
                // Where nobody listens any more, nobody misses it.
                let _ = to.send(Err(error.into())).await;
            }
        });
        ImageFeed {
            windows,
            engine,
            batch: options.batch.max(1),
            seed: forever.then_some(seed),
            window: Window::default(),
            order: Vec::new(),
            used: 0,
            skip: usize::try_from(cursor.row).unwrap_or(usize::MAX),
            seen: cursor.row > 0 || cursor.window > 0,
            waited: Duration::ZERO,
        }
    }

    /// The next batch; none at the end of a single pass. Blocks the thread until it is there.
    ///
    /// # Errors
    /// What went wrong while reading; an epoch without a batch.
    pub fn next_batch(&mut self) -> Result<Option<ImageBatch>, ImagesError> {
        let mut pixels = Vec::new();
        let mut images = 0;
        loop {
            while let Some(at) = self.order.get(self.used)
                && images < self.batch
            {
                pixels.extend_from_slice(self.window.images.get(*at).map_or(&[][..], Vec::as_slice));
                images += 1;
                self.used += 1;
            }
            if images == self.batch {
                self.seen = true;
                return Ok(Some(self.filled(pixels, images)));
            }
            let ended = self.window.last;
            if ended && self.seed.is_some() {
                if !self.seen {
                    return Err(ImagesError::TooFew { images: images as u64, batch: self.batch });
                }
                // What is left over are other images in every epoch.
                (images, self.seen) = (0, false);
                pixels.clear();
            }
            if !self.advance()? {
                return Ok((images > 0).then(|| self.filled(pixels, images)));
            }
        }
    }

    /// How long [`next_batch`](ImageFeed::next_batch) has waited in all.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Takes the next window; false at the end.
    fn advance(&mut self) -> Result<bool, ImagesError> {
        let start = Instant::now();
        let next = self.windows.recv_blocking();
        self.waited += start.elapsed();
        let Ok(next) = next else {
            self.order.clear();
            return Ok(false);
        };
        self.window = next?;
        let count = self.window.images.len();
        self.order = match self.seed {
            Some(seed) => {
                let number = u32::try_from(self.window.number).unwrap_or(u32::MAX);
                permutation(RowKey::new(seed, "order of images", self.window.epoch, number), Purpose::Shuffle, count)
            }
            None => (0..count).collect(),
        };
        self.used = std::mem::take(&mut self.skip).min(count);
        Ok(true)
    }

    fn filled(&self, pixels: Vec<u8>, images: usize) -> ImageBatch {
        let Window { epoch, number, start, before, after, .. } = &self.window;
        let next = Cursor {
            epoch: *epoch,
            window: *number,
            place: start.0,
            index: start.1,
            row: self.used as u64,
            read: before.clone(),
        };
        ImageBatch { next, read: after.clone(), pixels, images }
    }
}

impl Drop for ImageFeed {
    fn drop(&mut self) {
        self.engine.cancel();
        self.windows.close();
    }
}
