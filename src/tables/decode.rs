//! Arrow batches of the tables back to rows.

use super::{CropRect, ImageFile, LatentRow, RowSettings, SampleRow};
use crate::reject::{Reason, Reject};
use arrow::array::{Array, ArrowPrimitiveType, AsArray, FixedSizeListArray, RecordBatch, UInt16Array};
use arrow::datatypes::{Float32Type, Int32Type, UInt16Type, UInt32Type, UInt64Type};
use bytes::Bytes;
use std::sync::Arc;

/// The token column of a batch.
pub struct TokenColumn<'a> {
    lists: &'a FixedSizeListArray,
    values: &'a UInt16Array,
    length: usize,
}

impl<'a> TokenColumn<'a> {
    /// That of a batch of latents or samples; none where it has none.
    pub fn of(batch: &'a RecordBatch) -> Option<TokenColumn<'a>> {
        let lists = batch.column_by_name("tokens")?.as_fixed_size_list_opt()?;
        let length = usize::try_from(lists.value_length()).ok()?;
        Some(TokenColumn { lists, values: lists.values().as_primitive_opt::<UInt16Type>()?, length })
    }

    /// The tokens of a row, `[h * w]`; none where there is no such row.
    pub fn row(&self, row: usize) -> Option<Vec<u16>> {
        if row >= self.lists.len() {
            return None;
        }
        let start = self.lists.value_offset_at(row);
        Some(self.values.values().get(start..start.checked_add(self.length)?)?.to_vec())
    }
}

/// The rows of a batch of latents; none when it is none.
pub(crate) fn latent_rows(batch: &RecordBatch) -> Option<Vec<LatentRow>> {
    let column = |name: &str| batch.column_by_name(name);
    let keys = column("key")?.as_string_opt::<i32>()?;
    let sources = strings(column("source")?)?;
    let indexes = column("index")?.as_primitive_opt::<UInt64Type>()?;
    let labels = column("label")?.as_primitive_opt::<Int32Type>()?;
    let captions = column("caption")?.as_string_opt::<i32>()?;
    let widths = column("width")?.as_primitive_opt::<UInt32Type>()?;
    let heights = column("height")?.as_primitive_opt::<UInt32Type>()?;
    let crop = column("crop")?.as_struct_opt()?;
    let part = |name: &str| crop.column_by_name(name)?.as_primitive_opt::<UInt32Type>();
    let (xs, ys, sizes) = (part("x")?, part("y")?, part("size")?);
    let flipped = column("flipped")?.as_boolean_opt()?;
    let tokens = TokenColumn::of(batch)?;
    (0..batch.num_rows())
        .map(|row| {
            Some(LatentRow {
                key: keys.value(row).to_owned(),
                source: sources.get(row)?.clone(),
                index: indexes.value(row),
                label: labels.is_valid(row).then(|| labels.value(row)),
                caption: captions.is_valid(row).then(|| captions.value(row).to_owned()),
                width: widths.value(row),
                height: heights.value(row),
                crop: CropRect { x: xs.value(row), y: ys.value(row), size: sizes.value(row) },
                flipped: flipped.value(row),
                tokens: tokens.row(row)?,
            })
        })
        .collect()
}

/// The rows of a batch of rejects; none when it is none, or has a stage or reason unknown to this version.
pub(crate) fn reject_rows(batch: &RecordBatch) -> Option<Vec<Reject>> {
    let column = |name: &str| batch.column_by_name(name);
    let keys = column("key")?.as_string_opt::<i32>()?;
    let messages = column("message")?.as_string_opt::<i32>()?;
    let indexes = column("index")?.as_primitive_opt::<UInt64Type>()?;
    let (sources, units) = (strings(column("source")?)?, strings(column("unit")?)?);
    let (stages, reasons) = (strings(column("stage")?)?, strings(column("reason")?)?);
    (0..batch.num_rows())
        .map(|row| {
            let stage = stages.get(row)?;
            Some(Reject {
                source: sources.get(row)?.clone(),
                key: keys.value(row).to_owned(),
                index: indexes.value(row),
                unit: units.get(row)?.clone(),
                stage: crate::reject::STAGES.into_iter().find(|known| known == stage)?,
                reason: Reason::ALL.into_iter().find(|known| known.code() == reasons[row])?,
                message: messages.value(row).to_owned(),
            })
        })
        .collect()
}

/// The values of a dictionary column of strings.
fn strings(column: &Arc<dyn Array>) -> Option<Vec<String>> {
    let column = column.as_dictionary_opt::<Int32Type>()?;
    let values = column.downcast_dict::<arrow::array::StringArray>()?;
    values.into_iter().map(|value| value.map(str::to_owned)).collect()
}

/// The rows of a batch of samples; none when it is none.
pub(crate) fn sample_rows(batch: &RecordBatch) -> Option<Vec<SampleRow>> {
    let column = |name: &str| batch.column_by_name(name);
    let text = |name: &str| column(name)?.as_string_opt::<i32>();
    let (keys, prompts, parents) = (text("key")?, text("prompt")?, text("parent")?);
    let labels = column("label")?.as_primitive_opt::<Int32Type>()?;
    let seeds = column("seed")?.as_primitive_opt::<UInt64Type>()?;
    let scores = column("score")?.as_primitive_opt::<Float32Type>()?;
    let ranks = column("rank")?.as_primitive_opt::<UInt32Type>()?;
    let accepted = column("accepted")?.as_boolean_opt()?;
    let image = column("image")?.as_struct_opt()?;
    let files = image.column_by_name("bytes")?.as_binary_opt::<i32>()?;
    let paths = image.column_by_name("path")?.as_string_opt::<i32>()?;
    let tokens = TokenColumn::of(batch)?;
    (0..batch.num_rows())
        .map(|row| {
            Some(SampleRow {
                key: keys.value(row).to_owned(),
                prompt: prompts.is_valid(row).then(|| prompts.value(row).to_owned()),
                label: labels.is_valid(row).then(|| labels.value(row)),
                seed: seeds.value(row),
                tokens: tokens.row(row)?,
                image: ImageFile { bytes: Bytes::copy_from_slice(files.value(row)), path: paths.value(row).to_owned() },
                score: scores.is_valid(row).then(|| scores.value(row)),
                rank: ranks.is_valid(row).then(|| ranks.value(row)),
                accepted: accepted.value(row),
                parent: parents.is_valid(row).then(|| parents.value(row).to_owned()),
                settings: Arc::new(RowSettings {
                    temperature: list::<Float32Type>(batch, "temperature", row)?,
                    top_k: list::<UInt32Type>(batch, "top_k", row)?,
                    top_p: list::<Float32Type>(batch, "top_p", row)?,
                    guidance: list::<Float32Type>(batch, "guidance", row)?,
                }),
            })
        })
        .collect()
}

fn list<P: ArrowPrimitiveType>(batch: &RecordBatch, name: &str, row: usize) -> Option<Vec<P::Native>> {
    let lists = batch.column_by_name(name)?.as_list_opt::<i32>()?;
    Some(lists.value(row).as_primitive_opt::<P>()?.values().to_vec())
}
