//! The writer of the `rejects` table: what was not encoded, and why.

use super::run::Run;
use super::writer::{TableFile, properties};
use super::{FileInfo, Identity, Provenance, TableError, TableSchema, UnitFile};
use crate::reject::Reject;
use arrow::array::{ArrayRef, StringArray, StringDictionaryBuilder, UInt64Array};
use arrow::datatypes::{Field, Int32Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use object_store::ObjectStore;
use object_store::path::Path;
use std::sync::Arc;

/// Rows that are collected before they become Arrow arrays.
const BATCH_ROWS: usize = 1024;
/// Rows of a full row group.
const ROW_GROUP_ROWS: usize = 1 << 16;
/// Longer messages and keys are cut: a reject explains, it does not carry data.
const MAX_TEXT: usize = 4096;

/// Writes the rejects of one work unit.
pub struct RejectsWriter<I = Identity> {
    file: TableFile,
    path: Path,
    name: UnitFile,
    provenance: Arc<Provenance<I>>,
    schema: SchemaRef,
    rows: Vec<Reject>,
    written: u64,
}

impl<I: Run> RejectsWriter<I> {
    /// A writer of the object at `path`, which is to be `name`. Nothing appears before [`RejectsWriter::finish`]
    /// succeeds.
    pub fn create(
        store: Arc<dyn ObjectStore>,
        path: Path,
        name: &UnitFile,
        provenance: Arc<Provenance<I>>,
    ) -> Result<RejectsWriter<I>, TableError> {
        let table = TableSchema::rejects()?;
        let schema = table.arrow(provenance.tokens())?;
        let properties = properties(provenance.to_metadata(&table, name))
            .map_err(|error| TableError::parquet(&path, error))?
            .build();
        let file = TableFile::create(store, path.clone(), schema.clone(), properties)?;
        Ok(RejectsWriter { file, path, name: name.clone(), provenance, schema, rows: Vec::new(), written: 0 })
    }

    /// Adds the next reject. Keys and messages are cut to 4 KiB.
    pub async fn push(&mut self, mut reject: Reject) -> Result<(), TableError> {
        if reject.unit != self.name.unit {
            let detail = format!("a reject of the unit {} in the file of another", reject.unit);
            return Err(TableError::Row { unit: self.name.unit.clone(), index: reject.index, detail });
        }
        cut(&mut reject.key);
        cut(&mut reject.message);
        self.rows.push(reject);
        self.written += 1;
        if self.rows.len() >= BATCH_ROWS { self.flush_rows().await } else { Ok(()) }
    }

    /// Rejects so far.
    pub fn rows(&self) -> u64 {
        self.written
    }

    async fn flush_rows(&mut self) -> Result<(), TableError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let columns: Result<Vec<ArrayRef>, ArrowError> =
            self.schema.fields().iter().map(|field| column(&rows, field)).collect();
        let batch = columns
            .and_then(|columns| RecordBatch::try_new(self.schema.clone(), columns))
            .map_err(|error| TableError::parquet(&self.path, error))?;
        self.file.write(&batch)?;
        if self.file.rows_in_group() >= ROW_GROUP_ROWS { self.file.end_group().await } else { Ok(()) }
    }

    /// Commits the file, of a unit of which `samples` samples gave rows, in one atomic step. Returns its size in bytes.
    pub async fn finish(mut self, samples: u64) -> Result<u64, TableError> {
        self.flush_rows().await?;
        let info = FileInfo {
            provenance: (*self.provenance).clone(),
            file: self.name,
            rows: self.written,
            samples,
            rejects: self.written,
            checksum: None,
        };
        self.file.finish(info.totals()).await
    }

    /// Gives up: nothing appears under the file's name, and what was uploaded is given back.
    pub async fn abort(self) -> Result<(), TableError> {
        self.file.abort().await
    }
}

/// The column of `rows` that `field` names.
fn column(rows: &[Reject], field: &Field) -> Result<ArrayRef, ArrowError> {
    Ok(match field.name().as_str() {
        "source" => dictionary(rows.iter().map(|row| row.source.as_str()))?,
        "key" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.key))),
        "index" => Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.index))),
        "unit" => dictionary(rows.iter().map(|row| row.unit.as_str()))?,
        "stage" => dictionary(rows.iter().map(|row| row.stage))?,
        "reason" => dictionary(rows.iter().map(|row| row.reason.code()))?,
        "message" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.message))),
        other => {
            let detail = format!("schemas/rejects.json has the column {other}, which no reject has");
            return Err(ArrowError::SchemaError(detail));
        }
    })
}

fn dictionary<'a>(values: impl Iterator<Item = &'a str>) -> Result<ArrayRef, ArrowError> {
    let mut builder = StringDictionaryBuilder::<Int32Type>::new();
    for value in values {
        builder.append(value)?;
    }
    Ok(Arc::new(builder.finish()))
}

/// Cuts `text` to [`MAX_TEXT`] bytes, at a character's border.
fn cut(text: &mut String) {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
}
