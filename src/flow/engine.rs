//! The run: its clock, its cancellation, its first error, and the threads and tasks that work for it.

use super::budget::Budget;
use super::error::FlowError;
use super::event::{Event, Inlet};
use super::stats::{Counters, Kind, Snapshot, Stage};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Bytes of rows between the source's first sight of them and the end of their writing.
    pub budget_bytes: u64,
    /// Events a channel between two stages may hold.
    pub capacity: usize,
    /// After how long without any movement the watchdog speaks; `None` for no watchdog.
    pub watchdog: Option<Duration>,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig { budget_bytes: 256 << 20, capacity: 32, watchdog: Some(Duration::from_secs(60)) }
    }
}

/// A handle on one run: cancels it, and looks at its figures. Clones are handles on the same run.
#[derive(Clone)]
pub struct Engine {
    pub(super) core: Arc<Core>,
}

impl Engine {
    /// An engine for one flow.
    pub fn new(config: EngineConfig) -> Engine {
        Engine { core: Arc::new(Core::new(config)) }
    }

    /// Stops the run. [`Flow::sink`] returns [`FlowError::Cancelled`] once every thread has been joined.
    pub fn cancel(&self) {
        self.core.fail(FlowError::Cancelled);
    }

    /// Whether the run was cancelled or has failed.
    pub fn is_stopped(&self) -> bool {
        self.core.is_stopped()
    }

    /// The run's figures at this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.core.snapshot()
    }
}

type OnStop = Box<dyn Fn() + Send + Sync>;

/// What all parts of a run share.
pub(super) struct Core {
    pub config: EngineConfig,
    pub budget: Arc<Budget>,
    pub counters: Counters,
    /// Cancelled when the run is stopped: what tasks wait for.
    pub stop: CancellationToken,
    /// What wakes the threads when the run is stopped.
    on_stop: Mutex<Vec<OnStop>>,
    /// The first error, which is the run's.
    error: Mutex<Option<FlowError>>,
    stages: Mutex<Vec<Arc<Stage>>>,
    claimed: AtomicBool,
    clock: Instant,
    /// When the source was started and when the last thread was joined, in nanoseconds on `clock`; `u64::MAX` before.
    started: AtomicU64,
    ended: AtomicU64,
}

impl Core {
    fn new(config: EngineConfig) -> Core {
        Core {
            budget: Budget::new(config.budget_bytes),
            counters: Counters::default(),
            stop: CancellationToken::new(),
            on_stop: Mutex::default(),
            error: Mutex::default(),
            stages: Mutex::default(),
            claimed: AtomicBool::new(false),
            clock: Instant::now(),
            started: AtomicU64::new(u64::MAX),
            ended: AtomicU64::new(u64::MAX),
            config,
        }
    }

    /// Nanoseconds since the engine was made: 62 bits of them last 146 years.
    pub fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Records the run's first error and stops everything.
    pub fn fail(&self, error: FlowError) {
        lock(&self.error).get_or_insert(error);
        self.stop.cancel();
        let wake = std::mem::take(&mut *lock(&self.on_stop));
        wake.iter().for_each(|wake| wake());
    }

    pub fn take_error(&self) -> Option<FlowError> {
        lock(&self.error).take()
    }

    /// Calls `wake` when the run is stopped, or now if it is.
    pub fn on_stop(&self, wake: OnStop) {
        let mut waiting = lock(&self.on_stop);
        if self.is_stopped() {
            drop(waiting);
            wake();
        } else {
            waiting.push(wake);
        }
    }

    pub fn count_move(&self) {
        self.counters.moves.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add_stage(&self, stage: Stage) -> Arc<Stage> {
        let stage = Arc::new(stage);
        lock(&self.stages).push(stage.clone());
        stage
    }

    pub fn snapshot(&self) -> Snapshot {
        let (now, started) = (self.now().min(self.ended.load(Ordering::Relaxed)), self.started());
        let counters = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            wall: Duration::from_nanos(now.saturating_sub(started)),
            units_begun: get(&counters.units_begun),
            units_ended: get(&counters.units_ended),
            units_aborted: get(&counters.units_aborted),
            rows: get(&counters.rows),
            rejects: get(&counters.rejects),
            bytes: get(&counters.bytes),
            in_flight: self.budget.used(),
            peak: self.budget.peak(),
            budget: self.budget.limit(),
            moves: get(&counters.moves),
            threads: counters.threads.load(Ordering::Relaxed),
            stages: lock(&self.stages).iter().map(|stage| stage.snapshot(now, started)).collect(),
        }
    }

    /// One engine carries one flow: its counters, budget and stages are those of one run.
    pub fn claim(&self, stage: &'static str) -> Result<(), FlowError> {
        let taken = self.claimed.swap(true, Ordering::Relaxed);
        if taken {
            Err(FlowError::protocol(stage, "its engine has carried a flow before; make a new one"))
        } else {
            Ok(())
        }
    }

    /// Drops what keeps channels alive: a stopped run leaves rows in them.
    fn release(&self) {
        lock(&self.on_stop).clear();
        lock(&self.stages).iter().for_each(|stage| stage.release_queue());
    }
}

/// User code never runs under these locks, so a poisoned one still holds sound data.
pub(super) fn lock<X>(mutex: &Mutex<X>) -> MutexGuard<'_, X> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A chain of stages that ends in rows `T` of units `U`, and rejects `R`. Nothing runs before [`Flow::sink`].
#[must_use = "a flow does nothing before its sink is awaited"]
pub struct Flow<U, T, R> {
    pub(super) core: Arc<Core>,
    pub(super) inlet: Inlet<Event<U, T, R>>,
    /// How many events wait in `inlet`, for the next stage's figures.
    pub(super) queue: super::event::Queue,
    /// The stages before, from the source on.
    pub(super) starters: Vec<Starter>,
    /// How many rows of the source a row may stand for: a batch's size.
    pub(super) width: u64,
    /// How many rows of the source all batches before may hold back at once.
    pub(super) held: u64,
}

/// What starts a stage.
pub(super) struct Starter {
    pub start: Box<dyn FnOnce(&mut Run) + Send>,
    pub kind: Kind,
}

/// The threads and tasks of a started flow.
pub(super) struct Run {
    pub core: Arc<Core>,
    /// The most bytes a row may take from the budget.
    pub share: u64,
    threads: Vec<std::thread::JoinHandle<()>>,
    tasks: Vec<(&'static str, tokio::task::JoinHandle<()>)>,
    ready: Vec<oneshot::Receiver<()>>,
}

impl Run {
    /// Sets up the devices, waits until they are ready, then starts the other stages and last the source.
    pub async fn start(core: &Arc<Core>, held: u64, starters: Vec<Starter>) -> Run {
        let share = core.budget.share(held);
        let mut run = Run { core: core.clone(), share, threads: Vec::new(), tasks: Vec::new(), ready: Vec::new() };
        let (devices, others): (Vec<_>, Vec<_>) = starters.into_iter().partition(|s| s.kind == Kind::Device);
        devices.into_iter().for_each(|device| (device.start)(&mut run));
        for ready in std::mem::take(&mut run.ready) {
            // A device that failed has told the engine.
            if ready.await.is_err() || core.is_stopped() {
                return run;
            }
        }
        core.started.store(core.now(), Ordering::Relaxed);
        others.into_iter().rev().for_each(|stage| (stage.start)(&mut run));
        run
    }

    /// Announces a signal that the start has to wait for.
    pub fn wait_for(&mut self) -> oneshot::Sender<()> {
        let (sender, receiver) = oneshot::channel();
        self.ready.push(receiver);
        sender
    }

    /// Runs `body` on an OS thread of its own, over `ends`: what the worker has of its channels. A panic is the run's error.
    /// `ends` outlives the panic: were a channel closed before the error is recorded, the neighbours would complain first.
    pub fn thread<X, F>(&mut self, stage: &Stage, index: usize, ends: X, body: F)
    where
        X: Send + 'static,
        F: FnOnce(&X) + Send + 'static,
    {
        let (core, name) = (self.core.clone(), stage.name());
        let label = if stage.workers() > 1 { format!("{name}-{index}") } else { name.to_owned() };
        self.core.counters.threads.fetch_add(1, Ordering::Relaxed);
        let guarded = move || {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(&ends))) {
                core.fail(FlowError::panicked(name, &*payload));
            }
            drop(ends);
            core.counters.threads.fetch_sub(1, Ordering::Relaxed);
        };
        match std::thread::Builder::new().name(label).spawn(guarded) {
            Ok(thread) => self.threads.push(thread),
            Err(source) => {
                self.core.counters.threads.fetch_sub(1, Ordering::Relaxed);
                self.core.fail(FlowError::Thread { stage: name, source });
            }
        }
    }

    /// Runs `body` as a tokio task.
    pub fn task(&mut self, stage: &'static str, body: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push((stage, tokio::spawn(body)));
    }

    /// Waits for all threads and tasks, then drops what is left in the channels.
    pub async fn join(self) {
        for (stage, task) in self.tasks {
            if let Err(error) = task.await {
                let lost = match error.try_into_panic() {
                    Ok(payload) => FlowError::panicked(stage, &*payload),
                    Err(_) => FlowError::Cancelled,
                };
                self.core.fail(lost);
            }
        }
        let threads = self.threads;
        // The threads' panics are caught, so `join` cannot fail.
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        // Only a runtime that is shutting down refuses: then nobody waits for the result.
        let _ = joined.await;
        self.core.ended.store(self.core.now(), Ordering::Relaxed);
        self.core.release();
    }
}
