//! Prompt tables: what images are to be drawn of, a row each, read as a stream from any store.
//!
//! | ending | |
//! |---|---|
//! | `.parquet` | columns by name, a row group at a time |
//! | `.csv`, `.tsv` | names of columns, then a record a row (RFC 4180) |
//! | `.jsonl` | an object a line |
//! | any other | plain text: a prompt, or a class, a line |
//!
//! Text may be gzipped (`.gz` behind its ending). The columns are those of `schemas/prompts.json`; an unknown one is an error.
//! However a table is written, the same values are the same [`PromptRow`]s. A list of keys makes a table, too, whose rows say no more.
//! Of a table of any length a few thousand rows are in
//! memory, and it may be read more than once.

mod fields;
mod parquet;
mod text;

pub use fields::{Class, Column, PromptRow};

use super::DatasetError;
use super::input::Input;
use super::name_list::single_file;
use super::range_reader::{Object, RangeReader};
use bytes::{Buf, Bytes};
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Rows that are handed over together.
const BATCH: usize = 512;
/// Batches that wait to be taken.
const WAITING: usize = 2;
/// Bytes of text that are read at a time.
const PIECE: usize = 1 << 16;

/// Why a prompt table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// It is not there, or its store fails.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A row, or the line of the columns' names, is wrong.
    #[error("{key} = {table}: {place}: {what}")]
    Row { key: &'static str, table: String, place: String, what: String },
    /// The table as a whole is.
    #[error("{key} = {table}: {what}")]
    Table { key: &'static str, table: String, what: String },
}

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Json,
    Separated(u8),
    Parquet,
}

impl Format {
    fn of(url: &str) -> Format {
        let lower = url.to_ascii_lowercase();
        let name = lower.strip_suffix(".gz").unwrap_or(&lower);
        match name.rsplit('.').next() {
            Some("jsonl" | "ndjson") => Format::Json,
            Some("csv") => Format::Separated(b','),
            Some("tsv") => Format::Separated(b'\t'),
            Some("parquet") => Format::Parquet,
            _ => Format::Plain,
        }
    }
}

/// How the rows of a table are read.
#[derive(Clone, Debug)]
struct Rules {
    /// The pipeline's key that names the table.
    key: &'static str,
    table: String,
    /// What stands before a row's number in messages.
    noun: &'static str,
    /// Columns that are passed over.
    ignored: Vec<String>,
    /// Columns that somebody else reads.
    beside: &'static [&'static str],
    /// What a line of plain text is.
    line: Column,
}

impl Rules {
    fn fault(&self, (at, what): (u64, String)) -> PromptError {
        PromptError::Row { key: self.key, table: self.table.clone(), place: format!("{} {at}", self.noun), what }
    }

    fn broken(&self, what: String) -> PromptError {
        PromptError::Table { key: self.key, table: self.table.clone(), what }
    }
}

/// A table of prompts or classes.
#[derive(Clone)]
pub struct PromptTable {
    content: Content,
    rules: Arc<Rules>,
}

/// What a table's rows are made of.
#[derive(Clone)]
enum Content {
    File(Object, Format),
    Keys(Arc<[String]>),
}

impl fmt::Debug for PromptTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptTable").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl PromptTable {
    /// Finds the table at `url`, a local path or a URL. Columns in `ignored` are passed over; a line of plain text is a value of
    /// the column `line`.
    ///
    /// # Errors
    /// [`PromptError::Dataset`] when it is not there.
    pub async fn open(url: &str, ignored: &[String], line: Column) -> Result<PromptTable, PromptError> {
        let format = Format::of(url);
        let noun = match format {
            Format::Plain | Format::Json => "line",
            Format::Separated(_) | Format::Parquet => "row",
        };
        let (key, table, ignored) = ("sample.prompts", url.to_owned(), ignored.to_vec());
        PromptTable::find(format, Rules { key, table, noun, ignored, beside: &[], line }).await
    }

    /// Finds the Parquet table at `url`, which `key` of the pipeline names, and which has the columns `beside`, too: they are not
    /// read here.
    ///
    /// # Errors
    /// As of [`PromptTable::open`].
    pub async fn open_beside(
        key: &'static str,
        url: &str,
        ignored: &[String],
        beside: &'static [&'static str],
    ) -> Result<PromptTable, PromptError> {
        let (table, ignored, line) = (url.to_owned(), ignored.to_vec(), Column::Prompt);
        PromptTable::find(Format::Parquet, Rules { key, table, noun: "row", ignored, beside, line }).await
    }

    async fn find(format: Format, rules: Rules) -> Result<PromptTable, PromptError> {
        let object = single_file(rules.key, &rules.table, u64::MAX).await?;
        Ok(PromptTable { content: Content::File(object, format), rules: Arc::new(rules) })
    }

    /// A table with a row for each of the `keys`, which is called `noun`; `key` of the pipeline names where they are from.
    pub fn of_keys(key: &'static str, url: &str, noun: &'static str, keys: Arc<[String]>) -> PromptTable {
        let (table, ignored, line) = (url.to_owned(), Vec::new(), Column::Key);
        let rules = Arc::new(Rules { key, table, noun, ignored, beside: &[], line });
        PromptTable { content: Content::Keys(keys), rules }
    }

    /// Starts to read it from its first row. Must be called inside a tokio runtime.
    pub fn rows(&self) -> PromptRows {
        let (sender, batches) = async_channel::bounded(WAITING);
        let rules = self.rules.clone();
        let mut out = Outlet { sender, batch: Vec::new() };
        let reading = match self.content.clone() {
            Content::Keys(keys) => tokio::spawn(async move { named(&keys, &out).await }),
            Content::File(object, Format::Parquet) => {
                tokio::spawn(async move { parquet::read(object, &rules, &out).await })
            }
            Content::File(object, format) => {
                let runtime = Handle::current();
                let source = Plain { input: Input::new(RangeReader::new(object)), piece: Bytes::new(), runtime };
                tokio::task::spawn_blocking(move || {
                    match format {
                        Format::Json => text::json(source, &rules, &mut out)?,
                        Format::Separated(separator) => text::separated(source, separator, &rules, &mut out)?,
                        Format::Plain | Format::Parquet => text::plain(source, &rules, &mut out)?,
                    }
                    out.flush();
                    Ok(())
                })
            }
        };
        PromptRows { rules: self.rules.clone(), batches, batch: Vec::new().into_iter(), reading: Some(reading) }
    }

    /// What a row is called in messages, before its number.
    pub fn noun(&self) -> &'static str {
        self.rules.noun
    }

    /// What is wrong with a row of it.
    pub fn fault(&self, row: &PromptRow, what: impl Into<String>) -> PromptError {
        self.rules.fault((row.at, what.into()))
    }

    /// What is wrong with it as a whole.
    pub fn broken(&self, what: impl Into<String>) -> PromptError {
        self.rules.broken(what.into())
    }
}

/// Hands over a row for each of the `keys`. Ends early where nobody listens.
async fn named(keys: &[String], out: &Outlet) -> Result<(), PromptError> {
    for (number, keys) in (0u64..).zip(keys.chunks(BATCH)) {
        let first = number * BATCH as u64 + 1;
        let row = |(at, key): (u64, &String)| PromptRow { key: Some(key.clone()), ..PromptRow::at(at) };
        if out.sender.send((first..).zip(keys).map(row).collect()).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The rows of a table, on their way.
pub struct PromptRows {
    rules: Arc<Rules>,
    batches: async_channel::Receiver<Vec<PromptRow>>,
    batch: std::vec::IntoIter<PromptRow>,
    reading: Option<JoinHandle<Result<(), PromptError>>>,
}

impl PromptRows {
    /// The next row, `None` after the last one.
    ///
    /// # Errors
    /// What is wrong with the row, or with the table behind the rows so far.
    pub async fn next(&mut self) -> Result<Option<PromptRow>, PromptError> {
        loop {
            if let Some(row) = self.batch.next() {
                return Ok(Some(row));
            }
            match self.batches.recv().await {
                Ok(batch) => self.batch = batch.into_iter(),
                Err(_) => return self.end().await.map(|()| None),
            }
        }
    }

    /// How the reading ended, told once.
    async fn end(&mut self) -> Result<(), PromptError> {
        match self.reading.take() {
            None => Ok(()),
            Some(reading) => {
                reading.await.unwrap_or_else(|error| Err(self.rules.broken(format!("it cannot be read: {error}"))))
            }
        }
    }
}

/// Where the rows that were read go.
struct Outlet {
    sender: async_channel::Sender<Vec<PromptRow>>,
    batch: Vec<PromptRow>,
}

impl Outlet {
    /// Hands a row over, from a thread that may block. False where nobody wants more.
    fn push(&mut self, row: PromptRow) -> bool {
        self.batch.push(row);
        self.batch.len() < BATCH || self.flush()
    }

    fn flush(&mut self) -> bool {
        let batch = std::mem::take(&mut self.batch);
        batch.is_empty() || self.sender.send_blocking(batch).is_ok()
    }
}

/// An object's plain bytes for a thread that may block.
struct Plain {
    input: Input,
    piece: Bytes,
    runtime: Handle,
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.runtime.block_on(self.input.take(PIECE)).map_err(io::Error::other)?;
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.split_to(count).copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
