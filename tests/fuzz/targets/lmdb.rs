//! An LMDB: its meta, branch, leaf and overflow pages.
#![no_main]

use imagebart::datasets::LsunLmdb;
use imagebart_fuzz::{Limited, limited, options, read};
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: Limited = limited();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    read(&[("x_lmdb/data.mdb", data)], |location| Arc::new(LsunLmdb::new(location, options())));
});
