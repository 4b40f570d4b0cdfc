//! A pipeline file, for every command.
#![no_main]

use imagebart::config::{Needs, Pipeline};
use imagebart_fuzz::{Limited, limited};

#[global_allocator]
static ALLOCATOR: Limited = limited();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for needs in [Needs::Encode, Needs::Sample, Needs::Edit] {
        if let Err(error) = Pipeline::parse_for(needs, text, "fuzz.toml", &[]) {
            assert!(!error.to_string().is_empty());
        }
    }
});
