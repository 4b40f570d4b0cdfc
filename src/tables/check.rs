//! Are a unit's rows what its file says they are?

use super::{FileInfo, LatentRow, RowChecksum};
use std::collections::{BTreeMap, BTreeSet};

/// Walks over the rows of one unit's latents in order, and keeps the first fault of each kind.
pub struct RowCheck<'a> {
    info: &'a FileInfo,
    /// Indexes of rejects, when they are known.
    rejected: Option<&'a BTreeSet<u64>>,
    checksum: RowChecksum,
    samples: u64,
    /// The sample at hand and how many rows it had so far.
    current: Option<(u64, u64)>,
    faults: BTreeMap<&'static str, String>,
}

impl<'a> RowCheck<'a> {
    /// A check of the file that says `info` of itself. `rejected`: the indexes of the unit's rejects, where they are known.
    pub fn new(info: &'a FileInfo, rejected: Option<&'a BTreeSet<u64>>) -> RowCheck<'a> {
        RowCheck {
            info,
            rejected,
            checksum: RowChecksum::default(),
            samples: 0,
            current: None,
            faults: BTreeMap::new(),
        }
    }

    /// The next row.
    pub fn row(&mut self, row: &LatentRow) {
        self.checksum.add(&row.key, row.index, &row.tokens);
        let codes = self.info.provenance.codebook_size;
        if let Some(token) = row.tokens.iter().find(|&&token| u32::from(token) >= codes) {
            let detail = || format!("sample {}: token {token} is not below the codebook size {codes}", row.index);
            self.faults.entry("token").or_insert_with(detail);
        }
        match self.current {
            Some((index, rows)) if index == row.index => self.current = Some((index, rows + 1)),
            before => {
                if let Some((last, _)) = before
                    && last > row.index
                {
                    let detail = || format!("sample {} comes after sample {last}", row.index);
                    self.faults.entry("order").or_insert_with(detail);
                }
                self.end_sample();
                self.samples += 1;
                self.current = Some((row.index, 1));
            }
        }
    }

    /// A sample has as many rows as crops times flips; fewer only where a reject tells of the rest.
    fn end_sample(&mut self) {
        let Some((index, rows)) = self.current else { return };
        let expected = u64::from(self.info.provenance.rows_per_image);
        let explained = self.rejected.is_none_or(|rejected| rejected.contains(&index));
        if rows > expected || (rows < expected && !explained) {
            let detail = || format!("sample {index} has {rows} rows, an image becomes {expected}");
            self.faults.entry("rows").or_insert_with(detail);
        }
    }

    /// After the last row: all that is wrong, one sentence each.
    pub fn finish(mut self) -> Vec<String> {
        self.end_sample();
        let mut faults: Vec<String> = self.faults.into_values().collect();
        if self.samples != self.info.samples {
            faults.push(format!("has {} samples, {} recorded", self.samples, self.info.samples));
        }
        if self.info.checksum.as_deref() != Some(self.checksum.finish().as_str()) {
            faults.push("the rows are not those that were written: their checksum differs".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::example;
    use super::super::{CropRect, Provenance};
    use super::*;

    fn row(index: u64, token: u16) -> LatentRow {
        LatentRow {
            key: index.to_string(),
            source: "a.tar".to_owned(),
            index,
            label: None,
            caption: None,
            width: 1,
            height: 1,
            crop: CropRect { x: 0, y: 0, size: 1 },
            flipped: false,
            tokens: vec![token],
        }
    }

    /// What the check says of `rows`, recorded as `samples` samples of which `rejected` has no or few rows.
    fn faults(rows: &[LatentRow], samples: u64, rejected: &[u64]) -> String {
        let mut checksum = RowChecksum::default();
        for row in rows {
            checksum.add(&row.key, row.index, &row.tokens);
        }
        let provenance = Provenance { identity: example(), grid: (1, 1), codebook_size: 10, rows_per_image: 2 };
        let info = FileInfo {
            provenance,
            unit: "a".to_owned(),
            rows: rows.len() as u64,
            samples,
            rejects: 0,
            checksum: Some(checksum.finish()),
        };
        let rejected = rejected.iter().copied().collect();
        let mut check = RowCheck::new(&info, Some(&rejected));
        for row in rows {
            check.row(row);
        }
        check.finish().join("; ")
    }

    #[test]
    fn faults_of_rows_are_named() {
        let good = [row(0, 1), row(0, 2), row(4, 9), row(4, 0)];
        assert_eq!(faults(&good, 2, &[]), "");
        assert_eq!(faults(&[], 0, &[]), "");
        assert_eq!(faults(&good, 3, &[]), "has 2 samples, 3 recorded");
        assert_eq!(faults(&good[..3], 2, &[]), "sample 4 has 1 rows, an image becomes 2");
        assert_eq!(faults(&good[..3], 2, &[4]), "");
        let three = [row(0, 1), row(0, 1), row(0, 1)];
        assert_eq!(faults(&three, 1, &[0]), "sample 0 has 3 rows, an image becomes 2");
        assert_eq!(faults(&[row(0, 10), row(0, 11)], 1, &[]), "sample 0: token 10 is not below the codebook size 10");
        let turned = [row(4, 9), row(4, 0), row(0, 1), row(0, 2)];
        assert_eq!(faults(&turned, 2, &[]), "sample 0 comes after sample 4");
    }

    #[test]
    fn other_rows_have_another_checksum() {
        let sum = |key: &str, index, tokens: &[u16]| {
            let mut checksum = RowChecksum::default();
            checksum.add(key, index, tokens);
            checksum.finish()
        };
        let sums = BTreeSet::from([
            sum("a", 0, &[1, 2]),
            sum("b", 0, &[1, 2]),
            sum("a", 1, &[1, 2]),
            sum("a", 0, &[2, 1]),
            sum("a", 0, &[1]),
            sum("", 0, &[1, 2]),
        ]);
        assert_eq!(sums.len(), 6);
    }
}
