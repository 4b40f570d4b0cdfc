//! The kinds of runs that fill an output directory, and where each puts what it writes.
//!
//! Two runs may share one output directory, one of each kind: `encode`, known by its [`Identity`](super::Identity), and
//! `sample` or `edit`, known by a [`SamplesIdentity`](super::SamplesIdentity). They share no file, so neither can be taken
//! for the other:
//!
//! | | encode | sample, edit |
//! |---|---|---|
//! | table | `latents/` | `samples/` |
//! | rejects | `rejects/` | `samples-rejects/` |
//! | manifest | `manifest.json` | `samples-manifest.json` |
//! | facts | `run.json` | `run-samples.json` |
//! | card | | `README.md` |

use super::identity::{Difference, difference};
use super::{FileInfo, Provenance, TableError, TableSchema, UnitFile};
use crate::digest::hex;
use arrow::record_batch::RecordBatch;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;

/// A kind of run, known by the type of its identity: the closed list of what may change its output's bytes.
///
/// The canonical form of an identity is its JSON, the fields in the order they are declared.
pub trait Run: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// One row of its table.
    type Row: TableRow;
    /// What writes the rows of one work unit.
    type Writer: RowsWriter<Self>;

    /// The table it writes, which is also the folder of its files.
    const TABLE: &'static str;
    /// The folder of its rejects.
    const REJECTS: &'static str;
    /// The file that says what an output was begun with.
    const MANIFEST: &'static str;
    /// The file of a run's facts, without `.json` and the rank.
    const FACTS: &'static str;
    /// Rows that a reader takes at a time.
    const BATCH_ROWS: usize;

    /// Its table's columns.
    fn schema() -> Result<TableSchema, TableError>;

    /// The rows of a batch; none when it is not a batch of the table.
    fn rows(batch: &RecordBatch) -> Option<Vec<Self::Row>>;

    /// Fingerprint of the tokenizer's weights.
    fn tokenizer(&self) -> &str;

    /// Rows that the unit named `unit` has with its rejects, where the name alone tells.
    fn rows_of_unit(&self, unit: &str) -> Option<u64>;

    /// The canonical JSON that is hashed, and stands in clear in every file.
    fn canonical(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and maps with string keys are JSON")
    }

    /// SHA-256 of the canonical JSON, in hex.
    fn sha256(&self) -> String {
        hex(&Sha256::digest(self.canonical().as_bytes()))
    }

    /// Every field in which `self` (ours) differs from `recorded`; empty when they are the same.
    fn difference(&self, recorded: &Self) -> Vec<Difference> {
        difference(&self.canonical(), &recorded.canonical())
    }
}

/// What every table's rows have.
pub trait TableRow: Clone + fmt::Debug + Send + 'static {
    /// The row's name.
    fn key(&self) -> &str;
    /// The sample of its unit that the row belongs to; `position` is its place in the file.
    fn index(&self, position: u64) -> u64;
    /// Codebook indices, row-major.
    fn tokens(&self) -> &[u16];
    /// The image made of them as a file, where the table has it.
    fn image(&self) -> Option<&[u8]> {
        None
    }
}

/// Writes the rows of one work unit to one file, which appears whole or not at all.
pub trait RowsWriter<I: Run>: Sized + Send + 'static {
    /// A writer of the object at `path`, which is to be `file`. Nothing appears before `finish` succeeds.
    fn create(
        store: Arc<dyn ObjectStore>,
        path: Path,
        file: &UnitFile,
        provenance: Arc<Provenance<I>>,
    ) -> Result<Self, TableError>;

    /// Adds the next row.
    fn push(&mut self, row: I::Row) -> impl Future<Output = Result<(), TableError>> + Send;

    /// Distinct samples among the rows so far.
    fn samples(&self) -> u64;

    /// Commits the file, of a unit with `rejects` rejects, in one atomic step. Returns what it holds and its size in bytes.
    fn finish(self, rejects: u64) -> impl Future<Output = Result<(FileInfo<I>, u64), TableError>> + Send;

    /// Gives up: nothing appears under the file's name, and what was uploaded is given back.
    fn abort(self) -> impl Future<Output = Result<(), TableError>> + Send;
}
