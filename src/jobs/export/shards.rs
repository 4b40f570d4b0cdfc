//! WebDataset shards: `samples-000000.tar`, each of them there when it is whole.

use super::super::archive::append;
use super::{Facts, ending, file_stem};
use crate::tables::{OutputDir, SampleRow, SamplesIdentity, TableError};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use tokio::io::AsyncWriteExt;

/// Bytes of a part of an upload.
const PART: usize = 8 << 20;

pub(super) struct Shards {
    dir: OutputDir<SamplesIdentity>,
    per_shard: u64,
    number: u64,
    open: Option<Shard>,
}

struct Shard {
    path: Path,
    upload: BufWriter,
    /// What it holds of the archive, which has not gone up yet.
    archive: tar::Builder<Vec<u8>>,
    rows: u64,
}

impl Shards {
    pub fn new(dir: &OutputDir<SamplesIdentity>, per_shard: u64) -> Shards {
        Shards { dir: dir.clone(), per_shard: per_shard.max(1), number: 0, open: None }
    }

    /// Adds a row.
    pub async fn push(&mut self, row: &SampleRow) -> Result<(), TableError> {
        let mut shard = match self.open.take() {
            Some(shard) => shard,
            None => self.begin(),
        };
        shard.push(row).await?;
        match shard.rows >= self.per_shard {
            true => shard.finish().await,
            false => {
                self.open = Some(shard);
                Ok(())
            }
        }
    }

    /// Ends the last shard. Returns how many there are.
    pub async fn finish(mut self) -> Result<u64, TableError> {
        if let Some(shard) = self.open.take() {
            shard.finish().await?;
        }
        Ok(self.number)
    }

    fn begin(&mut self) -> Shard {
        let path = self.dir.root().clone().join(format!("samples-{:06}.tar", self.number));
        self.number += 1;
        let upload = BufWriter::with_capacity(self.dir.store().clone(), path.clone(), PART);
        Shard { path, upload, archive: tar::Builder::new(Vec::new()), rows: 0 }
    }
}

impl Shard {
    async fn push(&mut self, row: &SampleRow) -> Result<(), TableError> {
        let stem = file_stem(&row.key);
        let failed = |path: &Path, source| TableError::Disk { path: path.to_string(), source };
        let json = serde_json::to_vec(&Facts::of(row)).map_err(|error| failed(&self.path, error.into()))?;
        let mut files = vec![(ending(row).to_owned(), row.image.bytes.to_vec()), ("json".to_owned(), json)];
        files.extend(row.prompt.as_ref().map(|prompt| ("txt".to_owned(), prompt.clone().into_bytes())));
        files.extend(row.label.map(|label| ("cls".to_owned(), label.to_string().into_bytes())));
        for (ending, bytes) in files {
            append(&mut self.archive, &format!("{stem}.{ending}"), &bytes)
                .map_err(|error| failed(&self.path, error))?;
        }
        self.rows += 1;
        let ready = std::mem::take(self.archive.get_mut());
        self.send(ready).await
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), TableError> {
        let sent = self.upload.put(bytes.into()).await;
        sent.map_err(|source| TableError::Store { path: self.path.to_string(), source })
    }

    async fn finish(mut self) -> Result<(), TableError> {
        let archive = std::mem::replace(&mut self.archive, tar::Builder::new(Vec::new()));
        let path = self.path.to_string();
        let rest = archive.into_inner().map_err(|source| TableError::Disk { path: path.clone(), source })?;
        self.send(rest).await?;
        self.upload.shutdown().await.map_err(|source| TableError::Disk { path, source })
    }
}
