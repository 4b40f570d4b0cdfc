//! A StyleGAN zip: its directory, its entries and its labels.
#![no_main]

use imagebart::datasets::StyleGanZip;
use imagebart_fuzz::{Limited, limited, options, read};
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: Limited = limited();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    read(&[("x.zip", data)], |location| Arc::new(StyleGanZip::new(location, options())));
});
