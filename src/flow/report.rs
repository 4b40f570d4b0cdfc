//! What a run did, and what held it up.

use super::error::BoxError;
use super::stats::{Kind, Snapshot, StageSnapshot};
use std::sync::Arc;

/// A unit whose source gave it up.
#[derive(Debug)]
pub struct Aborted<U> {
    pub unit: Arc<U>,
    pub error: BoxError,
}

/// The result of a run that came to its end.
#[derive(Debug)]
pub struct Report<U> {
    /// Units that were begun and ended.
    pub units_ended: u64,
    /// Units that were given up, in order, and why.
    pub aborted: Vec<Aborted<U>>,
    /// Rows and rejects the sink took, those of aborted units included.
    pub rows: u64,
    pub rejects: u64,
    /// The final figures.
    pub stats: Snapshot,
}

impl<U> Report<U> {
    pub(super) fn new(stats: Snapshot, aborted: Vec<Aborted<U>>) -> Report<U> {
        Report { units_ended: stats.units_ended, aborted, rows: stats.rows, rejects: stats.rejects, stats }
    }

    /// One sentence on what the run waited for; see [`Snapshot::bottleneck`].
    pub fn bottleneck(&self) -> String {
        self.stats.bottleneck()
    }
}

/// Below this share of the time nothing is called a bottleneck.
const BUSY_ENOUGH: f64 = 0.5;
/// A stage this close to the busiest is one, too.
const CLOSE: f64 = 0.1;

impl Snapshot {
    /// The stage `name`, if there is one.
    pub fn stage(&self, name: &str) -> Option<&StageSnapshot> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// One sentence on what the run waits for, by the stages' busy shares of the wall time:
    /// `tokenize busy 96 %; decode is not the bottleneck (busy 31 %), nor is write (2 %)`.
    pub fn bottleneck(&self) -> String {
        let shares = self.stages.iter().filter(|s| s.kind != Kind::Batch).map(|s| (s.name, s.busy_share(self.wall)));
        let mut shares: Vec<_> = shares.collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let Some(&(top, most)) = shares.first() else { return "no stages".to_owned() };
        if most < BUSY_ENOUGH {
            return format!("no stage was busy for half of the time; the busiest is {top} ({})", percent(most));
        }
        let (near, far): (Vec<_>, Vec<_>) = shares.iter().skip(1).partition(|(_, share)| most - share < CLOSE);
        let mut sentence = format!("{top} busy {}", percent(most));
        for (name, share) in near {
            sentence += &format!(", {name} close behind ({})", percent(share));
        }
        for (i, (name, share)) in far.into_iter().enumerate() {
            sentence += &match i {
                0 => format!("; {name} is not the bottleneck (busy {})", percent(share)),
                _ => format!(", nor is {name} ({})", percent(share)),
            };
        }
        sentence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn stage(name: &'static str, kind: Kind, workers: usize, busy: u64) -> StageSnapshot {
        StageSnapshot { busy: Duration::from_secs(busy), ..StageSnapshot::idle(name, kind, workers) }
    }

    fn sentence(stages: Vec<StageSnapshot>) -> String {
        Snapshot { wall: Duration::from_secs(100), stages, ..Snapshot::default() }.bottleneck()
    }

    #[test]
    fn the_busiest_stage_is_named_and_the_others_cleared() {
        let decode = || stage("decode", Kind::Map, 2, 62);
        let tokenize = || stage("tokenize", Kind::Device, 1, 96);
        assert_eq!(
            sentence(vec![decode(), stage("batch", Kind::Batch, 1, 100), tokenize(), stage("write", Kind::Sink, 1, 2)]),
            "tokenize busy 96 %; decode is not the bottleneck (busy 31 %), nor is write (2 %)"
        );
        assert_eq!(
            sentence(vec![stage("read", Kind::Source, 1, 90), tokenize(), decode()]),
            "tokenize busy 96 %, read close behind (90 %); decode is not the bottleneck (busy 31 %)"
        );
    }

    #[test]
    fn an_idle_run_has_no_bottleneck() {
        let idle = sentence(vec![stage("decode", Kind::Map, 2, 20), stage("write", Kind::Sink, 1, 30)]);
        assert_eq!(idle, "no stage was busy for half of the time; the busiest is write (30 %)");
        assert_eq!(sentence(Vec::new()), "no stages");
    }
}
