//! Opening the output directory that a pipeline or a command line names.

use super::JobError;
use crate::datasets::Location;
use crate::tables::OutputDir;
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
