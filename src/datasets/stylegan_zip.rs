//! The reader of StyleGAN's zip archives. Its rules are told at [`StyleGanZip`].

use super::fields::{self, Problem, readable};
use super::listing::{Files, Wanted};
use super::name_list::{named, read_list};
use super::open::{DatasetOptions, Labels};
use super::range_reader::Object;
use super::recent::Recent;
use super::samples::is_unsafe;
use super::store::Location;
use super::task::Task;
use super::zip_directory::{Directory, Entry, ZipError};
use super::{DatasetError, Output, Reader, Sample, Source, Unit};
use crate::reject::Reason;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

const FILES: Wanted = Wanted { what: "zip archives", extensions: &[".zip"] };
const IMAGES: [&[u8]; 6] = [b".jpg", b".jpeg", b".png", b".webp", b".gif", b".bmp"];
/// The name and the largest size of the file of labels.
const LABELS: &[u8] = b"dataset.json";
const MAX_LABELS: u64 = 256 << 20;
/// Entries are fetched together where no more than this lies between them.
const GAP: u64 = 64 << 10;

/// Zip archives as StyleGAN2-ADA's and EDM's `dataset_tool.py` write them (FORMATS §2). Made by [`open()`](super::open()), or
/// with [`StyleGanZip::new`] over a store of one's own.
///
/// - Archives are read in place: the central directory (zip64 too) and `dataset.json` once, then the entries, those that lie
///   side by side in one request. Entries may be stored or deflated.
/// - The images are the entries with an image's ending, in bytewise order of their names; a sample's key is its name. A work
///   unit is a block of `unit_rows` of them, `ffhq-256x256.zip@000005000-000010000`, or the archive where there is but one.
/// - The class is looked up in `dataset.json` by name. Where that lists classes, an image that it does not name is rejected as
///   `bad_label`, and so is one whose label is a vector: set `dataset.labels = "none"` for those, and for the classes that
///   EDM's tool invents from directories. Images may be of several sizes: they are scaled anyway.
/// - With a list file, only the images it names are read, by name or base name, and units are blocks of those. A list goes with
///   one archive: base names are the same in all that these tools write.
#[derive(Debug)]
pub struct StyleGanZip {
    files: Files,
    options: DatasetOptions,
    archives: Recent<Result<Archive, Problem>>,
}

/// What is known of an archive.
struct Archive {
    object: Object,
    directory: Directory,
    /// The images' places in the directory, by name.
    images: Vec<u32>,
    labels: Classes,
}

/// The classes of an archive's images.
enum Classes {
    None,
    ByName(HashMap<String, Option<i64>>),
    /// `dataset.json` cannot be read.
    Broken(String),
}

#[derive(Deserialize)]
struct LabelFile {
    labels: Option<Vec<(String, Label)>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Label {
    Class(i64),
    Other(IgnoredAny),
}

impl StyleGanZip {
    /// A reader of the archives at `location`; of `options` it uses labels, classes, limits, unit rows and read-ahead.
    pub fn new(location: Location, options: DatasetOptions) -> StyleGanZip {
        StyleGanZip { files: Files::new(location, FILES), options, archives: Recent::default() }
    }

    async fn archive(&self, file: &Source) -> Result<Arc<Result<Archive, Problem>>, DatasetError> {
        let load = async {
            match self.load(self.files.open(file, &self.options.read_ahead).await?).await {
                Ok(archive) => Ok(Ok(archive)),
                Err(ZipError::Broken(reason, message)) => Ok(Err((reason, message))),
                Err(ZipError::Dataset(error)) => Err(error),
            }
        };
        self.archives.get(file, load).await
    }

    async fn load(&self, object: Object) -> Result<Archive, ZipError> {
        let directory = Directory::load(&object).await?;
        let name = |at: &u32| directory.name(&directory.entries[*at as usize]);
        let count = u32::try_from(directory.entries.len()).unwrap_or(u32::MAX);
        let mut images: Vec<u32> = (0..count).filter(|at| is_image(name(at))).collect();
        images.sort_by(|a, b| name(a).cmp(name(b)));
        if let Some(list) = &self.options.list {
            let names: Vec<String> = images.iter().map(|at| readable(name(at))).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut kept = named(&names, "archive", list, &read_list(list).await?)?.into_iter();
            images.retain(|_| kept.next().unwrap_or(false));
        }
        let labels = match directory.entries.iter().find(|entry| directory.name(entry) == LABELS) {
            Some(entry) if self.options.labels != Labels::None => classes(&object, entry).await?,
            _ => Classes::None,
        };
        Ok(Archive { object, directory, images, labels })
    }

    async fn list_units(&self) -> Result<Vec<Unit>, DatasetError> {
        let rows = self.options.unit_rows.max(1);
        let mut units = Vec::new();
        let files = &self.files.listing().await?.objects;
        if self.options.list.is_some() && files.len() > 1 {
            let (n, url) = (files.len(), &self.files.location().url);
            return Err(DatasetError::Config(format!("dataset.list goes with one archive, but {url} names {n}")));
        }
        for file in files {
            let count = self.archive(file).await?.as_ref().as_ref().map_or(0, |archive| archive.images.len() as u64);
            let unit = |name, range| Unit { name, sources: vec![file.clone()], range };
            if count <= rows {
                units.push(unit(file.path.clone(), None));
                continue;
            }
            for start in (0..count).step_by(usize::try_from(rows).unwrap_or(usize::MAX)) {
                let end = start.saturating_add(rows).min(count);
                units.push(unit(format!("{}@{start:09}-{end:09}", file.path), Some(start..end)));
            }
        }
        Ok(units)
    }

    async fn read_unit(&self, unit: &Unit, out: &Output) -> Result<(), DatasetError> {
        let not_ours = || DatasetError::Config(format!("{} is no unit of {}", unit.name, self.files.location().url));
        let [file] = &unit.sources[..] else { return Err(not_ours()) };
        let archive = self.archive(file).await?;
        let archive = match archive.as_ref() {
            Ok(archive) => archive,
            Err((reason, message)) => {
                tracing::warn!(archive = file.path, message, "a broken archive");
                return out.reject(unit, &file.path, "", 0, *reason, message).await;
            }
        };
        let range = unit.range.clone().unwrap_or(0..archive.images.len() as u64);
        let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let bounds = bounds.filter(|(start, end)| start <= end && *end <= archive.images.len()).ok_or_else(not_ours)?;
        let reading = Reading { unit, out, source: &file.path, archive, options: &self.options };
        reading.read(bounds.0..bounds.1).await
    }
}

impl Reader for StyleGanZip {
    fn units(&self) -> BoxFuture<'_, Result<Vec<Unit>, DatasetError>> {
        Box::pin(self.list_units())
    }

    fn read<'a>(&'a self, unit: &'a Unit, out: &'a Output) -> BoxFuture<'a, Result<(), DatasetError>> {
        Box::pin(out.while_wanted(self.read_unit(unit, out)))
    }
}

fn is_image(name: &[u8]) -> bool {
    let base = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let ends =
        |ending: &&[u8]| base.len() > ending.len() && base[base.len() - ending.len()..].eq_ignore_ascii_case(ending);
    !base.starts_with(b".") && IMAGES.iter().any(ends)
}

/// What `dataset.json` says.
async fn classes(object: &Object, entry: &Entry) -> Result<Classes, DatasetError> {
    if entry.cost() > MAX_LABELS {
        return Ok(Classes::Broken(format!("it has {} bytes, more than {MAX_LABELS}", entry.cost())));
    }
    let Some(range) = entry.range() else { return Ok(Classes::Broken("it is cut".to_owned())) };
    let text = match entry.unpack(object.get(range).await?) {
        Ok(text) => text,
        Err((_, message)) => return Ok(Classes::Broken(message)),
    };
    Ok(match serde_json::from_slice::<LabelFile>(&text) {
        Err(error) => Classes::Broken(error.to_string()),
        Ok(LabelFile { labels: None }) => Classes::None,
        Ok(LabelFile { labels: Some(list) }) => Classes::ByName(
            list.into_iter()
                .map(|(name, label)| match label {
                    Label::Class(class) => (name, Some(class)),
                    Label::Other(_) => (name, None),
                })
                .collect(),
        ),
    })
}

/// One unit being read.
struct Reading<'a> {
    unit: &'a Unit,
    out: &'a Output,
    source: &'a str,
    archive: &'a Archive,
    options: &'a DatasetOptions,
}

/// Bytes being fetched, and the images whose entries lie in them.
struct Fetch {
    images: Range<usize>,
    bytes: Range<u64>,
    task: Option<Task<Bytes>>,
}

impl Reading<'_> {
    async fn read(&self, images: Range<usize>) -> Result<(), DatasetError> {
        let first = images.start;
        let mut rest = images;
        let mut ahead: VecDeque<Fetch> = VecDeque::new();
        loop {
            while ahead.len() <= self.options.read_ahead.parallel && !rest.is_empty() {
                let mut fetch = self.plan(rest.clone());
                rest.start = fetch.images.end;
                if !fetch.bytes.is_empty() {
                    let (object, bytes) = (self.archive.object.clone(), fetch.bytes.clone());
                    fetch.task = Some(Task::spawn(async move { object.get(bytes).await }));
                }
                ahead.push_back(fetch);
            }
            let Some(fetch) = ahead.pop_front() else { return Ok(()) };
            let bytes = match fetch.task {
                Some(task) => task.join().await?,
                None => Bytes::new(),
            };
            for at in fetch.images {
                self.send(at, (at - first) as u64, &bytes, fetch.bytes.start).await?;
            }
        }
    }

    /// The first of the images, and those after it that one request of the usual size can bring along.
    fn plan(&self, images: Range<usize>) -> Fetch {
        let mut plan = Fetch { images: images.start..images.start, bytes: 0..0, task: None };
        for at in images {
            match self.wanted(at) {
                Err(_) => {}
                Ok(range) if plan.bytes.is_empty() => plan.bytes = range,
                Ok(range) => {
                    let near = range.start >= plan.bytes.end && range.start - plan.bytes.end <= GAP;
                    if !near || range.end - plan.bytes.start > self.options.read_ahead.chunk {
                        break;
                    }
                    plan.bytes.end = range.end;
                }
            }
            plan.images.end = at + 1;
        }
        plan
    }

    fn entry(&self, at: usize) -> &Entry {
        &self.archive.directory.entries[self.archive.images[at] as usize]
    }

    fn name(&self, at: usize) -> &[u8] {
        self.archive.directory.name(self.entry(at))
    }

    /// The bytes to fetch for an image, or why none are.
    fn wanted(&self, at: usize) -> Result<Range<u64>, Problem> {
        let entry = self.entry(at);
        if is_unsafe(&readable(self.name(at))) {
            return Err((Reason::UnsafePath, "its name points outside the archive".to_owned()));
        }
        if at > 0 && self.name(at - 1) == self.name(at) {
            return Err((Reason::DuplicateMember, "the archive has two entries of this name".to_owned()));
        }
        fields::check_image(entry.size, self.options)?;
        if entry.cost() > self.options.max_bytes {
            return Err(fields::too_large(entry.cost(), self.options));
        }
        let outside = || (Reason::CorruptContainer, "its place in the archive is too small for it".to_owned());
        entry.range().ok_or_else(outside)
    }

    async fn send(&self, at: usize, index: u64, bytes: &Bytes, start: u64) -> Result<(), DatasetError> {
        let key = readable(self.name(at));
        let result = self.wanted(at).and_then(|range| {
            // In reach: the range was fetched for this image among others.
            let bounds = (range.start - start) as usize..(range.end - start) as usize;
            let image = self.entry(at).unpack(bytes.slice(bounds))?;
            Ok((image, self.label(&key)?))
        });
        let source = self.source.to_owned();
        match result {
            Ok((image, label)) => {
                self.out.sample(Sample { source, key, index, label, caption: None, image, original: None }).await
            }
            Err((reason, message)) => self.out.reject(self.unit, &source, &key, index, reason, message).await,
        }
    }

    fn label(&self, name: &str) -> Result<Option<i32>, Problem> {
        let bad = |message: &str| (Reason::BadLabel, format!("{message}; dataset.labels = \"none\" ignores labels"));
        match &self.archive.labels {
            Classes::None => Ok(None),
            Classes::Broken(why) => Err(bad(&format!("the archive's dataset.json cannot be read ({why})"))),
            Classes::ByName(classes) => match classes.get(name) {
                None => Err(bad("the archive's dataset.json does not name it")),
                Some(None) => Err(bad("its label is not a class but a vector or the like")),
                Some(Some(class)) => fields::label(*class, self.options).map(Some),
            },
        }
    }
}
