//! The scan of a baseline image: entropy-coded data to planes of samples, for the blocks an area needs.

use super::huffman::Entropy;
use super::segments::{Baseline, Component};
use super::{idct, rgb};
use crate::imaging::decode::Area;
use crate::imaging::{Format, ImageError};
use fearless_simd::{Level, Simd, dispatch};
use std::ops::Range;

/// A component's samples, of the MCUs that were asked for.
pub(super) struct Plane {
    pub samples: Vec<u8>,
    pub stride: usize,
    /// Where the plane's first sample lies in the component.
    pub x: usize,
    pub y: usize,
    /// The component's own size, without padding (T.81, A.1.1).
    pub width: usize,
    pub height: usize,
}

/// Decodes `wanted` into `pixels`, `[height, width, 3]`.
///
/// All entropy-coded data up to the last row wanted is decoded, all of it when the file has no end marker, for then it must be
/// found out whether pixels are missing.
pub(super) fn decode(image: &Baseline, wanted: Area, pixels: &mut Vec<u8>) -> Result<(), ImageError> {
    dispatch!(Level::new(), simd => {
        let planes = planes(simd, image, &wanted);
        planes.map(|planes| rgb::convert(image, &planes, &wanted, pixels))
    })
}

/// Which MCUs are decoded, of how many.
struct Mcus {
    columns: usize,
    rows: usize,
    x: Range<usize>,
    y: Range<usize>,
}

impl Mcus {
    fn new(image: &Baseline, wanted: &Area) -> Mcus {
        let (h, v) = largest(&image.components);
        // Upsampling looks one chroma sample beyond, which is two pixels.
        let span = |start: u32, length: u32, mcu: usize, count: usize| {
            let (start, length) = (start as usize, length as usize);
            start.saturating_sub(2) / mcu..(start + length + 2).div_ceil(mcu).min(count)
        };
        let (columns, rows) = (image.width.div_ceil(8 * h), image.height.div_ceil(8 * v));
        Mcus {
            columns,
            rows,
            x: span(wanted.x, wanted.width, 8 * h, columns),
            y: span(wanted.y, wanted.height, 8 * v, rows),
        }
    }
}

/// The largest sampling factors: the first component's, see [`super::segments`].
pub(super) fn largest(components: &[Component]) -> (usize, usize) {
    components.first().map_or((1, 1), |component| (component.h, component.v))
}

impl Plane {
    fn new(image: &Baseline, component: &Component, mcus: &Mcus) -> Plane {
        let (h, v) = largest(&image.components);
        let (width, height) = (component.h * 8, component.v * 8);
        let stride = mcus.x.len() * width;
        Plane {
            samples: vec![0; stride * mcus.y.len() * height],
            stride,
            x: mcus.x.start * width,
            y: mcus.y.start * height,
            width: (image.width * component.h).div_ceil(h),
            height: (image.height * component.v).div_ceil(v),
        }
    }
}

#[inline(always)]
fn planes<S: Simd>(simd: S, image: &Baseline, wanted: &Area) -> Result<Vec<Plane>, ImageError> {
    let entropy = Entropy::new(image.data);
    let mcus = Mcus::new(image, wanted);
    let mut planes: Vec<Plane> = image.components.iter().map(|part| Plane::new(image, part, &mcus)).collect();
    let last_row = if entropy.ended { mcus.y.end } else { mcus.rows };
    let mut predictions = [0; 4];
    let mut interval = 0;
    let mut bits = entropy.bits(interval);
    let mut block = [0; 64];
    let mut until_restart = image.restart;
    for row in 0..last_row {
        for column in 0..mcus.columns {
            if image.restart != 0 {
                if until_restart == 0 {
                    if bits.overrun() {
                        return Err(too_short(&entropy));
                    }
                    interval += 1;
                    bits = entropy.bits(interval);
                    predictions = [0; 4];
                    until_restart = image.restart;
                }
                until_restart -= 1;
            }
            let inside = mcus.y.contains(&row) && mcus.x.contains(&column);
            for ((component, plane), prediction) in image.components.iter().zip(&mut planes).zip(&mut predictions) {
                for part in 0..component.h * component.v {
                    if inside {
                        block = [0; 64];
                    }
                    let Some(waves) = bits.block(component, prediction, &mut block) else {
                        return Err(bad_code(bits.overrun(), &entropy));
                    };
                    if inside {
                        let x = ((column - mcus.x.start) * component.h + part % component.h) * 8;
                        let y = ((row - mcus.y.start) * component.v + part / component.h) * 8;
                        let target = &mut plane.samples[y * plane.stride + x..];
                        let rows = if waves { idct::block(simd, &block) } else { [[idct::flat(block[0]); 8]; 8] };
                        for (target, row) in target.chunks_mut(plane.stride).zip(&rows) {
                            target[..8].copy_from_slice(row);
                        }
                    }
                }
            }
        }
        if bits.overrun() {
            return Err(too_short(&entropy));
        }
    }
    Ok(planes)
}

#[cold]
fn too_short(entropy: &Entropy) -> ImageError {
    if entropy.ended {
        ImageError::damaged(Format::Jpeg, "its data ends before its last block")
    } else {
        ImageError::truncated(Format::Jpeg, "its data ends before its last block")
    }
}

#[cold]
fn bad_code(overrun: bool, entropy: &Entropy) -> ImageError {
    if overrun {
        too_short(entropy)
    } else {
        ImageError::damaged(Format::Jpeg, "its data holds a code that does not exist")
    }
}
