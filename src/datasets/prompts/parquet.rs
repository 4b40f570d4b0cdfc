//! Prompt tables as Parquet: the columns that are wanted, a row group at a time.

use super::fields::{Column, PromptRow, Value, columns};
use super::{BATCH, Outlet, PromptError, Rules};
use crate::datasets::range_reader::Object;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, UInt64Type};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::ops::Range;
use std::sync::Arc;

/// Reads `object` to its end. Ends early where nobody listens.
pub(super) async fn read(object: Object, rules: &Rules, out: &Outlet) -> Result<(), PromptError> {
    let broken = |error: ParquetError| rules.broken(format!("it cannot be read as Parquet: {error}"));
    let builder = ParquetRecordBatchStreamBuilder::new(Ranges(object)).await.map_err(broken)?;
    let names = builder.schema().fields().iter().map(|field| field.name().as_str());
    let wanted = columns(names, &rules.ignored, rules.beside).map_err(|what| rules.broken(what))?;
    let kept = wanted.iter().enumerate().filter_map(|(at, column)| column.map(|_| at));
    let mask = ProjectionMask::roots(builder.parquet_schema(), kept);
    let wanted: Vec<Column> = wanted.into_iter().flatten().collect();
    let mut batches = builder.with_projection(mask).with_batch_size(BATCH).build().map_err(broken)?;
    let mut at = 1;
    while let Some(batch) = batches.try_next().await.map_err(broken)? {
        let rows = rows(&batch, &wanted, at).map_err(|fault| rules.fault(fault))?;
        at += rows.len() as u64;
        if !rows.is_empty() && out.sender.send(rows).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The rows of a batch whose first is number `first`.
fn rows(batch: &RecordBatch, wanted: &[Column], first: u64) -> Result<Vec<PromptRow>, (u64, String)> {
    let mut rows: Vec<PromptRow> = (first..).take(batch.num_rows()).map(PromptRow::at).collect();
    for (array, column) in batch.columns().iter().zip(wanted) {
        let values = Values::new(array).map_err(|what| (first, format!("its {} {what}", column.name())))?;
        for (position, row) in rows.iter_mut().enumerate() {
            let value = values.at(position);
            row.set(*column, value).map_err(|what| (row.at, what))?;
        }
    }
    Ok(rows)
}

/// A column, as one of the few types that values come in.
enum Values {
    Text(ArrayRef),
    Signed(ArrayRef),
    Unsigned(ArrayRef),
    Number(ArrayRef),
    List(ArrayRef),
}

impl Values {
    fn new(array: &ArrayRef) -> Result<Values, String> {
        let list = DataType::List(Arc::new(Field::new("element", DataType::Float64, true)));
        let kind = match array.data_type() {
            DataType::Dictionary(_, kind) => kind,
            kind => kind,
        };
        let cast = |to: &DataType| {
            let options = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(array, to, &options).map_err(|error| format!("cannot be read: {error}"))
        };
        match kind {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(Values::Text(cast(&DataType::Utf8)?)),
            kind if kind.is_unsigned_integer() => Ok(Values::Unsigned(cast(&DataType::UInt64)?)),
            kind if kind.is_integer() => Ok(Values::Signed(cast(&DataType::Int64)?)),
            kind if kind.is_floating() => Ok(Values::Number(cast(&DataType::Float64)?)),
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => Ok(Values::List(cast(&list)?)),
            // A column of nothing but nulls.
            DataType::Null => Ok(Values::Text(cast(&DataType::Utf8)?)),
            other => Err(format!("is of the type {other}, neither text nor numbers")),
        }
    }

    fn array(&self) -> &ArrayRef {
        match self {
            Values::Text(array)
            | Values::Signed(array)
            | Values::Unsigned(array)
            | Values::Number(array)
            | Values::List(array) => array,
        }
    }

    fn at(&self, row: usize) -> Value<'_> {
        if self.array().is_null(row) {
            return Value::Nothing;
        }
        match self {
            Values::Text(array) => Value::Text(array.as_string::<i32>().value(row)),
            Values::Signed(array) => Value::Whole(array.as_primitive::<Int64Type>().value(row).into()),
            Values::Unsigned(array) => Value::Whole(array.as_primitive::<UInt64Type>().value(row).into()),
            // What pandas makes of a gap.
            Values::Number(array) => match array.as_primitive::<Float64Type>().value(row) {
                number if number.is_nan() => Value::Nothing,
                number => Value::Number(number),
            },
            Values::List(array) => {
                let list = array.as_list::<i32>().value(row);
                Value::List(
                    list.as_primitive::<Float64Type>().iter().map(|number| number.unwrap_or(f64::NAN)).collect(),
                )
            }
        }
    }
}

/// An object for the Parquet reader.
struct Ranges(Object);

impl AsyncFileReader for Ranges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.0.get(range).await.map_err(|error| ParquetError::External(Box::new(error))) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.0.size();
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
