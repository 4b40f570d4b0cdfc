//! The seal of a file: the SHA-256 of all its bytes, kept in its own footer.
//!
//! The seal is the last entry of the Parquet key-value metadata, and is computed with its 64 hex digits set to `0`. So a
//! flipped bit anywhere, in pages, statistics or footer, is found, while the file stays plain Parquet for every reader.

use super::TableError;
use super::read::range_of;
use crate::digest::hex;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::file::metadata::KeyValue;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::sync::Arc;

const KEY: &str = "imagebart.seal";
const BLANK: [u8; 64] = [b'0'; 64];
/// In the footer (Thrift compact protocol) a value follows its key after one byte of field header and one of length.
const VALUE_HEADER: [u8; 2] = [0x18, BLANK.len() as u8];
/// Magic bytes and the footer's length end a Parquet file.
const TRAILER: u64 = 8;
/// A footer of a file of ours has a few KB per row group; more is damage.
const MAX_FOOTER: u64 = 1 << 28;

/// The metadata entry that the seal will fill.
pub(crate) fn blank() -> KeyValue {
    KeyValue::new(KEY.to_owned(), String::from_utf8_lossy(&BLANK).into_owned())
}

/// Where the seal's digits stand in the end of a file.
fn find(tail: &[u8]) -> Option<Range<usize>> {
    let key = tail.windows(KEY.len()).rposition(|window| window == KEY.as_bytes())?;
    let header = key + KEY.len();
    let start = header + VALUE_HEADER.len();
    let found = tail.get(header..start)? == VALUE_HEADER && tail.len() >= start + BLANK.len();
    found.then_some(start..start + BLANK.len())
}

/// Fills the blank seal in `tail`, the last bytes of a file of which `digest` has seen all before. False: there is none.
pub(crate) fn fill(mut digest: Sha256, tail: &mut [u8]) -> bool {
    let Some(place) = find(tail) else { return false };
    digest.update(&*tail);
    tail[place].copy_from_slice(hex(&digest.finalize()).as_bytes());
    true
}

/// Recomputes the seal of the file at `path`; an error says what is wrong. The file is streamed, not held.
pub async fn check_seal(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<(), TableError> {
    let damaged = |detail: &str| TableError::format(path, detail);
    let failed = |error| TableError::store(path, error);
    let object = store.get(path).await.map_err(failed)?;
    let size = object.meta.size;
    let trailer = size.checked_sub(TRAILER).ok_or_else(|| damaged("the file is empty or truncated"))?;
    let end = range_of(store, path, trailer..size).await.map_err(failed)?;
    let (Some(length), Some(b"PAR1")) = (end.first_chunk::<4>(), end.get(4..8)) else {
        return Err(damaged("the file is truncated, or not Parquet: its end is not that of a Parquet file"));
    };
    let length = u64::from(u32::from_le_bytes(*length));
    let start = trailer
        .checked_sub(length)
        .filter(|_| length <= MAX_FOOTER)
        .ok_or_else(|| damaged("the footer's length is damaged"))?;
    let footer = range_of(store, path, start..trailer).await.map_err(failed)?;
    let place = find(&footer).ok_or_else(|| damaged("the metadata lacks imagebart.seal: not a file of imagebart"))?;
    let seal = footer.slice(place.clone());
    let place = start + place.start as u64..start + place.end as u64;

    let (mut digest, mut at) = (Sha256::new(), 0u64);
    let mut chunks = object.into_stream();
    while let Some(chunk) = chunks.try_next().await.map_err(failed)? {
        // The part of the chunk that overlaps the seal counts as zeros.
        let local = |position: u64| position.saturating_sub(at).min(chunk.len() as u64) as usize;
        let (from, to) = (local(place.start), local(place.end));
        digest.update(&chunk[..from]);
        digest.update(&BLANK[..to - from]);
        digest.update(&chunk[to..]);
        at += chunk.len() as u64;
    }
    if hex(&digest.finalize()).as_bytes() != seal.as_ref() {
        return Err(damaged("the seal is broken: bytes of the file changed after it was written"));
    }
    Ok(())
}
