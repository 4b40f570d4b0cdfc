//! What can go wrong with tables.

use super::Difference;
use object_store::path::Path;
use std::fmt::Write;

/// Why a table could not be written, read or resumed. The text names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The store failed.
    #[error("cannot access {path}: {source}")]
    Store {
        path: String,
        #[source]
        source: object_store::Error,
    },
    /// The local disk failed.
    #[error("cannot access {path}: {source}")]
    Disk {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The file is not readable Parquet, or could not be encoded.
    #[error("{path}: {source}")]
    Parquet {
        path: String,
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// The file is readable, but not the table it should be.
    #[error("{path}: {detail}")]
    Format { path: String, detail: String },
    /// A row that may not enter the table: a fault of the program that made it.
    #[error("unit {unit}, sample {index}: {detail}")]
    Row { unit: String, index: u64, detail: String },
    /// A schema file of the program itself is wrong.
    #[error("schemas/{table}.json: {detail}")]
    Schema { table: String, detail: String },
    /// The directory holds the output of another run.
    #[error(
        "{path} holds the output of a run with other settings; choose another output directory, restore these \
         settings, or pass --overwrite to delete it:{}",
        list(differences)
    )]
    Identity { path: String, differences: Vec<Difference> },
    /// The dataset is not the one the output was begun with.
    #[error(
        "{detail}, but {path} was begun with another state of the dataset; restore it, choose another output directory, or pass --overwrite"
    )]
    Dataset { path: String, detail: String },
    /// Two files that do not belong to one run.
    #[error(
        "{second} does not belong with {first}, and tables of different runs are never mixed:{}",
        list(differences)
    )]
    Mixed { first: String, second: String, differences: Vec<Difference> },
}

impl TableError {
    pub(crate) fn store(path: &Path, source: object_store::Error) -> TableError {
        TableError::Store { path: path.to_string(), source }
    }

    pub(crate) fn parquet(path: &Path, source: impl Into<parquet::errors::ParquetError>) -> TableError {
        TableError::Parquet { path: path.to_string(), source: source.into() }
    }

    pub(crate) fn format(path: &Path, detail: impl Into<String>) -> TableError {
        TableError::Format { path: path.to_string(), detail: detail.into() }
    }
}

/// Each difference on a line of its own.
fn list(differences: &[Difference]) -> String {
    differences.iter().fold(String::new(), |mut text, difference| {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {difference}");
        text
    })
}
