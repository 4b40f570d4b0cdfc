//! A file of this machine read in order by one thread that runs a little ahead: no request, no thread and no memory of its own for
//! each piece, as ranged GETs of a local store take.

use bytes::Bytes;
use object_store::Error;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

/// How many pieces wait to be taken.
const WAITING: usize = 3;

/// The pieces of a part of a file that are still to come.
#[derive(Debug)]
pub(super) struct Pieces {
    receiver: async_channel::Receiver<Result<Bytes, Error>>,
    /// Where the next piece lies.
    pub(super) position: u64,
    /// Bytes of a piece, but for the last.
    pub(super) size: u64,
}

impl Pieces {
    /// Starts to read `part` of a file. Must run inside a tokio runtime; dropping it ends the reading.
    pub(super) fn start(file: File, part: Range<u64>, size: u64) -> Pieces {
        let (sender, receiver) = async_channel::bounded(WAITING);
        let (position, size) = (part.start, size.max(1));
        tokio::task::spawn_blocking(move || {
            let failed = |source: io::Error| Error::Generic { store: "LocalFileSystem", source: source.into() };
            let result = read(file, part, size, |piece| sender.send_blocking(Ok(piece)).is_ok());
            if let Err(error) = result {
                // Fails where nobody listens any more.
                drop(sender.send_blocking(Err(failed(error))));
            }
        });
        Pieces { receiver, position, size }
    }

    /// The next piece. After an error, or where the file ended early, nothing more comes.
    pub(super) async fn next(&mut self) -> Result<Bytes, Error> {
        let over = |_| Error::Generic { store: "LocalFileSystem", source: "the reading has ended".into() };
        let piece = self.receiver.recv().await.map_err(over)??;
        self.position += piece.len() as u64;
        Ok(piece)
    }
}

/// Reads a part of a file piece by piece, until `take` wants no more. What is written to the file meanwhile is an error.
fn read(mut file: File, part: Range<u64>, size: u64, take: impl Fn(Bytes) -> bool) -> io::Result<()> {
    let state = |file: &File| file.metadata().map(|of: Metadata| (of.len(), of.modified().ok()));
    let before = state(&file)?;
    file.seek(SeekFrom::Start(part.start))?;
    let mut position = part.start;
    while position < part.end {
        let piece = next(&mut file, size.min(part.end - position))?;
        if state(&file)? != before {
            return Err(io::Error::other("the file has changed"));
        }
        position += piece.len() as u64;
        if !take(piece) {
            break;
        }
    }
    Ok(())
}

/// The next `count` bytes of a file.
///
/// # Errors
/// That of the file; [`io::ErrorKind::UnexpectedEof`] where it ends before.
pub(super) fn next(file: &mut File, count: u64) -> io::Result<Bytes> {
    // `object_store` fills the memory with zeros first.
    let mut bytes = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
    match file.take(count).read_to_end(&mut bytes)? as u64 == count {
        true => Ok(bytes.into()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, File) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let open = file.reopen().unwrap();
        (file, open)
    }

    #[tokio::test]
    async fn pieces_join_to_the_part() {
        let bytes: Vec<u8> = (0..100).collect();
        for (part, size) in [(0..100, 7), (10..90, 40), (3..4, 1000), (5..5, 3)] {
            let (_kept, open) = file(&bytes);
            let mut pieces = Pieces::start(open, part.clone(), size);
            let mut all = Vec::new();
            while let Ok(piece) = pieces.next().await {
                all.extend_from_slice(&piece);
                assert_eq!(pieces.position, part.start + all.len() as u64);
            }
            assert_eq!(all, bytes[part.start as usize..part.end as usize]);
        }
    }

    #[tokio::test]
    async fn a_file_that_changes_is_an_error() {
        let (mut kept, open) = file(&[1; 100]);
        let mut pieces = Pieces::start(open, 0..100, 10);
        pieces.next().await.unwrap();
        kept.write_all(b"more").unwrap();
        kept.flush().unwrap();
        // The nine others: some were read ahead of the change, which ends the reading before the last.
        let mut rest = Vec::new();
        for _ in 1..10 {
            rest.push(pieces.next().await);
        }
        assert!(rest.iter().any(|piece| piece.is_err()));
        let (_kept, open) = file(&[1; 50]);
        let mut pieces = Pieces::start(open, 0..100, 40);
        assert_eq!(pieces.next().await.unwrap().len(), 40);
        assert!(pieces.next().await.is_err(), "it ends before its part does");
    }
}
