//! Windows of one width that slide over a longer side: where they begin, and which places each is for.
//!
//! Grids larger than a chain was trained for are drawn in windows, and pictures too large for the memory decoded in tiles.

use std::ops::Range;

/// Where windows of `width` begin that together cover a side of `length`: as few as are nowhere more than `step` apart, evenly
/// spread. One where the side is no longer than a window.
pub(crate) fn spread(length: u32, width: u32, step: u32) -> Vec<u32> {
    let last = u64::from(length.saturating_sub(width));
    let moves = last.div_ceil(u64::from(step.max(1)));
    (0..=moves).map(|number| (number * last / moves.max(1)) as u32).collect()
}

/// The places of a side of `length` that each of the windows at `starts` is for: those that are nearest to its middle, so that they
/// have as much as there is before and behind them. Together they are all places, each once.
///
/// Windows one apart are taming-transformers' scheme (its notebook `taming-transformers.ipynb`): a window of 16 tokens around each
/// token, whose place in it is 8; nearer to the borders the window stops, and the place moves.
pub(crate) fn shares(starts: &[u32], length: u32, width: u32) -> Vec<Range<u32>> {
    let between = starts.windows(2).map(|pair| pair.iter().sum::<u32>().div_ceil(2).saturating_add(width / 2));
    let mut first = 0;
    between.chain([length]).map(|end| std::mem::replace(&mut first, end)..end).collect()
}

/// Where windows of `width` begin that start from one in the middle, behind `before` places, and move by half their width: first
/// towards the start, then towards the end, `after` places beyond that window.
pub(crate) fn outwards(before: u32, after: u32, width: u32) -> Vec<u32> {
    let step = (width / 2).max(1);
    let mut starts = vec![before];
    let mut at = before;
    while at > 0 {
        at = at.saturating_sub(step);
        starts.push(at);
    }
    at = before;
    let last = before.saturating_add(after);
    while at < last {
        at = at.saturating_add(step).min(last);
        starts.push(at);
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_few_and_evenly_spread() {
        assert_eq!(spread(16, 16, 8), [0]);
        assert_eq!(spread(9, 16, 8), [0]);
        assert_eq!(spread(48, 16, 8), [0, 8, 16, 24, 32]);
        assert_eq!(spread(40, 16, 10), [0, 8, 16, 24]);
        assert_eq!(spread(17, 16, 16), [0, 1]);
        assert_eq!(spread(u32::MAX, u32::MAX - 3, 0), [0, 1, 2, 3]);
        for (length, width, step) in [(37, 8, 3), (100, 16, 16), (50, 7, 4), (9, 8, 1)] {
            let starts = spread(length, width, step);
            assert!(starts.windows(2).all(|pair| (1..=step).contains(&(pair[1] - pair[0]))), "{starts:?}");
            assert_eq!((starts[0], starts.last()), (0, Some(&(length - width))));
        }
    }

    #[test]
    fn every_place_is_in_one_window_near_its_middle() {
        for (length, width, step) in [(37, 8, 3), (100, 16, 16), (50, 7, 4), (9, 8, 1), (8, 8, 4), (12, 1, 1)] {
            let starts = spread(length, width, step);
            let shares = shares(&starts, length, width);
            let places: Vec<u32> = shares.iter().cloned().flatten().collect();
            assert_eq!(places, (0..length).collect::<Vec<_>>());
            for (share, start) in shares.iter().zip(&starts) {
                assert!(share.start >= *start && share.end <= start + width, "{share:?} {start}");
                let least = (width - step) / 2;
                assert!(share.start == 0 || share.start >= start + least, "{share:?} {start}");
                assert!(share.end == length || share.end + least <= start + width, "{share:?} {start}");
            }
        }
    }

    /// As the notebook has it, for a window of 16: `local` is the token's place in its window.
    #[test]
    fn windows_one_apart_are_tamings() {
        for length in [17, 24, 40] {
            let starts = spread(length, 16, 1);
            for (share, start) in shares(&starts, length, 16).into_iter().zip(starts) {
                for at in share {
                    let local = match at {
                        0..=8 => at,
                        _ if length - at < 8 => 16 - (length - at),
                        _ => 8,
                    };
                    assert_eq!(start, at - local, "{at} of {length}");
                }
            }
        }
    }

    #[test]
    fn windows_go_outwards() {
        assert_eq!(outwards(0, 0, 16), [0]);
        assert_eq!(outwards(4, 0, 16), [4, 0]);
        assert_eq!(outwards(0, 20, 16), [0, 8, 16, 20]);
        assert_eq!(outwards(9, 3, 16), [9, 1, 0, 12]);
    }
}
