//! Where a training run keeps its files: a folder of any object store.

use crate::tables::{OutputDir, TableError};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;

/// A file of a run that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{action} {path}: {source}")]
    Store {
        action: &'static str,
        path: String,
        #[source]
        source: object_store::Error,
    },
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A folder in an object store. A file appears whole or not at all: the store sees to it (a local one stages and renames).
#[derive(Clone, Debug)]
pub struct RunFolder {
    directory: OutputDir,
    root: Path,
}

impl RunFolder {
    /// The folder of an output directory.
    pub fn of(directory: &OutputDir) -> RunFolder {
        RunFolder { directory: directory.clone(), root: directory.root().clone() }
    }

    /// The folder `name` in this one.
    pub fn below(&self, name: &str) -> RunFolder {
        RunFolder { directory: self.directory.clone(), root: self.path(name) }
    }

    /// The store it lies in.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        self.directory.store()
    }

    /// The folder as the user knows it.
    pub fn place(&self) -> String {
        self.directory.shown(&self.root)
    }

    /// Where the file `name` lies in the store.
    pub fn path(&self, name: &str) -> Path {
        self.root.clone().join(name)
    }

    /// The file `name` as the user knows it.
    pub fn shown(&self, name: &str) -> String {
        self.directory.shown(&self.path(name))
    }

    /// Writes a file, replacing what was there.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Result<(), FolderError> {
        let put = self.store().put(&self.path(name), bytes.into().into()).await;
        put.map(drop).map_err(|source| self.error("cannot write", name, source))
    }

    /// A file's bytes; none if there is no such file.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, FolderError> {
        Ok(self.directory.get(&self.path(name)).await?)
    }

    /// The names of the files that lie directly in it, sorted.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn names(&self) -> Result<Vec<String>, FolderError> {
        let direct = |path: &Path| {
            let mut rest = path.prefix_match(&self.root)?;
            let name = rest.next()?.as_ref().to_owned();
            rest.next().is_none().then_some(name)
        };
        Ok(self.directory.list_below(&self.root).await?.iter().filter_map(direct).collect())
    }

    /// Deletes a file; one that is not there is no error.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn delete(&self, name: &str) -> Result<(), FolderError> {
        match self.store().delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.error("cannot delete", name, source)),
        }
    }

    /// Removes what a killed process left half-written in it. Nobody else may be writing there.
    ///
    /// # Errors
    /// What the disk reports; other stores show no half-written files.
    pub async fn sweep(&self) -> Result<(), FolderError> {
        Ok(self.directory.sweep_folder(&self.root).await?)
    }

    /// An error about the file `name`.
    pub fn error(&self, action: &'static str, name: &str, source: object_store::Error) -> FolderError {
        FolderError::Store { action, path: self.shown(name), source }
    }
}
