//! Pictures beside their reconstructions. PSNR is `imaging::psnr`.

use crate::imaging::Rgb;

/// Why two pictures cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    #[error("a picture of {}x{} pixels cannot be compared with one of {}x{}", first.0, first.1, second.0, second.1)]
    Sizes { first: (u32, u32), second: (u32, u32) },
    #[error("a picture of {}x{} pixels is smaller than SSIM's window of {window}x{window}", size.0, size.1)]
    Small { size: (u32, u32), window: u32 },
}

/// Mean absolute difference of 8-bit values, as a share of their range of 255.
///
/// # Errors
/// [`PictureError::Sizes`].
pub fn mean_difference(a: &Rgb, b: &Rgb) -> Result<f64, PictureError> {
    same_size(a, b)?;
    let sum: u64 = a.pixels.iter().zip(&b.pixels).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    Ok(sum as f64 / 255.0 / a.pixels.len().max(1) as f64)
}

pub(super) fn same_size(a: &Rgb, b: &Rgb) -> Result<(), PictureError> {
    let size = |picture: &Rgb| (picture.width, picture.height);
    if size(a) == size(b) && a.pixels.len() == b.pixels.len() {
        Ok(())
    } else {
        Err(PictureError::Sizes { first: size(a), second: size(b) })
    }
}
