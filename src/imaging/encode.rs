//! RGB to PNG, JPEG and WebP files, for galleries and generated data sets.

use super::{Format, ImageError, Rgb};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
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

/// `image` as a lossless WebP file.
///
/// # Errors
/// [`ImageError::Damaged`] when the buffer does not fit the image's size, or a side is zero or above 16 384.
pub fn encode_webp(image: &Rgb) -> Result<Vec<u8>, ImageError> {
    let mut file = Vec::new();
    write(image, Format::WebP, WebPEncoder::new_lossless(&mut file))?;
    Ok(file)
}

/// What generated images are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// Lossless.
    Png,
    /// Lossy: baseline, with this quality from 1 to 100.
    Jpeg(u8),
    /// Lossless: there is no lossy encoder in the `image` crate.
    WebP,
}

impl FileFormat {
    /// `image` as a file of this format.
    ///
    /// # Errors
    /// As of [`encode_png`], [`encode_jpeg`] and [`encode_webp`].
    pub fn encode(self, image: &Rgb) -> Result<Vec<u8>, ImageError> {
        match self {
            FileFormat::Png => encode_png(image),
            FileFormat::Jpeg(quality) => encode_jpeg(image, quality),
            FileFormat::WebP => encode_webp(image),
        }
    }

    /// The ending of a file's name, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            FileFormat::Png => "png",
            FileFormat::Jpeg(_) => "jpg",
            FileFormat::WebP => "webp",
        }
    }
}

impl std::fmt::Display for FileFormat {
    /// As identities name it: `png`, `jpeg-90`, `webp`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FileFormat::Png => f.write_str("png"),
            FileFormat::Jpeg(quality) => write!(f, "jpeg-{quality}"),
            FileFormat::WebP => f.write_str("webp"),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::{Limits, decode};

    #[test]
    fn what_is_lossless_comes_back_and_jpeg_nearly() {
        let pixels: Vec<u8> = (0..8 * 6 * 3).map(|at| (at * 5 % 256) as u8).collect();
        let image = Rgb::new(8, 6, pixels).unwrap();
        for format in [FileFormat::Png, FileFormat::WebP] {
            assert_eq!(decode(&format.encode(&image).unwrap(), &Limits::default()).unwrap(), image, "{format}");
        }
        let flat = Rgb::new(8, 6, vec![90; 8 * 6 * 3]).unwrap();
        let jpeg = decode(&FileFormat::Jpeg(90).encode(&flat).unwrap(), &Limits::default()).unwrap();
        assert!(jpeg.pixels.iter().all(|value| value.abs_diff(90) <= 2));
        let shown = [FileFormat::Png, FileFormat::Jpeg(90), FileFormat::WebP].map(|format| format.to_string());
        assert_eq!(shown, ["png", "jpeg-90", "webp"]);
        assert!(FileFormat::WebP.encode(&Rgb { width: 3, height: 1, pixels: vec![0; 3] }).is_err());
    }
}
