//! `imagebart`: image datasets to discrete latents, streaming from object storage to Parquet.
//!
//! The rooms of the house, in the order the data flows:
//!
//! - [`datasets`] lists a dataset's work units and reads their samples from any object store;
//! - [`imaging`] turns encoded bytes into RGB crops;
//! - [`torch`] and [`vqgan`] turn crops into token grids and back;
//! - [`diffusion`] destroys token grids scale by scale, [`transformer`] holds the networks that invert it, and [`chain`] the
//!   scales together: model directory, sampler, editor;
//! - [`training`] has what training a chain needs;
//! - [`text`] turns captions into the token ids that text-conditioned chains see;
//! - [`evaluate`] has the metrics of images, features and likelihoods;
//! - [`tables`] writes token grids to Parquet, one atomic commit per work unit;
//! - [`flow`] carries the items between them over bounded channels;
//! - [`progress`] shows how far they are, on a terminal or in the log;
//! - [`jobs`] are the user's commands, each a short program over the rooms above.

// The C++ shim's binding, torch/shim.rs, is the one module that may use it.
#![deny(unsafe_code)]

pub mod chain;
pub mod config;
pub mod datasets;
pub mod diffusion;
mod digest;
pub mod evaluate;
pub mod flow;
mod html;
pub mod imaging;
pub mod jobs;
pub mod launch;
pub mod progress;
pub mod random;
pub mod reject;
pub mod retry;
pub mod tables;
pub mod text;
pub mod torch;
pub mod training;
pub mod transformer;
pub mod vqgan;
mod windows;
