//! The writer of the `samples` table: one file per work unit, its row groups bounded by the bytes of their images.

use super::layout::{Layout, row_group_rows};
use super::rows::RowChecksum;
use super::run::{RowsWriter, Run};
use super::writer::{TableFile, properties};
use super::{FileInfo, Provenance, RowSettings, SampleRow, SamplesIdentity, TableError, TableSchema, UnitFile};
use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array, Float32Builder, Int32Array,
    ListBuilder, PrimitiveBuilder, StringArray, StructArray, UInt16Array, UInt32Array, UInt32Builder, UInt64Array,
};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::schema::types::ColumnPath;
use std::collections::HashMap;
use std::sync::Arc;

/// Image bytes of a full row group. Small enough that a reader may hold a few, large enough for one range request each.
const GROUP_BYTES: usize = 32 << 20;
/// Rows that are looked at before a page may end: a page of images stays at a few MB.
const PAGE_ROWS: usize = 16;
/// Tells Hugging Face `datasets` that the column `image` holds image files.
const HUGGINGFACE: (&str, &str) = ("huggingface", r#"{"info": {"features": {"image": {"_type": "Image"}}}}"#);

/// Writes the samples of one work unit.
pub struct SamplesWriter {
    store: Arc<dyn ObjectStore>,
    path: Path,
    name: UnitFile,
    provenance: Arc<Provenance<SamplesIdentity>>,
    schema: SchemaRef,
    /// The row group at hand.
    rows: Vec<SampleRow>,
    bytes: usize,
    file: Option<TableFile>,
    written: u64,
    checksum: RowChecksum,
}

impl SamplesWriter {
    fn check(&self, row: &SampleRow) -> Result<(), String> {
        let (tokens, codes) = (self.provenance.tokens(), self.provenance.codebook_size);
        if row.tokens.len() != tokens {
            return Err(format!("{} tokens where the grid has {tokens}", row.tokens.len()));
        }
        if let Some(token) = row.tokens.iter().find(|&&token| u32::from(token) >= codes) {
            return Err(format!("token {token} is not below the codebook size {codes}"));
        }
        match row.image.bytes.is_empty() {
            true => Err("has no image".to_owned()),
            false => Ok(()),
        }
    }

    /// Writes the row group at hand.
    async fn end_group(&mut self) -> Result<(), TableError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let columns: Result<Vec<ArrayRef>, ArrowError> =
            self.schema.fields().iter().map(|field| column(&rows, field)).collect();
        let batch = columns
            .and_then(|columns| RecordBatch::try_new(self.schema.clone(), columns))
            .map_err(|error| TableError::parquet(&self.path, error))?;
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.open(rows.len())?,
        };
        let written = match file.write(&batch) {
            Ok(()) => file.end_group().await,
            error => error,
        };
        self.file = Some(file);
        written
    }

    /// Opens the file of a unit whose first row group has `rows` rows.
    fn open(&self, rows: usize) -> Result<TableFile, TableError> {
        let (tokens, codes) = (self.provenance.tokens(), self.provenance.codebook_size);
        let mut metadata = self.provenance.to_metadata(&SamplesIdentity::schema()?, &self.name);
        metadata.push(KeyValue::new(HUGGINGFACE.0.to_owned(), HUGGINGFACE.1.to_owned()));
        let bytes = ColumnPath::new(vec!["image".to_owned(), "bytes".to_owned()]);
        let path = ColumnPath::new(vec!["image".to_owned(), "path".to_owned()]);
        let properties = properties(metadata)
            // PNG is compressed already, and every file and name is its own.
            .map(|base| {
                base.set_column_compression(bytes.clone(), Compression::UNCOMPRESSED)
                    .set_column_dictionary_enabled(bytes, false)
                    .set_column_dictionary_enabled(path, false)
                    .set_write_batch_size(PAGE_ROWS)
            })
            .and_then(|base| Layout::choose(codes, tokens, rows).properties(codes, base))
            .map_err(|error| TableError::parquet(&self.path, error))?;
        TableFile::create(self.store.clone(), self.path.clone(), self.schema.clone(), properties)
    }
}

impl RowsWriter<SamplesIdentity> for SamplesWriter {
    fn create(
        store: Arc<dyn ObjectStore>,
        path: Path,
        name: &UnitFile,
        provenance: Arc<Provenance<SamplesIdentity>>,
    ) -> Result<SamplesWriter, TableError> {
        provenance.check_grid(&path)?;
        let schema = TableSchema::samples()?.arrow(provenance.tokens())?;
        // pyarrow, which `datasets` reads with, takes this from the Arrow schema where the file holds one.
        let metadata = HashMap::from([(HUGGINGFACE.0.to_owned(), HUGGINGFACE.1.to_owned())]);
        let schema = Arc::new(schema.as_ref().clone().with_metadata(metadata));
        Ok(SamplesWriter {
            store,
            path,
            name: name.clone(),
            provenance,
            schema,
            rows: Vec::new(),
            bytes: 0,
            file: None,
            written: 0,
            checksum: RowChecksum::default(),
        })
    }

    async fn push(&mut self, row: SampleRow) -> Result<(), TableError> {
        let index = self.written;
        self.check(&row).map_err(|detail| TableError::Row { unit: self.name.unit.clone(), index, detail })?;
        let bytes = row.image.bytes.len() + row.prompt.as_ref().map_or(0, String::len);
        let full = self.bytes.saturating_add(bytes) > GROUP_BYTES
            || self.rows.len() >= row_group_rows(self.provenance.tokens());
        if full && !self.rows.is_empty() {
            self.end_group().await?;
        }
        self.checksum.add(&row.key, index, &row.tokens);
        self.written += 1;
        self.bytes += bytes;
        self.rows.push(row);
        Ok(())
    }

    fn samples(&self) -> u64 {
        self.written
    }

    async fn finish(mut self, rejects: u64) -> Result<(FileInfo<SamplesIdentity>, u64), TableError> {
        if !self.rows.is_empty() {
            self.end_group().await?;
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => self.open(0)?,
        };
        let info = FileInfo {
            provenance: (*self.provenance).clone(),
            file: self.name,
            rows: self.written,
            samples: self.written,
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

/// The column of `rows` that `field` names.
fn column(rows: &[SampleRow], field: &Field) -> Result<ArrayRef, ArrowError> {
    Ok(match field.name().as_str() {
        "key" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.key))),
        "prompt" => Arc::new(StringArray::from_iter(rows.iter().map(|row| row.prompt.as_deref()))),
        "label" => Arc::new(Int32Array::from_iter(rows.iter().map(|row| row.label))),
        "seed" => Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.seed))),
        "tokens" => match field.data_type() {
            DataType::FixedSizeList(item, length) => {
                let values = UInt16Array::from_iter_values(rows.iter().flat_map(|row| row.tokens.iter().copied()));
                Arc::new(FixedSizeListArray::try_new(item.clone(), *length, Arc::new(values), None)?)
            }
            other => return Err(ArrowError::SchemaError(format!("tokens of type {other}"))),
        },
        "image" => image_column(rows, field)?,
        "score" => Arc::new(Float32Array::from_iter(rows.iter().map(|row| row.score))),
        "rank" => Arc::new(UInt32Array::from_iter(rows.iter().map(|row| row.rank))),
        "accepted" => Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.accepted)))),
        "parent" => Arc::new(StringArray::from_iter(rows.iter().map(|row| row.parent.as_deref()))),
        "temperature" => lists(rows, field, Float32Builder::new(), |settings| &settings.temperature)?,
        "top_k" => lists(rows, field, UInt32Builder::new(), |settings| &settings.top_k)?,
        "top_p" => lists(rows, field, Float32Builder::new(), |settings| &settings.top_p)?,
        "guidance" => lists(rows, field, Float32Builder::new(), |settings| &settings.guidance)?,
        other => return Err(unknown(other)),
    })
}

fn image_column(rows: &[SampleRow], field: &Field) -> Result<ArrayRef, ArrowError> {
    let DataType::Struct(parts) = field.data_type() else {
        return Err(ArrowError::SchemaError(format!("image of type {}", field.data_type())));
    };
    let arrays: Result<Vec<ArrayRef>, ArrowError> = parts
        .iter()
        .map(|part| -> Result<ArrayRef, ArrowError> {
            Ok(match part.name().as_str() {
                "bytes" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| &row.image.bytes))),
                "path" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.image.path))),
                other => return Err(unknown(other)),
            })
        })
        .collect();
    Ok(Arc::new(StructArray::try_new(parts.clone(), arrays?, None)?))
}

/// A column with a number for each scale.
fn lists<P: ArrowPrimitiveType>(
    rows: &[SampleRow],
    field: &Field,
    values: PrimitiveBuilder<P>,
    of: impl Fn(&RowSettings) -> &Vec<P::Native>,
) -> Result<ArrayRef, ArrowError>
where
    PrimitiveBuilder<P>: ArrayBuilder,
{
    let DataType::List(item) = field.data_type() else {
        return Err(ArrowError::SchemaError(format!("{} of type {}", field.name(), field.data_type())));
    };
    let mut builder = ListBuilder::new(values).with_field(item.clone());
    for row in rows {
        builder.values().append_slice(of(&row.settings));
        builder.append(true);
    }
    Ok(Arc::new(builder.finish()))
}

fn unknown(column: &str) -> ArrowError {
    ArrowError::SchemaError(format!("schemas/samples.json has the column {column}, which no row has"))
}
