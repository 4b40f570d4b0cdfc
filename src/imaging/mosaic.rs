//! A picture put together of tiles that overlap, each fading into the next.

use super::Rgb;
use super::blend::mix;
use std::ops::Range;

/// Where a tile lies along one side of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub start: u32,
    /// What of it is shown.
    pub shown: Range<u32>,
    /// Over how much of that, from its start on, it fades in over the tile before it.
    pub fade: u32,
}

impl Span {
    /// The same in units of which `factor` are one of this one's.
    pub fn times(&self, factor: u32) -> Span {
        let times = |value: u32| value.saturating_mul(factor);
        Span { start: times(self.start), shown: times(self.shown.start)..times(self.shown.end), fade: times(self.fade) }
    }

    /// The share of the tile at each place it is shown at, of [`whole`](Span::whole).
    fn shares(&self) -> impl Iterator<Item = u32> {
        (1..).map(|share| share.min(self.whole())).take(self.shown.len())
    }

    fn whole(&self) -> u32 {
        self.fade.saturating_add(1)
    }
}

/// A picture that takes its tiles row by row, from left to right. Where two tiles are equal the picture is as they are.
#[derive(Clone, Debug)]
pub struct Mosaic {
    picture: Rgb,
    /// The row of tiles at hand, as wide as the picture.
    strip: Rgb,
}

impl Mosaic {
    /// Of a picture of `width` × `height` pixels, black so far.
    pub fn new(width: u32, height: u32) -> Mosaic {
        let black = |height: u32| Rgb { width, height, pixels: vec![0; width as usize * height as usize * 3] };
        Mosaic { picture: black(height), strip: black(0) }
    }

    /// Lays the next tile of the row at hand.
    pub fn lay(&mut self, tile: &Rgb, across: &Span) {
        if self.strip.height != tile.height {
            let width = self.strip.width;
            let pixels = vec![0; width as usize * tile.height as usize * 3];
            self.strip = Rgb { width, height: tile.height, pixels };
        }
        let part = |range: Range<u32>| range.start as usize * 3..range.end as usize * 3;
        let source = across.shown.start.saturating_sub(across.start)..across.shown.end.saturating_sub(across.start);
        for (line, tile) in lines(&mut self.strip).zip(tile.pixels.chunks_exact(tile.width.max(1) as usize * 3)) {
            let (Some(line), Some(tile)) = (line.get_mut(part(across.shown.clone())), tile.get(part(source.clone())))
            else {
                return;
            };
            let pixels = line.chunks_exact_mut(3).zip(tile.chunks_exact(3));
            pixels.zip(across.shares()).for_each(|((under, over), share)| mix(under, over, share, across.whole()));
        }
    }

    /// Ends the row of tiles, which lies at `down`.
    pub fn end_row(&mut self, down: &Span) {
        let hidden = down.shown.start.saturating_sub(down.start) as usize;
        let width = self.strip.width.max(1) as usize * 3;
        let shown = self.strip.pixels.chunks_exact(width).skip(hidden);
        let under = lines(&mut self.picture).skip(down.shown.start as usize);
        under.zip(shown).zip(down.shares()).for_each(|((under, over), share)| mix(under, over, share, down.whole()));
    }

    /// The picture, of all tiles so far.
    pub fn into_picture(self) -> Rgb {
        self.picture
    }
}

fn lines(picture: &mut Rgb) -> impl Iterator<Item = &mut [u8]> {
    picture.pixels.chunks_exact_mut(picture.width.max(1) as usize * 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u32, shown: Range<u32>, fade: u32) -> Span {
        Span { start, shown, fade }
    }

    fn picture(width: u32, height: u32, value: impl Fn(u32, u32) -> u8) -> Rgb {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| [value(x, y); 3]);
        Rgb { width, height, pixels: pixels.collect() }
    }

    /// The first channel of a picture's lines.
    fn shades(picture: &Rgb) -> Vec<Vec<u8>> {
        assert!(picture.pixels.chunks(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
        picture
            .pixels
            .chunks(picture.width as usize * 3)
            .map(|line| line.iter().step_by(3).copied().collect())
            .collect()
    }

    #[test]
    fn tiles_of_one_picture_make_it() {
        let whole = picture(11, 9, |x, y| (x * 20 + y * 3) as u8);
        let cut = |left: u32, top: u32, width: u32, height: u32| {
            picture(width, height, |x, y| ((x + left) * 20 + (y + top) * 3) as u8)
        };
        let across = [span(0, 0..5, 0), span(3, 4..8, 1), span(5, 6..11, 2)];
        let down = [span(0, 0..6, 0), span(3, 4..9, 2)];
        let mut mosaic = Mosaic::new(11, 9);
        for (down, height) in down.iter().zip([7, 6]) {
            for (across, width) in across.iter().zip([6, 6, 6]) {
                mosaic.lay(&cut(across.start, down.start, width, height), across);
            }
            mosaic.end_row(down);
        }
        assert_eq!(mosaic.into_picture(), whole);
    }

    #[test]
    fn tiles_fade_into_one_another() {
        let flat = |value| picture(4, 2, move |_, _| value);
        let mut mosaic = Mosaic::new(6, 2);
        mosaic.lay(&flat(30), &span(0, 0..4, 0));
        mosaic.lay(&flat(90), &span(2, 2..6, 2));
        mosaic.end_row(&span(0, 0..2, 0));
        assert_eq!(shades(&mosaic.into_picture()), [[30, 30, 50, 70, 90, 90]; 2]);

        let mut mosaic = Mosaic::new(4, 3);
        for (value, down) in [(30, span(0, 0..2, 0)), (90, span(1, 1..3, 1))] {
            mosaic.lay(&flat(value), &span(0, 0..4, 0));
            mosaic.end_row(&down);
        }
        assert_eq!(shades(&mosaic.into_picture()), [[30; 4], [60; 4], [90; 4]]);
    }

    #[test]
    fn spans_grow() {
        assert_eq!(span(1, 2..5, 1).times(8), span(8, 16..40, 8));
    }
}
