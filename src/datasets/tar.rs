//! Reads tar archives as a stream: ustar, GNU long names and base-256 sizes, PAX records, V7 (FORMATS: tar).
//!
//! Unlike the usual libraries it tells an archive that ends from one that breaks: a header cut short, a wrong checksum, a
//! missing end mark are errors with their place, and no length read from the archive decides how much memory is taken.

use super::input::{Input, InputError};
use super::{DatasetError, range_reader::RangeReader};
use crate::reject::Reason;
use bytes::Bytes;

/// What headers and bodies fill up to.
pub(super) const BLOCK: usize = 512;
/// A longer member name is taken for damage.
const MAX_NAME: u64 = 64 << 10;
/// PAX records may carry attributes besides the name; more than this is taken for damage.
const MAX_PAX: u64 = 1 << 20;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// A link, device, pipe or sparse file; the word says which.
    Other(&'static str),
}

/// A member's header.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    /// Bytes of its body.
    pub(super) size: u64,
}

/// Why the archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum TarError {
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("the archive ends early at byte {at}: {what}")]
    Truncated { at: u64, what: &'static str },
    #[error("the archive is damaged at byte {at}: {what}")]
    Corrupt { at: u64, what: String },
    #[error("the file has no bytes")]
    Empty,
    #[error("{0}")]
    Unsupported(String),
}

impl TarError {
    /// As what the rest of the archive is rejected, and what became of it.
    pub(super) fn verdict(&self) -> (Reason, &'static str) {
        match self {
            TarError::Truncated { .. } => (Reason::Truncated, "what followed is lost"),
            TarError::Corrupt { .. } => (Reason::CorruptContainer, "what follows cannot be trusted"),
            TarError::Empty => (Reason::Empty, "there are no samples in it"),
            TarError::Dataset(_) | TarError::Unsupported(_) => (Reason::UnsupportedFormat, "nothing was read"),
        }
    }
}

/// Names and sizes that extended headers set for the members after them.
#[derive(Clone, Debug, Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

/// A tar archive being read.
pub(super) struct Tar {
    input: Input,
    /// Bytes of the current member's body, and of the padding behind it, not consumed yet.
    body: u64,
    padding: u64,
    global: Overrides,
    /// Whether it is the middle of an archive, which has no end mark.
    middle: bool,
}

impl Tar {
    pub(super) fn new(source: RangeReader) -> Tar {
        Tar { input: Input::new(source), body: 0, padding: 0, global: Overrides::default(), middle: false }
    }

    /// Over a part of an archive that another part follows: it ends where one of its members does, without an end mark.
    pub(super) fn middle(source: RangeReader) -> Tar {
        Tar { middle: true, ..Tar::new(source) }
    }

    /// Over the archive that is the body of the current member, where `source` ends with that body.
    pub(super) fn enter(self) -> Tar {
        Tar { input: self.input.restarted(), body: 0, padding: 0, global: Overrides::default(), middle: false }
    }

    /// Where in the archive reading is: after [`Tar::next`], where the member's body begins.
    pub(super) fn position(&self) -> u64 {
        self.input.position()
    }

    /// The next member; what is left of the one before is passed over. `None` at the end mark.
    pub(super) async fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut local = Overrides::default();
        let mut extended = false;
        loop {
            self.pass().await?;
            let at = self.input.position();
            let block = self.take(BLOCK).await?;
            match block.len() {
                BLOCK => {}
                0 if self.middle && !extended => return Ok(None),
                0 if at == 0 => return Err(TarError::Empty),
                0 if extended => return Err(TarError::Truncated { at, what: "an extended header has no member" }),
                0 => return Err(TarError::Truncated { at, what: "the end mark is missing" }),
                _ => return Err(TarError::Truncated { at, what: "a header is cut" }),
            }
            if block.iter().all(|byte| *byte == 0) {
                if self.middle {
                    return Err(TarError::Corrupt { at, what: HOLE.to_owned() });
                }
                return self.end(at).await.map(|()| None);
            }
            let header = Header(&block);
            let corrupt = |what: &str| TarError::Corrupt { at, what: what.to_owned() };
            if !header.checksum_holds() {
                let what = if at == 0 { "this is no tar archive" } else { "the checksum of a header is wrong" };
                return Err(corrupt(what));
            }
            let size = header.number(124..136).ok_or_else(|| corrupt("the size in a header is not a number"))?;
            match header.flag() {
                b'L' => local.name = Some(until_nul(&self.extension(size, MAX_NAME, at).await?).to_vec()),
                b'K' => drop(self.extension(size, MAX_NAME, at).await?),
                b'x' => pax(&self.extension(size, MAX_PAX, at).await?, &mut local).ok_or_else(|| corrupt(BAD_PAX))?,
                b'g' => {
                    let records = self.extension(size, MAX_PAX, at).await?;
                    pax(&records, &mut self.global).ok_or_else(|| corrupt(BAD_PAX))?;
                }
                flag => return self.member(&header, flag, size, local, at).await.map(Some),
            }
            extended = true;
        }
    }

    async fn member(
        &mut self,
        header: &Header<'_>,
        flag: u8,
        size: u64,
        local: Overrides,
        at: u64,
    ) -> Result<Member, TarError> {
        let name = local.name.or_else(|| self.global.name.clone()).unwrap_or_else(|| header.name());
        let size = local.size.or(self.global.size).unwrap_or(size);
        let kind = match flag {
            _ if local.sparse => Kind::Other("sparse file"),
            b'0' | 0 | b'7' if name.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'5' => Kind::Directory,
            b'1' => Kind::Other("hard link"),
            b'2' => Kind::Other("symbolic link"),
            b'3' | b'4' => Kind::Other("device"),
            b'6' => Kind::Other("pipe"),
            b'S' => Kind::Other("sparse file"),
            _ => Kind::Other("member of an unknown type"),
        };
        // Links, devices, directories and pipes have no body, whatever their size field says (as in Python's tarfile).
        let size = if matches!(flag, b'1'..=b'6') { 0 } else { size };
        self.body = size;
        self.padding = padding(size);
        let end = size.checked_add(self.padding).and_then(|n| n.checked_add(at));
        if end.is_none() {
            return Err(TarError::Corrupt { at, what: format!("a member claims {size} bytes") });
        }
        if flag == b'S' && header.0.get(482) == Some(&1) {
            self.sparse_map().await?;
        }
        Ok(Member { name, kind, size })
    }

    /// The body of the current member.
    pub(super) async fn body(&mut self) -> Result<Bytes, TarError> {
        let at = self.input.position();
        let wanted = usize::try_from(self.body).unwrap_or(usize::MAX);
        let bytes = self.take(wanted).await?;
        self.body = 0;
        match bytes.len() == wanted {
            true => Ok(bytes),
            false => Err(TarError::Truncated { at, what: "a member is cut" }),
        }
    }

    /// Passes over the rest of the current member.
    async fn pass(&mut self) -> Result<(), TarError> {
        let at = self.input.position();
        let (body, padding) = (std::mem::take(&mut self.body), std::mem::take(&mut self.padding));
        let rest = body.saturating_add(padding);
        let passed = self.input.skip(rest).await.map_err(|e| self.failed(e))?;
        // A cut inside the padding loses nothing: the missing end mark will be reported.
        if passed < body { Err(TarError::Truncated { at, what: "a member is cut" }) } else { Ok(()) }
    }

    async fn take(&mut self, count: usize) -> Result<Bytes, TarError> {
        self.input.take(count).await.map_err(|e| self.failed(e))
    }

    /// The body of an extended header.
    async fn extension(&mut self, size: u64, limit: u64, at: u64) -> Result<Bytes, TarError> {
        if size > limit {
            return Err(TarError::Corrupt { at, what: format!("an extended header claims {size} bytes") });
        }
        self.body = size;
        self.padding = padding(size);
        self.body().await
    }

    /// Old GNU sparse files have further blocks of their map behind the header.
    async fn sparse_map(&mut self) -> Result<(), TarError> {
        loop {
            let at = self.input.position();
            let block = self.take(BLOCK).await?;
            if block.len() != BLOCK {
                return Err(TarError::Truncated { at, what: "a header is cut" });
            }
            if block.get(504) != Some(&1) {
                return Ok(());
            }
        }
    }

    /// After a block of zeros: a second one, or the end of the file, ends the archive; anything else was a hole in it.
    async fn end(&mut self, at: u64) -> Result<(), TarError> {
        let block = self.take(BLOCK).await?;
        if block.iter().any(|byte| *byte != 0) {
            return Err(TarError::Corrupt { at, what: HOLE.to_owned() });
        }
        Ok(())
    }

    fn failed(&self, error: InputError) -> TarError {
        let at = self.input.position();
        match error {
            InputError::Dataset(error) => TarError::Dataset(error),
            InputError::Truncated => TarError::Truncated { at, what: "the compressed data is cut" },
            InputError::OtherCompression(_) => TarError::Unsupported(error.to_string()),
            InputError::Corrupt(_) => TarError::Corrupt { at, what: error.to_string() },
        }
    }
}

const HOLE: &str = "a block of zeros stands where a header should be";
const BAD_PAX: &str = "the records of an extended header are malformed";

/// Whether a block is a header: its checksum says so.
pub(super) fn is_header(block: &[u8]) -> bool {
    block.len() == BLOCK && Header(block).checksum_holds()
}

/// How many bytes fill the last block of a body.
pub(super) fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A header block of 512 bytes.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn field(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    fn flag(&self) -> u8 {
        self.0.get(156).copied().unwrap_or_default()
    }

    /// Sum of all bytes, the checksum field itself counted as spaces; some old programs summed signed bytes.
    fn checksum_holds(&self) -> bool {
        let blanks = 8 * i64::from(b' ');
        let sums = |of: fn(&u8) -> i64| -> i64 {
            let sum = |bytes: &[u8]| -> i64 { bytes.iter().map(of).sum() };
            sum(self.0) - sum(self.field(148..156)) + blanks
        };
        let unsigned = sums(|byte| i64::from(*byte));
        let signed = sums(|byte| i64::from(byte.cast_signed()));
        let stored = self.number(148..156).and_then(|n| i64::try_from(n).ok());
        stored.is_some_and(|stored| stored == unsigned || stored == signed)
    }

    /// A number: octal digits between blanks, or base-256 when the first bit is set. Negative ones are refused.
    fn number(&self, range: std::ops::Range<usize>) -> Option<u64> {
        let field = self.field(range);
        if let [0x80, rest @ ..] = field {
            let (high, low) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
            return high.iter().all(|b| *b == 0).then(|| low.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
        }
        let digits = until_nul(field).trim_ascii();
        digits.iter().try_fold(0u64, |n, digit| match digit {
            b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
            _ => None,
        })
    }

    /// The name field, behind the prefix that POSIX (not GNU) headers may have.
    fn name(&self) -> Vec<u8> {
        let name = until_nul(self.field(0..100));
        let prefix = until_nul(self.field(345..500));
        if self.field(257..263) != b"ustar\0" || prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }
}

/// Reads PAX records, `<length> <key>=<value>\n`, for what matters here. `None` if they are malformed.
fn pax(mut records: &[u8], into: &mut Overrides) -> Option<()> {
    while !records.is_empty() {
        let space = records.iter().take(20).position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(records.get(..space)?).ok()?.parse().ok()?;
        let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
        records = &records[length..];
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            // An empty value takes back what a global header said.
            b"path" => into.name = (!value.is_empty()).then(|| value.to_vec()),
            b"size" if value.is_empty() => into.size = None,
            b"size" => into.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
            key if key.starts_with(b"GNU.sparse.") => into.sparse = true,
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
