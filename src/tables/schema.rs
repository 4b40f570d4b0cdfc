//! The tables' columns, read from `schemas/*.json`: nothing else defines one.

use super::TableError;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use serde::Deserialize;
use std::sync::Arc;

const LATENTS: &str = include_str!("../../schemas/latents.json");
const SAMPLES: &str = include_str!("../../schemas/samples.json");
const REJECTS: &str = include_str!("../../schemas/rejects.json");
const METRICS: &str = include_str!("../../schemas/metrics.json");
const DECISIONS: &str = include_str!("../../schemas/decisions.json");

/// A table as its schema file describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSchema {
    /// The table's name, and its folder in an output directory.
    pub table: String,
    /// Raised when a column changes its meaning.
    pub version: u32,
    /// What a row is.
    pub doc: String,
    /// The columns, in file order.
    pub columns: Vec<Column>,
}

/// A column, or a field of a struct column.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    pub name: String,
    /// `utf8`, `dictionary<utf8>`, `binary`, `bool`, `u16`, `u32`, `u64`, `i32`, `f32`, `f64`, `list<u32>`, `list<f32>`, `struct`
    /// (with `fields`), or `fixed_size_list<u16>[tokens]`, whose length is that of the token grid.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub nullable: bool,
    pub doc: String,
    #[serde(default)]
    pub fields: Vec<Column>,
}

impl TableSchema {
    /// The `latents` table: token grids.
    pub fn latents() -> Result<TableSchema, TableError> {
        TableSchema::parse("latents", LATENTS)
    }

    /// The `samples` table: drawn images.
    pub fn samples() -> Result<TableSchema, TableError> {
        TableSchema::parse("samples", SAMPLES)
    }

    /// The `rejects` table: samples that were not encoded.
    pub fn rejects() -> Result<TableSchema, TableError> {
        TableSchema::parse("rejects", REJECTS)
    }

    /// The `metrics` table: figures of an evaluation.
    pub fn metrics() -> Result<TableSchema, TableError> {
        TableSchema::parse("metrics", METRICS)
    }

    /// The `decisions` table: what is kept of samples.
    pub fn decisions() -> Result<TableSchema, TableError> {
        TableSchema::parse("decisions", DECISIONS)
    }

    /// Name and version, as files of the table carry it: `latents/1`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.table, self.version)
    }

    fn parse(table: &str, text: &str) -> Result<TableSchema, TableError> {
        let schema: TableSchema = serde_json::from_str(text)
            .map_err(|error| TableError::Schema { table: table.to_owned(), detail: error.to_string() })?;
        if schema.table != table {
            let detail = format!("describes the table \"{}\"", schema.table);
            return Err(TableError::Schema { table: table.to_owned(), detail });
        }
        Ok(schema)
    }

    /// The Arrow schema for token grids of `tokens` entries (unused by tables without a token column).
    pub fn arrow(&self, tokens: usize) -> Result<SchemaRef, TableError> {
        let fields = self.fields(&self.columns, tokens)?;
        Ok(Arc::new(Schema::new(fields)))
    }

    fn fields(&self, columns: &[Column], tokens: usize) -> Result<Fields, TableError> {
        columns.iter().map(|column| self.field(column, tokens)).collect()
    }

    fn field(&self, column: &Column, tokens: usize) -> Result<Field, TableError> {
        let wrong = |detail: String| TableError::Schema { table: self.table.clone(), detail };
        let kind = match column.kind.as_str() {
            "utf8" => DataType::Utf8,
            "dictionary<utf8>" => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            "binary" => DataType::Binary,
            "list<u32>" => DataType::List(element(DataType::UInt32)),
            "list<f32>" => DataType::List(element(DataType::Float32)),
            "bool" => DataType::Boolean,
            "u16" => DataType::UInt16,
            "u32" => DataType::UInt32,
            "u64" => DataType::UInt64,
            "i32" => DataType::Int32,
            "f32" => DataType::Float32,
            "f64" => DataType::Float64,
            "struct" => DataType::Struct(self.fields(&column.fields, tokens)?),
            "fixed_size_list<u16>[tokens]" => {
                let length =
                    i32::try_from(tokens).map_err(|_| wrong(format!("a grid of {tokens} tokens is too large")))?;
                DataType::FixedSizeList(element(DataType::UInt16), length)
            }
            other => return Err(wrong(format!("column {} has the unknown type \"{other}\"", column.name))),
        };
        Ok(Field::new(&column.name, kind, column.nullable))
    }
}

/// A list's items. "element" is the name the Parquet specification gives them.
fn element(kind: DataType) -> FieldRef {
    Arc::new(Field::new("element", kind, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_the_design() {
        let latents = TableSchema::latents().unwrap();
        assert_eq!(latents.id(), "latents/1");
        let schema = latents.arrow(256).unwrap();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(
            names,
            ["key", "source", "index", "label", "caption", "width", "height", "crop", "flipped", "tokens"]
        );
        let nullable: Vec<&str> =
            schema.fields().iter().filter(|field| field.is_nullable()).map(|field| field.name().as_str()).collect();
        assert_eq!(nullable, ["label", "caption"]);
        let DataType::FixedSizeList(item, length) = schema.field(9).data_type() else { panic!("{schema}") };
        assert_eq!((item.data_type(), *length), (&DataType::UInt16, 256));

        let samples = TableSchema::samples().unwrap().arrow(256).unwrap();
        let names: Vec<&str> = samples.fields().iter().map(|field| field.name().as_str()).collect();
        let settings = ["temperature", "top_k", "top_p", "guidance"];
        let facts = ["key", "prompt", "label", "seed", "tokens", "image", "score", "rank", "accepted", "parent"];
        assert_eq!(names, [&facts[..], &settings].concat());
        let nullable: Vec<&str> =
            samples.fields().iter().filter(|field| field.is_nullable()).map(|field| field.name().as_str()).collect();
        assert_eq!(nullable, ["prompt", "label", "image", "score", "rank", "parent"]);

        let rejects = TableSchema::rejects().unwrap().arrow(0).unwrap();
        let names: Vec<&str> = rejects.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["source", "key", "index", "unit", "stage", "reason", "message"]);
    }

    #[test]
    fn mistakes_in_a_schema_file_are_named() {
        let text = r#"{"table": "t", "version": 1, "doc": "", "columns": [{"name": "a", "type": "u7", "doc": ""}]}"#;
        let schema = TableSchema::parse("t", text).unwrap();
        let error = schema.arrow(1).unwrap_err().to_string();
        assert!(error.contains("schemas/t.json") && error.contains("u7"), "{error}");
        assert!(TableSchema::parse("latents", text).is_err());
        assert!(TableSchema::parse("t", r#"{"table": "t", "version": 1, "doc": "", "colums": []}"#).is_err());
    }
}
