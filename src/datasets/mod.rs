//! Work units and readers: one file per dataset format, over any object store.
//!
//! A [`Reader`] lists the work units of a dataset and reads one of them at a time into an [`Output`]. Units are the grain of
//! commit and retry; their names and order depend on the dataset alone, never on the store or the run.

mod bitmap;
mod brace;
mod caption_table;
mod example;
mod ffhq_list;
mod fields;
mod finished;
mod folder;
mod imagenet_index;
mod imagenet_labels;
mod imagenet_split;
mod imagenet_synsets;
mod imagenet_tar;
mod input;
mod inquire;
mod lend;
mod listing;
mod lmdb_names;
mod lmdb_page;
mod lmdb_pages;
mod lmdb_rows;
mod lmdb_tree;
mod lsun_lmdb;
mod matlab;
mod mds;
mod mds_index;
mod name_list;
mod open;
mod page_sizes;
mod pairs;
mod parquet;
mod parquet_columns;
mod parquet_source;
mod pieces;
mod plain;
pub mod prompts;
mod range_reader;
mod recent;
mod samples;
mod sidecars;
mod store;
mod stylegan_zip;
mod tally;
mod tar;
mod tar_parts;
mod task;
mod tfrecord;
mod webdataset;
mod zip_directory;

pub use brace::{BraceError, expand, split_list};
pub use caption_table::{CaptionTable, ColumnOrder, TableLine};
pub use folder::{Folder, IMAGES};
pub use imagenet_labels::Mapping;
pub use imagenet_split::Split;
pub(crate) use imagenet_synsets::class_of as imagenet_class;
pub use imagenet_tar::ImageNetTar;
pub use listing::{Files, Listing, Wanted};
pub use lsun_lmdb::LsunLmdb;
pub use mds::Mds;
pub use name_list::{read_lines, read_list};
pub use open::{Captions, DatasetOptions, Format, Labels, open};
pub use pairs::{Flaw, Pair, PairFolders, PairRows, PairTable, Pairs};
pub use parquet::{ParquetImages, Table};
pub use range_reader::{Object, RangeReader, ReadAhead};
pub use store::Location;
pub(crate) use store::credentials_hint;
pub use stylegan_zip::StyleGanZip;
pub use tally::NotDownloaded;
pub(crate) use tfrecord::masked_crc;
pub use tfrecord::{Records, TfRecord};
pub use webdataset::WebDataset;

use crate::reject::{Reason, Reject};
use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use std::ops::Range;
use std::pin::pin;

/// A part of a dataset that is read, committed and retried as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name: path relative to the dataset's root, plus a range where it is a part of one: `train/0001.tar`,
    /// `train@000000000-000005000`.
    pub name: String,
    /// The objects it reads, relative to the dataset's root, with their sizes.
    pub sources: Vec<Source>,
    /// Which of the source's samples (or bytes, or of the dataset's files) it holds, where it is a slice.
    pub range: Option<Range<u64>>,
}

/// An object a unit reads, or a block of many small objects taken as one (see [`Folder`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Path relative to the dataset's root.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Entity tag, where the store has one that survives a copy (none on local disks).
    pub etag: Option<String>,
}

/// One sample as it lies in the dataset: encoded image bytes and what is known of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The shard or file it came from, relative to the dataset's root.
    pub source: String,
    /// Its name within the source: WebDataset key, file path, LMDB key.
    pub key: String,
    /// Position in the unit, counted over all samples, rejected ones included.
    pub index: u64,
    /// Class, when the dataset has one.
    pub label: Option<i32>,
    /// Caption, when the dataset has one.
    pub caption: Option<String>,
    /// The image file's bytes, of any format.
    pub image: Bytes,
    /// Width and height before img2dataset scaled and padded it, where that is recorded and
    /// [`DatasetOptions::original_sizes`] asks for it.
    pub original: Option<(u32, u32)>,
}

/// What a reader finds in a unit, in the unit's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Sample(Sample),
    Reject(Reject),
}

/// Why a dataset, or a unit of it, could not be read. Bad samples are not errors: they become [`Reject`]s.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The dataset is not what the pipeline says: wrong URL, empty listing, unreadable list file.
    #[error("{0}")]
    Config(String),
    /// The store failed, after its own retries.
    #[error("cannot read {path}: {source}")]
    Store {
        path: String,
        #[source]
        source: object_store::Error,
    },
    /// The object is not the one that was listed.
    #[error("{path} changed while it was being read ({detail}); run the command again once it is stable")]
    Changed { path: String, detail: String },
    /// Nobody is listening any more: the run is being cancelled.
    #[error("the run was cancelled")]
    Cancelled,
}

/// Where a reader puts what it finds: a bounded channel, so that sending waits while the run is busy.
#[derive(Clone, Debug)]
pub struct Output {
    sender: async_channel::Sender<Entry>,
    not_downloaded: NotDownloaded,
}

impl Output {
    /// An output and the receiving end of its channel, which holds at most `capacity` entries.
    pub fn channel(capacity: usize) -> (Output, async_channel::Receiver<Entry>) {
        let (sender, receiver) = async_channel::bounded(capacity.max(1));
        (Output { sender, not_downloaded: NotDownloaded::default() }, receiver)
    }

    /// Rows of the dataset that never held an image, because it could not be fetched: neither samples nor rejects, but
    /// counted here.
    pub fn not_downloaded(&self) -> &NotDownloaded {
        &self.not_downloaded
    }

    /// Passes a sample on.
    pub async fn sample(&self, sample: Sample) -> Result<(), DatasetError> {
        self.send(Entry::Sample(sample)).await
    }

    /// Reports a sample, or the rest of a container, that cannot be read.
    pub async fn reject(
        &self,
        unit: &Unit,
        source: &str,
        key: &str,
        index: u64,
        reason: Reason,
        message: impl Into<String>,
    ) -> Result<(), DatasetError> {
        self.send(Entry::Reject(Reject {
            source: source.to_owned(),
            key: key.to_owned(),
            index,
            unit: unit.name.clone(),
            stage: "read",
            reason,
            message: message.into(),
        }))
        .await
    }

    /// Runs `work` to its end, or until nobody listens any more: a read that hangs in a slow store must not hold up the end
    /// of a cancelled run.
    pub async fn while_wanted<T>(
        &self,
        work: impl Future<Output = Result<T, DatasetError>>,
    ) -> Result<T, DatasetError> {
        match select(pin!(work), pin!(self.sender.closed())).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(DatasetError::Cancelled),
        }
    }

    async fn send(&self, entry: Entry) -> Result<(), DatasetError> {
        self.sender.send(entry).await.map_err(|_| DatasetError::Cancelled)
    }
}

/// A dataset format. Implement it for a format of one's own; `tests/readers/` is the suite every reader passes.
pub trait Reader: Send + Sync {
    /// All work units of the dataset, in the dataset's order: the same names on every store.
    fn units(&self) -> BoxFuture<'_, Result<Vec<Unit>, DatasetError>>;

    /// Shards that are no units, because the program that makes them has not finished them (it was killed, or still runs):
    /// their paths, for the run's summary.
    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<String>, DatasetError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Reads one unit into `out`, in order. What can be read is sent even where the rest is broken; an error means that the
    /// unit must be tried again as a whole.
    fn read<'a>(&'a self, unit: &'a Unit, out: &'a Output) -> BoxFuture<'a, Result<(), DatasetError>>;

    /// Keeps what [`Reader::units`] took many requests to find out in [`DatasetOptions::index`], for the next run. A job calls
    /// it once it may write there. Most formats have nothing to keep; a failure to do so is only logged.
    fn keep(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Reads a whole unit into memory: for tests, tools and small units. A run streams the entries instead.
pub async fn read_unit(reader: &dyn Reader, unit: &Unit) -> Result<Vec<Entry>, DatasetError> {
    let (out, receiver) = Output::channel(16);
    let read = async {
        let result = reader.read(unit, &out).await;
        // Ends the channel, and with it the collecting.
        drop(out);
        result
    };
    let collect = async {
        let mut entries = Vec::new();
        while let Ok(entry) = receiver.recv().await {
            entries.push(entry);
        }
        entries
    };
    let (result, entries) = futures::future::join(read, collect).await;
    result.map(|()| entries)
}

#[cfg(test)]
mod damage_tests;
