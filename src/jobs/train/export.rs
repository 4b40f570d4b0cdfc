//! A trained network as a part of the model directory that `sample` and `edit` take.

use super::plan::{TrainPlan, has_text};
use crate::chain::{ModelDirectory, ScaleConfig};
use crate::jobs::JobError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Writes what the directory has beside the networks: the chain's description and its tokenizers.
pub fn describe(plan: &TrainPlan) -> Result<(), JobError> {
    ModelDirectory::write_config(&plan.model, &plan.config, &plan.fingerprint).map_err(JobError::failed)?;
    let directory = ModelDirectory::describe(&plan.model).map_err(JobError::failed)?;
    copy(&plan.tokenizer, &directory.tokenizer_file())?;
    match &plan.text {
        Some(text) if has_text(&plan.config) => copy(text, &directory.text_tokenizer_file()),
        _ => Ok(()),
    }
}

/// Writes one network's file.
pub fn network(
    plan: &TrainPlan,
    network: &ScaleConfig,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<PathBuf, JobError> {
    let first = network.scales.first().copied().unwrap_or(1);
    ModelDirectory::write_scale(&plan.model, first, &network.network, tensors).map_err(JobError::failed)
}

/// Copies a file, under its final name when it is whole. What is there already is left alone: it may be the file itself, or be in use.
fn copy(from: &Path, to: &Path) -> Result<(), JobError> {
    let failed = |error: std::io::Error| {
        JobError::Failed(format!("cannot copy {} to {}: {error}", from.display(), to.display()))
    };
    let bytes = std::fs::read(from).map_err(failed)?;
    if std::fs::read(to).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    // Several processes may train one chain.
    let partial = PathBuf::from(format!("{}.{}.partial", to.display(), std::process::id()));
    std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, to)).map_err(failed)
}
