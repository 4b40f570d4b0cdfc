//! libjpeg's accurate integer inverse DCT (jidctint.c, after Loeffler, Ligtenberg and Moschytz 1989), bit for bit.

use fearless_simd::{Simd, SimdBase, SimdFrom, i32x8};

const CONST_BITS: u32 = 13;
const PASS1_BITS: u32 = 2;

// The constants of jidctint.c, times 2^13.
const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;

/// Dequantised coefficients in natural order to eight rows of samples.
#[inline(always)]
pub(super) fn block<S: Simd>(simd: S, coefficients: &[i32; 64]) -> [[u8; 8]; 8] {
    let rows = coefficients.as_chunks::<8>().0;
    let mut lanes: [i32x8<S>; 8] = std::array::from_fn(|row| i32x8::simd_from(simd, rows[row]));
    pass(simd, &mut lanes, CONST_BITS - PASS1_BITS);
    transpose(&mut lanes);
    pass(simd, &mut lanes, CONST_BITS + PASS1_BITS + 3);
    transpose(&mut lanes);
    let mut samples = [[0; 8]; 8];
    for (samples, lane) in samples.iter_mut().zip(lanes) {
        let row: [i32; 8] = (lane + i32x8::splat(simd, 128)).into();
        for (sample, value) in samples.iter_mut().zip(row) {
            *sample = value.clamp(0, 255) as u8;
        }
    }
    samples
}

/// The samples of a block whose first coefficient alone is not zero.
#[inline(always)]
pub(super) fn flat(first: i32) -> u8 {
    let value = (first.wrapping_mul(1 << PASS1_BITS).wrapping_add(1 << (PASS1_BITS + 2))) >> (PASS1_BITS + 3);
    value.wrapping_add(128).clamp(0, 255) as u8
}

/// A one-dimensional transform of each lane, descaled by `shift` bits.
#[inline(always)]
fn pass<S: Simd>(simd: S, v: &mut [i32x8<S>; 8], shift: u32) {
    let times = |a: i32x8<S>, factor: i32| a * i32x8::splat(simd, factor);
    let [v0, v1, v2, v3, v4, v5, v6, v7] = *v;
    // Even part.
    let z1 = times(v2 + v6, F_0_541);
    let (even2, even3) = (z1 - times(v6, F_1_847), z1 + times(v2, F_0_765));
    let (even0, even1) = ((v0 + v4) << CONST_BITS, (v0 - v4) << CONST_BITS);
    let (t10, t13, t11, t12) = (even0 + even3, even0 - even3, even1 + even2, even1 - even2);
    // Odd part.
    let (z1, z2, z3, z4) = (v7 + v1, v5 + v3, v7 + v3, v5 + v1);
    let z5 = times(z3 + z4, F_1_175);
    let (z1, z2) = (times(z1, -F_0_899), times(z2, -F_2_562));
    let (z3, z4) = (z5 - times(z3, F_1_961), z5 - times(z4, F_0_390));
    let t0 = times(v7, F_0_298) + z1 + z3;
    let t1 = times(v5, F_2_053) + z2 + z4;
    let t2 = times(v3, F_3_072) + z2 + z3;
    let t3 = times(v1, F_1_501) + z1 + z4;
    let half = i32x8::splat(simd, 1 << (shift - 1));
    let (t10, t11, t12, t13) = (t10 + half, t11 + half, t12 + half, t13 + half);
    *v = [
        (t10 + t3) >> shift,
        (t11 + t2) >> shift,
        (t12 + t1) >> shift,
        (t13 + t0) >> shift,
        (t13 - t0) >> shift,
        (t12 - t1) >> shift,
        (t11 - t2) >> shift,
        (t10 - t3) >> shift,
    ];
}

/// Rows to columns. Interleaving halves moves the highest bit of a place's number to its end; after three times row and column
/// have changed places.
#[inline(always)]
fn transpose<S: Simd>(v: &mut [i32x8<S>; 8]) {
    for _ in 0..3 {
        let [v0, v1, v2, v3, v4, v5, v6, v7] = *v;
        let ((a0, a1), (a2, a3)) = (v0.interleave(v4), v1.interleave(v5));
        let ((a4, a5), (a6, a7)) = (v2.interleave(v6), v3.interleave(v7));
        *v = [a0, a1, a2, a3, a4, a5, a6, a7];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fearless_simd::{Level, dispatch};

    /// The inverse DCT by its definition.
    fn exact(coefficients: &[i32; 64]) -> Vec<f64> {
        let basis = |at: usize, frequency: usize| {
            let scale = if frequency == 0 { 0.5f64.sqrt() } else { 1.0 };
            scale * ((2 * at + 1) as f64 * frequency as f64 * std::f64::consts::PI / 16.0).cos() / 2.0
        };
        let sample = |y: usize, x: usize| {
            let sum = |v: usize| (0..8).map(|u| basis(x, u) * f64::from(coefficients[v * 8 + u])).sum::<f64>();
            (0..8).map(|v| basis(y, v) * sum(v)).sum::<f64>() + 128.0
        };
        (0..64).map(|at| sample(at / 8, at % 8)).collect()
    }

    #[test]
    fn it_is_the_inverse_dct() {
        let mut coefficients = [0; 64];
        for seed in 0u32..50 {
            for (at, value) in coefficients.iter_mut().enumerate() {
                let noise = (seed * 64 + at as u32).wrapping_mul(2_654_435_761) >> 20;
                *value = (noise as i32 - 2048) / (8 + 3 * at as i32);
            }
            let samples = dispatch!(Level::new(), simd => block(simd, &coefficients));
            for (sample, exact) in samples.iter().flatten().zip(exact(&coefficients)) {
                assert!((f64::from(*sample) - exact.clamp(0.0, 255.0)).abs() < 1.0);
            }
        }
    }

    #[test]
    fn a_flat_block_is_the_same_both_ways() {
        for first in -1100..1100 {
            let mut coefficients = [0; 64];
            coefficients[0] = first;
            assert_eq!(dispatch!(Level::new(), simd => block(simd, &coefficients)), [[flat(first); 8]; 8]);
        }
    }
}
