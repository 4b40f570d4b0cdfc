//! The tokenizer and its weights from outside.

mod network;
#[path = "../skip/mod.rs"]
mod skip;
mod tiles;
mod tokens;
mod weights;
