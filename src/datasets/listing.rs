//! Which objects a location stands for: explicit names, brace groups, globs, or everything under a prefix.
//!
//! The root, which unit names are relative to, follows from what the user wrote: the directory before the first pattern
//! character of each part, and the longest directory that all parts share. So the same data set has the same names on every
//! store.

use super::brace;
use super::caption_table;
use super::inquire::{self, parse_path};
use super::lend::Lender;
use super::range_reader::{Object, ReadAhead};
use super::store::Location;
use super::{DatasetError, Source, Unit};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::OnceCell;

pub(super) use super::inquire::head;

/// The most objects one URL may name by braces.
const MAX_NAMES: u64 = 1_000_000;
/// How many objects are asked for their size at a time.
pub(super) const PARALLEL_HEADS: usize = 16;
/// How many missing objects a message names.
const NAMED_IN_MESSAGE: usize = 5;

/// The files of a dataset, listed when first asked for: what most readers start from.
#[derive(Debug)]
pub struct Files {
    location: Location,
    wanted: Wanted,
    beside: &'static [&'static str],
    listing: OnceCell<Listing>,
    lender: Lender,
}

impl Files {
    /// The files of kind `wanted` at `location`.
    pub fn new(location: Location, wanted: Wanted) -> Files {
        Files::with(location, wanted, &[])
    }

    /// Like [`Files::new`]; also notes what lies beside the files and ends in one of `beside`: see [`Listing::find_with`].
    pub fn with(location: Location, wanted: Wanted, beside: &'static [&'static str]) -> Files {
        Files { location, wanted, beside, listing: OnceCell::new(), lender: Lender::default() }
    }

    /// The files; the store is asked once.
    pub async fn listing(&self) -> Result<&Listing, DatasetError> {
        self.listing.get_or_try_init(|| Listing::find_with(&self.location, &self.wanted, self.beside)).await
    }

    /// One work unit per file, named by its path.
    pub async fn units(&self) -> Result<Vec<Unit>, DatasetError> {
        let files = &self.listing().await?.objects;
        Ok(files
            .iter()
            .map(|file| Unit { name: file.path.clone(), sources: vec![file.clone()], range: None })
            .collect())
    }

    /// Where the files are.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// A file of the listing, as it was when it was listed.
    pub async fn open(&self, file: &Source, read_ahead: &ReadAhead) -> Result<Object, DatasetError> {
        let path = self.listing().await?.location(&file.path)?;
        let object = Object::new(Arc::clone(&self.location.store), path, file, read_ahead);
        Ok(object.placed(self.location.local, &self.lender))
    }

    /// The object behind a unit of one file, as it was when it was listed.
    pub async fn object(&self, unit: &Unit, read_ahead: &ReadAhead) -> Result<Object, DatasetError> {
        let [source] = &unit.sources[..] else {
            let (unit, url) = (&unit.name, &self.location.url);
            return Err(DatasetError::Config(format!("{unit} is no unit of {url}: it has not one source")));
        };
        self.open(source, read_ahead).await
    }
}

/// The objects of a dataset, in its order.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The root, without a trailing slash; empty for the top of the store.
    pub root: String,
    /// The objects, with paths relative to the root.
    pub objects: Vec<Source>,
    /// How many listed objects were passed over because they are of another kind.
    pub ignored: u64,
    /// The paths, relative to the root, and the sizes of what was listed and describes the objects: see
    /// [`Listing::find_with`].
    pub beside: Vec<Source>,
    /// The directories that were listed whole, from the top of the store.
    listed: Vec<String>,
}

/// What kind of objects a format reads.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// For messages: "WebDataset shards".
    pub what: &'static str,
    /// The endings that say so, lower case, with the dot. Explicit names may have any other.
    pub extensions: &'static [&'static str],
}

impl Wanted {
    /// Whether a path has one of the endings, and a name that does not start with a dot.
    pub(super) fn matches(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or_default();
        let lower = name.to_ascii_lowercase();
        !name.starts_with('.') && self.extensions.iter().any(|e| lower.len() > e.len() && lower.ends_with(e))
    }
}

impl Listing {
    /// Finds the objects `location` stands for. An empty result, or a missing object, is a [`DatasetError::Config`].
    pub async fn find(location: &Location, wanted: &Wanted) -> Result<Listing, DatasetError> {
        Listing::find_with(location, wanted, &[]).await
    }

    /// Like [`Listing::find`]; also notes the objects that end in one of `beside`, lower case, wherever they are in the
    /// directories that are listed. Where objects are named one by one, so must these be.
    pub async fn find_with(
        location: &Location,
        wanted: &Wanted,
        beside: &'static [&'static str],
    ) -> Result<Listing, DatasetError> {
        let mut found = Finder::new(location, wanted, beside);
        for part in &location.patterns {
            found.part(part).await?;
        }
        found.heads().await?;
        found.refuse_captions().await?;
        found.set_apart();
        let Finder { metas, roots, ignored, described, listed, .. } = found;
        let root = common_directory(&roots);
        let strip = if root.is_empty() { 0 } else { root.len() + 1 };
        let mut seen = HashSet::new();
        let mut objects = Vec::with_capacity(metas.len());
        for meta in &metas {
            let path = meta.location.as_ref().get(strip..).unwrap_or_default();
            if !seen.insert(path) {
                return Err(DatasetError::Config(format!("{} names {path} twice", location.url)));
            }
            objects.push(Source { path: path.to_owned(), size: meta.size, etag: location.etag(meta) });
        }
        if objects.is_empty() {
            let (url, what, endings) = (&location.url, wanted.what, wanted.extensions.join(", "));
            let passed = if ignored > 0 { format!("; {ignored} other objects are there") } else { String::new() };
            return Err(DatasetError::Config(format!("no {what} at {url} (looked for {endings}){passed}")));
        }
        let described = described.into_iter().map(|meta| Source {
            path: meta.location.as_ref().get(strip..).unwrap_or_default().to_owned(),
            size: meta.size,
            etag: None,
        });
        Ok(Listing { root, objects, ignored, beside: described.collect(), listed })
    }

    /// Whether everything in `directory`, relative to the root, was listed: then what is not in [`Listing::beside`] is not
    /// there.
    pub(super) fn saw(&self, directory: &str) -> bool {
        let full = match (self.root.as_str(), directory) {
            ("", directory) => directory.to_owned(),
            (root, "") => root.to_owned(),
            (root, directory) => format!("{root}/{directory}"),
        };
        let holds =
            |top: &str| top.is_empty() || full.strip_prefix(top).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        self.listed.iter().any(|top| holds(top))
    }

    /// Where an object of this listing lies in its store.
    pub fn location(&self, relative: &str) -> Result<Path, DatasetError> {
        let full = if self.root.is_empty() { relative.to_owned() } else { format!("{}/{relative}", self.root) };
        parse_path(&full)
    }
}

struct Finder<'a> {
    location: &'a Location,
    wanted: &'a Wanted,
    beside: &'static [&'static str],
    described: Vec<ObjectMeta>,
    listed: Vec<String>,
    /// The first listed object that may be a table of captions and URLs.
    table: Option<ObjectMeta>,
    metas: Vec<ObjectMeta>,
    roots: Vec<String>,
    /// Objects named explicitly: (position in `metas`' order, path). Their sizes are asked for at the end, many at a time.
    named: Vec<(usize, String)>,
    ignored: u64,
}

impl<'a> Finder<'a> {
    fn new(location: &'a Location, wanted: &'a Wanted, beside: &'static [&'static str]) -> Finder<'a> {
        let (described, listed, table) = Default::default();
        let (metas, roots, named) = Default::default();
        Finder { location, wanted, beside, described, listed, table, metas, roots, named, ignored: 0 }
    }

    async fn part(&mut self, part: &str) -> Result<(), DatasetError> {
        let url = &self.location.url;
        let expanded = brace::expand(part, MAX_NAMES).map_err(|e| DatasetError::Config(format!("{url}: {e}")))?;
        let special = expanded.len() > 1 || expanded.first().is_none_or(|one| one != part) || is_glob(part);
        for pattern in &expanded {
            if is_glob(pattern) {
                self.glob(pattern).await?;
            } else if !pattern.ends_with('/')
                && !pattern.is_empty()
                && (self.wanted.matches(pattern) || !self.location.lists)
            {
                self.named.push((self.metas.len(), pattern.clone()));
            } else if self.prefix(pattern).await? {
                if !special {
                    self.roots.push(pattern.trim_end_matches('/').to_owned());
                    return Ok(());
                }
            } else if !pattern.ends_with('/') && !pattern.is_empty() {
                // Nothing lies under it: a single object without a known ending, or a mistake that its HEAD will name.
                self.named.push((self.metas.len(), pattern.clone()));
            }
        }
        let literal = part.find(['{', '*', '?']).map_or(part, |at| &part[..at]);
        self.roots.push(literal.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned());
        Ok(())
    }

    /// Adds everything of the wanted kind under a prefix, sorted bytewise; whether anything at all lies there.
    async fn prefix(&mut self, prefix: &str) -> Result<bool, DatasetError> {
        let all = self.list(prefix).await?;
        let any = !all.is_empty();
        self.note(prefix, &all);
        self.keep(all);
        Ok(any)
    }

    async fn glob(&mut self, pattern: &str) -> Result<(), DatasetError> {
        let literal = pattern.find(['*', '?']).map_or(pattern, |at| &pattern[..at]);
        let directory = literal.rsplit_once('/').map_or("", |(directory, _)| directory);
        let below = format!("{}/**", pattern.trim_end_matches('/'));
        let mut all = self.list(directory).await?;
        self.note(directory, &all);
        all.retain(|meta| {
            let path = meta.location.as_ref().as_bytes();
            glob_matches(pattern.as_bytes(), path) || glob_matches(below.as_bytes(), path)
        });
        self.keep(all);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, DatasetError> {
        if !self.location.lists {
            let url = &self.location.url;
            return Err(DatasetError::Config(format!(
                "{url} is on plain HTTP, which cannot list: name the files, as in shard-{{0000..0123}}.tar"
            )));
        }
        let mut all = inquire::list(self.location, prefix).await?;
        all.sort_unstable_by(|a, b| a.location.as_ref().as_bytes().cmp(b.location.as_ref().as_bytes()));
        Ok(all)
    }

    /// Takes the named objects that only describe others out of the dataset.
    fn set_apart(&mut self) {
        let describes = |meta: &ObjectMeta| {
            let name = meta.location.as_ref().to_ascii_lowercase();
            self.beside.iter().any(|ending| name.ends_with(ending)) && !self.wanted.matches(&name)
        };
        let (described, metas): (Vec<_>, Vec<_>) = std::mem::take(&mut self.metas).into_iter().partition(describes);
        self.metas = metas;
        self.described.extend(described);
    }

    /// Remembers what a listing of `directory` tells besides the wanted objects.
    fn note(&mut self, directory: &str, all: &[ObjectMeta]) {
        self.listed.push(directory.trim_end_matches('/').to_owned());
        for meta in all {
            let name = meta.location.as_ref().to_ascii_lowercase();
            if self.beside.iter().any(|ending| name.ends_with(ending)) {
                self.described.push(meta.clone());
            } else if self.table.is_none() && caption_table::is_named_so(&name) {
                self.table = Some(meta.clone());
            }
        }
    }

    /// Where there is nothing but tables of captions and URLs, says what to do with them.
    async fn refuse_captions(&self) -> Result<(), DatasetError> {
        // A list file may be called anything.
        if self.wanted.extensions.is_empty() {
            return Ok(());
        }
        let table = match &self.metas[..] {
            [] => self.table.as_ref(),
            metas => {
                metas.first().filter(|_| metas.iter().all(|meta| caption_table::is_named_so(meta.location.as_ref())))
            }
        };
        match table {
            Some(table) => caption_table::refuse(self.location, table).await,
            None => Ok(()),
        }
    }

    fn keep(&mut self, all: Vec<ObjectMeta>) {
        for meta in all {
            match self.wanted.matches(meta.location.as_ref()) {
                true => self.metas.push(meta),
                false => self.ignored += 1,
            }
        }
    }

    /// Asks for the explicitly named objects and puts them where they belong in the order.
    async fn heads(&mut self) -> Result<(), DatasetError> {
        if self.named.is_empty() {
            return Ok(());
        }
        let location = Arc::new(self.location.clone());
        let requests = self.named.clone().into_iter().map(move |(_, name)| head(Arc::clone(&location), name));
        let answers: Vec<Option<ObjectMeta>> =
            futures::stream::iter(requests).buffered(PARALLEL_HEADS).try_collect().await?;
        let missing: Vec<&str> =
            self.named.iter().zip(&answers).filter(|(_, a)| a.is_none()).map(|((_, name), _)| name.as_str()).collect();
        if !missing.is_empty() {
            let first = missing[..missing.len().min(NAMED_IN_MESSAGE)].join(", ");
            let (url, n, of) = (&self.location.url, missing.len(), self.named.len());
            if self.named.len() == 1 {
                return Err(DatasetError::Config(format!("{url} does not exist")));
            }
            return Err(DatasetError::Config(format!(
                "{n} of the {of} objects that {url} names do not exist: {first}"
            )));
        }
        let mut listed = std::mem::take(&mut self.metas).into_iter().enumerate().peekable();
        for ((at, _), meta) in self.named.iter().zip(answers) {
            while let Some((_, earlier)) = listed.next_if(|(position, _)| position < at) {
                self.metas.push(earlier);
            }
            self.metas.extend(meta);
        }
        self.metas.extend(listed.map(|(_, meta)| meta));
        Ok(())
    }
}

fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

fn common_directory(directories: &[String]) -> String {
    let mut common: Vec<&str> = directories.first().map_or(Vec::new(), |d| d.split('/').collect());
    for other in directories {
        let same = common.iter().zip(other.split('/')).take_while(|(a, b)| **a == *b).count();
        common.truncate(same);
    }
    common.join("/")
}

/// Whether a path matches a glob: `*` and `?` stay within one path segment, `**` crosses them. Linear memory, quadratic time.
fn glob_matches(pattern: &[u8], path: &[u8]) -> bool {
    // reachable[i]: the pattern read so far can end after path[..i].
    let mut reachable = vec![false; path.len() + 1];
    reachable[0] = true;
    let mut rest = pattern;
    while let [token, tail @ ..] = rest {
        let mut next = vec![false; path.len() + 1];
        let deep = *token == b'*' && tail.first() == Some(&b'*');
        for at in 0..=path.len() {
            let from_before = at > 0 && {
                let byte = path[at - 1];
                match token {
                    b'*' => (deep || byte != b'/') && next[at - 1],
                    b'?' => byte != b'/' && reachable[at - 1],
                    literal => byte == *literal && reachable[at - 1],
                }
            };
            next[at] = from_before || (*token == b'*' && reachable[at]);
        }
        reachable = next;
        rest = if deep { &tail[1..] } else { tail };
    }
    reachable.last().copied().unwrap_or(false)
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
