//! The Parquet tables from outside.

mod decisions;
mod gallery;
mod interop;
mod latents;
#[path = "../python/mod.rs"]
mod python;
mod samples;
#[path = "../skip/mod.rs"]
mod skip;
mod support;
