//! Says which stage everything waits for, when nothing has moved for a while.

use super::engine::Core;
use super::stats::{Kind, Snapshot, StageSnapshot};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Watches a run until it is dropped, and warns once per `interval` without movement.
pub(super) async fn run(core: Arc<Core>, interval: Duration) {
    let interval = interval.max(Duration::from_millis(1));
    let start = Instant::now();
    let mut ticks = interval_at(start + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch { moves: core.snapshot().moves, since: start.into_std() };
    loop {
        let now = ticks.tick().await;
        if let Some(stall) = watch.check(now.into_std(), &core.snapshot()) {
            tracing::warn!(stage = stall.stage, "{stall}");
        }
    }
}

/// Compares the run's signs of life from one tick to the next.
struct Watch {
    moves: u64,
    since: std::time::Instant,
}

impl Watch {
    /// What the run waits for, when nothing has moved since the last check.
    fn check(&mut self, now: std::time::Instant, snapshot: &Snapshot) -> Option<Stall> {
        if snapshot.moves != self.moves {
            *self = Watch { moves: snapshot.moves, since: now };
            return None;
        }
        Some(Stall::of(snapshot, now.saturating_duration_since(self.since)))
    }
}

/// A run in which nothing moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stall {
    stage: &'static str,
    why: String,
    lasting: Duration,
}

impl Stall {
    /// Everything waits for the stage nearest to the sink that is inside its function: the stages before it wait for room,
    /// those behind it for input. When none is, the source waits for budget that rows in flight do not give back.
    fn of(snapshot: &Snapshot, lasting: Duration) -> Stall {
        let stalled = |stage: &'static str, why: String| Stall { stage, why, lasting };
        match (snapshot.stages.iter().rev().find(|stage| stage.inside > 0), snapshot.stages.first()) {
            (Some(stage), _) => stalled(stage.name, inside(stage)),
            (None, Some(source)) => {
                let (used, budget) = (snapshot.in_flight, snapshot.budget);
                stalled(source.name, format!("no stage is inside its function; {used} of {budget} bytes are in flight"))
            }
            (None, None) => stalled("none", "no stages".to_owned()),
        }
    }
}

fn inside(stage: &StageSnapshot) -> String {
    let seconds = stage.inside_for.as_secs();
    let queue = stage.queue;
    match stage.kind {
        Kind::Source => format!("it has been reading for {seconds} s"),
        _ if stage.workers == 1 => {
            format!("it has been at work on one item for {seconds} s, {queue} wait in its queue")
        }
        _ => format!(
            "{} of its {} workers are at work, one for {seconds} s, {queue} wait in its queue",
            stage.inside, stage.workers
        ),
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.lasting.as_secs();
        write!(f, "nothing has moved for {seconds} s: everything waits for stage `{}` ({})", self.stage, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &'static str, kind: Kind, workers: usize, inside: usize, queue: usize) -> StageSnapshot {
        let inside_for = Duration::from_secs(61);
        StageSnapshot { inside, inside_for, queue, ..StageSnapshot::idle(name, kind, workers) }
    }

    fn snapshot(moves: u64, inside: [usize; 4]) -> Snapshot {
        let stages = vec![
            stage("read", Kind::Source, 1, inside[0], 0),
            stage("decode", Kind::Map, 2, inside[1], 5),
            stage("tokenize", Kind::Device, 1, inside[2], 1),
            stage("write", Kind::Sink, 1, inside[3], 0),
        ];
        Snapshot { moves, stages, in_flight: 90, budget: 100, ..Snapshot::default() }
    }

    #[test]
    fn it_speaks_after_a_whole_interval_without_movement_and_again_after_each() {
        let start = std::time::Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let mut watch = Watch { moves: 0, since: start };
        assert_eq!(watch.check(at(1), &snapshot(7, [1; 4])), None, "it moved");
        assert_eq!(watch.check(at(2), &snapshot(9, [1; 4])), None, "it moved again");
        let seconds = |stall: Option<Stall>| stall.map(|stall| stall.lasting.as_secs());
        assert_eq!(seconds(watch.check(at(3), &snapshot(9, [1; 4]))), Some(60));
        assert_eq!(seconds(watch.check(at(4), &snapshot(9, [1; 4]))), Some(120));
        assert_eq!(watch.check(at(5), &snapshot(10, [1; 4])), None, "it moves again");
    }

    #[test]
    fn the_stage_nearest_to_the_sink_is_named() {
        let message = |inside| Stall::of(&snapshot(0, inside), Duration::from_secs(60)).to_string();
        assert_eq!(
            message([1, 2, 1, 0]),
            "nothing has moved for 60 s: everything waits for stage `tokenize` \
             (it has been at work on one item for 61 s, 1 wait in its queue)"
        );
        assert!(
            message([1, 2, 0, 0]).ends_with(
                "waits for stage `decode` (2 of its 2 workers are at work, one for 61 s, 5 wait in its queue)"
            )
        );
        assert!(message([1, 1, 1, 1]).contains("stage `write`"));
        assert!(message([1, 0, 0, 0]).ends_with("stage `read` (it has been reading for 61 s)"));
        assert!(
            message([0, 0, 0, 0]).contains("`read` (no stage is inside its function; 90 of 100 bytes are in flight)")
        );
    }
}
