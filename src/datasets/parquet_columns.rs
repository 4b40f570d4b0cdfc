//! Which columns of a Parquet file are read, and what a row of them is (FORMATS §4, §5, §6).

use super::fields::{self, Problem, readable};
use super::open::{Captions, DatasetOptions};
use super::parquet::Table;
use crate::reject::Reason;
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Fields, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::file::metadata::ParquetMetaData;
use serde_json::Value;

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
        Ok(Columns { image, label, caption, key, status, original, classes })
    }

    /// All of them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let others = [&self.label, &self.caption, &self.key, &self.status];
        let others = others.into_iter().flatten().chain(self.original.iter().flatten());
        [self.image.as_str()].into_iter().chain(others.map(String::as_str))
    }

    /// The rows of a batch.
    pub(super) fn rows(&self, batch: &RecordBatch, options: &DatasetOptions) -> Result<Vec<Row>, ArrowError> {
        let parts = Parts::new(self, batch)?;
        Ok((0..batch.num_rows()).map(|row| parts.row(row, self, options)).collect())
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

/// A batch's columns, of known types.
struct Parts {
    image: BinaryArray,
    /// Where the struct itself is null.
    nulls: Option<ArrayRef>,
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
        let missing = || ArrowError::SchemaError(format!("the column {} is not there", columns.image));
        let image = batch.column_by_name(&columns.image).ok_or_else(missing)?;
        let (bytes, path, nulls) = match image.as_struct_opt() {
            Some(both) => (both.column_by_name("bytes").ok_or_else(missing)?, both.column_by_name("path"), Some(image)),
            None => (image, None, None),
        };
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
        let path = path.filter(|path| is_text(path.data_type()));
        Ok(Parts {
            image: binary(bytes)?,
            nulls: nulls.cloned(),
            path: path.map(binary).transpose()?,
            label,
            caption: text(&columns.caption)?,
            key: text(&columns.key)?,
            status: text(&columns.status)?,
            original,
        })
    }

    fn row(&self, row: usize, columns: &Columns, options: &DatasetOptions) -> Row {
        if let Some(status) = value(&self.status, row).filter(|status| *status != b"success") {
            return Row::Failed { status: readable(status) };
        }
        let key = value(&self.key, row).or_else(|| value(&self.path, row)).filter(|key| !key.is_empty()).map(readable);
        match self.sample(row, columns, options) {
            Ok((image, label, caption)) => Row::Sample { key, image, label, caption, original: self.original(row) },
            Err(problem) => Row::Bad { key, problem },
        }
    }

    fn sample(
        &self,
        row: usize,
        columns: &Columns,
        options: &DatasetOptions,
    ) -> Result<(Bytes, Option<i32>, Option<String>), Problem> {
        let missing = |what: &str| (Reason::MissingField, what.to_owned());
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Err(missing("its image is null"));
        }
        if self.image.is_null(row) {
            return Err(missing("its image has no bytes in the file, at most a path"));
        }
        let image = self.image.value(row);
        fields::check_image(image.len() as u64, options)?;
        let label = self.label(row, columns, options)?;
        let caption = value(&self.caption, row).map(|text| fields::caption(text, "caption")).transpose()?;
        Ok((Bytes::copy_from_slice(image), label, caption))
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

fn value(array: &Option<BinaryArray>, row: usize) -> Option<&[u8]> {
    array.as_ref().filter(|array| array.is_valid(row)).map(|array| array.value(row))
}
