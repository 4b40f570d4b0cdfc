//! One work unit's output, committed as one: its rejects first, then its rows.

use super::run::{RowsWriter, Run};
use super::{Identity, OutputDir, Provenance, RejectsWriter, TableError, UnitFile};
use crate::reject::Reject;
use std::sync::Arc;

/// Writes the two files of one work unit. Until [`UnitWriter::commit`], neither is visible; once the rows are, the unit is
/// done. Killed in between, the unit is not done, and the next run writes both again, byte for byte.
pub struct UnitWriter<I: Run = Identity> {
    rows: I::Writer,
    rejects: RejectsWriter<I>,
}

/// What a committed unit holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitSummary {
    /// Rows of latents or samples.
    pub rows: u64,
    /// Samples that gave rows.
    pub samples: u64,
    /// Rows of rejects.
    pub rejects: u64,
    /// Bytes of both files.
    pub bytes: u64,
}

impl<I: Run> UnitWriter<I> {
    /// A writer of `file` in `dir`: a work unit, or a retry of one's rejects.
    pub fn create(
        dir: &OutputDir<I>,
        provenance: &Arc<Provenance<I>>,
        file: impl Into<UnitFile>,
    ) -> Result<UnitWriter<I>, TableError> {
        let (store, file) = (dir.store(), file.into());
        Ok(UnitWriter {
            rows: I::Writer::create(store.clone(), dir.table(&file)?, &file, provenance.clone())?,
            rejects: RejectsWriter::create(store.clone(), dir.rejects(&file)?, &file, provenance.clone())?,
        })
    }

    /// Adds the next row, in the order of the input.
    pub async fn row(&mut self, row: I::Row) -> Result<(), TableError> {
        self.rows.push(row).await
    }

    /// Adds the next reject.
    pub async fn reject(&mut self, reject: Reject) -> Result<(), TableError> {
        self.rejects.push(reject).await
    }

    /// Makes the unit done. A unit without rows or rejects has empty files.
    pub async fn commit(self) -> Result<UnitSummary, TableError> {
        let (samples, rejects) = (self.rows.samples(), self.rejects.rows());
        let rejects_bytes = match self.rejects.finish(samples).await {
            Ok(bytes) => bytes,
            Err(error) => {
                // The first error tells what happened; one of the cleaning up would hide it.
                let _ = self.rows.abort().await;
                return Err(error);
            }
        };
        let (info, rows_bytes) = self.rows.finish(rejects).await?;
        Ok(UnitSummary { rows: info.rows, samples, rejects, bytes: rejects_bytes + rows_bytes })
    }

    /// Drops the unit's output. Nothing of it appears.
    pub async fn abort(self) -> Result<(), TableError> {
        let (rejects, rows) = (self.rejects.abort().await, self.rows.abort().await);
        rejects.and(rows)
    }
}
