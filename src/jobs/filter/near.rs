//! Rows that are nearly the same, found without comparing all with all.
//!
//! Two rows that differ in at most `most` of their places agree wholly in at least one of `most + 1` groups of places, so only
//! rows that agree in a group are compared: what is found is exactly what comparing all pairs would find. Places are dealt to
//! the groups in turn, as neighbouring tokens say much the same. A row costs two bytes a place and about twenty bytes a
//! group; how many are compared with it depends on how alike the rows are.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// No row.
const NONE: u32 = u32::MAX;

/// Rows of `width` symbols, searched for those within a distance.
#[derive(Debug)]
pub struct Near {
    width: usize,
    most: usize,
    rows: Vec<u16>,
    groups: Vec<Group>,
    hasher: RandomState,
}

/// The rows by what they hold in one group of places.
#[derive(Debug, Default)]
struct Group {
    /// The last row with these symbols, by their hash.
    last: HashMap<u64, u32>,
    /// Of each row, the one before it with the same.
    before: Vec<u32>,
}

/// A row that is near another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its number, in the order of insertion.
    pub row: u32,
    /// In how many places the two differ.
    pub distance: usize,
}

impl Near {
    /// For rows of `width` symbols; near are those that differ in at most `most` places.
    pub fn new(width: usize, most: usize) -> Near {
        let most = most.min(width);
        let groups = (0..=most).map(|_| Group::default()).collect();
        Near { width, most, rows: Vec::new(), groups, hasher: RandomState::new() }
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.groups.first().map_or(0, |group| group.before.len())
    }

    /// The nearest row so far, the first of several; none where all differ in more places. A row of another width has none.
    pub fn nearest(&self, row: &[u16]) -> Option<Neighbour> {
        if row.len() != self.width {
            return None;
        }
        let mut best: Option<Neighbour> = None;
        for (number, group) in self.groups.iter().enumerate() {
            let mut next = group.last.get(&self.hash(row, number)).copied().unwrap_or(NONE);
            while next != NONE {
                let limit = best.map_or(self.most, |best| best.distance);
                if let Some(distance) = self.distance(next, row, limit)
                    && best.is_none_or(|best| (distance, next) < (best.distance, best.row))
                {
                    best = Some(Neighbour { row: next, distance });
                }
                next = group.before.get(next as usize).copied().unwrap_or(NONE);
            }
        }
        best
    }

    /// Adds a row, which must have the width told. False where there are too many to number.
    pub fn insert(&mut self, row: &[u16]) -> bool {
        let number = u32::try_from(self.len()).unwrap_or(NONE);
        if row.len() != self.width || number == NONE {
            return false;
        }
        let hashes: Vec<u64> = (0..self.groups.len()).map(|group| self.hash(row, group)).collect();
        for (group, hash) in self.groups.iter_mut().zip(hashes) {
            let before = group.last.insert(hash, number).unwrap_or(NONE);
            group.before.push(before);
        }
        self.rows.extend_from_slice(row);
        true
    }

    fn hash(&self, row: &[u16], group: usize) -> u64 {
        let places: Vec<u16> = row.iter().skip(group).step_by(self.groups.len()).copied().collect();
        self.hasher.hash_one(places)
    }

    /// In how many places a row differs from those of `other`, if in at most `limit`.
    fn distance(&self, row: u32, other: &[u16], limit: usize) -> Option<usize> {
        let start = row as usize * self.width;
        let symbols = self.rows.get(start..start + self.width)?;
        let mut distance = 0;
        // In pieces: most rows are far apart, which their first places tell.
        for (a, b) in symbols.chunks(32).zip(other.chunks(32)) {
            distance += a.iter().zip(b).filter(|(a, b)| a != b).count();
            if distance > limit {
                return None;
            }
        }
        Some(distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(rows: &[Vec<u16>], row: &[u16], most: usize) -> Option<Neighbour> {
        let distance = |other: &Vec<u16>| other.iter().zip(row).filter(|(a, b)| a != b).count();
        let all = (0..).zip(rows).map(|(row, other)| Neighbour { row, distance: distance(other) });
        all.filter(|near| near.distance <= most).min_by_key(|near| (near.distance, near.row))
    }

    proptest! {
        /// Few symbols, so that many rows are near; in groups of all sizes.
        #[test]
        fn finds_what_comparing_all_finds(
            rows in prop::collection::vec(prop::collection::vec(0u16..3, 7), 1..60), most in 0usize..9,
        ) {
            let mut near = Near::new(7, most);
            for (number, row) in rows.iter().enumerate() {
                prop_assert_eq!(near.nearest(row), plain(&rows[..number], row, most));
                prop_assert!(near.insert(row));
            }
            prop_assert_eq!(near.len(), rows.len());
        }
    }

    #[test]
    fn rows_of_another_width_are_nowhere() {
        let mut near = Near::new(3, 1);
        assert!(near.insert(&[1, 2, 3]) && !near.insert(&[1, 2]));
        assert_eq!((near.nearest(&[1, 2]), near.len()), (None, 1));
        assert_eq!(near.nearest(&[1, 2, 4]), Some(Neighbour { row: 0, distance: 1 }));
        assert_eq!(near.nearest(&[0, 2, 4]), None);
    }
}
