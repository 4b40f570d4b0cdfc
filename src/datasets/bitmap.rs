//! Raw pixels as an image file: a sample's image is the bytes of a file, whatever it lay in, so that limits, decoding and
//! rejects know one kind of input.
//!
//! BMP, because it is stored as it is, so that this is a copy and lossless, and because it is decoded already.

use crate::reject::Reason;
use bytes::Bytes;

/// File and information header.
const HEADER: usize = 14 + 40;
/// The longest side: that of the largest JPEG.
const MAX_SIDE: i64 = 65_535;

/// How the samples of raw pixels follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Channel by channel: `[channels, height, width]`.
    Planes,
    /// Pixel by pixel: `[height, width, channels]`.
    Pixels,
}

/// A BMP of raw 8-bit RGB or gray pixels. Gray becomes RGB of three equal channels.
///
/// # Errors
/// [`Reason::BadShape`] when there are not 1 or 3 channels, a side is not from 1 to 65535, or the data has another length;
/// [`Reason::TooLarge`] when the file would have more than `max_bytes`.
pub(super) fn bitmap(shape: [i64; 3], order: Order, data: &[u8], max_bytes: u64) -> Result<Bytes, (Reason, String)> {
    let [channels, height, width] = shape;
    let sides_fit = (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width);
    if !sides_fit || !matches!(channels, 1 | 3) {
        let message = format!("{channels} channels of {width}x{height} are no image read here");
        return Err((Reason::BadShape, message));
    }
    // Below 2^34: sides and channels are small.
    let expected = channels * height * width;
    if i64::try_from(data.len()) != Ok(expected) {
        let found = data.len();
        let message = format!("{channels} channels of {width}x{height} have {expected} bytes, but there are {found}");
        return Err((Reason::BadShape, message));
    }
    let (width, height) = (width as usize, height as usize);
    let row = (3 * width).next_multiple_of(4);
    let size = HEADER + row * height;
    let Some(length) = u32::try_from(size).ok().filter(|size| u64::from(*size) <= max_bytes) else {
        let message = format!("as a file its pixels have {size} bytes, more than the limit of {max_bytes}");
        return Err((Reason::TooLarge, message));
    };
    let mut file = header(width as u32, height as u32, length);
    let (plane, step, channel) = match (channels, order) {
        (1, _) => (0, 1, 0),
        (_, Order::Planes) => (width * height, 1, 0),
        (_, Order::Pixels) => (0, 3, 1),
    };
    // The sample of channel `c` at pixel `p` is data[c * (plane + channel) + p * step]. Rows go from the bottom up.
    for y in (0..height).rev() {
        for x in y * width..(y + 1) * width {
            file.extend([2, 1, 0].map(|c| data[c * (plane + channel) + x * step]));
        }
        file.resize(file.len() + row - 3 * width, 0);
    }
    Ok(file.into())
}

fn header(width: u32, height: u32, length: u32) -> Vec<u8> {
    let mut file = Vec::with_capacity(length as usize);
    file.extend_from_slice(b"BM");
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&(HEADER as u32).to_le_bytes());
    file.extend_from_slice(&40u32.to_le_bytes());
    file.extend_from_slice(&width.to_le_bytes());
    file.extend_from_slice(&height.to_le_bytes());
    file.extend_from_slice(&1u16.to_le_bytes());
    file.extend_from_slice(&24u16.to_le_bytes());
    // No compression; the size of the pixels, resolution and palette may be 0.
    file.extend_from_slice(&[0; 24]);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::{Limits, decode};

    #[test]
    fn pixels_come_back_from_the_file() {
        for (width, height) in [(1, 1), (2, 3), (3, 2), (4, 4), (5, 1), (7, 9)] {
            let count = width * height;
            let planes: Vec<u8> = (0..3 * count).map(|i| (i * 7) as u8).collect();
            let pixels: Vec<u8> = (0..3 * count).map(|i| planes[i % 3 * count + i / 3]).collect();
            let shape = |channels| [channels, height as i64, width as i64];
            for (order, data) in [(Order::Planes, &planes), (Order::Pixels, &pixels)] {
                let file = bitmap(shape(3), order, data, 1000).unwrap();
                assert_eq!(decode(&file, &Limits::default()).unwrap().pixels, pixels, "{width}x{height} {order:?}");
            }
            let gray = bitmap(shape(1), Order::Planes, &planes[..count], 1000).unwrap();
            let expected: Vec<u8> = planes[..count].iter().flat_map(|v| [*v; 3]).collect();
            assert_eq!(decode(&gray, &Limits::default()).unwrap().pixels, expected);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let reason = |shape, data: &[u8], limit| bitmap(shape, Order::Planes, data, limit).unwrap_err().0;
        for shape in [[2, 1, 1], [0, 1, 1], [3, 0, 1], [3, 1, -1], [1, 65_536, 1], [3, i64::MAX, i64::MAX], [3, 1, 2]] {
            assert_eq!(reason(shape, &[0; 3], 1000), Reason::BadShape, "{shape:?}");
        }
        assert_eq!(reason([1, 1, 1], &[0], 57), Reason::TooLarge);
    }
}
