//! `imagebart demo`: the whole way on a small data set of drawn shapes.

pub mod scenes;
pub mod shards;

use crate::imaging::ImageError;
use std::path::PathBuf;

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The raster library refused a shape; never seen, but not ours to rule out.
    #[error("cannot draw a shape")]
    Drawing,
    /// A picture could not be encoded.
    #[error("cannot encode a picture: {0}")]
    Encode(#[from] ImageError),
    /// The disk refused a file.
    #[error("cannot write {path}: {source}; choose another folder with --out")]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}
