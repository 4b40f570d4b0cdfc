//! Where the members of a large tar archive lie, found by small ranged GETs over its headers, so that parts of it can be read
//! in place.

use super::DatasetError;
use super::fields::readable;
use super::range_reader::{Object, RangeReader, ReadAhead};
use super::tar::{BLOCK, Kind, Member, Tar, TarError, is_header, padding};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

/// What one GET of a walk over headers brings: a header with its extended ones, and some.
const STEP: u64 = 4 << 10;
/// What one GET of a search for a header brings.
const WINDOW: u64 = 64 << 10;
/// How many places are searched at a time.
const PARALLEL: usize = 8;
/// How many blocks that look like headers a search looks into before it gives up.
const CANDIDATES: u32 = 16;

/// The read-ahead of a walk over headers: what lies between them is not fetched.
pub(super) fn stepping(read_ahead: &ReadAhead) -> ReadAhead {
    ReadAhead { chunk: STEP, parallel: 0, ..read_ahead.clone() }
}

/// A member, and where it lies: from the first of its headers to the end of its body, without padding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) start: u64,
    pub(super) end: u64,
    /// Whether it is a plain file.
    pub(super) file: bool,
}

impl Place {
    /// Where the next member begins.
    pub(super) fn next(&self) -> u64 {
        self.end.saturating_add(padding(self.end))
    }
}

/// A walk from member to member. Its object should have the read-ahead [`stepping`].
pub(super) struct Walk {
    tar: Tar,
    next: u64,
}

impl Walk {
    pub(super) fn new(object: Object) -> Walk {
        Walk { tar: Tar::new(RangeReader::new(object)), next: 0 }
    }

    /// Where the next member begins, or the headers that cannot be read.
    pub(super) fn position(&self) -> u64 {
        self.next
    }

    /// The next member; `None` at the end mark.
    pub(super) async fn next(&mut self) -> Result<Option<Place>, TarError> {
        let Some(member) = self.tar.next().await? else { return Ok(None) };
        let place = place(&member, self.next, self.tar.position());
        self.next = place.next();
        Ok(Some(place))
    }
}

fn place(member: &Member, start: u64, body: u64) -> Place {
    let end = body.saturating_add(member.size);
    Place { name: readable(&member.name), start, end, file: member.kind == Kind::File }
}

/// Cuts an archive into parts of about `size` bytes: the places between them, each the beginning of a member, in order.
///
/// Which member begins next after a multiple of `size` is found by searching for a header: a block with a right checksum whose
/// body is followed by another header, or the end mark. The cut is made behind that member, so that no extended header is
/// parted from what it extends. Every cut depends on the archive alone. Should something in the data look like all that, the
/// part before it does not end where a member does, and its reader says so. `limit` is the largest member that is looked past;
/// without any header in that distance, the two parts stay one.
pub(super) async fn cuts(object: &Object, size: u64, limit: u64) -> Result<Vec<u64>, DatasetError> {
    let size = size.max(1).next_multiple_of(BLOCK as u64);
    let places = (1..object.size().div_ceil(size)).map(|part| part * size);
    let searches = places.map(|place| cut(object, place, limit));
    let found: Vec<Option<u64>> = futures::stream::iter(searches).buffered(PARALLEL).try_collect().await?;
    let mut cuts: Vec<u64> = found.into_iter().flatten().collect();
    cuts.sort_unstable();
    cuts.dedup();
    Ok(cuts)
}

/// The beginning of the second member that begins at `from` or after it.
async fn cut(object: &Object, from: u64, limit: u64) -> Result<Option<u64>, DatasetError> {
    let end = from.saturating_add(limit).saturating_add(BLOCK as u64).min(object.size());
    let (mut at, mut candidates) = (from, 0);
    while at < end {
        let window = object.get(at..end.min(at.saturating_add(WINDOW))).await?;
        for (offset, block) in (at..).step_by(BLOCK).zip(window.chunks(BLOCK)) {
            if !is_header(block) {
                continue;
            }
            if let Some(next) = member_after(object, offset).await? {
                return Ok(Some(next));
            }
            candidates += 1;
            if candidates == CANDIDATES {
                return Ok(None);
            }
        }
        at = at.saturating_add(WINDOW);
    }
    Ok(None)
}

/// If a member begins at `start` and another one follows it, where that does.
async fn member_after(object: &Object, start: u64) -> Result<Option<u64>, DatasetError> {
    let mut tar = Tar::new(RangeReader::within(object.clone(), start..object.size()));
    let mut next = async || -> Result<Option<u64>, TarError> {
        let Some(member) = tar.next().await? else { return Ok(None) };
        let next = place(&member, start, tar.position()).next();
        Ok(tar.next().await?.map(|_| next))
    };
    match next().await {
        Ok(next) => Ok(next),
        Err(TarError::Dataset(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
#[path = "tar_parts_tests.rs"]
mod tests;
