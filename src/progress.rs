//! What a run shows of itself while it works.

use crate::flow::Engine;

/// Where a run is shown.
#[derive(Debug, Default)]
pub struct Display;

/// How much there is to do, where it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub units: Option<u64>,
    pub bytes: Option<u64>,
}

impl Display {
    pub fn new() -> Display {
        Display
    }

    /// Shows the run until the answer is dropped.
    pub fn watch(&self, _engine: Engine, _totals: Totals) {}

    /// Where log lines go.
    pub fn writer(&self) -> fn() -> std::io::Stderr {
        std::io::stderr
    }
}
