//! `imagebart gallery`: look at what was made, as a PNG contact sheet or a self-contained HTML page.

pub mod page;
pub mod sheet;

use crate::imaging::{ImageError, Rgb};

/// One sample of a gallery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The prepared crop the tokens were made of; none when it cannot be reached any more.
    pub original: Option<Rgb>,
    /// What the tokenizer makes of the tokens.
    pub reconstruction: Rgb,
    /// Key of the sample within its source.
    pub key: String,
    /// The shard or file it came from, relative to the dataset's root.
    pub source: String,
    pub label: Option<i32>,
    pub caption: Option<String>,
}

/// Why a gallery could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GalleryError {
    /// More pixels than a PNG of reasonable size holds.
    #[error(
        "the contact sheet of {tiles} pairs would have {pixels} pixels, more than {}: show fewer with --count",
        sheet::MAX_PIXELS
    )]
    TooLarge { tiles: usize, pixels: u64 },
    /// An image could not be encoded.
    #[error("cannot encode the gallery's images: {0}")]
    Encode(#[from] ImageError),
}
