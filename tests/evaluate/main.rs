//! The metrics: as the Python implementations in wide use have them, and moving the way they must.

mod features;
mod likelihood;
mod properties;
mod reference;
mod script;
#[allow(dead_code)] // Most of it is for tests/chain.
#[path = "../chain/support.rs"]
mod support;
