//! A Parquet file in an object store as the synchronous source that the page readers of the `parquet` crate want.
//!
//! They read a column page by page, where the crate's asynchronous reader fetches a row group's columns whole: row groups of
//! images may have gigabytes. Reading happens on a blocking thread; what it asks for is served from blocks that are fetched
//! ahead. Which blocks, the footer tells: neighbouring columns are one together where they are small, and a large one is several.

use super::DatasetError;
use super::fields::Problem;
use super::page_sizes::PageSizes;
use super::range_reader::{Object, ReadAhead};
use super::task::Task;
use crate::reject::Reason;
use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
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
    /// The blocks that will be asked for, in the file's order.
    plan: Vec<Range<u64>>,
    runtime: Handle,
    /// Resolves when nobody waits for what is read.
    heard: Box<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>,
    /// Those that were asked for, the last used ones last.
    blocks: Mutex<VecDeque<(Range<u64>, Block)>>,
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
    /// Must be called inside a tokio runtime. The `columns` are where the columns that will be read lie. In memory are at most as
    /// many bytes as `2 * (parallel + 1)` chunks of the object's read-ahead have, and the page being read, which may have
    /// `page_limit` bytes.
    pub(super) fn new<T: Send + 'static>(
        object: Object,
        columns: Vec<Range<u64>>,
        page_limit: u64,
        listener: async_channel::Sender<T>,
    ) -> Remote {
        let heard = Box::new(move || -> futures::future::BoxFuture<'static, ()> {
            let listener = listener.clone();
            Box::pin(async move { listener.closed().await })
        });
        let shared = Shared {
            plan: plan(columns, object.read_ahead().chunk, object.size()),
            runtime: Handle::current(),
            heard,
            blocks: Mutex::default(),
            failure: Mutex::default(),
            object,
        };
        Remote { shared: Arc::new(shared), page_limit }
    }

    /// The same file from `start` on, with a limit on pages that is not above `limit`: blocks before it are forgotten.
    pub(super) fn from(&self, start: u64, limit: u64) -> Remote {
        lock(&self.shared.blocks).retain(|(range, _)| range.end > start);
        Remote { shared: Arc::clone(&self.shared), page_limit: self.page_limit.min(limit) }
    }

    /// What the store failed with, if an error of the page readers comes from there.
    pub(super) fn failure(&self) -> Option<DatasetError> {
        lock(&self.shared.failure).take()
    }

    /// The block that holds `position` and where it begins; those after it are asked for.
    fn block(&self, position: u64) -> Result<(u64, Bytes), ParquetError> {
        let (object, plan) = (&self.shared.object, &self.shared.plan);
        let ReadAhead { chunk, parallel, .. } = *object.read_ahead();
        let next = plan.partition_point(|range| range.end <= position);
        let mut blocks = lock(&self.shared.blocks);
        let (wanted, after) = match plan.get(next..).and_then(<[_]>::split_first) {
            Some((range, after)) if range.start <= position => (range.clone(), after),
            // Not where the footer says that a column is.
            next => {
                let limit = next.map_or(object.size(), |(range, _)| range.start);
                let known = blocks.iter().map(|(range, _)| range).find(|range| range.contains(&position));
                let new = || position..limit.min(position.saturating_add(chunk.max(1)));
                (known.cloned().unwrap_or_else(new), &[][..])
            }
        };
        let mut room = chunk.saturating_mul(parallel as u64);
        let fits = |range: &&Range<u64>| {
            let left = room.checked_sub(length(range));
            room = left.unwrap_or(0);
            left.is_some()
        };
        let ahead: Vec<&Range<u64>> = after.iter().take_while(fits).collect();
        for range in ahead.into_iter().rev().chain([&wanted]) {
            let block = match blocks.iter().position(|(known, _)| known == range).and_then(|at| blocks.remove(at)) {
                Some((_, block)) => block,
                None => {
                    let (object, range) = (object.clone(), range.clone());
                    Block::Coming(Task::spawn(async move { object.get(range).await }))
                }
            };
            blocks.push_back((range.clone(), block));
        }
        let limit = chunk.saturating_mul(2 * (parallel as u64 + 1));
        while blocks.len() > 1 && blocks.iter().map(|(range, _)| length(range)).sum::<u64>() > limit {
            blocks.pop_front();
        }
        let (range, block) = blocks.pop_back().ok_or_else(|| ParquetError::General("no block is there".to_owned()))?;
        let bytes = match block {
            Block::Here(bytes) => bytes,
            Block::Coming(task) => self.wait(task)?,
        };
        let start = range.start;
        blocks.push_back((range, Block::Here(bytes.clone())));
        Ok((start, bytes))
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
        let (start, block) = self.block(position)?;
        let from = usize::try_from(position - start).unwrap_or(usize::MAX).min(block.len());
        Ok(block.slice(from..block.len().min(from.saturating_add(most))))
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The most bytes of a block.
pub(super) fn block_limit(chunk: u64) -> u64 {
    chunk.max(1).saturating_mul(2)
}

/// The blocks to fetch of a file in which these columns are read: neighbours together up to twice the usual request size, and in
/// steps of that size what has more.
fn plan(mut columns: Vec<Range<u64>>, chunk: u64, size: u64) -> Vec<Range<u64>> {
    let chunk = chunk.max(1);
    columns.sort_unstable_by_key(|column| column.start);
    let mut plan: Vec<Range<u64>> = Vec::new();
    for column in columns {
        let mut start = column.start.max(plan.last().map_or(0, |last| last.end));
        let end = column.end.min(size);
        match plan.last_mut() {
            Some(last) if last.end == start && end.saturating_sub(last.start) <= block_limit(chunk) => {
                last.end = end.max(last.end);
            }
            _ => {
                while start < end {
                    let step = if end - start <= block_limit(chunk) { end - start } else { chunk };
                    plan.push(start..start + step);
                    start += step;
                }
            }
        }
    }
    plan
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_the_columns() {
        let of = |columns: &[Range<u64>]| plan(columns.to_vec(), 10, 1000);
        assert_eq!(of(&[4..24, 24..25, 25..27]), [4..24, 24..27], "neighbours that are small go together");
        assert_eq!(of(&[24..27, 4..25]), [4..14, 14..27], "more than twice the request size is cut");
        assert_eq!(of(&[4..6, 7..9]), [4..6, 7..9], "what is not asked for is not fetched");
        assert_eq!(of(&[0..8, 4..12, 2..3]), vec![0..12], "overlaps are fetched once");
        assert_eq!(of(&[990..2000, 5..5, 3000..4000]), vec![990..1000], "beyond the file there is nothing");
    }
}
