//! Images that are to be edited, and their masks: from two folders, matched by the names of the files, or from two columns of a
//! Parquet file.
//!
//! Both are rows that are counted from 0, and read by their number: forwards, from any row on.

mod folders;
mod table;

pub use folders::PairFolders;
pub use table::PairTable;

use super::{DatasetError, DatasetOptions};
use crate::reject::Reason;
use bytes::Bytes;
use folders::FolderRows;
use std::sync::Arc;
use table::TableRows;

/// An image and its mask, as they lie in their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub image: Bytes,
    /// None where masks are not read.
    pub mask: Option<Bytes>,
    /// What the mask is called in messages.
    pub mask_name: String,
}

/// What is wrong with a pair, in the terms of the `rejects` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub stage: &'static str,
    pub reason: Reason,
    pub message: String,
}

/// The images of a run, and their masks.
#[derive(Clone)]
pub enum Pairs {
    Folders(Arc<PairFolders>),
    Table(Arc<PairTable>),
}

impl Pairs {
    /// Whether `images` names a table, by its ending.
    pub fn is_table(images: &str) -> bool {
        images.to_ascii_lowercase().ends_with(".parquet")
    }

    /// SHA-256 in hex over what tells these images and masks from others: names and sizes, or sizes and places in the file.
    pub fn digest(&self) -> String {
        match self {
            Pairs::Folders(folders) => folders.digest(),
            Pairs::Table(table) => table.digest(),
        }
    }

    /// The file of row `row`, relative to the root: the image's, or the table's.
    pub fn source(&self, row: u64) -> &str {
        match self {
            Pairs::Folders(folders) => folders.path(row),
            Pairs::Table(table) => table.name(),
        }
    }

    /// Starts to read. Must be called inside a tokio runtime.
    pub fn start(&self) -> PairRows {
        let rows = match self {
            Pairs::Folders(folders) => Rows::Folders(FolderRows::new(folders.clone())),
            Pairs::Table(table) => Rows::Table(TableRows::new(table.clone())),
        };
        PairRows { rows, last: None }
    }
}

/// The pairs of a run, on their way.
pub struct PairRows {
    rows: Rows,
    /// The row that was asked for last.
    last: Option<(u64, Result<Pair, Flaw>)>,
}

enum Rows {
    Folders(FolderRows),
    Table(TableRows),
}

impl PairRows {
    /// Row `row`, which does not come before the last one that was asked for; or what is wrong with it.
    ///
    /// # Errors
    /// What a later try may mend: the store fails, or the files are no longer those that were found.
    pub async fn get(&mut self, row: u64) -> Result<Result<Pair, Flaw>, DatasetError> {
        if let Some((_, pair)) = self.last.as_ref().filter(|(last, _)| *last == row) {
            return Ok(pair.clone());
        }
        let pair = match &mut self.rows {
            Rows::Folders(rows) => rows.get(row).await?,
            Rows::Table(rows) => rows.get(row).await?,
        };
        self.last = Some((row, pair.clone()));
        Ok(pair)
    }
}

fn changed(path: &str, detail: &str) -> DatasetError {
    DatasetError::Changed { path: path.to_owned(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests;
