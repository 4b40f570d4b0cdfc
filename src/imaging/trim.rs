//! Where the picture lies in an image that was padded with white to a square.
//!
//! img2dataset does so unless told otherwise (`resize_mode = border`): it scales the longer side to the size asked for, and puts
//! the same number of white rows above and below, or of white columns left and right; of an odd number the last side has one
//! more (albumentations' `longest_max_size` and `pad`).

use super::decode::Area;

/// What is cut off an image before it is cropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Trim {
    /// Nothing.
    #[default]
    None,
    /// The white bars that img2dataset pads with, from square images only.
    ///
    /// Where the original's size is known, so is that of the bars: they are cut off if they are white, on average within 24
    /// of 255 in each row, which a photograph's own rows are not. A JPEG's bars have shadows of the picture's edge: in those of
    /// cc-mini, of quality 95, a row is off by up to 13 on average.
    ///
    /// Where it is unknown, bars are what two opposite sides have in common: rows white to within 12 of 255 in every pixel,
    /// and behind them at most seven more (a JPEG's block) that are white to within 16 on average. Of a picture with white
    /// margins of its own that can take some of these, the same on both sides. An image with white on all four sides may be such
    /// a picture without any bars, and is left alone.
    WhiteBorder,
}

/// How far rows of a known bar may be from white on average.
const KNOWN: u64 = 24;
/// How far from white any pixel of a bar of unknown size may be.
const EXACT: u8 = 255 - 12;
/// How far on average the rows beside the picture may be, and how many there are.
const SHADED: u64 = 16;
const SHADE: u32 = 7;

/// Pixels of one row or column, as slices of three bytes.
type Line<'a> = Box<dyn Iterator<Item = &'a [u8; 3]> + 'a>;

/// A square image, seen as lines: rows, or columns.
struct Lines<'a> {
    pixels: &'a [[u8; 3]],
    side: usize,
    columns: bool,
}

impl Lines<'_> {
    fn line(&self, at: u32) -> Line<'_> {
        let at = at as usize;
        match self.columns {
            true => Box::new(self.pixels.iter().skip(at).step_by(self.side)),
            false => Box::new(self.pixels.iter().skip(at * self.side).take(self.side)),
        }
    }

    /// Whether a line differs from white by at most `limit` on average.
    fn near_white(&self, at: u32, limit: u64) -> bool {
        let off: u64 = self.line(at).flatten().map(|byte| u64::from(255 - byte)).sum();
        off <= limit * 3 * self.side as u64
    }

    fn white(&self, at: u32) -> bool {
        self.line(at).flatten().all(|byte| *byte >= EXACT)
    }

    /// How many of `lines`, from the first, are a bar's.
    fn bar(&self, lines: impl Iterator<Item = u32> + Clone) -> u32 {
        let exact = lines.clone().take_while(|at| self.white(*at)).count();
        if exact == 0 {
            return 0;
        }
        let shaded = lines.skip(exact).take(SHADE as usize).take_while(|at| self.near_white(*at, SHADED)).count();
        (exact + shaded) as u32
    }

    /// Lines to cut off the first and the last side of a picture whose bars' sizes are unknown; `None` if nothing would be left.
    fn bars(&self) -> Option<(u32, u32)> {
        let side = self.side as u32;
        match (self.bar(0..side), self.bar((0..side).rev())) {
            (first, last) if first + last >= side => None,
            (first, last) if last == first + 1 => Some((first, last)),
            (first, last) => Some((first.min(last), first.min(last))),
        }
    }
}

/// The part of an image, `[height, width, 3]`, that its padding leaves; `None` where there is no padding. `original` is the
/// size the picture had before it was scaled and padded.
pub(super) fn picture(pixels: &[u8], (width, height): (u32, u32), original: Option<(u32, u32)>) -> Option<Area> {
    let pixels = pixels.as_chunks::<3>().0;
    let side = width as usize;
    if width != height || pixels.len() != side * side {
        return None;
    }
    let lines = |columns| Lines { pixels, side, columns };
    let (columns, (first, last)) = match original {
        Some(original) => {
            let (columns, bars) = known_bars(width, original)?;
            let lines = lines(columns);
            let mut all = (0..bars.0).chain(width - bars.1..width);
            (columns, all.all(|at| lines.near_white(at, KNOWN)).then_some(bars)?)
        }
        None => match (lines(false).bars(), lines(true).bars()) {
            (Some(bars), Some((0, 0))) => (false, bars),
            (Some((0, 0)), Some(bars)) => (true, bars),
            _ => return None,
        },
    };
    let left = width - first - last;
    match (first + last > 0, columns) {
        (false, _) => None,
        (true, false) => Some(Area { x: 0, y: first, width, height: left }),
        (true, true) => Some(Area { x: first, y: 0, width: left, height }),
    }
}

/// The bars of a picture of an `original` size in a square of `side`: whether they are columns, and how many on each side.
fn known_bars(side: u32, original: (u32, u32)) -> Option<(bool, (u32, u32))> {
    let (short, long) = (original.0.min(original.1), original.0.max(original.1));
    if short == 0 || short == long {
        return None;
    }
    let scaled = (f64::from(short) * (f64::from(side) / f64::from(long))).round_ties_even() as u32;
    let pad = side.checked_sub(scaled.max(1))?;
    let first = pad / 2;
    Some((original.0 < original.1, (first, pad - first)))
}

/// Moves an area of an image together, so that `pixels` holds it alone.
pub(super) fn keep(pixels: &mut Vec<u8>, width: u32, area: Area) {
    let (stride, row) = (width as usize * 3, area.width as usize * 3);
    for y in 0..area.height as usize {
        let start = (area.y as usize + y) * stride + area.x as usize * 3;
        pixels.copy_within(start..start + row, y * row);
    }
    pixels.truncate(area.height as usize * row);
}

#[cfg(test)]
#[path = "trim_tests.rs"]
mod tests;
