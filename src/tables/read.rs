//! Reading the tables back, with schema and provenance checked.

use super::decode::reject_rows;
use super::run::Run;
use super::{
    FileInfo, Identity, ManifestUnit, OutputDir, Provenance, SamplesIdentity, TableError, TableSchema, UnitFile,
};
use crate::reject::Reject;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// Opens the latents file at `path`.
pub async fn read_latents(store: Arc<dyn ObjectStore>, path: &Path) -> Result<LatentsFile, TableError> {
    read_table(store, path).await
}

/// Opens the samples file at `path`.
pub async fn read_samples(store: Arc<dyn ObjectStore>, path: &Path) -> Result<SamplesFile, TableError> {
    read_table(store, path).await
}

/// Opens the rejects file at `path`, of an `encode`.
pub async fn read_rejects(store: Arc<dyn ObjectStore>, path: &Path) -> Result<RejectsFile, TableError> {
    read_rejects_of(store, path).await
}

/// Opens the file of rows at `path`, of runs of kind `I`.
pub async fn read_table<I: Run>(store: Arc<dyn ObjectStore>, path: &Path) -> Result<RowsFile<I>, TableError> {
    Ok(RowsFile { table: TableFile::open(store, path, &I::schema()?).await? })
}

/// Opens the rejects file at `path`, of runs of kind `I`.
pub async fn read_rejects_of<I: Run>(store: Arc<dyn ObjectStore>, path: &Path) -> Result<RejectsFile<I>, TableError> {
    Ok(RejectsFile { table: TableFile::open(store, path, &TableSchema::rejects()?).await? })
}

/// A file of rows that is what it says.
pub struct RowsFile<I: Run> {
    table: TableFile<I>,
}

/// A file of latents.
pub type LatentsFile = RowsFile<Identity>;

/// A file of samples.
pub type SamplesFile = RowsFile<SamplesIdentity>;

/// A file of rejects that is what it says.
pub struct RejectsFile<I: Run = Identity> {
    table: TableFile<I>,
}

/// Rejects that a reader takes at a time.
const REJECTS: usize = 1024;

struct TableFile<I> {
    path: Path,
    info: FileInfo<I>,
    builder: ParquetRecordBatchStreamBuilder<ObjectReader>,
}

impl<I: Run> TableFile<I> {
    async fn open(store: Arc<dyn ObjectStore>, path: &Path, table: &TableSchema) -> Result<TableFile<I>, TableError> {
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

impl<I: Run> RowsFile<I> {
    /// What the file says of itself.
    pub fn info(&self) -> &FileInfo<I> {
        &self.table.info
    }

    /// Rows of each row group, in file order.
    pub fn groups(&self) -> Vec<u64> {
        let groups = self.table.builder.metadata().row_groups();
        groups.iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).collect()
    }

    /// The rows of one row group, by its number.
    pub fn rows_of_group(mut self, group: usize) -> Result<BoxStream<'static, Result<I::Row, TableError>>, TableError> {
        if group >= self.table.builder.metadata().num_row_groups() {
            return Err(TableError::format(&self.table.path, format!("has no row group {group}")));
        }
        self.table.builder = self.table.builder.with_row_groups(vec![group]);
        self.rows()
    }

    /// The rows that stand at `places`, counted from 0, in file order; of row groups without any of them nothing is fetched.
    pub fn rows_at(
        mut self,
        places: &BTreeSet<u64>,
    ) -> Result<BoxStream<'static, Result<I::Row, TableError>>, TableError> {
        let rows = usize::try_from(self.table.info.rows).unwrap_or(usize::MAX);
        let places = places.iter().filter_map(|&place| usize::try_from(place).ok()).filter(|&place| place < rows);
        let selection = RowSelection::from_consecutive_ranges(places.map(|place| place..place + 1), rows);
        self.table.builder = self.table.builder.with_row_selection(selection);
        self.rows()
    }

    /// The rows as Arrow batches of at most `rows` rows. Row groups are read one at a time.
    pub fn batches(self, rows: usize) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
        self.table.batches(rows)
    }

    /// Only these columns of the rows, as Arrow batches of at most `rows` rows; of the others nothing is fetched.
    pub fn columns(
        mut self,
        columns: &[&str],
        rows: usize,
    ) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
        let fields = self.table.builder.schema().fields();
        let roots: Vec<usize> = columns.iter().filter_map(|name| Some(fields.find(name)?.0)).collect();
        let mask = ProjectionMask::roots(self.table.builder.parquet_schema(), roots);
        self.table.builder = self.table.builder.with_projection(mask);
        self.table.batches(rows)
    }

    /// The rows, in file order.
    pub fn rows(self) -> Result<BoxStream<'static, Result<I::Row, TableError>>, TableError> {
        let path = self.table.path.clone();
        let rows = move |batch: RecordBatch| {
            let rows = I::rows(&batch).ok_or_else(|| TableError::format(&path, "a column has the wrong type"));
            futures::stream::iter(rows.map_or_else(|error| vec![Err(error)], |rows| rows.into_iter().map(Ok).collect()))
        };
        Ok(self.batches(I::BATCH_ROWS)?.map_ok(rows).try_flatten().boxed())
    }
}

impl<I: Run> RejectsFile<I> {
    /// What the file says of itself.
    pub fn info(&self) -> &FileInfo<I> {
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
        Ok(self.batches(REJECTS)?.map_ok(rows).try_flatten().boxed())
    }
}

/// The rows of a whole output directory, in the manifest's order of units, each with what its retries added, which refuses to
/// mix runs.
pub struct TableReader<I: Run> {
    dir: OutputDir<I>,
    files: Vec<UnitFile>,
    provenance: Arc<Provenance<I>>,
    first: Path,
}

/// The latents of a whole output directory.
pub type LatentsReader = TableReader<Identity>;

/// The samples of a whole output directory.
pub type SamplesReader = TableReader<SamplesIdentity>;

impl<I: Run> TableReader<I> {
    /// Opens all units that are done in `dir`. Without a manifest, units come in the order of their paths and the first
    /// file says what the others must match.
    pub async fn open(dir: OutputDir<I>) -> Result<TableReader<I>, TableError> {
        let done = dir.done().await?;
        let nothing = || TableError::format(dir.root(), format!("there are no {} here", I::TABLE));
        if let Some(manifest) = dir.manifest().await? {
            let provenance = Arc::new(manifest.provenance());
            let files =
                |unit: &ManifestUnit| Some(UnitFile::all(&unit.name, *done.get(&unit.name)?).collect::<Vec<_>>());
            let files = manifest.units.iter().filter_map(files).flatten().collect();
            let first = dir.root().clone().join(I::MANIFEST);
            return Ok(TableReader { dir, files, provenance, first });
        }
        let files: Vec<UnitFile> = done.iter().flat_map(|(unit, newest)| UnitFile::all(unit, *newest)).collect();
        let first = dir.table(files.first().ok_or_else(nothing)?)?;
        let provenance = read_table::<I>(dir.store().clone(), &first).await?.info().provenance.clone();
        Ok(TableReader { dir, files, provenance: Arc::new(provenance), first })
    }

    /// What all files have in common: identity, grid, codebook size.
    pub fn provenance(&self) -> &Provenance<I> {
        &self.provenance
    }

    /// Where they are, for messages.
    pub fn place(&self) -> String {
        self.dir.place()
    }

    /// The files that are there.
    pub fn files(&self) -> &[UnitFile] {
        &self.files
    }

    /// Opens one of the [`files`](TableReader::files). Refuses it when it is of another run.
    pub async fn file(&self, file: &UnitFile) -> Result<RowsFile<I>, TableError> {
        let path = self.dir.table(file)?;
        let file = read_table::<I>(self.dir.store().clone(), &path).await?;
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
        futures::stream::iter(&self.files)
            .then(move |file| async move { self.file(file).await?.batches(rows) })
            .try_flatten()
            .boxed()
    }

    /// Every row of every unit.
    pub fn rows(&self) -> BoxStream<'_, Result<I::Row, TableError>> {
        futures::stream::iter(&self.files)
            .then(move |file| async move { self.file(file).await?.rows() })
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
        async move { range_of(&self.store, &self.path, range).await.map_err(external) }.boxed()
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

/// A part of an object. As the only one of several ranges, because those are repeated as a whole when their body breaks off.
pub(super) async fn range_of(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    range: Range<u64>,
) -> object_store::Result<Bytes> {
    Ok(store.get_ranges(path, &[range]).await?.pop().unwrap_or_default())
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
