//! The writer of the `latents` table: one file per work unit, its memory bounded whatever the unit's size.
//!
//! Tokens are most of a file, so their encoding is chosen for them, by codebook size and row count alone (see [`Layout`]).
//! The repetition levels of the token lists cost next to nothing because version 1 data pages compress them with the
//! values.

use super::identity::hex;
use super::writer::{TableFile, properties};
use super::{FileInfo, LatentRow, Provenance, TableError, TableSchema};
use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Int32Array, StringArray, StringDictionaryBuilder, StructArray,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::basic::Encoding;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Tokens of a full row group: 8192 rows of 16×16 grids, about 2.6 MB at 10 bits a token.
pub const ROW_GROUP_TOKENS: usize = 1 << 21;
/// Rows that are collected before they become Arrow arrays.
const BATCH_ROWS: usize = 1024;
/// Text bytes (keys, captions) that are collected before they become Arrow arrays.
const BATCH_TEXT: usize = 8 << 20;
/// Bytes of a data page of tokens.
const TOKEN_PAGE: usize = 1 << 20;
/// From how many tokens per codebook entry a dictionary pays: an entry costs about 16 bits in each row group, so that
/// the dictionary stays below 16/1024 bits per token.
const TOKENS_PER_ENTRY: u64 = 1024;

/// How the token column is encoded, before zstd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Bit-packed indexes into a dictionary: ⌈log2 K⌉ bits a token, plus the dictionary in every row group.
    Dictionary,
    /// The bytes of equal significance together: no dictionary to pay for. zstd then finds the few values of the high
    /// byte, and none of the two that are always zero.
    ByteStreamSplit,
}

impl Layout {
    /// The layout of a unit of `rows` rows of `tokens` tokens each, of a codebook of `codebook_size` entries.
    pub fn choose(codebook_size: u32, tokens: usize, rows: usize) -> Layout {
        let in_group = (rows.min(row_group_rows(tokens)) as u64).saturating_mul(tokens as u64);
        if in_group >= u64::from(codebook_size).saturating_mul(TOKENS_PER_ENTRY) {
            Layout::Dictionary
        } else {
            Layout::ByteStreamSplit
        }
    }

    fn properties(
        self,
        codebook_size: u32,
        tokens: usize,
        base: parquet::file::properties::WriterPropertiesBuilder,
    ) -> WriterProperties {
        let column = ColumnPath::new(["tokens", "list", "element"].map(str::to_owned).to_vec());
        let base = base
            .set_max_row_group_row_count(Some(row_group_rows(tokens)))
            .set_column_dictionary_enabled("key".into(), false)
            .set_column_dictionary_enabled("index".into(), false)
            .set_column_data_page_size_limit(column.clone(), TOKEN_PAGE);
        match self {
            // A dictionary that reaches its limit falls back to plain values of 13 to 19 bits: the limit is above all
            // K entries of 4 bytes.
            Layout::Dictionary => {
                base.set_column_dictionary_page_size_limit(column, (codebook_size as usize + 1).saturating_mul(4))
            }
            Layout::ByteStreamSplit => base
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::BYTE_STREAM_SPLIT),
        }
        .build()
    }
}

/// Rows of a full row group.
fn row_group_rows(tokens: usize) -> usize {
    (ROW_GROUP_TOKENS / tokens.max(1)).max(1)
}

/// The checksum of a unit's rows: SHA-256 over, for every row in order, the key's length (u64), the key, the index (u64)
/// and the tokens (u16), all little-endian. It depends on the rows alone, not on how Parquet encodes them.
#[derive(Clone, Debug, Default)]
pub struct RowChecksum {
    digest: Sha256,
    bytes: Vec<u8>,
}

impl RowChecksum {
    /// Adds the next row.
    pub fn add(&mut self, key: &str, index: u64, tokens: &[u16]) {
        self.digest.update((key.len() as u64).to_le_bytes());
        self.digest.update(key.as_bytes());
        self.digest.update(index.to_le_bytes());
        self.bytes.clear();
        self.bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        self.digest.update(&self.bytes);
    }

    /// The checksum in hex.
    pub fn finish(self) -> String {
        hex(&self.digest.finalize())
    }
}

/// Writes the latents of one work unit.
pub struct LatentsWriter {
    store: Arc<dyn ObjectStore>,
    path: Path,
    unit: String,
    provenance: Arc<Provenance>,
    table: TableSchema,
    schema: SchemaRef,
    rows: Rows,
    state: State,
    written: u64,
    samples: u64,
    last_index: Option<u64>,
    checksum: RowChecksum,
}

enum State {
    /// The layout is not yet known: it depends on how many rows follow.
    Waiting(Vec<RecordBatch>),
    Writing(Box<TableFile>),
}

impl LatentsWriter {
    /// A writer of the file at `path`, for the unit named `unit`. Nothing is written before [`LatentsWriter::finish`]
    /// succeeds.
    pub fn create(
        store: Arc<dyn ObjectStore>,
        path: Path,
        unit: &str,
        provenance: Arc<Provenance>,
    ) -> Result<LatentsWriter, TableError> {
        let tokens = provenance.tokens();
        if tokens == 0 || provenance.codebook_size == 0 || provenance.codebook_size > 1 << 16 {
            let (height, width) = provenance.grid;
            let detail =
                format!("a {height}x{width} grid over {} codes cannot be stored as u16", provenance.codebook_size);
            return Err(TableError::format(&path, detail));
        }
        let table = TableSchema::latents()?;
        let schema = table.arrow(tokens)?;
        Ok(LatentsWriter {
            store,
            path,
            unit: unit.to_owned(),
            provenance,
            table,
            schema,
            rows: Rows::default(),
            state: State::Waiting(Vec::new()),
            written: 0,
            samples: 0,
            last_index: None,
            checksum: RowChecksum::default(),
        })
    }

    /// Adds the next row. Rows come in the order of their `index`.
    pub async fn push(&mut self, row: LatentRow) -> Result<(), TableError> {
        self.check(&row).map_err(|detail| TableError::Row { unit: self.unit.clone(), index: row.index, detail })?;
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

    /// Turns the collected rows into a batch, and decides the layout as soon as it is certain.
    async fn flush_rows(&mut self) -> Result<(), TableError> {
        if self.rows.keys.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let batch = rows.into_batch(&self.schema).map_err(|error| TableError::parquet(&self.path, error))?;
        match &mut self.state {
            State::Writing(file) => file.write(&batch).await,
            State::Waiting(batches) => {
                batches.push(batch);
                let (tokens, rows) = (self.provenance.tokens(), batches.iter().map(RecordBatch::num_rows).sum());
                let certain = rows >= row_group_rows(tokens)
                    || Layout::choose(self.provenance.codebook_size, tokens, rows) == Layout::Dictionary;
                if certain { self.start(rows).await } else { Ok(()) }
            }
        }
    }

    /// Opens the file for a unit of `rows` rows or more, and writes what waited.
    async fn start(&mut self, rows: usize) -> Result<(), TableError> {
        let State::Waiting(batches) = &mut self.state else { return Ok(()) };
        let batches = std::mem::take(batches);
        let (tokens, codes) = (self.provenance.tokens(), self.provenance.codebook_size);
        let base = properties(self.provenance.to_metadata(&self.table, &self.unit))
            .map_err(|error| TableError::parquet(&self.path, error))?;
        let properties = Layout::choose(codes, tokens, rows).properties(codes, tokens, base);
        let file = TableFile::create(self.store.clone(), self.path.clone(), self.schema.clone(), properties)?;
        self.state = State::Writing(Box::new(file));
        for batch in batches {
            if let State::Writing(file) = &mut self.state {
                file.write(&batch).await?;
            }
        }
        Ok(())
    }

    /// Distinct samples among the rows so far.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Commits the file, of a unit with `rejects` rejects, in one atomic step. Returns what it holds and its size in bytes.
    pub async fn finish(mut self, rejects: u64) -> Result<(FileInfo, u64), TableError> {
        self.flush_rows().await?;
        if let State::Waiting(batches) = &self.state {
            let rows = batches.iter().map(RecordBatch::num_rows).sum();
            self.start(rows).await?;
        }
        let info = FileInfo {
            provenance: (*self.provenance).clone(),
            unit: self.unit,
            rows: self.written,
            samples: self.samples,
            rejects,
            checksum: Some(self.checksum.finish()),
        };
        match self.state {
            State::Writing(file) => Ok((info.clone(), file.finish(info.totals()).await?)),
            State::Waiting(_) => Err(TableError::format(&self.path, "the file was never opened")),
        }
    }

    /// Gives up: nothing appears under the file's name, and what was uploaded is given back.
    pub async fn abort(self) -> Result<(), TableError> {
        match self.state {
            State::Writing(file) => file.abort().await,
            State::Waiting(_) => Ok(()),
        }
    }
}

/// Rows that are not yet Arrow arrays, column by column.
#[derive(Default)]
struct Rows {
    keys: Vec<String>,
    sources: Vec<String>,
    indexes: Vec<u64>,
    labels: Vec<Option<i32>>,
    captions: Vec<Option<String>>,
    sizes: Vec<(u32, u32)>,
    crops: Vec<super::CropRect>,
    flipped: Vec<bool>,
    tokens: Vec<u16>,
    text: usize,
}

impl Rows {
    fn push(&mut self, row: LatentRow, text: usize) {
        self.text += text;
        self.keys.push(row.key);
        self.sources.push(row.source);
        self.indexes.push(row.index);
        self.labels.push(row.label);
        self.captions.push(row.caption);
        self.sizes.push((row.width, row.height));
        self.crops.push(row.crop);
        self.flipped.push(row.flipped);
        self.tokens.extend(row.tokens);
    }

    /// The rows as a batch of `schema`, whose columns are found by name.
    fn into_batch(mut self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let columns: Result<Vec<ArrayRef>, ArrowError> =
            schema.fields().iter().map(|field| self.column(field)).collect();
        RecordBatch::try_new(schema.clone(), columns?)
    }

    fn column(&mut self, field: &Field) -> Result<ArrayRef, ArrowError> {
        Ok(match field.name().as_str() {
            "key" => Arc::new(StringArray::from_iter_values(&self.keys)),
            "source" => {
                let mut sources = StringDictionaryBuilder::<Int32Type>::new();
                for source in &self.sources {
                    sources.append(source)?;
                }
                Arc::new(sources.finish())
            }
            "index" => Arc::new(UInt64Array::from(std::mem::take(&mut self.indexes))),
            "label" => Arc::new(Int32Array::from(std::mem::take(&mut self.labels))),
            "caption" => Arc::new(StringArray::from_iter(self.captions.iter().map(Option::as_deref))),
            "width" => Arc::new(UInt32Array::from_iter_values(self.sizes.iter().map(|size| size.0))),
            "height" => Arc::new(UInt32Array::from_iter_values(self.sizes.iter().map(|size| size.1))),
            "crop" => self.crop_column(field)?,
            "flipped" => Arc::new(BooleanArray::from(std::mem::take(&mut self.flipped))),
            "tokens" => match field.data_type() {
                DataType::FixedSizeList(item, length) => {
                    let values = Arc::new(UInt16Array::from(std::mem::take(&mut self.tokens)));
                    Arc::new(FixedSizeListArray::try_new(item.clone(), *length, values, None)?)
                }
                other => return Err(ArrowError::SchemaError(format!("tokens of type {other}"))),
            },
            other => return Err(unknown(other)),
        })
    }

    fn crop_column(&self, field: &Field) -> Result<ArrayRef, ArrowError> {
        let DataType::Struct(parts) = field.data_type() else {
            return Err(ArrowError::SchemaError(format!("crop of type {}", field.data_type())));
        };
        let arrays: Result<Vec<ArrayRef>, ArrowError> = parts
            .iter()
            .map(|part| -> Result<ArrayRef, ArrowError> {
                let values: UInt32Array = match part.name().as_str() {
                    "x" => self.crops.iter().map(|crop| Some(crop.x)).collect(),
                    "y" => self.crops.iter().map(|crop| Some(crop.y)).collect(),
                    "size" => self.crops.iter().map(|crop| Some(crop.size)).collect(),
                    other => return Err(unknown(other)),
                };
                Ok(Arc::new(values))
            })
            .collect();
        Ok(Arc::new(StructArray::try_new(parts.clone(), arrays?, None)?))
    }
}

fn unknown(column: &str) -> ArrowError {
    ArrowError::SchemaError(format!("schemas/latents.json has the column {column}, which no row has"))
}
