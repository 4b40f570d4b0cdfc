//! Which rows of an output directory a gallery shows.

use crate::tables::{Run, TableError, TableReader, UnitFile};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeSet;

/// Files a gallery looks into, unless it takes more of them to fill it: originals are read from the start of each, so more of
/// them would cost more than a look.
const FILES: usize = 16;

/// A row to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen<R> {
    /// The unit whose file it is in.
    pub unit: String,
    pub row: R,
}

/// Which rows were chosen, and how many there were to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The files with rows to show, and where in each these stand.
    places: Vec<(UnitFile, BTreeSet<u64>)>,
    /// Rows of the files that were looked into.
    pub rows_seen: u64,
    /// How many files that were.
    pub files_seen: usize,
    /// Whether there are more files.
    pub more_files: bool,
}

/// Chooses `count` rows spread evenly over 16 files, more where these have fewer rows, themselves spread evenly over the
/// directory; all rows when there are no more. The same directory gives the same rows.
pub async fn choose<I: Run>(table: &TableReader<I>, count: usize) -> Result<Choice, TableError> {
    let all = table.files();
    let mut looked = FILES;
    let (files, sizes) = loop {
        let files: Vec<&UnitFile> = spread(all.len() as u64, looked).filter_map(|at| all.get(at as usize)).collect();
        let mut sizes = Vec::with_capacity(files.len());
        for file in &files {
            sizes.push(table.file(file).await?.info().rows);
        }
        if files.len() == all.len() || sizes.iter().sum::<u64>() >= count as u64 {
            break (files, sizes);
        }
        looked *= 2;
    };
    let total: u64 = sizes.iter().sum();
    let wanted: BTreeSet<u64> = spread(total, count).collect();
    let mut choice = Choice {
        places: Vec::with_capacity(files.len()),
        rows_seen: total,
        files_seen: files.len(),
        more_files: files.len() < all.len(),
    };
    let mut first = 0;
    for (file, size) in files.into_iter().zip(sizes) {
        let own: BTreeSet<u64> = wanted.range(first..first + size).map(|row| row - first).collect();
        if !own.is_empty() {
            choice.places.push((file.clone(), own));
        }
        first += size;
    }
    Ok(choice)
}

impl Choice {
    /// The rows themselves, one file open at a time.
    pub fn rows<'a, I: Run>(&'a self, table: &'a TableReader<I>) -> BoxStream<'a, Result<Chosen<I::Row>, TableError>> {
        let rows = move |(file, places): &'a (UnitFile, BTreeSet<u64>)| async move {
            let rows = table.file(file).await?.rows_at(places)?;
            Ok::<_, TableError>(rows.map_ok(|row| Chosen { unit: file.unit.clone(), row }))
        };
        futures::stream::iter(&self.places).then(rows).try_flatten().boxed()
    }
}

/// `count` of the numbers `0..total`, evenly spread, each in the middle of its share; all of them when there are no more.
fn spread(total: u64, count: usize) -> impl Iterator<Item = u64> {
    let count = total.min(count as u64);
    let place = move |i: u64| (u128::from(2 * i + 1) * u128::from(total) / u128::from(2 * count)) as u64;
    (0..count).map(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_evenly() {
        assert_eq!(spread(10, 5).collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
        assert_eq!(spread(3, 5).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(spread(7, 2).collect::<Vec<_>>(), [1, 5]);
        assert_eq!(spread(0, 5).count(), 0);
        assert_eq!(spread(5, 0).count(), 0);
        let many: Vec<u64> = spread(u64::MAX, 1000).collect();
        assert!(many.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
