//! The engine, seen from outside: what a sink gets, how runs end, how bytes and batches are bounded.

mod accounting;
mod cancelling;
mod endings;
mod model;
mod support;
