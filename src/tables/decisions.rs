//! The `decisions` table: what a pass over all samples of a run decided about each. One file, `decisions/decisions.parquet`.

use super::seal::check_seal;
use super::writer::{TableFile, properties};
use super::{OutputDir, Run, SamplesIdentity, TableError, TableSchema};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float32Array, StringArray, StringDictionaryBuilder};
use arrow::datatypes::{Field, Float32Type, Int32Type};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of an Arrow batch.
const BATCH_ROWS: usize = 1 << 14;
/// Rows of a full row group.
const ROW_GROUP_ROWS: usize = 1 << 17;

const TABLE: &str = "imagebart.table";
const SAMPLES: &str = "imagebart.samples.identity";
const FILTER: &str = "imagebart.filter";
const ROWS: &str = "imagebart.rows";

/// One row of the `decisions` table.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionRow {
    /// The sample's key.
    pub key: String,
    pub kept: bool,
    /// What decided.
    pub rule: String,
    /// What the rule measured.
    pub value: Option<f32>,
    /// The key of what the sample is nearly the same as.
    pub neighbour: Option<String>,
}

/// A table of decisions, with what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Decisions {
    /// SHA-256 of the samples' identity.
    pub samples: String,
    /// The settings it was made with, as JSON in one line.
    pub filter: String,
    /// In the order of the samples.
    pub rows: Vec<DecisionRow>,
}

impl Decisions {
    /// Where the table lies in an output directory.
    pub fn path(dir: &OutputDir<SamplesIdentity>) -> Path {
        dir.root().clone().join("decisions").join("decisions.parquet")
    }

    /// Writes the table in one atomic step, over one that is there. Returns its size in bytes.
    pub async fn write(&self, dir: &OutputDir<SamplesIdentity>) -> Result<u64, TableError> {
        let path = Decisions::path(dir);
        let table = TableSchema::decisions()?;
        let schema = table.arrow(0)?;
        let facts = [(TABLE, table.id()), (SAMPLES, self.samples.clone()), (FILTER, self.filter.clone())];
        let metadata = facts.map(|(key, value)| KeyValue::new(key.to_owned(), value)).to_vec();
        let properties = properties(metadata).map_err(|error| TableError::parquet(&path, error))?.build();
        let mut file = TableFile::create(dir.store().clone(), path.clone(), schema.clone(), properties)?;
        for rows in self.rows.chunks(BATCH_ROWS) {
            let columns: Result<Vec<ArrayRef>, ArrowError> =
                schema.fields().iter().map(|field| column(rows, field)).collect();
            let batch = columns.and_then(|columns| RecordBatch::try_new(schema.clone(), columns));
            file.write(&batch.map_err(|error| TableError::parquet(&path, error))?)?;
            if file.rows_in_group() >= ROW_GROUP_ROWS {
                file.end_group().await?;
            }
        }
        file.finish(vec![KeyValue::new(ROWS.to_owned(), self.rows.len().to_string())]).await
    }

    /// Reads the table of `dir`, whole: some tens of bytes a row. None if there is none.
    ///
    /// # Errors
    /// A file that is damaged, or not this table; what the store reports.
    pub async fn read(dir: &OutputDir<SamplesIdentity>) -> Result<Option<Decisions>, TableError> {
        let path = Decisions::path(dir);
        let Some(bytes) = dir.get(&path).await? else { return Ok(None) };
        check_seal(dir.store(), &path).await?;
        let wrong = |detail: &str| TableError::format(&path, detail);
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| TableError::parquet(&path, error))?;
        let metadata = reader.metadata().file_metadata().key_value_metadata();
        let facts: BTreeMap<&str, &str> = metadata
            .into_iter()
            .flatten()
            .map(|pair| (pair.key.as_str(), pair.value.as_deref().unwrap_or_default()))
            .collect();
        let fact = |key: &str| facts.get(key).map(|&value| value.to_owned()).ok_or_else(|| wrong("a fact is missing"));
        let table = TableSchema::decisions()?;
        if fact(TABLE)? != table.id() || reader.schema().fields() != table.arrow(0)?.fields() {
            return Err(wrong("this is not the table of decisions of this version"));
        }
        let (samples, filter, count) = (fact(SAMPLES)?, fact(FILTER)?, fact(ROWS)?);
        let mut rows = Vec::new();
        for batch in reader.build().map_err(|error| TableError::parquet(&path, error))? {
            let batch = batch.map_err(|error| TableError::parquet(&path, error))?;
            rows.extend(rows_of(&batch).ok_or_else(|| wrong("a column has the wrong type"))?);
        }
        match rows.len().to_string() == count {
            true => Ok(Some(Decisions { samples, filter, rows })),
            false => Err(wrong("it has another number of rows than recorded")),
        }
    }

    /// Refuses decisions about the samples of another run.
    pub fn check(&self, dir: &OutputDir<SamplesIdentity>, samples: &SamplesIdentity) -> Result<(), TableError> {
        if self.samples == samples.sha256() {
            return Ok(());
        }
        let detail =
            "these decisions are about other samples than those beside them: run `imagebart filter --overwrite`";
        Err(TableError::format(&Decisions::path(dir), detail))
    }
}

/// The column of `rows` that `field` names.
fn column(rows: &[DecisionRow], field: &Field) -> Result<ArrayRef, ArrowError> {
    Ok(match field.name().as_str() {
        "key" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.key))),
        "kept" => Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.kept)))),
        "rule" => {
            let mut rules = StringDictionaryBuilder::<Int32Type>::new();
            for row in rows {
                rules.append(&row.rule)?;
            }
            Arc::new(rules.finish())
        }
        "value" => Arc::new(Float32Array::from_iter(rows.iter().map(|row| row.value))),
        "neighbour" => Arc::new(StringArray::from_iter(rows.iter().map(|row| row.neighbour.as_deref()))),
        other => {
            let detail = format!("schemas/decisions.json has the column {other}, which no decision has");
            return Err(ArrowError::SchemaError(detail));
        }
    })
}

/// The rows of a batch; none when it is none.
fn rows_of(batch: &RecordBatch) -> Option<Vec<DecisionRow>> {
    let column = |name: &str| batch.column_by_name(name);
    let keys = column("key")?.as_string_opt::<i32>()?;
    let kept = column("kept")?.as_boolean_opt()?;
    let rules = column("rule")?.as_dictionary_opt::<Int32Type>()?.downcast_dict::<StringArray>()?;
    let values = column("value")?.as_primitive_opt::<Float32Type>()?;
    let neighbours = column("neighbour")?.as_string_opt::<i32>()?;
    let rules = rules.into_iter().collect::<Option<Vec<&str>>>()?;
    let row = |(row, rule): (usize, &str)| DecisionRow {
        key: keys.value(row).to_owned(),
        kept: kept.value(row),
        rule: rule.to_owned(),
        value: values.is_valid(row).then(|| values.value(row)),
        neighbour: neighbours.is_valid(row).then(|| neighbours.value(row).to_owned()),
    };
    Some(rules.into_iter().enumerate().map(row).collect())
}
