//! The device stage: one OS thread that owns a model and the device it lives on.

use super::budget::Hold;
use super::engine::{Core, Flow, Run, Starter};
use super::error::{BoxError, FlowError};
use super::event::{Event, Inlet, Mark, Outlet, Parcel, channel};
use super::stats::{Kind, Meter, Stage, State};
use std::sync::Arc;
use tokio::sync::oneshot;

impl<U, T, R> Flow<U, Vec<T>, R>
where
    U: Send + Sync + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    /// Runs batches through a device, and takes them apart again: `step` returns one row for each row of its batch.
    ///
    /// `init` makes the state on the thread that will use it, where it stays until it is dropped: thread-local settings
    /// (gradient mode, OpenMP threads) made there hold for every step. The source is not read before `init` is done, and
    /// its error is [`FlowError::Init`].
    pub fn device<S, T2, I, F>(self, name: &'static str, init: I, mut step: F) -> Flow<U, T2, R>
    where
        T2: Send + 'static,
        I: FnOnce() -> Result<S, BoxError> + Send + 'static,
        F: FnMut(&mut S, Vec<T>) -> Result<Vec<T2>, BoxError> + Send + 'static,
    {
        self.device_rows(name, init, move |state, batch| Ok(step(state, batch)?.into_iter().map(Ok).collect()))
    }

    /// As [`Flow::device`], for a `step` that may reject single rows of a batch.
    pub fn device_rows<S, T2, I, F>(self, name: &'static str, init: I, mut step: F) -> Flow<U, T2, R>
    where
        T2: Send + 'static,
        I: FnOnce() -> Result<S, BoxError> + Send + 'static,
        F: FnMut(&mut S, Vec<T>) -> Result<Vec<Result<T2, R>>, BoxError> + Send + 'static,
    {
        // Room for the rows of a batch and the one before, so that the device does not wait for a sink that is busy with
        // the last batch.
        let room = usize::try_from(self.width.saturating_mul(2)).unwrap_or(usize::MAX).min(MAX_ROOM);
        let room = self.core.config.capacity.max(room);
        let flow = self.device_events(name, room, init, move |state, parcel, meter| {
            let (rows, hold) = compute(parcel, meter, |batch| step(state, batch))?;
            let event = |(result, hold)| match result {
                Ok(row) => Event::Row(Parcel::new(row, hold)),
                Err(reject) => Event::Mark(Mark::Reject(reject)),
            };
            let holds = hold.split(rows.len());
            Ok(rows.into_iter().zip(holds).map(event).collect())
        });
        // Taken apart, each row has its own bytes again.
        Flow { width: 1, ..flow }
    }

    /// As [`Flow::device`], for one of several devices in a row: its batches go on to the next one whole, of which one at most waits
    /// there.
    pub fn device_batches<S, T2, I, F>(self, name: &'static str, init: I, mut step: F) -> Flow<U, Vec<T2>, R>
    where
        T2: Send + 'static,
        I: FnOnce() -> Result<S, BoxError> + Send + 'static,
        F: FnMut(&mut S, Vec<T>) -> Result<Vec<T2>, BoxError> + Send + 'static,
    {
        self.device_events(name, 1, init, move |state, parcel, meter| {
            let (batch, hold) = compute(parcel, meter, |batch| step(state, batch))?;
            Ok(vec![Event::Row(Parcel::new(batch, hold))])
        })
    }

    /// A device whose batches become events, of which `room` may wait for the next stage.
    fn device_events<S, X, I, F>(self, name: &'static str, room: usize, init: I, step: F) -> Flow<U, X, R>
    where
        X: Send + 'static,
        I: FnOnce() -> Result<S, BoxError> + Send + 'static,
        F: FnMut(&mut S, Parcel<Vec<T>>, &Meter) -> Result<Vec<Event<U, X, R>>, FlowError> + Send + 'static,
    {
        let Flow { core, inlet, queue, mut starters, width, held } = self;
        let stage = core.add_stage(Stage::new(name, Kind::Device, 1, Some(queue)));
        let (outlet, output, queue) = channel(&core, room);
        let start = Box::new(move |run: &mut Run| {
            let ready = run.wait_for();
            let ends = Ends { core: run.core.clone(), inlet, outlet, meter: Meter::new(&run.core, &stage, 0) };
            run.thread(&stage, 0, ends, move |ends| {
                if let Some(mut state) = set_up(&ends.core, name, init, ready) {
                    ends.work(&mut state, step);
                }
            });
        });
        starters.push(Starter { start, kind: Kind::Device });
        Flow { core, inlet: output, queue, starters, width, held }
    }
}

/// No batch is that large; a channel's memory is allocated at once.
const MAX_ROOM: usize = 1 << 16;

fn set_up<S>(
    core: &Core,
    stage: &'static str,
    init: impl FnOnce() -> Result<S, BoxError>,
    ready: oneshot::Sender<()>,
) -> Option<S> {
    match init() {
        Ok(state) => {
            // Nobody listens any more when the run was stopped meanwhile: then the input is closed.
            let _ = ready.send(());
            Some(state)
        }
        Err(source) => {
            core.fail(FlowError::Init { stage, source });
            None
        }
    }
}

struct Ends<U, T, X, R> {
    core: Arc<Core>,
    inlet: Inlet<Event<U, Vec<T>, R>>,
    outlet: Outlet<Event<U, X, R>>,
    meter: Meter,
}

impl<U, T, X, R> Ends<U, T, X, R> {
    /// All batches, until the input ends.
    fn work<S, F>(&self, state: &mut S, mut step: F)
    where
        F: FnMut(&mut S, Parcel<Vec<T>>, &Meter) -> Result<Vec<Event<U, X, R>>, FlowError>,
    {
        while let Some(event) = self.inlet.recv(&self.meter) {
            let sent = match event {
                Event::Mark(mark) => self.outlet.send(Event::Mark(mark), &self.meter),
                Event::Row(parcel) => match step(state, parcel, &self.meter) {
                    Ok(events) => events.into_iter().try_for_each(|event| self.outlet.send(event, &self.meter)),
                    Err(error) => return self.core.fail(error),
                },
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

/// What the rows of a batch became, one each, and the bytes of the budget they hold together.
fn compute<T, X>(
    parcel: Parcel<Vec<T>>,
    meter: &Meter,
    step: impl FnOnce(Vec<T>) -> Result<Vec<X>, BoxError>,
) -> Result<(Vec<X>, Hold), FlowError> {
    let stage = meter.stage();
    let (batch, hold) = parcel.open();
    let given = batch.len();
    meter.enter(State::Busy);
    let results = step(batch);
    meter.enter(State::Blocked);
    let results = results.map_err(|source| FlowError::Failed { stage, source })?;
    if results.len() != given {
        let message = format!("it was given a batch of {given} rows and returned {}", results.len());
        return Err(FlowError::Protocol { stage, message });
    }
    meter.count(given);
    Ok((results, hold))
}
