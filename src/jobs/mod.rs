//! The user's commands, each read top to bottom as the data flows.

pub mod demo;
pub mod gallery;
