//! The folder reader: loose image files, fetched ahead and passed on in order. Its rules are told at [`Folder`].

use super::fields::Problem;
use super::finished;
use super::imagenet_labels;
use super::imagenet_split::{Split, keep};
use super::listing::{Listing, Wanted};
use super::name_list::{named, read_list};
use super::open::{DatasetOptions, Labels};
use super::range_reader::Object;
use super::sidecars::{self, Beside, Sidecars};
use super::store::Location;
use super::task::Task;
use super::{DatasetError, Output, Reader, Sample, Source, Unit};
use crate::digest::hex;
use crate::reject::Reason;
use bytes::Bytes;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, VecDeque};
use tokio::sync::OnceCell;

/// Image files, by their ending.
pub const IMAGES: Wanted = Wanted { what: "images", extensions: &[".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"] };

/// Image folder: every image file under a root, at any depth, in bytewise order of the paths. Made by
/// [`open()`](super::open()), or with [`Folder::new`] over a store of one's own.
///
/// - A work unit is a block of [`DatasetOptions::unit_rows`] files, named `files@<start>-<end>` with nine digits each. A sample's
///   source and key are the path of its file.
/// - As a unit's source stands the block as a whole: the sum of the sizes, and a hash over paths and sizes in place of an
///   entity tag. So a manifest stays small for millions of files, and a file that was added, removed or resized is noticed on
///   resume.
/// - Files are images by their ending, in any case; names that start with a dot are passed over.
/// - A caption comes from the `.txt` file beside an image, else from `caption` of the `.json` file, as img2dataset writes them.
///   Where images are named one by one, so must these be: `{0..9}.{jpg,txt}`.
/// - Of img2dataset's directories `NNNNN/`, those without a `NNNNN_stats.json` beside them are unfinished and passed over.
/// - With a list file, only the files it names are read: by path relative to the root, else by base name (as in FFHQ's and
///   LSUN's lists). The order stays that of the paths. A name that is not there stops the run.
/// - With [`Labels::Directory`], the class is the rank of the first directory's name among all first directories, those that
///   the list leaves out included, so that two lists of one folder agree.
/// - As [`Folder::imagenet`], the class is that of the image's synset among all 1000: by the nearest directory that a wnid
///   names (`train/n01440764/`), else by a name like `n01440764_10026.JPEG`, else by [`DatasetOptions::mapping`]. An image of
///   which nothing tells the class stops the run, and so do training and validation images side by side without
///   [`DatasetOptions::split`], which goes by directories named `train` and `val` (`validation`).
#[derive(Debug)]
pub struct Folder {
    location: Location,
    options: DatasetOptions,
    imagenet: bool,
    files: OnceCell<Images>,
}

/// The files of the dataset.
#[derive(Debug)]
struct Images {
    listing: Listing,
    files: Vec<File>,
    unfinished: Vec<String>,
}

/// An image, and what describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    image: Source,
    label: Option<i32>,
    sidecars: Sidecars,
}

impl File {
    /// Bytes of all of it.
    fn size(&self) -> u64 {
        self.sidecars.files().map(|file| file.size).fold(self.image.size, u64::saturating_add)
    }
}

impl Folder {
    /// A reader of the images at `location`.
    pub fn new(location: Location, options: DatasetOptions) -> Folder {
        Folder { location, options, imagenet: false, files: OnceCell::new() }
    }

    /// A reader of ImageNet's images at `location`, in directories named by wnids or beside a mapping.
    pub fn imagenet(location: Location, options: DatasetOptions) -> Folder {
        Folder { imagenet: true, ..Folder::new(location, options) }
    }

    async fn files(&self) -> Result<&Images, DatasetError> {
        self.files.get_or_try_init(|| self.find()).await
    }

    async fn find(&self) -> Result<Images, DatasetError> {
        let mut listing = Listing::find_with(&self.location, &IMAGES, sidecars::endings(&self.options)).await?;
        listing.objects.sort_unstable_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        if listing.ignored > 0 {
            tracing::info!(url = %self.location.url, ignored = listing.ignored, "files that are no images");
        }
        let finished::Shards { finished: mut images, unfinished } = finished::folders(&listing, &self.location).await?;
        if self.imagenet {
            keep(&mut images, self.options.split, &self.location.url, Split::of_directory)?;
        }
        let directories = match self.options.labels {
            Labels::Directory => self.class_names(&images)?,
            Labels::Auto | Labels::None => Vec::new(),
        };
        if let Some(list) = &self.options.list {
            select(&mut images, list, &read_list(list).await?)?;
        }
        let labels = match self.options.labels {
            Labels::Directory => ranks(&images, &directories),
            Labels::Auto if self.imagenet => {
                imagenet_labels::of_files(&images, self.options.mapping.as_deref(), &self.location.url).await?
            }
            Labels::Auto | Labels::None => Vec::new(),
        };
        let mut labels = labels.into_iter();
        let beside = Beside::new(&listing.beside);
        let describe = |image: Source| {
            let (label, sidecars) = (labels.next(), beside.of(&image.path, &self.options));
            File { image, label, sidecars }
        };
        let files = images.into_iter().map(describe).collect();
        (listing.objects, listing.beside) = Default::default();
        Ok(Images { listing, files, unfinished })
    }

    /// The first directories' names in order; a class is a place in it.
    fn class_names(&self, files: &[Source]) -> Result<Vec<String>, DatasetError> {
        let url = &self.location.url;
        let mut names = BTreeSet::new();
        for file in files {
            let (directory, _) = file.path.split_once('/').ok_or_else(|| {
                let path = &file.path;
                DatasetError::Config(format!("dataset.label = \"directory\", but {path} lies directly in {url}"))
            })?;
            names.insert(directory);
        }
        if let Some(classes) = self.options.classes
            && names.len() as u64 > u64::from(classes)
        {
            let found = names.len();
            return Err(DatasetError::Config(format!(
                "{url} has {found} directories, but dataset.classes = {classes}"
            )));
        }
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    async fn list_units(&self) -> Result<Vec<Unit>, DatasetError> {
        let files = &self.files().await?.files;
        let rows = usize::try_from(self.options.unit_rows.max(1)).unwrap_or(usize::MAX);
        let mut start = 0;
        let mut units = Vec::with_capacity(files.len() / rows + 1);
        for block in files.chunks(rows) {
            let range = start..start + block.len() as u64;
            start = range.end;
            let name = format!("files@{:09}-{:09}", range.start, range.end);
            units.push(Unit { sources: vec![block_source(&name, block)], name, range: Some(range) });
        }
        Ok(units)
    }

    async fn read_block(&self, unit: &Unit, out: &Output) -> Result<(), DatasetError> {
        let files = self.files().await?;
        let range = unit.range.clone().unwrap_or_default();
        let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let block = bounds
            .and_then(|(start, end)| files.files.get(start..end))
            .ok_or_else(|| DatasetError::Config(format!("{} is no unit of {}", unit.name, self.location.url)))?;
        if unit.sources.first() != Some(&block_source(&unit.name, block)) {
            let detail = "its files are not the ones that were listed".to_owned();
            return Err(DatasetError::Changed { path: unit.name.clone(), detail });
        }
        let mut ahead = Ahead { folder: self, files, rest: block.iter(), pending: VecDeque::new(), bytes: 0 };
        for (index, file) in (0u64..).zip(block) {
            let content = ahead.next().await?;
            self.send(unit, index, file, content, out).await?;
        }
        Ok(())
    }

    async fn send(
        &self,
        unit: &Unit,
        index: u64,
        file: &File,
        content: Option<Vec<Bytes>>,
        out: &Output,
    ) -> Result<(), DatasetError> {
        let path = &file.image.path;
        let described = match content {
            Some(content) => self.describe(file, content),
            None => Err(match file.image.size {
                0 => (Reason::Empty, "the file has no bytes".to_owned()),
                n => (Reason::TooLarge, format!("the file has {n} bytes, more than {}", self.options.max_bytes)),
            }),
        };
        let (image, caption, original) = match described {
            Ok(described) => described,
            Err((reason, message)) => return out.reject(unit, path, path, index, reason, message).await,
        };
        let (label, source, key) = (file.label, path.clone(), path.clone());
        out.sample(Sample { source, key, index, label, caption, image, original }).await
    }

    /// The image's bytes and what its sidecars say, from the bytes of all of them.
    fn describe(&self, file: &File, content: Vec<Bytes>) -> Result<Described, Problem> {
        file.sidecars.check()?;
        let (image, sidecars) = content.split_first().ok_or_else(|| (Reason::Empty, "nothing was read".to_owned()))?;
        let (caption, original) = file.sidecars.describe(sidecars, &self.options)?;
        Ok((image.clone(), caption, original))
    }
}

/// Image, caption, original size.
type Described = (Bytes, Option<String>, Option<(u32, u32)>);

impl Reader for Folder {
    fn units(&self) -> BoxFuture<'_, Result<Vec<Unit>, DatasetError>> {
        Box::pin(self.list_units())
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<String>, DatasetError>> {
        Box::pin(async { Ok(self.files().await?.unfinished.clone()) })
    }

    fn read<'a>(&'a self, unit: &'a Unit, out: &'a Output) -> BoxFuture<'a, Result<(), DatasetError>> {
        Box::pin(out.while_wanted(self.read_block(unit, out)))
    }
}

/// The rank of each file's first directory among all of them.
fn ranks(files: &[Source], directories: &[String]) -> Vec<i32> {
    let rank = |file: &Source| {
        let directory = file.path.split('/').next().unwrap_or_default();
        // Each file's directory is among them.
        let rank = directories.partition_point(|other| other.as_str() < directory);
        i32::try_from(rank).unwrap_or(i32::MAX)
    };
    files.iter().map(rank).collect()
}

/// A block of files as one source: see [`Folder`].
fn block_source(name: &str, block: &[File]) -> Source {
    let mut hash = Sha256::new();
    for file in block.iter().flat_map(|file| [&file.image].into_iter().chain(file.sidecars.files())) {
        hash.update((file.path.len() as u64).to_le_bytes());
        hash.update(file.path.as_bytes());
        hash.update(file.size.to_le_bytes());
    }
    let digest = hex(&hash.finalize());
    let size = block.iter().map(File::size).fold(0, u64::saturating_add);
    Source { path: name.to_owned(), size, etag: Some(format!("files-sha256:{digest}")) }
}

/// The files being fetched, in order: at most `parallel_files` of them and `ahead_bytes` of their bytes (or a single file).
struct Ahead<'a> {
    folder: &'a Folder,
    files: &'a Images,
    rest: std::slice::Iter<'a, File>,
    pending: VecDeque<(u64, Option<Task<Vec<Bytes>>>)>,
    bytes: u64,
}

impl Ahead<'_> {
    /// The bytes of the next image and of what lies beside it; `None` for an empty or too large one, which is not fetched.
    async fn next(&mut self) -> Result<Option<Vec<Bytes>>, DatasetError> {
        let options = &self.folder.options;
        while let Some(file) = self.rest.as_slice().first() {
            let fetched = file.image.size > 0 && file.image.size <= options.max_bytes;
            let cost = if fetched { file.size() } else { 0 };
            let room =
                self.pending.len() < options.parallel_files && self.bytes.saturating_add(cost) <= options.ahead_bytes;
            if !room && !self.pending.is_empty() {
                break;
            }
            let task = if fetched { Some(self.fetch(file)?) } else { None };
            self.pending.push_back((cost, task));
            self.bytes += cost;
            self.rest.next();
        }
        let Some((cost, task)) = self.pending.pop_front() else { return Ok(None) };
        self.bytes -= cost;
        match task {
            Some(task) => task.join().await.map(Some),
            None => Ok(None),
        }
    }

    fn fetch(&self, file: &File) -> Result<Task<Vec<Bytes>>, DatasetError> {
        // Sidecars that are too large will be refused unread.
        let sidecars = file.sidecars.files().filter(|_| file.sidecars.check().is_ok());
        let mut reads = Vec::new();
        for source in [&file.image].into_iter().chain(sidecars) {
            let path = self.files.listing.location(&source.path)?;
            let object = Object::new(self.folder.location.store.clone(), path, source, &self.folder.options.read_ahead);
            let size = source.size;
            reads.push(async move { if size == 0 { Ok(Bytes::new()) } else { object.get(0..size).await } });
        }
        Ok(Task::spawn(futures::future::try_join_all(reads)))
    }
}

/// Keeps the files that the list names.
fn select(files: &mut Vec<Source>, list: &str, text: &str) -> Result<(), DatasetError> {
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut keep = named(&paths, "folder", list, text)?.into_iter();
    files.retain(|_| keep.next().unwrap_or(false));
    Ok(())
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
