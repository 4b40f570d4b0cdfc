//! `imagebart demo-data`: the shapes as a data set to train on, in three splits.

use super::scenes::Scene;
use super::split::Split;
use super::words::Caption;
use super::{DemoError, shards};
use crate::jobs::JobError;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// What tells how a folder of shards was drawn.
const RECORD: &str = "shapes.json";
/// Raised whenever the same seed would draw other pictures.
const VERSION: u32 = 1;

/// What is drawn, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataOptions {
    /// The folder; `training/`, `validation/` and `test/` are made in it.
    pub out: PathBuf,
    pub seed: u64,
    /// Pictures of each of [`Split::ALL`].
    pub pictures: [u64; 3],
    pub per_shard: u64,
    /// Captions that `test-captions.txt` lists.
    pub captions: u64,
}

/// What a folder holds; as `shapes.json` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    seed: u64,
    pictures: [u64; 3],
    per_shard: u64,
    captions: u64,
}

/// What was drawn. Displays as lines for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSummary {
    pub out: PathBuf,
    pub pictures: [u64; 3],
    /// Shards that were drawn now, and those that were there.
    pub drawn: u64,
    pub kept: u64,
}

impl fmt::Display for DataSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (split, pictures) in Split::ALL.iter().zip(self.pictures) {
            writeln!(f, "{:<10} {pictures} pictures  {}", split.name(), self.out.join(split.name()).display())?;
        }
        write!(f, "{} shards drawn, {} were there", self.drawn, self.kept)
    }
}

impl DataOptions {
    /// What would be drawn, for `--dry-run`.
    pub fn describe(&self) -> String {
        let Self { out, pictures: [training, validation, test], per_shard, .. } = self;
        format!(
            "draw {training} pictures to train on, {validation} to validate and {test} to test, {per_shard} to a shard, to {}",
            out.display()
        )
    }
}

/// Draws what is not there yet. Shards that are there stay as they are.
///
/// # Errors
/// A folder that holds something else, or pictures of other settings; what the disk refuses.
pub fn draw(options: &DataOptions, cancel: &CancellationToken) -> Result<DataSummary, JobError> {
    let DataOptions { out, seed, pictures, per_shard, captions } = options;
    claim(options)?;
    let mut summary = DataSummary { out: out.clone(), pictures: *pictures, drawn: 0, kept: 0 };
    for (split, count) in Split::ALL.into_iter().zip(*pictures) {
        let dir = out.join(split.name());
        fs::create_dir_all(&dir).map_err(|source| refused(&dir, source))?;
        for (path, range) in shards::plan(&dir, count, *per_shard) {
            if cancel.is_cancelled() {
                return Err(JobError::Interrupted);
            }
            if path.exists() {
                summary.kept += 1;
                continue;
            }
            shards::write_one(&path, split, *seed, range).map_err(JobError::failed)?;
            summary.drawn += 1;
        }
    }
    let list: String = test_captions(*seed, *captions).iter().map(|caption| format!("{caption}\n")).collect();
    let path = out.join("test-captions.txt");
    fs::write(&path, list).map_err(|source| refused(&path, source))?;
    Ok(summary)
}

/// The first `count` captions of the test split, each once; all there are where these are fewer.
pub fn test_captions(seed: u64, count: u64) -> Vec<Caption> {
    // Two orders to tell an arrangement in, and four pairs of sizes.
    let all = Split::Test.arrangements().len() as u64 * 8;
    let mut known = HashSet::new();
    let mut captions = Vec::new();
    for index in 0.. {
        if captions.len() as u64 >= count.min(all) {
            break;
        }
        let caption = Scene::new(Split::Test, seed, index).caption();
        if known.insert(caption) {
            captions.push(caption);
        }
    }
    captions
}

/// Makes sure that the folder is empty, or holds pictures drawn with these settings.
fn claim(options: &DataOptions) -> Result<(), JobError> {
    let DataOptions { out, seed, pictures, per_shard, captions } = options;
    let ours =
        Record { version: VERSION, seed: *seed, pictures: *pictures, per_shard: *per_shard, captions: *captions };
    let usage = |sentence: &str| Err(JobError::Usage(format!("--out {} {sentence}", out.display())));
    if *per_shard == 0 {
        return Err(JobError::Usage("--per-shard must be 1 or more".to_owned()));
    }
    let path = out.join(RECORD);
    match fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice::<Record>(&bytes) {
            Ok(there) if there == ours => Ok(()),
            _ => usage("holds pictures of another seed or other numbers: choose another folder, or delete it"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(out).map_err(|source| refused(out, source))?;
            if fs::read_dir(out).map_err(|source| refused(out, source))?.next().is_some() {
                return usage("is not empty and holds no pictures of the demo: choose another folder");
            }
            let text = serde_json::to_vec_pretty(&ours).map_err(JobError::failed)?;
            fs::write(&path, text).map_err(|source| refused(&path, source))
        }
        Err(source) => Err(refused(&path, source)),
    }
}

fn refused(path: &Path, source: io::Error) -> JobError {
    JobError::failed(DemoError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(out: &Path) -> DataOptions {
        DataOptions { out: out.join("data"), seed: 1, pictures: [10, 4, 3], per_shard: 4, captions: 5 }
    }

    #[test]
    fn what_is_there_is_kept_and_what_is_missing_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        let draw = |options: &DataOptions| super::draw(options, &CancellationToken::new());
        let first = draw(&options).unwrap();
        assert_eq!((first.drawn, first.kept), (5, 0));
        let shard = options.out.join("training/shapes-0001.tar");
        let before = fs::read(&shard).unwrap();
        fs::remove_file(&shard).unwrap();
        let second = draw(&options).unwrap();
        assert_eq!((second.drawn, second.kept), (1, 4));
        assert!(fs::read(&shard).unwrap() == before);
        let captions = fs::read_to_string(options.out.join("test-captions.txt")).unwrap();
        assert_eq!(captions.lines().filter_map(Caption::parse).count(), 5);

        let error = draw(&DataOptions { seed: 2, ..options.clone() }).unwrap_err();
        assert!(matches!(&error, JobError::Usage(text) if text.contains("another seed")), "{error}");
        let error = draw(&DataOptions { out: dir.path().to_owned(), ..options }).unwrap_err();
        assert!(matches!(&error, JobError::Usage(text) if text.contains("not empty")), "{error}");
    }

    #[test]
    fn test_captions_are_of_the_test_and_each_once() {
        let captions = test_captions(0, 200);
        assert_eq!(captions.iter().collect::<HashSet<_>>().len(), 200);
        assert_eq!(captions, test_captions(0, 300)[..200]);
        let all = test_captions(3, u64::MAX);
        assert_eq!(all.len(), Split::Test.arrangements().len() * 8);
    }
}
