//! A reader for a format of one's own: files that hold one image after the other, each behind its length (u32, little-endian).
//!
//! `cargo run --release --example own_reader -- 'data/*.lp'` prints what is in the files; without an argument, in a file that
//! it makes first. `tests/readers` runs the conformance suite over this very code: do the same with yours.

use bytes::{Buf, BytesMut};
use futures::future::BoxFuture;
use imagebart::datasets::*;
use imagebart::reject::Reason;

const MAX_IMAGE: usize = 64 << 20; // a length beyond this is damage, and not believed

pub struct LengthPrefixed {
    files: Files,
    read_ahead: ReadAhead,
}

impl LengthPrefixed {
    pub fn new(location: Location, read_ahead: ReadAhead) -> LengthPrefixed {
        let wanted = Wanted { what: "length-prefixed files", extensions: &[".lp"] };
        LengthPrefixed { files: Files::new(location, wanted), read_ahead }
    }

    async fn read_file(&self, unit: &Unit, out: &Output) -> Result<(), DatasetError> {
        // Ranged GETs that run ahead, repeat themselves and notice a changed object: the file is never held whole.
        let mut reader = RangeReader::new(self.files.object(unit, &self.read_ahead).await?);
        let (source, mut buffer) = (unit.name.clone(), BytesMut::new());
        for index in 0.. {
            let header = fill(&mut reader, &mut buffer, 4).await?;
            if buffer.is_empty() {
                break;
            }
            let length = if header { buffer.get_u32_le() as usize } else { 0 };
            if length > MAX_IMAGE {
                return out.reject(unit, &source, "", index, Reason::CorruptContainer, "a length is damaged").await;
            }
            if !header || !fill(&mut reader, &mut buffer, length).await? {
                return out.reject(unit, &source, "", index, Reason::Truncated, "the file ends in an image").await;
            }
            let (source, key, image) = (source.clone(), index.to_string(), buffer.split_to(length).freeze());
            if image.is_empty() {
                out.reject(unit, &source, &key, index, Reason::Empty, "the image has no bytes").await?;
            } else {
                out.sample(Sample { source, key, index, label: None, caption: None, image, original: None }).await?;
            }
        }
        Ok(())
    }
}

/// Reads on until `buffer` holds `wanted` bytes; false if the file ends before.
async fn fill(reader: &mut RangeReader, buffer: &mut BytesMut, wanted: usize) -> Result<bool, DatasetError> {
    while buffer.len() < wanted {
        let Some(chunk) = reader.chunk().await? else { return Ok(false) };
        buffer.extend_from_slice(&chunk);
    }
    Ok(true)
}

impl Reader for LengthPrefixed {
    fn units(&self) -> BoxFuture<'_, Result<Vec<Unit>, DatasetError>> {
        Box::pin(self.files.units()) // one unit per file, in order; braces, globs and prefixes are dealt with
    }

    fn read<'a>(&'a self, unit: &'a Unit, out: &'a Output) -> BoxFuture<'a, Result<(), DatasetError>> {
        Box::pin(out.while_wanted(self.read_file(unit, out))) // rejects for bad samples; an error: try the unit again
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let made = std::env::temp_dir().join(format!("own_reader-{}.lp", std::process::id()));
    std::fs::write(&made, b"\x03\0\0\0one\x05\0\0\0three\0\0\0\0")?;
    let url = std::env::args().nth(1).unwrap_or(made.display().to_string());
    let reader = LengthPrefixed::new(Location::open(&url).await?, ReadAhead::default());
    for unit in reader.units().await? {
        println!("{}: {:?}", unit.name, read_unit(&reader, &unit).await?);
    }
    Ok(std::fs::remove_file(&made)?)
}
