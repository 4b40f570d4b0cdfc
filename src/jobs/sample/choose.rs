//! Of each row's candidates the best are kept.

use super::scorer::Scorer;
use crate::config::ChooseSection;
use crate::jobs::developer::Drawn;
use crate::reject::Reject;
use std::cmp::Ordering;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// A place among the images that are drawn of one row, of which some are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// From 0.
    pub index: u64,
    /// Candidates of the row.
    pub of: u64,
    /// How many of them may be kept.
    pub keep: u64,
}

/// How many images are drawn of a row, and how many of them kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// `choose.draw`, where it is given.
    pub draw: Option<u64>,
    /// `choose.rate`, where it is given.
    pub rate: Option<f64>,
}

impl Share {
    /// The share of `[choose]`.
    pub fn new(section: &ChooseSection) -> Share {
        Share { draw: section.draw.map(u64::from), rate: section.rate }
    }

    /// Images that are drawn of a row that wants `count`.
    pub fn draws(&self, count: u64) -> u64 {
        self.draw.unwrap_or(count)
    }

    /// Images that may be kept of it.
    ///
    /// # Errors
    /// More than are drawn.
    pub fn keep(&self, count: u64) -> Result<u64, String> {
        let draws = self.draws(count);
        match self.rate {
            // Exact for as many candidates as there can be.
            Some(rate) => Ok(((draws as f64 * rate).ceil() as u64).clamp(1, draws.max(1))),
            None if count > draws => Err(format!("count {count} is more than choose.draw = {draws}")),
            None => Ok(count),
        }
    }
}

/// What a run chooses by.
pub struct Choice {
    pub scorer: Scorer,
    pub threshold: Option<f32>,
    /// Whether images that are not accepted stay in the table.
    pub keeps_rejected: bool,
    /// Images that were dropped.
    pub dropped: Arc<AtomicU64>,
}

impl Choice {
    /// As `section` says, by `scorer`; what is dropped is counted in `dropped`.
    pub fn new(scorer: Scorer, section: &ChooseSection, dropped: &Arc<AtomicU64>) -> Choice {
        let keeps_rejected = section.rejected == "keep";
        Choice { scorer, threshold: section.threshold, keeps_rejected, dropped: dropped.clone() }
    }
}

/// Ranks candidates as they come, row by row. Of a row it holds the best so far, and all where none is dropped.
pub struct Chooser {
    threshold: Option<f32>,
    keeps_rejected: bool,
    dropped: Arc<AtomicU64>,
    /// The candidates of the row at hand, in their order.
    held: Mutex<Vec<Drawn>>,
}

impl Chooser {
    pub fn new(choice: &Choice) -> Chooser {
        Chooser {
            threshold: choice.threshold,
            keeps_rejected: choice.keeps_rejected,
            dropped: choice.dropped.clone(),
            held: Mutex::default(),
        }
    }

    /// Takes the next image in order, and gives those of its row once they are all there.
    pub fn take(&self, drawn: Drawn) -> Vec<Result<Drawn, Reject>> {
        let Some(candidate) = drawn.candidate else { return vec![Ok(drawn)] };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.push(drawn);
        if !self.keeps_rejected && held.len() as u64 > candidate.keep {
            let worst = (0..held.len()).max_by(|&a, &b| better(&held[a], &held[b]).then(a.cmp(&b)));
            worst.map(|worst| held.remove(worst));
            self.dropped.fetch_add(1, Relaxed);
        }
        if candidate.index + 1 < candidate.of {
            return Vec::new();
        }
        let row = self.ranked(std::mem::take(&mut held), candidate.keep);
        row.into_iter().map(Ok).collect()
    }

    /// The candidates of a row with their ranks.
    fn ranked(&self, mut row: Vec<Drawn>, keep: u64) -> Vec<Drawn> {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| better(&row[a], &row[b]));
        for (rank, place) in (0..).zip(order) {
            let drawn = &mut row[place];
            let score = drawn.score.unwrap_or(f32::NAN);
            let enough = self.threshold.is_none_or(|threshold| score >= threshold);
            drawn.rank = Some(rank);
            drawn.accepted = u64::from(rank) < keep && enough && !score.is_nan();
        }
        if !self.keeps_rejected {
            let before = row.len();
            row.retain(|drawn| drawn.accepted);
            self.dropped.fetch_add((before - row.len()) as u64, Relaxed);
        }
        row
    }
}

/// The better one first; of equal ones the earlier, by a stable sort. What has no score comes last.
fn better(a: &Drawn, b: &Drawn) -> Ordering {
    let score = |drawn: &Drawn| drawn.score.filter(|score| !score.is_nan());
    match (score(a), score(b)) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::Rgb;

    fn drawn(index: u64, of: u64, keep: u64, score: f32) -> Drawn {
        Drawn {
            number: index,
            key: index.to_string(),
            seed: 0,
            settings: Arc::default(),
            unit: String::new(),
            prompt: None,
            label: None,
            parent: None,
            tokens: Vec::new(),
            image: Rgb { width: 0, height: 0, pixels: Vec::new() },
            score: Some(score),
            rank: None,
            accepted: true,
            candidate: Some(Candidate { index, of, keep }),
        }
    }

    /// Index, rank and acceptance of what comes out, and how many are dropped.
    fn chosen(scores: &[f32], keep: u64, threshold: Option<f32>, keeps: bool) -> (Vec<(u64, u32, bool)>, u64) {
        let dropped = Arc::new(AtomicU64::new(0));
        let choice = Choice { scorer: Scorer::Likelihood, threshold, keeps_rejected: keeps, dropped };
        let chooser = Chooser::new(&choice);
        let mut out = Vec::new();
        for (index, &score) in (0..).zip(scores) {
            let rows = chooser.take(drawn(index, scores.len() as u64, keep, score));
            assert!(rows.is_empty() || index + 1 == scores.len() as u64);
            out.extend(
                rows.into_iter().filter_map(Result::ok).map(|row| (row.number, row.rank.unwrap(), row.accepted)),
            );
        }
        (out, choice.dropped.load(Relaxed))
    }

    #[test]
    fn the_best_are_kept_in_their_order() {
        let scores = [0.5, 2.0, f32::NAN, 1.0, 2.0];
        assert_eq!(chosen(&scores, 1, None, false), (vec![(1, 0, true)], 4));
        assert_eq!(chosen(&scores, 3, None, false), (vec![(1, 0, true), (3, 2, true), (4, 1, true)], 2));
        let all = vec![(0, 3, false), (1, 0, true), (2, 4, false), (3, 2, false), (4, 1, true)];
        assert_eq!(chosen(&scores, 2, None, true), (all, 0));
        // Nothing without a score is accepted, however many may be.
        assert_eq!(chosen(&scores, 5, None, false).0.len(), 4);
    }

    #[test]
    fn a_threshold_counts_besides() {
        assert_eq!(chosen(&[0.5, 2.0, 1.0], 2, Some(1.5), false), (vec![(1, 0, true)], 2));
        assert_eq!(chosen(&[0.5, 2.0, 1.0], 2, Some(9.0), false), (Vec::new(), 3));
        assert_eq!(chosen(&[0.5, 2.0], 2, Some(0.5), true), (vec![(0, 1, true), (1, 0, true)], 0));
    }

    #[test]
    fn shares_of_a_row() {
        let share = |draw, rate| Share { draw, rate };
        assert_eq!((share(None, None).draws(3), share(None, None).keep(3)), (3, Ok(3)));
        assert_eq!((share(Some(8), None).draws(2), share(Some(8), None).keep(2)), (8, Ok(2)));
        assert!(share(Some(8), None).keep(9).unwrap_err().contains("choose.draw = 8"));
        assert_eq!(share(Some(20), Some(0.05)).keep(1), Ok(1));
        assert_eq!(share(None, Some(0.5)).keep(5), Ok(3));
        assert_eq!(share(Some(3), Some(0.01)).keep(1), Ok(1));
    }
}
