//! The trained tokenizer as a file.

use crate::jobs::JobError;
use crate::jobs::shrink::Usage;
use crate::torch::weights::{Weights, write};
use crate::vqgan::VqganConfig;
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

/// What is written: fingerprint and number of ids.
pub struct Exported {
    pub fingerprint: String,
    pub ids: u64,
}

/// Writes the tokenizer, replacing what is at `path` once it is whole. With `usage`, the codes that stand at least `min_count`
/// times are its ids (the paper's shrinking).
pub fn export(
    path: &Path,
    config: &VqganConfig,
    mut tensors: BTreeMap<String, Tensor>,
    usage: Option<(&Usage, u64)>,
    about: BTreeMap<String, String>,
) -> Result<Exported, JobError> {
    let mut config = VqganConfig { used: None, ..config.clone() };
    if let Some((usage, min_count)) = usage {
        let used: Vec<i64> = usage.used(min_count).into_iter().map(i64::from).collect();
        if used.is_empty() {
            let message = format!(
                "no code stands {min_count} times or more among the validation images: lower train_tokenizer.shrink_min_count"
            );
            return Err(JobError::Usage(message));
        }
        config.used = Some(used.len() as i64);
        tensors.insert("quantize.used".to_owned(), Tensor::f_from_slice(&used).map_err(JobError::failed)?);
    }
    let mut metadata = config.to_metadata();
    metadata.extend(about);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let failed = |error| JobError::Failed(format!("cannot create the directory {}: {error}", folder.display()));
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let weights = Weights::from_tensors("the tokenizer", tensors).map_err(JobError::failed)?;
    write(path, weights.tensors(), &metadata).map_err(JobError::failed)?;
    Ok(Exported { fingerprint: weights.fingerprint().to_owned(), ids: config.ids().unsigned_abs() })
}
