//! Pages of an LMDB file by ranged GETs: many of them at a time, neighbours in one request.

use super::DatasetError;
use super::fields::Problem;
use super::lmdb_page::{FIRST_PAGE, HEAD, Meta, corrupt};
use super::range_reader::Object;
use crate::reject::Reason;
use bytes::Bytes;
use futures::StreamExt;
use std::ops::Range;

/// Pages are fetched together where no more than this lies between them...
const GAP: u64 = 64 << 10;
/// ...and no more than this comes with one request.
const MOST: u64 = 512 << 10;

/// The pages of one database. Its first bytes are kept: small databases have their whole tree there.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) object: Object,
    pub(super) meta: Meta,
    head: Bytes,
    /// How many requests are under way at a time.
    parallel: usize,
}

/// Pages that come with one request: their places in the sorted order, and the bytes.
struct Group {
    members: Range<usize>,
    bytes: Range<u64>,
}

impl Pages {
    /// Opens a database: one request for its first bytes, which hold both meta pages.
    pub(super) async fn open(object: Object, parallel: usize) -> Result<Result<Pages, Problem>, DatasetError> {
        let head = match object.size() {
            0 => Bytes::new(),
            size => object.get(0..size.min(HEAD)).await?,
        };
        let meta = Meta::parse(&head, object.size());
        Ok(meta.map(|meta| Pages { object, meta, head, parallel: parallel.max(1) }))
    }

    /// The bytes of a run that starts with page `number`, if they are part of the database and of the file.
    pub(super) fn place(&self, number: u64, length: u64) -> Result<Range<u64>, Problem> {
        let Meta { page_size, pages, .. } = self.meta;
        let start = number.checked_mul(page_size);
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        let last = range.as_ref().filter(|_| number >= FIRST_PAGE).map(|range| range.end.div_ceil(page_size));
        match range.filter(|_| last.is_some_and(|last| last <= pages)) {
            Some(range) if range.end <= self.object.size() => Ok(range),
            Some(_) => Err((Reason::Truncated, format!("the file ends before page {number} does"))),
            None => Err(corrupt(format!("page {number} is none of its pages of data"))),
        }
    }

    /// Shows `each` the first `length` bytes of every page of `numbers`, with its place in it, in whatever order they come.
    /// A page that is not there is passed over.
    pub(super) async fn visit(
        &self,
        numbers: &[u64],
        length: u64,
        mut each: impl FnMut(usize, &[u8]) + Send,
    ) -> Result<(), DatasetError> {
        let mut wanted: Vec<(Range<u64>, usize)> = Vec::new();
        for (at, number) in numbers.iter().enumerate() {
            let Ok(range) = self.place(*number, length) else { continue };
            match slice(&self.head, 0, &range) {
                Some(page) => each(at, page),
                None => wanted.push((range, at)),
            }
        }
        wanted.sort_unstable_by_key(|(range, at)| (range.start, *at));
        let fetch = |group: Group| async move {
            let bytes = self.object.get(group.bytes.clone()).await?;
            Ok::<_, DatasetError>((group, bytes))
        };
        let mut fetched = futures::stream::iter(groups(&wanted)).map(fetch).buffer_unordered(self.parallel);
        while let Some(result) = fetched.next().await {
            let (group, bytes) = result?;
            for (range, at) in wanted.get(group.members).unwrap_or_default() {
                if let Some(page) = slice(&bytes, group.bytes.start, range) {
                    each(*at, page);
                }
            }
        }
        Ok(())
    }

    /// The whole pages of `numbers`, in that order; nothing for one that is not there.
    pub(super) async fn read(&self, numbers: &[u64]) -> Result<Vec<Bytes>, DatasetError> {
        let mut pages = vec![Bytes::new(); numbers.len()];
        let copy = |at: usize, page: &[u8]| {
            if let Some(slot) = pages.get_mut(at) {
                // Copied, or a page would hold on to all that came with it.
                *slot = Bytes::copy_from_slice(page);
            }
        };
        self.visit(numbers, self.meta.page_size, copy).await?;
        Ok(pages)
    }
}

/// `range` of the file in `bytes`, which start at `start` of it.
fn slice<'a>(bytes: &'a [u8], start: u64, range: &Range<u64>) -> Option<&'a [u8]> {
    let from = usize::try_from(range.start.checked_sub(start)?).ok()?;
    let to = usize::try_from(range.end.checked_sub(start)?).ok()?;
    bytes.get(from..to)
}

/// Ranges in order of their starts, neighbours together.
fn groups(sorted: &[(Range<u64>, usize)]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, (range, _)) in sorted.iter().enumerate() {
        match groups.last_mut() {
            Some(Group { members, bytes })
                if range.start.saturating_sub(bytes.end) <= GAP && range.end.max(bytes.end) - bytes.start <= MOST =>
            {
                members.end = at + 1;
                bytes.end = bytes.end.max(range.end);
            }
            _ => groups.push(Group { members: at..at + 1, bytes: range.clone() }),
        }
    }
    groups
}
