//! The central directory of a zip archive, zip64 included, by a few ranged GETs at its end; and the entries it points to.
//!
//! The `zip` crate wants a synchronous file to seek in and keeps about half a kilobyte per entry; archives of a million images
//! on remote stores want neither. Here an entry takes some fifty bytes beside its name.

use super::DatasetError;
use super::fields::Problem;
use super::range_reader::Object;
use crate::reject::Reason;
use bytes::{Buf, Bytes};
use flate2::Crc;
use flate2::read::DeflateDecoder;
use std::io::Read;
use std::ops::Range;

const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
const END_SIZE: usize = 22;
const END_64_SIZE: u64 = 56;
const LOCATOR_SIZE: usize = 20;
const ENTRY_SIZE: usize = 46;
const LOCAL_SIZE: usize = 30;
/// The longest comment, name or extra field.
const LONGEST: u64 = 0xffff;
/// The largest central directory that is read: five million entries of a hundred bytes.
const MAX_DIRECTORY: u64 = 512 << 20;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ZipError {
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("{1}")]
    Broken(Reason, String),
}

fn corrupt(message: impl Into<String>) -> ZipError {
    ZipError::Broken(Reason::CorruptContainer, message.into())
}

/// The entries of an archive, in the order of its directory.
#[derive(Debug)]
pub(super) struct Directory {
    bytes: Bytes,
    pub(super) entries: Vec<Entry>,
}

/// What the directory says of an entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    name: Range<usize>,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    /// Its size in bytes when unpacked.
    pub(super) size: u64,
    /// Where its local header starts, and where the next entry's does, or the directory.
    place: Range<u64>,
}

impl Directory {
    /// Reads the directory of an archive.
    pub(super) async fn load(object: &Object) -> Result<Directory, ZipError> {
        if object.size() == 0 {
            return Err(ZipError::Broken(Reason::Empty, "the file has no bytes".to_owned()));
        }
        let tail_size = (END_SIZE + LOCATOR_SIZE) as u64 + LONGEST;
        let tail_start = object.size().saturating_sub(tail_size);
        let tail = object.get(tail_start..object.size()).await?;
        let Some(end) = find_end(&tail) else { return Err(lacks_end(object).await?) };
        let mut place = end_record(&tail[end..]);
        if end >= LOCATOR_SIZE && tail[end - LOCATOR_SIZE..].starts_with(&LOCATOR_64) {
            let mut locator = &tail[end - LOCATOR_SIZE + 8..];
            place = end_record_64(object, locator.get_u64_le()).await?;
        }
        let limit = tail_start + end as u64;
        let (count, directory) = place.ok_or_else(|| corrupt("its end record is damaged"))?;
        if directory.end > limit {
            return Err(corrupt("its central directory lies outside the archive"));
        }
        if directory.end - directory.start > MAX_DIRECTORY {
            let size = directory.end - directory.start;
            return Err(corrupt(format!("its central directory has {size} bytes, more than {MAX_DIRECTORY}")));
        }
        let bytes = object.get(directory.clone()).await?;
        Directory::parse(bytes, count, directory.start)
    }

    /// The entries of a central directory that starts at `start` of the archive.
    fn parse(bytes: Bytes, count: u64, start: u64) -> Result<Directory, ZipError> {
        let damaged = || corrupt("its central directory is damaged");
        let mut entries = Vec::with_capacity((bytes.len() / ENTRY_SIZE).min(usize::try_from(count).unwrap_or(0)));
        let mut at = 0;
        while at < bytes.len() {
            let (entry, next) = entry(&bytes, at).ok_or_else(damaged)?;
            entries.push(entry);
            at = next;
        }
        if entries.len() as u64 != count {
            let found = entries.len();
            return Err(corrupt(format!("its central directory has {found} entries, but its end says {count}")));
        }
        let mut starts: Vec<u64> = entries.iter().map(|entry| entry.place.start).chain([start]).collect();
        starts.sort_unstable();
        for entry in &mut entries {
            let next = starts.partition_point(|other| *other <= entry.place.start);
            // One that starts in the directory, or behind it, has no place.
            entry.place.end = starts.get(next).copied().filter(|end| *end <= start).unwrap_or(entry.place.start);
        }
        Ok(Directory { bytes, entries })
    }

    pub(super) fn name(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.name.clone()]
    }
}

/// Where the end record starts: the last one whose comment fits behind it.
fn find_end(tail: &[u8]) -> Option<usize> {
    let fits = |at: &usize| {
        let record = &tail[*at..];
        let comment = usize::from(u16::from_le_bytes([record[20], record[21]]));
        record.starts_with(&END) && END_SIZE + comment <= record.len()
    };
    (0..(tail.len() + 1).saturating_sub(END_SIZE)).rev().find(fits)
}

/// How many entries there are, and where the directory lies.
fn end_record(record: &[u8]) -> Option<(u64, Range<u64>)> {
    let mut fields = record.get(10..)?;
    let count = fields.try_get_u16_le().ok()?;
    let (size, start) = (fields.try_get_u32_le().ok()?, fields.try_get_u32_le().ok()?);
    Some((count.into(), start.into()..u64::from(start) + u64::from(size)))
}

async fn end_record_64(object: &Object, at: u64) -> Result<Option<(u64, Range<u64>)>, DatasetError> {
    let Some(end) = at.checked_add(END_64_SIZE).filter(|end| *end <= object.size()) else { return Ok(None) };
    let record = object.get(at..end).await?;
    if !record.starts_with(&END_64) {
        return Ok(None);
    }
    let mut fields = &record[32..];
    let (count, size, start) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le());
    Ok(start.checked_add(size).map(|end| (count, start..end)))
}

/// What a file without an end record is.
async fn lacks_end(object: &Object) -> Result<ZipError, DatasetError> {
    let start = object.get(0..object.size().min(4)).await?;
    Ok(match start[..] == LOCAL {
        true => ZipError::Broken(Reason::Truncated, "it ends before its central directory".to_owned()),
        false => corrupt("it is no zip archive"),
    })
}

/// The entry at `at` of the directory, and where the next one starts.
fn entry(directory: &[u8], at: usize) -> Option<(Entry, usize)> {
    let mut fields = directory.get(at..at.checked_add(ENTRY_SIZE)?)?;
    if !fields.starts_with(&ENTRY) {
        return None;
    }
    fields.advance(8);
    let (flags, method) = (fields.get_u16_le(), fields.get_u16_le());
    fields.advance(4);
    let crc = fields.get_u32_le();
    let (mut packed, mut size) = (u64::from(fields.get_u32_le()), u64::from(fields.get_u32_le()));
    let [name, extra, comment] = [(); 3].map(|()| usize::from(fields.get_u16_le()));
    fields.advance(8);
    let mut start = u64::from(fields.get_u32_le());
    let name = at + ENTRY_SIZE..at + ENTRY_SIZE + name;
    let next = name.end + extra + comment;
    let extra = directory.get(name.end..next)?.get(..extra)?;
    if let Some(mut large) = field_64(extra) {
        for value in [&mut size, &mut packed, &mut start] {
            if *value == u64::from(u32::MAX) {
                *value = large.try_get_u64_le().ok()?;
            }
        }
    }
    Some((Entry { name, flags, method, crc, packed, size, place: start..start }, next))
}

/// The zip64 part of an extra field.
fn field_64(mut extra: &[u8]) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let (id, length) = (extra.get_u16_le(), usize::from(extra.get_u16_le()));
        let field = extra.get(..length)?;
        if id == 1 {
            return Some(field);
        }
        extra.advance(length);
    }
    None
}

impl Entry {
    /// The bytes of the archive that hold it: local header and data, and perhaps some more; `None` if there are not enough.
    pub(super) fn range(&self) -> Option<Range<u64>> {
        let most = (LOCAL_SIZE as u64 + 2 * LONGEST).saturating_add(self.packed);
        let end = self.place.end.min(self.place.start.saturating_add(most));
        let least = (LOCAL_SIZE as u64).saturating_add(self.packed);
        (end - self.place.start >= least).then_some(self.place.start..end)
    }

    /// The larger of its sizes: what reading it may take.
    pub(super) fn cost(&self) -> u64 {
        self.size.max(self.packed)
    }

    /// Unpacks the entry from the bytes of [`Entry::range`], its checksum checked.
    pub(super) fn unpack(&self, mut bytes: Bytes) -> Result<Bytes, Problem> {
        let cut = || (Reason::CorruptContainer, "its place in the archive holds something else".to_owned());
        if self.flags & 1 != 0 {
            return Err((Reason::UnsupportedFormat, "it is encrypted".to_owned()));
        }
        let Some(mut lengths) = bytes.get(26..LOCAL_SIZE).filter(|_| bytes.starts_with(&LOCAL)) else {
            return Err(cut());
        };
        let head = LOCAL_SIZE + usize::from(lengths.get_u16_le()) + usize::from(lengths.get_u16_le());
        let packed = usize::try_from(self.packed).ok().and_then(|packed| head.checked_add(packed));
        let end = packed.filter(|end| *end <= bytes.len()).ok_or_else(cut)?;
        let packed = bytes.split_to(end).slice(head..);
        let data = match self.method {
            0 => packed,
            8 => self.inflate(&packed)?,
            other => {
                let message = format!("it is compressed by method {other}; stored and deflated entries are read");
                return Err((Reason::UnsupportedFormat, message));
            }
        };
        let mut crc = Crc::new();
        crc.update(&data);
        match data.len() as u64 == self.size && crc.sum() == self.crc {
            true => Ok(data),
            false => Err((Reason::CrcMismatch, "its size or checksum does not fit".to_owned())),
        }
    }

    /// At most one byte more than its size.
    fn inflate(&self, packed: &[u8]) -> Result<Bytes, Problem> {
        let mut data = Vec::new();
        let mut decoder = DeflateDecoder::new(packed).take(self.size.saturating_add(1));
        match decoder.read_to_end(&mut data) {
            Ok(_) => Ok(data.into()),
            Err(error) => Err((Reason::DecodeError, format!("its compressed data is damaged ({error})"))),
        }
    }
}

#[cfg(test)]
#[path = "zip_directory_tests.rs"]
mod tests;
