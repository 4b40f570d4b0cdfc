//! OpenCV's `INTER_LINEAR` on 8-bit images, bit for bit, computed only where it is looked at.
//!
//! OpenCV's `resize` weighs the two nearest rows and columns with 11-bit coefficients and no antialiasing (modules/imgproc/src/
//! resize.cpp: `HResizeLinear`, `VResizeLinear` for `uchar, int, short`).

use super::decode::Area;
use fearless_simd::{Level, dispatch};
use std::ops::Range;

/// Coefficients are fractions of 2^11.
const ONE: i32 = 1 << 11;

/// One output position: the two source positions it lies between and their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tap {
    first: u32,
    second: u32,
    weights: [i32; 2],
}

/// The resize of one axis from `from` to `to` pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub from: u32,
    pub to: u32,
}

impl Axis {
    /// The tap of output `position`: its centre in source pixels, rounded as OpenCV does (`double`, then `float`).
    fn tap(self, position: u32) -> Tap {
        let scale = 1.0 / (f64::from(self.to) / f64::from(self.from));
        let centre = ((f64::from(position) + 0.5) * scale - 0.5) as f32;
        let floor = centre.floor();
        let fraction = centre - floor;
        let last = i64::from(self.from) - 1;
        let clamp = |at: i64| at.clamp(0, last) as u32;
        let fixed = |weight: f32| (weight * ONE as f32).round_ties_even() as i32;
        Tap {
            first: clamp(floor as i64),
            second: clamp(floor as i64 + 1),
            weights: [fixed(1.0 - fraction), fixed(fraction)],
        }
    }

    /// The source positions that outputs `positions` read.
    pub fn sources(self, positions: Range<u32>) -> Range<u32> {
        self.tap(positions.start).first..self.tap(positions.end.max(1) - 1).second + 1
    }
}

/// The window of `size` x `size` pixels at `window` of an image resized along `axes` (x, y); `[size, size, 3]`. `source` holds
/// `area` of the original, which covers all that the window reads.
pub(super) fn resize_window(source: &[u8], area: Area, axes: (Axis, Axis), window: (u32, u32), size: u32) -> Vec<u8> {
    let columns: Vec<Tap> = (window.0..window.0 + size)
        .map(|position| {
            let tap = axes.0.tap(position);
            // Left and right of the outermost centres OpenCV takes the border pixel alone.
            let weights = if tap.first == tap.second { [ONE, 0] } else { tap.weights };
            Tap { first: tap.first - area.x, second: tap.second - area.x, weights }
        })
        .collect();
    let rows: Vec<Tap> = (window.1..window.1 + size)
        .map(|position| {
            let tap = axes.1.tap(position);
            Tap { first: tap.first - area.y, second: tap.second - area.y, ..tap }
        })
        .collect();
    let mut output = vec![0; size as usize * size as usize * 3];
    let source: Vec<&[[u8; 3]]> =
        source.chunks_exact(area.width as usize * 3).map(|row| row.as_chunks::<3>().0).collect();
    dispatch!(Level::new(), _ => blend(&source, &columns, &rows, &mut output));
    output
}

/// Rows are weighed into sums of 19 bits first, then pairs of them into pixels. Arithmetic wraps, since checked arithmetic would
/// not vectorise; nothing reaches 2^31.
#[inline(always)]
fn blend(source: &[&[[u8; 3]]], columns: &[Tap], rows: &[Tap], output: &mut [u8]) {
    let width = columns.len() * 3;
    let mut sums = [(None, vec![0; width]), (None, vec![0; width])];
    for (target, tap) in output.chunks_exact_mut(width).zip(rows) {
        if sums[0].0 != Some(tap.first) {
            sums.swap(0, 1);
        }
        for ((held, sums), row) in sums.iter_mut().zip([tap.first, tap.second]) {
            if *held != Some(row) {
                horizontal(source[row as usize], columns, sums);
                *held = Some(row);
            }
        }
        let [(_, upper), (_, lower)] = &sums;
        let [b0, b1] = tap.weights;
        for ((value, &s0), &s1) in target.iter_mut().zip(upper).zip(lower) {
            let sum = (b0.wrapping_mul(s0 >> 4) >> 16).wrapping_add(b1.wrapping_mul(s1 >> 4) >> 16);
            *value = (sum.wrapping_add(2) >> 2).clamp(0, 255) as u8;
        }
    }
}

#[inline(always)]
fn horizontal(source: &[[u8; 3]], columns: &[Tap], sums: &mut [i32]) {
    for (sums, tap) in sums.as_chunks_mut::<3>().0.iter_mut().zip(columns) {
        let (first, second) = (source[tap.first as usize], source[tap.second as usize]);
        let [a0, a1] = tap.weights;
        for channel in 0..3 {
            let (s0, s1) = (i32::from(first[channel]), i32::from(second[channel]));
            sums[channel] = s0.wrapping_mul(a0).wrapping_add(s1.wrapping_mul(a1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(source: &[u8], from: (u32, u32), to: (u32, u32), at: (u32, u32), size: u32) -> Vec<u8> {
        let axes = (Axis { from: from.0, to: to.0 }, Axis { from: from.1, to: to.1 });
        resize_window(source, Area::whole(from.0, from.1), axes, at, size)
    }

    fn noise(width: u32, height: u32) -> Vec<u8> {
        (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    #[test]
    fn halving_is_the_mean_of_four() {
        let source = noise(6, 6);
        let at = |x: usize, y: usize| u32::from(source[(y * 6 + x) * 3]);
        let half = window(&source, (6, 6), (3, 3), (0, 0), 3);
        assert_eq!(u32::from(half[0]), (at(0, 0) + at(1, 0) + at(0, 1) + at(1, 1) + 2) / 4);
    }

    #[test]
    fn a_constant_stays_and_a_window_is_part_of_the_whole() {
        assert!(window(&[77; 5 * 4 * 3], (5, 4), (20, 16), (2, 0), 16).iter().all(|&v| v == 77));
        let source = noise(31, 17);
        let whole = window(&source, (31, 17), (60, 60), (0, 0), 60);
        let part = window(&source, (31, 17), (60, 60), (13, 29), 20);
        for (row, values) in part.chunks_exact(60).enumerate() {
            assert_eq!(values, &whole[((29 + row) * 60 + 13) * 3..][..60]);
        }
    }

    #[test]
    fn sources_cover_what_a_window_reads() {
        let axis = Axis { from: 1000, to: 256 };
        assert_eq!(axis.sources(0..256), 1..1000 - 1);
        assert_eq!(Axis { from: 10, to: 256 }.sources(0..256), 0..10);
    }
}
