//! Counts and durations of steps, as rates for the terminal and the curves.

use super::chart::number;
use super::names;
use crate::progress::peak_memory;
use indicatif::HumanCount;
use std::time::Duration;

/// What one step did.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepDone {
    /// Rows of latents, or images.
    pub rows: u64,
    /// Tokens that were predicted; 0 where there are none.
    pub tokens: u64,
    /// How long it took, waiting included.
    pub took: Duration,
    /// How long it waited for data.
    pub waited: Duration,
}

/// Adds up steps between two readings.
#[derive(Debug)]
pub struct Meter {
    total: u64,
    steps: u64,
    since: StepDone,
    /// Steps of this process, and what they took.
    all: (u64, Duration),
}

/// What is shown and recorded of the steps since the reading before.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub step: u64,
    /// Steps that the run has in all.
    pub total: u64,
    /// By name: what the trainer gave, then rates and memory. For [`Journal::scalars`](super::Journal::scalars).
    pub scalars: Vec<(&'static str, f64)>,
    /// The time left if all steps are as fast as those of this process.
    pub left: Option<Duration>,
}

impl Meter {
    /// A meter of a run of `total` steps.
    pub fn new(total: u64) -> Meter {
        Meter { total, steps: 0, since: StepDone::default(), all: (0, Duration::ZERO) }
    }

    /// Counts a step.
    pub fn step(&mut self, done: StepDone) {
        self.steps += 1;
        self.since.rows += done.rows;
        self.since.tokens += done.tokens;
        self.since.took += done.took;
        self.since.waited += done.waited;
        self.all = (self.all.0 + 1, self.all.1 + done.took);
    }

    /// Reads the meter after `step`, and begins to add up anew. `values` are what only the trainer knows: losses, learning rate,
    /// gradient norm, by their [`names`].
    pub fn read(&mut self, step: u64, values: &[(&'static str, f64)]) -> Reading {
        let (steps, since) = (std::mem::take(&mut self.steps), std::mem::take(&mut self.since));
        let seconds = since.took.as_secs_f64();
        let mut scalars = values.to_vec();
        if steps > 0 && seconds > 0.0 {
            scalars.push((names::STEPS_PER_S, steps as f64 / seconds));
            if since.tokens > 0 {
                scalars.push((names::TOKENS_PER_S, since.tokens as f64 / seconds));
            }
            scalars.push((names::IMAGES_PER_S, since.rows as f64 / seconds));
            scalars.push((names::WAITING_SHARE, (since.waited.as_secs_f64() / seconds).min(1.0)));
        }
        scalars.extend(peak_memory().map(|bytes| (names::PEAK_MEMORY, bytes as f64 / f64::from(1 << 30))));
        let (counted, took) = self.all;
        let left = self.total.saturating_sub(step) as f64 * took.as_secs_f64() / counted as f64;
        Reading { step, total: self.total, scalars, left: Duration::try_from_secs_f64(left).ok() }
    }
}

impl Reading {
    /// How much of the run is done, 0 to 1.
    pub fn fraction(&self) -> f64 {
        if self.total == 0 { 1.0 } else { (self.step as f64 / self.total as f64).min(1.0) }
    }

    fn value(&self, name: &str) -> Option<f64> {
        self.scalars.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// What the network does: `step 1,250/100,000, loss 2.314, 3.338 bits/token, lr 1e-4, gradient norm 0.81, 0:30:12 left`.
    pub fn progress(&self) -> String {
        let mut line = format!("step {}/{}", HumanCount(self.step), HumanCount(self.total));
        let shown = [
            (names::LOSS, "loss ", ""),
            (names::BITS_PER_TOKEN, "", " bits/token"),
            (names::LEARNING_RATE, "lr ", ""),
            (names::GRADIENT_NORM, "gradient norm ", ""),
        ];
        for (name, before, after) in shown {
            if let Some(value) = self.value(name) {
                line += &format!(", {before}{}{after}", number(value));
            }
        }
        if let Some(skipped) = self.value(names::SKIPPED_STEPS).filter(|skipped| *skipped > 0.0) {
            line += &format!(", {skipped} steps left out");
        }
        if let Some(left) = self.left {
            let left = left.as_secs();
            line += &format!(", {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60);
        }
        line
    }

    /// What the machine does: `12.5 steps/s, 51,200 tokens/s, 200 images/s, waiting 0.3 %, 1.20 GiB`.
    pub fn speed(&self) -> String {
        let rates =
            [(names::STEPS_PER_S, " steps/s"), (names::TOKENS_PER_S, " tokens/s"), (names::IMAGES_PER_S, " images/s")];
        let rates = rates.into_iter().filter_map(|(name, unit)| Some(format!("{}{unit}", number(self.value(name)?))));
        let waiting = self.value(names::WAITING_SHARE).map(|share| format!("waiting {:.1} %", share * 100.0));
        let memory = self.value(names::PEAK_MEMORY).map(|memory| format!("{memory:.2} GiB"));
        rates.chain(waiting).chain(memory).collect::<Vec<_>>().join(", ")
    }
}

/// Nats as bits.
pub fn bits(nats: f64) -> f64 {
    nats / std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(took: u64, waited: u64) -> StepDone {
        StepDone { rows: 8, tokens: 2048, took: Duration::from_millis(took), waited: Duration::from_millis(waited) }
    }

    #[test]
    fn readings_are_of_the_steps_since_the_last() {
        let mut meter = Meter::new(1000);
        meter.step(step(5000, 5000));
        meter.read(100, &[]);
        meter.step(step(150, 30));
        meter.step(step(250, 10));
        let reading =
            meter.read(102, &[(names::LOSS, 2.5), (names::BITS_PER_TOKEN, bits(2.5)), (names::LEARNING_RATE, 1e-4)]);
        let value = |name: &str| reading.value(name).unwrap();
        assert_eq!(
            (value(names::STEPS_PER_S), value(names::TOKENS_PER_S), value(names::IMAGES_PER_S)),
            (5.0, 10_240.0, 40.0)
        );
        assert!((value(names::WAITING_SHARE) - 0.1).abs() < 1e-12);
        // 5.4 s for three steps, 898 to go.
        assert_eq!(reading.left.map(|left| left.as_secs()), Some(1616));
        assert_eq!(reading.progress(), "step 102/1,000, loss 2.5, 3.607 bits/token, lr 1e-4, 0:26:56 left");
        assert!(reading.speed().starts_with("5 steps/s, 10\u{202f}240 tokens/s, 40 images/s, waiting 10.0 %"));
        assert!((reading.fraction() - 0.102).abs() < 1e-12);
    }

    #[test]
    fn without_steps_there_are_no_rates() {
        let reading = Meter::new(0).read(0, &[(names::SKIPPED_STEPS, 2.0)]);
        assert_eq!(reading.value(names::STEPS_PER_S), None);
        assert_eq!(reading.progress(), "step 0/0, 2 steps left out");
        assert_eq!(reading.fraction(), 1.0);
        let images = {
            let mut meter = Meter::new(10);
            meter.step(StepDone { tokens: 0, ..step(100, 0) });
            meter.read(1, &[])
        };
        assert_eq!(images.value(names::TOKENS_PER_S), None);
        assert!(images.speed().starts_with("10 steps/s, 80 images/s, waiting 0.0 %"));
    }
}
