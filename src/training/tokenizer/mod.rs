//! Training a VQGAN (Esser, Rombach, Ommer, CVPR 2021): tensors in, tensors out.
//!
//! A [`Trainer`] owns networks, optimizers and averages; [`Trainer::step`] is one optimizer step. The authors' code encodes and
//! decodes every batch twice, once for the generator's step and once more for the discriminator's; here the discriminator judges
//! the reconstructions that the generator's step made.

mod codebook;
mod places;
mod state;
#[cfg(test)]
mod tests;
mod trainer;

pub use codebook::CodebookConfig;
pub use trainer::{Figures, Rates, Step, Trainer, TrainerConfig};

use super::TrainingError;
use crate::torch::weights::WeightsError;
use tch::TchError;

/// Why a tokenizer cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Training(#[from] TrainingError),
    #[error("a Gumbel tokenizer cannot be trained here: leave gumbel out of the network's shape")]
    Gumbel,
    #[error("the checkpoint has no {0}")]
    Missing(String),
    #[error("{name} of the checkpoint has shape {found:?}, the network has {expected:?}")]
    Shape { name: String, found: Vec<i64>, expected: Vec<i64> },
    #[error("libtorch failed: {0}")]
    Torch(#[from] TchError),
}
