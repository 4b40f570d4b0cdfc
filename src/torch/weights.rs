//! Named tensors in safetensors files, and the lists that say which tensors a network has.
//!
//! A network is described once, as a list of [`TensorSpec`]: loading, initialisation, the import report and dry runs use
//! that list, so none of them needs the network itself. Files are read one tensor at a time: memory holds the tensors and
//! one tensor's bytes, never the file.

pub use super::spec::{Differences, Init, TensorSpec};
use crate::digest::hex;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tch::{Kind, TchError, Tensor};

/// Longest header that is read, the limit of the format's reference implementation.
const MAX_HEADER: u64 = 100_000_000;

/// Why weights could not be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot open the weights {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is not a safetensors file: {detail}", path.display())]
    NotSafetensors { path: PathBuf, detail: String },
    #[error("cannot read tensor {tensor} of {}: {source}", path.display())]
    Read { path: PathBuf, tensor: String, source: io::Error },
    #[error("tensor {tensor} of {} has dtype {dtype}, which is not read here (F64, F32, F16, BF16, I64, I32, U8 are)", path.display())]
    Dtype { path: PathBuf, tensor: String, dtype: Dtype },
    #[error("{origin} has no tensor {tensor}")]
    NoTensor { origin: String, tensor: String },
    #[error("the weights of {origin} do not fit the network: {differences}")]
    Mismatch { origin: String, differences: Differences },
    #[error("cannot write the weights {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("tensor {tensor}: {source}")]
    Torch { tensor: String, source: TchError },
}

/// An open safetensors file: its header is in memory, its tensors are read on demand.
#[derive(Debug)]
pub struct WeightsFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl WeightsFile {
    /// Opens a file and checks its header: format, offsets, and that the file is as long as the header says.
    pub fn open(path: impl AsRef<Path>) -> Result<WeightsFile, WeightsError> {
        let path = path.as_ref().to_path_buf();
        let mut file = File::open(&path).map_err(|source| WeightsError::Open { path: path.clone(), source })?;
        match read_header(&mut file) {
            Ok((data_start, header)) => {
                let tensors = header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
                let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
                Ok(WeightsFile { path, file, data_start, metadata, tensors })
            }
            Err(detail) => Err(WeightsError::NotSafetensors { path, detail }),
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.tensors.get(name).map(shape_of)
    }

    /// Reads one tensor in the file's own dtype, onto the CPU.
    pub fn read(&mut self, name: &str) -> Result<Tensor, WeightsError> {
        let (info, bytes) = self.bytes(name)?;
        self.tensor(name, &info, &bytes)
    }

    /// How the file differs from a network's list.
    pub fn compare(&self, specs: &[TensorSpec]) -> Differences {
        let found = self.tensors.iter().map(|(name, info)| (name.as_str(), shape_of(info), is_integer(info.dtype)));
        Differences::between(specs, found)
    }

    /// Reads all tensors of a network, floating-point ones as float32, and their [`fingerprint`](Weights::fingerprint).
    ///
    /// # Errors
    /// Missing, unused and mismatched tensors, all named in one message; I/O errors with file and tensor.
    pub fn load(&mut self, specs: &[TensorSpec]) -> Result<Weights, WeightsError> {
        let differences = self.compare(specs);
        if !differences.is_empty() {
            return Err(WeightsError::Mismatch { origin: self.path.display().to_string(), differences });
        }
        self.load_all()
    }

    /// Reads every tensor, floating-point ones as float32.
    pub fn load_all(&mut self) -> Result<Weights, WeightsError> {
        let mut hash = Sha256::new();
        let mut tensors = BTreeMap::new();
        let names: Vec<String> = self.tensors.keys().cloned().collect();
        for name in names {
            let (info, bytes) = self.bytes(&name)?;
            hash_tensor(&mut hash, &name, info.dtype, &shape_of(&info), &bytes);
            let tensor = self.tensor(&name, &info, &bytes)?;
            let tensor = if is_integer(info.dtype) { tensor } else { in_kind(&name, tensor, Kind::Float)? };
            tensors.insert(name, tensor);
        }
        let origin = self.path.display().to_string();
        Ok(Weights { origin, metadata: self.metadata.clone(), tensors, fingerprint: hex(&hash.finalize()) })
    }

    /// The [`fingerprint`](Weights::fingerprint) of the weights, from one tensor's bytes at a time.
    pub fn fingerprint(&mut self) -> Result<String, WeightsError> {
        let mut hash = Sha256::new();
        let names: Vec<String> = self.tensors.keys().cloned().collect();
        for name in names {
            let (info, bytes) = self.bytes(&name)?;
            hash_tensor(&mut hash, &name, info.dtype, &shape_of(&info), &bytes);
        }
        Ok(hex(&hash.finalize()))
    }

    fn bytes(&mut self, name: &str) -> Result<(TensorInfo, Vec<u8>), WeightsError> {
        let no_tensor = || WeightsError::NoTensor { origin: self.path.display().to_string(), tensor: name.to_owned() };
        let info = self.tensors.get(name).cloned().ok_or_else(no_tensor)?;
        // The header was checked against the file's length: both sums and the buffer's size are within it.
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let read = self
            .file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes));
        match read {
            Ok(()) => Ok((info, bytes)),
            Err(source) => Err(WeightsError::Read { path: self.path.clone(), tensor: name.to_owned(), source }),
        }
    }

    fn tensor(&self, name: &str, info: &TensorInfo, bytes: &[u8]) -> Result<Tensor, WeightsError> {
        let kind = kind_of(info.dtype).ok_or_else(|| WeightsError::Dtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            dtype: info.dtype,
        })?;
        Tensor::f_from_data_size(bytes, &shape_of(info), kind)
            .map_err(|source| WeightsError::Torch { tensor: name.to_owned(), source })
    }
}

/// The start of the data and the header of a file, or what is wrong with it.
fn read_header(file: &mut File) -> Result<(u64, Metadata), String> {
    let io = |error: io::Error| error.to_string();
    let length = file.metadata().map_err(io)?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| format!("it has only {length} bytes"))?;
    let size = u64::from_le_bytes(size);
    let data_start = size.checked_add(8).filter(|&start| size <= MAX_HEADER && start <= length);
    let data_start = data_start.ok_or_else(|| format!("its header would have {size} bytes, the file has {length}"))?;
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(io)?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|error| format!("bad header: {error}"))?;
    let expected = data_start.checked_add(header.data_len() as u64);
    if expected != Some(length) {
        return Err(format!("it has {length} bytes, its header describes {}", expected.unwrap_or(u64::MAX)));
    }
    Ok((data_start, header))
}

/// Named tensors on the CPU, with the fingerprint they have on disk.
#[derive(Debug)]
pub struct Weights {
    origin: String,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Tensor>,
    fingerprint: String,
}

impl Weights {
    /// Fresh weights for a network: a pure function of the list and the seed.
    pub fn init(specs: &[TensorSpec], seed: u64) -> Result<Weights, WeightsError> {
        let mut tensors = BTreeMap::new();
        for spec in specs {
            let tensor = spec.fill(seed).map_err(|source| WeightsError::Torch { tensor: spec.name.clone(), source })?;
            tensors.insert(spec.name.clone(), tensor);
        }
        Weights::from_tensors("fresh weights", tensors)
    }

    /// Weights from tensors in memory. `origin` names them in messages.
    pub fn from_tensors(origin: &str, tensors: BTreeMap<String, Tensor>) -> Result<Weights, WeightsError> {
        let mut hash = Sha256::new();
        for (name, tensor) in &tensors {
            let (dtype, shape, bytes) = serialised(name, tensor)?;
            hash_tensor(&mut hash, name, dtype, &shape, &bytes);
        }
        Ok(Weights {
            origin: origin.to_owned(),
            metadata: BTreeMap::new(),
            tensors,
            fingerprint: hex(&hash.finalize()),
        })
    }

    /// Hex SHA-256 over name, dtype, shape and bytes of each tensor in the order of the names. Metadata, order and padding of
    /// the file do not matter.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The metadata of the file they came from; empty for weights made in memory.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Where they came from, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The tensors by name, without the rest.
    pub fn into_tensors(self) -> BTreeMap<String, Tensor> {
        self.tensors
    }

    /// One tensor.
    pub fn get(&self, name: &str) -> Result<&Tensor, WeightsError> {
        let missing = || WeightsError::NoTensor { origin: self.origin.clone(), tensor: name.to_owned() };
        self.tensors.get(name).ok_or_else(missing)
    }

    /// Those whose names begin with `prefix`, without it. Origin and fingerprint stay those of the whole.
    pub fn below(self, prefix: &str) -> Weights {
        let named = |(name, tensor): (String, Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor));
        Weights { tensors: self.tensors.into_iter().filter_map(named).collect(), ..self }
    }

    /// Fails unless these are exactly the tensors of a network.
    pub fn check(&self, specs: &[TensorSpec]) -> Result<(), WeightsError> {
        let found = self.tensors.iter().map(|(name, tensor)| {
            let integer = tensor.f_kind().is_ok_and(|kind| kind == Kind::Int64);
            (name.as_str(), tensor.size(), integer)
        });
        let differences = Differences::between(specs, found);
        if differences.is_empty() {
            return Ok(());
        }
        Err(WeightsError::Mismatch { origin: self.origin.clone(), differences })
    }
}

/// Writes tensors and metadata as a safetensors file, under its final name only when it is whole. The bytes depend on the
/// arguments alone. Only one tensor's bytes are held at a time.
pub fn write(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let path = path.as_ref();
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let io = |source| WeightsError::Write { path: path.to_path_buf(), source };
    let pieces = pieces(tensors, metadata)?;
    let mut out = BufWriter::new(File::create(&partial).map_err(io)?);
    for piece in pieces {
        out.write_all(&piece?).map_err(io)?;
    }
    let file = out.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    std::fs::rename(&partial, path).map_err(io)
}

/// The bytes of a safetensors file: the header, then one tensor after the other.
pub(crate) fn pieces<'a>(
    tensors: &'a BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<impl Iterator<Item = Result<Vec<u8>, WeightsError>> + 'a, WeightsError> {
    let header = header_bytes(tensors, metadata)?;
    let start = [&(header.len() as u64).to_le_bytes(), &header[..]].concat();
    let body = in_file_order(tensors)?.into_iter().map(|(name, tensor)| Ok(serialised(name, tensor)?.2));
    Ok(std::iter::once(Ok(start)).chain(body))
}

/// Wide dtypes first, then by name, so that every tensor is aligned.
fn in_file_order(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<(&str, &Tensor)>, WeightsError> {
    let mut order = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        order.push((std::cmp::Reverse(dtype_of(name, tensor)?), name.as_str(), tensor));
    }
    order.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    Ok(order.into_iter().map(|(_, name, tensor)| (name, tensor)).collect())
}

fn header_bytes(
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, WeightsError> {
    let mut entries = BTreeMap::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__", serde_json::json!(metadata));
    }
    let mut offset = 0;
    for (name, tensor) in in_file_order(tensors)? {
        let dtype = dtype_of(name, tensor)?;
        let end = offset + tensor.numel() * dtype.bitsize() / 8;
        let entry =
            serde_json::json!({"dtype": dtype.to_string(), "shape": tensor.size(), "data_offsets": [offset, end]});
        entries.insert(name, entry);
        offset = end;
    }
    let mut header = serde_json::json!(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn hash_tensor(hash: &mut Sha256, name: &str, dtype: Dtype, shape: &[i64], bytes: &[u8]) {
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name.as_bytes());
    hash.update(format!("{dtype}{shape:?}").as_bytes());
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn serialised(name: &str, tensor: &Tensor) -> Result<(Dtype, Vec<i64>, Vec<u8>), WeightsError> {
    let dtype = dtype_of(name, tensor)?;
    let mut bytes = vec![0; tensor.numel() * dtype.bitsize() / 8];
    tensor
        .f_to_device(tch::Device::Cpu)
        .and_then(|tensor| tensor.f_contiguous()?.f_copy_data_u8(&mut bytes, tensor.numel()))
        .map_err(|source| WeightsError::Torch { tensor: name.to_owned(), source })?;
    Ok((dtype, tensor.size(), bytes))
}

fn in_kind(name: &str, tensor: Tensor, kind: Kind) -> Result<Tensor, WeightsError> {
    tensor.f_to_kind(kind).map_err(|source| WeightsError::Torch { tensor: name.to_owned(), source })
}

fn shape_of(info: &TensorInfo) -> Vec<i64> {
    info.shape.iter().map(|&side| i64::try_from(side).unwrap_or(i64::MAX)).collect()
}

const DTYPES: [(Dtype, Kind); 7] = [
    (Dtype::F64, Kind::Double),
    (Dtype::F32, Kind::Float),
    (Dtype::F16, Kind::Half),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::I64, Kind::Int64),
    (Dtype::I32, Kind::Int),
    (Dtype::U8, Kind::Uint8),
];

fn kind_of(dtype: Dtype) -> Option<Kind> {
    DTYPES.iter().find(|(known, _)| *known == dtype).map(|&(_, kind)| kind)
}

fn dtype_of(name: &str, tensor: &Tensor) -> Result<Dtype, WeightsError> {
    let kind = tensor.f_kind().map_err(|source| WeightsError::Torch { tensor: name.to_owned(), source })?;
    DTYPES.iter().find(|(_, known)| *known == kind).map(|&(dtype, _)| dtype).ok_or_else(|| WeightsError::Torch {
        tensor: name.to_owned(),
        source: TchError::Kind(format!("{kind:?} is not written to weights files")),
    })
}

fn is_integer(dtype: Dtype) -> bool {
    !matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}
