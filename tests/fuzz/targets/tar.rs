//! A tar shard, by WebDataset's rules.
#![no_main]

use imagebart::datasets::WebDataset;
use imagebart_fuzz::{Limited, limited, options, read};
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: Limited = limited();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    read(&[("0.tar", data)], |location| Arc::new(WebDataset::new(location, options())));
});
