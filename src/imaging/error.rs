//! Why an image cannot be used.

use super::Format;
use crate::reject::Reason;

/// Why encoded bytes gave no pixels. Every variant has a code of the `rejects` table: [`ImageError::reason`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Zero bytes.
    #[error("the image has zero bytes")]
    Empty,
    /// The first bytes are those of no image format.
    #[error("these are not the bytes of an image (they begin with {0})")]
    NotAnImage(String),
    /// An image, but of a format or variant that is not decoded here.
    #[error("{0} is not supported; convert the image to JPEG, PNG, WebP, GIF or BMP with 8 bits")]
    Unsupported(String),
    /// More pixels than [`Limits::max_pixels`](super::Limits::max_pixels), by the header.
    #[error("the {format} header claims {width}x{height} pixels, the limit is {limit} (max_pixels)")]
    TooManyPixels { format: Format, width: u32, height: u32, limit: u64 },
    /// More encoded bytes than [`Limits::max_bytes`](super::Limits::max_bytes).
    #[error("the image has {bytes} bytes, the limit is {limit} (max_bytes)")]
    TooManyBytes { bytes: u64, limit: u64 },
    /// The decoder would need more memory than an image of this size may take.
    #[error("decoding the {format} needs more memory than its {width}x{height} pixels allow")]
    TooMuchMemory { format: Format, width: u32, height: u32 },
    /// A side is shorter than [`Limits::min_side`](super::Limits::min_side).
    #[error("the image is {width}x{height} pixels, the shortest side allowed is {limit} (min_side)")]
    TooSmall { width: u32, height: u32, limit: u32 },
    /// The bytes end before the image does.
    #[error("the {format} ends early: {detail}")]
    Truncated { format: Format, detail: String },
    /// The bytes contradict the format.
    #[error("the {format} is damaged: {detail}")]
    Damaged { format: Format, detail: String },
}

impl ImageError {
    /// The reason code for the `rejects` table.
    pub fn reason(&self) -> Reason {
        match self {
            ImageError::Empty => Reason::Empty,
            ImageError::NotAnImage(_) => Reason::NotAnImage,
            ImageError::Unsupported(_) => Reason::UnsupportedFormat,
            ImageError::TooManyPixels { .. } | ImageError::TooManyBytes { .. } | ImageError::TooMuchMemory { .. } => {
                Reason::TooLarge
            }
            ImageError::TooSmall { .. } => Reason::TooSmall,
            ImageError::Truncated { .. } => Reason::Truncated,
            ImageError::Damaged { .. } => Reason::DecodeError,
        }
    }

    pub(super) fn truncated(format: Format, detail: impl Into<String>) -> ImageError {
        ImageError::Truncated { format, detail: detail.into() }
    }

    pub(super) fn damaged(format: Format, detail: impl Into<String>) -> ImageError {
        ImageError::Damaged { format, detail: detail.into() }
    }
}
