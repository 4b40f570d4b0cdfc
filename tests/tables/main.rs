//! The Parquet tables from outside.

mod interop;
mod latents;
mod samples;
#[path = "../skip/mod.rs"]
mod skip;
mod support;
