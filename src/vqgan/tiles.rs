//! Pictures too large to be decoded whole: in tiles of tokens that overlap and fade into one another.
//!
//! A pixel depends on the tokens within the decoder's reach, the radius of its convolutions' receptive field, and, where the network
//! has them, on all tokens through GroupNorm's statistics and through attention. A tile gives those of its own tokens instead. So
//! tiles of a network without norms and attention are the whole picture, where their margins are as wide as the reach; those of
//! others differ from it, by as much as a tile's statistics differ from the picture's.

use super::config::VqganConfig;
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::imaging::{Mosaic, Rgb, Span};
use crate::windows::spread;

/// Tensors of a level's widest kind that a residual block holds at once: what came in, what its two convolutions read, the
/// sum.
const HELD: u64 = 4;
/// Shorter sides of a tile, in tokens, are nearly all overlap.
const LEAST: u32 = 8;
/// The share of a tile that its margins may take on either side, and that it fades over: what overlaps is decoded twice.
const SHARE: u32 = 8;

/// How a picture is cut into tiles, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Rows and columns of a tile.
    pub size: (u32, u32),
    /// Rows or columns that neighbours share, at least: two margins, and what they fade over.
    pub overlap: u32,
    /// Rows or columns along a tile's cut edges that are there for what lies further in: none of their pixels is shown.
    pub margin: u32,
}

impl VqganConfig {
    /// Bytes of the activations that decoding a grid of `rows` × `columns` tokens takes, with numbers of `number` bytes: of its
    /// largest level or attention. What a convolution's algorithm takes besides is not in it.
    pub fn decoding_bytes(&self, (rows, columns): (u32, u32), number: u64) -> u64 {
        let tokens = u64::from(rows).saturating_mul(columns.into());
        let coarsest = self.ch_mult.len().saturating_sub(1);
        let level = |level: usize| {
            let places = tokens.saturating_mul(1 << (2 * (coarsest - level)).min(62));
            let coarser = self.channels((level + 1).min(coarsest));
            let numbers = places.saturating_mul(self.channels(level).max(coarser).unsigned_abs());
            // The middle has attention, whatever else has.
            let attention =
                if level == coarsest || self.has_attention(level) { places.saturating_mul(places) } else { 0 };
            numbers.saturating_mul(HELD).saturating_add(attention.saturating_mul(2))
        };
        (0..=coarsest).map(level).max().unwrap_or(0).saturating_mul(number)
    }

    /// The reach of the decoder's convolutions in tokens: how far a pixel's own token is from the last one that can change it, but for
    /// norms and attention.
    pub fn decoding_reach(&self) -> u32 {
        // A convolution of 3 × 3 reaches one place further; places of each level are half as wide as the last one's.
        let coarsest = self.ch_mult.len() as i32 - 1;
        let (middle, blocks) = (5.0, 2.0 * (self.num_res_blocks + 1) as f64);
        let level = |halvings: i32| (blocks + if halvings > 0 { 1.0 } else { 0.0 }) * 0.5f64.powi(halvings);
        let last = 0.5f64.powi(coarsest);
        (middle + (0..=coarsest).map(level).sum::<f64>() + last).ceil() as u32
    }
}

impl Tiles {
    /// The tiles that a picture of `grid` = (rows, columns) tokens is decoded in so that the activations of one take at most `most`
    /// bytes, by [`VqganConfig::decoding_bytes`]; none where the whole picture takes no more.
    ///
    /// # Errors
    /// The bytes of the smallest tile, where they are more.
    pub fn within(config: &VqganConfig, grid: (u32, u32), number: u64, most: u64) -> Result<Option<Tiles>, u64> {
        let (rows, columns) = grid;
        let bytes = |side: u32| config.decoding_bytes((side.min(rows), side.min(columns)), number);
        let whole = rows.max(columns);
        if bytes(whole) <= most {
            return Ok(None);
        }
        let (mut fits, mut too_large) = (LEAST, whole);
        if bytes(fits) > most {
            return Err(bytes(fits));
        }
        while too_large - fits > 1 {
            let middle = fits + (too_large - fits) / 2;
            if bytes(middle) <= most { fits = middle } else { too_large = middle }
        }
        let share = (fits / SHARE).max(1);
        let margin = share.min(config.decoding_reach());
        let overlap = 2 * margin + share;
        let size = |length: u32| even(length, fits, overlap);
        Ok(Some(Tiles { size: (size(rows), size(columns)), overlap, margin }))
    }

    /// Where tiles of `size` lie along a side of `length`, in tokens.
    fn spans(&self, length: u32, size: u32) -> Vec<Span> {
        let starts = spread(length, size, size.saturating_sub(self.overlap));
        let last = starts.len() - 1;
        let mut end = 0;
        let span = |(number, start): (usize, u32)| {
            let first = if number == 0 { 0 } else { start + self.margin };
            let before = end;
            end = if number == last { length } else { start + size - self.margin };
            Span { start, shown: first..end, fade: if number == 0 { 0 } else { before.saturating_sub(first) } }
        };
        starts.into_iter().enumerate().map(span).collect()
    }
}

/// The side of tiles of at most `most` that lie along `length` and overlap by `overlap`: as few as there must be, of one size.
fn even(length: u32, most: u32, overlap: u32) -> u32 {
    if length <= most {
        return length;
    }
    let count = (length - overlap).div_ceil(most - overlap);
    (length + (count - 1) * overlap).div_ceil(count)
}

impl Tokenizer {
    /// As [`decode`](Tokenizer::decode), tile by tile: memory grows with a tile, not with the picture, whose bytes alone are held.
    pub fn decode_tiled(
        &self,
        grids: &[&[u16]],
        (rows, columns): (u32, u32),
        tiles: &Tiles,
    ) -> Result<Vec<Rgb>, TokenizerError> {
        self.checked(grids, (rows, columns))?;
        let factor = u32::try_from(self.config().downsampling()).unwrap_or(u32::MAX);
        let (height, width) = (rows.saturating_mul(factor), columns.saturating_mul(factor));
        let mut pictures: Vec<Mosaic> = grids.iter().map(|_| Mosaic::new(width, height)).collect();
        let across = tiles.spans(columns, tiles.size.1);
        for down in tiles.spans(rows, tiles.size.0) {
            for across in &across {
                let cuts: Vec<Vec<u16>> =
                    grids.iter().map(|grid| cut(grid, columns, (down.start, across.start), tiles.size)).collect();
                let cuts: Vec<&[u16]> = cuts.iter().map(Vec::as_slice).collect();
                let decoded = self.decode(&cuts, tiles.size)?;
                let across = across.times(factor);
                pictures.iter_mut().zip(&decoded).for_each(|(picture, tile)| picture.lay(tile, &across));
            }
            let down = down.times(factor);
            pictures.iter_mut().for_each(|picture| picture.end_row(&down));
        }
        Ok(pictures.into_iter().map(Mosaic::into_picture).collect())
    }
}

/// The part of a grid of `width` columns with its first row and column at `at`.
fn cut(grid: &[u16], width: u32, at: (u32, u32), (rows, columns): (u32, u32)) -> Vec<u16> {
    let lines = grid.chunks(width.max(1) as usize).skip(at.0 as usize).take(rows as usize);
    lines.flat_map(|line| line.iter().skip(at.1 as usize).take(columns as usize).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The released models' tokenizer of 16 pixels a token.
    fn config() -> VqganConfig {
        let shape = serde_json::json!({
            "ddconfig": {"double_z": false, "z_channels": 256, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
                         "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0},
            "embed_dim": 256, "n_embed": 1024,
        });
        serde_json::from_value(shape).expect("a config")
    }

    #[test]
    fn memory_grows_with_the_finest_level_and_then_with_attention() {
        let config = config();
        // 256 × 256 places of 128 numbers, four times.
        assert_eq!(config.decoding_bytes((16, 16), 4), 256 * 256 * 128 * 4 * 4);
        assert_eq!(config.decoding_bytes((16, 48), 2), 256 * 768 * 128 * 4 * 2);
        // 65 536 tokens that all see one another, twice, beside what the coarsest level holds.
        assert_eq!(config.decoding_bytes((256, 256), 4), (65_536 * 65_536 * 2 + 65_536 * 512 * 4) * 4);
        assert_eq!(config.decoding_bytes((u32::MAX, u32::MAX), 4), u64::MAX);
        // 5, 6, and 7 of each next level: 3.5, 1.75, 0.875, 0.4375; and the last convolution.
        assert_eq!(config.decoding_reach(), 18);
    }

    #[test]
    fn tiles_are_as_large_as_memory_lets_them_be() {
        let config = config();
        let within = |grid, most| Tiles::within(&config, grid, 4, most);
        let most = config.decoding_bytes((32, 32), 4);
        assert_eq!(within((32, 32), most), Ok(None));
        assert_eq!(within((16, 64), most), Ok(None), "a quarter of the height");
        assert_eq!(within((33, 32), most), Ok(Some(Tiles { size: (23, 32), overlap: 12, margin: 4 })));
        assert_eq!(within((16, 256), most), Ok(Some(Tiles { size: (16, 63), overlap: 24, margin: 8 })));
        let least = config.decoding_bytes((8, 8), 4);
        assert_eq!(within((16, 16), least), Ok(Some(Tiles { size: (8, 8), overlap: 3, margin: 1 })));
        assert_eq!(within((16, 16), least - 1), Err(least));
        for grid in [(16, 17), (100, 37), (9, 300), (64, 64)] {
            for most in [least, least * 3, most] {
                let Ok(Some(tiles)) = within(grid, most) else { continue };
                assert!(config.decoding_bytes(tiles.size, 4) <= most, "{grid:?} {tiles:?}");
                assert!(tiles.overlap < tiles.size.0.min(tiles.size.1) || tiles.size.0 == grid.0, "{tiles:?}");
            }
        }
    }

    #[test]
    fn tiles_cover_a_side_and_hide_their_margins() {
        let tiles = Tiles { size: (8, 8), overlap: 3, margin: 1 };
        let span = |start, shown, fade| Span { start, shown, fade };
        assert_eq!(tiles.spans(8, 8), [span(0, 0..8, 0)]);
        assert_eq!(tiles.spans(18, 8), [span(0, 0..7, 0), span(5, 6..12, 1), span(10, 11..18, 1)]);
        for (length, most, margin, fade) in [(9, 8, 1, 1), (50, 16, 2, 2), (1000, 33, 4, 4), (257, 100, 12, 12)] {
            let overlap = 2 * margin + fade;
            let size = even(length, most, overlap);
            let spans = Tiles { size: (size, size), overlap, margin }.spans(length, size);
            assert!(size <= most && spans.last().is_some_and(|span| span.start + size == length), "{spans:?}");
            for pair in spans.windows(2) {
                assert_eq!(pair[1].shown.start + pair[1].fade, pair[0].shown.end, "{spans:?}");
                assert!(pair[1].fade >= fade && pair[1].shown.start == pair[1].start + margin, "{spans:?}");
            }
        }
    }

    #[test]
    fn parts_are_cut_from_grids() {
        let grid: Vec<u16> = (0..12).collect();
        assert_eq!(cut(&grid, 4, (1, 2), (2, 2)), [6, 7, 10, 11]);
    }
}
