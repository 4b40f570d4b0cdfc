//! Curves of any length as lines of some hundred points: what a plot of so many pixels can show.

/// Points that are joined by a line, in order.
pub(super) type Run = Vec<(f64, f64)>;

/// Thins a curve to the columns of a plot that spans `left..=right`: of each column the first, lowest, highest and last point,
/// so that no peak is lost and no line goes where the curve does not.
///
/// - `points`: x ascending. A y that is not finite is a gap: the points on its two sides are not joined. Where it shares its
///   column with finite ones, the gap is moved to the column's edge.
/// - The answer has four points a column at most, each one of `points`.
pub(super) fn thin(
    points: impl IntoIterator<Item = (f64, f64)>,
    (left, right): (f64, f64),
    columns: usize,
) -> Vec<Run> {
    let width = (right - left).max(f64::MIN_POSITIVE);
    let column_of = |x: f64| (((x - left) * columns as f64 / width) as usize).min(columns.saturating_sub(1));
    let (mut runs, mut run) = (Vec::new(), Run::new());
    let mut column = Column::default();
    let mut at = 0;
    for (x, y) in points {
        if column_of(x) != at {
            std::mem::take(&mut column).end(&mut run, &mut runs);
            at = column_of(x);
        }
        column.add((x, y));
    }
    column.end(&mut run, &mut runs);
    runs.extend(Some(run).filter(|run| !run.is_empty()));
    runs
}

/// What is known of a column of pixels.
#[derive(Default)]
struct Column {
    marks: Option<Marks>,
    /// Whether there is a gap before its first finite point, and after it.
    gap_before: bool,
    gap_after: bool,
}

/// The points to keep, each with its number in the column.
struct Marks {
    count: usize,
    first: (usize, (f64, f64)),
    lowest: (usize, (f64, f64)),
    highest: (usize, (f64, f64)),
    last: (usize, (f64, f64)),
}

impl Column {
    fn add(&mut self, point: (f64, f64)) {
        match &mut self.marks {
            None if !point.1.is_finite() => self.gap_before = true,
            Some(_) if !point.1.is_finite() => self.gap_after = true,
            Some(marks) => marks.add(point),
            none => {
                let only = (0, point);
                *none = Some(Marks { count: 1, first: only, lowest: only, highest: only, last: only });
            }
        }
    }

    /// Appends what is kept of the column to the run, and breaks the run at its gaps.
    fn end(self, run: &mut Run, runs: &mut Vec<Run>) {
        let mut part = |run: &mut Run| runs.extend(Some(std::mem::take(run)).filter(|run| !run.is_empty()));
        if self.gap_before {
            part(run);
        }
        if let Some(Marks { first, lowest, highest, last, .. }) = self.marks {
            let mut kept = [first, lowest, highest, last];
            kept.sort_unstable_by_key(|(number, _)| *number);
            let mut before = None;
            for (number, point) in kept {
                if before.replace(number) != Some(number) {
                    run.push(point);
                }
            }
        }
        if self.gap_after {
            part(run);
        }
    }
}

impl Marks {
    fn add(&mut self, point: (f64, f64)) {
        let numbered = (self.count, point);
        self.count += 1;
        self.last = numbered;
        if point.1 < self.lowest.1.1 {
            self.lowest = numbered;
        }
        if point.1 > self.highest.1.1 {
            self.highest = numbered;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curve() -> impl Strategy<Value = Vec<f64>> {
        let y = prop_oneof![8 => -1e3..1e3f64, 1 => Just(f64::NAN), 1 => Just(f64::INFINITY)];
        prop::collection::vec(y, 0..400)
    }

    proptest! {
        #[test]
        fn nothing_is_invented_and_no_peak_is_lost(ys in curve(), columns in 1usize..60) {
            let points: Vec<(f64, f64)> = ys.iter().enumerate().map(|(x, y)| (x as f64, *y)).collect();
            let right = points.len() as f64;
            let runs = thin(points.clone(), (0.0, right), columns);
            let kept: Vec<(f64, f64)> = runs.concat();
            prop_assert!(runs.iter().all(|run| !run.is_empty()));
            prop_assert!(kept.len() <= 4 * columns);
            prop_assert!(kept.is_sorted_by(|a, b| a.0 < b.0), "in order, none twice");
            prop_assert!(kept.iter().all(|point| points.contains(point)));
            let column = |x: f64| ((x * columns as f64 / right) as usize).min(columns - 1);
            for at in 0..columns {
                let of = |points: &[(f64, f64)]| {
                    let ys = points.iter().filter(|(x, y)| column(*x) == at && y.is_finite()).map(|(_, y)| *y);
                    ys.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)))
                };
                prop_assert_eq!(of(&kept), of(&points), "column {}", at);
            }
        }

        #[test]
        fn with_room_for_every_point_gaps_are_where_they_were(ys in curve()) {
            let points: Vec<(f64, f64)> = ys.iter().enumerate().map(|(x, y)| (x as f64, *y)).collect();
            let expected: Vec<Run> = points
                .split(|(_, y)| !y.is_finite())
                .filter(|run| !run.is_empty())
                .map(<[(f64, f64)]>::to_vec)
                .collect();
            prop_assert_eq!(thin(points, (0.0, ys.len() as f64), ys.len().max(1)), expected);
        }
    }

    #[test]
    fn gaps_within_a_column_do_not_vanish() {
        let nan = f64::NAN;
        let of = |ys: &[f64]| thin(ys.iter().enumerate().map(|(x, y)| (x as f64, *y)), (0.0, 8.0), 4).len();
        assert_eq!(of(&[1.0; 8]), 1);
        assert_eq!(of(&[1.0, 1.0, 1.0, nan, 1.0, 1.0, 1.0, 1.0]), 2);
        assert_eq!(of(&[1.0, 1.0, nan, 1.0, 1.0, 1.0, 1.0, 1.0]), 2);
        assert_eq!(of(&[1.0, 1.0, nan, nan, 1.0, 1.0, 1.0, 1.0]), 2);
        assert_eq!(of(&[nan; 8]), 0);
        assert_eq!(thin([(3.0, 1.0)], (3.0, 3.0), 4), [[(3.0, 1.0)]], "a plot of no width");
    }
}
