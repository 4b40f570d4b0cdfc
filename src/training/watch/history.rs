//! What a run has told so far, read back from its journal.

use super::events::{Picture, Records, Told};
use super::journal::segment_start;
use crate::training::{FolderError, RunFolder};
use std::collections::BTreeMap;

/// Names that are followed at most: a journal of ours has some dozens, and a damaged one must not fill the memory.
const MAX_NAMES: usize = 1024;

/// A series of values: steps in ascending order, not necessarily finite values.
pub type Series = Vec<(u64, f64)>;

/// Curves and pictures of a run. Of the pictures the first and the last of each name are kept, whatever the run's length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    pub series: BTreeMap<String, Series>,
    pub pictures: BTreeMap<String, Pictures>,
    /// What could not be read, a sentence each.
    pub problems: Vec<String>,
}

/// The pictures of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pictures {
    pub first: Picture,
    /// The first one again, where there is but one.
    pub last: Picture,
}

impl History {
    /// Reads the journal in `folder`, segment by segment. Of a broken segment it takes what comes before the break.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn read(folder: &RunFolder) -> Result<History, FolderError> {
        let mut history = History::default();
        for name in folder.names().await?.iter().filter(|name| segment_start(name).is_some()) {
            let Some(file) = folder.get(name).await? else { continue };
            for record in Records::of(file) {
                match record {
                    Ok(record) => record.told.into_iter().for_each(|told| history.add(record.step, told)),
                    Err(broken) => {
                        let problem = format!("{name} is broken: its last {} bytes cannot be read.", broken.left);
                        history.problems.push(problem);
                    }
                }
            }
        }
        Ok(history)
    }

    pub(super) fn add(&mut self, step: u64, told: Told) {
        match told {
            Told::Scalar(name, value) => {
                if self.series.len() < MAX_NAMES || self.series.contains_key(&name) {
                    self.series.entry(name).or_default().push((step, value));
                }
            }
            Told::Picture(name, picture) => {
                // A picture is a part of its segment: a copy lets go of the rest.
                let picture = Picture { file: picture.file.to_vec().into(), ..picture };
                if let Some(known) = self.pictures.get_mut(&name) {
                    known.last = picture;
                } else if self.pictures.len() < MAX_NAMES {
                    self.pictures.insert(name, Pictures { first: picture.clone(), last: picture });
                }
            }
        }
    }

    /// The series of this name; empty where there is none.
    pub fn series(&self, name: &str) -> &[(u64, f64)] {
        self.series.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last step that anything was told of.
    pub fn last_step(&self) -> Option<u64> {
        self.series.values().filter_map(|series| series.last()).map(|(step, _)| *step).max()
    }

    /// The smallest value of a series, with its step: the first where there are several.
    pub fn smallest(&self, name: &str) -> Option<(u64, f64)> {
        let finite = self.series(name).iter().copied().filter(|(_, value)| value.is_finite());
        finite.min_by(|(_, a), (_, b)| a.total_cmp(b))
    }
}
