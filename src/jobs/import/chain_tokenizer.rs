//! The tokenizer of a chain: the first stage that all checkpoints share, or one that is named.

use super::first_stage::FirstStage;
use super::order::Placed;
use super::scale::Scale;
use super::{ImportError, ImportOptions};
use crate::torch::checkpoint::Checkpoint;
use crate::torch::weights::{WeightsError, WeightsFile};
use crate::vqgan::{Tokenizer, VqganConfig};
use std::path::{Path, PathBuf};

/// Where the tokenizer comes from.
#[derive(Debug)]
pub(super) enum TokenizerSource {
    /// A checkpoint's first stage.
    Stage(PathBuf, Box<FirstStage>),
    /// A file of ours.
    File(PathBuf),
}

impl TokenizerSource {
    pub fn path(&self) -> &Path {
        match self {
            TokenizerSource::Stage(path, _) | TokenizerSource::File(path) => path,
        }
    }
}

/// The chain's tokenizer: the one that is named, else the first stage that all checkpoints share.
pub(super) fn find(
    scales: &[Placed],
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<(TokenizerSource, VqganConfig), ImportError> {
    if let Some(path) = &options.tokenizer {
        return given_tokenizer(path, options.resolution);
    }
    let mut with_stage = scales.iter().filter_map(|(scale, _)| Some((scale, scale.first_stage.as_ref()?)));
    let (first, stage) = with_stage.next().ok_or(ImportError::NoTokenizer)?;
    for (scale, _) in with_stage {
        if let Some(tensor) = difference(first, scale) {
            let (first, second) = (first.path.clone(), scale.path.clone());
            return Err(ImportError::FirstStages { first, second, tensor });
        }
    }
    let mut config = stage.config.clone();
    if let Some(told) = first.config.as_ref().and_then(|config| config.first_stage.as_ref()) {
        config = described(first, &config, told)?;
    } else if options.resolution.is_none() {
        let resolution = config.resolution;
        notes
            .push(format!("the weights do not tell the tokenizer's resolution: {resolution} was taken (--resolution)"));
    }
    Ok((TokenizerSource::Stage(first.path.clone(), Box::new(stage.clone())), config))
}

/// The first tensor in which two first stages differ.
fn difference(first: &Scale, second: &Scale) -> Option<String> {
    let names = first.digests.keys().chain(second.digests.keys());
    names.into_iter().find(|name| first.digests.get(*name) != second.digests.get(*name)).cloned()
}

/// The shape its tensors tell, with what only the config knows. What both know must agree.
fn described(scale: &Scale, inferred: &VqganConfig, told: &VqganConfig) -> Result<VqganConfig, ImportError> {
    if told.resolution != inferred.resolution {
        let problem = format!("is against {}, which says {}", scale.described_by().display(), told.resolution);
        return Err(ImportError::Option { option: "--resolution", problem });
    }
    let config = VqganConfig { used: inferred.used, ..told.clone() };
    if config.tensors() == inferred.tensors() {
        return Ok(config);
    }
    let shown = |config: &VqganConfig| {
        let parts = config.to_metadata().into_iter().map(|(key, value)| format!("{key} {value}"));
        parts.collect::<Vec<_>>().join(", ")
    };
    let (first, second) = ((scale.described_by(), shown(&config)), (scale.path.clone(), shown(inferred)));
    Err(ImportError::disagree("the shape of the first stage", first, second))
}

/// `--tokenizer`: a file of ours, or a checkpoint.
fn given_tokenizer(path: &Path, resolution: Option<i64>) -> Result<(TokenizerSource, VqganConfig), ImportError> {
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        let file = WeightsFile::open(path)?;
        let config = Tokenizer::config_of(&file, None)
            .map_err(|source| ImportError::Tokenizer { path: path.to_owned(), source })?;
        let differences = file.compare(&config.tensors());
        if !differences.is_empty() {
            return Err(WeightsError::Mismatch { origin: path.display().to_string(), differences }.into());
        }
        return Ok((TokenizerSource::File(path.to_owned()), config));
    }
    let checkpoint = Checkpoint::open(path)?;
    let stage = FirstStage::find(&checkpoint, resolution)?.ok_or_else(|| ImportError::NoVqgan(path.to_owned()))?;
    let config = stage.config.clone();
    Ok((TokenizerSource::Stage(path.to_owned(), Box::new(stage)), config))
}
