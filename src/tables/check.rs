//! Are a unit's rows what its file says they are?

use super::run::{Run, TableRow};
use super::{FileInfo, Identity, RowChecksum};
use crate::imaging::{Limits, probe};
use std::collections::{BTreeMap, BTreeSet};

/// Walks over the rows of one unit's file in order, and keeps the first fault of each kind.
pub struct RowCheck<'a, I = Identity> {
    info: &'a FileInfo<I>,
    /// Indexes of rejects, when they are known.
    rejected: Option<&'a BTreeSet<u64>>,
    checksum: RowChecksum,
    rows: u64,
    samples: u64,
    /// The sample at hand and how many rows it had so far.
    current: Option<(u64, u64)>,
    /// Width and height of the first image.
    image: Option<(u32, u32)>,
    faults: BTreeMap<&'static str, String>,
}

impl<'a, I: Run> RowCheck<'a, I> {
    /// A check of the file that says `info` of itself. `rejected`: the indexes of the unit's rejects, where they are known.
    pub fn new(info: &'a FileInfo<I>, rejected: Option<&'a BTreeSet<u64>>) -> RowCheck<'a, I> {
        RowCheck {
            info,
            rejected,
            checksum: RowChecksum::default(),
            rows: 0,
            samples: 0,
            current: None,
            image: None,
            faults: BTreeMap::new(),
        }
    }

    /// The next row.
    pub fn row(&mut self, row: &I::Row) {
        let row_index = row.index(self.rows);
        self.rows += 1;
        self.checksum.add(row.key(), row_index, row.tokens());
        let codes = self.info.provenance.codebook_size;
        if let Some(token) = row.tokens().iter().find(|&&token| u32::from(token) >= codes) {
            let detail = || format!("sample {}: token {token} is not below the codebook size {codes}", row_index);
            self.faults.entry("token").or_insert_with(detail);
        }
        if let Some(image) = row.image() {
            self.image(row_index, image);
        }
        match self.current {
            Some((index, rows)) if index == row_index => self.current = Some((index, rows + 1)),
            before => {
                if let Some((last, _)) = before
                    && last > row_index
                {
                    let detail = || format!("sample {} comes after sample {last}", row_index);
                    self.faults.entry("order").or_insert_with(detail);
                }
                self.end_sample();
                self.samples += 1;
                self.current = Some((row_index, 1));
            }
        }
    }

    /// Images are all of one size, and a token stands for a square of it.
    fn image(&mut self, index: u64, bytes: &[u8]) {
        let limits = Limits { max_pixels: u64::MAX, max_bytes: u64::MAX, min_side: 1 };
        let (width, height) = match probe(bytes, &limits) {
            Ok(header) => (header.width, header.height),
            Err(error) => {
                self.faults.entry("image").or_insert_with(|| format!("sample {index}: its image: {error}"));
                return;
            }
        };
        let (first, (rows, columns)) = (*self.image.get_or_insert((width, height)), self.info.provenance.grid);
        let factor = width.checked_div(columns).unwrap_or(0);
        let fits = factor > 0 && (factor.checked_mul(columns), factor.checked_mul(rows)) == (Some(width), Some(height));
        if !fits {
            let detail =
                format!("sample {index}: an image of {width}x{height} pixels does not fit {rows} × {columns} tokens");
            self.faults.entry("grid").or_insert(detail);
        } else if first != (width, height) {
            let detail = format!("sample {index} has {width}x{height} pixels, the first image {}x{}", first.0, first.1);
            self.faults.entry("size").or_insert(detail);
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
    use super::super::{CropRect, LatentRow, Provenance};
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
            file: "a".into(),
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
    fn images_are_of_one_size_that_fits_the_grid() {
        use super::super::sampling::tests::example;
        use super::super::{ImageFile, RowSettings, SampleRow};
        use crate::imaging::{Rgb, encode_png};
        use bytes::Bytes;

        let provenance = Provenance { identity: example(), grid: (2, 4), codebook_size: 10, rows_per_image: 1 };
        let checksum = Some(String::new());
        let info = FileInfo { provenance, file: "rows@0-2".into(), rows: 2, samples: 2, rejects: 0, checksum };
        let png = |width: u32, height: u32| {
            Bytes::from(encode_png(&Rgb { width, height, pixels: vec![0; (width * height * 3) as usize] }).unwrap())
        };
        let faults = |images: [Bytes; 2]| {
            let mut check = RowCheck::new(&info, None);
            for bytes in images {
                check.row(&SampleRow {
                    key: String::new(),
                    prompt: None,
                    label: None,
                    seed: 0,
                    tokens: vec![0; 8],
                    image: ImageFile { bytes, path: String::new() },
                    score: None,
                    rank: None,
                    accepted: true,
                    parent: None,
                    settings: std::sync::Arc::new(RowSettings::default()),
                });
            }
            check.finish().join("; ")
        };
        let only = "the rows are not those that were written: their checksum differs";
        assert_eq!(faults([png(8, 4), png(8, 4)]), only);
        assert!(faults([png(8, 4), png(16, 8)]).contains("sample 1 has 16x8 pixels, the first image 8x4"));
        assert!(faults([png(8, 8), png(8, 8)]).contains("an image of 8x8 pixels does not fit 2 × 4 tokens"));
        assert!(faults([png(3, 1), png(3, 1)]).contains("does not fit"));
        assert!(faults([png(8, 4), Bytes::from_static(b"no image")]).contains("sample 1: its image: "));
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
