//! The zip format, `torch.save` since PyTorch 1.6: `<name>/data.pkl`, `<name>/byteorder`, and one stored member
//! `<name>/data/<key>` for each storage, where `<name>` is often `archive`.

use super::Detail;
use super::pickle::{self, Input, Tree};
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use zip::ZipArchive;
use zip::result::ZipError;

/// Longest marker member (`byteorder`) that is looked at.
const MAX_MARKER: u64 = 64;

/// An open checkpoint of the zip format.
#[derive(Debug)]
pub struct Zipped {
    archive: ZipArchive<BufReader<File>>,
    /// What stands before `data.pkl` and `data/<key>`.
    prefix: String,
    file_length: u64,
}

impl Zipped {
    /// Opens the archive and reads its pickle.
    pub fn open(file: File, length: u64) -> Result<(Zipped, Tree), Detail> {
        let archive = ZipArchive::new(BufReader::new(file)).map_err(|error| Detail::Container(error.to_string()))?;
        let prefix = prefix(&archive)?;
        let mut zipped = Zipped { archive, prefix, file_length: length };
        if zipped.archive.index_for_name(&format!("{}constants.pkl", zipped.prefix)).is_some() {
            return Err(Detail::Unsupported(
                "a TorchScript archive: save the module's state_dict() with torch.save instead",
            ));
        }
        match zipped.marker("byteorder")?.as_deref() {
            None | Some(b"little") => {}
            Some(_) => return Err(Detail::BigEndian),
        }
        let name = format!("{}data.pkl", zipped.prefix);
        let index =
            zipped.archive.index_for_name(&name).ok_or_else(|| Detail::Container(format!("no member {name}")))?;
        let bytes = zipped.whole(index, pickle::MAX_BYTES, &name)?;
        let mut input = Input::new(Cursor::new(&bytes), bytes.len() as u64);
        let tree = pickle::read(&mut input).map_err(|source| Detail::Pickle { member: name, source })?;
        Ok((zipped, tree))
    }

    fn marker(&mut self, name: &str) -> Result<Option<Vec<u8>>, Detail> {
        let name = format!("{}{name}", self.prefix);
        let index = self.archive.index_for_name(&name);
        index.map(|index| self.whole(index, MAX_MARKER, &name).map(|bytes| bytes.trim_ascii().to_vec())).transpose()
    }

    /// A whole member of at most `limit` bytes, its checksum verified.
    fn whole(&mut self, index: usize, limit: u64, name: &str) -> Result<Vec<u8>, Detail> {
        let limit = limit.min(self.file_length);
        let broken = |error: &dyn std::fmt::Display| Detail::Container(format!("member {name}: {error}"));
        let member = self.archive.by_index(index).map_err(|error| broken(&error))?;
        stored(member.compression(), name)?;
        if member.size() > limit {
            return Err(broken(&format!("it has {} bytes, more than the {limit} that are read", member.size())));
        }
        let size = member.size();
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        // One byte more than there may be: the checksum is compared when the end is met.
        member.take(size + 1).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(broken(&"its size is not the one in the directory")) }
    }

    /// Checks that a storage's member is there and holds `needed` bytes.
    pub fn check_storage(&self, key: &str, needed: u64) -> Result<(), String> {
        let name = self.member(key);
        let index = self.archive.index_for_name(&name).ok_or_else(|| format!("member {name} is missing"))?;
        let member = self.archive.by_index_data(index).map_err(|error| error.to_string())?;
        if member.size() > self.file_length {
            return Err(format!("member {name} would have {} bytes, the file has {}", member.size(), self.file_length));
        }
        if member.size() < needed {
            return Err(format!("member {name} has {} bytes, {needed} are needed", member.size()));
        }
        Ok(())
    }

    /// `length` bytes of a storage. Where that is the whole member its checksum is verified.
    pub fn read(&mut self, key: &str, start: u64, length: u64) -> Result<Vec<u8>, String> {
        let name = self.member(key);
        let index = self.archive.index_for_name(&name).ok_or_else(|| format!("member {name} is missing"))?;
        let whole = self.archive.by_index_data(index).is_ok_and(|member| start == 0 && member.size() == length);
        if whole {
            return self.whole(index, length, &name).map_err(|detail| detail.to_string());
        }
        let io = |error: std::io::Error| format!("member {name}: {error}");
        let mut member = self.archive.by_index_seek(index).map_err(|error| format!("member {name}: {error}"))?;
        member.seek(SeekFrom::Start(start)).map_err(io)?;
        let mut bytes = Vec::with_capacity(usize::try_from(length.min(self.file_length)).unwrap_or(0));
        member.take(length).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(format!("member {name} ends early")) }
    }

    fn member(&self, key: &str) -> String {
        format!("{}data/{key}", self.prefix)
    }
}

fn stored(method: zip::CompressionMethod, name: &str) -> Result<(), Detail> {
    if method == zip::CompressionMethod::Stored {
        return Ok(());
    }
    Err(Detail::Container(format!(
        "member {name} is compressed, which torch.save never does: save the checkpoint again"
    )))
}

/// What stands before `data.pkl`: the only member of that name that lies least deep.
fn prefix(archive: &ZipArchive<BufReader<File>>) -> Result<String, Detail> {
    let mut found: Vec<String> = Vec::new();
    for name in archive.file_names() {
        let name = name.map_err(|error: ZipError| Detail::Container(error.to_string()))?;
        if let Some(prefix) = name.strip_suffix("data.pkl").filter(|prefix| prefix.is_empty() || prefix.ends_with('/'))
        {
            found.push(prefix.to_owned());
        }
    }
    found.sort_by_key(|prefix| (prefix.matches('/').count(), prefix.clone()));
    match found.as_slice() {
        [] => Err(Detail::NotACheckpoint("a zip archive without data.pkl")),
        [first, second, ..] if first.matches('/').count() == second.matches('/').count() => {
            Err(Detail::Container(format!("it has two pickles, {first}data.pkl and {second}data.pkl")))
        }
        [first, ..] => Ok(first.clone()),
    }
}
