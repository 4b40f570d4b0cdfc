//! Training from outside: the order of batches, and what a run that goes on sees.

mod checkpoints;
mod entropy;
mod images;
mod loader;
#[path = "../tables/support/mod.rs"]
mod tables_support;
mod watch;
