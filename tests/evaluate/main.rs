//! The metrics: as the Python implementations in wide use have them, and moving the way they must.

mod likelihood;
mod properties;
mod reference;
#[allow(dead_code)] // Most of it is for tests/chain.
#[path = "../chain/support.rs"]
mod support;
