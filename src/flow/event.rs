//! What runs through the channels, and the two ends of a channel.

use super::budget::Hold;
use super::engine::Core;
use super::error::{BoxError, Stopped};
use super::stats::{Meter, State};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// One event of the stream.
pub(super) enum Event<U, T, R> {
    Row(Parcel<T>),
    Mark(Mark<U, R>),
}

/// An event that stages pass on untouched.
pub(super) enum Mark<U, R> {
    Begin(Arc<U>),
    Reject(R),
    End(Arc<U>),
    Abort(Arc<U>, BoxError),
    /// The input is complete. A channel that closes without it was cut off by an error.
    Done,
}

/// A row with its share of the byte budget.
pub(super) struct Parcel<T> {
    value: T,
    hold: Hold,
    /// The place of a batch in its channel; free again once the batch is taken out.
    ticket: Option<OwnedSemaphorePermit>,
}

impl<T> Parcel<T> {
    pub fn new(value: T, hold: Hold) -> Parcel<T> {
        Parcel { value, hold, ticket: None }
    }

    pub fn with_ticket(value: T, hold: Hold, ticket: Option<OwnedSemaphorePermit>) -> Parcel<T> {
        Parcel { value, hold, ticket }
    }

    /// Takes the row out of its channel.
    pub fn open(self) -> (T, Hold) {
        drop(self.ticket);
        (self.value, self.hold)
    }
}

/// The sending end of a channel. The channel closes when the last clone is dropped, or when the run is stopped.
pub(super) struct Outlet<X> {
    sender: async_channel::Sender<X>,
}

impl<X> Clone for Outlet<X> {
    fn clone(&self) -> Outlet<X> {
        Outlet { sender: self.sender.clone() }
    }
}

impl<X> Outlet<X> {
    /// Sends from a thread that may block.
    pub fn send(&self, event: X, meter: &Meter) -> Result<(), Stopped> {
        meter.enter(State::Blocked);
        self.sender.send_blocking(event).map_err(|_| Stopped)
    }

    /// Sends from a task.
    pub async fn send_async(&self, event: X, meter: &Meter) -> Result<(), Stopped> {
        meter.enter(State::Blocked);
        self.sender.send(event).await.map_err(|_| Stopped)
    }

    /// Sends from outside the user's function, whose stopwatch has stopped.
    pub async fn send_last(&self, event: X) -> Result<(), Stopped> {
        self.sender.send(event).await.map_err(|_| Stopped)
    }
}

/// The receiving end of a channel.
pub(super) struct Inlet<X> {
    receiver: async_channel::Receiver<X>,
    core: Arc<Core>,
}

impl<X> Inlet<X> {
    /// Receives on a thread that may block; `None` when the channel is closed and empty, or the run is stopped.
    pub fn recv(&self, meter: &Meter) -> Option<X> {
        meter.enter(State::Starved);
        let event = self.receiver.recv_blocking().ok();
        self.arrived(event)
    }

    /// Receives in a task; `None` as for [`Inlet::recv`].
    pub async fn recv_async(&self, meter: &Meter) -> Option<X> {
        meter.enter(State::Starved);
        let event = self.receiver.recv().await.ok();
        self.arrived(event)
    }

    /// A closed channel still gives out what it holds: not after a stop.
    fn arrived(&self, event: Option<X>) -> Option<X> {
        if self.core.is_stopped() {
            return None;
        }
        self.core.count_move();
        event
    }
}

/// A channel that closes when the run is stopped, and a function that tells how many events wait in it.
pub(super) fn channel<X: Send + 'static>(core: &Arc<Core>, capacity: usize) -> (Outlet<X>, Inlet<X>, Queue) {
    let (sender, receiver) = async_channel::bounded(capacity.max(1));
    let weak = sender.downgrade();
    core.on_stop(Box::new(move || {
        // With no sender left the channel is closed already.
        if let Some(sender) = weak.upgrade() {
            sender.close();
        }
    }));
    let weak = sender.downgrade();
    let queue = Box::new(move || weak.upgrade().map_or(0, |sender| sender.len()));
    (Outlet { sender }, Inlet { receiver, core: core.clone() }, queue)
}

/// How many events wait in a stage's input.
pub(super) type Queue = Box<dyn Fn() -> usize + Send + Sync>;
