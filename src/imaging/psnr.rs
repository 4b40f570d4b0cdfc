//! How far two pictures are apart.

use super::Rgb;

/// Peak signal-to-noise ratio of two pictures of one size, 10 log10(255² / mean square difference), in dB; at most 99, which
/// equal pictures have.
pub fn psnr(a: &Rgb, b: &Rgb) -> f64 {
    let square = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b)).powi(2);
    let mean = a.pixels.iter().zip(&b.pixels).map(square).sum::<f64>() / a.pixels.len().max(1) as f64;
    if mean == 0.0 { 99.0 } else { (10.0 * (255f64.powi(2) / mean).log10()).min(99.0) }
}
