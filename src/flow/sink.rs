//! The sink: takes the stream in order, and with it the run's end.

use super::engine::{Core, Flow, Run};
use super::error::{BoxError, FlowError};
use super::event::{Event, Inlet, Mark};
use super::report::{Aborted, Report};
use super::stats::{Counters, Kind, Meter, Stage, State};
use super::watchdog;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a stopped run waits for its sink to clean up.
const ABANDON_GRACE: Duration = Duration::from_secs(10);

/// Where a flow ends. Methods are called one at a time, in the stream's order. An error of any of them is the run's.
///
/// When the run is stopped, the call in progress is dropped where it stands, then [`Sink::abandon`] is called.
pub trait Sink<U, T, R>: Send {
    /// A unit begins.
    fn begin(&mut self, unit: &Arc<U>) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// A row of the unit. Its bytes are free again when this returns: what a sink keeps, it accounts for itself.
    fn row(&mut self, row: T) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// A reject of the unit.
    fn reject(&mut self, reject: R) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// The unit is complete: commit it.
    fn end(&mut self, unit: &Arc<U>) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// The unit could not be read to its end: drop its partial output.
    fn abort(&mut self, unit: &Arc<U>, error: &BoxError) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// The input is complete, and all its units have ended.
    fn finish(&mut self) -> impl Future<Output = Result<(), BoxError>> + Send {
        async { Ok(()) }
    }

    /// The run was stopped, by an error or a cancellation: drop the partial output of a unit in progress. The call that was
    /// in progress may have been dropped half-way, or may have panicked. Limited to ten seconds.
    fn abandon(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

impl<U, T, R, S> Sink<U, T, R> for &mut S
where
    U: Send + Sync,
    T: Send,
    R: Send,
    S: Sink<U, T, R>,
{
    async fn begin(&mut self, unit: &Arc<U>) -> Result<(), BoxError> {
        (**self).begin(unit).await
    }
    async fn row(&mut self, row: T) -> Result<(), BoxError> {
        (**self).row(row).await
    }
    async fn reject(&mut self, reject: R) -> Result<(), BoxError> {
        (**self).reject(reject).await
    }
    async fn end(&mut self, unit: &Arc<U>) -> Result<(), BoxError> {
        (**self).end(unit).await
    }
    async fn abort(&mut self, unit: &Arc<U>, error: &BoxError) -> Result<(), BoxError> {
        (**self).abort(unit, error).await
    }
    async fn finish(&mut self) -> Result<(), BoxError> {
        (**self).finish().await
    }
    async fn abandon(&mut self) {
        (**self).abandon().await;
    }
}

impl<U, T, R> Flow<U, T, R>
where
    U: Send + Sync + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    /// Runs the flow into `sink`, to its end. Needs a tokio runtime with its timer enabled.
    ///
    /// # Errors
    ///
    /// The run's first error. By then every thread was joined and all rows in flight were dropped. Aborted units are no
    /// error here: they are in the [`Report`].
    ///
    /// Dropping the future stops the run too, but then nobody joins the threads: prefer
    /// [`Engine::cancel`](super::Engine::cancel).
    pub async fn sink<S: Sink<U, T, R>>(self, name: &'static str, mut sink: S) -> Result<Report<U>, FlowError> {
        let Flow { core, inlet, queue, starters, held, .. } = self;
        core.claim(name)?;
        let stage = core.add_stage(Stage::new(name, Kind::Sink, 1, Some(queue)));
        let mut stop = StopOnDrop(Some(core.clone()));
        let run = Run::start(&core, held, starters).await;
        let watch =
            core.config.watchdog.map(|interval| AbortOnDrop(tokio::spawn(watchdog::run(core.clone(), interval))));
        let mut drain = Drain { core: core.clone(), meter: Meter::new(&core, &stage, 0), aborted: Vec::new() };
        if let Err(error) = drain.run(&inlet, &mut sink).await {
            core.fail(error);
            let abandon = AssertUnwindSafe(sink.abandon()).catch_unwind();
            match tokio::time::timeout(ABANDON_GRACE, abandon).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::warn!("stage `{name}` panicked while cleaning up"),
                Err(_) => tracing::warn!("stage `{name}` did not clean up within {ABANDON_GRACE:?}"),
            }
        }
        let Drain { meter, aborted, .. } = drain;
        drop((meter, inlet, watch));
        run.join().await;
        stop.0 = None;
        match core.take_error() {
            Some(error) => Err(error),
            None => Ok(Report::new(core.snapshot(), aborted)),
        }
    }
}

/// A dropped run must not leave its threads waiting for ever.
struct StopOnDrop(Option<Arc<Core>>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(core) = &self.0 {
            core.fail(FlowError::Cancelled);
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The sink's side of the run.
struct Drain<U> {
    core: Arc<Core>,
    meter: Meter,
    aborted: Vec<Aborted<U>>,
}

impl<U: Send + Sync + 'static> Drain<U> {
    /// Feeds the sink until the input is complete.
    async fn run<T, R, S>(&mut self, inlet: &Inlet<Event<U, T, R>>, sink: &mut S) -> Result<(), FlowError>
    where
        T: Send,
        R: Send,
        S: Sink<U, T, R>,
    {
        let core = self.core.clone();
        loop {
            // A stop closes the channel. The error that caused it was recorded before, so this one never shows, unless a
            // stage ended without a word.
            let Some(event) = inlet.recv_async(&self.meter).await else {
                return Err(FlowError::protocol(self.meter.stage(), "the stage before it ended early"));
            };
            let done = matches!(event, Event::Mark(Mark::Done));
            self.meter.enter(State::Busy);
            let step = AssertUnwindSafe(self.step(event, sink)).catch_unwind();
            let result = tokio::select! {
                biased;
                () = core.stop.cancelled() => return Err(FlowError::Cancelled),
                result = step => result,
            };
            let stage = self.meter.stage();
            result
                .map_err(|payload| FlowError::panicked(stage, &*payload))?
                .map_err(|source| FlowError::Failed { stage, source })?;
            if done {
                return Ok(());
            }
        }
    }

    async fn step<T, R, S>(&mut self, event: Event<U, T, R>, sink: &mut S) -> Result<(), BoxError>
    where
        T: Send,
        R: Send,
        S: Sink<U, T, R>,
    {
        let core = self.core.clone();
        let count = |counter: fn(&Counters) -> &AtomicU64| counter(&core.counters).fetch_add(1, Ordering::Relaxed);
        match event {
            Event::Row(parcel) => {
                let (row, _hold) = parcel.open();
                sink.row(row).await?;
                self.meter.count(1);
                count(|c| &c.rows);
            }
            Event::Mark(Mark::Begin(unit)) => {
                count(|c| &c.units_begun);
                sink.begin(&unit).await?;
            }
            Event::Mark(Mark::Reject(reject)) => {
                sink.reject(reject).await?;
                count(|c| &c.rejects);
            }
            Event::Mark(Mark::End(unit)) => {
                sink.end(&unit).await?;
                count(|c| &c.units_ended);
            }
            Event::Mark(Mark::Abort(unit, error)) => {
                sink.abort(&unit, &error).await?;
                count(|c| &c.units_aborted);
                self.aborted.push(Aborted { unit, error });
            }
            Event::Mark(Mark::Done) => sink.finish().await?,
        }
        Ok(())
    }
}
