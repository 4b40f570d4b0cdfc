//! Which class an image of ImageNet has: told by its directory, by its name, or by a file that maps names to synsets.

use super::brace::split_list;
use super::imagenet_synsets::{class_of, is_wnid};
use super::matlab;
use super::name_list::single_file;
use super::range_reader::{Object, RangeReader};
use super::tar::{Tar, TarError};
use super::{DatasetError, Source};
use crate::digest::hex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// A file of a mapping that is larger is taken for a mistake.
const MAX_FILE: u64 = 256 << 20;
/// The most that one of the devkit's members may have.
const MAX_MEMBER: u64 = 64 << 20;

/// The classes of ImageNet's validation images, which their names do not tell, by name without directories and ending
/// (FORMATS §4).
///
/// It is read from what people have, and what a file is, is told by its content: the devkit `ILSVRC2012_devkit_t12.tar.gz`
/// itself; taming-transformers' `validation_synset.txt` (`name wnid`); Kaggle's `LOC_val_solution.csv`; or the parts of the
/// devkit, joined with `::`: `ILSVRC2012_validation_ground_truth.txt` and, for its numbers, `meta.mat` or
/// `ilsvrc2012_id_to_wnid.txt`. `LOC_synset_mapping.txt` may stand beside them: it says nothing that is not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// What the user wrote, for messages.
    pub url: String,
    classes: HashMap<String, i32>,
}

impl Mapping {
    /// Reads the file at a URL or local path, or several joined with `::`.
    ///
    /// # Errors
    /// [`DatasetError::Config`] when one is not there or is none of these files, or when they do not go together.
    pub async fn read(url: &str) -> Result<Mapping, DatasetError> {
        let mut facts = Facts::default();
        for part in split_list(url) {
            let object = single_file("dataset.mapping", part, MAX_FILE).await?;
            facts.take_file(object).await.map_err(|error| error.of(part))?;
        }
        let classes = facts.classes().map_err(|what| Wrong::Content(what).of(url))?;
        Ok(Mapping { url: url.to_owned(), classes })
    }

    /// The class of an image, by its path or name.
    pub fn class(&self, path: &str) -> Option<i32> {
        self.classes.get(stem(path)).copied()
    }

    /// SHA-256 hex of what it says: mappings that say the same are the same, whatever the files.
    pub fn digest(&self) -> String {
        let mut lines: Vec<String> = self.classes.iter().map(|(name, class)| format!("{name} {class}\n")).collect();
        lines.sort_unstable();
        hex(&Sha256::digest(lines.concat().as_bytes()))
    }
}

/// How images of ImageNet get their classes.
#[derive(Clone, Debug, Default)]
pub(super) struct Classifier {
    pub(super) mapping: Option<Mapping>,
}

impl Classifier {
    /// The class of the image at `path`: the nearest directory that is called by a wnid tells it, else a wnid at the beginning
    /// of its name (`n01440764_10026.JPEG`), else the mapping. An error is the end of a sentence.
    pub(super) fn class(&self, path: &str) -> Result<i32, String> {
        let (directories, name) = path.rsplit_once('/').unwrap_or(("", path));
        let told = directories.rsplit('/').find(|directory| is_wnid(directory));
        let told = told.or_else(|| name.split('_').next().filter(|word| *word != name && is_wnid(word)));
        match (told, &self.mapping) {
            (Some(wnid), _) => class_of(wnid).ok_or_else(|| unknown(wnid)),
            (None, Some(mapping)) => mapping.class(name).ok_or_else(|| format!("{} does not name it", mapping.url)),
            (None, None) => Err("nothing tells its class".to_owned()),
        }
    }
}

/// The class of each of the files at `url`, by a mapping where one is given.
///
/// # Errors
/// [`DatasetError::Config`] for the first file of which nothing tells the class.
pub(super) async fn of_files(files: &[Source], mapping: Option<&str>, url: &str) -> Result<Vec<i32>, DatasetError> {
    let classifier = Classifier {
        mapping: match mapping {
            Some(mapping) => Some(Mapping::read(mapping).await?),
            None => None,
        },
    };
    let class = |file: &Source| {
        classifier.class(&file.path).map_err(|why| {
            let path = &file.path;
            DatasetError::Config(format!(
                "the class of {path} at {url} is not known: {why}. Training images lie in directories named by wnids \
                 (n01440764); validation images need dataset.mapping; dataset.labels = \"none\" does without classes"
            ))
        })
    };
    files.iter().map(class).collect()
}

/// What is said of a wnid that is not among the 1000.
pub(super) fn unknown(wnid: &str) -> String {
    format!("{wnid} is none of the 1000 synsets of ILSVRC2012")
}

/// A name without directories and ending.
fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Why a file is no mapping.
enum Wrong {
    Dataset(DatasetError),
    /// The end of a sentence.
    Content(String),
}

impl Wrong {
    fn of(self, url: &str) -> DatasetError {
        match self {
            Wrong::Dataset(error) => error,
            Wrong::Content(what) => DatasetError::Config(format!("dataset.mapping = {url}: {what}")),
        }
    }
}

impl From<DatasetError> for Wrong {
    fn from(error: DatasetError) -> Wrong {
        Wrong::Dataset(error)
    }
}

impl From<TarError> for Wrong {
    fn from(error: TarError) -> Wrong {
        match error {
            TarError::Dataset(error) => Wrong::Dataset(error),
            broken => Wrong::Content(broken.to_string()),
        }
    }
}

/// What the files of a mapping say together.
#[derive(Default)]
struct Facts {
    /// Classes by name.
    names: HashMap<String, i32>,
    /// The `ILSVRC2012_ID` of each validation image, in the order of their names.
    truth: Vec<u64>,
    /// Wnids by `ILSVRC2012_ID`.
    ids: HashMap<u64, String>,
}

/// What a line of a text file says.
enum Line<'a> {
    /// An image, and its wnid.
    Name(&'a str, &'a str),
    /// The id of the next validation image.
    Truth(u64),
    /// An id, and its wnid.
    Id(u64, &'a str),
    /// A wnid and its words, or a table's head: nothing new.
    Nothing,
}

impl Facts {
    async fn take_file(&mut self, object: Object) -> Result<(), Wrong> {
        let head = object.get(0..object.size().min(512)).await?;
        if head.starts_with(&[0x1f, 0x8b]) || super::tar::is_header(&head) {
            return self.take_devkit(Tar::new(RangeReader::new(object))).await;
        }
        let bytes = object.get(0..object.size()).await?;
        self.take(&bytes).map_err(Wrong::Content)
    }

    /// The devkit: of its members, the ground truth and `meta.mat`.
    async fn take_devkit(&mut self, mut devkit: Tar) -> Result<(), Wrong> {
        while let Some(member) = devkit.next().await? {
            let name = member.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if (name != b"ILSVRC2012_validation_ground_truth.txt" && name != b"meta.mat") || member.size > MAX_MEMBER {
                continue;
            }
            let body = devkit.body().await?;
            let shown = String::from_utf8_lossy(name);
            self.take(&body).map_err(|what| Wrong::Content(format!("{shown} in it: {what}")))?;
        }
        match self.truth.is_empty() || self.ids.is_empty() {
            true => Err(Wrong::Content(
                "this archive has not both ILSVRC2012_validation_ground_truth.txt and meta.mat, as the devkit \
                 ILSVRC2012_devkit_t12.tar.gz has"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }

    /// The content of one file; an error is the end of a sentence.
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        if matlab::is_matlab(bytes) {
            self.ids.extend(matlab::synsets(bytes)?);
            return Ok(());
        }
        let text = std::str::from_utf8(bytes).map_err(|error| format!("it is not UTF-8 text ({error})"))?;
        for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let said = line_of(line).ok_or_else(|| {
                let shown: String = line.chars().take(60).collect();
                format!(
                    "line {number}, {shown:?}, is not as in validation_synset.txt, LOC_val_solution.csv, \
                     ILSVRC2012_validation_ground_truth.txt or ilsvrc2012_id_to_wnid.txt"
                )
            })?;
            self.take_line(said).map_err(|what| format!("line {number}: {what}"))?;
        }
        Ok(())
    }

    fn take_line(&mut self, line: Line<'_>) -> Result<(), String> {
        match line {
            Line::Name(name, wnid) => self.name(stem(name).to_owned(), wnid),
            Line::Truth(id) => {
                self.truth.push(id);
                Ok(())
            }
            Line::Id(id, wnid) => match self.ids.insert(id, wnid.to_owned()) {
                Some(other) if other != wnid => Err(format!("{id} is {wnid} here and {other} elsewhere")),
                _ => Ok(()),
            },
            Line::Nothing => Ok(()),
        }
    }

    fn name(&mut self, name: String, wnid: &str) -> Result<(), String> {
        let class = class_of(wnid).ok_or_else(|| unknown(wnid))?;
        match self.names.get(&name) {
            Some(other) if *other != class => Err(format!("{name} is of two synsets, {wnid} and another")),
            _ => {
                self.names.insert(name, class);
                Ok(())
            }
        }
    }

    /// Classes by name, from everything that was taken.
    fn classes(mut self) -> Result<HashMap<String, i32>, String> {
        if !self.truth.is_empty() && self.ids.is_empty() {
            return Err("it numbers synsets by ILSVRC2012_ID, which the devkit explains: give the devkit \
                        ILSVRC2012_devkit_t12.tar.gz itself, or join the devkit's meta.mat or an \
                        ilsvrc2012_id_to_wnid.txt to it with `::`"
                .to_owned());
        }
        for (number, id) in (1..).zip(std::mem::take(&mut self.truth)) {
            let wnid = self.ids.get(&id).cloned();
            let wnid = wnid
                .ok_or_else(|| format!("validation image {number} has the ILSVRC2012_ID {id}, which is no synset's"))?;
            self.name(format!("ILSVRC2012_val_{number:08}"), &wnid)?;
        }
        match self.names.is_empty() {
            true => Err("it names no images".to_owned()),
            false => Ok(self.names),
        }
    }
}

/// Tells what a line says; `None` if it is none of those that are known.
fn line_of(line: &str) -> Option<Line<'_>> {
    if line == "ImageId,PredictionString" {
        return Some(Line::Nothing);
    }
    // Kaggle: an image, a comma, and for each of its boxes the wnid and four numbers.
    if let Some((image, boxes)) = line.split_once(',').filter(|(image, _)| !image.contains(' ')) {
        return boxes.split_whitespace().next().filter(|wnid| is_wnid(wnid)).map(|wnid| Line::Name(image, wnid));
    }
    let mut words = line.split_whitespace();
    match (words.next()?, words.next()) {
        (wnid, _) if is_wnid(wnid) => Some(Line::Nothing),
        (id, None) => id.parse().ok().map(Line::Truth),
        (first, Some(wnid)) if is_wnid(wnid) && words.next().is_none() => {
            Some(first.parse().map_or(Line::Name(first, wnid), |id| Line::Id(id, wnid)))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "imagenet_labels_tests.rs"]
mod tests;
