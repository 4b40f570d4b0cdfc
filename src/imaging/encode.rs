//! RGB to PNG and JPEG files, for galleries and generated data sets.

use super::{Format, ImageError, Rgb};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

/// `image` as a PNG file: RGB, 8 bits, lossless.
///
/// # Errors
/// [`ImageError::Damaged`] when the buffer does not fit the image's size, or a side is zero.
///
/// ```
/// use imagebart::imaging::{Limits, Rgb, decode, encode_png};
///
/// let image = Rgb::new(2, 1, vec![255, 0, 0, 0, 0, 255]).unwrap();
/// assert_eq!(decode(&encode_png(&image)?, &Limits::default())?, image);
/// # Ok::<(), imagebart::imaging::ImageError>(())
/// ```
pub fn encode_png(image: &Rgb) -> Result<Vec<u8>, ImageError> {
    let mut file = Vec::new();
    write(image, Format::Png, PngEncoder::new(&mut file))?;
    Ok(file)
}

/// `image` as a baseline JPEG file of `quality` 1 to 100 (others are clamped).
///
/// # Errors
/// [`ImageError::Damaged`] when the buffer does not fit the image's size, or a side is zero or above 65 535.
pub fn encode_jpeg(image: &Rgb, quality: u8) -> Result<Vec<u8>, ImageError> {
    let mut file = Vec::new();
    write(image, Format::Jpeg, JpegEncoder::new_with_quality(&mut file, quality.clamp(1, 100)))?;
    Ok(file)
}

fn write(image: &Rgb, format: Format, encoder: impl ImageEncoder) -> Result<(), ImageError> {
    let expected = u64::from(image.width) * u64::from(image.height) * 3;
    if expected == 0 || expected != image.pixels.len() as u64 {
        let detail = format!("{} bytes cannot be {}x{} RGB pixels", image.pixels.len(), image.width, image.height);
        return Err(ImageError::damaged(format, detail));
    }
    encoder
        .write_image(&image.pixels, image.width, image.height, ExtendedColorType::Rgb8)
        .map_err(|error| ImageError::damaged(format, error.to_string()))
}
