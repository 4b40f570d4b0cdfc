//! The order of rows: a function of seed, epoch and the sizes of the latents' row groups.

use crate::random::{Purpose, RowKey};

/// Rows that are in memory together and leave it in an order of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub epoch: u64,
    /// Its number in the epoch.
    pub number: u32,
    /// The parts it is made of, by their place in the list of all parts.
    pub parts: Vec<usize>,
    pub rows: u64,
    /// Rows of the epoch before it.
    pub first: u64,
}

/// The windows of an epoch over parts of these `sizes`: parts in random order (or in theirs, without a `seed`), as many in a
/// window as reach `window_rows` rows.
pub(super) fn windows(sizes: &[u64], seed: Option<u64>, epoch: u64, window_rows: u64) -> Vec<Window> {
    let order = match seed {
        Some(seed) => permutation(RowKey::new(seed, "order of parts", epoch, 0), Purpose::Shuffle, sizes.len()),
        None => (0..sizes.len()).collect(),
    };
    let mut windows: Vec<Window> = Vec::new();
    let mut first = 0;
    for part in order {
        let rows = sizes.get(part).copied().unwrap_or(0);
        match windows.last_mut().filter(|window| window.rows < window_rows) {
            Some(window) => {
                window.parts.push(part);
                window.rows += rows;
            }
            None => windows.push(Window { epoch, number: windows.len() as u32, parts: vec![part], rows, first }),
        }
        first += rows;
    }
    windows
}

/// The order in which a window's rows leave it.
pub(super) fn rows(window: &Window, seed: Option<u64>, count: usize) -> Vec<usize> {
    match seed {
        Some(seed) => {
            permutation(RowKey::new(seed, "order of rows", window.epoch, window.number), Purpose::Shuffle, count)
        }
        None => (0..count).collect(),
    }
}

/// A random permutation of `0..count` (Fisher and Yates), at most 2^32 of them.
pub fn permutation(key: RowKey, purpose: Purpose, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        let bound = u32::try_from(last + 1).unwrap_or(u32::MAX);
        order.swap(last, key.below(purpose, last as u32, bound) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn every_row_is_in_one_window(sizes in prop::collection::vec(0..50u64, 0..30), seed: Option<u64>, epoch in 0..4u64, least in 1..90u64) {
            let windows = windows(&sizes, seed, epoch, least);
            let parts: Vec<usize> = windows.iter().flat_map(|window| window.parts.clone()).collect();
            prop_assert_eq!(parts.len(), sizes.len());
            prop_assert_eq!(parts.iter().collect::<BTreeSet<_>>().len(), sizes.len());
            let mut first = 0;
            for (number, window) in windows.iter().enumerate() {
                prop_assert_eq!((window.number as usize, window.first, window.epoch), (number, first, epoch));
                prop_assert_eq!(window.rows, window.parts.iter().map(|part| sizes[*part]).sum::<u64>());
                prop_assert!(window.rows >= least || number + 1 == windows.len());
                let order = rows(window, seed, window.rows as usize);
                prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len() as u64, window.rows);
                first += window.rows;
            }
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let sizes = vec![10; 100];
        let order = |seed, epoch| windows(&sizes, seed, epoch, 100);
        assert_eq!(order(Some(1), 3), order(Some(1), 3));
        let parts = |seed, epoch| order(seed, epoch).into_iter().flat_map(|window| window.parts).collect::<Vec<_>>();
        let all = BTreeSet::from([parts(Some(1), 0), parts(Some(1), 1), parts(Some(2), 0), parts(None, 0)]);
        assert_eq!(all.len(), 4);
        assert_eq!(parts(None, 0), parts(None, 7));
        let window = &order(Some(1), 0)[2];
        let other = Window { number: 3, ..window.clone() };
        assert_ne!(rows(window, Some(1), 100), rows(&other, Some(1), 100));
    }

    /// Each of the 24 orders of four parts comes up as often as the others, within five standard deviations.
    #[test]
    fn permutations_are_uniform() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..24_000 {
            *counts.entry(permutation(RowKey::new(5, "x", epoch, 0), Purpose::Shuffle, 4)).or_insert(0i32) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|count| (count - 1000).abs() < 160), "{counts:?}");
    }
}
