//! Windows: images that are in memory together and leave it in an order of their own.

use super::source::{Decoded, Turn};
use super::{ImagesError, Tally};
use crate::flow::{BoxError, Sink};
use crate::reject::Reject;
use std::sync::Arc;

/// Rejects that are told one by one; the others are counted.
const TOLD: u64 = 20;

/// Images of one epoch that follow one another.
#[derive(Debug, Default)]
pub struct Window {
    pub epoch: u64,
    /// Its number in the epoch.
    pub number: u64,
    /// Place and index of its first image; of nothing, if it is empty.
    pub start: (u64, u64),
    /// What was read before it, and when it was full.
    pub before: Tally,
    pub after: Tally,
    /// `[side, side, 3]` each, in the order they were read in.
    pub images: Vec<Vec<u8>>,
    /// Whether it is the epoch's last.
    pub last: bool,
}

pub type Sender = async_channel::Sender<Result<Window, ImagesError>>;

/// Fills windows and sends them on.
pub struct Windows {
    to: Sender,
    size: usize,
    /// The one that is being filled.
    window: Window,
    place: u64,
    read: Tally,
    told: u64,
}

impl Windows {
    /// Windows of `size` images, the first being number `number` of `epoch`, when this was `read` before.
    pub fn new(to: Sender, size: u64, (epoch, number): (u64, u64), read: Tally) -> Windows {
        let window = Window { epoch, number, before: read.clone(), ..Window::default() };
        Windows { to, size: usize::try_from(size).unwrap_or(usize::MAX).max(1), window, place: 0, read, told: 0 }
    }

    /// Sends the window at hand, and begins the next.
    async fn send(&mut self, last: bool) -> Result<(), BoxError> {
        let (epoch, number) = match last {
            true => (self.window.epoch + 1, 0),
            false => (self.window.epoch, self.window.number + 1),
        };
        let next = Window { epoch, number, before: self.read.clone(), ..Window::default() };
        let full = std::mem::replace(&mut self.window, next);
        let full = Window { after: self.read.clone(), last, ..full };
        self.to.send(Ok(full)).await.map_err(|_| "nobody trains any more".into())
    }
}

impl Sink<Turn, Decoded, Reject> for Windows {
    async fn begin(&mut self, turn: &Arc<Turn>) -> Result<(), BoxError> {
        if turn.epoch != self.window.epoch {
            self.send(true).await?;
        }
        self.place = turn.place;
        Ok(())
    }

    async fn row(&mut self, row: Decoded) -> Result<(), BoxError> {
        // Sent only when there is more, so that an epoch's last window is known for what it is.
        if self.window.images.len() >= self.size {
            self.send(false).await?;
        }
        if self.window.images.is_empty() {
            self.window.start = (self.place, row.index);
            self.window.before = self.read.clone();
        }
        self.read.samples += 1;
        self.window.images.push(row.pixels);
        Ok(())
    }

    async fn reject(&mut self, reject: Reject) -> Result<(), BoxError> {
        self.read.samples += 1;
        *self.read.rejects.entry(reject.reason.code().to_owned()).or_default() += 1;
        if self.told < TOLD {
            self.told += 1;
            let Reject { unit, key, reason, message, .. } = &reject;
            tracing::warn!("{key} of {unit} is left out ({reason}): {message}");
            if self.told == TOLD {
                tracing::warn!("further images that are left out are counted only");
            }
        }
        Ok(())
    }

    async fn end(&mut self, _: &Arc<Turn>) -> Result<(), BoxError> {
        Ok(())
    }

    async fn abort(&mut self, turn: &Arc<Turn>, error: &BoxError) -> Result<(), BoxError> {
        Err(format!("unit {} was given up: {error}", turn.unit.name).into())
    }

    async fn finish(&mut self) -> Result<(), BoxError> {
        self.send(true).await
    }
}
