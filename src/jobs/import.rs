//! `imagebart import`: released PyTorch checkpoints to safetensors.
//!
//! A taming-transformers VQGAN, or the first stage inside a larger checkpoint, becomes `tokenizer.safetensors` in a model
//! directory: its tensors under their released names, float32, and its network shape in the metadata. Everything is checked
//! before the first byte is written, tensors are copied one at a time, and the file appears under its name when it is whole.

mod report;
mod write;

pub use report::ImportReport;

use crate::torch::checkpoint::{Checkpoint, CheckpointError};
use crate::torch::weights::{Differences, TensorSpec};
use crate::vqgan::VqganConfig;
use crate::vqgan::infer::{InferError, infer};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The file a tokenizer has in a model directory.
pub const TOKENIZER_FILE: &str = "tokenizer.safetensors";
/// What a VQGAN's tensors are called by when they lie inside a larger model.
const FIRST_STAGE: &str = "first_stage_model.";
/// What is not needed for encoding and decoding: the training losses with discriminator and LPIPS.
const LOSS: &str = "loss.";

/// What to import, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// PyTorch checkpoints, each with one VQGAN.
    pub checkpoints: Vec<PathBuf>,
    /// The model directory. One checkpoint becomes `<to>/tokenizer.safetensors`; several become
    /// `<to>/<file stem>/tokenizer.safetensors` each.
    pub to: PathBuf,
    /// Side of the images the VQGAN was trained on, in pixels, which its weights do not tell.
    pub resolution: i64,
    /// Replace files that are there.
    pub overwrite: bool,
}

impl ImportOptions {
    /// Checkpoints to a model directory, at the released models' resolution of 256.
    pub fn new(checkpoints: Vec<PathBuf>, to: impl Into<PathBuf>) -> ImportOptions {
        ImportOptions { checkpoints, to: to.into(), resolution: 256, overwrite: false }
    }
}

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
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{} holds no VQGAN: no tensor encoder.conv_in.weight, neither by that name nor under {FIRST_STAGE}", .0.display())]
    NoVqgan(PathBuf),
    #[error("{}: {source}", path.display())]
    Shape { path: PathBuf, source: InferError },
    #[error("the tensors of {} do not make a whole VQGAN: {differences}", path.display())]
    Mismatch { path: PathBuf, differences: Differences },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl ImportError {
    /// Whether the request itself cannot be carried out as it stands, whatever the checkpoints hold.
    pub fn is_usage(&self) -> bool {
        use ImportError::{Exists, NotLocal, Nothing, SameTarget};
        matches!(self, Nothing | NotLocal(_) | SameTarget { .. } | Exists(_))
    }
}

/// Imports checkpoints, all or none: all of them are checked before the first is written.
///
/// # Errors
/// A checkpoint that is damaged, would execute something, or does not hold a whole VQGAN, each with the names of what is
/// missing or of another shape; a target that exists.
pub fn import(options: &ImportOptions) -> Result<Vec<ImportReport>, ImportError> {
    plans(options)?.into_iter().map(Plan::carry_out).collect()
}

/// What [`import`] would write, a line for each checkpoint, for `--dry-run`.
///
/// # Errors
/// As [`import`]'s, but for those of writing.
pub fn describe(options: &ImportOptions) -> Result<Vec<String>, ImportError> {
    let line = |plan: Plan| {
        let specs = plan.config.tensors();
        let parameters: i64 = specs.iter().map(|tensor| tensor.numel()).sum();
        let (from, to) = (plan.checkpoint.path().display(), plan.target.display());
        format!("{from} to {to}: {} tensors, {parameters} parameters", specs.len())
    };
    Ok(plans(options)?.into_iter().map(line).collect())
}

/// Every checkpoint, checked.
fn plans(options: &ImportOptions) -> Result<Vec<Plan>, ImportError> {
    let targets = targets(options)?.into_iter();
    let pairs = options.checkpoints.iter().zip(targets);
    pairs.map(|(path, target)| Plan::new(path, target, options.resolution)).collect()
}

/// Where each checkpoint goes.
fn targets(options: &ImportOptions) -> Result<Vec<PathBuf>, ImportError> {
    if options.checkpoints.is_empty() {
        return Err(ImportError::Nothing);
    }
    if options.to.to_string_lossy().contains("://") {
        return Err(ImportError::NotLocal(options.to.clone()));
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

/// One checkpoint, checked, and what will be written of it.
struct Plan {
    checkpoint: Checkpoint,
    target: PathBuf,
    prefix: &'static str,
    config: VqganConfig,
    tensors: Vec<write::Planned>,
    unused: Vec<String>,
}

impl Plan {
    fn new(path: &Path, target: PathBuf, resolution: i64) -> Result<Plan, ImportError> {
        let checkpoint = Checkpoint::open(path)?;
        let prefix = prefix(&checkpoint).ok_or_else(|| ImportError::NoVqgan(path.to_owned()))?;
        let found = candidates(&checkpoint, prefix);
        let shapes = found.iter().map(|(name, (_, shape))| (name.as_str(), shape.clone()));
        let config = infer(shapes, resolution).map_err(|source| {
            let shape = ImportError::Shape { path: path.to_owned(), source };
            refuse_foreign(&checkpoint, |name| name.strip_prefix(prefix).is_some_and(|name| !name.starts_with(LOSS)))
                .err()
                .unwrap_or(shape)
        })?;
        let specs = config.tensors();
        let kinds = found.iter().map(|(name, (dtype, shape))| (name.as_str(), shape.clone(), !is_float(*dtype)));
        let mut differences = Differences::between(&specs, kinds);
        let unused = std::mem::take(&mut differences.unused);
        refuse_foreign(&checkpoint, |key| {
            key.strip_prefix(prefix).is_some_and(|name| differences.missing.iter().any(|missing| missing == name))
        })?;
        if !differences.is_empty() {
            return Err(ImportError::Mismatch { path: path.to_owned(), differences });
        }
        let tensors = specs.iter().filter_map(|spec| Some(planned(spec, prefix, found.get(&spec.name)?.0)));
        let tensors = write::in_file_order(tensors.collect());
        Ok(Plan { checkpoint, target, prefix, config, tensors, unused })
    }

    fn carry_out(mut self) -> Result<ImportReport, ImportError> {
        let bytes = write::write(&self.target, &self.config.to_metadata(), &self.tensors, &mut self.checkpoint)?;
        Ok(report::report(self, bytes))
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// What stands before the VQGAN's names in this checkpoint.
fn prefix(checkpoint: &Checkpoint) -> Option<&'static str> {
    let names = || checkpoint.tensors().map(|tensor| tensor.key).chain(checkpoint.foreign().map(|(key, _)| key));
    let starts = |prefix: &str| {
        names().any(|name| name.strip_prefix(prefix).is_some_and(|name| name.starts_with("encoder.conv_in.")))
    };
    ["", FIRST_STAGE].into_iter().find(|prefix| starts(prefix))
}

/// The VQGAN's tensors by released name, without the losses.
fn candidates(checkpoint: &Checkpoint, prefix: &str) -> BTreeMap<String, (Dtype, Vec<i64>)> {
    let shape = |shape: &[u64]| shape.iter().map(|&side| i64::try_from(side).unwrap_or(i64::MAX)).collect();
    let named = checkpoint.tensors().filter_map(|tensor| Some((tensor.key.strip_prefix(prefix)?, tensor)));
    let kept = named.filter(|(name, _)| !name.starts_with(LOSS));
    kept.map(|(name, tensor)| (name.to_owned(), (tensor.dtype, shape(tensor.shape)))).collect()
}

/// A tensor that is `needed`, and there only as the result of an unknown call, is named together with the callable.
fn refuse_foreign(checkpoint: &Checkpoint, needed: impl Fn(&str) -> bool) -> Result<(), ImportError> {
    match checkpoint.foreign().find(|(key, _)| needed(key)) {
        Some((key, callable)) => Err(CheckpointError::Foreign {
            path: checkpoint.path().to_owned(),
            key: key.to_owned(),
            callable: callable.to_owned(),
        }
        .into()),
        None => Ok(()),
    }
}

/// Floating-point numbers become float32, the list of used entries int64.
fn planned(spec: &TensorSpec, prefix: &str, from: Dtype) -> write::Planned {
    let to = if spec.is_integer() { Dtype::I64 } else { Dtype::F32 };
    write::Planned {
        name: spec.name.clone(),
        key: format!("{prefix}{}", spec.name),
        shape: spec.shape.clone(),
        from,
        to,
    }
}
