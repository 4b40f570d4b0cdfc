//! The bytes of a pickle: counted, and never more than are known to be there.

use super::Problem;
use std::io::{BufRead, Read};

/// A reader of known length that knows its position.
#[derive(Debug)]
pub struct Input<R> {
    reader: R,
    offset: u64,
    remaining: u64,
}

impl<R: BufRead> Input<R> {
    /// A reader that stands at its start and holds `length` bytes.
    pub fn new(reader: R, length: u64) -> Input<R> {
        Input { reader, offset: 0, remaining: length }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Gives the reader back.
    pub fn into_inner(self) -> R {
        self.reader
    }

    fn take(&mut self, count: u64) -> Result<(), Problem> {
        self.remaining = self.remaining.checked_sub(count).ok_or(Problem::Truncated)?;
        self.offset += count;
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        self.take(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Problem> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// `count` bytes: a buffer is only made when they are there.
    pub(super) fn bytes(&mut self, count: u64) -> Result<Vec<u8>, Problem> {
        self.take(count)?;
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut self.reader).take(count).read_to_end(&mut bytes)?;
        if read as u64 == count { Ok(bytes) } else { Err(Problem::Truncated) }
    }

    /// The bytes up to the next line feed, which is read and left out.
    pub(super) fn line(&mut self) -> Result<Vec<u8>, Problem> {
        let mut line = Vec::new();
        let read = Read::by_ref(&mut self.reader).take(self.remaining).read_until(b'\n', &mut line)?;
        self.take(read as u64)?;
        if line.pop() == Some(b'\n') { Ok(line) } else { Err(Problem::Truncated) }
    }
}

fn io(error: std::io::Error) -> Problem {
    if error.kind() == std::io::ErrorKind::UnexpectedEof { Problem::Truncated } else { Problem::Io(error) }
}
