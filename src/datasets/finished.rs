//! Which of img2dataset's shards are finished: those with a `_stats.json` beside them (FORMATS §5).
//!
//! In the formats that only img2dataset writes, every shard must have one. Tar shards and folders may be anybody's: there a
//! directory is taken for img2dataset's output if one of its shards, whose names are digits, has a `_stats.json`.

use super::listing::{Files, Listing, PARALLEL_HEADS, head};
use super::store::Location;
use super::{DatasetError, Source};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// What lies beside a finished shard, in place of its ending.
const STATS: &str = "_stats.json";
/// What readers of such shards have their listings note: see [`Listing::find_with`].
pub(super) const BESIDE: &[&str] = &[STATS];
/// Where img2dataset keeps its notes while it runs; a killed run leaves them there.
const SCRATCH: &str = "_tmp/";
/// How many unfinished shards a message names.
const NAMED_IN_MESSAGE: usize = 5;

/// The shards of a dataset that are read, and the paths of those that are not because img2dataset did not finish them.
#[derive(Clone, Debug, Default)]
pub(super) struct Shards {
    pub(super) finished: Vec<Source>,
    pub(super) unfinished: Vec<String>,
}

impl Shards {
    fn tell(self, location: &Location) -> Shards {
        let (n, of) = (self.unfinished.len(), self.unfinished.len() + self.finished.len());
        if n > 0 {
            let first = self.unfinished.iter().take(NAMED_IN_MESSAGE).cloned().collect::<Vec<_>>().join(", ");
            let more = if n > NAMED_IN_MESSAGE { ", ..." } else { "" };
            tracing::warn!(
                url = %location.url,
                "{n} of {of} shards are passed over: they have no {STATS}, so img2dataset did not finish them: {first}{more}"
            );
        }
        self
    }
}

/// The finished shards of a format that only img2dataset writes.
///
/// # Errors
/// [`DatasetError::Config`] when none is finished: then these are not img2dataset's shards.
pub(super) async fn required(files: &Files) -> Result<Shards, DatasetError> {
    let (listing, location) = (files.listing().await?, files.location());
    let candidates: Vec<&Source> = listing.objects.iter().filter(|shard| scratch_of(&shard.path).is_none()).collect();
    let stems: Vec<&str> = candidates.iter().map(|shard| stem(&shard.path)).collect();
    let mut shards = Shards::default();
    for (shard, finished) in candidates.into_iter().zip(have_stats(listing, location, &stems).await?) {
        match finished {
            true => shards.finished.push(shard.clone()),
            false => shards.unfinished.push(shard.path.clone()),
        }
    }
    if shards.finished.is_empty() {
        let (n, url) = (listing.objects.len(), &location.url);
        return Err(DatasetError::Config(format!(
            "none of the {n} shards at {url} has a {STATS} beside it: img2dataset finished none of them"
        )));
    }
    Ok(shards.tell(location))
}

/// The shards of a format that others write, too, without those that img2dataset did not finish.
pub(super) async fn optional(files: &Files) -> Result<Shards, DatasetError> {
    let (listing, location) = (files.listing().await?, files.location());
    let stems: BTreeSet<&str> =
        listing.objects.iter().map(|shard| stem(&shard.path)).filter(|s| is_number(s)).collect();
    let outputs = Outputs::find(listing, location, stems).await?;
    let mut shards = Shards::default();
    for shard in listing.objects.iter().filter(|shard| !outputs.in_scratch(&shard.path)) {
        match outputs.unfinished.contains(stem(&shard.path)) {
            false => shards.finished.push(shard.clone()),
            true => shards.unfinished.push(shard.path.clone()),
        }
    }
    Ok(shards.tell(location))
}

/// The same of files in directories, `NNNNN/NNNNNNNNN.jpg`, where a directory is a shard.
pub(super) async fn folders(listing: &Listing, location: &Location) -> Result<Shards, DatasetError> {
    let directories: BTreeSet<&str> =
        listing.objects.iter().map(|file| parent(&file.path)).filter(|directory| is_number(directory)).collect();
    let outputs = Outputs::find(listing, location, directories).await?;
    let files = listing.objects.iter().filter(|file| !outputs.in_scratch(&file.path));
    let finished = files.filter(|file| !outputs.unfinished.contains(parent(&file.path))).cloned().collect();
    let unfinished = outputs.unfinished.iter().map(|directory| (*directory).to_owned()).collect();
    Ok(Shards { finished, unfinished }.tell(location))
}

/// The directories that img2dataset wrote to.
#[derive(Default)]
struct Outputs<'a> {
    directories: HashSet<&'a str>,
    /// Stems of the shards in them that it did not finish.
    unfinished: BTreeSet<&'a str>,
}

impl<'a> Outputs<'a> {
    async fn find(
        listing: &Listing,
        location: &Location,
        stems: BTreeSet<&'a str>,
    ) -> Result<Outputs<'a>, DatasetError> {
        let stems: Vec<&str> = stems.into_iter().collect();
        let answers = match have_stats(listing, location, &stems).await {
            Ok(answers) => answers,
            // A store may refuse to tell of what is not there. Nobody said that there is anything.
            Err(DatasetError::Config(why)) => {
                tracing::debug!(url = %location.url, why, "cannot look for img2dataset's statistics");
                return Ok(Outputs::default());
            }
            Err(error) => return Err(error),
        };
        let with_answers = || stems.iter().zip(&answers).map(|(stem, finished)| (*stem, *finished));
        let directories: HashSet<&str> =
            with_answers().filter(|(_, done)| *done).map(|(stem, _)| parent(stem)).collect();
        let unfinished = with_answers().filter(|(stem, done)| !done && directories.contains(parent(stem)));
        Ok(Outputs { unfinished: unfinished.map(|(stem, _)| stem).collect(), directories })
    }

    fn in_scratch(&self, path: &str) -> bool {
        scratch_of(path).is_some_and(|directory| self.directories.contains(directory))
    }
}

/// Of each stem whether its statistics are there: as listed, else by asking.
async fn have_stats(listing: &Listing, location: &Location, stems: &[&str]) -> Result<Vec<bool>, DatasetError> {
    let listed: HashSet<&str> = listing.beside.iter().filter_map(|file| file.path.strip_suffix(STATS)).collect();
    let location = Arc::new(location.clone());
    let mut requests = Vec::with_capacity(stems.len());
    for stem in stems {
        let known = listed.contains(stem) || listing.saw(parent(stem));
        let path = listing.location(&format!("{stem}{STATS}"))?.to_string();
        let (location, here) = (Arc::clone(&location), listed.contains(stem));
        requests.push(async move { if known { Ok(here) } else { Ok(head(location, path).await?.is_some()) } });
    }
    futures::stream::iter(requests).buffered(PARALLEL_HEADS).try_collect().await
}

/// A path without the endings of its file's name.
fn stem(path: &str) -> &str {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    let dot = path.get(name..).and_then(|name| name.find('.'));
    dot.and_then(|dot| path.get(..name + dot)).unwrap_or(path)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// Whether the last part of a path is a shard's number.
fn is_number(stem: &str) -> bool {
    let name = stem.rsplit('/').next().unwrap_or_default();
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The directory whose scratch directory a path lies in.
fn scratch_of(path: &str) -> Option<&str> {
    let whole = |at: &usize| *at == 0 || path.as_bytes().get(at - 1) == Some(&b'/');
    let at = path.match_indices(SCRATCH).map(|(at, _)| at).find(whole)?;
    path.get(..at).map(|directory| directory.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(["a.b/00001.tar.gz", "00001", ".x/y"].map(stem), ["a.b/00001", "00001", ".x/y"]);
        assert_eq!(["a/0", "0"].map(parent), ["a", ""]);
        assert_eq!(["a/00001", "0", "a/", "", "a/0b", "1/a"].map(is_number), [true, true, false, false, false, false]);
        let paths = ["_tmp/0.tar", "a/_tmp/0.tar", "my_tmp/_tmp/0.tar", "my_tmp/0.tar", "_tmp", "a/_tmpl/0.tar"];
        assert_eq!(paths.map(scratch_of), [Some(""), Some("a"), Some("my_tmp"), None, None, None]);
    }
}
