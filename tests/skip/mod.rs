//! The one visible line of a test that cannot run on this machine.

use std::fmt::Arguments;
use std::io::Write;

/// Says what is skipped and why, past the test harness, which keeps what passing tests print to itself.
pub fn skipped(what: Arguments<'_>) {
    // Where nobody can be told, the test is skipped all the same.
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}
