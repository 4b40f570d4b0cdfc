//! How far a run is: bars on a terminal, plain log lines elsewhere.
//!
//! A [`Display`] owns standard error: a run's bars are drawn through it, and the log writes through its [`LogWriter`], which
//! takes the bars away for the time of a line, so that the two never garble each other.
//!
//! ```
//! use imagebart::flow::{Engine, EngineConfig};
//! use imagebart::progress::{Display, Totals};
//!
//! let display = Display::new();
//! tracing_subscriber::fmt().with_writer(display.writer()).init();
//! let engine = Engine::new(EngineConfig::default());
//! let shown = display.watch(engine.clone(), Totals { units: Some(4), bytes: None });
//! // The flow runs here.
//! drop(shown);
//! ```

mod display;
mod memory;

pub use display::{Display, LogLine, LogWriter};
pub use memory::peak_memory;

use crate::flow::{Engine, Kind, Snapshot, StageSnapshot};
use display::Bars;
use indicatif::{HumanBytes, HumanCount};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the bars move.
const REDRAW: Duration = Duration::from_millis(250);
/// How often a plain line is logged.
const REPEAT: Duration = Duration::from_secs(10);

/// How much there is to do in this run (not in earlier ones), where it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Work units.
    pub units: Option<u64>,
    /// Bytes of input.
    pub bytes: Option<u64>,
}

/// What a run has done so far.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Rows written: images, or crops of them.
    pub rows: u64,
    pub rejects: u64,
    /// Input bytes read; 0 when the source does not tell.
    pub bytes: u64,
    /// Units that have ended, aborted ones included.
    pub units: u64,
    /// The stages' figures.
    pub stages: Vec<StageSnapshot>,
}

impl From<Snapshot> for Counts {
    fn from(snapshot: Snapshot) -> Counts {
        let Snapshot { rows, rejects, bytes, units_ended, units_aborted, stages, .. } = snapshot;
        Counts { rows, rejects, bytes, units: units_ended + units_aborted, stages }
    }
}

impl Display {
    /// Shows the run of `engine` until the answer is dropped.
    pub fn watch(&self, engine: Engine, totals: Totals) -> Shown {
        self.show(totals, move || Counts::from(engine.snapshot()))
    }

    /// Shows what `counts` returns until the answer is dropped: four times a second on a terminal, else as a log line every
    /// ten seconds.
    pub fn show(&self, totals: Totals, counts: impl Fn() -> Counts + Send + 'static) -> Shown {
        let (stop, stopped) = mpsc::channel();
        let display = self.clone();
        let repeat = move || repeat(&display, totals, counts, &stopped);
        // Without a thread nothing is shown, but the run is none the worse.
        let thread = std::thread::Builder::new().name("progress".into()).spawn(repeat).ok();
        Shown { stop: Some(stop), thread }
    }
}

/// A run on display. Dropping it takes the bars away.
#[derive(Debug)]
#[must_use = "the display ends when this is dropped"]
pub struct Shown {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn repeat(display: &Display, totals: Totals, counts: impl Fn() -> Counts, stopped: &mpsc::Receiver<()>) {
    let start = Instant::now();
    let bars = display.is_terminal().then(|| Bars::new(display.bars()));
    let interval = if bars.is_some() { REDRAW } else { REPEAT };
    let mut recent = Recent::default();
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
        let (elapsed, counts) = (start.elapsed(), counts());
        let line = line(totals, &counts, elapsed);
        let stages = recent.stages(&counts, elapsed);
        match &bars {
            Some(bars) => bars.draw(fraction(totals, &counts), line, stages),
            None if stages.is_empty() => tracing::info!("{line}"),
            None => tracing::info!("{line} ({stages})"),
        }
    }
    if let Some(bars) = bars {
        bars.clear();
    }
}

/// How much of the run is done, 0 to 1: by bytes of input, else by units. Input runs ahead of the rows written, by what is
/// in flight.
fn fraction(totals: Totals, counts: &Counts) -> Option<f64> {
    let (done, total) = match (counts.bytes, totals.bytes) {
        (1.., Some(total)) => (counts.bytes, total),
        _ => (counts.units, totals.units?),
    };
    Some(if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) })
}

/// The time left, if the rest is as fast as what is done.
fn eta(fraction: Option<f64>, elapsed: Duration) -> Option<Duration> {
    let done = fraction.filter(|&done| done > 0.0)?;
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - done) / done).ok()
}

/// `1,250 images, 125.0 images/s, 12.00 MiB/s, 3 rejects, 1/4 units, 0:00:30 left`
fn line(totals: Totals, counts: &Counts, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let mut line = format!("{} images, {:.1} images/s", HumanCount(counts.rows), counts.rows as f64 / seconds);
    if counts.bytes > 0 {
        line += &format!(", {}/s", HumanBytes((counts.bytes as f64 / seconds) as u64));
    }
    line += &format!(", {} rejects, {}", HumanCount(counts.rejects), counts.units);
    line += &totals.units.map_or(" units".to_owned(), |units| format!("/{units} units"));
    if let Some(left) = eta(fraction(totals, counts), elapsed) {
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
        let mut totals = Totals { units: Some(4), bytes: None };
        let text = "1,250 images, 125.0 images/s, 12.00 MiB/s, 3 rejects, 1/4 units, 0:00:30 left";
        assert_eq!(line(totals, &counts(), ten), text);
        totals.bytes = Some(1200 << 20);
        assert!(line(totals, &counts(), ten).ends_with("1/4 units, 0:01:30 left"), "bytes are finer than units");
        let silent = Counts { bytes: 0, ..counts() };
        let text = "1,250 images, 125.0 images/s, 3 rejects, 1/4 units, 0:00:30 left";
        assert_eq!(line(totals, &silent, ten), text, "a source that does not tell its bytes");
        let unknown = line(Totals::default(), &Counts::default(), Duration::ZERO);
        assert_eq!(unknown, "0 images, 0.0 images/s, 0 rejects, 0 units");
    }

    #[test]
    fn fractions_stay_within_bounds() {
        let bytes = |bytes| Totals { bytes: Some(bytes), units: None };
        assert_eq!(fraction(bytes(0), &counts()), Some(1.0));
        assert_eq!(fraction(bytes(10), &counts()), Some(1.0));
        assert_eq!(fraction(bytes(10), &Counts::default()), None);
        assert_eq!(fraction(Totals { units: Some(0), bytes: None }, &counts()), Some(1.0));
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
        let shown = Display::plain().show(Totals::default(), move || {
            drop(held.lock());
            Counts::default()
        });
        drop(shown);
        assert_eq!(Arc::strong_count(&alive), 1, "its thread was joined");
    }
}
