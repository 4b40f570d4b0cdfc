//! Which columns of a Parquet file are read, and what a row of them is (FORMATS §4, §5, §6).

use super::fields::{self, Problem, readable};
use super::lend::{Chunk, Lender};
use super::open::{Captions, DatasetOptions};
use super::parquet::Table;
use super::parquet_source::block_limit;
use super::range_reader::Object;
use crate::config::nearest;
use crate::reject::Reason;
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, Int64Array, RecordBatch};
use arrow::buffer::Buffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::file::metadata::ParquetMetaData;
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;

/// The columns that are read, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Columns {
    /// Bytes, or a struct of `bytes` and perhaps `path`.
    pub(super) image: String,
    pub(super) label: Option<String>,
    pub(super) caption: Option<String>,
    pub(super) key: Option<String>,
    pub(super) status: Option<String>,
    /// Width and height before img2dataset's scaling.
    pub(super) original: Option<[String; 2]>,
    /// An edit's mask: as the image.
    pub(super) mask: Option<String>,
    /// The names of the classes, where the file tells them.
    pub(super) classes: Vec<String>,
}

/// A row: a sample's parts, what is wrong with it, or one that img2dataset says it failed to make.
#[derive(Debug)]
pub(super) enum Row {
    Sample {
        key: Option<String>,
        image: Bytes,
        label: Option<i32>,
        caption: Option<String>,
        original: Option<(u32, u32)>,
        /// None where none is wanted, or it is null.
        mask: Option<Bytes>,
    },
    Bad {
        key: Option<String>,
        problem: Problem,
    },
    Failed {
        status: String,
    },
}

/// The features that `datasets` notes in the file's metadata.
fn features(metadata: &ParquetMetaData) -> Value {
    let pairs = metadata.file_metadata().key_value_metadata().map(Vec::as_slice).unwrap_or_default();
    let text = pairs.iter().find(|pair| pair.key == "huggingface").and_then(|pair| pair.value.as_deref());
    let value: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
    value.and_then(|mut value| value.pointer_mut("/info/features").map(Value::take)).unwrap_or(Value::Null)
}

fn is_bytes(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_image(kind: &DataType) -> bool {
    match kind {
        DataType::Struct(fields) => fields.find("bytes").is_some_and(|(_, field)| is_bytes(field.data_type())),
        other => is_bytes(other),
    }
}

/// A file's schema with views in place of bytes: such columns are parts of their pages, where others are copies.
pub(super) fn with_views(schema: &Schema) -> SchemaRef {
    fn views(field: &FieldRef) -> FieldRef {
        let kind = match field.data_type() {
            DataType::Binary => DataType::BinaryView,
            DataType::Struct(fields) => DataType::Struct(fields.iter().map(views).collect()),
            other => other.clone(),
        };
        Arc::new(Field::clone(field).with_data_type(kind))
    }
    let fields: Fields = schema.fields().iter().map(views).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

impl Columns {
    /// The columns of a file, or the end of a sentence that says what is missing.
    pub(super) fn find(
        table: Table,
        schema: &Schema,
        metadata: &ParquetMetaData,
        options: &DatasetOptions,
    ) -> Result<Columns, String> {
        let features = features(metadata);
        let typed = |kind: &str| -> Vec<&str> {
            let all = features.as_object().into_iter().flatten();
            all.filter(|(_, feature)| feature["_type"] == kind).map(|(name, _)| name.as_str()).collect()
        };
        let has = |name: &str, fits: &dyn Fn(&DataType) -> bool| {
            schema.fields().find(name).is_some_and(|(_, field)| fits(field.data_type()))
        };
        let first = |names: &[&str], fits: &dyn Fn(&DataType) -> bool| {
            names.iter().find(|name| has(name, fits)).map(|name| (*name).to_owned())
        };
        let images = [&fields::IMAGES[..], &["img"], &typed("Image")].concat();
        let structs: Vec<&str> = schema
            .fields()
            .iter()
            .filter(|field| field.data_type().is_nested())
            .map(|field| field.name().as_str())
            .collect();
        let image = first(&images, &is_image).or_else(|| first(&structs, &is_image));
        let image = image.ok_or_else(|| lacks_image(table, schema.fields()))?;
        let mut labels = fields::label_names(options).to_vec();
        if !labels.is_empty() {
            labels.extend(typed("ClassLabel"));
        }
        let label = first(&labels, &|kind: &DataType| kind.is_integer() || is_text(kind));
        let caption = first(&fields::caption_names(options), &is_text);
        if let (Captions::Json(name), None) = (&options.captions, &caption) {
            return Err(format!("it has no column {name} of text, which dataset.captions names"));
        }
        let names = label.as_ref().and_then(|label| features[label.as_str()]["names"].as_array());
        let classes = names.into_iter().flatten().map(|name| name.as_str().unwrap_or_default().to_owned()).collect();
        let (key, status) = match table {
            Table::Img2dataset => (first(&["key"], &is_text), first(&["status"], &is_text)),
            Table::HuggingFace => (first(&fields::KEYS, &is_text), None),
        };
        let sizes = fields::ORIGINAL.map(|name| first(&[name], &|kind: &DataType| kind.is_integer()));
        let original = match sizes {
            [Some(width), Some(height)] if options.original_sizes => Some([width, height]),
            _ => None,
        };
        Ok(Columns { image, label, caption, key, status, original, mask: None, classes })
    }

    /// The columns `image` and, if `masked`, `mask`, or the end of a sentence that says which is missing.
    pub(super) fn pair([image, mask]: [&str; 2], masked: bool, schema: &Schema) -> Result<Columns, String> {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let column = |name: &str| match schema.fields().find(name) {
            Some((_, field)) if is_image(field.data_type()) => Ok(name.to_owned()),
            Some((_, field)) => Err(format!(
                "its column `{name}` is of the type {}, neither bytes nor a struct with bytes",
                field.data_type()
            )),
            None => {
                let hint = nearest(name, names.iter().copied());
                let hint = hint.map_or(String::new(), |near| format!("; is it `{near}`?"));
                Err(format!("it has no column `{name}` among {}{hint}", names.join(", ")))
            }
        };
        let mask = masked.then(|| column(mask)).transpose()?;
        Ok(Columns { image: column(image)?, mask, ..Columns::default() })
    }

    /// All of them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let others = [&self.label, &self.caption, &self.key, &self.status, &self.mask];
        let others = others.into_iter().flatten().chain(self.original.iter().flatten());
        [self.image.as_str()].into_iter().chain(others.map(String::as_str))
    }

    /// The rows of a batch; their images are parts of its pages as far as these may be lent.
    pub(super) fn rows(
        &self,
        batch: &RecordBatch,
        options: &DatasetOptions,
        pages: &mut Pages,
    ) -> Result<Vec<Row>, ArrowError> {
        let parts = Parts::new(self, batch)?;
        pages.turn(&parts.image.bytes);
        Ok((0..batch.num_rows()).map(|row| parts.row(row, self, options, pages)).collect())
    }
}

fn lacks_image(table: Table, fields: &Fields) -> String {
    let names: Vec<&str> = fields.iter().take(20).map(|field| field.name().as_str()).collect();
    let hint = match table {
        Table::Img2dataset => {
            "; the tables that lie beside img2dataset's tar shards hold none: use format = \"webdataset\""
        }
        Table::HuggingFace => "",
    };
    format!("it has no column of images (bytes, or a struct with bytes) among {}{hint}", names.join(", "))
}

/// The pages that the images of a batch are parts of. A page may go on in the next batch.
pub(super) struct Pages {
    pages: Vec<(Buffer, Chunk)>,
    lender: Lender,
    /// What a page may keep in memory that is smaller.
    block: usize,
}

impl Pages {
    /// Those of a file; none so far.
    pub(super) fn new(object: &Object) -> Pages {
        let block = block_limit(object.read_ahead().chunk);
        Pages {
            pages: Vec::new(),
            lender: object.lender().clone(),
            block: usize::try_from(block).unwrap_or(usize::MAX),
        }
    }

    /// Turns to those of the next batch.
    fn turn(&mut self, images: &BinaryViewArray) {
        let mut before = std::mem::take(&mut self.pages);
        for page in images.data_buffers().iter() {
            let known = before.iter().position(|(known, _)| known.ptr_eq(page)).map(|at| before.swap_remove(at));
            let new = || (page.clone(), Chunk::within(Bytes::from_owner(page.clone()), self.block));
            self.pages.push(known.unwrap_or_else(new));
        }
    }

    /// An image of the batch: in place, as far as may be lent.
    fn image(&mut self, image: &[u8]) -> Bytes {
        let found = self.pages.iter_mut().find_map(|(_, page)| place(page.rest(), image).map(|place| (page, place)));
        match found {
            Some((page, place)) => page.part(place, &self.lender),
            // A few bytes lie in the view itself.
            None => Bytes::copy_from_slice(image),
        }
    }
}

/// A column of encoded images.
struct Encoded {
    bytes: BinaryViewArray,
    /// Where the struct itself is null.
    nulls: Option<ArrayRef>,
    /// The struct's other part.
    path: Option<ArrayRef>,
}

impl Encoded {
    fn new(name: &str, batch: &RecordBatch) -> Result<Encoded, ArrowError> {
        let missing = || ArrowError::SchemaError(format!("the column {name} is not there"));
        let column = batch.column_by_name(name).ok_or_else(missing)?;
        let (bytes, path, nulls) = match column.as_struct_opt() {
            Some(both) => {
                (both.column_by_name("bytes").ok_or_else(missing)?, both.column_by_name("path"), Some(column))
            }
            None => (column, None, None),
        };
        let path = path.filter(|path| is_text(path.data_type())).cloned();
        Ok(Encoded { bytes: cast(bytes, &DataType::BinaryView)?.as_binary_view().clone(), nulls: nulls.cloned(), path })
    }

    /// Whether the row has bytes.
    fn has(&self, row: usize) -> bool {
        self.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) && self.bytes.is_valid(row)
    }
}

/// A batch's columns, of known types.
struct Parts {
    image: Encoded,
    mask: Option<Encoded>,
    path: Option<BinaryArray>,
    label: Option<Int64Array>,
    caption: Option<BinaryArray>,
    key: Option<BinaryArray>,
    status: Option<BinaryArray>,
    original: Option<[Int64Array; 2]>,
}

impl Parts {
    fn new(columns: &Columns, batch: &RecordBatch) -> Result<Parts, ArrowError> {
        let binary = |array: &ArrayRef| Ok::<_, ArrowError>(cast(array, &DataType::Binary)?.as_binary::<i32>().clone());
        let named = |name: &Option<String>| name.as_ref().and_then(|name| batch.column_by_name(name));
        let text = |name| named(name).map(binary).transpose();
        let image = Encoded::new(&columns.image, batch)?;
        let integers = |array: &ArrayRef| Ok::<_, ArrowError>(cast(array, &DataType::Int64)?.as_primitive().clone());
        let label = named(&columns.label).map(integers).transpose()?;
        let original = match &columns.original {
            Some(names) => names.each_ref().map(|name| batch.column_by_name(name)),
            None => [None, None],
        };
        let original = match original {
            [Some(width), Some(height)] => Some([integers(width)?, integers(height)?]),
            _ => None,
        };
        Ok(Parts {
            path: image.path.as_ref().map(binary).transpose()?,
            image,
            mask: columns.mask.as_ref().map(|mask| Encoded::new(mask, batch)).transpose()?,
            label,
            caption: text(&columns.caption)?,
            key: text(&columns.key)?,
            status: text(&columns.status)?,
            original,
        })
    }

    fn row(&self, row: usize, columns: &Columns, options: &DatasetOptions, pages: &mut Pages) -> Row {
        if let Some(status) = value(&self.status, row).filter(|status| *status != b"success") {
            return Row::Failed { status: readable(status) };
        }
        let key = value(&self.key, row).or_else(|| value(&self.path, row)).filter(|key| !key.is_empty()).map(readable);
        match self.sample(row, columns, options) {
            Ok((label, caption)) => {
                let image = pages.image(self.image.bytes.value(row));
                let mask = self.mask.as_ref().filter(|mask| mask.has(row));
                // Masks are small: a copy does not hold their page.
                let mask = mask.map(|mask| Bytes::copy_from_slice(mask.bytes.value(row)));
                Row::Sample { key, image, label, caption, original: self.original(row), mask }
            }
            Err(problem) => Row::Bad { key, problem },
        }
    }

    fn sample(
        &self,
        row: usize,
        columns: &Columns,
        options: &DatasetOptions,
    ) -> Result<(Option<i32>, Option<String>), Problem> {
        let missing = |what: &str| (Reason::MissingField, what.to_owned());
        if self.image.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Err(missing("its image is null"));
        }
        if !self.image.has(row) {
            return Err(missing("its image has no bytes in the file, at most a path"));
        }
        fields::check_image(self.image.bytes.value(row).len() as u64, options)?;
        let label = self.label(row, columns, options)?;
        let caption = value(&self.caption, row).map(|text| fields::caption(text, "caption")).transpose()?;
        Ok((label, caption))
    }

    fn original(&self, row: usize) -> Option<(u32, u32)> {
        let [width, height] = self.original.as_ref()?;
        let side = |array: &Int64Array| array.is_valid(row).then(|| array.value(row));
        fields::size(side(width), side(height))
    }

    /// The class; -1 stands for none, as in test sets.
    fn label(&self, row: usize, columns: &Columns, options: &DatasetOptions) -> Result<Option<i32>, Problem> {
        let Some(labels) = &self.label else { return Ok(None) };
        if labels.is_null(row) {
            return Err((Reason::BadLabel, "its label is null, or no integer".to_owned()));
        }
        let number = labels.value(row);
        if number == -1 {
            return Ok(None);
        }
        let classes = columns.classes.len();
        if classes > 0 && usize::try_from(number).is_ok_and(|number| number >= classes) {
            return Err((Reason::BadLabel, format!("its label {number} is not one of the file's {classes} classes")));
        }
        fields::label(number, options).map(Some)
    }
}

/// Where in `whole` the slice `part` lies, if it is one of it.
fn place(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

fn value(array: &Option<BinaryArray>, row: usize) -> Option<&[u8]> {
    array.as_ref().filter(|array| array.is_valid(row)).map(|array| array.value(row))
}
