//! The plain bytes of an object that may be compressed with zstd, in order, never held whole.

use super::DatasetError;
use super::lend::Chunk;
use super::range_reader::RangeReader;
use bytes::{Buf, Bytes};
use zstd::stream::raw::{Decoder, Operation};
use zstd::zstd_safe::DParameter;

/// How much is unpacked at a time.
const PIECE: usize = 256 << 10;
/// The largest window a frame may ask for, as a power of 2: 128 MiB, what zstd's own tool accepts.
const MAX_WINDOW: u32 = 27;

/// Why no more bytes come.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlainError {
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("the data ends early")]
    Truncated,
    #[error("the compressed data is damaged: {0}")]
    Corrupt(String),
}

/// A stream of plain bytes, with its position.
pub(super) struct Plain {
    source: RangeReader,
    zstd: Option<Box<Zstd>>,
    plain: Chunk,
    position: u64,
}

struct Zstd {
    decoder: Decoder<'static>,
    packed: Bytes,
    piece: Vec<u8>,
    /// Whether the frame in hand lacks its end.
    open: bool,
}

impl Plain {
    pub(super) fn new(source: RangeReader) -> Plain {
        Plain { source, zstd: None, plain: Chunk::default(), position: 0 }
    }

    /// Over compressed data.
    pub(super) fn zstd(source: RangeReader) -> Result<Plain, PlainError> {
        let corrupt = |error: std::io::Error| PlainError::Corrupt(error.to_string());
        let mut decoder = Decoder::new().map_err(corrupt)?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW)).map_err(corrupt)?;
        let zstd = Zstd { decoder, packed: Bytes::new(), piece: vec![0; PIECE], open: false };
        Ok(Plain { zstd: Some(Box::new(zstd)), ..Plain::new(source) })
    }

    /// Plain bytes consumed so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next `count` bytes. Memory is taken as they come: a count that is not true costs nothing.
    pub(super) async fn take(&mut self, count: u64) -> Result<Bytes, PlainError> {
        let count = usize::try_from(count).map_err(|_| PlainError::Truncated)?;
        self.fill().await?;
        if self.plain.rest().len() >= count {
            self.position += count as u64;
            return Ok(self.plain.take(count, self.source.lender()));
        }
        let mut taken = Vec::new();
        while taken.len() < count {
            if !self.fill().await? {
                return Err(PlainError::Truncated);
            }
            let rest = self.plain.rest();
            let n = rest.len().min(count - taken.len());
            taken.extend_from_slice(&rest[..n]);
            self.plain.skip(n);
            self.position += n as u64;
        }
        Ok(taken.into())
    }

    /// Passes over the next `count` bytes, without fetching them where that is possible.
    pub(super) async fn skip(&mut self, count: u64) -> Result<(), PlainError> {
        let mut left = count;
        while left > 0 {
            if self.plain.rest().is_empty() && self.zstd.is_none() {
                let passed = self.source.skip(left);
                self.position += passed;
                return if passed == left { Ok(()) } else { Err(PlainError::Truncated) };
            }
            if !self.fill().await? {
                return Err(PlainError::Truncated);
            }
            let n = self.plain.skip(usize::try_from(left).unwrap_or(usize::MAX)) as u64;
            self.position += n;
            left -= n;
        }
        Ok(())
    }

    /// Sees to it that `plain` holds something; false at the end.
    async fn fill(&mut self) -> Result<bool, PlainError> {
        while self.plain.rest().is_empty() {
            let Some(zstd) = &mut self.zstd else {
                match self.source.chunk().await? {
                    Some(chunk) => self.plain = Chunk::new(chunk),
                    None => return Ok(false),
                }
                continue;
            };
            let mut ended = false;
            if zstd.packed.is_empty() {
                match self.source.chunk().await? {
                    Some(chunk) => zstd.packed = chunk,
                    None => ended = true,
                }
            }
            if ended && !zstd.open {
                return Ok(false);
            }
            self.plain = Chunk::new(zstd.unpack()?);
            if ended && self.plain.rest().is_empty() {
                return Err(PlainError::Truncated);
            }
        }
        Ok(true)
    }
}

impl Zstd {
    /// The next piece; empty when more compressed bytes are needed.
    fn unpack(&mut self) -> Result<Bytes, PlainError> {
        let status = self
            .decoder
            .run_on_buffers(&self.packed, &mut self.piece)
            .map_err(|error| PlainError::Corrupt(error.to_string()))?;
        if status.bytes_read == 0 && status.bytes_written == 0 && !self.packed.is_empty() {
            return Err(PlainError::Corrupt("the decoder does not go on".to_owned()));
        }
        self.packed.advance(status.bytes_read);
        self.open = status.remaining != 0;
        Ok(Bytes::copy_from_slice(&self.piece[..status.bytes_written]))
    }
}
