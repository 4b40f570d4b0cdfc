//! Structural similarity (Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004).

use super::pictures::{PictureError, same_size};
use crate::imaging::Rgb;

/// The window over which means and variances are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// 7×7 pixels alike, and sample variances: scikit-image's default.
    Uniform,
    /// 11×11, a Gaussian with sigma 1.5, and the population's variances: the paper's.
    Gaussian,
}

impl Window {
    /// The window along one axis: weights that sum to 1.
    fn taps(self) -> Vec<f64> {
        let weights: Vec<f64> = match self {
            Window::Uniform => vec![1.0; 7],
            Window::Gaussian => (-5..=5).map(|at| (-0.5 * f64::from(at * at) / 1.5f64.powi(2)).exp()).collect(),
        };
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    }

    /// What turns mean squares less squared means into variances.
    fn correction(self) -> f64 {
        match self {
            Window::Uniform => 49.0 / 48.0,
            Window::Gaussian => 1.0,
        }
    }
}

/// Mean structural similarity of two pictures: of each channel, then their mean, over all places where the whole window lies within the
/// picture. As scikit-image's `structural_similarity` with `channel_axis=2, data_range=255`, and with `gaussian_weights=True,
/// sigma=1.5, use_sample_covariance=False` for [`Window::Gaussian`].
///
/// # Errors
/// Pictures of different sizes, or smaller than the window.
pub fn ssim(a: &Rgb, b: &Rgb, window: Window) -> Result<f64, PictureError> {
    same_size(a, b)?;
    let taps = window.taps();
    let (width, height) = (a.width as usize, a.height as usize);
    if width.min(height) < taps.len() {
        return Err(PictureError::Small { size: (a.width, a.height), window: taps.len() as u32 });
    }
    let channel = |picture: &Rgb, channel: usize| -> Vec<f64> {
        picture.pixels.iter().skip(channel).step_by(3).map(|value| f64::from(*value)).collect()
    };
    let sum: f64 = (0..3).map(|at| plane(&channel(a, at), &channel(b, at), width, window, &taps)).sum();
    Ok(sum / 3.0)
}

/// The mean similarity of two planes of one size.
fn plane(a: &[f64], b: &[f64], width: usize, window: Window, taps: &[f64]) -> f64 {
    // K1 = 0.01 and K2 = 0.03 of a range of 255.
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let smooth = |values: Vec<f64>| filtered(&values, width, taps);
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect();
    let (mean_a, mean_b) = (smooth(a.to_vec()), smooth(b.to_vec()));
    let (square_a, square_b, cross) = (smooth(product(a, a)), smooth(product(b, b)), smooth(product(a, b)));
    let (mut sum, mut count) = (0.0, 0usize);
    let squares = square_a.iter().zip(&square_b).zip(&cross);
    for ((a, b), ((square_a, square_b), cross)) in mean_a.iter().zip(&mean_b).zip(squares) {
        let correction = window.correction();
        let (var_a, var_b) = (correction * (square_a - a * a), correction * (square_b - b * b));
        let covariance = correction * (cross - a * b);
        let luminance = (2.0 * a * b + c1) / (a * a + b * b + c1);
        sum += luminance * (2.0 * covariance + c2) / (var_a + var_b + c2);
        count += 1;
    }
    sum / count.max(1) as f64
}

/// Rows, then columns, filtered with the taps; only where all of them lie within the plane.
fn filtered(plane: &[f64], width: usize, taps: &[f64]) -> Vec<f64> {
    let inner = width + 1 - taps.len();
    let dot = |values: &[f64]| values.iter().zip(taps).map(|(value, tap)| value * tap).sum::<f64>();
    let rows: Vec<f64> = plane.chunks_exact(width).flat_map(|row| row.windows(taps.len()).map(dot)).collect();
    let lines: Vec<&[f64]> = rows.chunks_exact(inner).collect();
    let mut out = Vec::with_capacity(rows.len());
    for lines in lines.windows(taps.len()) {
        let mut sums = vec![0.0; inner];
        for (line, tap) in lines.iter().zip(taps) {
            sums.iter_mut().zip(*line).for_each(|(sum, value)| *sum += tap * value);
        }
        out.append(&mut sums);
    }
    out
}
