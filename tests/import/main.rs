//! Reading PyTorch checkpoints, and `imagebart import`, from outside.

mod chain_checkpoints;
mod chains;
mod checkpoint;
mod models;
mod parity;
mod pickle;
mod pytorch;
mod refusals;
#[path = "../skip/mod.rs"]
mod skip;
