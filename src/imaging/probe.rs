//! What an image claims to be: format by its first bytes, size by its header. Nothing is decoded here.

use super::ImageError;
use super::header;
use std::fmt;

/// A format that is decoded here, recognised by its first bytes, never by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::WebP => "WebP",
            Format::Gif => "GIF",
            Format::Bmp => "BMP",
        })
    }
}

/// What is refused from the header alone, before anything is decoded or allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels, width times height.
    pub max_pixels: u64,
    /// Most encoded bytes.
    pub max_bytes: u64,
    /// Fewest pixels of the shorter side.
    pub min_side: u32,
}

impl Default for Limits {
    /// 2^26 pixels, 64 MiB, no shortest side.
    ///
    /// 2^26 pixels hold 8192 x 8192, larger than the 61-megapixel full-frame cameras, and still decode in 0.4 GB (baseline JPEG)
    /// to 0.9 GB (WebP), which a worker can have. Pillow's limit of 179 megapixels would let one file take 2.3 GB.
    fn default() -> Limits {
        Limits { max_pixels: 1 << 26, max_bytes: 64 << 20, min_side: 1 }
    }
}

/// What an image's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub format: Format,
    /// Pixels a row, as stored: EXIF orientation is not applied.
    pub width: u32,
    /// Rows, as stored.
    pub height: u32,
    /// Most bytes a pixel takes while it is decoded, the RGB result included.
    pub(super) working_bytes: u32,
}

impl Header {
    /// `width * height`.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Bytes of memory the decoder may take for this image, beside the encoded bytes.
    pub(super) fn working_memory(&self) -> u64 {
        // Huffman tables, row buffers and the like: small, but not nothing for many small images.
        const TABLES: u64 = 128 << 10;
        self.pixels().saturating_mul(self.working_bytes.into()).saturating_add(u64::from(self.width) * 64 + TABLES)
    }
}

/// Format and size of an image by its first bytes and its header, checked against `limits`.
///
/// # Errors
/// [`ImageError::Empty`], [`ImageError::NotAnImage`] and [`ImageError::Unsupported`] by the first bytes;
/// [`ImageError::Truncated`] and [`ImageError::Damaged`] when the header itself is; the too-large and too-small variants when
/// the header breaks a limit.
///
/// ```
/// use imagebart::imaging::{Format, Limits, Rgb, encode_png, probe};
///
/// let png = encode_png(&Rgb::new(3, 2, vec![0; 18]).unwrap())?;
/// let header = probe(&png, &Limits::default())?;
/// assert_eq!((header.format, header.width, header.height), (Format::Png, 3, 2));
/// assert!(probe(&png, &Limits { max_pixels: 5, ..Limits::default() }).is_err());
/// # Ok::<(), imagebart::imaging::ImageError>(())
/// ```
pub fn probe(bytes: &[u8], limits: &Limits) -> Result<Header, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let format = sniff(bytes)?;
    if bytes.len() as u64 > limits.max_bytes {
        return Err(ImageError::TooManyBytes { bytes: bytes.len() as u64, limit: limits.max_bytes });
    }
    let header = match format {
        Format::Jpeg => header::jpeg(bytes),
        Format::Png => header::png(bytes),
        Format::WebP => header::webp(bytes),
        Format::Gif => header::gif(bytes),
        Format::Bmp => header::bmp(bytes),
    }?;
    let (width, height) = (header.width, header.height);
    if width == 0 || height == 0 {
        return Err(ImageError::damaged(format, format!("its size is {width}x{height}")));
    }
    if header.pixels() > limits.max_pixels {
        return Err(ImageError::TooManyPixels { format, width, height, limit: limits.max_pixels });
    }
    if width.min(height) < limits.min_side {
        return Err(ImageError::TooSmall { width, height, limit: limits.min_side });
    }
    Ok(header)
}

/// Bytes of memory that this image occupies from its arrival until it is decoded: encoded bytes plus what decoding takes. An
/// image that `probe` refuses costs its encoded bytes only, for it is never decoded.
///
/// ```
/// use imagebart::imaging::{Limits, Rgb, cost, encode_png};
///
/// let png = encode_png(&Rgb::new(100, 100, vec![0; 30_000]).unwrap())?;
/// assert!(cost(&png, &Limits::default()) > 30_000);
/// # Ok::<(), imagebart::imaging::ImageError>(())
/// ```
pub fn cost(bytes: &[u8], limits: &Limits) -> u64 {
    let encoded = bytes.len() as u64;
    probe(bytes, limits).map_or(encoded, |header| {
        // A JPEG's entropy-coded data is copied once, without its stuffing.
        let copies = if header.format == Format::Jpeg { 2 } else { 1 };
        header.working_memory().saturating_add(encoded * copies)
    })
}

/// First bytes of formats that are images but not decoded here: (offset, bytes, name).
const OTHERS: [(usize, &[u8], &str); 15] = [
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIF"),
    (4, b"ftyphev", "HEIF"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop PSD"),
    (0, b"qoif", "QOI"),
];

fn sniff(bytes: &[u8]) -> Result<Format, ImageError> {
    if bytes.starts_with(b"\xff\xd8\xff") {
        return Ok(Format::Jpeg);
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Ok(Format::Png);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Ok(Format::WebP);
    }
    if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        return Ok(Format::Gif);
    }
    if header::is_bmp(bytes) {
        return Ok(Format::Bmp);
    }
    for (offset, magic, name) in OTHERS {
        if bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic)) {
            return Err(ImageError::Unsupported(name.to_owned()));
        }
    }
    // A file cut inside its first bytes is a truncated image, not a stranger.
    let cut = [(Format::Jpeg, &b"\xff\xd8\xff"[..]), (Format::Png, b"\x89PNG\r\n\x1a\n"), (Format::Gif, b"GIF89a")]
        .into_iter()
        .find(|(_, magic)| bytes.len() > 1 && magic.starts_with(bytes));
    match cut {
        Some((format, _)) => Err(ImageError::truncated(format, "nothing follows its first bytes")),
        None => Err(ImageError::NotAnImage(bytes.get(..8).unwrap_or(bytes).escape_ascii().to_string())),
    }
}
