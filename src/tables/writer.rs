//! A Parquet file on its way into a store: encoded row group by row group, uploaded as it grows, visible only when whole.

use super::{TableError, seal};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// Bytes of one part of a multipart upload; a file below this size is uploaded in one request.
const PART: usize = 8 << 20;
/// Parts in flight per file, so that one file holds at most `PART * (PARTS_IN_FLIGHT + 1)` bytes besides its row group.
const PARTS_IN_FLIGHT: usize = 2;

/// An unfinished file. It appears under its name in one step, at the end of [`TableFile::finish`]; dropped before, it
/// leaves nothing (on object stores, call [`TableFile::abort`]: only that gives uploaded parts back).
pub(crate) struct TableFile {
    path: Path,
    encoder: ArrowWriter<Vec<u8>>,
    upload: BufWriter,
    digest: Sha256,
    bytes: u64,
}

/// Settings all tables share. The bytes depend on the rows alone: no version of this crate, no time, no host.
///
/// No column statistics: they would cost more than they save in files of one unit, which are read whole.
pub(crate) fn properties(metadata: Vec<KeyValue>) -> Result<WriterPropertiesBuilder, parquet::errors::ParquetError> {
    Ok(WriterProperties::builder()
        .set_created_by("imagebart".to_owned())
        .set_key_value_metadata(Some(metadata))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_statistics_enabled(EnabledStatistics::None)
        // Row groups are ended by the tables' writers.
        .set_max_row_group_row_count(None)
        .set_offset_index_disabled(true))
}

impl TableFile {
    pub fn create(
        store: Arc<dyn ObjectStore>,
        path: Path,
        schema: SchemaRef,
        properties: WriterProperties,
    ) -> Result<TableFile, TableError> {
        let encoder = ArrowWriter::try_new(Vec::new(), schema, Some(properties))
            .map_err(|error| TableError::parquet(&path, error))?;
        let upload = BufWriter::with_capacity(store, path.clone(), PART).with_max_concurrency(PARTS_IN_FLIGHT);
        Ok(TableFile { path, encoder, upload, digest: Sha256::new(), bytes: 0 })
    }

    /// Encodes a batch into the row group at hand.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), TableError> {
        self.encoder.write(batch).map_err(|error| TableError::parquet(&self.path, error))
    }

    /// Rows of the row group at hand.
    pub fn rows_in_group(&self) -> usize {
        self.encoder.in_progress_rows()
    }

    /// Bytes the row group at hand holds in memory.
    pub fn bytes_in_group(&self) -> usize {
        self.encoder.memory_size()
    }

    /// Ends the row group at hand, and sends it.
    pub async fn end_group(&mut self) -> Result<(), TableError> {
        self.encoder.flush().map_err(|error| TableError::parquet(&self.path, error))?;
        self.send().await
    }

    /// Writes the footer with `totals` and the seal, and commits the file. Returns its size in bytes.
    pub async fn finish(mut self, totals: Vec<KeyValue>) -> Result<u64, TableError> {
        if let Err(error) = self.write_footer(totals).await {
            // The error that stopped the file matters more than one of giving its parts back.
            let _ = self.abort().await;
            return Err(error);
        }
        // A completion that fails gives its parts back itself.
        let path = self.path.to_string();
        self.upload.shutdown().await.map_err(|source| TableError::Disk { path, source })?;
        Ok(self.bytes)
    }

    async fn write_footer(&mut self, totals: Vec<KeyValue>) -> Result<(), TableError> {
        self.end_group().await?;
        for entry in totals {
            self.encoder.append_key_value_metadata(entry);
        }
        self.encoder.append_key_value_metadata(seal::blank());
        self.encoder.finish().map_err(|error| TableError::parquet(&self.path, error))?;
        let mut tail = std::mem::take(self.encoder.inner_mut());
        if !seal::fill(self.digest.clone(), &mut tail) {
            return Err(TableError::format(&self.path, "the Parquet footer has no place for the seal"));
        }
        self.bytes += tail.len() as u64;
        self.upload.put(tail.into()).await.map_err(|error| TableError::store(&self.path, error))
    }

    /// Sends what the encoder has ready. Waits while too many parts are in flight.
    async fn send(&mut self) -> Result<(), TableError> {
        let ready = std::mem::take(self.encoder.inner_mut());
        if ready.is_empty() {
            return Ok(());
        }
        self.digest.update(&ready);
        self.bytes += ready.len() as u64;
        self.upload.put(ready.into()).await.map_err(|error| TableError::store(&self.path, error))
    }

    /// Gives up: nothing appears, and what was uploaded is given back.
    pub async fn abort(mut self) -> Result<(), TableError> {
        self.upload.abort().await.map_err(|error| TableError::store(&self.path, error))
    }
}
