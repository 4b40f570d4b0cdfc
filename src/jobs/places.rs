//! Opening the output directory that a pipeline or a command line names.

use super::{JobError, refusal};
use crate::datasets::{Location, credentials_hint};
use crate::retry::Refusal;
use crate::tables::{OutputDir, TableError};
use object_store::path::Path;
use std::path::PathBuf;

/// Opens the output directory at `url`, a local path or a URL. A local one must exist unless `create` is set.
pub async fn open_output(url: &str, create: bool) -> Result<OutputDir, JobError> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Err(JobError::Usage(format!(
            "{url} cannot be an output: http stores can neither list nor be written to; use a local path, s3://, gs:// or az://"
        )));
    }
    let location = Location::open(url).await.map_err(|error| JobError::Usage(format!("output {url}: {error}")))?;
    let [pattern] = location.patterns.as_slice() else {
        return Err(JobError::Usage(format!("output {url} names several places; give one directory")));
    };
    if pattern.contains(['{', '*', '?']) {
        return Err(JobError::Usage(format!("output {url} has braces or wildcards; give one directory")));
    }
    if url.contains("://") && !url.starts_with("file://") {
        // As it is written: what reads the output later takes its URL without escapes, too.
        let root = Path::parse(pattern).map_err(|error| JobError::Usage(format!("output {url}: {error}")))?;
        return Ok(OutputDir::new(location.store.clone(), root, None));
    }
    // Paths of the local store count from the root.
    let disk = PathBuf::from("/").join(pattern);
    if create {
        std::fs::create_dir_all(&disk)
            .map_err(|error| JobError::Usage(format!("cannot create the directory {}: {error}", disk.display())))?;
    } else if !disk.is_dir() {
        return Err(JobError::Usage(format!("{} is not a directory; give an output.url of imagebart", disk.display())));
    }
    OutputDir::local(&disk).map_err(JobError::failed)
}

/// The end of a job whose output at `url` cannot be used: what its store refuses is the user's to resolve.
pub fn output_error(url: &str, error: TableError) -> JobError {
    let refused = match &error {
        TableError::Store { source, .. } => Refusal::of(source),
        _ => None,
    };
    match refused {
        Some(Refusal::Denied) => JobError::Usage(format!("access to {url} was refused: {}", credentials_hint(url))),
        Some(Refusal::Missing) => JobError::Usage(format!("the bucket or container of {url} does not exist")),
        None => refusal(error),
    }
}
