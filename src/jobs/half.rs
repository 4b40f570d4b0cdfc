//! `imagebart half`: a model directory in half the bytes, its weights as 16-bit floats.
//!
//! The tokenizer's fingerprint is of its bytes, so it becomes another one, and the copy's `chain.toml` says so; codes and tokens
//! are numbered as before. Networks compute in float32 as ever.

use super::JobError;
use super::model::refused;
use crate::chain::{Condition, ModelDirectory};
use crate::config::ByteSize;
use crate::torch::weights::{Weights, WeightsFile, write};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use tch::{Kind, TchError, Tensor};

/// What is copied, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfOptions {
    /// A model directory.
    pub model: PathBuf,
    /// The directory to write.
    pub to: PathBuf,
    /// Replace a model that is already there.
    pub overwrite: bool,
}

/// What was written. Displays as a line for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfSummary {
    pub to: PathBuf,
    /// Bytes of the weights, before and after.
    pub before: u64,
    pub after: u64,
    /// The tokenizer's fingerprint in the copy.
    pub tokenizer: String,
}

impl fmt::Display for HalfSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (ByteSize(self.before), ByteSize(self.after));
        write!(f, "{}: {after} of weights, from {before}; tokenizer {}", self.to.display(), self.tokenizer)
    }
}

/// Opens the model and checks that the copy may be written, without writing.
pub fn check(options: &HalfOptions) -> Result<ModelDirectory, JobError> {
    let directory = ModelDirectory::open(&options.model).map_err(refused)?;
    let there = options.to.join(crate::chain::directory::CONFIG_FILE).exists();
    if there && (!options.overwrite || options.to == options.model) {
        return Err(JobError::Usage(format!(
            "there is a model at {} already: choose another place, or give --overwrite",
            options.to.display()
        )));
    }
    Ok(directory)
}

/// Copies a model directory. `chain.toml` is written last: a directory with it is whole.
///
/// # Errors
/// [`JobError::Usage`] for a model that is not one, or is there already; weights that 16 bits cannot hold.
pub fn half(options: &HalfOptions) -> Result<HalfSummary, JobError> {
    let directory = check(options)?;
    let to = &options.to;
    let disk =
        |path: &Path, error: std::io::Error| JobError::Failed(format!("cannot write {}: {error}", path.display()));
    std::fs::create_dir_all(to).map_err(|error| disk(to, error))?;
    let (mut before, mut after) = (0, 0);
    let mut count = |from: &Path, to: &Path| {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        before += size(from);
        after += size(to);
    };
    for network in &directory.config().networks {
        let first = network.scales.first().copied().unwrap_or(1);
        let tensors = halves(directory.load_weights(network).map_err(refused)?)?;
        let file = ModelDirectory::write_scale(to, first, &network.network, &tensors).map_err(JobError::failed)?;
        count(&directory.scale_file(first).map_err(refused)?, &file);
    }

    let from = directory.tokenizer_file();
    let weights = WeightsFile::open(&from).and_then(|mut file| file.load_all()).map_err(JobError::failed)?;
    directory.check_tokenizer(weights.fingerprint()).map_err(refused)?;
    let metadata = weights.metadata().clone();
    let weights = Weights::from_tensors("the tokenizer", halves(weights)?).map_err(JobError::failed)?;
    let file = to.join(crate::chain::directory::TOKENIZER_FILE);
    write(&file, weights.tensors(), &metadata).map_err(JobError::failed)?;
    count(&from, &file);

    if matches!(directory.config().condition, Condition::Text(_)) {
        let file = to.join(crate::chain::directory::TEXT_TOKENIZER_FILE);
        std::fs::copy(directory.text_tokenizer_file(), &file).map_err(|error| disk(&file, error))?;
    }
    let tokenizer = weights.fingerprint().to_owned();
    ModelDirectory::write_config(to, directory.config(), &tokenizer).map_err(JobError::failed)?;
    Ok(HalfSummary { to: to.clone(), before, after, tokenizer })
}

/// Floating-point tensors as float16; others as they are.
fn halves(weights: Weights) -> Result<BTreeMap<String, Tensor>, JobError> {
    let mut halves = BTreeMap::new();
    for (name, tensor) in weights.into_tensors() {
        let half = shortened(&tensor).map_err(JobError::failed)?;
        let half = half.ok_or_else(|| {
            JobError::Usage(format!(
                "{name} has numbers beyond the range of 16-bit floats: this model cannot be halved"
            ))
        })?;
        halves.insert(name, half);
    }
    Ok(halves)
}

/// `None` where a number becomes infinite, or is none.
fn shortened(tensor: &Tensor) -> Result<Option<Tensor>, TchError> {
    if tensor.f_kind()? == Kind::Int64 {
        return Ok(Some(tensor.shallow_clone()));
    }
    let half = tensor.f_to_kind(Kind::Half)?;
    let finite = half.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0;
    Ok(finite.then_some(half))
}
