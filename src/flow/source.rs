//! The source: reads units and sends their rows, as fast as the byte budget lets it.

use super::engine::{Core, Engine, Flow, Run, Starter};
use super::error::{BoxError, FlowError, Stopped};
use super::event::{Event, Mark, Outlet, Parcel, channel};
use super::stats::{Kind, Meter, Stage, State};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl<U, T, R> Flow<U, T, R>
where
    U: Send + Sync + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    /// A flow that starts with what `read` emits. `cost` is a row's size in bytes, as it counts against the budget on its
    /// whole way to the sink: the largest form it takes there.
    ///
    /// `read` runs as one task, and is not called before every device is ready. When the run is stopped its future is
    /// dropped where it stands. An error of `read` is the run's; a unit that fails alone is [aborted](Emitter::abort).
    pub fn source<C, F, Fut>(engine: &Engine, name: &'static str, cost: C, read: F) -> Flow<U, T, R>
    where
        C: Fn(&T) -> u64 + Send + 'static,
        F: FnOnce(Emitter<U, T, R>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let core = engine.core.clone();
        let (outlet, inlet, queue) = channel(&core, core.config.capacity);
        let stage = core.add_stage(Stage::new(name, Kind::Source, 1, None));
        let start = Box::new(move |run: &mut Run| {
            let meter = Meter::new(&run.core, &stage, 0);
            let emitter = Emitter {
                core: run.core.clone(),
                meter,
                cost: Box::new(cost),
                share: run.share,
                unit: None,
                open: Arc::new(AtomicBool::new(false)),
                outlet,
            };
            run.task(name, run_source(run.core.clone(), name, emitter, read));
        });
        let starters = vec![Starter { start, kind: Kind::Source }];
        Flow { core, inlet, queue, starters, width: 1, held: 1 }
    }
}

async fn run_source<U, T, R, F, Fut>(core: Arc<Core>, name: &'static str, emitter: Emitter<U, T, R>, read: F)
where
    F: FnOnce(Emitter<U, T, R>) -> Fut,
    Fut: Future<Output = Result<(), BoxError>>,
{
    let (outlet, open) = (emitter.outlet.clone(), emitter.open.clone());
    // Inside the caught future, because `read` itself may panic before it returns its future.
    let reading = AssertUnwindSafe(async move {
        emitter.meter.enter(State::Busy);
        read(emitter).await
    });
    let result = tokio::select! {
        biased;
        () = core.stop.cancelled() => return,
        result = reading.catch_unwind() => result,
    };
    match result {
        Err(payload) => core.fail(FlowError::panicked(name, &*payload)),
        Ok(Err(source)) => core.fail(FlowError::Failed { stage: name, source }),
        // The emitter lives on in some task of the user's: what it would send cannot be waited for.
        Ok(Ok(())) if Arc::strong_count(&open) > 1 => {
            core.fail(FlowError::protocol(name, "it returned, but its emitter was not dropped"));
        }
        Ok(Ok(())) if open.load(Ordering::Relaxed) => core.fail(FlowError::protocol(name, "it left a unit open")),
        // Fails only when the run was stopped, which has its error already.
        Ok(Ok(())) => drop(outlet.send_last(Event::Mark(Mark::Done)).await),
    }
}

/// The sending side of a source: units, one after the other, and what is in them.
///
/// Its methods wait while the flow is full, and fail with [`Stopped`] once the run is over: `?` out of the source then.
/// Events in a wrong order (a row outside a unit, a unit inside a unit) fail the run.
pub struct Emitter<U, T, R> {
    core: Arc<Core>,
    meter: Meter,
    cost: Box<dyn Fn(&T) -> u64 + Send>,
    share: u64,
    unit: Option<Arc<U>>,
    /// Whether a unit is open, as seen from outside the user's future.
    open: Arc<AtomicBool>,
    outlet: Outlet<Event<U, T, R>>,
}

impl<U, T, R> Emitter<U, T, R> {
    /// Begins a unit.
    pub async fn begin(&mut self, unit: Arc<U>) -> Result<(), Stopped> {
        if self.unit.is_some() {
            return Err(self.broken("it began a unit inside a unit"));
        }
        self.unit = Some(unit.clone());
        self.open.store(true, Ordering::Relaxed);
        self.send(Event::Mark(Mark::Begin(unit))).await
    }

    /// Sends a row of the unit, once its bytes fit into the budget.
    pub async fn row(&mut self, row: T) -> Result<(), Stopped> {
        if self.unit.is_none() {
            return Err(self.broken("it sent a row outside a unit"));
        }
        let bytes = (self.cost)(&row);
        self.meter.enter(State::Blocked);
        let hold = self.core.budget.take(bytes.min(self.share), &self.core.stop).await.ok_or(Stopped)?;
        self.send(Event::Row(Parcel::new(row, hold))).await?;
        self.meter.count(1);
        Ok(())
    }

    /// Sends a reject of the unit.
    pub async fn reject(&mut self, reject: R) -> Result<(), Stopped> {
        if self.unit.is_none() {
            return Err(self.broken("it sent a reject outside a unit"));
        }
        self.send(Event::Mark(Mark::Reject(reject))).await
    }

    /// Ends the unit: all its rows were sent.
    pub async fn end(&mut self) -> Result<(), Stopped> {
        match self.close() {
            Some(unit) => self.send(Event::Mark(Mark::End(unit))).await,
            None => Err(self.broken("it ended a unit that was not begun")),
        }
    }

    /// Gives the unit up: it could not be read to its end. Its partial output is dropped, the run goes on, and the
    /// [`Report`](super::Report) lists the unit with `error`.
    pub async fn abort(&mut self, error: impl Into<BoxError>) -> Result<(), Stopped> {
        match self.close() {
            Some(unit) => self.send(Event::Mark(Mark::Abort(unit, error.into()))).await,
            None => Err(self.broken("it aborted a unit that was not begun")),
        }
    }

    /// Counts bytes of input, for [`Snapshot::bytes`](super::Snapshot::bytes). Not the rows' costs: those are memory.
    pub fn input(&self, bytes: u64) {
        self.core.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn close(&mut self) -> Option<Arc<U>> {
        self.open.store(false, Ordering::Relaxed);
        self.unit.take()
    }

    async fn send(&mut self, event: Event<U, T, R>) -> Result<(), Stopped> {
        self.outlet.send_async(event, &self.meter).await?;
        self.core.count_move();
        self.meter.enter(State::Busy);
        Ok(())
    }

    fn broken(&self, what: &str) -> Stopped {
        self.core.fail(FlowError::protocol(self.meter.stage(), what));
        Stopped
    }
}
