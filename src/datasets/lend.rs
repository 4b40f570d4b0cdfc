//! Images handed out as parts of the chunk they were read in, without a copy, within a bound on what that keeps in memory.
//!
//! A part keeps its whole chunk alive: an image of 1 KB may keep 8 MiB, of which the run's byte budget sees 1 KB. So the chunks
//! that parts keep are bounded by themselves: [`LIMIT`] bytes for all objects of a reader. Where that is used up, because whoever
//! takes the images holds on to them, further ones are copied.

use bytes::{Buf, Bytes};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most bytes of chunks that handed out parts keep in memory.
pub(super) const LIMIT: usize = 32 << 20;
/// Parts that are shorter are copied: that costs nothing, and they would keep much for little.
const SHORTEST: usize = 4 << 10;
/// What one permit stands for.
const UNIT: usize = 1 << 10;

/// What a reader may still lend of its chunks. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Lender(Arc<Semaphore>);

impl Default for Lender {
    fn default() -> Lender {
        Lender(Arc::new(Semaphore::new(LIMIT / UNIT)))
    }
}

impl Lender {
    /// The same bytes, which may be handed out in parts from here on: the last of them gives back what is taken here for the
    /// `size` bytes that they keep in memory. `None` where that is more than is left.
    fn lend(&self, bytes: &Bytes, size: usize) -> Option<Bytes> {
        let permits = u32::try_from(size.div_ceil(UNIT)).ok()?;
        let permit = Arc::clone(&self.0).try_acquire_many_owned(permits).ok()?;
        Some(Bytes::from_owner(Lent { bytes: bytes.clone(), _permit: permit }))
    }
}

/// Bytes that are lent until they are dropped.
struct Lent {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A chunk of which parts are handed out.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// What is not consumed yet.
    rest: Bytes,
    /// Bytes that a part of it keeps in memory.
    size: usize,
    lent: bool,
}

impl Chunk {
    /// A chunk whose memory is `bytes` and nothing more.
    pub(super) fn new(bytes: Bytes) -> Chunk {
        Chunk { size: bytes.len(), rest: bytes, lent: false }
    }

    /// A chunk that keeps up to `size` bytes in memory, of which `bytes` are a part.
    pub(super) fn within(bytes: Bytes, size: usize) -> Chunk {
        Chunk { size: size.max(bytes.len()), rest: bytes, lent: false }
    }

    /// What is not consumed yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// Hands out a part of what is not consumed, which must be in reach: in place if `lender` allows it.
    pub(super) fn part(&mut self, place: Range<usize>, lender: &Lender) -> Bytes {
        if place.len() >= SHORTEST
            && !self.lent
            && let Some(lent) = lender.lend(&self.rest, self.size)
        {
            (self.rest, self.lent) = (lent, true);
        }
        match self.lent && place.len() >= SHORTEST {
            true => self.rest.slice(place),
            false => Bytes::copy_from_slice(&self.rest[place]),
        }
    }

    /// Consumes the first `count` bytes, or all there are, and hands them out like [`Chunk::part`].
    pub(super) fn take(&mut self, count: usize, lender: &Lender) -> Bytes {
        let part = self.part(0..count.min(self.rest.len()), lender);
        self.skip(part.len());
        part
    }

    /// Consumes the first `count` bytes, or all there are. Returns how many.
    pub(super) fn skip(&mut self, count: usize) -> usize {
        let count = count.min(self.rest.len());
        self.rest.advance(count);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        Chunk::new(vec![7; LIMIT / 4].into())
    }

    #[test]
    fn no_more_than_the_limit_is_kept_by_parts() {
        let lender = Lender::default();
        let kept: Vec<Bytes> = (0..6)
            .map(|_| {
                let mut chunk = chunk();
                let (whole, part) = (chunk.rest().as_ptr(), chunk.take(SHORTEST, &lender));
                assert_eq!((part.len(), chunk.rest().len()), (SHORTEST, LIMIT / 4 - SHORTEST));
                (part, whole)
            })
            .enumerate()
            .map(|(number, (part, whole))| {
                assert_eq!(part.as_ptr() == whole, number < 4, "the fifth is a copy");
                part
            })
            .collect();
        assert_eq!(lender.0.available_permits(), 0);
        drop(kept);
        assert_eq!(lender.0.available_permits(), LIMIT / UNIT);
    }

    #[test]
    fn a_chunk_is_lent_once_and_until_its_last_part_is_gone() {
        let (lender, mut chunk) = (Lender::default(), chunk());
        let (first, second) = (chunk.take(SHORTEST, &lender), chunk.take(SHORTEST, &lender));
        let left = LIMIT / UNIT * 3 / 4;
        assert_eq!(lender.0.available_permits(), left);
        drop((chunk, first));
        assert_eq!(lender.0.available_permits(), left);
        drop(second);
        assert_eq!(lender.0.available_permits(), LIMIT / UNIT);
    }

    #[test]
    fn short_parts_and_chunks_above_the_limit_are_copied() {
        let lender = Lender::default();
        let mut large = Chunk::new(vec![0; LIMIT + 1].into());
        let (short, long) = (chunk().take(10, &lender), large.take(1 << 20, &lender));
        assert_eq!((short.len(), long.len(), lender.0.available_permits()), (10, 1 << 20, LIMIT / UNIT));
    }
}
