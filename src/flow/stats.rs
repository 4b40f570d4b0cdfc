//! Where the time goes: busy, starved and blocked, for every worker of every stage.

use super::engine::Core;
use super::event::Queue;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What kind of stage it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Source,
    Map,
    Batch,
    Device,
    Sink,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not started, or finished.
    Idle,
    Busy,
    Starved,
    Blocked,
}

impl State {
    const ALL: [State; 4] = [State::Idle, State::Busy, State::Starved, State::Blocked];
}

/// A stage's figures at one moment.
///
/// A stage's time is that of all its workers: `workers * wall`. It splits into
///
/// - **busy**: inside the user's function. A source is busy whenever it is not waiting in its [`Emitter`](super::Emitter):
///   its time is the store's. A batch stage has no function and is never busy.
/// - **starved**: from asking for an event until it is there. Workers of one map share an input, so waiting for a turn at it
///   counts too.
/// - **blocked**: from having a result until it is handed on: waiting for room downstream, for the byte budget (source),
///   for the next batch's place (batch), or, in a map, for a slower worker with an earlier row. A sink is never blocked.
/// - the rest: before its start and after its end.
#[derive(Clone, Debug)]
pub struct StageSnapshot {
    pub name: &'static str,
    pub kind: Kind,
    /// Threads or tasks of the stage.
    pub workers: usize,
    pub busy: Duration,
    pub starved: Duration,
    pub blocked: Duration,
    /// From the first call of the stage's function to the end of the last: the time its input lasted.
    pub active: Duration,
    /// Rows the stage has dealt with (for a source: sent).
    pub items: u64,
    /// Events that wait in its input.
    pub queue: usize,
    /// Workers inside the user's function at this moment, and for how long the longest.
    pub inside: usize,
    pub inside_for: Duration,
}

impl StageSnapshot {
    /// Busy time as a fraction of `workers * wall`.
    pub fn busy_share(&self, wall: Duration) -> f64 {
        self.share(self.busy, wall)
    }

    /// Starved time as a fraction of `workers * wall`.
    pub fn starved_share(&self, wall: Duration) -> f64 {
        self.share(self.starved, wall)
    }

    /// Blocked time as a fraction of `workers * wall`.
    pub fn blocked_share(&self, wall: Duration) -> f64 {
        self.share(self.blocked, wall)
    }

    /// Busy time as a fraction of the time input lasted, from the stage's first row to its last.
    pub fn busy_while_fed(&self) -> f64 {
        self.share(self.busy, self.active)
    }

    /// A stage that has done nothing yet.
    #[cfg(test)]
    pub(crate) fn idle(name: &'static str, kind: Kind, workers: usize) -> StageSnapshot {
        Stage::new(name, kind, workers, None).snapshot(0, u64::MAX)
    }

    fn share(&self, part: Duration, whole: Duration) -> f64 {
        let whole = whole.as_secs_f64() * self.workers.max(1) as f64;
        if whole > 0.0 { (part.as_secs_f64() / whole).min(1.0) } else { 0.0 }
    }
}

/// The whole run's figures at one moment. While workers run, times may be off by a state change in progress; after the
/// run they are exact.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Time since the devices were ready and the source was started.
    pub wall: Duration,
    /// Units the sink has begun, ended and aborted.
    pub units_begun: u64,
    pub units_ended: u64,
    pub units_aborted: u64,
    /// Rows and rejects the sink has dealt with.
    pub rows: u64,
    pub rejects: u64,
    /// Bytes of input, as far as the source tells ([`Emitter::input`](super::Emitter::input)).
    pub bytes: u64,
    /// Bytes of the budget in use now, the most there ever were, and the budget.
    pub in_flight: u64,
    pub peak: u64,
    pub budget: u64,
    /// Events received by any stage: the watchdog's sign of life.
    pub moves: u64,
    /// The flow's OS threads that are alive.
    pub threads: usize,
    /// The stages, from the source to the sink.
    pub stages: Vec<StageSnapshot>,
}

/// The run's counters. The sink owns most of them.
#[derive(Default)]
pub(super) struct Counters {
    pub units_begun: AtomicU64,
    pub units_ended: AtomicU64,
    pub units_aborted: AtomicU64,
    pub rows: AtomicU64,
    pub rejects: AtomicU64,
    pub bytes: AtomicU64,
    pub moves: AtomicU64,
    pub threads: AtomicUsize,
}

/// A stage's clockwork.
pub(super) struct Stage {
    name: &'static str,
    kind: Kind,
    /// What each worker does, and since when: `nanoseconds << 2 | state`.
    workers: Vec<AtomicU64>,
    /// Nanoseconds spent in each state.
    spent: [AtomicU64; 4],
    /// When the function was first called, and when it last returned, in nanoseconds.
    first: AtomicU64,
    last: AtomicU64,
    items: AtomicU64,
    queue: Mutex<Option<Queue>>,
}

impl Stage {
    pub fn new(name: &'static str, kind: Kind, workers: usize, queue: Option<Queue>) -> Stage {
        Stage {
            name,
            kind,
            workers: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            spent: Default::default(),
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
            items: AtomicU64::new(0),
            queue: Mutex::new(queue),
        }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Forgets the input channel, and with it the rows a stopped run left there.
    pub fn release_queue(&self) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The figures at `now`, of a run that was started at `started`.
    pub fn snapshot(&self, now: u64, started: u64) -> StageSnapshot {
        let mut spent = State::ALL.map(|state| self.spent[state as usize].load(Ordering::Relaxed));
        let (mut inside, mut inside_for) = (0, 0);
        for worker in &self.workers {
            let (state, since) = unpack(worker.load(Ordering::Relaxed));
            let lasted = now.saturating_sub(since.max(started));
            spent[state as usize] += lasted;
            if state == State::Busy {
                inside += 1;
                inside_for = inside_for.max(lasted);
            }
        }
        let last = if inside > 0 { now } else { self.last.load(Ordering::Relaxed) };
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        StageSnapshot {
            name: self.name,
            kind: self.kind,
            workers: self.workers.len(),
            busy: Duration::from_nanos(spent[State::Busy as usize]),
            starved: Duration::from_nanos(spent[State::Starved as usize]),
            blocked: Duration::from_nanos(spent[State::Blocked as usize]),
            active: Duration::from_nanos(last.saturating_sub(self.first.load(Ordering::Relaxed))),
            items: self.items.load(Ordering::Relaxed),
            queue: queue.as_ref().map_or(0, |len| len()),
            inside,
            inside_for: Duration::from_nanos(inside_for),
        }
    }

    /// Worker `index` goes over to `state` at `now`.
    fn enter(&self, index: usize, state: State, now: u64, started: u64) {
        let (before, since) = unpack(self.workers[index].swap(pack(state, now), Ordering::Relaxed));
        self.spent[before as usize].fetch_add(now.saturating_sub(since.max(started)), Ordering::Relaxed);
        if state == State::Busy {
            self.first.fetch_min(now, Ordering::Relaxed);
        }
        if before == State::Busy {
            self.last.fetch_max(now, Ordering::Relaxed);
        }
    }
}

fn pack(state: State, now: u64) -> u64 {
    now << 2 | state as u64
}

fn unpack(word: u64) -> (State, u64) {
    (State::ALL[(word & 3) as usize], word >> 2)
}

/// One worker's stopwatch.
pub(super) struct Meter {
    core: Arc<Core>,
    stage: Arc<Stage>,
    index: usize,
}

impl Meter {
    /// The stopwatch of worker `index` of `stage`, below its number of workers.
    pub fn new(core: &Arc<Core>, stage: &Arc<Stage>, index: usize) -> Meter {
        Meter { core: core.clone(), stage: stage.clone(), index }
    }

    pub fn stage(&self) -> &'static str {
        self.stage.name
    }

    pub fn enter(&self, state: State) {
        self.stage.enter(self.index, state, self.core.now(), self.core.started());
    }

    /// `n` more rows were dealt with.
    pub fn count(&self, n: usize) {
        self.stage.items.fetch_add(n as u64, Ordering::Relaxed);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.enter(State::Idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(n: u64) -> Duration {
        Duration::from_nanos(n)
    }

    #[test]
    fn time_splits_into_the_states_of_all_workers() {
        let stage = Stage::new("decode", Kind::Map, 2, None);
        let started = 100;
        stage.enter(0, State::Starved, 50, started);
        stage.enter(1, State::Starved, 100, started);
        stage.enter(0, State::Busy, 110, started);
        stage.enter(0, State::Blocked, 140, started);
        stage.enter(0, State::Starved, 145, started);
        stage.enter(1, State::Busy, 150, started);
        let s = stage.snapshot(200, started);
        assert_eq!((s.busy, s.starved, s.blocked), (nanos(30 + 50), nanos(10 + 55 + 50), nanos(5)));
        assert_eq!((s.inside, s.inside_for, s.active), (1, nanos(50), nanos(90)));
        let wall = nanos(100);
        assert!((s.busy_share(wall) + s.starved_share(wall) + s.blocked_share(wall) - 1.0).abs() < 1e-12);
        stage.enter(0, State::Idle, 200, started);
        stage.enter(1, State::Idle, 220, started);
        let s = stage.snapshot(900, started);
        assert_eq!((s.busy, s.active), (nanos(100), nanos(110)), "after its end nothing is counted");
    }

    #[test]
    fn nothing_counts_before_the_start_and_nothing_divides_by_zero() {
        let stage = Stage::new("decode", Kind::Map, 1, None);
        stage.enter(0, State::Starved, 10, u64::MAX);
        let s = stage.snapshot(90, u64::MAX);
        assert_eq!((s.starved, s.active), (nanos(0), nanos(0)));
        assert_eq!((s.busy_share(nanos(0)), s.busy_while_fed()), (0.0, 0.0));
    }
}
