//! The bytes of LMDB's pages (FORMATS §3; liblmdb 0.9's `mdb.c`, data version 1, 64-bit and little-endian).
//!
//! Nothing here reads or follows anything: from bytes to numbers and slices, every offset checked.

use super::fields::Problem;
use crate::reject::Reason;
use bytes::Buf;

/// What every page starts with: its number, padding, flags, and where its free space starts and ends.
pub(super) const HEADER: usize = 16;
/// The largest page size of liblmdb; the smallest is the smallest sector of a disk.
const MAX_PAGE_SIZE: u64 = 1 << 15;
const MIN_PAGE_SIZE: u64 = 1 << 9;
/// Both meta pages lie within these first bytes, whatever the page size.
pub(super) const HEAD: u64 = 2 * MAX_PAGE_SIZE;
/// The first pages that are no meta pages.
pub(super) const FIRST_PAGE: u64 = 2;
const META_SIZE: usize = HEADER + 136;
const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
/// liblmdb's cursors go no deeper.
const MAX_DEPTH: u16 = 32;
const NO_PAGE: u64 = u64::MAX;
const NODE_HEADER: usize = 8;
/// Node flags: the value lies on overflow pages; it is a database of its own, or several values.
const BIG: u16 = 1;
const NESTED: u16 = 2 | 4;

pub(super) fn corrupt(message: impl Into<String>) -> Problem {
    (Reason::CorruptContainer, message.into())
}

/// What a page is for. The numbers are those of the page flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Branch = 1,
    Leaf = 2,
    Overflow = 4,
    Meta = 8,
}

impl Kind {
    /// The flags that tell kinds apart, that of pages without nodes included; others are marks of a running transaction.
    const MASK: u16 = 0x2f;

    fn name(self) -> &'static str {
        match self {
            Kind::Branch => "branch page",
            Kind::Leaf => "leaf page",
            Kind::Overflow => "first page of a value",
            Kind::Meta => "meta page",
        }
    }
}

/// What the newer meta page says of the main database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Bytes of a page.
    pub(super) page_size: u64,
    /// Pages of the file, free ones included. The file may be shorter, but only by free pages.
    pub(super) pages: u64,
    /// Levels of the tree, 0 when it is empty.
    pub(super) depth: u16,
    pub(super) entries: u64,
    pub(super) root: Option<u64>,
}

/// A meta page, as it stands in the file.
struct Raw {
    page_size: u64,
    flags: u16,
    depth: u16,
    /// Pages in use by both databases, as the meta page counts them.
    used: u64,
    entries: u64,
    root: u64,
    last_page: u64,
    transaction: u64,
}

impl Meta {
    /// The meta page in force, from a file's first [`HEAD`] bytes (or all it has) and its size.
    pub(super) fn parse(head: &[u8], size: u64) -> Result<Meta, Problem> {
        if size == 0 {
            return Err((Reason::Empty, "the file has no bytes".to_owned()));
        }
        let first = Raw::parse(head, 0)?;
        let second = Raw::parse(head, first.page_size)?;
        if second.page_size != first.page_size {
            return Err(corrupt("its two meta pages differ in the page size"));
        }
        let newer = if second.transaction > first.transaction { second } else { first };
        newer.check(size)
    }
}

impl Raw {
    fn parse(head: &[u8], at: u64) -> Result<Raw, Problem> {
        let page = usize::try_from(at).ok().and_then(|at| head.get(at..)).unwrap_or_default();
        let magic = page.get(HEADER..).and_then(|mut rest| rest.try_get_u32_le().ok());
        match magic {
            Some(MAGIC) => {}
            Some(number) if number.swap_bytes() == MAGIC => {
                let message = "it was written by a big-endian machine; mdb_dump it there and mdb_load it here";
                return Err((Reason::UnsupportedFormat, message.to_owned()));
            }
            None if at > 0 => return Err((Reason::Truncated, "it ends before its second meta page".to_owned())),
            _ => return Err(corrupt("it is no LMDB database: a meta page lacks the magic number 0xBEEFC0DE")),
        }
        let Some(mut fields) = page.get(..META_SIZE) else {
            return Err((Reason::Truncated, "it ends within a meta page".to_owned()));
        };
        if header_kind(fields) != Kind::Meta as u16 {
            return Err(corrupt("one of its first two pages is no meta page"));
        }
        fields.advance(HEADER + 4);
        let version = fields.get_u32_le();
        if version != VERSION {
            let message = format!("it is of LMDB's data version {version}; only {VERSION}, liblmdb 0.9's, is read");
            return Err((Reason::UnsupportedFormat, message));
        }
        fields.advance(16);
        let page_size = u64::from(fields.get_u32_le());
        if !page_size.is_power_of_two() || !(MIN_PAGE_SIZE..=MAX_PAGE_SIZE).contains(&page_size) {
            return Err(corrupt(format!("its page size cannot be {page_size}")));
        }
        fields.advance(4);
        let counts = |fields: &mut &[u8]| (0..3).fold(0u64, |sum, _| sum.saturating_add(fields.get_u64_le()));
        let free = counts(&mut fields);
        fields.advance(8 + 8 + 4);
        let (flags, depth) = (fields.get_u16_le(), fields.get_u16_le());
        let used = counts(&mut fields).saturating_add(free).saturating_add(FIRST_PAGE);
        let (entries, root) = (fields.get_u64_le(), fields.get_u64_le());
        let (last_page, transaction) = (fields.get_u64_le(), fields.get_u64_le());
        Ok(Raw { page_size, flags, depth, used, entries, root, last_page, transaction })
    }

    fn check(self, size: u64) -> Result<Meta, Problem> {
        let pages = self.last_page.saturating_add(1);
        if self.used > pages {
            return Err(corrupt(format!("its meta page counts {} pages in use of {pages}", self.used)));
        }
        if size / self.page_size < self.used {
            let (used, page) = (self.used, self.page_size);
            let message = format!("it has {size} bytes, but uses {used} pages of {page}: it was not copied whole");
            return Err((Reason::Truncated, message));
        }
        if self.flags != 0 {
            let message = format!("its main database has flags {:#x}: only plain ones are read", self.flags);
            return Err((Reason::UnsupportedFormat, message));
        }
        let root = (self.root != NO_PAGE).then_some(self.root);
        if self.depth > MAX_DEPTH || root.is_some() != (self.depth > 0) {
            return Err(corrupt(format!("its tree cannot be {} levels deep", self.depth)));
        }
        Ok(Meta { page_size: self.page_size, pages, depth: self.depth, entries: self.entries, root })
    }
}

/// The kind in a page's header, 0 where there is none.
fn header_kind(page: &[u8]) -> u16 {
    page.get(10..).and_then(|mut rest| rest.try_get_u16_le().ok()).unwrap_or(0) & Kind::MASK
}

/// Checks that `page` starts as page `number` of a kind does.
fn check_kind(page: &[u8], number: u64, kind: Kind) -> Result<(), Problem> {
    let stands_there = page.get(..HEADER).map(|mut header| header.get_u64_le());
    match stands_there == Some(number) && header_kind(page) == kind as u16 {
        true => Ok(()),
        false => Err(corrupt(format!("page {number} is no {}", kind.name()))),
    }
}

/// How many nodes page `number` has, from its header.
pub(super) fn count(page: &[u8], number: u64, kind: Kind, page_size: u64) -> Result<usize, Problem> {
    check_kind(page, number, kind)?;
    let mut bounds = page.get(12..HEADER).unwrap_or_default();
    let (lower, upper) = (bounds.try_get_u16_le().unwrap_or(0), bounds.try_get_u16_le().unwrap_or(0));
    match usize::from(lower).checked_sub(HEADER) {
        Some(pointers) if pointers % 2 == 0 && lower <= upper && u64::from(upper) <= page_size => Ok(pointers / 2),
        _ => Err(corrupt(format!("the header of page {number} is damaged"))),
    }
}

/// The value of `size` bytes at the start of an overflow run, whose first page is `number`.
pub(super) fn check_value(run: &[u8], number: u64, size: u64, page_size: u64) -> Result<(), Problem> {
    check_kind(run, number, Kind::Overflow)?;
    let pages = run.get(12..).and_then(|mut rest| rest.try_get_u32_le().ok()).unwrap_or(0);
    match u64::from(pages).saturating_mul(page_size) >= size.saturating_add(HEADER as u64) {
        true => Ok(()),
        false => Err(corrupt(format!("the {pages} pages of its value hold less than its {size} bytes"))),
    }
}

/// A node: an entry of a leaf page, or the way to a page below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node<'a> {
    low: u32,
    flags: u16,
    pub(super) key: &'a [u8],
    /// The page's bytes behind the key.
    rest: &'a [u8],
}

/// Where an entry's value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// In its leaf page.
    Here(&'a [u8]),
    /// On overflow pages, contiguous from the end of the first one's header.
    There { page: u64, size: u64 },
}

/// The nodes of a page; `None` stands for one that does not lie within it.
pub(super) fn nodes(page: &[u8], count: usize) -> impl Iterator<Item = Option<Node<'_>>> {
    (0..count).map(move |at| node(page, HEADER + 2 * count, at))
}

fn node(page: &[u8], pointers_end: usize, at: usize) -> Option<Node<'_>> {
    let offset = usize::from(page.get(HEADER + 2 * at..)?.try_get_u16_le().ok()?);
    let mut node = page.get(offset..).filter(|_| offset >= pointers_end)?;
    if node.len() < NODE_HEADER {
        return None;
    }
    let low = node.get_u32_le();
    let (flags, key_size) = (node.get_u16_le(), usize::from(node.get_u16_le()));
    let (key, rest) = node.split_at_checked(key_size)?;
    Some(Node { low, flags, key, rest })
}

impl<'a> Node<'a> {
    /// The page below, of a branch page's node: 48 bits.
    pub(super) fn child(&self) -> u64 {
        u64::from(self.low) | u64::from(self.flags) << 32
    }

    /// The value, of a leaf page's node.
    pub(super) fn value(&self) -> Result<Value<'a>, Problem> {
        if self.flags & NESTED != 0 {
            let message = "it is a database of its own, or several values of one key: only plain values are read";
            return Err((Reason::UnsupportedFormat, message.to_owned()));
        }
        let outside = || corrupt("its value does not lie within its page");
        if self.flags & BIG == 0 {
            let size = usize::try_from(self.low).map_err(|_| outside())?;
            return self.rest.get(..size).map(Value::Here).ok_or_else(outside);
        }
        let mut rest = self.rest;
        let page = rest.try_get_u64_le().map_err(|_| outside())?;
        Ok(Value::There { page, size: self.low.into() })
    }
}
