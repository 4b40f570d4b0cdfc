//! Lists of names that choose images, and the other small files that a pipeline names.

use super::DatasetError;
use super::ffhq_list;
use super::listing::{Listing, Wanted};
use super::range_reader::{Object, ReadAhead};
use super::store::Location;
use std::collections::{HashMap, HashSet};

/// A list file larger than this is taken for a mistake.
const MAX_LIST_BYTES: u64 = 1 << 30;
/// How many names a message tells.
const NAMED_IN_MESSAGE: usize = 5;

/// The text of a list file at a URL or local path: names, one per line, without a byte order mark. Of FFHQ's metadata and a
/// category of it, `ffhq-dataset-v2.json#training`, the names of the images of that category.
///
/// # Errors
/// [`DatasetError::Config`] when it is not there, not text, or too large for a list.
pub async fn read_list(list: &str) -> Result<String, DatasetError> {
    let Some((file, category)) = ffhq_list::split(list) else { return read_text(list).await };
    let json = read_text(file).await?;
    ffhq_list::names(&json, category)
        .map_err(|what| DatasetError::Config(format!("dataset.list = {list}: {file} {what}")))
}

async fn read_text(list: &str) -> Result<String, DatasetError> {
    read_lines("dataset.list", list, MAX_LIST_BYTES).await
}

/// The text of a file that `key` of the pipeline names by URL or local path, without a byte order mark.
///
/// # Errors
/// [`DatasetError::Config`] when it is not there, not text, or of more than `limit` bytes.
pub async fn read_lines(key: &str, url: &str, limit: u64) -> Result<String, DatasetError> {
    let object = single_file(key, url, limit).await?;
    if object.size() == 0 {
        return Ok(String::new());
    }
    let bytes = object.get(0..object.size()).await?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| DatasetError::Config(format!("{key} = {url} is not UTF-8 text: {e}")))?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

/// The file that a key of the pipeline names by URL or local path, of at most `limit` bytes.
pub(super) async fn single_file(key: &str, url: &str, limit: u64) -> Result<Object, DatasetError> {
    let location = Location::open(url).await?;
    let listing = Listing::find(&location, &Wanted { what: "file", extensions: &[] }).await?;
    let [file] = &listing.objects[..] else {
        return Err(DatasetError::Config(format!("{key} = {url} names several files")));
    };
    if file.size > limit {
        let size = file.size;
        return Err(DatasetError::Config(format!("{key} = {url} has {size} bytes: this is no such file")));
    }
    Ok(Object::new(location.store.clone(), listing.location(&file.path)?, file, &ReadAhead::default()))
}

/// Of each of the `paths` in a `place` whether the list with this `text` names it, by path or base name.
///
/// # Errors
/// [`DatasetError::Config`] when a name is not there, or could be several paths.
pub(super) fn named(paths: &[&str], place: &str, list: &str, text: &str) -> Result<Vec<bool>, DatasetError> {
    let names: HashSet<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if names.is_empty() {
        return Err(DatasetError::Config(format!("dataset.list = {list} names no files")));
    }
    let known: HashSet<&str> = paths.iter().copied().collect();
    let mut by_base: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut keep = vec![false; paths.len()];
    for ((at, path), kept) in paths.iter().enumerate().zip(&mut keep) {
        let base = path.rsplit('/').next().unwrap_or(path);
        if names.contains(path) {
            *kept = true;
        } else if names.contains(base) && !known.contains(base) {
            by_base.entry(base).or_default().push(at);
        }
    }
    if let Some((base, places)) = by_base.iter().filter(|(_, places)| places.len() > 1).min() {
        let n = places.len();
        return Err(DatasetError::Config(format!(
            "dataset.list = {list}: {n} files are called {base}; write their paths"
        )));
    }
    let found = |name: &&str| known.contains(*name) || by_base.contains_key(*name);
    let mut missing: Vec<&str> = names.iter().copied().filter(|name| !found(name)).collect();
    if !missing.is_empty() {
        missing.sort_unstable();
        let first = missing[..missing.len().min(NAMED_IN_MESSAGE)].join(", ");
        let (n, of) = (missing.len(), names.len());
        return Err(DatasetError::Config(format!("{n} of the {of} names in {list} are not in the {place}: {first}")));
    }
    by_base.values().flatten().for_each(|at| keep[*at] = true);
    Ok(keep)
}
