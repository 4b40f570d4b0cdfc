//! Where a training run keeps its files: a folder of any object store.

use crate::tables::OutputDir;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;

/// A file of a run that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub struct FolderError {
    pub action: &'static str,
    pub path: String,
    #[source]
    pub source: object_store::Error,
}

/// A folder in an object store. A file appears whole or not at all: the store sees to it (a local one stages and renames).
#[derive(Clone, Debug)]
pub struct RunFolder {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// The folder as the user knows it.
    place: String,
}

impl RunFolder {
    /// The folder of an output directory.
    pub fn of(directory: &OutputDir) -> RunFolder {
        RunFolder { store: directory.store().clone(), root: directory.root().clone(), place: directory.place() }
    }

    /// The folder `name` in this one.
    pub fn below(&self, name: &str) -> RunFolder {
        RunFolder {
            store: self.store.clone(),
            root: self.path(name),
            place: format!("{}/{name}", self.place.trim_end_matches('/')),
        }
    }

    /// The store it lies in.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The folder as the user knows it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Where the file `name` lies in the store.
    pub fn path(&self, name: &str) -> Path {
        self.root.clone().join(name)
    }

    /// The file `name` as the user knows it.
    pub fn shown(&self, name: &str) -> String {
        format!("{}/{name}", self.place.trim_end_matches('/'))
    }

    /// Writes a file, replacing what was there.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Result<(), FolderError> {
        let put = self.store.put(&self.path(name), bytes.into().into()).await;
        put.map(drop).map_err(|source| self.error("cannot write", name, source))
    }

    /// A file's bytes; none if there is no such file.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, FolderError> {
        let failed = |source| self.error("cannot read", name, source);
        match self.store.get(&self.path(name)).await {
            Ok(found) => found.bytes().await.map(Some).map_err(failed),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// The names of the files that lie directly in it, sorted.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn names(&self) -> Result<Vec<String>, FolderError> {
        let failed = |source| self.error("cannot list", "", source);
        let found: Vec<_> = self.store.list(Some(&self.root)).try_collect().await.map_err(failed)?;
        let direct = |path: &Path| {
            let mut rest = path.prefix_match(&self.root)?;
            let name = rest.next()?.as_ref().to_owned();
            rest.next().is_none().then_some(name)
        };
        let mut names: Vec<String> = found.iter().filter_map(|meta| direct(&meta.location)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes a file; one that is not there is no error.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn delete(&self, name: &str) -> Result<(), FolderError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.error("cannot delete", name, source)),
        }
    }

    /// An error about the file `name`.
    pub fn error(&self, action: &'static str, name: &str, source: object_store::Error) -> FolderError {
        FolderError { action, path: self.shown(name), source }
    }
}
