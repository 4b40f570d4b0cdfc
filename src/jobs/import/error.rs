//! Why nothing was imported.

use crate::chain::ChainError;
use crate::diffusion::ScheduleError;
use crate::torch::checkpoint::CheckpointError;
use crate::torch::weights::{Differences, WeightsError};
use crate::vqgan::TokenizerError;
use crate::vqgan::infer::InferError;
use std::io;
use std::path::PathBuf;

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("no checkpoint is given")]
    Nothing,
    #[error("{} is a URL; import writes to a local directory", .0.display())]
    NotLocal(PathBuf),
    #[error("{} and {} would both become {}: give them one at a time", first.display(), second.display(), target.display())]
    SameTarget { first: PathBuf, second: PathBuf, target: PathBuf },
    #[error("{} is there already: give --overwrite to replace it", .0.display())]
    Exists(PathBuf),
    #[error("{option} {problem}")]
    Option { option: &'static str, problem: String },
    #[error(
        "{configs} --config for {checkpoints} checkpoints: give one for each, in the same order, or one sampling file for all"
    )]
    Configs { configs: usize, checkpoints: usize },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {detail}", path.display())]
    Yaml { path: PathBuf, detail: String },
    #[error("{} names {}, which is neither beside it, nor in a folder above it, nor in the working directory", file.display(), wanted.display())]
    NotFound { file: PathBuf, wanted: PathBuf },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{} holds no VQGAN: no tensor encoder.conv_in.weight, neither by that name nor under first_stage_model.", .0.display())]
    NoVqgan(PathBuf),
    #[error("{}: {source}", path.display())]
    Shape { path: PathBuf, source: InferError },
    #[error("the tensors of {} do not make a whole VQGAN: {differences}", path.display())]
    Mismatch { path: PathBuf, differences: Differences },
    #[error("{} holds no network of a chain: nothing under transformer. (the other checkpoints do)", .0.display())]
    NoNetwork(PathBuf),
    #[error("the shape of the network in {} cannot be told from its tensors: {detail}", path.display())]
    Untold { path: PathBuf, detail: String },
    #[error("{} has no averaged weights (transformer_ema.): give --weights raw to import those of the last step", .0.display())]
    NoEma(PathBuf),
    #[error("the tensors of {} are not those of the network that {described}: {differences}", path.display())]
    Network { path: PathBuf, described: String, differences: Box<Differences> },
    #[error("{} of {}: {detail}", tensor, path.display())]
    Value { path: PathBuf, tensor: String, detail: String },
    #[error("{0}")]
    Disagree(Box<Disagreement>),
    #[error("both {} and {} are scale {scale}", first.display(), second.display())]
    Duplicate { scale: u32, first: PathBuf, second: PathBuf },
    #[error("the chain has {scales} scales, and no checkpoint is given for {missing}")]
    Missing { scales: u32, missing: String },
    #[error("{} {detail}", path.display())]
    Order { path: PathBuf, detail: String },
    #[error("the tokenizer of {} has {ids} codes, but the network of {} has {codes}", tokenizer.display(), network.display())]
    Codebook { tokenizer: PathBuf, ids: i64, network: PathBuf, codes: i64 },
    #[error(
        "the first stages of {} and {} differ (in {tensor}): give --tokenizer to say which tokenizer the chain has",
        first.display(), second.display()
    )]
    FirstStages { first: PathBuf, second: PathBuf, tensor: String },
    #[error("no checkpoint holds a first stage: give --tokenizer, a VQGAN's checkpoint or tokenizer.safetensors")]
    NoTokenizer,
    #[error("{}: {source}", path.display())]
    Tokenizer { path: PathBuf, source: TokenizerError },
    #[error("{}: {source}", path.display())]
    Schedule { path: PathBuf, source: ScheduleError },
    #[error("the checkpoints do not make a chain: {0}")]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Model(String),
}

/// Two sources that must say the same and do not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {} in {}, but {} in {}", first.1, first.0.display(), second.1, second.0.display())]
pub struct Disagreement {
    pub what: String,
    /// A file, and what it says.
    pub first: (PathBuf, String),
    pub second: (PathBuf, String),
}

impl ImportError {
    pub(super) fn disagree(
        what: impl Into<String>,
        first: (PathBuf, String),
        second: (PathBuf, String),
    ) -> ImportError {
        ImportError::Disagree(Box::new(Disagreement { what: what.into(), first, second }))
    }

    /// Whether the request itself cannot be carried out as it stands, whatever the checkpoints hold.
    pub fn is_usage(&self) -> bool {
        use ImportError::{Configs, Exists, NotFound, NotLocal, Nothing, Option, Read, SameTarget, Yaml};
        matches!(
            self,
            Nothing
                | NotLocal(_)
                | SameTarget { .. }
                | Exists(_)
                | Option { .. }
                | Configs { .. }
                | Read { .. }
                | Yaml { .. }
                | NotFound { .. }
        )
    }
}
