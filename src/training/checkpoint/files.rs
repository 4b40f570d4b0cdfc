//! The tensors of a checkpoint as a file in an object store, never held as a whole.

use super::CheckpointError;
use crate::digest::hex;
use crate::torch::weights::{WeightsError, WeightsFile, pieces};
use crate::training::RunFolder;
use futures::TryStreamExt;
use object_store::buffered::BufWriter;
use object_store::{GetResultPayload, ObjectStoreExt};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use tch::Tensor;
use tokio::io::AsyncWriteExt;

/// Bytes of one part of an upload, and of one piece that is hashed.
const PART: usize = 16 << 20;

/// Writes a file of tensors under its final name when it is whole: its size and SHA-256.
pub async fn write(
    folder: &RunFolder,
    name: &str,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<(u64, String), CheckpointError> {
    let failed = |source| CheckpointError::File { action: "write", path: folder.shown(name), source };
    let mut upload = BufWriter::with_capacity(folder.store().clone(), folder.path(name), PART);
    let (mut size, mut digest) = (0, Sha256::new());
    let mut sent = Ok(());
    for piece in pieces(tensors, &BTreeMap::new())? {
        sent = match piece {
            Ok(piece) => {
                digest.update(&piece);
                size += piece.len() as u64;
                upload.put(piece.into()).await.map_err(|source| failed(source.into()))
            }
            Err(error) => Err(error.into()),
        };
        if sent.is_err() {
            break;
        }
    }
    if let Err(error) = sent {
        // The error that stopped it matters more than one of giving its parts back.
        let _ = upload.abort().await;
        return Err(error);
    }
    upload.shutdown().await.map_err(failed)?;
    Ok((size, hex(&digest.finalize())))
}

/// Reads a file of tensors of this size and SHA-256: in place where it lies on a disk, else by way of a temporary file.
pub async fn read(
    folder: &RunFolder,
    name: &str,
    expected: (u64, &str),
) -> Result<BTreeMap<String, Tensor>, CheckpointError> {
    let path = folder.shown(name);
    let broken = |detail: String| CheckpointError::Broken { path: path.clone(), detail };
    let failed = |source| CheckpointError::File { action: "read", path: path.clone(), source };
    let found = match folder.store().get(&folder.path(name)).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Err(broken("its tensors are not there".to_owned())),
        Err(source) => return Err(folder.error("cannot read", name, source).into()),
    };
    if found.meta.size != expected.0 {
        return Err(broken(format!("it has {} bytes, its record says {}", found.meta.size, expected.0)));
    }
    let (file, _guard) = match found.payload {
        GetResultPayload::File(_, file) => (file, None),
        GetResultPayload::Stream(mut stream) => {
            let guard = tempfile::NamedTempFile::new().map_err(failed)?;
            let mut out = tokio::fs::File::from_std(guard.reopen().map_err(failed)?);
            let next = |source| folder.error("cannot read", name, source);
            while let Some(bytes) = stream.try_next().await.map_err(next)? {
                out.write_all(&bytes).await.map_err(failed)?;
            }
            out.flush().await.map_err(failed)?;
            (guard.path().to_owned(), Some(guard))
        }
    };
    if digest(&file).map_err(failed)? != expected.1 {
        return Err(broken("its bytes are not those that were written".to_owned()));
    }
    let loaded = WeightsFile::open(&file).and_then(|mut file| file.load_all());
    match loaded {
        Ok(weights) => Ok(weights.into_tensors()),
        Err(error @ (WeightsError::NotSafetensors { .. } | WeightsError::Dtype { .. })) => {
            Err(broken(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

fn digest(path: &Path) -> std::io::Result<String> {
    let (mut file, mut digest, mut buffer) = (std::fs::File::open(path)?, Sha256::new(), vec![0; PART]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&digest.finalize())),
            read => digest.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}
