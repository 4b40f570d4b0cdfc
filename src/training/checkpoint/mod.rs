//! Checkpoints: everything a training run needs to go on as if it had never stopped.
//!
//! ```text
//! step-0000002000.safetensors   the tensors: weights, averages, optimizer
//! step-0000002000.json          the record: what the tensors belong to, their file's size and SHA-256
//! ```
//!
//! A checkpoint is there when its record is. The tensors are written first, the record after them, and both appear whole or
//! not at all, so that a run killed at any instant, or a disk that fills up, leaves the checkpoints before it as they were. Deleted
//! in the other order. Tensors without a record are what a killed run left, and are swept.

mod files;
mod record;

use super::{FolderError, RunFolder};
use crate::tables::Difference;
use crate::torch::weights::WeightsError;
use record::Record;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use tch::Tensor;

/// Why a checkpoint could not be written or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("cannot {action} the checkpoint {path}: {source}; those before it are as they were")]
    File {
        action: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the checkpoints at {place} are of another training run: {}; choose another folder, or start anew with --overwrite",
        list(differences)
    )]
    Other { place: String, differences: Vec<Difference> },
    #[error("no checkpoint at {place} is whole ({detail}): restore one, or start anew with --overwrite")]
    AllBroken { place: String, detail: String },
    #[error("the checkpoint {path} is damaged: {detail}")]
    Broken { path: String, detail: String },
}

fn list(differences: &[Difference]) -> String {
    differences.iter().map(Difference::to_string).collect::<Vec<_>>().join("; ")
}

/// One state of a run.
#[derive(Debug)]
pub struct Checkpoint {
    /// Optimizer steps before it.
    pub step: u64,
    /// Everything that training changes.
    pub tensors: BTreeMap<String, Tensor>,
    /// What else the run has to know: the loader's position, counts.
    pub facts: Map<String, Value>,
}

/// The checkpoints of one run.
#[derive(Debug)]
pub struct Checkpoints {
    folder: RunFolder,
    /// What a checkpoint must agree with to be gone on with.
    identity: BTreeMap<String, String>,
    keep: usize,
    /// Of all checkpoints that are there, by step.
    records: Mutex<BTreeMap<u64, Record>>,
}

impl Checkpoints {
    /// The checkpoints in `folder`, of a run with this `identity`, of which the last `keep` and the best are kept. Nobody else
    /// may be writing there.
    ///
    /// # Errors
    /// Checkpoints of another identity, with both sides; what the store reports.
    pub async fn open(
        folder: RunFolder,
        identity: BTreeMap<String, String>,
        keep: u32,
    ) -> Result<Checkpoints, CheckpointError> {
        folder.sweep().await?;
        let names = folder.names().await?;
        let mut records = BTreeMap::new();
        for step in names.iter().filter_map(|name| record::step_of(name, record::RECORD)) {
            let name = record::name(step, record::RECORD);
            let Some(bytes) = folder.get(&name).await? else { continue };
            let record = Record::parse(&bytes)
                .map_err(|detail| CheckpointError::Broken { path: folder.shown(&name), detail })?;
            records.insert(step, record);
        }
        if let Some(newest) = records.values().next_back() {
            let differences = newest.difference(&identity);
            if !differences.is_empty() {
                return Err(CheckpointError::Other { place: folder.place(), differences });
            }
        }
        for step in names.iter().filter_map(|name| record::step_of(name, record::TENSORS)) {
            if !records.contains_key(&step) {
                folder.delete(&record::name(step, record::TENSORS)).await?;
            }
        }
        Ok(Checkpoints { folder, identity, keep: keep.max(1) as usize, records: Mutex::new(records) })
    }

    /// Deletes all checkpoints in a folder, whatever run they are of.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn clear(folder: &RunFolder) -> Result<(), CheckpointError> {
        let names = folder.names().await?;
        for part in [record::RECORD, record::TENSORS] {
            for name in names.iter().filter(|name| record::step_of(name, part).is_some()) {
                folder.delete(name).await?;
            }
        }
        Ok(())
    }

    /// The newest checkpoint that is whole; none when there is none at all. One that is damaged is passed over with a warning.
    ///
    /// # Errors
    /// Checkpoints of which none is whole; what the store reports.
    pub async fn latest(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        let steps: Vec<u64> = self.locked().keys().rev().copied().collect();
        let mut newest = None;
        for step in steps {
            match self.load(step).await {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(CheckpointError::Broken { path, detail }) => {
                    tracing::warn!("the checkpoint {path} is damaged ({detail}): going on from the one before it");
                    newest.get_or_insert(detail);
                }
                Err(error) => return Err(error),
            }
        }
        match newest {
            Some(detail) => Err(CheckpointError::AllBroken { place: self.folder.place(), detail }),
            None => Ok(None),
        }
    }

    /// The checkpoint of `step`, checked against its record.
    ///
    /// # Errors
    /// A damaged file; a step that has no checkpoint; what the store reports.
    pub async fn load(&self, step: u64) -> Result<Checkpoint, CheckpointError> {
        let name = record::name(step, record::TENSORS);
        let record = self.locked().get(&step).cloned();
        let Some(record) = record else {
            let detail = "there is no such checkpoint".to_owned();
            return Err(CheckpointError::Broken { path: self.folder.shown(&name), detail });
        };
        let tensors = files::read(&self.folder, &name, (record.size, &record.sha256)).await?;
        Ok(Checkpoint { step, tensors, facts: record.facts })
    }

    /// Writes a checkpoint, then deletes those that are neither among the last ones nor the best. `loss` is that of the
    /// validation, if there was one at this step: the checkpoint with the lowest is the best.
    ///
    /// # Errors
    /// What the store reports; the checkpoints before it are then as they were.
    pub async fn save(&self, checkpoint: &Checkpoint, loss: Option<f64>) -> Result<(), CheckpointError> {
        let step = checkpoint.step;
        // A record must never speak of tensors that are being replaced.
        if self.locked().remove(&step).is_some() {
            self.folder.delete(&record::name(step, record::RECORD)).await?;
        }
        let (size, sha256) =
            files::write(&self.folder, &record::name(step, record::TENSORS), &checkpoint.tensors).await?;
        let record = Record::new(
            self.identity.clone(),
            checkpoint.facts.clone(),
            (size, sha256),
            loss.filter(|x| x.is_finite()),
        );
        self.folder.put(&record::name(step, record::RECORD), record.bytes()).await?;
        self.locked().insert(step, record);
        self.forget().await
    }

    /// The step of the newest checkpoint.
    pub fn newest(&self) -> Option<u64> {
        self.locked().keys().next_back().copied()
    }

    /// Step and validation loss of the best checkpoint, if any was validated.
    pub fn best(&self) -> Option<(u64, f64)> {
        let records = self.locked();
        let losses = records.iter().filter_map(|(step, record)| Some((*step, record.loss?)));
        losses.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// A checkpoint's file as the user knows it.
    pub fn shown(&self, step: u64) -> String {
        self.folder.shown(&record::name(step, record::TENSORS))
    }

    /// Deletes what need not be kept.
    async fn forget(&self) -> Result<(), CheckpointError> {
        let best = self.best().map(|(step, _)| step);
        let old: BTreeSet<u64> = self.locked().keys().rev().skip(self.keep).copied().collect();
        for step in old.into_iter().filter(|step| Some(*step) != best) {
            self.folder.delete(&record::name(step, record::RECORD)).await?;
            self.locked().remove(&step);
            self.folder.delete(&record::name(step, record::TENSORS)).await?;
        }
        Ok(())
    }

    /// A map is whole between any two of its changes, so a panic elsewhere does not spoil it.
    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Record>> {
        self.records.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
