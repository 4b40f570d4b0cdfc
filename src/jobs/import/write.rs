//! A safetensors file from tensors that are fetched, converted and written one at a time, under its final name when all
//! that belongs together is whole.

use super::ImportError;
use crate::torch::checkpoint::{Checkpoint, CheckpointError};
use half::{bf16, f16};
use safetensors::Dtype;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// Its name in the new file.
    pub name: String,
    /// Its name in the checkpoint.
    pub key: String,
    pub shape: Vec<i64>,
    /// Its dtype in the checkpoint.
    pub from: Dtype,
    /// Its dtype in the new file.
    pub to: Dtype,
}

impl Planned {
    /// Number of elements. The shape is that of a tensor inside a file, so the product fits.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&side| u64::try_from(side).unwrap_or(0)).product()
    }

    fn bytes(&self) -> u64 {
        self.elements() * self.to.bitsize() as u64 / 8
    }

    /// Its bytes as they are written. A checkpoint that is no longer the one that was planned for is an error.
    pub fn read(&self, checkpoint: &mut Checkpoint) -> Result<Vec<u8>, ImportError> {
        let path = checkpoint.path().to_owned();
        let failed = |problem| CheckpointError::Tensor { path, key: self.key.clone(), problem };
        let bytes = checkpoint.read(&self.key)?;
        if bytes.len() as u64 != self.elements() * self.from.bitsize() as u64 / 8 {
            return Err(failed("it has changed since it was checked".to_owned()).into());
        }
        Ok(converted(bytes, self.from, self.to).map_err(failed)?)
    }
}

/// Wide dtypes first, then by name, as the format's own library writes them, so that every tensor is aligned.
pub(super) fn in_file_order(mut tensors: Vec<Planned>) -> Vec<Planned> {
    tensors.sort_by(|a, b| (Reverse(a.to.bitsize()), &a.name).cmp(&(Reverse(b.to.bitsize()), &b.name)));
    tensors
}

/// Writes a whole file beside its final name. The bytes depend on the tensors and metadata alone.
pub(super) fn write(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: &[Planned],
    checkpoint: &mut Checkpoint,
) -> Result<Pending, ImportError> {
    write_with(path, |out| {
        let failed = |source| ImportError::Write { path: path.to_owned(), source };
        let header = header(metadata, tensors);
        out.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| out.write_all(&header)).map_err(failed)?;
        tensors.iter().try_for_each(|tensor| out.write_all(&tensor.read(checkpoint)?).map_err(failed))
    })
}

/// A whole copy of a file beside its final name.
pub(super) fn copy(from: &Path, path: &Path) -> Result<Pending, ImportError> {
    let mut file = File::open(from).map_err(|source| ImportError::Read { path: from.to_owned(), source })?;
    write_with(path, |out| {
        io::copy(&mut file, out).map(drop).map_err(|source| ImportError::Write { path: path.to_owned(), source })
    })
}

fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), ImportError>,
) -> Result<Pending, ImportError> {
    let failed = |source| ImportError::Write { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let partial = path.with_extension("safetensors.partial");
    let file = File::create(&partial).map_err(failed)?;
    let mut pending = Pending { partial: Some(partial), path: path.to_owned(), bytes: 0 };
    let mut out = BufWriter::new(file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    pending.bytes = file.metadata().map_err(failed)?.len();
    Ok(pending)
}

/// A whole file that has not its final name yet, and is removed unless it gets it.
#[must_use]
pub(super) struct Pending {
    partial: Option<PathBuf>,
    path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

impl Pending {
    /// Where it lies for now.
    pub fn partial(&self) -> &Path {
        self.partial.as_deref().unwrap_or(&self.path)
    }

    /// Gives it its final name; that name and its length.
    pub fn commit(mut self) -> Result<(PathBuf, u64), ImportError> {
        if let Some(partial) = &self.partial {
            fs::rename(partial, &self.path).map_err(|source| ImportError::Write { path: self.path.clone(), source })?;
        }
        self.partial = None;
        Ok((self.path.clone(), self.bytes))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            let _ = fs::remove_file(partial);
        }
    }
}

/// The JSON header, padded with spaces to a multiple of 8.
fn header(metadata: &BTreeMap<String, String>, tensors: &[Planned]) -> Vec<u8> {
    let mut entries = BTreeMap::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__", serde_json::json!(metadata));
    }
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes();
        let entry = serde_json::json!({
            "dtype": tensor.to.to_string(), "shape": tensor.shape, "data_offsets": [offset, end],
        });
        entries.insert(&tensor.name, entry);
        offset = end;
    }
    let mut header = serde_json::json!(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

/// Little-endian numbers of one dtype as another: float32 or int64.
fn converted(bytes: Vec<u8>, from: Dtype, to: Dtype) -> Result<Vec<u8>, String> {
    Ok(match (from, to) {
        _ if from == to => bytes,
        (Dtype::F16, Dtype::F32) => each(&bytes, |b| f16::from_le_bytes(b).to_f32().to_le_bytes()),
        (Dtype::BF16, Dtype::F32) => each(&bytes, |b| bf16::from_le_bytes(b).to_f32().to_le_bytes()),
        (Dtype::F64, Dtype::F32) => each(&bytes, |b| (f64::from_le_bytes(b) as f32).to_le_bytes()),
        (Dtype::I32, Dtype::I64) => each(&bytes, |b| i64::from(i32::from_le_bytes(b)).to_le_bytes()),
        (Dtype::I16, Dtype::I64) => each(&bytes, |b| i64::from(i16::from_le_bytes(b)).to_le_bytes()),
        (Dtype::I8, Dtype::I64) => each(&bytes, |b| i64::from(i8::from_le_bytes(b)).to_le_bytes()),
        (Dtype::U8 | Dtype::BOOL, Dtype::I64) => each(&bytes, |[b]| i64::from(b).to_le_bytes()),
        (Dtype::U16, Dtype::I64) => each(&bytes, |b| i64::from(u16::from_le_bytes(b)).to_le_bytes()),
        (Dtype::U32, Dtype::I64) => each(&bytes, |b| i64::from(u32::from_le_bytes(b)).to_le_bytes()),
        _ => return Err(format!("{from} numbers cannot be written as {to}")),
    })
}

fn each<const N: usize, const M: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> [u8; M]) -> Vec<u8> {
    let (numbers, _) = bytes.as_chunks::<N>();
    numbers.iter().flat_map(|&number| convert(number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(bytes: &[u8], from: Dtype, to: Dtype) -> Result<Vec<u8>, String> {
        converted(bytes.to_vec(), from, to)
    }

    #[test]
    fn numbers_keep_their_value() {
        let floats: Vec<u8> = [1.5f32, -0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
        let half: Vec<u8> = [1.5f32, -0.25].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let brain: Vec<u8> = [1.5f32, -0.25].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let double: Vec<u8> = [1.5f64, -0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
        for (from, bytes) in
            [(Dtype::F16, half), (Dtype::BF16, brain), (Dtype::F64, double), (Dtype::F32, floats.clone())]
        {
            assert_eq!(convert(&bytes, from, Dtype::F32).unwrap(), floats, "{from}");
        }
        let longs: Vec<u8> = [7i64, -1].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(convert(&[7, 0, 0, 0, 255, 255, 255, 255], Dtype::I32, Dtype::I64).unwrap(), longs);
        assert_eq!(convert(&[7, 0, 255, 255], Dtype::I16, Dtype::I64).unwrap(), longs);
        assert_eq!(convert(&[7, 255], Dtype::I8, Dtype::I64).unwrap(), longs);
        assert_eq!(convert(&[7], Dtype::U8, Dtype::I64).unwrap(), longs[..8]);
        assert!(convert(&[7; 8], Dtype::U64, Dtype::I64).is_err());
    }
}
