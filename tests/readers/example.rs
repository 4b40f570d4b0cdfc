//! `examples/own_reader.rs`, compiled into the suite, so that the reader it shows is one that conforms.

#[allow(dead_code)]
#[path = "../../examples/own_reader.rs"]
mod own_reader;

pub use own_reader::LengthPrefixed;
