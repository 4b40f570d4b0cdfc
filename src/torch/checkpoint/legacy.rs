//! The legacy format, `torch.save` before PyTorch 1.6: five pickles (magic number, protocol version, system, the object, the
//! storages' keys) and then each storage: an i64 count of elements and the elements, little-endian.

use super::Detail;
use super::pickle::{self, Input, Node, Problem, Tree};
use super::tensors::{Storage, storage_of};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

/// `torch.serialization.MAGIC_NUMBER`.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// `torch.serialization.PROTOCOL_VERSION`.
const PROTOCOL: i128 = 1001;

/// An open checkpoint of the legacy format.
#[derive(Debug)]
pub struct Legacy {
    file: BufReader<File>,
    /// Where each storage's elements start, and how many bytes they have.
    storages: HashMap<String, (u64, u64)>,
}

impl Legacy {
    /// Reads the five pickles and finds the storages.
    pub fn open(file: File, length: u64) -> Result<(Legacy, Tree), Detail> {
        let mut input = Input::new(BufReader::new(file), length);
        let read = |input: &mut Input<BufReader<File>>, part: &str| {
            pickle::read(input).map_err(|source| Detail::Pickle { member: part.to_owned(), source })
        };
        let not = Detail::NotACheckpoint("neither a zip archive nor PyTorch's legacy format");
        let magic = match pickle::read(&mut input) {
            Ok(magic) => magic,
            // A bare pickle, not torch.save's: say so, unless it is an attack.
            Err(source) if matches!(source.problem, Problem::Refused { .. }) => {
                return Err(Detail::Pickle { member: "the pickle".to_owned(), source });
            }
            Err(_) => return Err(not),
        };
        if *magic.node(magic.root()) != Node::Int(MAGIC) {
            return Err(not);
        }
        let protocol = read(&mut input, "the protocol version")?;
        if *protocol.node(protocol.root()) != Node::Int(PROTOCOL) {
            return Err(Detail::Unsupported("a protocol version of the legacy format other than 1001"));
        }
        check_system(&read(&mut input, "the description of the system")?)?;
        let tree = read(&mut input, "the saved object")?;
        let keys = read(&mut input, "the list of storages")?;
        let start = input.offset();
        let mut file = input.into_inner();
        let storages = locate(&tree, &keys, &mut file, start..length).map_err(Detail::Container)?;
        Ok((Legacy { file, storages }, tree))
    }

    /// Checks that a storage is there and holds `needed` bytes.
    pub fn check_storage(&self, key: &str, needed: u64) -> Result<(), String> {
        match self.storages.get(key) {
            None => Err(format!("storage {key} is missing")),
            Some(&(_, held)) if held < needed => Err(format!("storage {key} has {held} bytes, {needed} are needed")),
            Some(_) => Ok(()),
        }
    }

    /// `length` bytes of a storage.
    pub fn read(&mut self, key: &str, start: u64, length: u64) -> Result<Vec<u8>, String> {
        let &(at, held) = self.storages.get(key).ok_or_else(|| format!("storage {key} is missing"))?;
        let within = start.checked_add(length).is_some_and(|end| end <= held);
        let at = at.checked_add(start).filter(|_| within).ok_or_else(|| format!("storage {key} has {held} bytes"))?;
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let read = self.file.seek(SeekFrom::Start(at));
        let read = read.and_then(|_| Read::by_ref(&mut self.file).take(length).read_to_end(&mut bytes));
        match read {
            Ok(count) if count as u64 == length => Ok(bytes),
            Ok(_) => Err(format!("storage {key} ends early")),
            Err(error) => Err(format!("storage {key}: {error}")),
        }
    }
}

fn check_system(system: &Tree) -> Result<(), Detail> {
    let Node::Dict(pairs) = system.node(system.root()) else {
        return Err(Detail::Container("the description of the system is no dict".to_owned()));
    };
    let little = pairs.iter().find(|(key, _)| system.text(*key) == Some("little_endian"));
    match little.map(|&(_, value)| system.node(value)) {
        Some(Node::Bool(false)) => Err(Detail::BigEndian),
        _ => Ok(()),
    }
}

/// Walks over the storages in the order of `keys`: where each one's elements start, and their bytes.
fn locate(
    tree: &Tree,
    keys: &Tree,
    file: &mut BufReader<File>,
    bounds: Range<u64>,
) -> Result<HashMap<String, (u64, u64)>, String> {
    let storages = tree.nodes().iter().filter_map(|node| match node {
        Node::Persistent(id) => storage_of(tree, *id).ok(),
        _ => None,
    });
    let known: HashMap<String, Storage> = storages.map(|storage| (storage.key.clone(), storage)).collect();
    let mut found = HashMap::new();
    let mut position = bounds.start;
    for &key in keys.sequence(keys.root()).ok_or("the list of storages is no list")? {
        let key = keys.text(key).ok_or("a storage's key is no string")?;
        let storage = known.get(key).ok_or_else(|| format!("storage {key} belongs to no tensor that can be read"))?;
        let early = || format!("the file ends before the end of storage {key}");
        let mut count = [0; 8];
        file.seek(SeekFrom::Start(position)).and_then(|_| file.read_exact(&mut count)).map_err(|_| early())?;
        let count = u64::from_le_bytes(count);
        if count != storage.elements {
            return Err(format!("storage {key} has {count} elements, its tensors expect {}", storage.elements));
        }
        let bytes = count.checked_mul(storage.element_size).ok_or_else(early)?;
        let start = position + 8;
        position = start.checked_add(bytes).filter(|&end| end <= bounds.end).ok_or_else(early)?;
        found.insert(key.to_owned(), (start, bytes));
    }
    Ok(found)
}
