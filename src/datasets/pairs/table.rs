//! Images and masks in the columns `image` and `mask` of a Parquet file: encoded bytes, or structs of `bytes` and `path`.

use super::{DatasetError, DatasetOptions, Flaw, Pair, changed};
use crate::datasets::fields::Problem;
use crate::datasets::name_list::single_file;
use crate::datasets::parquet::{File, Found, page_limit};
use crate::datasets::parquet_columns::{Columns, Row};
use crate::digest::hex;
use crate::reject::Reason;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Rows that are rather read than passed over, on the way to one that is wanted.
const NEAR: u64 = 100;

/// A Parquet file of pairs. Row groups of any size are read page by page; damage within one costs what is left of that group.
pub struct PairTable {
    file: Arc<File>,
    url: String,
    masked: bool,
    options: DatasetOptions,
}

impl PairTable {
    /// The columns it reads.
    pub const COLUMNS: [&str; 2] = ["image", "mask"];

    /// Opens the table at `url`, which `key` of the pipeline names; masks are read if `masked`.
    ///
    /// # Errors
    /// [`DatasetError::Config`]: no such file, no Parquet file, or one without these columns.
    pub async fn open(key: &str, url: &str, masked: bool, options: DatasetOptions) -> Result<PairTable, DatasetError> {
        let object = single_file(key, url, u64::MAX).await?;
        let wrong = |what: &str| DatasetError::Config(format!("{key} = {url}: {what}"));
        let columns = File::load(object, |schema, _| {
            Columns::pair(PairTable::COLUMNS, masked, schema).map_err(|what| wrong(&what))
        });
        match columns.await? {
            Ok(file) => Ok(PairTable { file: Arc::new(file), url: url.to_owned(), masked, options }),
            Err((_, message)) => Err(wrong(&message)),
        }
    }

    /// The name of the file.
    pub(super) fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or_default()
    }

    /// The file's size, and where its row groups have images and masks.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.file.object.size().to_le_bytes());
        for group in self.file.row_groups() {
            hash.update(group.num_rows().to_le_bytes());
            for column in self.file.read_columns(group) {
                hash.update(column.column_path().string());
                for number in [column.data_page_offset(), column.compressed_size(), column.uncompressed_size()] {
                    hash.update(number.to_le_bytes());
                }
            }
        }
        hex(&hash.finalize())
    }

    fn rows(&self) -> u64 {
        self.file.groups.last().map_or(0, |group| group.end)
    }
}

/// The rows of a table, read ahead from the one that was asked for.
pub struct TableRows {
    table: Arc<PairTable>,
    reading: Option<Reading>,
}

/// What the reading thread found, and is at.
struct Reading {
    thread: JoinHandle<Result<(), DatasetError>>,
    found: async_channel::Receiver<Found>,
    /// The row that comes next.
    next: u64,
    rows: VecDeque<(u64, Row)>,
    /// Rows that cannot be read, and why.
    lost: Option<(Range<u64>, String)>,
}

impl TableRows {
    pub(super) fn new(table: Arc<PairTable>) -> TableRows {
        TableRows { table, reading: None }
    }

    pub(super) async fn get(&mut self, row: u64) -> Result<Result<Pair, Flaw>, DatasetError> {
        let table = self.table.clone();
        if row >= table.rows() {
            return Err(changed(&table.url, "it has fewer rows than were counted"));
        }
        // A thread that reads elsewhere ends when nobody listens to it.
        let is_near = |reading: &Reading| (reading.next..=reading.next.saturating_add(NEAR)).contains(&row);
        let near = self.reading.take().filter(is_near);
        let mut reading = near.unwrap_or_else(|| Reading::start(&table, row));
        // After an error it starts anew.
        let found = reading.get(row).await?;
        self.reading = Some(reading);
        Ok(pair(found, table.masked))
    }
}

impl Reading {
    fn start(table: &PairTable, row: u64) -> Reading {
        let limit = page_limit(&table.options);
        let (thread, found) = table.file.clone().read(row..u64::MAX, limit, table.options.clone());
        Reading { thread, found, next: row, rows: VecDeque::new(), lost: None }
    }

    async fn get(&mut self, row: u64) -> Result<Result<Row, Problem>, DatasetError> {
        self.next = row.saturating_add(1);
        loop {
            if let Some((lost, why)) = &self.lost
                && lost.contains(&row)
            {
                return Ok(Err((Reason::DecodeError, why.clone())));
            }
            while let Some((number, found)) = self.rows.pop_front() {
                if number == row {
                    return Ok(Ok(found));
                }
            }
            match self.found.recv().await {
                Ok(Found::Rows(first, rows)) => self.rows = (first..).zip(rows).collect(),
                Ok(Found::Lost(rows, why)) => self.lost = Some((rows, why)),
                Err(_) => {
                    let ended = (&mut self.thread).await;
                    let gone = || changed("the table", "it ended early");
                    return Err(ended.unwrap_or(Err(DatasetError::Cancelled)).err().unwrap_or_else(gone));
                }
            }
        }
    }
}

/// What a row says.
fn pair(row: Result<Row, Problem>, masked: bool) -> Result<Pair, Flaw> {
    let flaw = |stage, reason, message| Err(Flaw { stage, reason, message });
    match row {
        Ok(Row::Sample { mask: None, .. }) if masked => {
            flaw("mask", Reason::MissingField, "its mask is null, or has no bytes in the file".to_owned())
        }
        Ok(Row::Sample { image, mask, .. }) => Ok(Pair { image, mask, mask_name: "its mask".to_owned() }),
        Ok(Row::Bad { problem: (reason, message), .. }) | Err((reason, message)) => flaw("read", reason, message),
        Ok(Row::Failed { status }) => flaw("read", Reason::MissingField, status),
    }
}
