//! The writer of the `latents` table: one file per work unit, its memory bounded whatever the unit's size.

use super::layout::{Layout, row_group_rows};
use super::rows::{RowChecksum, Rows};
use super::run::RowsWriter;
use super::writer::{TableFile, properties};
use super::{FileInfo, Identity, LatentRow, Provenance, TableError, TableSchema, UnitFile};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use object_store::ObjectStore;
use object_store::path::Path;
use std::collections::VecDeque;
use std::sync::Arc;

/// Rows that are collected before they become Arrow arrays.
const BATCH_ROWS: usize = 1024;
/// Text bytes (keys, captions) that are collected before they become Arrow arrays.
const BATCH_TEXT: usize = 8 << 20;
/// Bytes of a row group in memory at which it ends early: only where captions are huge.
const GROUP_BYTES: usize = 64 << 20;

/// Writes the latents of one work unit.
pub struct LatentsWriter {
    store: Arc<dyn ObjectStore>,
    path: Path,
    name: UnitFile,
    provenance: Arc<Provenance>,
    table: TableSchema,
    schema: SchemaRef,
    rows: Rows,
    /// Batches that wait for more rows, so that no row group is a scrap.
    waiting: VecDeque<RecordBatch>,
    /// Opened once the layout is certain.
    file: Option<TableFile>,
    written: u64,
    samples: u64,
    last_index: Option<u64>,
    checksum: RowChecksum,
}

impl LatentsWriter {
    fn check(&self, row: &LatentRow) -> Result<(), String> {
        let (tokens, codes) = (self.provenance.tokens(), self.provenance.codebook_size);
        if row.tokens.len() != tokens {
            return Err(format!("{} tokens where the grid has {tokens}", row.tokens.len()));
        }
        if let Some(token) = row.tokens.iter().find(|&&token| u32::from(token) >= codes) {
            return Err(format!("token {token} is not below the codebook size {codes}"));
        }
        match self.last_index {
            Some(last) if last > row.index => {
                Err(format!("comes after sample {last}: rows must keep the input's order"))
            }
            _ => Ok(()),
        }
    }

    /// Turns the collected rows into a batch, and encodes the batches behind which half a row group waits: then the last
    /// row group has at least half its rows, and the layout is certain when the first is encoded.
    async fn flush_rows(&mut self) -> Result<(), TableError> {
        if self.rows.keys.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let batch = rows.into_batch(&self.schema).map_err(|error| TableError::parquet(&self.path, error))?;
        self.waiting.push_back(batch);
        let half = row_group_rows(self.provenance.tokens()) / 2;
        while let Some(first) = self.waiting.front() {
            let rows: usize = self.waiting.iter().map(RecordBatch::num_rows).sum();
            let bytes: usize = self.waiting.iter().map(RecordBatch::get_array_memory_size).sum();
            if rows - first.num_rows() < half && bytes < GROUP_BYTES {
                break;
            }
            self.encode_first(true).await?;
        }
        Ok(())
    }

    /// Encodes the batch that waits longest; `more` rows may follow those that wait.
    async fn encode_first(&mut self, more: bool) -> Result<(), TableError> {
        let rows = row_group_rows(self.provenance.tokens());
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.open()?,
        };
        if more && (file.rows_in_group() >= rows || file.bytes_in_group() >= GROUP_BYTES) {
            file.end_group().await?;
        }
        let written = self.waiting.pop_front().map_or(Ok(()), |batch| file.write(&batch));
        self.file = Some(file);
        written
    }

    /// Opens the file of a unit that has the rows so far, or more.
    fn open(&self) -> Result<TableFile, TableError> {
        let (tokens, codes) = (self.provenance.tokens(), self.provenance.codebook_size);
        let rows = self.waiting.iter().map(RecordBatch::num_rows).sum();
        let properties = properties(self.provenance.to_metadata(&self.table, &self.name))
            .and_then(|base| Layout::choose(codes, tokens, rows).properties(codes, base))
            .map_err(|error| TableError::parquet(&self.path, error))?;
        TableFile::create(self.store.clone(), self.path.clone(), self.schema.clone(), properties)
    }
}

impl RowsWriter<Identity> for LatentsWriter {
    fn create(
        store: Arc<dyn ObjectStore>,
        path: Path,
        name: &UnitFile,
        provenance: Arc<Provenance>,
    ) -> Result<LatentsWriter, TableError> {
        provenance.check_grid(&path)?;
        let table = TableSchema::latents()?;
        let schema = table.arrow(provenance.tokens())?;
        Ok(LatentsWriter {
            store,
            path,
            name: name.clone(),
            provenance,
            table,
            schema,
            rows: Rows::default(),
            waiting: VecDeque::new(),
            file: None,
            written: 0,
            samples: 0,
            last_index: None,
            checksum: RowChecksum::default(),
        })
    }

    async fn push(&mut self, row: LatentRow) -> Result<(), TableError> {
        self.check(&row).map_err(|detail| TableError::Row {
            unit: self.name.unit.clone(),
            index: row.index,
            detail,
        })?;
        let text = row.key.len() + row.source.len() + row.caption.as_ref().map_or(0, String::len);
        if self.rows.keys.len() >= BATCH_ROWS || self.rows.text + text > BATCH_TEXT {
            self.flush_rows().await?;
        }
        self.checksum.add(&row.key, row.index, &row.tokens);
        self.samples += u64::from(self.last_index != Some(row.index));
        self.last_index = Some(row.index);
        self.written += 1;
        self.rows.push(row, text);
        Ok(())
    }

    fn samples(&self) -> u64 {
        self.samples
    }

    async fn finish(mut self, rejects: u64) -> Result<(FileInfo, u64), TableError> {
        self.flush_rows().await?;
        while !self.waiting.is_empty() {
            self.encode_first(false).await?;
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => self.open()?,
        };
        let info = FileInfo {
            provenance: (*self.provenance).clone(),
            file: self.name,
            rows: self.written,
            samples: self.samples,
            rejects,
            checksum: Some(self.checksum.finish()),
        };
        let bytes = file.finish(info.totals()).await?;
        Ok((info, bytes))
    }

    async fn abort(self) -> Result<(), TableError> {
        match self.file {
            Some(file) => file.abort().await,
            None => Ok(()),
        }
    }
}
