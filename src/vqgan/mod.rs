//! The VQGAN: image to token grid and back (Esser, Rombach, Ommer, CVPR 2021).

pub mod config;

pub use config::{ConfigError, VqganConfig};
