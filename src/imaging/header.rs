//! The headers of the five formats, read without a decoder.
//!
//! Sources: PNG (ISO/IEC 15948) §11.2.2, JPEG (ITU-T T.81) annex B, WebP (RFC 9649), GIF89a §18, BMP (BITMAPINFOHEADER).

use super::{Format, Header, ImageError};

pub(super) fn png(bytes: &[u8]) -> Result<Header, ImageError> {
    let mut at = Cursor::new(bytes, 8, Format::Png);
    at.u32_be()?;
    if at.take(4)? != b"IHDR" {
        return Err(ImageError::damaged(Format::Png, "its first chunk is not IHDR"));
    }
    let (width, height, depth, color) = (at.u32_be()?, at.u32_be()?, at.u8()?, at.u8()?);
    // Samples after expansion of palettes and low bit depths; a palette may carry alpha.
    let channels = match color {
        0 => 2,
        2 => 4,
        3 => 4,
        4 => 2,
        _ => 4,
    };
    Ok(Header { format: Format::Png, width, height, working_bytes: channels * if depth == 16 { 2 } else { 1 } + 3 })
}

pub(super) fn gif(bytes: &[u8]) -> Result<Header, ImageError> {
    let mut at = Cursor::new(bytes, 6, Format::Gif);
    let (width, height) = (at.u16_le()?, at.u16_le()?);
    Ok(Header { format: Format::Gif, width: width.into(), height: height.into(), working_bytes: 4 + 4 + 1 })
}

pub(super) fn webp(bytes: &[u8]) -> Result<Header, ImageError> {
    let mut at = Cursor::new(bytes, 4, Format::WebP);
    let riff = u64::from(at.u32_le()?);
    let chunk = {
        at.take(4)?;
        at.take(4)?
    };
    at.u32_le()?;
    let (width, height) = match chunk {
        b"VP8 " => {
            at.take(3)?;
            if at.take(3)? != b"\x9d\x01\x2a" {
                return Err(ImageError::damaged(Format::WebP, "its first frame is not a key frame"));
            }
            (u32::from(at.u16_le()? & 0x3fff), u32::from(at.u16_le()? & 0x3fff))
        }
        b"VP8L" => {
            if at.u8()? != 0x2f {
                return Err(ImageError::damaged(Format::WebP, "its lossless stream lacks the signature"));
            }
            let bits = at.u32_le()?;
            ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1)
        }
        b"VP8X" => {
            at.take(4)?;
            (at.u24_le()? + 1, at.u24_le()? + 1)
        }
        other => {
            return Err(ImageError::damaged(Format::WebP, format!("unknown chunk {}", other.escape_ascii())));
        }
    };
    // The RIFF size counts what follows it. Some writers leave out the last padding byte.
    if riff + 8 > bytes.len() as u64 + 1 {
        return Err(ImageError::truncated(Format::WebP, format!("{} of {} bytes", bytes.len(), riff + 8)));
    }
    // RGBA canvas and frame, planes of the lossy stream, RGB.
    Ok(Header { format: Format::WebP, width, height, working_bytes: 4 + 4 + 2 + 3 })
}

/// Whether a file ends before its pixels do, by its structure: a WebP shorter than its RIFF header says, be it by the padding
/// byte that [`webp`] forgives; a GIF whose blocks stop before the end of the first frame.
pub(super) fn lacks_end(bytes: &[u8], format: Format) -> bool {
    match format {
        Format::WebP => {
            let size = bytes.get(4..8).and_then(|size| size.try_into().ok()).map_or(0, u32::from_le_bytes);
            u64::from(size) + 8 > bytes.len() as u64
        }
        Format::Gif => matches!(gif_first_frame(bytes), Err(ImageError::Truncated { .. })),
        _ => false,
    }
}

/// Walks a GIF's blocks to the end of the first frame's data.
fn gif_first_frame(bytes: &[u8]) -> Result<(), ImageError> {
    let mut at = Cursor::new(bytes, 10, Format::Gif);
    let palette = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let flags = at.u8()?;
    at.take(2 + palette(flags))?;
    loop {
        let kind = at.u8()?;
        match kind {
            0x21 => drop(at.take(1)?),
            0x2c => {
                at.take(8)?;
                let flags = at.u8()?;
                at.take(palette(flags) + 1)?;
            }
            _ => return Err(ImageError::damaged(Format::Gif, "it holds an unknown block")),
        }
        loop {
            match at.u8()? {
                0 => break,
                length => drop(at.take(length.into())?),
            }
        }
        if kind == 0x2c {
            return Ok(());
        }
    }
}

/// `BM` alone is too little: plain text may begin so.
pub(super) fn is_bmp(bytes: &[u8]) -> bool {
    const HEADER_SIZES: [u32; 7] = [12, 40, 52, 56, 64, 108, 124];
    bytes.starts_with(b"BM")
        && bytes
            .get(14..18)
            .and_then(|size| size.try_into().ok())
            .is_some_and(|size| HEADER_SIZES.contains(&u32::from_le_bytes(size)))
}

pub(super) fn bmp(bytes: &[u8]) -> Result<Header, ImageError> {
    let mut at = Cursor::new(bytes, 14, Format::Bmp);
    let (width, height) = if at.u32_le()? == 12 {
        (u32::from(at.u16_le()?), u32::from(at.u16_le()?))
    } else {
        let (width, height) = (at.u32_le()? as i32, at.u32_le()? as i32);
        if width < 0 {
            return Err(ImageError::damaged(Format::Bmp, format!("its width is {width}")));
        }
        // Rows from the top are told by a negative height.
        (width.unsigned_abs(), height.unsigned_abs())
    };
    Ok(Header { format: Format::Bmp, width, height, working_bytes: 4 })
}

pub(super) fn jpeg(bytes: &[u8]) -> Result<Header, ImageError> {
    let frame = jpeg_frame(bytes)?;
    let components = u32::from(frame.components);
    // RGB and the components' planes; a progressive image's are kept as 16-bit coefficients until its last scan, and again as
    // samples.
    let working_bytes = 3 + components + if frame.progressive { 2 * components } else { 0 };
    Ok(Header { format: Format::Jpeg, width: frame.width.into(), height: frame.height.into(), working_bytes })
}

/// The frame header of a JPEG.
#[derive(Clone, Copy, Debug)]
pub(super) struct JpegFrame {
    pub width: u16,
    pub height: u16,
    pub components: u8,
    pub progressive: bool,
}

/// Walks the segments up to the frame header.
pub(super) fn jpeg_frame(bytes: &[u8]) -> Result<JpegFrame, ImageError> {
    let mut at = Cursor::new(bytes, 2, Format::Jpeg);
    loop {
        match at.marker()? {
            marker @ (0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf) => {
                at.take(2)?;
                let precision = at.u8()?;
                let (height, width, components) = (at.u16_be()?, at.u16_be()?, at.u8()?);
                supported(marker, precision, components)?;
                return Ok(JpegFrame { width, height, components, progressive: marker == 0xc2 });
            }
            0xd9 => return Err(ImageError::damaged(Format::Jpeg, "it ends before any frame")),
            0xda => return Err(ImageError::damaged(Format::Jpeg, "a scan comes before any frame")),
            0x01 | 0xd0..=0xd8 => {}
            _ => at.skip_segment()?,
        }
    }
}

fn supported(marker: u8, precision: u8, components: u8) -> Result<(), ImageError> {
    let kind = match marker {
        0xc0..=0xc2 => None,
        0xc3 | 0xc7 | 0xcb | 0xcf => Some("lossless JPEG"),
        0xc5 | 0xc6 | 0xcd | 0xce => Some("hierarchical JPEG"),
        _ => Some("arithmetic-coded JPEG"),
    };
    match kind {
        Some(kind) => Err(ImageError::Unsupported(kind.to_owned())),
        None if precision != 8 => Err(ImageError::Unsupported(format!("JPEG with {precision} bits a sample"))),
        None if !matches!(components, 1 | 3 | 4) => {
            Err(ImageError::Unsupported(format!("JPEG with {components} components")))
        }
        None => Ok(()),
    }
}

/// Whether a JPEG's scans are followed by an EOI marker: without one, the end of the file is missing.
pub(super) fn jpeg_has_end(bytes: &[u8]) -> bool {
    let mut at = Cursor::new(bytes, 2, Format::Jpeg);
    // Entropy-coded data needs no case of its own: `marker` passes over stuffed zeros, and restart markers stand alone.
    while let Ok(marker) = at.marker() {
        match marker {
            0xd9 => return true,
            0x01 | 0xd0..=0xd8 => {}
            _ if at.skip_segment().is_err() => return false,
            _ => {}
        }
    }
    false
}

/// Reads a header; running out of bytes is an error that says so.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    format: Format,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize, format: Format) -> Cursor<'a> {
        Cursor { bytes, at, format }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], ImageError> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| ImageError::truncated(self.format, "its header is not whole"))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ImageError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, ImageError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16_le(&mut self) -> Result<u16, ImageError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u16_be(&mut self) -> Result<u16, ImageError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u24_le(&mut self) -> Result<u32, ImageError> {
        let [a, b, c] = self.array()?;
        Ok(u32::from_le_bytes([a, b, c, 0]))
    }

    fn u32_le(&mut self) -> Result<u32, ImageError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u32_be(&mut self) -> Result<u32, ImageError> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next JPEG marker; bytes that belong to none are passed over, as libjpeg does.
    pub fn marker(&mut self) -> Result<u8, ImageError> {
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            match rest.iter().position(|&byte| byte == 0xff) {
                Some(offset) => self.at += offset + 1,
                None => self.at = self.bytes.len(),
            }
            let mut code = self.u8()?;
            while code == 0xff {
                code = self.u8()?;
            }
            if code != 0 {
                return Ok(code);
            }
        }
    }

    fn skip_segment(&mut self) -> Result<(), ImageError> {
        match self.u16_be()? {
            0 | 1 => Err(ImageError::damaged(self.format, "a segment has no room for its own length")),
            length => self.take(usize::from(length) - 2).map(drop),
        }
    }
}
