//! A Parquet file in an object store as the synchronous source that the page readers of the `parquet` crate want.
//!
//! They read a column page by page, where the crate's asynchronous reader fetches a row group's columns whole: row groups of
//! images may have gigabytes. Reading happens on a blocking thread; what it asks for is served from blocks of the usual
//! request size that are fetched ahead.

use super::DatasetError;
use super::fields::Problem;
use super::page_sizes::PageSizes;
use super::range_reader::Object;
use super::task::Task;
use crate::reject::Reason;
use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

const MAGIC: &[u8] = b"PAR1";
/// Length of the footer, and the signature.
const TAIL: u64 = 8;
/// How much of the end is fetched at first: most footers whole.
const FIRST: u64 = 64 << 10;
const MAX_FOOTER: u64 = 128 << 20;

/// A file's footer, or why the file cannot be read.
pub(super) async fn footer(object: &Object) -> Result<Result<ParquetMetaData, Problem>, DatasetError> {
    let size = object.size();
    let broken = |reason, message: &str| Ok(Err((reason, message.to_owned())));
    if size == 0 {
        return broken(Reason::Empty, "the file has no bytes");
    }
    if size < TAIL + 4 {
        return broken(Reason::NotAParquet, "it is too short for a Parquet file");
    }
    let start = size.saturating_sub(FIRST);
    let mut tail = object.get(start..size).await?;
    let [a, b, c, d, magic @ ..] = &tail[tail.len() - TAIL as usize..] else {
        return broken(Reason::NotAParquet, "it is too short for a Parquet file");
    };
    let length = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
    if magic != MAGIC {
        return match &object.get(0..4).await?[..] {
            MAGIC => broken(Reason::Truncated, "it ends before its footer"),
            _ if magic == b"PARE" => broken(Reason::UnsupportedFormat, "its footer is encrypted"),
            _ => broken(Reason::NotAParquet, "it lacks Parquet's signature"),
        };
    }
    if length > (size - TAIL - 4).min(MAX_FOOTER) {
        return broken(Reason::CorruptContainer, "the length of its footer is damaged");
    }
    let footer = size - TAIL - length;
    if footer < start {
        let before = object.get(footer..start).await?;
        tail = [before, tail].concat().into();
    }
    let from = (footer.max(start) - footer.min(start)) as usize;
    let from = if footer < start { 0 } else { from };
    let bytes = tail.slice(from..tail.len() - TAIL as usize);
    // Other people's code on a stranger's bytes: should it panic, one file is lost.
    let decoded = catch_unwind(AssertUnwindSafe(|| ParquetMetaDataReader::decode_metadata(&bytes)));
    Ok(match decoded {
        Ok(Ok(metadata)) => Ok(metadata),
        Ok(Err(error)) => Err((Reason::CorruptContainer, format!("its footer is damaged ({error})"))),
        Err(_) => Err((Reason::CorruptContainer, "its footer is damaged".to_owned())),
    })
}

/// A file to be read on a blocking thread, until nobody listens to `heard` any more.
#[derive(Clone)]
pub(super) struct Remote {
    shared: Arc<Shared>,
    /// The most bytes a page may have, in the file and unpacked.
    page_limit: u64,
}

struct Shared {
    object: Object,
    block: u64,
    parallel: usize,
    runtime: Handle,
    /// Resolves when nobody waits for what is read.
    heard: Box<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>,
    blocks: Mutex<VecDeque<(u64, Block)>>,
    failure: Mutex<Option<DatasetError>>,
}

enum Block {
    Coming(Task<Bytes>),
    Here(Bytes),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Remote {
    /// Must be called inside a tokio runtime. In memory are at most `2 * (parallel + 1)` blocks, and the page being read, which
    /// may have `page_limit` bytes.
    pub(super) fn new<T: Send + 'static>(
        object: Object,
        block: u64,
        parallel: usize,
        page_limit: u64,
        listener: async_channel::Sender<T>,
    ) -> Remote {
        let heard = Box::new(move || -> futures::future::BoxFuture<'static, ()> {
            let listener = listener.clone();
            Box::pin(async move { listener.closed().await })
        });
        let shared = Shared {
            object,
            block: block.max(1),
            parallel,
            runtime: Handle::current(),
            heard,
            blocks: Mutex::default(),
            failure: Mutex::default(),
        };
        Remote { shared: Arc::new(shared), page_limit }
    }

    /// The same file with a limit on pages that is not above `limit`.
    pub(super) fn with_pages_below(&self, limit: u64) -> Remote {
        Remote { shared: Arc::clone(&self.shared), page_limit: self.page_limit.min(limit) }
    }

    /// What the store failed with, if an error of the page readers comes from there.
    pub(super) fn failure(&self) -> Option<DatasetError> {
        lock(&self.shared.failure).take()
    }

    /// The block at `index`, and those after it asked for.
    fn block(&self, index: u64) -> Result<Bytes, ParquetError> {
        let shared = &self.shared;
        let mut blocks = lock(&shared.blocks);
        let last = shared.object.size().saturating_sub(1) / shared.block;
        for wanted in index..=last.min(index.saturating_add(shared.parallel as u64)) {
            let known = blocks.iter().position(|(at, _)| *at == wanted).and_then(|at| blocks.remove(at));
            let block = known.unwrap_or_else(|| {
                let start = wanted * shared.block;
                let range = start..shared.object.size().min(start.saturating_add(shared.block));
                let object = shared.object.clone();
                (wanted, Block::Coming(Task::spawn(async move { object.get(range).await })))
            });
            blocks.push_back(block);
        }
        while blocks.len() > 2 * (shared.parallel + 1) {
            blocks.pop_front();
        }
        let lost = || ParquetError::General("the block is not there".to_owned());
        let at = blocks.iter().position(|(at, _)| *at == index).ok_or_else(lost)?;
        let (_, block) = blocks.remove(at).ok_or_else(lost)?;
        let bytes = match block {
            Block::Here(bytes) => bytes,
            Block::Coming(task) => self.wait(task)?,
        };
        blocks.push_back((index, Block::Here(bytes.clone())));
        Ok(bytes)
    }

    fn wait(&self, task: Task<Bytes>) -> Result<Bytes, ParquetError> {
        let gone = (self.shared.heard)();
        let result = self.shared.runtime.block_on(async {
            match select(pin!(task.join()), gone).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => Err(DatasetError::Cancelled),
            }
        });
        result.map_err(|error| {
            let message = error.to_string();
            *lock(&self.shared.failure) = Some(error);
            ParquetError::General(message)
        })
    }

    /// Some of the bytes at `position`, at most `most`; none at the end.
    fn some(&self, position: u64, most: usize) -> Result<Bytes, ParquetError> {
        if position >= self.shared.object.size() {
            return Ok(Bytes::new());
        }
        let block = self.block(position / self.shared.block)?;
        let from = ((position % self.shared.block) as usize).min(block.len());
        Ok(block.slice(from..block.len().min(from.saturating_add(most))))
    }
}

impl Length for Remote {
    fn len(&self) -> u64 {
        self.shared.object.size()
    }
}

impl ChunkReader for Remote {
    type T = At;

    fn get_read(&self, start: u64) -> Result<At, ParquetError> {
        Ok(At { source: self.clone(), position: start, sizes: PageSizes::new(self.page_limit) })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start.checked_add(length as u64).filter(|end| *end <= self.shared.object.size());
        if end.is_none() {
            return Err(ParquetError::EOF(format!("a page at byte {start} reaches beyond the file")));
        }
        if length as u64 > self.page_limit {
            return Err(ParquetError::General(format!("a page has {length} bytes, more than {}", self.page_limit)));
        }
        let first = self.some(start, length)?;
        if first.len() == length {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(length);
        all.extend_from_slice(&first);
        while all.len() < length {
            let more = self.some(start + all.len() as u64, length - all.len())?;
            if more.is_empty() {
                return Err(ParquetError::EOF("the file ended early".to_owned()));
            }
            all.extend_from_slice(&more);
        }
        Ok(all.freeze())
    }
}

/// A place in the file to read on from: page headers are read this way, and nothing else is.
pub(super) struct At {
    source: Remote,
    position: u64,
    sizes: PageSizes,
}

impl Read for At {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.source.some(self.position, into.len()).map_err(io::Error::other)?;
        into[..bytes.len()].copy_from_slice(&bytes);
        self.position += bytes.len() as u64;
        self.sizes.check(&bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }
}
