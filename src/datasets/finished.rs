//! Which of img2dataset's shards are finished: those with a `_stats.json` beside them (FORMATS §5).

use super::listing::{Files, PARALLEL_HEADS, head};
use super::{DatasetError, Source};
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;

/// The finished shards among the files; of the others it is logged that they are passed over.
///
/// # Errors
/// [`DatasetError::Config`] when none is finished: then these are not img2dataset's shards.
pub(super) async fn finished(files: &Files) -> Result<Vec<Source>, DatasetError> {
    let listing = files.listing().await?;
    let location = Arc::new(files.location().clone());
    let mut requests = Vec::with_capacity(listing.objects.len());
    for shard in &listing.objects {
        let stem = shard.path.rsplit_once('.').map_or(shard.path.as_str(), |(stem, _)| stem);
        let stats = listing.location(&format!("{stem}_stats.json"))?;
        requests.push(head(Arc::clone(&location), stats.to_string()));
    }
    let answers: Vec<bool> =
        futures::stream::iter(requests).buffered(PARALLEL_HEADS).map_ok(|meta| meta.is_some()).try_collect().await?;
    let mut done = Vec::with_capacity(answers.len());
    for (shard, finished) in listing.objects.iter().zip(answers) {
        match finished {
            true => done.push(shard.clone()),
            false => {
                tracing::warn!(shard = %shard.path, "passed over: it has no _stats.json, so img2dataset did not finish it")
            }
        }
    }
    if done.is_empty() {
        let (n, url) = (listing.objects.len(), &location.url);
        return Err(DatasetError::Config(format!(
            "none of the {n} shards at {url} has a _stats.json beside it: img2dataset finished none of them"
        )));
    }
    Ok(done)
}
