//! A run of known length whose own thread says how far it is.

use super::display::{Bars, Display};

/// A bar and two lines on a terminal, log lines elsewhere. Dropping it takes the bar away.
#[must_use = "the bar goes away when this is dropped"]
pub struct StepBar {
    bars: Option<Bars>,
}

impl Display {
    /// Shows a run that tells its progress itself, where it likes to.
    pub fn steps(&self) -> StepBar {
        StepBar { bars: self.is_terminal().then(|| Bars::new(self.bars())) }
    }
}

impl StepBar {
    /// Shows that `fraction` (0 to 1) of the run is done, with what there is to say of the run and of its speed.
    pub fn show(&self, fraction: f64, progress: &str, speed: &str) {
        match &self.bars {
            Some(bars) => bars.draw(Some(fraction), progress.to_owned(), speed.to_owned()),
            None => tracing::info!("{progress} ({speed})"),
        }
    }
}

impl Drop for StepBar {
    fn drop(&mut self) {
        if let Some(bars) = &self.bars {
            bars.clear();
        }
    }
}
