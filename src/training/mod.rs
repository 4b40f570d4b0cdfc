//! What training a chain needs: batches of latents, optimizer and its parameter groups, learning-rate schedule, moving averages.

mod adamw;
mod checkpoint;
mod ema;
mod folder;
mod groups;
pub mod images;
mod learning_rate;
mod loader;
mod look;
mod rows;
pub mod tokenizer;
mod trainer;
pub mod watch;

pub use adamw::{AdamW, AdamWConfig};
pub use checkpoint::{Checkpoint, CheckpointError, Checkpoints};
pub use ema::{Ema, shadow_name};
pub use folder::{FolderError, RunFolder};
pub use groups::{ParameterGroup, WEIGHT_DECAY, parameter_groups};
pub use learning_rate::LearningRate;
pub use loader::{Batch, Feed, Loader, LoaderError, LoaderOptions, Position};
pub use look::Look;
pub use rows::{Conditioning, RowsError};
pub use trainer::{Measured, Stepped, Trainer, TrainerSettings};

use crate::torch::weights::WeightsError;
use crate::transformer::TransformerError;
use tch::TchError;

/// Why a training cannot be set up or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    #[error("there is no parameter {0}, which the list of the network's tensors names")]
    NoParameter(String),
    #[error("the optimizer's state has only a part of {0}: its mean, its square and its steps belong together")]
    HalfAState(String),
    #[error("what the optimizer remembers of {parameter} has shape {found:?}, the parameter has {expected:?}")]
    MomentShape { parameter: String, found: Vec<i64>, expected: Vec<i64> },
    #[error("the moving averages have no entry {entry}, which parameter {parameter} needs")]
    NoShadow { entry: String, parameter: String },
    #[error("the moving average {entry} has shape {found:?}, its parameter {parameter} has {expected:?}")]
    ShadowShape { entry: String, parameter: String, found: Vec<i64>, expected: Vec<i64> },
    #[error("parameters {first} and {second} would share the moving average {entry}: rename one of them")]
    Collision { first: String, second: String, entry: String },
    #[error("the decay of the moving averages must be between 0 and 1, not {0}")]
    Decay(f64),
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Network(#[from] TransformerError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("the training failed in libtorch: {0}")]
    Torch(#[from] TchError),
}
