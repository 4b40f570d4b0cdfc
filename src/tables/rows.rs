//! Rows of latents on their way to Arrow, column by column.

use super::{CropRect, LatentRow};
use crate::digest::hex;
use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Int32Array, StringArray, StringDictionaryBuilder, StructArray,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use sha2::{Digest, Sha256};
use std::sync::Arc;

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

/// Rows that are not yet Arrow arrays, column by column.
#[derive(Default)]
pub(crate) struct Rows {
    pub keys: Vec<String>,
    sources: Vec<String>,
    indexes: Vec<u64>,
    labels: Vec<Option<i32>>,
    captions: Vec<Option<String>>,
    sizes: Vec<(u32, u32)>,
    crops: Vec<CropRect>,
    flipped: Vec<bool>,
    tokens: Vec<u16>,
    /// Bytes of text among them.
    pub text: usize,
}

impl Rows {
    /// Adds a row with `text` bytes of text.
    pub fn push(&mut self, row: LatentRow, text: usize) {
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
    pub fn into_batch(mut self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
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
