//! The sizes that a Parquet page's header claims, checked while the header is read and before anything is allocated for the
//! page: the `parquet` crate takes memory for as many bytes as a header says, up to 2 GiB.

/// Bytes that the head of a header can have: three fields of one byte and a number of at most five.
const LONGEST: usize = 18;
/// A field of Thrift's compact protocol: the next id, and a 32-bit integer.
const NEXT_I32: u8 = 0x15;

/// What is wrong with a page's header.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum PageError {
    #[error("a page claims {size} bytes; its column, and 16 times image.max_bytes, allow {limit}")]
    TooLarge { size: i64, limit: u64 },
    #[error("a page's header is damaged")]
    Damaged,
}

/// Looks at a page header's bytes as they are read. `PageHeader` of parquet.thrift begins with three 32-bit integers that every
/// writer writes, in this order: the page's type, its size unpacked, and its size in the file.
pub(super) struct PageSizes {
    limit: u64,
    head: Vec<u8>,
    done: bool,
}

impl PageSizes {
    /// A check of one header, of a page that may have `limit` bytes.
    pub(super) fn new(limit: u64) -> PageSizes {
        PageSizes { limit, head: Vec::new(), done: false }
    }

    /// Takes the next bytes of the header; what follows its beginning is not looked at.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<(), PageError> {
        if self.done {
            return Ok(());
        }
        self.head.extend(bytes.iter().take(LONGEST - self.head.len().min(LONGEST)));
        let mut rest = &self.head[..];
        for of_size in [false, true, true] {
            let Some((field, value)) = rest.split_first() else { return Ok(()) };
            if *field != NEXT_I32 {
                return Err(PageError::Damaged);
            }
            let Some((number, tail)) = zigzag(value)? else { return Ok(()) };
            if of_size && u64::try_from(number).is_ok_and(|size| size > self.limit) {
                return Err(PageError::TooLarge { size: number, limit: self.limit });
            }
            rest = tail;
        }
        self.done = true;
        Ok(())
    }
}

/// A variable-length integer, and what follows it; `None` if it goes on.
fn zigzag(bytes: &[u8]) -> Result<Option<(i64, &[u8])>, PageError> {
    let mut number = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let signed = (number >> 1).cast_signed() ^ -(number & 1).cast_signed();
            return Ok(Some((signed, bytes.get(at + 1..).unwrap_or_default())));
        }
    }
    if bytes.len() < 5 { Ok(None) } else { Err(PageError::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: i64, unpacked: i64, packed: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [kind, unpacked, packed] {
            bytes.push(NEXT_I32);
            let mut rest = (number << 1 ^ number >> 63).cast_unsigned() & u64::from(u32::MAX);
            while rest > 0x7f {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
        bytes.extend([0x5c, 0x15, 0x02, 0x00]);
        bytes
    }

    fn check(header: &[u8], step: usize) -> Result<(), PageError> {
        let mut sizes = PageSizes::new(1000);
        header.chunks(step).try_for_each(|bytes| sizes.check(bytes))
    }

    #[test]
    fn a_claim_above_the_limit_is_refused_however_it_is_read() {
        let most = i64::from(i32::MAX);
        for step in [1, 3, 100] {
            assert_eq!(check(&header(0, 1000, 1000), step), Ok(()));
            assert_eq!(check(&header(3, 0, -1), step), Ok(()), "the crate refuses negative sizes");
            assert_eq!(check(&header(0, most, 10), step), Err(PageError::TooLarge { size: most, limit: 1000 }));
            assert_eq!(check(&header(2, 10, 1001), step), Err(PageError::TooLarge { size: 1001, limit: 1000 }));
            assert_eq!(check(b"\x25\x00\x15\x00\x15\x00", step), Err(PageError::Damaged), "another order of fields");
            assert_eq!(check(b"\x15\x00\x15\xff\xff\xff\xff\xff\x01", step), Err(PageError::Damaged));
        }
    }

    proptest! {
        #[test]
        fn sizes_are_found_whatever_the_steps(unpacked in 0..i32::MAX, packed in 0..i32::MAX, step in 1usize..20) {
            let fits = unpacked <= 1000 && packed <= 1000;
            prop_assert_eq!(check(&header(0, unpacked.into(), packed.into()), step).is_ok(), fits);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), step in 1usize..8) {
            let _ = check(&bytes, step);
        }
    }
}
