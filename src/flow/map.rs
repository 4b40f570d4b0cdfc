//! The ordered parallel map.

use super::engine::{Core, Flow, Run, Starter, lock};
use super::error::Stopped;
use super::event::{Event, Inlet, Mark, Outlet, Parcel, channel};
use super::reorder::Reorder;
use super::stats::{Kind, Meter, Stage, State};
use std::sync::{Arc, Mutex};

/// Result slots a worker may be ahead of the slowest row, times the number of workers. Decoding times of photographs
/// differ by a factor of about ten, but rarely twice in a row.
const SLOTS_PER_WORKER: usize = 4;

impl<U, T, R> Flow<U, T, R>
where
    U: Send + Sync + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    /// Calls `f` on every row, on `workers` OS threads (at least one); the results leave in the order of the rows. `f` may
    /// block and compute. One row may become several, rejects among them, or none; they share its byte permit.
    pub fn map<T2, F>(self, name: &'static str, workers: usize, f: F) -> Flow<U, T2, R>
    where
        T2: Send + 'static,
        F: Fn(T) -> Vec<Result<T2, R>> + Send + Sync + 'static,
    {
        let Flow { core, inlet, queue, mut starters, width, held } = self;
        let workers = workers.max(1);
        let stage = core.add_stage(Stage::new(name, Kind::Map, workers, Some(queue)));
        let (outlet, output, queue) = channel(&core, core.config.capacity);
        let start = Box::new(move |run: &mut Run| {
            let reorder = new_reorder(&run.core, workers * SLOTS_PER_WORKER);
            let shared = Arc::new(Shared { input: Mutex::new(Input { inlet, next: 0 }), reorder, f });
            for index in 0..workers {
                let ends = (shared.clone(), outlet.clone(), Meter::new(&run.core, &stage, index));
                run.thread(&stage, index, ends, |(shared, outlet, meter)| {
                    // Stopped: the run has its error already.
                    let _ = shared.work(outlet, meter);
                });
            }
        });
        starters.push(Starter { start, kind: Kind::Map });
        Flow { core, inlet: output, queue, starters, width, held }
    }
}

fn new_reorder<X: Send + 'static>(core: &Core, window: usize) -> Arc<Reorder<X>> {
    let reorder = Arc::new(Reorder::new(window));
    let weak = Arc::downgrade(&reorder);
    core.on_stop(Box::new(move || {
        if let Some(reorder) = weak.upgrade() {
            reorder.stop();
        }
    }));
    reorder
}

/// What the workers of one map share.
struct Shared<U, T, T2, R, F> {
    /// Only who holds it receives, so that numbers follow the order of events.
    input: Mutex<Input<Event<U, T, R>>>,
    reorder: Arc<Reorder<Output<U, T2, R>>>,
    f: F,
}

struct Input<X> {
    inlet: Inlet<X>,
    next: u64,
}

/// What one event became.
enum Output<U, T2, R> {
    Mark(Mark<U, R>),
    Rows(Vec<Event<U, T2, R>>),
}

impl<U, T, T2, R, F> Shared<U, T, T2, R, F>
where
    F: Fn(T) -> Vec<Result<T2, R>>,
{
    /// One worker, until the input ends.
    fn work(&self, outlet: &Outlet<Event<U, T2, R>>, meter: &Meter) -> Result<(), Stopped> {
        while let Some((number, event)) = self.take(meter) {
            let output = match event {
                Event::Mark(mark) => Output::Mark(mark),
                Event::Row(parcel) => Output::Rows(self.apply(parcel, meter)),
            };
            meter.enter(State::Blocked);
            self.reorder.put(number, output, |output| match output {
                Output::Mark(mark) => outlet.send(Event::Mark(mark), meter),
                Output::Rows(events) => events.into_iter().try_for_each(|event| outlet.send(event, meter)),
            })?;
        }
        Ok(())
    }

    fn take(&self, meter: &Meter) -> Option<(u64, Event<U, T, R>)> {
        meter.enter(State::Starved);
        let mut input = lock(&self.input);
        let event = input.inlet.recv(meter)?;
        let number = input.next;
        input.next += 1;
        Some((number, event))
    }

    fn apply(&self, parcel: Parcel<T>, meter: &Meter) -> Vec<Event<U, T2, R>> {
        let (row, hold) = parcel.open();
        meter.enter(State::Busy);
        let results = (self.f)(row);
        meter.enter(State::Blocked);
        meter.count(1);
        let event = |result| match result {
            Ok(row) => Event::Row(Parcel::new(row, hold.clone())),
            Err(reject) => Event::Mark(Mark::Reject(reject)),
        };
        results.into_iter().map(event).collect()
    }
}
