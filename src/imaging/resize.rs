//! Pillow's resampling, by `fast_image_resize`: the same filters, scaled by the reduction factor, in 8-bit fixed point.

use super::decode::Area;
use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use std::error::Error;

/// Resizes the square of `side` pixels at (`x`, `y`) of `source` to `size` x `size`. `source` holds `area` of the image the
/// square's position refers to.
pub(super) fn resize_square(
    resizer: &mut Resizer,
    filter: FilterType,
    source: &[u8],
    area: Area,
    (x, y, side): (u32, u32, u32),
    size: u32,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let source = ImageRef::new(area.width, area.height, source, PixelType::U8x3)?;
    // A cropped view, not the crop box of the options: that one lets the filter read beyond the crop's border.
    let (left, top) = (x.saturating_sub(area.x), y.saturating_sub(area.y));
    let square = CroppedImage::new(&source, left, top, side, side)?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    // One pass at a time, as Pillow: rows first, rounded to 8 bits. In one call it is columns first, and where the first pass
    // clips an overshoot the result is another.
    let mut rows = Image::new(size, side, PixelType::U8x3);
    resizer.resize(&square, &mut rows, &options)?;
    let mut target = Image::new(size, size, PixelType::U8x3);
    resizer.resize(&rows, &mut target, &options)?;
    Ok(target.into_vec())
}
