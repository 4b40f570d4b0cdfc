//! The perceptual hash of an image (Zauner, *Implementation and Benchmarking of Perceptual Image Hash Functions*, 2010): which of the
//! lowest 64 frequencies of its brightness are above their median. Resizing, recompressing and slight changes of colour flip few bits.

use crate::imaging::Rgb;
use std::f64::consts::PI;

/// Width and height that the brightness is averaged down to.
const SIDE: usize = 32;
/// Frequencies along each axis.
const FREQUENCIES: usize = 8;

/// The 64 bits, a symbol of 0 or 1 each.
pub(super) fn bits(picture: &Rgb) -> Vec<u16> {
    let small = brightness(picture);
    // The cosine transform along rows, then along columns.
    let rows: Vec<[f64; FREQUENCIES]> = small.chunks(SIDE).map(lowest).collect();
    let mut values = Vec::with_capacity(FREQUENCIES * FREQUENCIES);
    for across in 0..FREQUENCIES {
        let column: Vec<f64> = rows.iter().map(|row| row[across]).collect();
        values.extend(lowest(&column));
    }
    let mut sorted = values.clone();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = (sorted[middle - 1] + sorted[middle]) / 2.0;
    values.into_iter().map(|value| u16::from(value > median)).collect()
}

/// Mean brightness (ITU-R BT.601) of the parts of a picture, `[SIDE * SIDE]`.
fn brightness(picture: &Rgb) -> Vec<f64> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    // A picture smaller than the grid gives a pixel to several parts.
    let span = |part: usize, size: usize| {
        let start = (part * size / SIDE).min(size.saturating_sub(1));
        start..((part + 1) * size / SIDE).max(start + 1).min(size)
    };
    let part = |number: usize| {
        let (mut sum, mut count) = (0.0, 0.0);
        for y in span(number / SIDE, height) {
            for x in span(number % SIDE, width) {
                let at = (y * width + x) * 3;
                let rgb = picture.pixels.get(at..at + 3).unwrap_or_default();
                sum += rgb
                    .iter()
                    .zip([0.299, 0.587, 0.114])
                    .map(|(&value, weight)| f64::from(value) * weight)
                    .sum::<f64>();
                count += 1.0;
            }
        }
        sum / f64::max(count, 1.0)
    };
    (0..SIDE * SIDE).map(part).collect()
}

/// The lowest frequencies of the cosine transform (type II), without its scale.
fn lowest(values: &[f64]) -> [f64; FREQUENCIES] {
    let step = PI / values.len().max(1) as f64;
    std::array::from_fn(|frequency| {
        let wave = |(at, value): (usize, &f64)| value * (step * (at as f64 + 0.5) * frequency as f64).cos();
        values.iter().enumerate().map(wave).sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, at: impl Fn(f64, f64) -> f64) -> Rgb {
        let value = |number: u32| {
            let (x, y) = (f64::from(number % width) / f64::from(width), f64::from(number / width) / f64::from(height));
            at(x, y).clamp(0.0, 255.0) as u8
        };
        Rgb { width, height, pixels: (0..width * height).flat_map(|number| [value(number); 3]).collect() }
    }

    fn distance(a: &Rgb, b: &Rgb) -> usize {
        bits(a).iter().zip(bits(b)).filter(|(a, b)| **a != *b).count()
    }

    #[test]
    fn sizes_and_brightness_change_few_bits_and_another_picture_many() {
        let scene = |x: f64, y: f64| 128.0 + 60.0 * (9.0 * x + 3.0 * y).sin() + 50.0 * (5.0 * y * y - 2.0 * x).cos();
        let other = |x: f64, y: f64| 128.0 + 60.0 * (4.0 * y - 7.0 * x * y).sin() + 50.0 * (12.0 * x).cos();
        let plain = picture(256, 192, scene);
        assert_eq!(bits(&plain).len(), 64);
        for same in [picture(64, 48, scene), picture(256, 192, |x, y| 0.8 * scene(x, y) + 20.0)] {
            assert!(distance(&plain, &same) <= 4, "{}", distance(&plain, &same));
        }
        assert!(distance(&plain, &picture(256, 192, other)) >= 16);
        assert!(distance(&plain, &picture(256, 192, |x, y| scene(1.0 - x, y))) >= 16);
    }

    #[test]
    fn pictures_of_any_size_have_a_hash() {
        for (width, height) in [(1, 1), (3, 500), (33, 31)] {
            let found = bits(&picture(width, height, |x, y| 255.0 * x * y));
            assert!(found.len() == 64 && found.iter().all(|bit| *bit <= 1));
        }
    }
}
