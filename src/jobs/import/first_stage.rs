//! The VQGAN of a checkpoint: alone, or as the first stage of a larger model.

use super::ImportError;
use super::write::{Planned, in_file_order};
use crate::digest::hex;
use crate::torch::checkpoint::{Checkpoint, CheckpointError};
use crate::torch::weights::{Differences, TensorSpec};
use crate::vqgan::VqganConfig;
use crate::vqgan::infer::infer;
use safetensors::Dtype;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What a VQGAN's tensors are called by when they lie inside a larger model.
pub(super) const FIRST_STAGE: &str = "first_stage_model.";
/// What is not needed for encoding and decoding: the training losses with discriminator and LPIPS.
pub(super) const LOSS: &str = "loss.";
/// Side of the released models' images, in pixels, which weights do not tell.
const RESOLUTION: i64 = 256;

/// A VQGAN inside a checkpoint, checked.
#[derive(Clone, Debug)]
pub(super) struct FirstStage {
    /// What stands before its names.
    pub prefix: &'static str,
    pub config: VqganConfig,
    pub tensors: Vec<Planned>,
    /// Tensors that a VQGAN of this shape does not have, by released name.
    pub unused: Vec<String>,
}

impl FirstStage {
    /// Finds the VQGAN and reads its shape off its tensors; none when there is no trace of one.
    ///
    /// # Errors
    /// What is missing or of another shape, by name.
    pub fn find(checkpoint: &Checkpoint, resolution: Option<i64>) -> Result<Option<FirstStage>, ImportError> {
        let Some(prefix) = prefix(checkpoint) else { return Ok(None) };
        let path = checkpoint.path();
        let found = candidates(checkpoint, prefix);
        let shapes = found.iter().map(|(name, (_, shape))| (name.as_str(), shape.clone()));
        let config = infer(shapes, resolution.unwrap_or(RESOLUTION)).map_err(|source| {
            let shape = ImportError::Shape { path: path.to_owned(), source };
            refuse_foreign(checkpoint, |name| name.strip_prefix(prefix).is_some_and(|name| !name.starts_with(LOSS)))
                .err()
                .unwrap_or(shape)
        })?;
        let specs = config.tensors();
        let kinds = found.iter().map(|(name, (dtype, shape))| (name.as_str(), shape.clone(), !is_float(*dtype)));
        let mut differences = Differences::between(&specs, kinds);
        let unused = std::mem::take(&mut differences.unused);
        refuse_foreign(checkpoint, |key| {
            key.strip_prefix(prefix).is_some_and(|name| differences.missing.iter().any(|missing| missing == name))
        })?;
        if !differences.is_empty() {
            return Err(ImportError::Mismatch { path: path.to_owned(), differences });
        }
        let tensors = specs.iter().filter_map(|spec| Some(planned(spec, prefix, found.get(&spec.name)?.0)));
        Ok(Some(FirstStage { prefix, config, tensors: in_file_order(tensors.collect()), unused }))
    }

    /// SHA-256 of each tensor as it would be written, by released name. One tensor is read at a time.
    pub fn digests(&self, checkpoint: &mut Checkpoint) -> Result<BTreeMap<String, String>, ImportError> {
        let mut digests = BTreeMap::new();
        for tensor in &self.tensors {
            let mut hash = Sha256::new();
            hash.update(format!("{:?}", tensor.shape));
            hash.update(tensor.read(checkpoint)?);
            digests.insert(tensor.name.clone(), hex(&hash.finalize()));
        }
        Ok(digests)
    }
}

pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// All names of a checkpoint's values that are tensors or could be.
pub(super) fn names(checkpoint: &Checkpoint) -> impl Iterator<Item = &str> {
    checkpoint.tensors().map(|tensor| tensor.key).chain(checkpoint.foreign().map(|(key, _)| key))
}

/// What stands before the VQGAN's names in this checkpoint.
fn prefix(checkpoint: &Checkpoint) -> Option<&'static str> {
    let starts = |prefix: &str| {
        names(checkpoint).any(|name| name.strip_prefix(prefix).is_some_and(|name| name.starts_with("encoder.conv_in.")))
    };
    ["", FIRST_STAGE].into_iter().find(|prefix| starts(prefix))
}

/// The VQGAN's tensors by released name, without the losses.
fn candidates(checkpoint: &Checkpoint, prefix: &str) -> BTreeMap<String, (Dtype, Vec<i64>)> {
    let named = checkpoint.tensors().filter_map(|tensor| Some((tensor.key.strip_prefix(prefix)?, tensor)));
    let kept = named.filter(|(name, _)| !name.starts_with(LOSS));
    kept.map(|(name, tensor)| (name.to_owned(), (tensor.dtype, shape_of(tensor.shape)))).collect()
}

/// A shape as networks have it.
pub(super) fn shape_of(shape: &[u64]) -> Vec<i64> {
    shape.iter().map(|&side| i64::try_from(side).unwrap_or(i64::MAX)).collect()
}

/// A tensor that is `needed`, and there only as the result of an unknown call, is named together with the callable.
pub(super) fn refuse_foreign(checkpoint: &Checkpoint, needed: impl Fn(&str) -> bool) -> Result<(), ImportError> {
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
fn planned(spec: &TensorSpec, prefix: &str, from: Dtype) -> Planned {
    let to = if spec.is_integer() { Dtype::I64 } else { Dtype::F32 };
    Planned { name: spec.name.clone(), key: format!("{prefix}{}", spec.name), shape: spec.shape.clone(), from, to }
}
