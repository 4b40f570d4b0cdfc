//! Batches on their way from the reading tasks to the thread that trains.

use super::order::rows;
use super::{Batch, Loader, LoaderError, Position, Rows};
use crate::random::RowKey;
use futures::StreamExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Batches that are ready before they are asked for.
const READY: usize = 4;

/// A stream of batches for a thread that may block. Dropped, it stops reading.
pub struct Feed {
    batches: async_channel::Receiver<Result<Batch, LoaderError>>,
    task: JoinHandle<()>,
    waited: Duration,
}

impl Feed {
    pub(super) fn start(loader: Arc<Loader>, position: Position, seed: Option<u64>) -> Feed {
        let (sender, batches) = async_channel::bounded(READY);
        let task = tokio::spawn(async move {
            if let Err(error) = send(&loader, position, seed, &sender).await {
                // Where nobody listens any more, nobody misses it.
                let _ = sender.send(Err(error)).await;
            }
        });
        Feed { batches, task, waited: Duration::ZERO }
    }

    /// The next batch; none at the end of a pass that has one. Blocks the thread until it is there.
    ///
    /// # Errors
    /// What went wrong while reading; the feed has ended then.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, LoaderError> {
        let start = Instant::now();
        let next = self.batches.recv_blocking();
        self.waited += start.elapsed();
        next.ok().transpose()
    }

    /// How long [`next_batch`](Feed::next_batch) has waited in all.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Sender = async_channel::Sender<Result<Batch, LoaderError>>;

/// Sends batches from `position` on: for ever with a `seed`, else one pass.
async fn send(loader: &Arc<Loader>, position: Position, seed: Option<u64>, to: &Sender) -> Result<(), LoaderError> {
    let steps = loader.steps().max(1);
    // A position behind the end of an epoch is one of the next.
    let mut epoch = position.epoch + position.step / steps;
    let mut step = position.step % steps;
    loop {
        send_epoch(loader, Position { epoch, step }, seed, to).await?;
        if seed.is_none() || to.is_closed() {
            return Ok(());
        }
        (epoch, step) = (epoch + 1, 0);
    }
}

async fn send_epoch(loader: &Arc<Loader>, from: Position, seed: Option<u64>, to: &Sender) -> Result<(), LoaderError> {
    let batch = loader.options.batch.max(1);
    let first = from.step * batch as u64;
    let windows = loader.windows(seed, from.epoch).into_iter().filter(|window| window.first + window.rows > first);
    let tasks = windows.map(|window| {
        let loader = loader.clone();
        // On its own, so that it is read while the window before it is used up.
        let task = AbortOnDrop(tokio::spawn(async move { loader.read(&window).await.map(|rows| (window, rows)) }));
        async move {
            let mut task = task;
            (&mut task.0).await.unwrap_or_else(|error| Err(LoaderError::Stopped(error.to_string())))
        }
    });
    let mut tasks = futures::stream::iter(tasks).buffered(loader.options.ahead + 1);
    let mut building = Builder::new(loader, from, seed);
    while let Some(window) = tasks.next().await {
        let (window, read) = window?;
        let order = rows(&window, seed, read.labels.len());
        let skip = first.saturating_sub(window.first) as usize;
        for row in order.into_iter().skip(skip) {
            if let Some(batch) = building.add(&read, row)
                && to.send(Ok(batch)).await.is_err()
            {
                return Ok(());
            }
        }
    }
    // Training drops what is left of an epoch; a single pass has every row.
    if seed.is_none() && !building.batch.is_empty() {
        let _ = to.send(Ok(building.batch)).await;
    }
    Ok(())
}

/// A task that ends with whom it works for.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The batch at hand.
struct Builder {
    batch: Batch,
    size: usize,
    tokens: usize,
    /// What the rows' random numbers are of: the epoch.
    unit: String,
    seed: u64,
    /// Rows of the epoch before the next one.
    row: u64,
}

impl Builder {
    fn new(loader: &Loader, from: Position, seed: Option<u64>) -> Builder {
        let size = loader.options.batch.max(1);
        Builder {
            batch: Batch::new(from),
            size,
            tokens: loader.provenance().tokens(),
            unit: format!("training epoch {}", from.epoch),
            seed: seed.unwrap_or(loader.options.seed),
            row: from.step * size as u64,
        }
    }

    /// Adds a row; gives the batch that is full with it.
    fn add(&mut self, rows: &Rows, row: usize) -> Option<Batch> {
        let start = row * self.tokens;
        let (tokens, label) = (rows.tokens.get(start..start + self.tokens)?, *rows.labels.get(row)?);
        let batch = &mut self.batch;
        batch.tokens.extend_from_slice(tokens);
        batch.labels.push(label);
        batch.captions.push(rows.captions.get(row).cloned().flatten());
        // The same image is another row in another epoch, with noise of its own.
        batch.rows.push(RowKey::new(self.seed, &self.unit, self.row, 0));
        self.row += 1;
        if batch.len() < self.size {
            return None;
        }
        let next = Position { step: batch.position.step + 1, ..batch.position };
        Some(std::mem::replace(batch, Batch::new(next)))
    }
}
