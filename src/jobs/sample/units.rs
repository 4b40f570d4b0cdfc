//! Cuts the images of a run into work units.

use crate::datasets::Unit;
use crate::jobs::JobError;
use std::sync::Arc;

/// Most units of a run: their names stand in one manifest.
const MAX_UNITS: usize = 1_000_000;

/// Cuts images that follow one another into units.
#[derive(Clone, Debug)]
pub struct Cutter {
    /// Images of a unit.
    rows: u64,
    /// Whether what is added together stays together.
    whole: bool,
    /// The images that are in no unit yet.
    start: u64,
    end: u64,
    units: Vec<Arc<Unit>>,
}

impl Cutter {
    /// For units of `rows` images, the last one of what is left.
    pub fn new(rows: u64) -> Cutter {
        Cutter { rows: rows.max(1), whole: false, start: 0, end: 0, units: Vec::new() }
    }

    /// The same where images that are added together are in one unit, however many: units may then have fewer images or more.
    pub fn whole(self, whole: bool) -> Cutter {
        Cutter { whole, ..self }
    }

    /// Adds the next `count` images.
    ///
    /// # Errors
    /// Too many units.
    pub fn add(&mut self, count: u64) -> Result<(), JobError> {
        if self.whole && self.end > self.start && (self.end - self.start).saturating_add(count) > self.rows {
            self.cut(self.end)?;
        }
        self.end = self.end.checked_add(count).ok_or_else(|| self.too_many())?;
        while !self.whole && self.end - self.start >= self.rows {
            self.cut(self.start + self.rows)?;
        }
        Ok(())
    }

    /// All units.
    ///
    /// # Errors
    /// Too many units.
    pub fn finish(mut self) -> Result<Vec<Arc<Unit>>, JobError> {
        if self.end > self.start {
            self.cut(self.end)?;
        }
        Ok(self.units)
    }

    fn cut(&mut self, end: u64) -> Result<(), JobError> {
        if self.units.len() == MAX_UNITS {
            return Err(self.too_many());
        }
        let name = format!("rows@{:09}-{end:09}", self.start);
        self.units.push(Arc::new(Unit { name, sources: Vec::new(), range: Some(self.start..end) }));
        self.start = end;
        Ok(())
    }

    fn too_many(&self) -> JobError {
        JobError::Usage(format!(
            "the run has more than {MAX_UNITS} units of sample.unit_rows = {}, as many as are kept track of: make units \
             larger",
            self.rows
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rows: u64, counts: &[u64]) -> Vec<String> {
        let mut cutter = Cutter::new(rows);
        counts.iter().for_each(|&count| cutter.add(count).unwrap());
        cutter.finish().unwrap().iter().map(|unit| unit.name.clone()).collect()
    }

    #[test]
    fn what_belongs_together_stays_together() {
        let mut cutter = Cutter::new(10).whole(true);
        [4, 4, 4, 25, 1, 9, 1].iter().for_each(|&count| cutter.add(count).unwrap());
        let ranges: Vec<_> = cutter.finish().unwrap().iter().map(|unit| unit.range.clone().unwrap()).collect();
        assert_eq!(ranges, [0..8, 8..12, 12..37, 37..47, 47..48]);
    }

    #[test]
    fn images_are_cut_into_units() {
        let expected = ["rows@000000000-000001000", "rows@000001000-000002000", "rows@000002000-000002500"];
        assert_eq!(names(1000, &[2500]), expected);
        assert_eq!(names(1000, &[1, 999, 600, 900]), expected);
        assert_eq!(names(u64::MAX, &[u64::MAX]).len(), 1);
        let fault = |counts: &[u64]| {
            let mut cutter = Cutter::new(1);
            counts.iter().try_for_each(|&count| cutter.add(count)).unwrap_err().to_string()
        };
        assert!(fault(&[u64::MAX]).contains("make units larger"));
        assert!(fault(&[1, u64::MAX]).contains("make units larger"));
    }
}
