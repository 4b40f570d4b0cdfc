//! Pillow's resampling, bit for bit.
//!
//! Pillow (src/libImaging/Resample.c) filters rows, rounds to 8 bits, then filters columns. A filter is scaled by the reduction
//! factor (antialiasing), normalised in `double`, and applied in 32-bit fixed point with 22 bits of fraction. The order of the
//! passes and the rounding between them matter: an overshoot clipped by the first pass is lost to the second.

use super::decode::Area;
use super::strip::{self, Column, ROWS};
use fearless_simd::{Level, dispatch};
use std::f64::consts::PI;

/// Bits of a weight's fraction.
const PRECISION: u32 = 22;

/// A resampling filter of Pillow's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Bicubic,
    Lanczos,
    Bilinear,
    Box,
}

impl Filter {
    /// Half the width of the filter, in pixels of the smaller image.
    fn support(self) -> f64 {
        match self {
            Filter::Box => 0.5,
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        let distance = x.abs();
        match self {
            Filter::Box if x > -0.5 && x <= 0.5 => 1.0,
            Filter::Bilinear if distance < 1.0 => 1.0 - distance,
            Filter::Bicubic if distance < 1.0 => ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0,
            Filter::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A,
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

/// The weights of one axis.
struct Taps {
    /// For each output position, the first source position and the range of its weights.
    spans: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<i32>,
}

impl Taps {
    fn new(filter: Filter, from: u32, to: u32) -> Taps {
        let scale = f64::from(from) / f64::from(to);
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let mut taps = Taps { spans: Vec::with_capacity(to as usize), weights: Vec::new() };
        let mut weights = Vec::new();
        for position in 0..to {
            let centre = (f64::from(position) + 0.5) * scale;
            let first = ((centre - support + 0.5) as i64).max(0);
            let end = ((centre + support + 0.5) as i64).min(from.into());
            weights.clear();
            weights.extend((first..end).map(|at| filter.weight((at as f64 - centre + 0.5) / stretch)));
            let sum: f64 = weights.iter().sum();
            let start = taps.weights.len();
            taps.weights.extend(weights.iter().map(|weight| {
                let fixed = if sum != 0.0 { weight / sum } else { *weight } * f64::from(1 << PRECISION);
                (fixed + 0.5f64.copysign(fixed)) as i32
            }));
            taps.spans.push((first as usize, start..taps.weights.len()));
        }
        taps
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.spans.iter().map(|(first, range)| (*first, &self.weights[range.clone()]))
    }
}

/// Buffers worth keeping between images.
#[derive(Default)]
pub(super) struct Buffers {
    columns: Vec<Column>,
    narrow: Vec<Column>,
    rows: Vec<u8>,
}

impl Buffers {
    pub fn bytes(&self) -> usize {
        (self.columns.capacity() + self.narrow.capacity()) * ROWS + self.rows.capacity()
    }
}

/// Resizes the square of `side` pixels at (`x`, `y`) of an image to `[size, size, 3]`. `source` holds `area` of the image,
/// which covers the square.
pub(super) fn resize_square(
    buffers: &mut Buffers,
    filter: Filter,
    source: &[u8],
    area: Area,
    (x, y, side): (u32, u32, u32),
    size: u32,
) -> Vec<u8> {
    let stride = area.width as usize * 3;
    let start = (y - area.y) as usize * stride + (x - area.x) as usize * 3;
    let rows = (0..side as usize).map(|row| &source[start + row * stride..][..side as usize * 3]);
    if side == size {
        return rows.flatten().copied().collect();
    }
    let taps = Taps::new(filter, side, size);
    let rows: Vec<&[u8]> = rows.collect();
    let mut output = vec![0; size as usize * size as usize * 3];
    dispatch!(Level::new(), _ => {
        horizontal(buffers, &rows, &taps);
        vertical(&buffers.rows, &taps, &mut output);
    });
    output
}

#[inline(always)]
fn horizontal(buffers: &mut Buffers, rows: &[&[u8]], taps: &Taps) {
    let width = taps.spans.len() * 3;
    let Buffers { columns, narrow, rows: output } = buffers;
    narrow.resize(width, [0; ROWS]);
    output.resize(rows.len() * width, 0);
    for (strip, output) in rows.chunks(ROWS).zip(output.chunks_mut(ROWS * width)) {
        strip::from_rows(strip, columns);
        let pixels = columns.as_chunks::<3>().0;
        for (target, (first, weights)) in narrow.as_chunks_mut::<3>().0.iter_mut().zip(taps.iter()) {
            // Wrapping: checked sums would not vectorise, and 255 times the weights' magnitudes stays far below 2^31.
            let mut sums = [[1i32 << (PRECISION - 1); ROWS]; 3];
            for (pixel, &weight) in pixels[first..].iter().zip(weights) {
                for (sums, column) in sums.iter_mut().zip(pixel) {
                    for (sum, &byte) in sums.iter_mut().zip(column) {
                        *sum = sum.wrapping_add(i32::from(byte).wrapping_mul(weight));
                    }
                }
            }
            for (column, sums) in target.iter_mut().zip(&sums) {
                clip(sums, column);
            }
        }
        strip::to_rows(narrow, output);
    }
}

#[inline(always)]
fn vertical(rows: &[u8], taps: &Taps, output: &mut [u8]) {
    const BLOCK: usize = 32;
    let width = taps.spans.len() * 3;
    for (target, (first, weights)) in output.chunks_exact_mut(width).zip(taps.iter()) {
        let rows = &rows[first * width..][..weights.len() * width];
        let (blocks, rest) = target.as_chunks_mut::<BLOCK>();
        for (index, block) in blocks.iter_mut().enumerate() {
            let mut sums = [1i32 << (PRECISION - 1); BLOCK];
            for (row, &weight) in rows.chunks_exact(width).zip(weights) {
                if let Some(bytes) = row[index * BLOCK..].first_chunk::<BLOCK>() {
                    for (sum, &byte) in sums.iter_mut().zip(bytes) {
                        *sum = sum.wrapping_add(i32::from(byte).wrapping_mul(weight));
                    }
                }
            }
            clip(&sums, block);
        }
        let done = width - rest.len();
        for (at, value) in rest.iter_mut().enumerate() {
            let products =
                rows.chunks_exact(width).zip(weights).map(|(row, &weight)| i32::from(row[done + at]) * weight);
            clip(&[(1 << (PRECISION - 1)) + products.sum::<i32>()], std::array::from_mut(value));
        }
    }
}

/// Sums to bytes. A loop, since `array::map` is compiled for the lowest instruction set.
#[inline(always)]
fn clip<const N: usize>(sums: &[i32; N], bytes: &mut [u8; N]) {
    for (byte, &sum) in bytes.iter_mut().zip(sums) {
        *byte = (sum >> PRECISION).clamp(0, 255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_bicubic_has_its_lobes() {
        for filter in [Filter::Bicubic, Filter::Lanczos, Filter::Bilinear, Filter::Box] {
            for (from, to) in [(375, 256), (100, 256), (1, 16), (4000, 3)] {
                for (_, weights) in Taps::new(filter, from, to).iter() {
                    let sum: i64 = weights.iter().map(|&w| i64::from(w)).sum();
                    assert!((sum - (1 << PRECISION)).abs() <= weights.len() as i64, "{filter:?} {from} {to}: {sum}");
                }
            }
        }
        assert!(Filter::Bicubic.weight(1.5) < 0.0 && Filter::Bicubic.weight(0.0) == 1.0);
    }

    #[test]
    fn a_constant_stays() {
        let source = vec![201; 37 * 40 * 3];
        let mut buffers = Buffers::default();
        for size in [1, 16, 36, 90] {
            let area = Area { x: 3, y: 0, width: 37, height: 40 };
            let output = resize_square(&mut buffers, Filter::Lanczos, &source, area, (4, 2, 35), size);
            assert_eq!(output, vec![201; (size * size * 3) as usize]);
        }
    }
}
