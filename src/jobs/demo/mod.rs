//! `imagebart demo`: the whole way on a small data set of drawn shapes.

mod decoder;
mod encoder;
mod kmeans;
pub mod scenes;
pub mod shards;
pub mod tokenizer;

use crate::imaging::ImageError;
use crate::torch::weights::WeightsError;
use std::path::PathBuf;
use tch::TchError;

/// Channels of the demo VQGAN's levels, finest first. The last GroupNorm's groups have 4 channels in the encoder and 2 in the
/// decoder, which the constructions there rest on.
const LEVEL_WIDTHS: [i64; 3] = [64, 64, 128];

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The raster library refused a shape; never seen, but not ours to rule out.
    #[error("cannot draw a shape")]
    Drawing,
    /// A picture could not be encoded.
    #[error("cannot encode a picture: {0}")]
    Encode(#[from] ImageError),
    /// The tokenizer could not be written or loaded.
    #[error("cannot make the demo's tokenizer: {0}")]
    Weights(#[from] WeightsError),
    /// libtorch failed.
    #[error("cannot make the demo's tokenizer: {0}")]
    Torch(#[from] TchError),
    /// The disk refused a file.
    #[error("cannot write {}: {source}; choose another folder with --out", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}
