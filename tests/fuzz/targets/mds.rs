//! A MosaicML shard with its index: the input is the index, a zero byte, and the shard.
#![no_main]

use imagebart::datasets::Mds;
use imagebart_fuzz::{Limited, limited, options, read};
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: Limited = limited();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(end) = data.iter().position(|byte| *byte == 0) else { return };
    let (index, shard) = (&data[..end], &data[end + 1..]);
    let files = [("index.json", index), ("x.mds", shard), ("x.mds.zstd", shard)];
    read(&files, |location| Arc::new(Mds::new(location, options())));
});
