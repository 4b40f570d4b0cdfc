//! Groups rows into batches.

use super::budget::Hold;
use super::engine::{Flow, Run, Starter};
use super::error::{FlowError, Stopped};
use super::event::{Event, Inlet, Mark, Outlet, Parcel, channel};
use super::stats::{Kind, Meter, Stage, State};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

impl<U, T, R> Flow<U, T, R>
where
    U: Send + Sync + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    /// Groups rows into batches of `rows` (at least one). A batch never spans units: the last one of a unit may be smaller,
    /// so a unit's batches depend on the unit alone. The rows of an aborted unit that wait for a full batch are dropped.
    ///
    /// Rejects do not wait for the batch that is being filled: within its unit a reject may overtake up to `rows - 1` rows.
    ///
    /// At most one complete batch waits for the next stage; the one after is not begun before that one is taken.
    pub fn batch(self, rows: usize) -> Flow<U, Vec<T>, R> {
        let Flow { core, inlet, queue, mut starters, width, held } = self;
        let rows = rows.max(1);
        let stage = core.add_stage(Stage::new("batch", Kind::Batch, 1, Some(queue)));
        let (outlet, output, queue) = channel(&core, 1);
        let place = Arc::new(Semaphore::new(1));
        let closer = place.clone();
        core.on_stop(Box::new(move || closer.close()));
        let start = Box::new(move |run: &mut Run| {
            let meter = Meter::new(&run.core, &stage, 0);
            let core = run.core.clone();
            let mut batcher =
                Batcher { rows, batch: Vec::new(), holds: Vec::new(), place, ticket: None, outlet, meter };
            run.task(stage.name(), async move {
                // The batcher and its channels outlive a panic (of a row's `drop`), as in `Run::thread`.
                if let Err(payload) = AssertUnwindSafe(batcher.work(&inlet)).catch_unwind().await {
                    core.fail(FlowError::panicked(stage.name(), &*payload));
                }
            });
        });
        starters.push(Starter { start, kind: Kind::Batch });
        let width = width.saturating_mul(rows as u64);
        Flow { core, inlet: output, queue, starters, width, held: held.saturating_add(width) }
    }
}

/// The batch being filled.
struct Batcher<U, T, R> {
    rows: usize,
    batch: Vec<T>,
    holds: Vec<Hold>,
    /// The one place for a complete batch.
    place: Arc<Semaphore>,
    ticket: Option<OwnedSemaphorePermit>,
    outlet: Outlet<Event<U, Vec<T>, R>>,
    meter: Meter,
}

impl<U, T, R> Batcher<U, T, R> {
    async fn work(&mut self, inlet: &Inlet<Event<U, T, R>>) -> Result<(), Stopped> {
        loop {
            if self.ticket.is_none() {
                self.meter.enter(State::Blocked);
                self.ticket = Some(self.place.clone().acquire_owned().await.map_err(|_| Stopped)?);
            }
            let Some(event) = inlet.recv_async(&self.meter).await else { return Ok(()) };
            match event {
                Event::Row(parcel) => self.push(parcel).await?,
                Event::Mark(mark) => {
                    match mark {
                        Mark::End(_) => self.flush().await?,
                        Mark::Abort(..) => self.clear(),
                        Mark::Begin(_) | Mark::Reject(_) | Mark::Done => {}
                    }
                    self.outlet.send_async(Event::Mark(mark), &self.meter).await?;
                }
            }
        }
    }

    async fn push(&mut self, parcel: Parcel<T>) -> Result<(), Stopped> {
        let (row, hold) = parcel.open();
        self.batch.push(row);
        self.holds.push(hold);
        self.meter.count(1);
        if self.batch.len() == self.rows { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Stopped> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let hold = Hold::batch(std::mem::take(&mut self.holds));
        let parcel = Parcel::with_ticket(std::mem::take(&mut self.batch), hold, self.ticket.take());
        self.outlet.send_async(Event::Row(parcel), &self.meter).await
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.holds.clear();
    }
}
