//! The VQGAN: image to token grid and back (Esser, Rombach, Ommer, CVPR 2021).
//!
//! [`Tokenizer`] is what a job uses. The parts below it mirror taming-transformers, so that the released weights load as they
//! are; [`ops`] holds the few primitives that cost time.

pub mod blocks;
pub mod config;
pub mod decoder;
pub mod discriminator;
pub mod encoder;
pub mod gumbel;
pub mod infer;
pub mod losses;
pub mod lpips;
pub mod network;
pub mod ops;
pub mod quantizer;
pub mod tiles;
pub mod tokenizer;

pub use config::{ConfigError, VqganConfig};
pub use network::{Codebook, Vqgan};
pub use tiles::Tiles;
pub use tokenizer::{Tokenizer, TokenizerError, TokenizerOptions};
