//! The built `imagebart` as its user sees it, one module per command or promise.

mod acceptance;
mod bulk;
mod card;
mod choose;
mod common;
mod demo;
mod edit;
mod edit_modes;
mod edit_tables;
mod encode;
mod evaluate;
mod imagenet;
mod img2dataset;
mod kill;
mod large;
mod linking;
mod pipelines;
mod prompts;
#[path = "../python/mod.rs"]
mod python;
mod retry;
mod sample;
mod scored;
#[path = "../evaluate/script.rs"]
mod script;
mod shapes;
mod shipped;
mod shrink;
#[path = "../tables/support/mod.rs"]
mod tables_support;
mod text;
mod train;
mod train_tokenizer;
