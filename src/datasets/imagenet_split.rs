//! Training and validation images that lie side by side: which of them `dataset.split` chooses.

use super::{DatasetError, Source};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A part of ImageNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    Train,
    Val,
}

impl Split {
    /// By the name of an archive: `ILSVRC2012_img_train.tar`.
    pub(super) fn of_file(path: &str) -> Option<Split> {
        let name = path.rsplit('/').next().unwrap_or(path);
        match name {
            name if name.contains("train") => Some(Split::Train),
            name if name.contains("val") => Some(Split::Val),
            _ => None,
        }
    }

    /// By the nearest directory that is called so: `ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG`.
    pub(super) fn of_directory(path: &str) -> Option<Split> {
        let directories = path.rsplit('/').skip(1);
        directories.into_iter().find_map(|directory| match directory {
            "train" => Some(Split::Train),
            "val" | "validation" => Some(Split::Val),
            _ => None,
        })
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Val => "val",
        })
    }
}

impl FromStr for Split {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Split, DatasetError> {
        match name {
            "train" => Ok(Split::Train),
            "val" => Ok(Split::Val),
            _ => Err(DatasetError::Config(format!("dataset.split {name:?} is not one of train, val"))),
        }
    }
}

/// Keeps the files of the split that is `wanted`.
///
/// # Errors
/// [`DatasetError::Config`] when there are none, or when there are several splits and none is chosen.
pub(super) fn keep(
    files: &mut Vec<Source>,
    wanted: Option<Split>,
    url: &str,
    split_of: fn(&str) -> Option<Split>,
) -> Result<(), DatasetError> {
    let found: BTreeSet<Split> = files.iter().filter_map(|file| split_of(&file.path)).collect();
    match wanted {
        None if found.len() > 1 => Err(DatasetError::Config(format!(
            "{url} holds training and validation images: set dataset.split to train or val"
        ))),
        None => Ok(()),
        Some(split) if found.contains(&split) => {
            files.retain(|file| split_of(&file.path) == Some(split));
            Ok(())
        }
        Some(split) => Err(DatasetError::Config(format!(
            "dataset.split = \"{split}\", but nothing below {url} is called {split}: leave the key out, or give the \
             directory above"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(paths: &[&str], wanted: Option<Split>, split_of: fn(&str) -> Option<Split>) -> Result<Vec<String>, String> {
        let source = |path: &&str| Source { path: path.to_string(), size: 1, etag: None };
        let mut files = paths.iter().map(source).collect();
        keep(&mut files, wanted, "d", split_of).map_err(|error| error.to_string())?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn directories_and_archives_are_chosen() {
        let tree = &["CLS-LOC/train/n01440764/a.JPEG", "CLS-LOC/val/b.JPEG", "CLS-LOC/test/c.JPEG"];
        assert_eq!(kept(tree, Some(Split::Train), Split::of_directory), Ok(vec![tree[0].to_owned()]));
        assert_eq!(kept(tree, Some(Split::Val), Split::of_directory), Ok(vec![tree[1].to_owned()]));
        assert!(kept(tree, None, Split::of_directory).unwrap_err().contains("set dataset.split"));
        // `val` is no directory here, but an image's name.
        assert_eq!(kept(&["x/val"], None, Split::of_directory), Ok(vec!["x/val".to_owned()]));
        let error = kept(&["n01440764/a.JPEG"], Some(Split::Val), Split::of_directory).unwrap_err();
        assert!(error.contains("nothing below d is called val"), "{error}");
        let archives = &["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_img_test.tar"];
        assert_eq!(kept(archives, Some(Split::Val), Split::of_file), Ok(vec![archives[1].to_owned()]));
        assert_eq!(kept(&archives[1..2], None, Split::of_file), Ok(vec![archives[1].to_owned()]));
    }
}
