//! VQGANs alone: each checkpoint becomes a tokenizer of its own.

use super::first_stage::FirstStage;
use super::report::{self, ImportReport};
use super::write;
use super::{ImportError, ImportOptions, TOKENIZER_FILE};
use crate::torch::checkpoint::Checkpoint;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One checkpoint, checked, and what will be written of it.
pub(super) struct Plan {
    pub checkpoint: PathBuf,
    pub target: PathBuf,
    pub stage: FirstStage,
}

/// Every checkpoint, checked.
pub(super) fn plans(options: &ImportOptions) -> Result<Vec<Plan>, ImportError> {
    let targets = targets(options)?.into_iter();
    let pairs = options.checkpoints.iter().zip(targets);
    pairs.map(|(path, target)| Plan::new(path, target, options.resolution)).collect()
}

/// Where each checkpoint goes.
fn targets(options: &ImportOptions) -> Result<Vec<PathBuf>, ImportError> {
    if options.checkpoints.is_empty() {
        return Err(ImportError::Nothing);
    }
    let mut taken: BTreeMap<PathBuf, &Path> = BTreeMap::new();
    for path in &options.checkpoints {
        let several = options.checkpoints.len() > 1;
        let directory =
            if several { options.to.join(path.file_stem().unwrap_or_default()) } else { options.to.clone() };
        let target = directory.join(TOKENIZER_FILE);
        if target.exists() && !options.overwrite {
            return Err(ImportError::Exists(target));
        }
        if let Some(first) = taken.insert(target.clone(), path) {
            return Err(ImportError::SameTarget { first: first.to_owned(), second: path.clone(), target });
        }
    }
    let by_checkpoint: BTreeMap<&Path, PathBuf> = taken.into_iter().map(|(target, path)| (path, target)).collect();
    Ok(options.checkpoints.iter().filter_map(|path| by_checkpoint.get(path.as_path()).cloned()).collect())
}

impl Plan {
    fn new(path: &Path, target: PathBuf, resolution: Option<i64>) -> Result<Plan, ImportError> {
        let checkpoint = Checkpoint::open(path)?;
        let stage = FirstStage::find(&checkpoint, resolution)?.ok_or_else(|| ImportError::NoVqgan(path.to_owned()))?;
        Ok(Plan { checkpoint: path.to_owned(), target, stage })
    }

    /// A line for `--dry-run`.
    pub fn describe(&self) -> String {
        let specs = self.stage.config.tensors();
        let parameters: i64 = specs.iter().map(|tensor| tensor.numel()).sum();
        let (from, to) = (self.checkpoint.display(), self.target.display());
        format!("{from} to {to}: {} tensors, {parameters} parameters", specs.len())
    }

    pub fn carry_out(self) -> Result<ImportReport, ImportError> {
        let mut checkpoint = Checkpoint::open(&self.checkpoint)?;
        let metadata = self.stage.config.to_metadata();
        let (_, bytes) = write::write(&self.target, &metadata, &self.stage.tensors, &mut checkpoint)?.commit()?;
        Ok(report::report(&checkpoint, self, bytes))
    }
}
