//! Decoding, cropping and resizing from outside: reference pixels, and files that are damaged.

mod fuzz;
mod jpeg;
#[path = "../parity/preprocessing.rs"]
mod preprocessing;
mod reference_pixels;
#[path = "../skip/mod.rs"]
mod skip;
