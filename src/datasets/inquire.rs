//! What a store is asked before anything is read: the objects under a prefix, and what is known of one of them.

use super::DatasetError;
use super::store::{Location, credentials_hint};
use crate::retry::{Refusal, Retries};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStoreExt};
use std::sync::Arc;

/// Everything under `prefix`, in the store's order. Nothing there is no error.
pub(super) async fn list(location: &Location, prefix: &str) -> Result<Vec<ObjectMeta>, DatasetError> {
    let path = parse_path(prefix)?;
    let path = (!path.as_ref().is_empty()).then_some(path);
    let retries = Retries::default();
    let all = || async {
        let mut pages = location.store.list(path.as_ref());
        let mut all = Vec::new();
        while let Some(meta) = retries.piece(pages.try_next()).await? {
            all.push(meta);
        }
        Ok(all)
    };
    match retries.repeat(&location.url, all).await {
        // A folder that is not there; a bucket that is not there has no list to give, and object_store says so otherwise.
        Err(Error::NotFound { .. }) => Ok(Vec::new()),
        other => other.map_err(|error| refused(location, error)),
    }
}

/// What the store knows of one object; `None` if it is not there.
pub(super) async fn head(location: Arc<Location>, name: String) -> Result<Option<ObjectMeta>, DatasetError> {
    let path = parse_path(&name)?;
    match Retries::default().run(&name, || location.store.head(&path)).await {
        Err(Error::NotFound { .. }) => Ok(None),
        other => other.map(Some).map_err(|error| refused(&location, error)),
    }
}

pub(super) fn parse_path(path: &str) -> Result<Path, DatasetError> {
    Path::parse(path).map_err(|e| DatasetError::Config(format!("{path} is not a path of an object store: {e}")))
}

/// The error of a store that was asked, as a sentence for the user.
fn refused(location: &Location, source: Error) -> DatasetError {
    let url = &location.url;
    match (Refusal::of(&source), &source) {
        (Some(Refusal::Denied), _) => {
            DatasetError::Config(format!("access to {url} was refused: {}", credentials_hint(url)))
        }
        (Some(Refusal::Missing), Error::NotFound { .. }) => DatasetError::Config(format!("{url} does not exist")),
        (Some(Refusal::Missing), _) => DatasetError::Config(format!("the bucket or container of {url} does not exist")),
        (None, Error::InvalidPath { source }) => DatasetError::Config(format!(
            "{url} has an object whose name cannot be read ({source}): rename it, or name the others without it"
        )),
        (None, _) => DatasetError::Store { path: url.clone(), source },
    }
}
