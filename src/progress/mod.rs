//! How far a run is: bars on a terminal, plain log lines elsewhere.
//!
//! A [`Console`] owns the terminal: [`Progress`] draws its bars through it, and the log writes through its
//! [`ConsoleWriter`], which takes the bars away for the time of a line, so that the two never garble each other.
//!
//! ```
//! use imagebart::progress::{Console, Counts, Plan, Progress};
//!
//! let console = Console::stderr();
//! tracing_subscriber::fmt().with_writer(console.writer()).init();
//! let plan = Plan { noun: "images", rows: Some(1000), ..Plan::default() };
//! let progress = Progress::start(&console, plan, || Counts { rows: 250, ..Counts::default() });
//! // The run happens here.
//! progress.finish();
//! ```

mod console;

pub use console::{Console, ConsoleLine, ConsoleWriter};

use crate::flow::{Kind, Snapshot, StageSnapshot};
use console::Bars;
use indicatif::{HumanBytes, HumanCount};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the bars move.
const REDRAW: Duration = Duration::from_millis(250);
/// How often a plain line is logged.
const REPEAT: Duration = Duration::from_secs(10);

/// What is known of a run before it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What a row is called: `images`.
    pub noun: &'static str,
    /// Totals of this run (not of earlier ones), where they are known.
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    pub units: Option<u64>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { noun: "rows", rows: None, bytes: None, units: None }
    }
}

/// What a run has done so far.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Rows written, and rejects.
    pub rows: u64,
    pub rejects: u64,
    /// Input bytes read.
    pub bytes: u64,
    /// Units that have ended, aborted ones included.
    pub units: u64,
    /// The stages' figures.
    pub stages: Vec<StageSnapshot>,
}

/// Its `bytes` are the sum of the rows' costs: replace them where a cost is not the size of the input.
impl From<Snapshot> for Counts {
    fn from(snapshot: Snapshot) -> Counts {
        let Snapshot { rows, rejects, bytes, units_ended, units_aborted, stages, .. } = snapshot;
        Counts { rows, rejects, bytes, units: units_ended + units_aborted, stages }
    }
}

/// The display of one run, until it is finished or dropped.
#[must_use = "the display ends when this is dropped"]
pub struct Progress {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows what `counts` returns: four times a second on a terminal, else as a log line every ten seconds.
    pub fn start(console: &Console, plan: Plan, counts: impl Fn() -> Counts + Send + 'static) -> Progress {
        let (stop, stopped) = mpsc::channel();
        let console = console.clone();
        let show = move || show(&console, &plan, counts, &stopped);
        // Without a thread there is no display, but the run is none the worse.
        let thread = std::thread::Builder::new().name("progress".into()).spawn(show).ok();
        Progress { stop: Some(stop), thread }
    }

    /// Takes the bars away.
    pub fn finish(self) {}
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn show(console: &Console, plan: &Plan, counts: impl Fn() -> Counts, stopped: &mpsc::Receiver<()>) {
    let start = Instant::now();
    let bars = console.is_terminal().then(|| Bars::new(console.bars()));
    let interval = if bars.is_some() { REDRAW } else { REPEAT };
    let mut recent = Recent::default();
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
        let (elapsed, counts) = (start.elapsed(), counts());
        let line = line(plan, &counts, elapsed);
        let stages = recent.stages(&counts, elapsed);
        match &bars {
            Some(bars) => bars.draw(fraction(plan, &counts), line, stages),
            None if stages.is_empty() => tracing::info!("{line}"),
            None => tracing::info!("{line} ({stages})"),
        }
    }
    if let Some(bars) = bars {
        bars.clear();
    }
}

/// How much of the run is done, 0 to 1, by the finest total that is known. Input bytes run ahead of the rows written, by
/// what is in flight.
fn fraction(plan: &Plan, counts: &Counts) -> Option<f64> {
    let of = |done: u64, total: Option<u64>| {
        total.map(|total| if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) })
    };
    let seen = counts.rows.saturating_add(counts.rejects);
    of(seen, plan.rows).or_else(|| of(counts.bytes, plan.bytes)).or_else(|| of(counts.units, plan.units))
}

/// The time left, if the rest is as fast as what is done.
fn eta(fraction: Option<f64>, elapsed: Duration) -> Option<Duration> {
    let done = fraction.filter(|&done| done > 0.0)?;
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - done) / done).ok()
}

/// `1,250 images, 125.0 images/s, 12.00 MiB/s, 3 rejects, 1/4 units, 0:00:30 left`
fn line(plan: &Plan, counts: &Counts, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let noun = plan.noun;
    let bytes = HumanBytes((counts.bytes as f64 / seconds) as u64);
    let mut line =
        format!("{} {noun}, {:.1} {noun}/s, {bytes}/s", HumanCount(counts.rows), counts.rows as f64 / seconds);
    line += &format!(", {} rejects", HumanCount(counts.rejects));
    line += &match plan.units {
        Some(units) => format!(", {}/{units} units", counts.units),
        None => format!(", {} units", counts.units),
    };
    if let Some(left) = eta(fraction(plan, counts), elapsed) {
        let left = left.as_secs();
        line += &format!(", {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60);
    }
    line
}

/// The busy times as last shown, so that shares are those of the time since.
#[derive(Default)]
struct Recent {
    at: Duration,
    busy: Vec<Duration>,
}

impl Recent {
    /// `busy: read 12 %, decode 31 %, tokenize 96 %, write 2 %`; empty without stages.
    fn stages(&mut self, counts: &Counts, now: Duration) -> String {
        let wall = now.saturating_sub(self.at).as_secs_f64().max(1e-9);
        let mut shown = Vec::new();
        for (i, stage) in counts.stages.iter().enumerate() {
            let before = self.busy.get(i).copied().unwrap_or_default();
            let share = stage.busy.saturating_sub(before).as_secs_f64() / (wall * stage.workers.max(1) as f64);
            if stage.kind != Kind::Batch {
                shown.push(format!("{} {:.0} %", stage.name, share.min(1.0) * 100.0));
            }
        }
        *self = Recent { at: now, busy: counts.stages.iter().map(|stage| stage.busy).collect() };
        if shown.is_empty() { String::new() } else { format!("busy: {}", shown.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn counts() -> Counts {
        Counts { rows: 1250, rejects: 3, bytes: 120 << 20, units: 1, stages: Vec::new() }
    }

    #[test]
    fn a_line_tells_rates_rejects_and_the_time_left() {
        let ten = Duration::from_secs(10);
        let mut plan = Plan { noun: "images", units: Some(4), ..Plan::default() };
        let text = "1,250 images, 125.0 images/s, 12.00 MiB/s, 3 rejects, 1/4 units, 0:00:30 left";
        assert_eq!(line(&plan, &counts(), ten), text);
        plan.bytes = Some(1200 << 20);
        assert!(line(&plan, &counts(), ten).ends_with("1/4 units, 0:01:30 left"), "bytes are finer than units");
        plan.rows = Some(2506);
        assert!(line(&plan, &counts(), ten).ends_with("1/4 units, 0:00:10 left"), "rejects are done with, too");
        let unknown = line(&Plan::default(), &Counts::default(), Duration::ZERO);
        assert_eq!(unknown, "0 rows, 0.0 rows/s, 0 B/s, 0 rejects, 0 units");
    }

    #[test]
    fn fractions_stay_within_bounds() {
        let rows = |rows| Plan { rows: Some(rows), ..Plan::default() };
        assert_eq!(fraction(&rows(0), &counts()), Some(1.0));
        assert_eq!(fraction(&rows(10), &counts()), Some(1.0));
        assert_eq!(eta(Some(0.0), Duration::from_secs(1)), None);
        assert_eq!(eta(Some(f64::MIN_POSITIVE), Duration::from_secs(1)), None);
        assert_eq!(eta(Some(1.0), Duration::from_secs(1)), Some(Duration::ZERO));
    }

    fn stage(name: &'static str, kind: Kind, workers: usize, busy: u64) -> StageSnapshot {
        StageSnapshot { busy: Duration::from_secs(busy), ..StageSnapshot::idle(name, kind, workers) }
    }

    #[test]
    fn busy_shares_are_those_since_the_last_look() {
        let at = |decode, batch, tokenize| Counts {
            stages: vec![
                stage("decode", Kind::Map, 2, decode),
                stage("batch", Kind::Batch, 1, batch),
                stage("tokenize", Kind::Device, 1, tokenize),
            ],
            ..Counts::default()
        };
        let mut recent = Recent::default();
        let first = recent.stages(&at(4, 0, 9), Duration::from_secs(10));
        assert_eq!(first, "busy: decode 20 %, tokenize 90 %");
        let second = recent.stages(&at(24, 0, 10), Duration::from_secs(20));
        assert_eq!(second, "busy: decode 100 %, tokenize 10 %");
        assert_eq!(recent.stages(&Counts::default(), Duration::from_secs(30)), "");
    }

    #[test]
    fn a_display_ends_at_once_when_it_is_dropped() {
        let alive = Arc::new(Mutex::new(()));
        let held = alive.clone();
        let progress = Progress::start(&Console::plain(), Plan::default(), move || {
            drop(held.lock());
            Counts::default()
        });
        progress.finish();
        assert_eq!(Arc::strong_count(&alive), 1, "its thread was joined");
    }
}
