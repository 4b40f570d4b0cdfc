//! Which pictures are for training, for validation and for testing: by what they show, so that nothing tested was ever seen.
//!
//! An *arrangement* is colour and kind of two shapes and how they lie; sizes, places and which of the two the caption names
//! first do not count. "a small red circle above a large blue square" and "a small blue square below a small red circle" are
//! one arrangement. There are 960, each in one split for good: of every ten about eight are trained on, one validates, one tests.
//! So a caption of the test, told either way round and in whatever sizes, never occurs in training; each of its shapes does.

use super::words::{Colour, Kind, Relation};
use crate::random::{Purpose, RowKey};
use std::sync::LazyLock;

/// A part of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    Training,
    Validation,
    Test,
}

impl Split {
    pub const ALL: [Split; 3] = [Split::Training, Split::Validation, Split::Test];

    /// Its name, which is that of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Split::Training => "training",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }

    /// What the pictures of this split show.
    pub fn arrangements(self) -> &'static [Arrangement] {
        static SPLITS: LazyLock<[Vec<Arrangement>; 3]> = LazyLock::new(|| {
            let of = |split: Split| Arrangement::all().filter(|arrangement| arrangement.split() == split).collect();
            Split::ALL.map(of)
        });
        let [training, validation, test] = &*SPLITS;
        match self {
            Split::Training => training,
            Split::Validation => validation,
            Split::Test => test,
        }
    }
}

/// Two shapes of different colours, one above or to the left of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arrangement {
    /// Colour and kind of the upper or left shape.
    pub near: (Colour, Kind),
    /// [`Relation::Above`] or [`Relation::LeftOf`].
    pub relation: Relation,
    pub far: (Colour, Kind),
}

impl Arrangement {
    /// All of them, in an order that stays.
    pub fn all() -> impl Iterator<Item = Arrangement> {
        let looks = || Colour::ALL.into_iter().flat_map(|colour| Kind::ALL.map(|kind| (colour, kind)));
        [Relation::Above, Relation::LeftOf].into_iter().flat_map(move |relation| {
            looks().flat_map(move |near| {
                let others = looks().filter(move |far| far.0 != near.0);
                others.map(move |far| Arrangement { near, relation, far })
            })
        })
    }

    /// Where it belongs, whatever the data set's seed.
    pub fn split(&self) -> Split {
        let (near, far) = (words(self.near), words(self.far));
        let name = match self.relation {
            Relation::Above | Relation::Below => format!("demo/split/{near} over {far}"),
            Relation::LeftOf | Relation::RightOf => format!("demo/split/{near} beside {far}"),
        };
        match RowKey::new(0, &name, 0, 0).below(Purpose::Init, 0, 10) {
            0 => Split::Test,
            1 => Split::Validation,
            _ => Split::Training,
        }
    }
}

fn words((colour, kind): (Colour, Kind)) -> String {
    format!("{} {}", colour.word(), kind.word())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::demo::scenes::Scene;
    use std::collections::HashSet;

    #[test]
    fn every_arrangement_is_in_one_split() {
        assert_eq!(Arrangement::all().collect::<HashSet<_>>().len(), 960);
        let sizes = Split::ALL.map(|split| split.arrangements().len());
        assert_eq!(sizes.iter().sum::<usize>(), 960);
        eprintln!("{sizes:?}");
        assert!(sizes[0] > 720 && sizes[1] > 60 && sizes[2] > 60, "{sizes:?}");
    }

    /// No caption of one split, nor what it says told from the other shape, is a caption of another one.
    #[test]
    fn captions_of_the_splits_are_disjoint() {
        let captions = |split: Split, count: u64| -> HashSet<String> {
            (0..count).map(|index| Scene::new(split, 0, index).caption().to_string()).collect()
        };
        let training = captions(Split::Training, 20_000);
        assert!(training.len() > 5000, "{} captions", training.len());
        for split in [Split::Validation, Split::Test] {
            for index in 0..1000 {
                let caption = Scene::new(split, 0, index).caption();
                assert!(!training.contains(&caption.to_string()), "{caption}");
                assert!(!training.contains(&caption.turned().to_string()), "{caption}");
            }
        }
        let test = captions(Split::Test, 1000);
        assert!(captions(Split::Validation, 1000).is_disjoint(&test));
    }

    /// What is tested is how known shapes are put together: each is seen in training in every place.
    #[test]
    fn every_shape_is_trained_on_in_every_place() {
        for relation in [Relation::Above, Relation::LeftOf] {
            for look in Colour::ALL.into_iter().flat_map(|colour| Kind::ALL.map(|kind| (colour, kind))) {
                let there = |found: fn(&Arrangement) -> (Colour, Kind)| {
                    let all = Split::Training.arrangements().iter();
                    all.filter(|arrangement| arrangement.relation == relation && found(arrangement) == look).count()
                };
                assert!(there(|arrangement| arrangement.near) >= 8, "{look:?}");
                assert!(there(|arrangement| arrangement.far) >= 8, "{look:?}");
            }
        }
    }
}
