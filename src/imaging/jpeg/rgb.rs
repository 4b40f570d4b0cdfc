//! Planes to RGB pixels: libjpeg's "fancy" upsampling (jdsample.c) and its colour conversion (jdcolor.c), bit for bit.

use super::baseline::{Plane, largest};
use super::segments::Baseline;
use crate::imaging::decode::Area;

/// Writes the pixels of `wanted`, `[height, width, 3]`. The planes hold the samples it needs and their neighbours.
#[inline(always)]
pub(super) fn convert(image: &Baseline, planes: &[Plane], wanted: &Area, pixels: &mut Vec<u8>) {
    let (width, height) = (wanted.width as usize, wanted.height as usize);
    pixels.clear();
    pixels.resize(width * height * 3, 0);
    let factors = largest(&image.components);
    let mut upsampled = [Upsampled::default(), Upsampled::default()];
    for (line, target) in pixels.chunks_exact_mut(width * 3).enumerate() {
        let y = wanted.y as usize + line;
        let x = wanted.x as usize;
        match planes {
            [gray] => {
                for (pixel, &sample) in target.as_chunks_mut::<3>().0.iter_mut().zip(gray.row(y, x, width)) {
                    *pixel = [sample; 3];
                }
            }
            [first, second, third, ..] => {
                let [left, right] = &mut upsampled;
                let row = (
                    first.row(y, x, width),
                    left.row(second, factors, y, x, width),
                    right.row(third, factors, y, x, width),
                );
                if image.ycbcr { from_ycbcr(row, target) } else { from_rgb(row, target) }
            }
            _ => {}
        }
    }
}

impl Plane {
    /// `width` samples from (x, y) of the component on.
    #[inline(always)]
    fn row(&self, y: usize, x: usize, width: usize) -> &[u8] {
        &self.samples[(y - self.y) * self.stride + (x - self.x)..][..width]
    }
}

/// A chroma row at full width.
#[derive(Default)]
struct Upsampled {
    /// The row's samples and those left and right of it, mixed with the neighbouring row's where rows are doubled.
    sums: Vec<u16>,
    samples: Vec<u8>,
}

impl Upsampled {
    /// The samples of pixels `x..x + width` of row `y`, of a component that has 1 / `factors` of the image's samples.
    #[inline(always)]
    fn row<'a>(&'a mut self, plane: &'a Plane, factors: (usize, usize), y: usize, x: usize, width: usize) -> &'a [u8] {
        if factors == (1, 1) {
            return plane.row(y, x, width);
        }
        let near = if factors.1 == 1 { y } else { y / 2 };
        // libjpeg repeats the samples of components that are too narrow to have neighbours.
        let fancy = factors.0 == 1 || plane.width > 2;
        let far = match factors.1 {
            2 if fancy && y.is_multiple_of(2) => near.saturating_sub(1),
            2 if fancy => (near + 1).min(plane.height - 1),
            _ => near,
        };
        if factors.0 == 1 {
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            self.samples.resize(width, 0);
            let rows = plane.row(near, x, width).iter().zip(plane.row(far, x, width));
            for (sample, (&near, &far)) in self.samples.iter_mut().zip(rows) {
                *sample = ((u16::from(near) * 3 + u16::from(far) + bias) >> 2) as u8;
            }
            return &self.samples;
        }
        let first = x / 2;
        let count = (x + width).div_ceil(2) - first;
        self.mix(plane, (near, far), factors.1 == 2, first, count);
        self.samples.resize(count * 2, 0);
        let (shift, bias) = if factors.1 == 2 { (4, (8, 7)) } else { (2, (1, 2)) };
        let neighbours = self.sums.iter().zip(&self.sums[1..]).zip(&self.sums[2..]);
        for (pair, ((&left, &sum), &right)) in self.samples.as_chunks_mut::<2>().0.iter_mut().zip(neighbours) {
            let (left, right) = if fancy { (left, right) } else { (sum, sum) };
            *pair = [((sum * 3 + left + bias.0) >> shift) as u8, ((sum * 3 + right + bias.1) >> shift) as u8];
        }
        &self.samples[x % 2..][..width]
    }

    /// Sums of `count` samples from `first` on, with one neighbour on each side; the border's neighbour is itself.
    #[inline(always)]
    fn mix(&mut self, plane: &Plane, rows: (usize, usize), doubled: bool, first: usize, count: usize) {
        let start = first.saturating_sub(1);
        let end = (first + count + 1).min(plane.width);
        let (near, far) = (plane.row(rows.0, start, end - start), plane.row(rows.1, start, end - start));
        self.sums.clear();
        self.sums.resize(count + 2, 0);
        let offset = usize::from(first == 0);
        for (sum, (&near, &far)) in self.sums[offset..].iter_mut().zip(near.iter().zip(far)) {
            *sum = if doubled { u16::from(near) * 3 + u16::from(far) } else { u16::from(near) };
        }
        if first == 0 {
            self.sums[0] = self.sums[1];
        }
        if first + count == plane.width {
            self.sums[count + 1] = self.sums[count];
        }
    }
}

/// Pixels converted at once.
const BLOCK: usize = 32;

/// One row of YCbCr to RGB, in 16 bits of fraction.
#[inline(always)]
fn from_ycbcr((y, cb, cr): (&[u8], &[u8], &[u8]), target: &mut [u8]) {
    let (blocks, rest) = target.as_chunks_mut::<{ BLOCK * 3 }>();
    let done = blocks.len() * BLOCK;
    let (y_blocks, cb_blocks, cr_blocks) = (y.as_chunks().0, cb.as_chunks().0, cr.as_chunks().0);
    for (((target, y), cb), cr) in blocks.iter_mut().zip(y_blocks).zip(cb_blocks).zip(cr_blocks) {
        ycbcr_block(y, cb, cr, target);
    }
    let tail = |row: &[u8]| -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        for (to, from) in block.iter_mut().zip(&row[done..]) {
            *to = *from;
        }
        block
    };
    if !rest.is_empty() {
        let mut last = [0; BLOCK * 3];
        ycbcr_block(&tail(y), &tail(cb), &tail(cr), &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[inline(always)]
fn ycbcr_block(y: &[u8; BLOCK], cb: &[u8; BLOCK], cr: &[u8; BLOCK], target: &mut [u8; BLOCK * 3]) {
    const HALF: i32 = 1 << 15;
    let (mut red, mut green, mut blue) = ([0; BLOCK], [0; BLOCK], [0; BLOCK]);
    for at in 0..BLOCK {
        let (y, cb, cr) = (i32::from(y[at]), i32::from(cb[at]).wrapping_sub(128), i32::from(cr[at]).wrapping_sub(128));
        let fixed = |sum: i32| y.wrapping_add(sum.wrapping_add(HALF) >> 16).clamp(0, 255) as u8;
        red[at] = fixed(cr.wrapping_mul(91_881));
        green[at] = fixed(cb.wrapping_mul(-22_554).wrapping_add(cr.wrapping_mul(-46_802)));
        blue[at] = fixed(cb.wrapping_mul(116_130));
    }
    for (at, pixel) in target.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        *pixel = [red[at], green[at], blue[at]];
    }
}

#[inline(always)]
fn from_rgb((red, green, blue): (&[u8], &[u8], &[u8]), target: &mut [u8]) {
    for (pixel, ((&red, &green), &blue)) in
        target.as_chunks_mut::<3>().0.iter_mut().zip(red.iter().zip(green).zip(blue))
    {
        *pixel = [red, green, blue];
    }
}
