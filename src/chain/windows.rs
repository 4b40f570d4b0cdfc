//! Grids larger than the one a chain was trained for, drawn scale by scale through a window of the trained size.
//!
//! The scheme is that of taming-transformers (Esser, Rombach, Ommer, CVPR 2021, section 3.3 and its notebook
//! `taming-transformers.ipynb`): tokens are drawn in the raster order of the large grid, each under a window whose middle is as near
//! to it as the borders let it be, and the networks are told the positions in the window. x_t is cut by the same window, so that an
//! encoder sees what is around a token on all sides; of x_{t-1} the decoder sees all that the window has before the token in
//! raster order, which is drawn by then, whatever window it was drawn under.
//!
//! There a token has a window of its own. Here windows are up to `stride` tokens apart, and each draws the tokens nearest to its
//! middle: a block of about `stride` × `stride`. The blocks of some rows are a band. Their windows' decodings go down the band
//! together, row by row from left to right, so that the order stays the raster's; before a decoding draws its part of a row it passes
//! over what others have drawn since. So each window is encoded once, and reads each of its tokens once, at any stride.

use super::config::ChainConfig;
use super::error::SampleError;
use crate::windows::{shares, spread};
use std::ops::Range;
use tch::{TchError, Tensor};

/// Most tokens of a grid, as of a chain's own.
const MAX_TOKENS: u64 = 1 << 16;

/// A grid larger than the chain's, and how the window moves over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LargeGrid {
    /// Rows and columns: each at least as many as the chain's.
    pub grid: (u32, u32),
    /// The most tokens between two windows, downwards and to the right: 1 is taming's own scheme, more costs less. At most the
    /// shorter side of the chain's grid, where windows lie beside one another and see nothing of what is around them.
    pub stride: u32,
}

impl LargeGrid {
    /// A grid under windows half a window apart.
    pub fn new(grid: (u32, u32), trained: (u32, u32)) -> LargeGrid {
        LargeGrid { grid, stride: (trained.0.min(trained.1) / 2).max(1) }
    }

    /// Tokens of the grid.
    pub fn tokens(&self) -> usize {
        self.grid.0 as usize * self.grid.1 as usize
    }

    /// Checks it against the grid a chain was trained for.
    ///
    /// # Errors
    /// A side smaller than the chain's; too many tokens; a stride of none or of more than a window.
    pub fn check(&self, trained: (u32, u32)) -> Result<(), SampleError> {
        let ((rows, columns), most) = (self.grid, trained.0.min(trained.1));
        if rows < trained.0 || columns < trained.1 {
            return Err(SampleError::Smaller { grid: self.grid, trained });
        }
        if u64::from(rows) * u64::from(columns) > MAX_TOKENS {
            return Err(SampleError::TooLarge { grid: self.grid, most: MAX_TOKENS });
        }
        if !(1..=most).contains(&self.stride) {
            return Err(SampleError::Stride { stride: self.stride, most });
        }
        Ok(())
    }

    /// Windows of the size `trained` that it is drawn in: down and across. The decodings of those across are in memory together.
    pub fn windows(&self, trained: (u32, u32)) -> (usize, usize) {
        let count = |length, width| spread(length, width, self.stride).len();
        (count(self.grid.0, trained.0), count(self.grid.1, trained.1))
    }
}

/// Where all windows of a grid are.
#[derive(Debug)]
pub(super) struct Windows {
    /// Rows and columns of the grid and of a window.
    grid: (u32, u32),
    window: (u32, u32),
    /// Of each band its windows' first row, and the rows they draw.
    bands: Vec<(u32, Range<u32>)>,
    /// Of the windows of every band the first column, and the columns they draw.
    columns: Vec<(u32, Range<u32>)>,
}

/// A window, and what is drawn under it.
#[derive(Debug)]
pub(super) struct Window {
    /// Columns of the grid.
    width: u32,
    /// Rows and columns of the window.
    size: (u32, u32),
    /// Its first row and column.
    at: (u32, u32),
    /// The columns that are drawn under it.
    columns: Range<u32>,
}

impl Windows {
    /// The windows of `config`'s size over the grid that is drawn: `large`, or its own, which is one window.
    pub fn new(config: &ChainConfig, large: Option<LargeGrid>) -> Result<Windows, SampleError> {
        let window = config.grid;
        let LargeGrid { grid, stride } = large.unwrap_or(LargeGrid::new(window, window));
        LargeGrid { grid, stride }.check(window)?;
        let side = |length, width| {
            let starts = spread(length, width, stride);
            let shares = shares(&starts, length, width);
            starts.into_iter().zip(shares).collect()
        };
        Ok(Windows { grid, window, bands: side(grid.0, window.0), columns: side(grid.1, window.1) })
    }

    /// Tokens of the grid.
    pub fn tokens(&self) -> usize {
        self.grid.0 as usize * self.grid.1 as usize
    }

    /// Band by band, from the top: its windows from left to right, and the rows that are drawn under them.
    pub fn bands(&self) -> impl Iterator<Item = (Vec<Window>, Range<u32>)> {
        self.bands.iter().map(|(top, rows)| {
            let window = |(left, columns): &(u32, Range<u32>)| Window {
                width: self.grid.1,
                size: self.window,
                at: (*top, *left),
                columns: columns.clone(),
            };
            (self.columns.iter().map(window).collect(), rows.clone())
        })
    }
}

impl Window {
    /// The part of grids `[batch, tokens]` that is in the window, `[batch, tokens of a window]`.
    pub fn cut(&self, grids: &Tensor) -> Result<Tensor, TchError> {
        let (batch, tokens) = grids.size2()?;
        let ((rows, columns), (top, left)) = (self.size, self.at);
        if tokens == i64::from(rows) * i64::from(columns) {
            return Ok(grids.shallow_clone());
        }
        let lines = grids.f_view([batch, -1, i64::from(self.width)])?.f_narrow(1, top.into(), rows.into())?;
        lines.f_narrow(2, left.into(), columns.into())?.f_reshape([batch, -1])
    }

    /// The places in the window of what is drawn of the grid's row `row`.
    pub fn run(&self, row: u32) -> Range<usize> {
        let place = |column: u32| (row - self.at.0) as usize * self.size.1 as usize + (column - self.at.1) as usize;
        place(self.columns.start)..place(self.columns.end)
    }

    /// The place in the grid of a place in the window.
    pub fn place(&self, local: usize) -> usize {
        let ((_, columns), (top, left)) = (self.size, self.at);
        let (row, column) = (local / columns as usize, local % columns as usize);
        (top as usize + row) * self.width as usize + left as usize + column
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(grid: (u32, u32), window: (u32, u32), stride: u32) -> Windows {
        let config = ChainConfig {
            schedule: crate::config::ScheduleValue::Number(0.5),
            codebook_size: 2,
            grid: window,
            condition: super::super::Condition::None,
            networks: Vec::new(),
        };
        Windows::new(&config, Some(LargeGrid { grid, stride })).unwrap()
    }

    #[test]
    fn tokens_are_drawn_once_each_in_raster_order_and_know_all_before_them() {
        for (grid, window, stride) in
            [((8, 24), (8, 8), 4), ((9, 11), (4, 5), 2), ((7, 7), (3, 4), 1), ((12, 6), (4, 6), 4), ((5, 5), (5, 5), 2)]
        {
            let windows = windows(grid, window, stride);
            let mut drawn = Vec::new();
            for (windows, rows) in windows.bands() {
                for row in rows {
                    for window in &windows {
                        let run = window.run(row);
                        assert!((0..run.start).all(|local| window.place(local) < drawn.len()), "{grid:?} {row}");
                        drawn.extend(run.map(|local| window.place(local)));
                    }
                }
            }
            assert_eq!(drawn, (0..windows.tokens()).collect::<Vec<_>>(), "{grid:?} {window:?} {stride}");
        }
    }

    #[test]
    fn a_grid_of_the_trained_size_is_one_window() {
        for stride in 1..=3 {
            let all: Vec<_> =
                windows((3, 4), (3, 4), stride).bands().map(|(windows, rows)| (windows.len(), rows)).collect();
            assert_eq!(all, [(1, 0..3)]);
        }
        assert_eq!(LargeGrid::new((16, 48), (16, 16)), LargeGrid { grid: (16, 48), stride: 8 });
        assert_eq!(LargeGrid { grid: (16, 48), stride: 8 }.windows((16, 16)), (1, 5));
    }

    #[test]
    fn windows_are_cut_from_grids() {
        let grids = Tensor::arange(24, (tch::Kind::Int64, tch::Device::Cpu)).view([1, 24]);
        let windows = windows((4, 6), (2, 3), 2);
        for (windows, _) in windows.bands() {
            for window in windows {
                let cut = Vec::<i64>::try_from(window.cut(&grids).unwrap().view([-1])).unwrap();
                assert_eq!(cut, (0..6).map(|local| window.place(local) as i64).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn grids_that_cannot_be_drawn_are_sentences() {
        let fault = |grid, stride| LargeGrid { grid, stride }.check((8, 6)).unwrap_err().to_string();
        assert_eq!(
            fault((8, 5), 1),
            "a grid of 8 × 5 tokens is smaller than 8 × 6, the one the chain was trained for: only larger ones can be drawn"
        );
        assert_eq!(fault((300, 300), 1), "a grid of 300 × 300 tokens has more than 65536, the most that can be drawn");
        assert_eq!(
            fault((9, 9), 7),
            "a stride of 7 tokens must be 1 to 6, the shorter side of the grid the chain was trained for"
        );
        assert!(fault((9, 9), 0).contains("a stride of 0 tokens"));
    }
}
