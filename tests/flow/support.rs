//! A sink that writes down what it gets, and ways to wait for a state of the engine without sleeping.

use imagebart::flow::{BoxError, Emitter, Engine, EngineConfig, Sink, Snapshot};
use std::sync::Arc;

/// What a sink was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Begin(u32),
    Row(u64),
    Reject(u64),
    End(u32),
    Abort(u32, String),
    Finish,
    Abandon,
}

/// Writes down all it is told.
#[derive(Default)]
pub struct Log(pub Vec<Seen>);

impl Log {
    fn note(&mut self, seen: Seen) -> Result<(), BoxError> {
        self.0.push(seen);
        Ok(())
    }
}

impl Sink<u32, u64, u64> for Log {
    async fn begin(&mut self, unit: &Arc<u32>) -> Result<(), BoxError> {
        self.note(Seen::Begin(**unit))
    }
    async fn row(&mut self, row: u64) -> Result<(), BoxError> {
        self.note(Seen::Row(row))
    }
    async fn reject(&mut self, reject: u64) -> Result<(), BoxError> {
        self.note(Seen::Reject(reject))
    }
    async fn end(&mut self, unit: &Arc<u32>) -> Result<(), BoxError> {
        self.note(Seen::End(**unit))
    }
    async fn abort(&mut self, unit: &Arc<u32>, error: &BoxError) -> Result<(), BoxError> {
        self.note(Seen::Abort(**unit, error.to_string()))
    }
    async fn finish(&mut self) -> Result<(), BoxError> {
        self.note(Seen::Finish)
    }
    async fn abandon(&mut self) {
        self.0.push(Seen::Abandon);
    }
}

/// A sink that does what `act` says with each row, and counts how often it was told to abandon.
pub struct Rows<F> {
    pub act: F,
    pub begun: usize,
    pub abandoned: usize,
}

impl<F> Rows<F> {
    pub fn new(act: F) -> Rows<F> {
        Rows { act, begun: 0, abandoned: 0 }
    }
}

impl<F, Fut> Sink<u32, u64, u64> for Rows<F>
where
    F: FnMut(u64) -> Fut + Send,
    Fut: Future<Output = Result<(), BoxError>> + Send,
{
    async fn begin(&mut self, _unit: &Arc<u32>) -> Result<(), BoxError> {
        self.begun += 1;
        Ok(())
    }
    async fn row(&mut self, row: u64) -> Result<(), BoxError> {
        (self.act)(row).await
    }
    async fn reject(&mut self, _reject: u64) -> Result<(), BoxError> {
        Ok(())
    }
    async fn end(&mut self, _unit: &Arc<u32>) -> Result<(), BoxError> {
        Ok(())
    }
    async fn abort(&mut self, _unit: &Arc<u32>, _error: &BoxError) -> Result<(), BoxError> {
        Ok(())
    }
    async fn abandon(&mut self) {
        self.abandoned += 1;
    }
}

/// One unit of rows without end.
pub async fn endless(mut out: Emitter<u32, u64, u64>) -> Result<(), BoxError> {
    out.begin(Arc::new(0)).await?;
    for row in 0.. {
        out.row(row).await?;
    }
    Ok(())
}

/// An engine without a watchdog.
pub fn engine(budget_bytes: u64, capacity: usize) -> Engine {
    Engine::new(EngineConfig { budget_bytes, capacity, watchdog: None })
}

/// Runs a test on a runtime of two threads.
pub fn run<X>(test: impl Future<Output = X>) -> X {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

/// Lets others run until the engine's figures are as wished.
pub async fn until(engine: &Engine, wish: impl Fn(&Snapshot) -> bool) {
    while !wish(&engine.snapshot()) {
        tokio::task::yield_now().await;
    }
}

/// How many events wait in front of `stage`: none before it is there.
pub fn queue(snapshot: &Snapshot, stage: &str) -> usize {
    snapshot.stage(stage).map_or(0, |stage| stage.queue)
}

/// How many rows `stage` has dealt with.
pub fn items(snapshot: &Snapshot, stage: &str) -> u64 {
    snapshot.stage(stage).map_or(0, |stage| stage.items)
}

/// No thread is left, and no byte.
pub fn assert_clean(engine: &Engine) {
    let snapshot = engine.snapshot();
    assert_eq!((snapshot.threads, snapshot.in_flight), (0, 0));
    assert!(snapshot.stages.iter().all(|stage| stage.inside == 0 && stage.queue == 0));
}

/// How many workers of `stage` are inside its function.
pub fn inside(snapshot: &Snapshot, stage: &str) -> usize {
    snapshot.stage(stage).map_or(0, |stage| stage.inside)
}
