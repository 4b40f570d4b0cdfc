//! Reading the tables back, with schema and provenance checked.

use super::provenance::FileInfo;
use super::{CropRect, LatentRow, OutputDir, Provenance, TableError, TableSchema};
use crate::reject::{Reason, Reject};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, SchemaRef, UInt16Type, UInt32Type, UInt64Type};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::ops::Range;
use std::sync::Arc;

/// Rows of a batch, unless the caller wants another number.
const BATCH_ROWS: usize = 1024;

/// Opens the latents file at `path`.
pub async fn read_latents(store: Arc<dyn ObjectStore>, path: &Path) -> Result<LatentsFile, TableError> {
    let table = TableFile::open(store, path, &TableSchema::latents()?).await?;
    Ok(LatentsFile { table })
}

/// Opens the rejects file at `path`.
pub async fn read_rejects(store: Arc<dyn ObjectStore>, path: &Path) -> Result<RejectsFile, TableError> {
    let table = TableFile::open(store, path, &TableSchema::rejects()?).await?;
    Ok(RejectsFile { table })
}

/// A file of latents that is what it says.
pub struct LatentsFile {
    table: TableFile,
}

/// A file of rejects that is what it says.
pub struct RejectsFile {
    table: TableFile,
}

struct TableFile {
    path: Path,
    info: FileInfo,
    builder: ParquetRecordBatchStreamBuilder<ObjectReader>,
}

impl TableFile {
    async fn open(store: Arc<dyn ObjectStore>, path: &Path, table: &TableSchema) -> Result<TableFile, TableError> {
        let size = store.head(path).await.map_err(|error| TableError::store(path, error))?.size;
        let reader = ObjectReader { store, path: path.clone(), size };
        let builder =
            ParquetRecordBatchStreamBuilder::new(reader).await.map_err(|error| TableError::parquet(path, error))?;
        let metadata = builder.metadata().file_metadata();
        let info = FileInfo::from_metadata(path, table, metadata.key_value_metadata())?;
        let expected = table.arrow(info.provenance.tokens())?;
        if let Some(detail) = schema_difference(&expected, builder.schema()) {
            return Err(TableError::format(path, detail));
        }
        let rows = metadata.num_rows();
        if u64::try_from(rows) != Ok(info.rows) {
            return Err(TableError::format(path, format!("has {rows} rows, {} recorded", info.rows)));
        }
        Ok(TableFile { path: path.clone(), info, builder })
    }

    fn batches(self, rows: usize) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
        let path = self.path;
        let stream = self.builder.with_batch_size(rows.max(1)).build();
        let stream = stream.map_err(|error| TableError::parquet(&path, error))?;
        Ok(stream.map_err(move |error| TableError::parquet(&path, error)).boxed())
    }
}

/// What is wrong with a file's columns, if anything.
fn schema_difference(expected: &SchemaRef, found: &SchemaRef) -> Option<String> {
    if expected.fields() == found.fields() {
        return None;
    }
    let missing = |a: &SchemaRef, b: &SchemaRef| {
        let names = a.fields().iter().filter(|f| b.field_with_name(f.name()).is_err()).map(|f| f.name().clone());
        names.collect::<Vec<_>>().join(", ")
    };
    let changed = expected
        .fields()
        .iter()
        .filter_map(|field| Some((field, found.field_with_name(field.name()).ok()?)))
        .filter(|(expected, found)| expected.as_ref() != *found)
        .map(|(expected, found)| {
            format!("{} is {} in place of {}", found.name(), found.data_type(), expected.data_type())
        })
        .collect::<Vec<_>>()
        .join(", ");
    let (lacks, extra) = (missing(expected, found), missing(found, expected));
    Some(format!("the columns are not those of the table: lacks [{lacks}], has besides [{extra}], changed [{changed}]"))
}

impl LatentsFile {
    /// What the file says of itself.
    pub fn info(&self) -> &FileInfo {
        &self.table.info
    }

    /// The rows as Arrow batches of at most `rows` rows. Row groups are read one at a time.
    pub fn batches(self, rows: usize) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
        self.table.batches(rows)
    }

    /// The rows, in file order.
    pub fn rows(self) -> Result<BoxStream<'static, Result<LatentRow, TableError>>, TableError> {
        let path = self.table.path.clone();
        let rows = move |batch: RecordBatch| {
            let rows = latent_rows(&batch).ok_or_else(|| TableError::format(&path, "a column has the wrong type"));
            futures::stream::iter(rows.map_or_else(|error| vec![Err(error)], |rows| rows.into_iter().map(Ok).collect()))
        };
        Ok(self.batches(BATCH_ROWS)?.map_ok(rows).try_flatten().boxed())
    }
}

impl RejectsFile {
    /// What the file says of itself.
    pub fn info(&self) -> &FileInfo {
        &self.table.info
    }

    /// The rows as Arrow batches of at most `rows` rows.
    pub fn batches(self, rows: usize) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
        self.table.batches(rows)
    }

    /// The rows, in file order. A reason or stage that this version does not know is an error.
    pub fn rows(self) -> Result<BoxStream<'static, Result<Reject, TableError>>, TableError> {
        let path = self.table.path.clone();
        let rows = move |batch: RecordBatch| {
            let rows = reject_rows(&batch)
                .ok_or_else(|| TableError::format(&path, "a reject has a reason or stage unknown to this version"));
            futures::stream::iter(rows.map_or_else(|error| vec![Err(error)], |rows| rows.into_iter().map(Ok).collect()))
        };
        Ok(self.batches(BATCH_ROWS)?.map_ok(rows).try_flatten().boxed())
    }
}

/// A batch's rows; none when it is not a batch of latents.
fn latent_rows(batch: &RecordBatch) -> Option<Vec<LatentRow>> {
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
    let tokens = column("tokens")?.as_fixed_size_list_opt()?;
    let length = usize::try_from(tokens.value_length()).ok()?;
    let values = tokens.values().as_primitive_opt::<UInt16Type>()?.values();
    (0..batch.num_rows())
        .map(|row| {
            let start = tokens.value_offset_at(row);
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
                tokens: values.get(start..start + length)?.to_vec(),
            })
        })
        .collect()
}

fn reject_rows(batch: &RecordBatch) -> Option<Vec<Reject>> {
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
                stage: ["read", "decode", "tokenize"].into_iter().find(|known| known == stage)?,
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

/// The latents of a whole output directory, in the manifest's order of units, which refuses to mix runs.
pub struct LatentsReader {
    dir: OutputDir,
    units: Vec<String>,
    provenance: Arc<Provenance>,
    first: Path,
}

impl LatentsReader {
    /// Opens all latents that are done in `dir`. Without a manifest, units come in the order of their paths and the first
    /// file says what the others must match.
    pub async fn open(dir: OutputDir) -> Result<LatentsReader, TableError> {
        let done = dir.done().await?;
        let nothing = || TableError::format(dir.root(), "there are no latents here");
        if let Some(manifest) = dir.manifest().await? {
            let provenance = Arc::new(manifest.provenance());
            let units = manifest.units.into_iter().map(|unit| unit.name).filter(|name| done.contains(name)).collect();
            let first = dir.root().clone().join("manifest.json");
            return Ok(LatentsReader { dir, units, provenance, first });
        }
        let units: Vec<String> = done.into_iter().collect();
        let first = dir.latents(units.first().ok_or_else(nothing)?)?;
        let provenance = read_latents(dir.store().clone(), &first).await?.info().provenance.clone();
        Ok(LatentsReader { dir, units, provenance: Arc::new(provenance), first })
    }

    /// What all files have in common: identity, grid, codebook size.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Names of the units that are there.
    pub fn units(&self) -> &[String] {
        &self.units
    }

    /// Opens the file of one unit. Refuses it when it is of another run.
    pub async fn file(&self, unit: &str) -> Result<LatentsFile, TableError> {
        let path = self.dir.latents(unit)?;
        let file = read_latents(self.dir.store().clone(), &path).await?;
        // Our side is the file that is refused: "here" is where the user looks.
        let differences = file.info().provenance.difference(&self.provenance);
        if !differences.is_empty() {
            let (first, second) = (self.first.to_string(), path.to_string());
            return Err(TableError::Mixed { first, second, differences });
        }
        Ok(file)
    }

    /// Every row of every unit as Arrow batches of at most `rows` rows, one file open at a time.
    pub fn batches(&self, rows: usize) -> BoxStream<'_, Result<RecordBatch, TableError>> {
        futures::stream::iter(&self.units)
            .then(move |unit| async move { self.file(unit).await?.batches(rows) })
            .try_flatten()
            .boxed()
    }

    /// Every row of every unit.
    pub fn rows(&self) -> BoxStream<'_, Result<LatentRow, TableError>> {
        futures::stream::iter(&self.units)
            .then(move |unit| async move { self.file(unit).await?.rows() })
            .try_flatten()
            .boxed()
    }
}

/// Ranged reads of one object, for the Parquet reader.
struct ObjectReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
