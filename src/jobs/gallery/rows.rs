//! Which rows of an output directory a gallery shows.

use crate::tables::{Run, TableError, TableReader, UnitFile};
use futures::TryStreamExt;
use std::collections::BTreeSet;

/// Files a gallery looks into: their originals are read from the start of each, so more of them would cost more than a look.
const MAX_FILES: usize = 16;

/// A row to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen<R> {
    /// The unit whose file it is in.
    pub unit: String,
    pub row: R,
}

/// The rows chosen, and how many there were to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<R> {
    pub rows: Vec<Chosen<R>>,
    /// Rows of the files that were looked into.
    pub rows_seen: u64,
    /// How many files that were.
    pub files_seen: usize,
}

/// Chooses `count` rows spread evenly over at most 16 files, themselves spread evenly over the directory; all rows when there
/// are no more. The same directory gives the same rows.
pub async fn choose<I: Run>(table: &TableReader<I>, count: usize) -> Result<Choice<I::Row>, TableError> {
    let all = table.files();
    let files: Vec<&UnitFile> = spread(all.len() as u64, MAX_FILES).filter_map(|i| all.get(i as usize)).collect();
    let mut sizes = Vec::with_capacity(files.len());
    for file in &files {
        sizes.push(table.file(file).await?.info().rows);
    }
    let total: u64 = sizes.iter().sum();
    let wanted: BTreeSet<u64> = spread(total, count).collect();
    let mut choice = Choice { rows: Vec::with_capacity(wanted.len()), rows_seen: total, files_seen: files.len() };
    let mut first = 0;
    for (file, size) in files.into_iter().zip(sizes) {
        let own: BTreeSet<u64> = wanted.range(first..first + size).map(|row| row - first).collect();
        pick(table, file, &own, &mut choice.rows).await?;
        first += size;
    }
    Ok(choice)
}

/// Adds the rows of a unit that stand at `places`.
async fn pick<I: Run>(
    table: &TableReader<I>,
    file: &UnitFile,
    places: &BTreeSet<u64>,
    chosen: &mut Vec<Chosen<I::Row>>,
) -> Result<(), TableError> {
    let Some(&last) = places.last() else { return Ok(()) };
    let mut rows = table.file(file).await?.rows()?;
    for place in 0..=last {
        let Some(row) = rows.try_next().await? else { return Ok(()) };
        if places.contains(&place) {
            chosen.push(Chosen { unit: file.unit.clone(), row });
        }
    }
    Ok(())
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
