//! JPEG to RGB, as libjpeg-turbo decodes it for Pillow.
//!
//! Nearly all photographs are baseline, one interleaved scan of gray or YCbCr: these are decoded here, with libjpeg's integer
//! IDCT, its "fancy" upsampling and its colour conversion bit for bit, and only the blocks the crop needs are transformed.
//! Everything else that is JPEG (progressive, CMYK, several scans, rare sampling factors) goes to `zune-jpeg`, whose IDCT and
//! upsampling differ by a few steps.

mod baseline;
mod huffman;
mod idct;
mod rgb;
mod segments;
mod zune;

use super::decode::Area;
use super::{Header, ImageError};

/// Decodes at least `wanted` into `pixels`; returns the area that is there.
pub(super) fn decode(bytes: &[u8], header: &Header, wanted: Area, pixels: &mut Vec<u8>) -> Result<Area, ImageError> {
    match segments::baseline(bytes) {
        Some(image) => baseline::decode(&image, wanted, pixels).map(|()| wanted),
        None => zune::decode(bytes, header, pixels),
    }
}
