//! Reads an object from its beginning to its end by ranged GETs that run ahead, never holding it whole.
//!
//! At most [`ReadAhead::parallel`] + 1 ranges of [`ReadAhead::chunk`] bytes are in memory. A request that fails in a way that
//! can pass, or gets no answer, is repeated with backoff; a body that breaks or stands still is resumed after the last byte
//! received. Every answer must come from the same version of the object: the same size and the same entity tag or, where the
//! store gives none, the same time of change. Else the unit fails with [`DatasetError::Changed`].

use super::lend::Lender;
use super::pieces::{self, Pieces};
use super::task::Task;
use super::{DatasetError, Source};
use crate::retry::{Failures, Retries, ended_early};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// How far and in which steps objects are read ahead, and how failures are repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAhead {
    /// Bytes a ranged GET asks for.
    pub chunk: u64,
    /// How many GETs of one object are under way beyond the chunk being read.
    pub parallel: usize,
    /// How often a range is asked for before the unit fails, and how long an answer may take. The store's own retries come
    /// on top, for each time.
    pub retries: Retries,
}

/// The most bytes that one read of a local file asks for: there is no latency to hide, and pieces that fit into the processor's
/// cache are read from the page cache at twice the speed of large ones.
const LOCAL_CHUNK: u64 = 1 << 20;

impl Default for ReadAhead {
    fn default() -> Self {
        ReadAhead { chunk: 8 << 20, parallel: 2, retries: Retries::default() }
    }
}

/// What tells one state of an object from the next, besides its size.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Version {
    /// Its entity tag.
    Tag(String),
    /// In microseconds since 1970, where the store gives no entity tag.
    ChangedAt(i64),
}

impl Version {
    fn of(meta: &ObjectMeta) -> Version {
        match &meta.e_tag {
            Some(etag) => Version::Tag(bare_etag(etag).to_owned()),
            None => Version::ChangedAt(meta.last_modified.timestamp_micros()),
        }
    }
}

/// An entity tag without its quotes and its mark of weakness: Azure lists `0x1` and answers `"0x1"`, and servers that compress
/// on the way answer `W/"1"` for what HEAD called `"1"`.
pub(super) fn bare_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// An object in its store, with what is known of its version.
#[derive(Clone)]
pub struct Object {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// For messages.
    name: Arc<str>,
    size: u64,
    etag: Option<Arc<str>>,
    /// The version the first answer came from.
    version: Arc<OnceLock<Version>>,
    options: ReadAhead,
    /// Whether its store hands out files.
    local: bool,
    lender: Lender,
}

impl Object {
    /// Size of the object in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The object at `path` that was listed as `source`.
    pub fn new(store: Arc<dyn ObjectStore>, path: Path, source: &Source, options: &ReadAhead) -> Object {
        Object {
            store,
            path,
            name: source.path.as_str().into(),
            size: source.size,
            etag: source.etag.as_deref().map(Into::into),
            version: Arc::default(),
            options: options.clone(),
            local: false,
            lender: Lender::default(),
        }
    }

    /// The same object, which is a local file or not, and whose chunks count together with those of the other objects of
    /// `lender`.
    pub(super) fn placed(self, local: bool, lender: &Lender) -> Object {
        Object { local, lender: lender.clone(), ..self }
    }

    /// What may be lent of its chunks.
    pub(super) fn lender(&self) -> &Lender {
        &self.lender
    }

    /// How it is read ahead.
    pub(super) fn read_ahead(&self) -> &ReadAhead {
        &self.options
    }

    /// Reads `range`, repeating and resuming as needed. Fails unless all bytes came from one version of the object.
    pub async fn get(&self, range: Range<u64>) -> Result<Bytes, DatasetError> {
        let mut received = Vec::new();
        let mut failures = Failures::new(self.options.retries);
        loop {
            let start = range.start + length(&received);
            if start >= range.end {
                return Ok(joined(received));
            }
            match self.get_once(start..range.end, &mut received).await {
                Ok(()) => {}
                Err(DatasetError::Store { source, path }) => {
                    if let Err(source) = failures.wait_after(&path, source).await {
                        return Err(self.failed(source, path).await);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What a failure for good was: a range that fails because the object shrank is a change, not a fault of the store.
    async fn failed(&self, source: object_store::Error, path: String) -> DatasetError {
        let now = self.options.retries.piece(self.store.head(&self.path)).await;
        match now.ok().and_then(|meta| self.check(&meta).err()) {
            Some(changed) => changed,
            None => DatasetError::Store { path, source },
        }
    }

    /// One request; what arrives is pushed to `received` even if the body breaks later.
    async fn get_once(&self, range: Range<u64>, received: &mut Vec<Bytes>) -> Result<(), DatasetError> {
        let failed = |source| DatasetError::Store { path: self.name.to_string(), source };
        let retries = &self.options.retries;
        let whole = range == (0..self.size);
        // A whole object needs no range: the request is simpler, and servers without ranges can answer it.
        let options = GetOptions { range: (!whole).then(|| range.clone().into()), ..GetOptions::default() };
        let result = match retries.piece(self.store.get_opts(&self.path, options)).await {
            Err(object_store::Error::Precondition { source, .. }) => return Err(self.changed(source.to_string())),
            other => other.map_err(failed)?,
        };
        self.check(&result.meta)?;
        let wanted = range.end - range.start;
        let (before, parts) = (length(received), received.len());
        match result.payload {
            GetResultPayload::File(file, _) => {
                received.push(retries.piece(from_file(file, range)).await.map_err(failed)?);
            }
            GetResultPayload::Stream(mut body) => {
                while let Some(bytes) = retries.piece(body.try_next()).await.map_err(failed)? {
                    received.push(bytes);
                }
            }
        }
        let arrived = length(received) - before;
        if arrived > wanted {
            // Which of these bytes are the right ones, nobody knows.
            received.truncate(parts);
        }
        if arrived != wanted {
            return Err(failed(ended_early(arrived, wanted)));
        }
        Ok(())
    }

    /// The pieces of `part` of a local file; `None` where it must be read by ranges, which tell what is wrong with it.
    async fn pieces(&self, part: Range<u64>) -> Option<Pieces> {
        let options = GetOptions { range: Some(part.clone().into()), ..GetOptions::default() };
        let answer = self.options.retries.piece(self.store.get_opts(&self.path, options)).await.ok()?;
        self.check(&answer.meta).ok()?;
        match answer.payload {
            GetResultPayload::File(file, _) => Some(Pieces::start(file, part, self.options.chunk.min(LOCAL_CHUNK))),
            GetResultPayload::Stream(_) => None,
        }
    }

    fn check(&self, meta: &ObjectMeta) -> Result<(), DatasetError> {
        if meta.size != self.size {
            return Err(self.changed(format!("{} bytes instead of {}", meta.size, self.size)));
        }
        if let (Some(listed), Some(now)) = (self.etag.as_deref(), meta.e_tag.as_deref())
            && bare_etag(listed) != bare_etag(now)
        {
            return Err(self.changed(format!("entity tag {now} instead of {listed}")));
        }
        let version = Version::of(meta);
        match *self.version.get_or_init(|| version.clone()) == version {
            true => Ok(()),
            false => Err(self.changed("two requests were answered from two versions".into())),
        }
    }

    fn changed(&self, detail: String) -> DatasetError {
        DatasetError::Changed { path: self.name.to_string(), detail }
    }
}

fn length(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

fn joined(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() <= 1 {
        return parts.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all.freeze()
}

/// The bytes of a range of a local file.
async fn from_file(mut file: File, range: Range<u64>) -> Result<Bytes, object_store::Error> {
    let read = move || {
        file.seek(SeekFrom::Start(range.start))?;
        pieces::next(&mut file, range.end.saturating_sub(range.start))
    };
    let read = tokio::task::spawn_blocking(read).await?;
    read.map_err(|source| object_store::Error::Generic { store: "LocalFileSystem", source: source.into() })
}

/// What follows the first `count` bytes, over which a skip may have gone. It owns its memory and no more.
fn behind(bytes: Bytes, count: u64) -> Bytes {
    match usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len()) {
        0 => bytes,
        count => Bytes::copy_from_slice(&bytes[count..]),
    }
}

/// Streams one object in order.
pub struct RangeReader {
    object: Object,
    /// Where reading ends: the object's end, or that of a part of it.
    end: u64,
    /// Where the next chunk handed out starts.
    position: u64,
    /// Where the next request starts.
    next: u64,
    ahead: VecDeque<(Range<u64>, Task<Bytes>)>,
    /// Whether the object is read as a file is, and what is coming of it.
    in_pieces: bool,
    pieces: Option<Pieces>,
}

impl RangeReader {
    /// A reader at the start of `object`. Nothing is asked for before the first [`RangeReader::chunk`].
    pub fn new(object: Object) -> RangeReader {
        let end = object.size;
        RangeReader::within(object, 0..end)
    }

    /// A reader of a part of `object` only; what lies beyond the object's end is left out.
    pub fn within(object: Object, part: Range<u64>) -> RangeReader {
        let end = part.end.min(object.size);
        let start = part.start.min(end);
        // Where nothing is to be read ahead, steps are small and far apart.
        let in_pieces = object.local && object.options.parallel > 0;
        RangeReader { object, end, position: start, next: start, ahead: VecDeque::new(), in_pieces, pieces: None }
    }

    /// Size of the object in bytes.
    pub fn size(&self) -> u64 {
        self.object.size
    }

    /// Where in the object the next bytes lie.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes, `None` at the end. Must run inside a tokio runtime.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, DatasetError> {
        if let Some(bytes) = self.piece().await {
            return Ok(Some(bytes));
        }
        while self.ahead.len() <= self.object.options.parallel && self.next < self.end {
            let range = self.next..self.end.min(self.next.saturating_add(self.object.options.chunk.max(1)));
            self.next = range.end;
            let (object, wanted) = (self.object.clone(), range.clone());
            self.ahead.push_back((range, Task::spawn(async move { object.get(wanted).await })));
        }
        let Some((range, task)) = self.ahead.pop_front() else { return Ok(None) };
        let bytes = task.join().await?;
        let bytes = behind(bytes, self.position - range.start);
        self.position = range.end;
        Ok(Some(bytes))
    }

    /// The next bytes of a local file; `None` where ranges have to be asked for.
    async fn piece(&mut self) -> Option<Bytes> {
        while self.in_pieces && self.position < self.end {
            // Far ahead of the thread it is not waited for.
            let near = |pieces: &Pieces| self.position - pieces.position <= 2 * pieces.size;
            let mut pieces = match self.pieces.take().filter(near) {
                Some(pieces) => pieces,
                None => match self.object.pieces(self.position..self.end).await {
                    Some(pieces) => pieces,
                    None => break,
                },
            };
            let start = pieces.position;
            let Ok(bytes) = self.object.options.retries.piece(pieces.next()).await else { break };
            let end = pieces.position;
            self.pieces = Some(pieces);
            if end > self.position {
                let bytes = behind(bytes, self.position - start);
                (self.position, self.next) = (end, end);
                return Some(bytes);
            }
        }
        // Left before the end: what is wrong, ranges will tell.
        self.in_pieces &= self.position >= self.end;
        None
    }

    /// What may be lent of the chunks.
    pub(super) fn lender(&self) -> &Lender {
        &self.object.lender
    }

    /// Passes over `count` bytes of those not handed out yet; requests that lie wholly inside are dropped. Returns how many
    /// bytes were passed over: fewer at the end.
    pub fn skip(&mut self, count: u64) -> u64 {
        let target = self.position.saturating_add(count).min(self.end);
        let passed = target - self.position;
        self.position = target;
        while self.ahead.front().is_some_and(|(range, _)| range.end <= target) {
            self.ahead.pop_front();
        }
        self.next = self.next.max(target);
        passed
    }
}

#[cfg(test)]
#[path = "range_reader_tests.rs"]
mod tests;
