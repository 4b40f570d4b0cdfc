//! The reader of LSUN's LMDBs. Its rules are told at [`LsunLmdb`].

use super::fields::Problem;
use super::listing::{Listing, Wanted};
use super::lmdb_names::Names;
use super::lmdb_pages::Pages;
use super::lmdb_rows::Rows;
use super::lmdb_tree::Tree;
use super::open::{DatasetOptions, Labels};
use super::range_reader::Object;
use super::store::Location;
use super::{DatasetError, Output, Reader, Source, Unit};
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::OnceCell;

const FILES: Wanted = Wanted { what: "LMDB databases", extensions: &[".mdb"] };
const DATA: &str = "data.mdb";
const LOCK: &str = "lock.mdb";

/// LMDB databases of LSUN's kind (FORMATS §3): a key and an encoded image each. Made by [`open()`](super::open()), or with
/// [`LsunLmdb::new`] over a store of one's own.
///
/// - Read in place by ranged GETs, on any store: nothing is mapped, locked or downloaded. `lock.mdb` may be there or not.
/// - The URL names a database's directory, its `data.mdb`, or several of either. A database's name is its directory's, whatever
///   of these the URL says: `church_outdoor_train_lmdb`.
/// - A work unit is a block of `unit_rows` images in the order of their keys: `church_outdoor_train_lmdb@000000000-000005000`,
///   or the database where there is but one. Listing them takes a request for each leaf page that has no neighbour among the
///   others (one for 50 images of LSUN), reading them one for each of these and one for each image.
/// - With a list, only the images it names are read, by key or as `<key>.webp`, and units count only these. The order stays
///   that of the keys. A name that no database has, or several have, stops the run.
/// - A sample's key is the database's. LSUN has no classes; with [`Labels::Directory`] the class is the rank of the database's
///   name among all.
/// - A value larger than `max_bytes` is rejected unread. Of a page that cannot be read one reject stands for its entries, and
///   the next page is read; where the meta pages cannot be, or the file is shorter than the pages in use, one stands for the
///   whole database.
#[derive(Debug)]
pub struct LsunLmdb {
    location: Location,
    options: DatasetOptions,
    databases: OnceCell<Databases>,
}

/// What was found at the location.
struct Databases {
    listing: Listing,
    names: Option<Names>,
    all: Vec<Database>,
}

impl std::fmt::Debug for Databases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Databases").field("listing", &self.listing).finish_non_exhaustive()
    }
}

struct Database {
    file: Source,
    name: String,
    label: Option<i32>,
    tree: OnceCell<Result<Tree, Problem>>,
}

impl LsunLmdb {
    /// A reader of the databases at `location`; of `options` it uses all but captions.
    pub fn new(mut location: Location, options: DatasetOptions) -> LsunLmdb {
        if !location.lists {
            // A directory cannot be listed there, but what is in it is known.
            for pattern in location.patterns.iter_mut().filter(|pattern| !is_database(pattern) && !is_zip(pattern)) {
                *pattern = format!("{}/{DATA}", pattern.trim_end_matches('/'));
            }
        }
        LsunLmdb { location, options, databases: OnceCell::new() }
    }

    async fn databases(&self) -> Result<&Databases, DatasetError> {
        self.databases.get_or_try_init(|| self.find()).await
    }

    async fn find(&self) -> Result<Databases, DatasetError> {
        let url = &self.location.url;
        if self.location.patterns.iter().any(|pattern| is_zip(pattern)) {
            return Err(DatasetError::Config(format!(
                "{url} is a zip archive, which cannot be read in place: unzip it and name the directory {DATA} is in"
            )));
        }
        let mut listing = Listing::find(&self.location, &FILES).await?;
        listing.objects.retain(|file| base(&file.path) != LOCK);
        if listing.objects.is_empty() {
            return Err(DatasetError::Config(format!("{url} has a {LOCK}, but no {DATA} beside it")));
        }
        name_the_root(&mut listing);
        let labels = self.labels(&listing.objects)?;
        let all = listing.objects.iter().zip(labels).map(|(file, label)| {
            let name = database_name(&file.path).to_owned();
            Database { file: file.clone(), name, label, tree: OnceCell::new() }
        });
        let all = all.collect();
        let names = match &self.options.list {
            Some(list) => Some(Names::read(list).await?),
            None => None,
        };
        Ok(Databases { listing, names, all })
    }

    /// The class of each database's images.
    fn labels(&self, files: &[Source]) -> Result<Vec<Option<i32>>, DatasetError> {
        if self.options.labels != Labels::Directory {
            return Ok(vec![None; files.len()]);
        }
        let mut names: Vec<&str> = files.iter().map(|file| database_name(&file.path)).collect();
        names.sort_unstable();
        if let Some(classes) = self.options.classes
            && names.len() as u64 > u64::from(classes)
        {
            let (url, found) = (&self.location.url, names.len());
            return Err(DatasetError::Config(format!("{url} has {found} databases, but dataset.classes = {classes}")));
        }
        let rank = |file: &Source| names.binary_search(&database_name(&file.path)).ok();
        Ok(files.iter().map(|file| rank(file).and_then(|rank| i32::try_from(rank).ok())).collect())
    }

    /// What is known of a database: walked when first asked for.
    async fn tree<'a>(
        &self,
        databases: &'a Databases,
        database: &'a Database,
    ) -> Result<&'a Result<Tree, Problem>, DatasetError> {
        let walk = || async {
            let file = &database.file;
            let path = databases.listing.location(&file.path)?;
            let object = Object::new(Arc::clone(&self.location.store), path, file, &self.options.read_ahead);
            let tree = match Pages::open(object, self.options.parallel_files).await? {
                Ok(pages) => Tree::walk(pages, databases.names.as_ref()).await?,
                Err(problem) => Err(problem),
            };
            if let Err((reason, message)) = &tree {
                tracing::warn!(database = file.path, %reason, message, "a database that cannot be read");
            }
            Ok(tree)
        };
        database.tree.get_or_try_init(walk).await
    }

    async fn list_units(&self) -> Result<Vec<Unit>, DatasetError> {
        let databases = self.databases().await?;
        let rows = self.options.unit_rows.max(1);
        let mut units = Vec::new();
        let (mut found, mut damaged) = (Vec::new(), false);
        for database in &databases.all {
            let tree = self.tree(databases, database).await?;
            let count = tree.as_ref().map_or(0, |tree| tree.rows);
            damaged |= tree.as_ref().map_or(true, |tree| tree.damaged);
            found.extend(tree.iter().flat_map(|tree| &tree.found));
            let unit = |name, range| Unit { name, sources: vec![database.file.clone()], range };
            if count <= rows {
                units.push(unit(database.name.clone(), None));
                continue;
            }
            for start in (0..count).step_by(usize::try_from(rows).unwrap_or(usize::MAX)) {
                let end = start.saturating_add(rows).min(count);
                units.push(unit(format!("{}@{start:09}-{end:09}", database.name), Some(start..end)));
            }
        }
        if let Some(names) = &databases.names {
            names.check(found, damaged)?;
        }
        Ok(units)
    }

    async fn read_unit(&self, unit: &Unit, out: &Output) -> Result<(), DatasetError> {
        let not_ours = || DatasetError::Config(format!("{} is no unit of {}", unit.name, self.location.url));
        let databases = self.databases().await?;
        let [file] = &unit.sources[..] else { return Err(not_ours()) };
        let database = databases.all.iter().find(|database| database.file.path == file.path).ok_or_else(not_ours)?;
        if database.file != *file {
            let detail = "it is not the file that was listed".to_owned();
            return Err(DatasetError::Changed { path: file.path.clone(), detail });
        }
        let tree = match self.tree(databases, database).await? {
            Ok(tree) => tree,
            Err((reason, message)) => return out.reject(unit, &file.path, "", 0, *reason, message).await,
        };
        let rows = unit.range.clone().unwrap_or(0..tree.rows);
        if rows.start > rows.end || rows.end > tree.rows {
            return Err(not_ours());
        }
        let reading = Rows {
            tree,
            names: databases.names.as_ref(),
            label: database.label,
            options: &self.options,
            unit,
            source: &file.path,
            out,
        };
        reading.read(rows).await
    }
}

impl Reader for LsunLmdb {
    fn units(&self) -> BoxFuture<'_, Result<Vec<Unit>, DatasetError>> {
        Box::pin(self.list_units())
    }

    fn read<'a>(&'a self, unit: &'a Unit, out: &'a Output) -> BoxFuture<'a, Result<(), DatasetError>> {
        Box::pin(out.while_wanted(self.read_unit(unit, out)))
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_database(pattern: &str) -> bool {
    base(pattern).to_ascii_lowercase().ends_with(".mdb")
}

fn is_zip(pattern: &str) -> bool {
    pattern.to_ascii_lowercase().ends_with(".zip")
}

/// A database is its directory; a file of another name stands for itself.
fn database_name(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some((directory, DATA)) => directory,
        _ => path,
    }
}

/// Makes the directory above the root when a database lies in the root itself: so its directory's name is part of its path,
/// whichever way the URL names it.
fn name_the_root(listing: &mut Listing) {
    let inside = listing.objects.iter().any(|file| file.path == DATA);
    if !inside || listing.root.is_empty() {
        return;
    }
    let (above, name) = listing.root.rsplit_once('/').unwrap_or(("", &listing.root));
    for file in &mut listing.objects {
        file.path = format!("{name}/{}", file.path);
    }
    listing.root = above.to_owned();
}
