//! Bytes to RGB crops, and back to PNG and JPEG: plain buffers, no tensors, no files.
//!
//! [`decode`] turns encoded bytes into [`Rgb`]; [`Preprocess`] turns them into the crops a tokenizer takes:
//!
//! ```
//! use imagebart::imaging::{self, CropMode, Flip, Limits, Preprocess, Resize, Rgb, Trim};
//! use imagebart::random::RowKey;
//!
//! let picture = Rgb::new(40, 30, vec![200; 40 * 30 * 3]).unwrap();
//! let bytes = imaging::encode_png(&picture)?;
//! let preprocess = Preprocess {
//!     size: 16,
//!     resize: Resize::PillowBicubic,
//!     crop: CropMode::Center,
//!     crops: 1,
//!     flip: Flip::Both,
//!     trim: Trim::None,
//!     limits: Limits::default(),
//! };
//! let crops = preprocess.prepare(&bytes, |crop| RowKey::new(0, "docs", 0, crop))?;
//! assert_eq!(crops.len(), 2);
//! assert_eq!(crops[0].pixels.len(), 16 * 16 * 3);
//! assert_eq!((crops[0].rect.x, crops[0].rect.y, crops[0].rect.size), (5, 0, 30));
//! # Ok::<(), imaging::ImageError>(())
//! ```
//!
//! Pixels are what the reference code of the paper sees: the first frame, EXIF orientation ignored, 16-bit samples reduced to
//! their high byte, alpha dropped without compositing, gray replicated, CMYK by Pillow's `convert("RGB")`, colour profiles
//! ignored.

mod blend;
mod canvas;
mod cv2;
mod decode;
mod encode;
mod error;
mod header;
mod jpeg;
mod mosaic;
mod preprocess;
mod probe;
mod psnr;
mod reduce;
mod resize;
mod strip;
mod trim;

pub use blend::Kept;
pub use canvas::{Canvas, grid};
pub use decode::decode;
pub use encode::{FileFormat, encode_jpeg, encode_png, encode_webp};
pub use error::ImageError;
pub use mosaic::{Mosaic, Span};
pub use preprocess::{Crop, CropMode, CropRect, Flip, Preprocess, Resize};
pub use probe::{Format, Header, Limits, cost, probe};
pub use psnr::psnr;
pub use reduce::reduce;
pub use trim::Trim;

/// An image in memory: 8 bits a channel, `[height, width, 3]` row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    pub width: u32,
    pub height: u32,
    /// `height * width * 3` bytes.
    pub pixels: Vec<u8>,
}

impl Rgb {
    /// An image of `pixels`, `[height, width, 3]`; `None` when their number does not fit the size.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Option<Rgb> {
        let expected = u64::from(width).checked_mul(u64::from(height))?.checked_mul(3)?;
        (expected == pixels.len() as u64).then_some(Rgb { width, height, pixels })
    }
}
