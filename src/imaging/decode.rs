//! Encoded bytes to RGB pixels.

use super::header::lacks_end;
use super::probe::probe;
use super::{Format, Header, ImageError, Limits, Rgb, jpeg};
use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::error::{DecodingError, ImageFormatHint};
use image::{ColorType, ImageDecoder};
use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Pixels `x..x + width`, `y..y + height` of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl Area {
    pub fn whole(width: u32, height: u32) -> Area {
        Area { x: 0, y: 0, width, height }
    }
}

/// Decodes an image of any [`Format`] into RGB.
///
/// The first frame of an animation; EXIF orientation ignored; 16-bit samples by their high byte; alpha dropped, not composited;
/// gray replicated; CMYK by Pillow's formula; colour profiles ignored. An image that is damaged or not whole is an error, never
/// partly gray.
///
/// # Errors
/// Those of [`probe`], checked first; then [`ImageError::Truncated`] when the bytes end early, [`ImageError::Damaged`] when they
/// contradict the format (wrong checksums included), [`ImageError::Unsupported`] for rare variants of a format.
///
/// ```
/// use imagebart::imaging::{ImageError, Limits, Rgb, decode, encode_jpeg};
///
/// let jpeg = encode_jpeg(&Rgb::new(16, 8, vec![90; 16 * 8 * 3]).unwrap(), 90)?;
/// let image = decode(&jpeg, &Limits::default())?;
/// assert_eq!((image.width, image.height, image.pixels.len()), (16, 8, 16 * 8 * 3));
/// assert!(matches!(decode(b"<html>", &Limits::default()), Err(ImageError::NotAnImage(_))));
/// # Ok::<(), ImageError>(())
/// ```
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb, ImageError> {
    let header = probe(bytes, limits)?;
    let mut pixels = Vec::new();
    decode_area(bytes, &header, Area::whole(header.width, header.height), &mut pixels)?;
    Ok(Rgb { width: header.width, height: header.height, pixels })
}

/// Decodes at least `wanted` of an image whose header has passed [`probe`], into `pixels`. Returns the area that `pixels` then
/// holds, `[height, width, 3]`; most formats can only be decoded whole.
pub(super) fn decode_area(
    bytes: &[u8],
    header: &Header,
    wanted: Area,
    pixels: &mut Vec<u8>,
) -> Result<Area, ImageError> {
    // The decoders are other people's and these bytes are a stranger's: should one of them panic, one image is lost, not the
    // run. Nothing outlives the panic: `pixels` is the only state shared with the closure, and it is cleared.
    let result = catch_unwind(AssertUnwindSafe(|| match header.format {
        Format::Jpeg => jpeg::decode(bytes, header, wanted, pixels),
        _ => generic(bytes, header, pixels).map(|()| Area::whole(header.width, header.height)),
    }));
    result.unwrap_or_else(|_| {
        *pixels = Vec::new();
        Err(ImageError::damaged(header.format, "its decoder failed on it"))
    })
}

fn generic(bytes: &[u8], header: &Header, pixels: &mut Vec<u8>) -> Result<(), ImageError> {
    let limits = decoder_limits(bytes, header);
    let file = Cursor::new(bytes);
    let result = match header.format {
        Format::Png => PngDecoder::with_limits(file, limits).and_then(|decoder| read(decoder, header, pixels)),
        Format::Gif => with_limits(GifDecoder::new(file), limits).and_then(|decoder| read(decoder, header, pixels)),
        Format::WebP => with_limits(WebPDecoder::new(file), limits).and_then(|decoder| read(decoder, header, pixels)),
        Format::Bmp | Format::Jpeg => {
            with_limits(BmpDecoder::new(file), limits).and_then(|decoder| read(decoder, header, pixels))
        }
    };
    let color = result.map_err(|error| match convert_error(error, header) {
        ImageError::Damaged { detail, .. } if lacks_end(bytes, header.format) => {
            ImageError::truncated(header.format, detail)
        }
        error => error,
    })?;
    to_rgb(pixels, color).ok_or_else(|| ImageError::Unsupported(format!("{} with {color:?} samples", header.format)))
}

fn with_limits<D: ImageDecoder>(decoder: image::ImageResult<D>, limits: image::Limits) -> image::ImageResult<D> {
    let mut decoder = decoder?;
    decoder.set_limits(limits)?;
    Ok(decoder)
}

/// What a decoder may allocate: what this image's header accounts for, so that a lie further on cannot ask for more.
fn decoder_limits(bytes: &[u8], header: &Header) -> image::Limits {
    const METADATA: u64 = 4 << 20;
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(header.working_memory().saturating_add(bytes.len() as u64 + METADATA));
    limits
}

/// Decodes into `pixels`, whatever the type of the samples.
fn read(decoder: impl ImageDecoder, header: &Header, pixels: &mut Vec<u8>) -> image::ImageResult<ColorType> {
    let color = decoder.color_type();
    let size = header.pixels() * u64::from(color.bytes_per_pixel());
    if decoder.dimensions() != (header.width, header.height) || decoder.total_bytes() != size {
        let hint = ImageFormatHint::Unknown;
        return Err(image::ImageError::Decoding(DecodingError::new(hint, "its size changes after the header")));
    }
    pixels.clear();
    pixels.resize(size as usize, 0);
    decoder.read_image(pixels)?;
    Ok(color)
}

/// Reduces decoded samples to RGB in their own buffer.
fn to_rgb(pixels: &mut Vec<u8>, color: ColorType) -> Option<()> {
    match color {
        ColorType::Rgb8 => {}
        ColorType::Rgba8 => compact::<4>(pixels, |p| [p[0], p[1], p[2]]),
        ColorType::Rgb16 => compact::<6>(pixels, |p| [high(p, 0), high(p, 1), high(p, 2)]),
        ColorType::Rgba16 => compact::<8>(pixels, |p| [high(p, 0), high(p, 1), high(p, 2)]),
        ColorType::La16 => compact::<4>(pixels, |p| [high(p, 0); 3]),
        ColorType::L8 => *pixels = pixels.iter().flat_map(|&gray| [gray; 3]).collect(),
        ColorType::La8 => *pixels = pixels.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        ColorType::L16 => *pixels = pixels.chunks_exact(2).flat_map(|p| [high(p, 0); 3]).collect(),
        _ => return None,
    }
    Some(())
}

/// The high byte of the 16-bit sample `channel`, which lies in the machine's own byte order.
fn high(pixel: &[u8], channel: usize) -> u8 {
    (u16::from_ne_bytes([pixel[2 * channel], pixel[2 * channel + 1]]) >> 8) as u8
}

/// Moves pixels of `N` bytes, at least 3, together to 3 bytes each.
fn compact<const N: usize>(pixels: &mut Vec<u8>, rgb: impl Fn(&[u8; N]) -> [u8; 3]) {
    let count = pixels.len() / N;
    for index in 0..count {
        let mut pixel = [0; N];
        pixel.copy_from_slice(&pixels[index * N..][..N]);
        pixels[index * 3..][..3].copy_from_slice(&rgb(&pixel));
    }
    pixels.truncate(count * 3);
}

fn convert_error(error: image::ImageError, header: &Header) -> ImageError {
    let format = header.format;
    match error {
        image::ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            ImageError::truncated(format, "its pixels are not all there")
        }
        image::ImageError::Limits(_) => {
            ImageError::TooMuchMemory { format, width: header.width, height: header.height }
        }
        image::ImageError::Unsupported(error) => ImageError::Unsupported(format!("{format} ({error})")),
        error if ends_early(&error) => ImageError::truncated(format, "its pixels are not all there"),
        error => ImageError::damaged(format, error.to_string()),
    }
}

/// Whether the cause of a decoder's error is that the bytes ran out.
fn ends_early(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == ErrorKind::UnexpectedEof;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_keep_the_high_byte_and_alpha_goes() {
        let samples: Vec<u8> = [0x12ff_u16, 0x3400, 0x56ab, 0x0001].iter().flat_map(|s| s.to_ne_bytes()).collect();
        let mut pixels = samples.clone();
        to_rgb(&mut pixels, ColorType::Rgba16).unwrap();
        assert_eq!(pixels, [0x12, 0x34, 0x56]);
        let mut pixels = samples;
        to_rgb(&mut pixels, ColorType::La16).unwrap();
        assert_eq!(pixels, [0x12, 0x12, 0x12, 0x56, 0x56, 0x56]);
    }
}
