//! PyTorch checkpoints (`torch.save`), read without ever executing their pickle code.
//!
//! Both formats are read: the zip format, and the legacy one before it. [`pickle`] turns the pickled object into inert
//! values, the tensors are found among them, and [`Checkpoint::read`] fetches the numbers of one tensor at a time: memory
//! holds the pickle (some 100 KB) and one tensor.

mod legacy;
pub mod pickle;
mod tensors;
mod zipped;

use legacy::Legacy;
use pickle::{Id, PickleError, Tree};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use tensors::{Entry, TensorRef};
use zipped::Zipped;

/// Why a checkpoint, or a tensor of it, is not read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot open the checkpoint {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{}: {detail}", path.display())]
    File { path: PathBuf, detail: Detail },
    /// Nothing in it is a dict of tensors.
    #[error("{} holds no tensors by name, neither under \"state_dict\" nor at its top level: it is {found}", path.display())]
    NoTensors { path: PathBuf, found: String },
    #[error("{} has no tensor {key}", path.display())]
    NoTensor { path: PathBuf, key: String },
    /// The tensor depends on something that would have to be executed.
    #[error(
        "tensor {key} of {} is made by {callable}, which is not known here and never called: save it as a plain tensor",
        path.display()
    )]
    Foreign { path: PathBuf, key: String, callable: String },
    #[error("tensor {key} of {}: {problem}", path.display())]
    Tensor { path: PathBuf, key: String, problem: String },
}

/// What is wrong with a checkpoint file.
#[derive(Debug, thiserror::Error)]
pub enum Detail {
    #[error("not a PyTorch checkpoint: {0}")]
    NotACheckpoint(&'static str),
    #[error("the checkpoint is damaged: {0}")]
    Container(String),
    #[error("{member}: {source}")]
    Pickle {
        member: String,
        #[source]
        source: PickleError,
    },
    #[error("the checkpoint was written on a big-endian machine, which is not read: load and save it on another one")]
    BigEndian,
    #[error("not read: {0}")]
    Unsupported(&'static str),
}

/// The two formats of `torch.save`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// Since PyTorch 1.6.
    Zip,
    /// Before it, and on request since.
    Legacy,
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Its name in the state dict.
    pub key: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [u64],
}

#[derive(Debug)]
enum Container {
    Zip(Zipped),
    Legacy(Legacy),
}

/// An open checkpoint: names, dtypes and shapes are in memory, numbers are read on demand.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    container: Container,
    file_length: u64,
    entries: BTreeMap<String, Entry>,
    beside: Vec<String>,
}

impl Checkpoint {
    /// Opens a checkpoint and finds its tensors: those of the dict under `state_dict`, else of the dict that the file is.
    ///
    /// # Errors
    /// The file is no checkpoint, is damaged, holds no tensors by name, or its pickle would execute something.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
        let path = path.as_ref().to_path_buf();
        let (mut file, length, head) =
            open(&path).map_err(|source| CheckpointError::Open { path: path.clone(), source })?;
        let opened = file.rewind().map_err(|error| Detail::Container(error.to_string())).and_then(|()| {
            if head.starts_with(b"PK\x03\x04") {
                Zipped::open(file, length).map(|(zipped, tree)| (Container::Zip(zipped), tree))
            } else if let Some(kind) = foreign_format(&head) {
                Err(Detail::NotACheckpoint(kind))
            } else {
                Legacy::open(file, length).map(|(legacy, tree)| (Container::Legacy(legacy), tree))
            }
        });
        let (container, tree) = opened.map_err(|detail| CheckpointError::File { path: path.clone(), detail })?;
        let (entries, beside) = state_dict(&tree);
        if entries.values().all(|entry| matches!(entry, Entry::Data(_))) {
            return Err(CheckpointError::NoTensors { path, found: summary(&tree) });
        }
        let checkpoint = Checkpoint { path, container, file_length: length, entries, beside };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// Every tensor must lie inside its storage, and every storage inside the file: then nothing that is read later can ask
    /// for more memory than the file has bytes.
    fn check_tensors(&self) -> Result<(), CheckpointError> {
        for (key, entry) in &self.entries {
            let problem = match entry {
                Entry::Tensor(tensor) => self.check_tensor(tensor).err(),
                Entry::Broken(problem) => Some(problem.clone()),
                Entry::Foreign(_) | Entry::Data(_) => None,
            };
            if let Some(problem) = problem {
                return Err(CheckpointError::Tensor { path: self.path.clone(), key: key.clone(), problem });
            }
        }
        Ok(())
    }

    fn check_tensor(&self, tensor: &TensorRef) -> Result<(), String> {
        let bytes = tensor.byte_len().filter(|&bytes| bytes <= self.file_length);
        bytes.ok_or_else(|| format!("its shape {:?} needs more bytes than the whole file has", tensor.shape))?;
        let (start, length) = tensor.window().ok_or("it reaches outside its storage")?;
        let needed = if length == 0 { 0 } else { start + length };
        match &self.container {
            Container::Zip(zipped) => zipped.check_storage(&tensor.storage.key, needed),
            Container::Legacy(legacy) => legacy.check_storage(&tensor.storage.key, needed),
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which of the two formats it has.
    pub fn format(&self) -> CheckpointFormat {
        match self.container {
            Container::Zip(_) => CheckpointFormat::Zip,
            Container::Legacy(_) => CheckpointFormat::Legacy,
        }
    }

    /// All tensors that can be read, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.entries.iter().filter_map(|(key, entry)| match entry {
            Entry::Tensor(tensor) => Some(TensorInfo { key, dtype: tensor.dtype, shape: &tensor.shape }),
            _ => None,
        })
    }

    /// Names of values that are made by an unknown callable, with its name: reading them is refused.
    pub fn foreign(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().filter_map(|(key, entry)| match entry {
            Entry::Foreign(callable) => Some((key.as_str(), callable.as_str())),
            _ => None,
        })
    }

    /// Names among the tensors whose values are plain data, such as numbers and strings.
    pub fn data(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|(_, entry)| matches!(entry, Entry::Data(_))).map(|(key, _)| key.as_str())
    }

    /// What lies beside `state_dict` at the top level: `epoch`, `optimizer_states` and the like. Not read.
    pub fn beside(&self) -> &[String] {
        &self.beside
    }

    /// The bytes of one tensor: row-major whatever its strides, little-endian, in its own dtype.
    pub fn read(&mut self, key: &str) -> Result<Vec<u8>, CheckpointError> {
        let failed = |problem| CheckpointError::Tensor { path: self.path.clone(), key: key.to_owned(), problem };
        let tensor = match self.entries.get(key) {
            Some(Entry::Tensor(tensor)) => tensor,
            Some(Entry::Foreign(callable)) => {
                let (path, callable) = (self.path.clone(), callable.clone());
                return Err(CheckpointError::Foreign { path, key: key.to_owned(), callable });
            }
            _ => return Err(CheckpointError::NoTensor { path: self.path.clone(), key: key.to_owned() }),
        };
        let (start, length) = tensor.window().ok_or_else(|| failed("it reaches outside its storage".to_owned()))?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let window = match &mut self.container {
            Container::Zip(zipped) => zipped.read(&tensor.storage.key, start, length),
            Container::Legacy(legacy) => legacy.read(&tensor.storage.key, start, length),
        };
        let window = window.map_err(failed)?;
        if tensor.is_contiguous() {
            return Ok(window);
        }
        tensor.gather(&window).ok_or_else(|| failed("its strides reach outside its storage".to_owned()))
    }
}

fn open(path: &Path) -> io::Result<(File, u64, Vec<u8>)> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    if about.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory, not a file"));
    }
    let mut head = Vec::new();
    (&file).take(512).read_to_end(&mut head)?;
    Ok((file, about.len(), head))
}

/// What else people keep beside checkpoints.
fn foreign_format(head: &[u8]) -> Option<&'static str> {
    if head.is_empty() {
        Some("the file is empty")
    } else if head.get(257..262) == Some(b"ustar") {
        Some("a tar archive (PyTorch 0.1 wrote such checkpoints: load and save it with a newer PyTorch)")
    } else if head.get(8..9) == Some(b"{") {
        Some("it looks like a safetensors file, which needs no import")
    } else {
        None
    }
}

/// The entries of the state dict, and the names that lie beside it.
fn state_dict(tree: &Tree) -> (BTreeMap<String, Entry>, Vec<String>) {
    let Some(root) = tensors::mapping(tree, tree.root()) else { return Default::default() };
    let nested = root.iter().rev().find(|(key, _)| tree.text(*key) == Some("state_dict"));
    let nested = nested.and_then(|&(_, value)| tensors::mapping(tree, value));
    let names = |pairs: &[(Id, Id)]| pairs.iter().filter_map(|&(key, _)| tree.text(key)).map(str::to_owned).collect();
    let beside: Vec<String> = if nested.is_some() { names(&root) } else { Vec::new() };
    let pairs = nested.unwrap_or(root);
    let entries =
        pairs.iter().filter_map(|&(key, value)| Some((tree.text(key)?.to_owned(), tensors::entry(tree, value))));
    (entries.collect(), beside.into_iter().filter(|name| name != "state_dict").collect())
}

/// What the pickled object is, in a few words.
fn summary(tree: &Tree) -> String {
    match tensors::mapping(tree, tree.root()) {
        None => tree.describe(tree.root()),
        Some(pairs) => {
            let keys: Vec<&str> = pairs.iter().filter_map(|&(key, _)| tree.text(key)).take(10).collect();
            format!(
                "a dict of {} entries ({}{})",
                pairs.len(),
                keys.join(", "),
                if pairs.len() > 10 { ", ..." } else { "" }
            )
        }
    }
}
