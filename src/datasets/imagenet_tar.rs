//! The reader of ImageNet's own archives. Its rules are told at [`ImageNetTar`].

use super::fields::{self, Problem, readable};
use super::folder::IMAGES;
use super::imagenet_index as index;
use super::imagenet_labels::{Classifier, Mapping, unknown};
use super::imagenet_split::{Split, keep};
use super::imagenet_synsets::class_of;
use super::listing::{Files, Wanted};
use super::open::{DatasetOptions, Labels};
use super::range_reader::{Object, RangeReader};
use super::samples::is_unsafe;
use super::store::Location;
use super::tar::{BLOCK, Kind, Member, Tar, TarError};
use super::tar_parts::{Place, Walk, cuts, stepping};
use super::{DatasetError, Output, Reader, Sample, Source, Unit};
use crate::reject::Reason;
use futures::future::BoxFuture;
use std::ops::Range;
use tokio::sync::OnceCell;

const FILES: Wanted = Wanted { what: "ImageNet archives", extensions: &[".tar"] };
/// How many members tell how large images are.
const MEASURED: u64 = 16;

/// `ILSVRC2012_img_train.tar`, the tar of a tar per synset, and `ILSVRC2012_img_val.tar`, a tar of images, read where they lie
/// (FORMATS §4). Made by [`open()`](super::open()), or with [`ImageNetTar::new`] over a store of one's own.
///
/// - What an archive is, its first file tells: a tar or an image. Where several archives are found, `dataset.split` chooses
///   those whose names say `train` or `val`.
/// - **Tar of tars.** A work unit is a synset: `ILSVRC2012_img_train.tar/n01440764.tar`. Where they lie is found by a walk over
///   the outer headers, a GET of 4 KiB each. Where entity tags last (not on local disks, where a walk takes no time), that is
///   kept in [`DatasetOptions::index`] by [`Reader::keep`], and believed for an archive of the same size and entity tag. A
///   unit's header is checked before the unit is read. The class is the rank of the synset among all 1000.
/// - **Tar of images.** A work unit is a slice of about `unit_rows` images, cut before members: its length in bytes follows
///   from `unit_rows` and the mean size of the first 16 members, so that the archive is not walked for its 50,000 headers:
///   `ILSVRC2012_img_val.tar@000671088640-001342177280`, in bytes; or the archive, where it is no longer. Classes come from
///   names like `n01440764_10026.JPEG`, else from `dataset.mapping`; an image that neither knows is `bad_label`.
/// - A sample's key is the image's name. Files that are no images by their ending, and names that start with a dot, are passed
///   over. What is broken within a unit costs the rest of that unit: one reject. Behind a broken outer header there is one
///   more unit, with one reject.
#[derive(Debug)]
pub struct ImageNetTar {
    files: Files,
    options: DatasetOptions,
    archives: OnceCell<Vec<Archive>>,
    classifier: OnceCell<Classifier>,
}

/// An archive, and what it is made of.
#[derive(Debug)]
struct Archive {
    file: Source,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    /// Archives, of which each is a synset; where the headers break, if they do; and whether the index told it.
    Synsets { members: Vec<Place>, broken: Option<u64>, indexed: bool },
    /// Images, and where they are cut into slices.
    Images { cuts: Vec<u64> },
}

impl ImageNetTar {
    /// A reader of the archives at `location`; of `options` it uses mapping, split, labels, limits, unit rows, index and
    /// read-ahead.
    pub fn new(location: Location, options: DatasetOptions) -> ImageNetTar {
        let (archives, classifier) = Default::default();
        ImageNetTar { files: Files::new(location, FILES), options, archives, classifier }
    }

    async fn classifier(&self) -> Result<&Classifier, DatasetError> {
        let load = || async {
            Ok(Classifier {
                mapping: match &self.options.mapping {
                    Some(url) if self.options.labels != Labels::None => Some(Mapping::read(url).await?),
                    _ => None,
                },
            })
        };
        self.classifier.get_or_try_init(load).await
    }

    async fn archives(&self) -> Result<&Vec<Archive>, DatasetError> {
        let find = || async {
            let mut files = self.files.listing().await?.objects.clone();
            keep(&mut files, self.options.split, &self.files.location().url, Split::of_file)?;
            let mut archives = Vec::with_capacity(files.len());
            for file in files {
                let layout = self.layout(&file).await?;
                archives.push(Archive { file, layout });
            }
            Ok(archives)
        };
        self.archives.get_or_try_init(find).await
    }

    async fn layout(&self, file: &Source) -> Result<Layout, DatasetError> {
        let object = self.files.open(file, &stepping(&self.options.read_ahead)).await?;
        if let Some(members) = self.indexed(file, &object).await? {
            return Ok(Layout::Synsets { members, broken: None, indexed: true });
        }
        let magic = object.get(0..file.size.min(2)).await?;
        if magic[..] == [0x1f, 0x8b] {
            let path = &file.path;
            return Err(config(format!(
                "{path} is compressed, and parts of it cannot be read in place: unpack it first"
            )));
        }
        let mut walk = Walk::new(object.clone());
        let mut members = Vec::new();
        let broken = loop {
            match walk.next().await {
                Ok(None) => break None,
                Ok(Some(place)) if is_image(&place) && !members.iter().any(is_archive) => {
                    return self.images(file, &object, walk, &place).await;
                }
                Ok(Some(place)) => members.push(place),
                Err(TarError::Dataset(error)) => return Err(error),
                Err(error) => {
                    tracing::warn!(archive = file.path, %error, "a broken archive");
                    break Some(walk.position());
                }
            }
        };
        if !members.iter().any(is_archive) {
            // Empty or broken from its beginning: its only unit tells what is wrong.
            return Ok(Layout::Images { cuts: Vec::new() });
        }
        self.check_synsets(file, &members)?;
        Ok(Layout::Synsets { members, broken, indexed: false })
    }

    /// The members by the index, where nothing follows them in the archive.
    async fn indexed(&self, file: &Source, object: &Object) -> Result<Option<Vec<Place>>, DatasetError> {
        let Some(url) = &self.options.index else { return Ok(None) };
        let Some(members) = index::load(url, file).await else { return Ok(None) };
        let end = members.last().map_or(0, Place::next).min(file.size);
        let mark = object.get(end..file.size.min(end.saturating_add(BLOCK as u64))).await?;
        if mark.is_empty() || mark.iter().any(|byte| *byte != 0) || self.check_synsets(file, &members).is_err() {
            tracing::warn!(archive = file.path, "its index is ignored: it does not fit the archive");
            return Ok(None);
        }
        Ok(Some(members))
    }

    /// Each archive must be called by a synset, if classes are wanted.
    fn check_synsets(&self, file: &Source, members: &[Place]) -> Result<(), DatasetError> {
        let others = members.iter().filter(|place| !is_archive(place)).count();
        if others > 0 {
            tracing::info!(archive = file.path, others, "members that are no archives of synsets");
        }
        let stranger =
            members.iter().filter(|place| is_archive(place)).find(|place| class_of(wnid(&place.name)).is_none());
        match stranger.filter(|_| self.options.labels != Labels::None) {
            Some(stranger) => Err(config(format!(
                "{} in {}: {}; set dataset.labels = \"none\" to read it without classes",
                stranger.name,
                file.path,
                unknown(wnid(&stranger.name))
            ))),
            None => Ok(()),
        }
    }

    /// The slices of an archive of images whose first one is `first`.
    async fn images(
        &self,
        file: &Source,
        object: &Object,
        mut walk: Walk,
        first: &Place,
    ) -> Result<Layout, DatasetError> {
        let classifier = self.classifier().await?;
        if self.options.labels != Labels::None && classifier.mapping.is_none() && classifier.class(&first.name).is_err()
        {
            return Err(config(format!(
                "{} does not say of what class its images are: set dataset.mapping to the devkit \
                 ILSVRC2012_devkit_t12.tar.gz, a validation_synset.txt or Kaggle's LOC_val_solution.csv, or \
                 dataset.labels = \"none\"",
                file.path
            )));
        }
        let mut measured = 1;
        while measured < MEASURED {
            match walk.next().await {
                Ok(Some(_)) => measured += 1,
                Err(TarError::Dataset(error)) => return Err(error),
                // The unit's reader reports what is broken.
                Ok(None) | Err(_) => break,
            }
        }
        let size = (walk.position() / measured).saturating_mul(self.options.unit_rows.max(1));
        let limit = self.options.max_bytes.saturating_add(BLOCK as u64);
        Ok(Layout::Images { cuts: cuts(object, size, limit).await? })
    }

    async fn list_units(&self) -> Result<Vec<Unit>, DatasetError> {
        let mut units = Vec::new();
        for Archive { file, layout } in self.archives().await? {
            let unit = |name, range| Unit { name, sources: vec![file.clone()], range };
            let slice =
                |part: Range<u64>| unit(format!("{}@{:012}-{:012}", file.path, part.start, part.end), Some(part));
            match layout {
                Layout::Images { cuts } if cuts.is_empty() => units.push(unit(file.path.clone(), None)),
                Layout::Images { cuts } => {
                    let starts = [0].into_iter().chain(cuts.iter().copied());
                    let ends = cuts.iter().copied().chain([file.size]);
                    units.extend(starts.zip(ends).map(|(start, end)| slice(start..end)));
                }
                Layout::Synsets { members, broken, .. } => {
                    let synsets = members.iter().filter(|place| is_archive(place));
                    units.extend(synsets.map(|p| unit(format!("{}/{}", file.path, p.name), Some(p.start..p.end))));
                    // A last member that is cut tells so itself.
                    units.extend(broken.filter(|at| *at <= file.size).map(|at| slice(at..file.size)));
                }
            }
        }
        Ok(units)
    }

    async fn read_unit(&self, unit: &Unit, out: &Output) -> Result<(), DatasetError> {
        let not_ours = || config(format!("{} is no unit of {}", unit.name, self.files.location().url));
        let [file] = &unit.sources[..] else { return Err(not_ours()) };
        let part = unit.name.strip_prefix(&file.path).ok_or_else(not_ours)?;
        let range = unit.range.clone().unwrap_or(0..file.size);
        let object = self.files.open(file, &self.options.read_ahead).await?;
        let source = RangeReader::within(object, range.clone());
        let (tar, classes) = match part.strip_prefix('/') {
            Some(name) => match self.enter(source, name, &range).await {
                Ok(tar) => (Ok(tar), self.class_of_synset(name)?),
                Err(TarError::Dataset(error)) => return Err(error),
                Err(error) => (Err(error), Classes::None),
            },
            None if range.end < file.size => (Ok(Tar::middle(source)), self.classes_of_images().await?),
            None => (Ok(Tar::new(source)), self.classes_of_images().await?),
        };
        let mut images = Images { unit, out, source: &file.path, classes, options: &self.options, index: 0 };
        let read = match tar {
            Ok(tar) => images.read(tar).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(()) => Ok(()),
            Err(TarError::Dataset(error)) => Err(error),
            Err(broken) => images.broken(broken).await,
        }
    }

    /// The archive that is a member of the outer one, checked to be the one that was listed.
    async fn enter(&self, source: RangeReader, name: &str, range: &Range<u64>) -> Result<Tar, TarError> {
        let mut outer = Tar::new(source);
        let moved = || DatasetError::Changed {
            path: name.to_owned(),
            detail: format!(
                "it does not lie at byte {} any more; should this come again, delete the directory index/ of the output",
                range.start
            ),
        };
        let member = match outer.next().await {
            Ok(Some(member)) => member,
            Err(TarError::Dataset(error)) => return Err(error.into()),
            Ok(None) | Err(_) => return Err(moved().into()),
        };
        let end = outer.position().saturating_add(member.size);
        match member.kind == Kind::File && readable(&member.name) == name && end == range.end {
            true => Ok(outer.enter()),
            false => Err(moved().into()),
        }
    }

    fn class_of_synset(&self, name: &str) -> Result<Classes<'_>, DatasetError> {
        if self.options.labels == Labels::None {
            return Ok(Classes::None);
        }
        class_of(wnid(name)).map(Classes::All).ok_or_else(|| config(unknown(wnid(name))))
    }

    async fn classes_of_images(&self) -> Result<Classes<'_>, DatasetError> {
        match self.options.labels {
            Labels::None => Ok(Classes::None),
            _ => self.classifier().await.map(Classes::ByName),
        }
    }

    async fn keep_index(&self) {
        let (Some(url), Some(archives)) = (&self.options.index, self.archives.get()) else { return };
        for archive in archives {
            if let Layout::Synsets { members, broken: None, indexed: false } = &archive.layout {
                index::store(url, &archive.file, members).await;
            }
        }
    }
}

impl Reader for ImageNetTar {
    fn units(&self) -> BoxFuture<'_, Result<Vec<Unit>, DatasetError>> {
        Box::pin(self.list_units())
    }

    fn read<'a>(&'a self, unit: &'a Unit, out: &'a Output) -> BoxFuture<'a, Result<(), DatasetError>> {
        Box::pin(out.while_wanted(self.read_unit(unit, out)))
    }

    fn keep(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.keep_index())
    }
}

fn config(sentence: String) -> DatasetError {
    DatasetError::Config(sentence)
}

fn is_archive(place: &Place) -> bool {
    place.file && FILES.matches(&place.name) && !is_unsafe(&place.name)
}

fn is_image(place: &Place) -> bool {
    place.file && IMAGES.matches(&place.name)
}

/// The wnid in an archive's name: `n01440764.tar`.
fn wnid(name: &str) -> &str {
    let base = name.rsplit('/').next().unwrap_or(name);
    base.strip_suffix(".tar").unwrap_or(base)
}

/// Where the classes of a unit's images come from.
enum Classes<'a> {
    None,
    /// All have this one.
    All(i32),
    ByName(&'a Classifier),
}

/// The images of one unit being read.
struct Images<'a> {
    unit: &'a Unit,
    out: &'a Output,
    source: &'a str,
    classes: Classes<'a>,
    options: &'a DatasetOptions,
    index: u64,
}

impl Images<'_> {
    async fn read(&mut self, mut tar: Tar) -> Result<(), TarError> {
        while let Some(member) = tar.next().await? {
            let key = readable(&member.name);
            if member.kind == Kind::Directory || !IMAGES.matches(&key) {
                continue;
            }
            let index = self.index;
            match self.check(&member, &key) {
                Ok(label) => {
                    let image = tar.body().await?;
                    let source = self.source.to_owned();
                    self.out.sample(Sample { source, key, index, label, caption: None, original: None, image }).await?;
                }
                Err((reason, message)) => {
                    self.out.reject(self.unit, self.source, &key, index, reason, message).await?;
                }
            }
            self.index += 1;
        }
        Ok(())
    }

    /// The class of an image, or why it is not read.
    fn check(&self, member: &Member, key: &str) -> Result<Option<i32>, Problem> {
        if let Kind::Other(what) = member.kind {
            return Err((Reason::NotARegularFile, format!("it is a {what}")));
        }
        if is_unsafe(key) {
            return Err((Reason::UnsafePath, "its name points outside the archive".to_owned()));
        }
        fields::check_image(member.size, self.options)?;
        match &self.classes {
            Classes::None => Ok(None),
            Classes::All(class) => Ok(Some(*class)),
            Classes::ByName(classifier) => classifier.class(key).map(Some).map_err(|why| (Reason::BadLabel, why)),
        }
    }

    async fn broken(&self, error: TarError) -> Result<(), DatasetError> {
        let (reason, lost) = error.verdict();
        tracing::warn!(unit = self.unit.name, %error, "a broken archive");
        let message = format!("{error}; {lost}");
        self.out.reject(self.unit, self.source, "", self.index, reason, message).await
    }
}
