//! An image file of any format, from its header to its crops.
#![no_main]

use imagebart::imaging::{CropMode, Flip, Limits, Preprocess, Resize, Trim, decode, probe};
use imagebart::random::RowKey;
use imagebart_fuzz::{Limited, limited};

#[global_allocator]
static ALLOCATOR: Limited = limited();

/// Few pixels: what a header claims beyond them must cost nothing.
const LIMITS: Limits = Limits { max_pixels: 1 << 16, max_bytes: 1 << 16, min_side: 1 };

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let header = probe(data, &LIMITS);
    if let Ok(image) = decode(data, &LIMITS) {
        let header = header.expect("an image that is decoded has a header");
        assert_eq!((image.width, image.height), (header.width, header.height));
        assert_eq!(image.pixels.len() as u64, header.pixels() * 3);
    }
    let preprocess = Preprocess {
        size: 8,
        resize: Resize::PillowBicubic,
        crop: CropMode::Random,
        crops: 2,
        trim: Trim::None,
        flip: Flip::Both,
        limits: LIMITS,
    };
    if let Ok(crops) = preprocess.prepare(data, |crop| RowKey::new(1, "fuzz", 2, crop)) {
        assert!(crops.len() == 4 && crops.iter().all(|crop| crop.pixels.len() == 8 * 8 * 3));
    }
});
