//! The reader of images in Parquet files. Its rules are told at [`ParquetImages`].

use super::fields::Problem;
use super::finished::{self, Shards};
use super::listing::{Files, Wanted};
use super::open::DatasetOptions;
use super::parquet_columns::{Columns, Pages, Row, with_views};
use super::parquet_source::{Remote, footer};
use super::range_reader::Object;
use super::recent::Recent;
use super::store::Location;
use super::{DatasetError, Output, Reader, Sample, Source, Unit};
use crate::reject::Reason;
use arrow::datatypes::Schema;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

const FILES: Wanted = Wanted { what: "Parquet files", extensions: &[".parquet"] };
/// About how many bytes of a row group are decoded at a time, and at most how many rows.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_ROWS: u64 = 256;
/// How many files' footers are read at a time when units are listed.
const PARALLEL_FILES: usize = 8;
/// A page may have this many times the bytes of the largest image that is accepted: writers make pages of 1 MiB, or of as many
/// images as they are given at once.
const PAGE_IMAGES: u64 = 16;
/// What page headers and dictionaries may take beside what a footer says of a column.
const PAGE_SLACK: u64 = 1 << 20;

/// Who wrote a Parquet file of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Hugging Face `datasets`: an image is a struct of `bytes` and `path`.
    HuggingFace,
    /// img2dataset: the image is a column named after its encoding.
    Img2dataset,
}

/// Images in Parquet files (FORMATS §4 to §6). Made by [`open()`](super::open()), or with [`ParquetImages::new`] over a store of
/// one's own.
///
/// - A work unit is a run of row groups that have `unit_rows` rows together, or more, where one group has more:
///   `train-00000-of-00003.parquet@000000000-000005000`; or the file where that is all. Pages are read one after the other, so
///   that large row groups cost no more memory than their pages.
/// - The image column is `image`, one named after an encoding, `img`, the one that the `huggingface` metadata calls an image,
///   or any struct with `bytes`; the class `label`, `cls` or a `ClassLabel`; the caption `txt`, `caption` or `text`, or the
///   column that `dataset.captions = "json.<name>"` names. A sample's key is `key` (`__key__`, `name`), else the image's
///   `path`, else the row's number in its file.
/// - A class of -1 stands for none; one that is null, or not below the number of the `huggingface` metadata's class names, is
///   `bad_label`.
/// - Damage within a row group costs what is left of that group: one reject. A file without a good footer is one reject.
/// - img2dataset's files without a `_stats.json` are unfinished and passed over. Rows whose `status` is not `success` hold no
///   image and never did: they are no samples, take no index, and are no rejects, but are counted by status in
///   [`Output::not_downloaded`].
#[derive(Debug)]
pub struct ParquetImages {
    files: Files,
    shards: OnceCell<Shards>,
    table: Table,
    options: DatasetOptions,
    footers: Recent<Result<Arc<File>, Problem>>,
}

/// What is known of a file.
pub(super) struct File {
    pub(super) object: Object,
    metadata: ArrowReaderMetadata,
    columns: Columns,
    /// The rows of each row group.
    pub(super) groups: Vec<Range<u64>>,
}

impl File {
    /// Reads the footer of a file; its columns are what `find` makes of it.
    pub(super) async fn load(
        object: Object,
        find: impl FnOnce(&Schema, &ParquetMetaData) -> Result<Columns, DatasetError>,
    ) -> Result<Result<File, Problem>, DatasetError> {
        let metadata = match footer(&object).await? {
            Ok(metadata) => Arc::new(metadata),
            Err(problem) => return Ok(Err(problem)),
        };
        let damaged = |what: String| Ok(Err((Reason::CorruptContainer, format!("its footer is damaged ({what})"))));
        let Some(groups) = row_groups(metadata.row_groups().iter().map(|group| group.num_rows())) else {
            return damaged("its row groups have impossible numbers of rows".to_owned());
        };
        // The types of the file's own schema suffice; the Arrow schema inside is one more thing that may be damaged.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let made = catch_unwind(AssertUnwindSafe(|| {
            let plain = ArrowReaderMetadata::try_new(metadata, options)?;
            let views = ArrowReaderOptions::new().with_schema(with_views(plain.schema()));
            ArrowReaderMetadata::try_new(Arc::clone(plain.metadata()), views)
        }));
        let metadata = match made {
            Ok(Ok(metadata)) => metadata,
            Ok(Err(error)) => return damaged(error.to_string()),
            Err(_) => return damaged("its schema".to_owned()),
        };
        let columns = find(metadata.schema(), metadata.metadata())?;
        Ok(Ok(File { object, metadata, columns, groups }))
    }

    /// The row groups that have some of the `rows`, with theirs.
    fn wanted(&self, rows: &Range<u64>) -> impl Iterator<Item = (usize, &Range<u64>)> {
        let wanted = |group: &Range<u64>| group.start.max(rows.start) < group.end.min(rows.end);
        self.groups.iter().enumerate().filter(move |(_, group)| wanted(group))
    }

    /// Reads `rows` on a thread, and hands over what it finds. A page may have `page_limit` bytes. Must be called inside a tokio
    /// runtime.
    pub(super) fn read(
        self: Arc<File>,
        rows: Range<u64>,
        page_limit: u64,
        options: DatasetOptions,
    ) -> (JoinHandle<Result<(), DatasetError>>, async_channel::Receiver<Found>) {
        let (sender, receiver) = async_channel::bounded(1);
        let thread = tokio::task::spawn_blocking(move || {
            let remote = Remote::new(self.object.clone(), self.places(&rows), page_limit, sender.clone());
            read_groups(&self, remote, &rows, &options, &sender)
        });
        (thread, receiver)
    }

    /// The columns that are read.
    fn mask(&self) -> ProjectionMask {
        let fields = self.metadata.schema().fields();
        let roots = self.columns.names().filter_map(|name| fields.find(name)).map(|(at, _)| at);
        ProjectionMask::roots(self.metadata.parquet_schema(), roots)
    }

    /// Where the columns of these rows lie, as the footer tells.
    fn places(&self, rows: &Range<u64>) -> Vec<Range<u64>> {
        let groups = self.wanted(rows).map(|(group, _)| self.metadata.metadata().row_group(group));
        groups.flat_map(|group| self.read_columns(group)).filter_map(place).collect()
    }

    /// Of a row group the columns that are read.
    pub(super) fn read_columns<'a>(&self, group: &'a RowGroupMetaData) -> Vec<&'a ColumnChunkMetaData> {
        let mask = self.mask();
        let columns = group.columns().iter().enumerate();
        columns.filter(|(leaf, _)| mask.leaf_included(*leaf)).map(|(_, column)| column).collect()
    }

    /// What the footer says of each row group.
    pub(super) fn row_groups(&self) -> &[RowGroupMetaData] {
        self.metadata.metadata().row_groups()
    }
}

/// Where a column of a row group lies; `None` where the footer says nonsense.
fn place(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let data = column.data_page_offset();
    let start = u64::try_from(column.dictionary_page_offset().map_or(data, |dictionary| dictionary.min(data))).ok()?;
    let end = start.checked_add(u64::try_from(column.compressed_size()).ok()?)?;
    Some(start..end)
}

impl ParquetImages {
    /// A reader of the files at `location`; of `options` it uses labels, classes, captions, limits, unit rows and read-ahead.
    pub fn new(location: Location, table: Table, options: DatasetOptions) -> ParquetImages {
        let files = Files::with(location, FILES, finished::BESIDE);
        ParquetImages { files, shards: OnceCell::new(), table, options, footers: Recent::default() }
    }

    async fn shards(&self) -> Result<&Shards, DatasetError> {
        let find = || async {
            match self.table {
                Table::HuggingFace => {
                    Ok(Shards { finished: self.files.listing().await?.objects.clone(), unfinished: Vec::new() })
                }
                Table::Img2dataset => finished::required(&self.files).await,
            }
        };
        self.shards.get_or_try_init(find).await
    }

    /// The names of the classes, in order, as the first file tells them; none if it does not.
    pub async fn class_names(&self) -> Result<Vec<String>, DatasetError> {
        let Some(file) = self.files.listing().await?.objects.first() else { return Ok(Vec::new()) };
        Ok(self.file(file).await?.as_ref().as_ref().map_or(Vec::new(), |file| file.columns.classes.clone()))
    }

    async fn file(&self, source: &Source) -> Result<Arc<Result<Arc<File>, Problem>>, DatasetError> {
        let load = async { self.load(source).await };
        self.footers.get(source, load).await
    }

    async fn load(&self, source: &Source) -> Result<Result<Arc<File>, Problem>, DatasetError> {
        let object = self.files.open(source, &self.options.read_ahead).await?;
        let find = |schema: &Schema, metadata: &ParquetMetaData| {
            Columns::find(self.table, schema, metadata, &self.options)
                .map_err(|what| DatasetError::Config(format!("{} cannot be read: {what}", source.path)))
        };
        Ok(File::load(object, find).await?.map(Arc::new))
    }

    async fn list_units(&self) -> Result<Vec<Unit>, DatasetError> {
        let files = self.shards().await?.finished.clone();
        let mut units = Vec::with_capacity(files.len());
        for file in files {
            units.push(self.units_of(file));
        }
        let units: Vec<Vec<Unit>> = futures::stream::iter(units).buffered(PARALLEL_FILES).try_collect().await?;
        Ok(units.concat())
    }

    async fn units_of(&self, source: Source) -> Result<Vec<Unit>, DatasetError> {
        let file = self.file(&source).await?;
        let blocks = file.as_ref().as_ref().map_or(Vec::new(), |file| blocks(&file.groups, self.options.unit_rows));
        if blocks.len() < 2 {
            return Ok(vec![Unit { name: source.path.clone(), sources: vec![source], range: None }]);
        }
        let unit = |rows: Range<u64>| Unit {
            name: format!("{}@{:09}-{:09}", source.path, rows.start, rows.end),
            sources: vec![source.clone()],
            range: Some(rows),
        };
        Ok(blocks.into_iter().map(unit).collect())
    }

    async fn read_unit(&self, unit: &Unit, out: &Output) -> Result<(), DatasetError> {
        let not_ours = || DatasetError::Config(format!("{} is no unit of {}", unit.name, self.files.location().url));
        let [source] = &unit.sources[..] else { return Err(not_ours()) };
        let file = match self.file(source).await?.as_ref() {
            Ok(file) => file.clone(),
            Err((reason, message)) => {
                tracing::warn!(file = source.path, message, "a broken Parquet file");
                return out.reject(unit, &source.path, "", 0, *reason, message).await;
            }
        };
        let rows = unit.range.clone().unwrap_or(0..u64::MAX);
        let (thread, receiver) = file.read(rows, page_limit(&self.options), self.options.clone());
        let sent = send(unit, &source.path, receiver, out).await;
        match thread.await {
            // The thread ends when nobody listens: then `sent` says why nobody does.
            Ok(Err(DatasetError::Cancelled)) | Ok(Ok(())) => sent,
            Ok(Err(error)) => Err(error),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(DatasetError::Cancelled),
        }
    }
}

impl Reader for ParquetImages {
    fn units(&self) -> BoxFuture<'_, Result<Vec<Unit>, DatasetError>> {
        Box::pin(self.list_units())
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<String>, DatasetError>> {
        Box::pin(async { Ok(self.shards().await?.unfinished.clone()) })
    }

    fn read<'a>(&'a self, unit: &'a Unit, out: &'a Output) -> BoxFuture<'a, Result<(), DatasetError>> {
        Box::pin(out.while_wanted(self.read_unit(unit, out)))
    }
}

/// The most bytes of a page.
pub(super) fn page_limit(options: &DatasetOptions) -> u64 {
    options.max_bytes.saturating_mul(PAGE_IMAGES)
}

/// Where the rows of each group are among those of the file.
fn row_groups(counts: impl Iterator<Item = i64>) -> Option<Vec<Range<u64>>> {
    let mut start = 0u64;
    counts
        .map(|count| {
            let end = start.checked_add(u64::try_from(count).ok()?)?;
            Some(std::mem::replace(&mut start, end)..end)
        })
        .collect()
}

/// Runs of groups of at least `rows` rows, but for the last.
fn blocks(groups: &[Range<u64>], rows: u64) -> Vec<Range<u64>> {
    let mut blocks: Vec<Range<u64>> = Vec::new();
    for group in groups.iter().filter(|group| !group.is_empty()) {
        match blocks.last_mut().filter(|block| block.end - block.start < rows) {
            Some(block) => block.end = group.end,
            None => blocks.push(group.clone()),
        }
    }
    blocks
}

/// What the reading thread finds.
pub(super) enum Found {
    /// Rows, and the number of the first in its file.
    Rows(u64, Vec<Row>),
    /// The rest of a row group cannot be read: which rows, and why.
    Lost(Range<u64>, String),
}

type Listener = async_channel::Sender<Found>;

/// Reads the row groups that have some of the `rows`, from the first of these on.
fn read_groups(
    file: &File,
    remote: Remote,
    rows: &Range<u64>,
    options: &DatasetOptions,
    listener: &Listener,
) -> Result<(), DatasetError> {
    for (group, place) in file.wanted(rows) {
        let mut next = place.start.max(rows.start);
        // Other people's code on a stranger's bytes: should it panic, one row group is lost.
        let read =
            catch_unwind(AssertUnwindSafe(|| read_group(file, &remote, (group, place), &mut next, options, listener)));
        let lost = match read {
            Ok(Ok(())) if next == place.end => continue,
            Ok(Ok(())) => "it has fewer rows than the footer says".to_owned(),
            Ok(Err(ReadError::Gone)) => return Err(DatasetError::Cancelled),
            Ok(Err(ReadError::Damaged(message))) => message,
            Err(_) => "its decoder failed on it".to_owned(),
        };
        if let Some(failure) = remote.failure() {
            return Err(failure);
        }
        let message = format!("rows {next} to {} of row group {group} are lost: {lost}", place.end);
        listener.send_blocking(Found::Lost(next..place.end, message)).map_err(|_| DatasetError::Cancelled)?;
    }
    Ok(())
}

enum ReadError {
    /// Nobody listens any more.
    Gone,
    Damaged(String),
}

impl<E: std::error::Error> From<E> for ReadError {
    fn from(error: E) -> ReadError {
        ReadError::Damaged(error.to_string())
    }
}

fn read_group(
    file: &File,
    remote: &Remote,
    (group, group_rows): (usize, &Range<u64>),
    next: &mut u64,
    options: &DatasetOptions,
    listener: &Listener,
) -> Result<(), ReadError> {
    let of_group = file.metadata.metadata().row_group(group);
    let rows = u64::try_from(of_group.num_rows()).unwrap_or(0).max(1);
    let row_bytes = u64::try_from(of_group.total_byte_size()).unwrap_or(0) / rows;
    let batch = (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS);
    // No page is larger than its column, in the file or unpacked; some writers count a little less than there is.
    let column = |column: &ColumnChunkMetaData| column.uncompressed_size().max(column.compressed_size());
    let largest = of_group.columns().iter().map(column).max().unwrap_or(0);
    let pages = u64::try_from(largest).unwrap_or(0).saturating_mul(2).saturating_add(PAGE_SLACK);
    let start = of_group.columns().iter().filter_map(place).map(|place| place.start).min().unwrap_or(0);
    let remote = remote.from(start, pages);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(remote, file.metadata.clone())
        .with_row_groups(vec![group])
        .with_projection(file.mask())
        .with_batch_size(batch as usize);
    let reader = match next.saturating_sub(group_rows.start) {
        0 => reader,
        passed_over => reader.with_offset(usize::try_from(passed_over).unwrap_or(usize::MAX)),
    };
    let reader = reader.build()?;
    let mut pages = Pages::new(&file.object);
    for batch in reader {
        let batch = batch?;
        let found = file.columns.rows(&batch, options, &mut pages)?;
        let first = *next;
        *next += batch.num_rows() as u64;
        listener.send_blocking(Found::Rows(first, found)).map_err(|_| ReadError::Gone)?;
    }
    Ok(())
}

/// Passes on what the thread finds.
async fn send(
    unit: &Unit,
    source: &str,
    found: async_channel::Receiver<Found>,
    out: &Output,
) -> Result<(), DatasetError> {
    let mut index = 0;
    while let Ok(found) = found.recv().await {
        let (first, rows) = match found {
            Found::Rows(first, rows) => (first, rows),
            Found::Lost(_, message) => {
                tracing::warn!(file = source, unit = unit.name, message, "a broken row group");
                out.reject(unit, source, "", index, Reason::DecodeError, message).await?;
                index += 1;
                continue;
            }
        };
        for (number, row) in (first..).zip(rows) {
            let named = |key: Option<String>| key.unwrap_or_else(|| number.to_string());
            match row {
                Row::Failed { status } => {
                    out.not_downloaded().add(&status, 1);
                    continue;
                }
                Row::Bad { key, problem: (reason, message) } => {
                    out.reject(unit, source, &named(key), index, reason, message).await?;
                }
                Row::Sample { key, image, label, caption, original, mask: _ } => {
                    let (source, key) = (source.to_owned(), named(key));
                    out.sample(Sample { source, key, index, label, caption, image, original }).await?;
                }
            }
            index += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_groups_become_units() {
        let groups = row_groups([3, 0, 4, 10, 1, 1].into_iter()).unwrap();
        assert_eq!(groups, [0..3, 3..3, 3..7, 7..17, 17..18, 18..19]);
        assert_eq!(blocks(&groups, 5), [0..7, 7..17, 17..19]);
        assert_eq!(blocks(&groups, 1), [0..3, 3..7, 7..17, 17..18, 18..19]);
        assert_eq!(blocks(&groups, 1000), vec![0..19]);
        assert_eq!(row_groups([1, -1].into_iter()), None);
        assert_eq!(row_groups([i64::MAX, i64::MAX, 2].into_iter()), None);
    }
}
