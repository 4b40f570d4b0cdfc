//! The plain bytes of an archive: an object's chunks, gunzipped where the first two bytes are gzip's (the name says nothing).

use super::DatasetError;
use super::lend::Chunk;
use super::range_reader::RangeReader;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use std::io::{self, Write};

/// How much compressed data is unpacked at a time. Deflate gives at most 1032 bytes for one, so 16 MiB bounds the result.
const PIECE: usize = 16 << 10;

/// What is reserved at once for bytes that may not be there.
const RESERVED: usize = 1 << 20;
/// Bytes that tell every compression known here.
const LONGEST_MAGIC: usize = 6;

/// Why no more bytes come.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("the compressed data ends early")]
    Truncated,
    #[error("the compressed data is damaged: {0}")]
    Corrupt(String),
    #[error("it is compressed with {0}; only gzip and uncompressed archives are read")]
    OtherCompression(&'static str),
}

/// A stream of plain bytes, with its position.
pub(super) struct Input {
    source: RangeReader,
    gunzip: Option<MultiGzDecoder<Vec<u8>>>,
    /// Compressed bytes not unpacked yet.
    packed: Bytes,
    /// Plain bytes not consumed yet.
    plain: Chunk,
    /// What went wrong after the bytes in `plain`.
    failure: Option<InputError>,
    position: u64,
    started: bool,
}

impl Input {
    pub(super) fn new(source: RangeReader) -> Input {
        let (packed, plain) = Default::default();
        let position = source.position();
        Input { source, gunzip: None, packed, plain, failure: None, position, started: false }
    }

    /// The rest of the input as one of its own: positions count from here.
    pub(super) fn restarted(self) -> Input {
        Input { position: 0, ..self }
    }

    /// Plain bytes consumed so far; of a part of an object, with those before it.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Appends the next `count` bytes to `into`, fewer at the end. Returns how many.
    pub(super) async fn read(&mut self, count: usize, into: &mut Vec<u8>) -> Result<usize, InputError> {
        let mut done = 0;
        while done < count && self.fill().await? {
            let rest = self.plain.rest();
            let n = rest.len().min(count - done);
            into.extend_from_slice(&rest[..n]);
            self.plain.skip(n);
            self.position += n as u64;
            done += n;
        }
        Ok(done)
    }

    /// The next `count` bytes, fewer at the end; without a copy where they lie in one chunk. Memory is taken as they come: a
    /// count that is not true costs nothing.
    pub(super) async fn take(&mut self, count: usize) -> Result<Bytes, InputError> {
        if self.fill().await? && self.plain.rest().len() >= count && self.gunzip.is_none() {
            self.position += count as u64;
            return Ok(self.plain.take(count, self.source.lender()));
        }
        let mut taken = Vec::with_capacity(count.min(RESERVED));
        self.read(count, &mut taken).await?;
        Ok(taken.into())
    }

    /// Passes over the next `count` bytes, without fetching them where the store allows. Returns how many: fewer at the end.
    pub(super) async fn skip(&mut self, count: u64) -> Result<u64, InputError> {
        let mut done = 0;
        while done < count
            && (self.gunzip.is_some() || !self.plain.rest().is_empty() || !self.started)
            && self.fill().await?
        {
            done += self.plain.skip(usize::try_from(count - done).unwrap_or(usize::MAX)) as u64;
        }
        if done < count && self.gunzip.is_none() {
            done += self.source.skip(count - done);
        }
        self.position += done;
        Ok(done)
    }

    /// Sees to it that `plain` holds something; false at the end.
    async fn fill(&mut self) -> Result<bool, InputError> {
        while self.plain.rest().is_empty() {
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if self.packed.is_empty() {
                match self.source.chunk().await? {
                    Some(chunk) if self.gunzip.is_some() => self.packed = chunk,
                    Some(chunk) if self.started => self.plain = Chunk::new(chunk),
                    Some(chunk) => self.begin(chunk).await?,
                    None => return self.finish(),
                }
            }
            self.unpack();
        }
        Ok(true)
    }

    /// Takes the first bytes, which tell whether the archive is compressed.
    async fn begin(&mut self, mut first: Bytes) -> Result<(), InputError> {
        while first.len() < LONGEST_MAGIC
            && let Some(more) = self.source.chunk().await?
        {
            first = [first, more].concat().into();
        }
        self.started = true;
        match &first[..] {
            [0x1f, 0x8b, ..] => {
                self.gunzip = Some(MultiGzDecoder::new(Vec::new()));
                self.packed = first;
                return Ok(());
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(InputError::OtherCompression("zstd")),
            [b'B', b'Z', b'h', ..] => return Err(InputError::OtherCompression("bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(InputError::OtherCompression("xz")),
            _ => self.plain = Chunk::new(first),
        }
        Ok(())
    }

    /// Unpacks one piece. What was unpacked before a failure is kept; the failure comes after it.
    fn unpack(&mut self) {
        let Some(decoder) = &mut self.gunzip else { return };
        let piece = self.packed.split_to(self.packed.len().min(PIECE));
        if let Err(error) = decoder.write_all(&piece) {
            self.failure = Some(broken(error));
        }
        self.plain = Chunk::new(std::mem::take(decoder.get_mut()).into());
    }

    fn finish(&mut self) -> Result<bool, InputError> {
        let Some(mut decoder) = self.gunzip.take() else { return Ok(false) };
        // The gzip stream is over: from here on the input is a plain one that has ended.
        if let Err(error) = decoder.try_finish() {
            self.failure = Some(broken(error));
        }
        self.plain = Chunk::new(std::mem::take(decoder.get_mut()).into());
        match (self.plain.rest().is_empty(), self.failure.take()) {
            (true, Some(failure)) => Err(failure),
            (empty, failure) => {
                self.failure = failure;
                Ok(!empty)
            }
        }
    }
}

fn broken(error: io::Error) -> InputError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => InputError::Truncated,
        _ => InputError::Corrupt(error.to_string()),
    }
}
