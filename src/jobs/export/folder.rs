//! Images in numbered folders beside a `metadata.jsonl`, which Hugging Face `datasets` reads as an `imagefolder`.

use super::{Facts, ending, file_stem, put};
use crate::tables::{OutputDir, SampleRow, SamplesIdentity, TableError};
use object_store::buffered::BufWriter;
use serde::Serialize;
use tokio::io::AsyncWriteExt;

/// Bytes of a part of an upload.
const PART: usize = 8 << 20;

pub(super) struct Folder {
    dir: OutputDir<SamplesIdentity>,
    per_folder: u64,
    rows: u64,
    metadata: BufWriter,
}

/// A line of the metadata.
#[derive(Serialize)]
struct Line<'a> {
    file_name: &'a str,
    #[serde(flatten)]
    facts: Facts<'a>,
}

impl Folder {
    pub fn new(dir: &OutputDir<SamplesIdentity>, per_folder: u64) -> Folder {
        let metadata = dir.root().clone().join("metadata.jsonl");
        let metadata = BufWriter::with_capacity(dir.store().clone(), metadata, PART);
        Folder { dir: dir.clone(), per_folder: per_folder.max(1), rows: 0, metadata }
    }

    /// Adds a row.
    pub async fn push(&mut self, row: &SampleRow) -> Result<(), TableError> {
        let folder = self.rows / self.per_folder;
        let name = format!("{folder:05}/{}.{}", file_stem(&row.key), ending(row));
        self.rows += 1;
        put(&self.dir, &name, row.image.bytes.clone()).await?;
        let broken = |detail: String| TableError::Format { path: "metadata.jsonl".to_owned(), detail };
        let line = Line { file_name: &name, facts: Facts::of(row) };
        let mut line = serde_json::to_vec(&line).map_err(|error| broken(error.to_string()))?;
        line.push(b'\n');
        self.metadata.put(line.into()).await.map_err(|error| broken(error.to_string()))
    }

    /// Writes the metadata. Returns the number of folders.
    pub async fn finish(mut self) -> Result<u64, TableError> {
        let path = "metadata.jsonl".to_owned();
        self.metadata.shutdown().await.map_err(|source| TableError::Disk { path, source })?;
        Ok(self.rows.div_ceil(self.per_folder))
    }
}
