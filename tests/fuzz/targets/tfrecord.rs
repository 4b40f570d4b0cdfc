//! A TFRecord file, of raw pixels as FFHQ's and of img2dataset's examples. The first byte tells which.
#![no_main]

use imagebart::datasets::{Records, TfRecord};
use imagebart_fuzz::{Limited, limited, options, read};
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: Limited = limited();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, file)) = data.split_first() else { return };
    let (name, records) = match kind % 2 {
        0 => ("x-r02.tfrecords", Records::RawPixels),
        _ => ("00000.tfrecord", Records::Img2dataset),
    };
    read(&[(name, file)], |location| Arc::new(TfRecord::new(location, records, options())));
});
