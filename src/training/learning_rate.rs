//! The learning rate of a step: linear warm-up, then half a cosine (code: `LambdaWarmUpCosineScheduler`).

use std::f64::consts::PI;

/// A schedule of learning rates. The released models multiply it by accumulation * GPUs * batch * 0.0625.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// Steps of the linear rise from `start` to `max`.
    pub warm_up_steps: u64,
    /// The step, counted from 0 like all others, at which the cosine has come down to `min`; the rate stays there.
    pub max_decay_steps: u64,
    pub start: f64,
    pub max: f64,
    pub min: f64,
}

impl LearningRate {
    /// The rate of step `step`, the first being 0. Without steps between warm-up and `max_decay_steps` it falls to `min` at once.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warm_up_steps {
            return (self.max - self.start) / self.warm_up_steps as f64 * step as f64 + self.start;
        }
        let span = self.max_decay_steps.saturating_sub(self.warm_up_steps);
        let share = if span == 0 { 1.0 } else { ((step - self.warm_up_steps) as f64 / span as f64).min(1.0) };
        self.min + 0.5 * (self.max - self.min) * (1.0 + (share * PI).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_of_the_schedule() {
        let rate = LearningRate { warm_up_steps: 10, max_decay_steps: 30, start: 0.1, max: 2.1, min: 0.5 };
        let close =
            |step, expected: f64| assert!((rate.at(step) - expected).abs() < 1e-12, "{step}: {}", rate.at(step));
        close(0, 0.1);
        close(5, 1.1);
        close(10, 2.1);
        close(20, 1.3);
        close(30, 0.5);
        close(u64::MAX, 0.5);
    }

    #[test]
    fn a_schedule_without_decay_steps_is_finite() {
        let rate = LearningRate { warm_up_steps: 10, max_decay_steps: 10, start: 0.0, max: 1.0, min: 0.25 };
        assert_eq!((rate.at(9), rate.at(10), rate.at(11)), (0.9, 0.25, 0.25));
        assert_eq!(LearningRate { warm_up_steps: 0, max_decay_steps: 0, ..rate }.at(0), 0.25);
    }
}
