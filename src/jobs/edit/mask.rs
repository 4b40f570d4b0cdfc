//! Which pixels of a crop an edit keeps.

use crate::chain::PixelMask;
use crate::imaging::{Crop, Rgb};
use std::ops::Range;

/// What white pixels of a mask say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum White {
    Keep,
    Edit,
}

/// A half of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Upper,
    Lower,
}

impl Half {
    /// The known pixels of a crop of `side` pixels of which this half is drawn anew; `line` is the first of the lower one.
    pub fn drawn(self, side: u32, line: u32) -> PixelMask {
        let known = |row: u32| (row < line) == (self == Half::Lower);
        let known = (0..side).flat_map(|row| (0..side).map(move |_| known(row))).collect();
        PixelMask { height: side, width: side, known }
    }
}

/// All pixels of a crop of `side` pixels.
pub(super) fn all(side: u32) -> PixelMask {
    PixelMask { height: side, width: side, known: vec![true; side as usize * side as usize] }
}

/// The known pixels of a crop of `side` pixels. The mask must have the size of the original image; a pixel of the crop is known
/// only if all pixels of the original below it are. White is from 128 of 255 up, in the mean of the three channels.
///
/// # Errors
/// A sentence when the mask does not fit the image.
pub(super) fn known(mask: &Rgb, crop: &Crop, side: u32, white: White) -> Result<PixelMask, String> {
    let (width, height) = crop.original;
    if (mask.width, mask.height) != (width, height) {
        return Err(format!(
            "it has {}x{} pixels, its image has {width}x{height}: they must be equal",
            mask.width, mask.height
        ));
    }
    let mut known = Vec::with_capacity((side as usize).saturating_mul(side as usize));
    for row in 0..side {
        let lines = span(crop.rect.y, crop.rect.size, row, side);
        for column in 0..side {
            // A mirrored crop is read from the right.
            let column = if crop.flipped { side - 1 - column } else { column };
            let columns = span(crop.rect.x, crop.rect.size, column, side);
            known.push(all_known(mask, lines.clone(), columns, white));
        }
    }
    Ok(PixelMask { height: side, width: side, known })
}

/// The pixels of the original that pixel `at` of `side` covers in a crop of `size` pixels from `start` on.
fn span(start: u32, size: u32, at: u32, side: u32) -> Range<usize> {
    let (start, size, at, side) = (u64::from(start), u64::from(size), u64::from(at), u64::from(side.max(1)));
    let (first, end) = (start + at * size / side, start + ((at + 1) * size).div_ceil(side));
    first as usize..end as usize
}

/// Whether all pixels of a rectangle are known; none outside the mask is.
fn all_known(mask: &Rgb, lines: Range<usize>, columns: Range<usize>, white: White) -> bool {
    let stride = mask.width as usize * 3;
    lines.into_iter().all(|line| {
        let pixels = mask.pixels.get(line * stride + columns.start * 3..line * stride + columns.end * 3);
        pixels.is_some_and(|pixels| {
            pixels.chunks_exact(3).all(|pixel| {
                let is_white = pixel.iter().map(|&value| u32::from(value)).sum::<u32>() >= 3 * 128;
                is_white == (white == White::Keep)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::MaskRule;
    use crate::imaging::CropRect;

    /// A mask of `width` × `height`, white but for the listed pixels (x, y).
    fn mask(width: u32, height: u32, black: &[(u32, u32)]) -> Rgb {
        let mut pixels = vec![255; (width * height * 3) as usize];
        for &(x, y) in black {
            let at = ((y * width + x) * 3) as usize;
            pixels[at..at + 3].fill(0);
        }
        Rgb { width, height, pixels }
    }

    fn crop(original: (u32, u32), x: u32, y: u32, size: u32) -> Crop {
        let pixels = Vec::new();
        Crop { pixels, original, rect: CropRect { x, y, size }, flipped: false, index: 0 }
    }

    /// The known tokens, 2 × 2 of 2 × 2 pixels each.
    fn tokens(mask: &Rgb, crop: &Crop, white: White, rule: MaskRule) -> Vec<bool> {
        known(mask, crop, 4, white).unwrap().tokens((2, 2), 2, rule).unwrap()
    }

    fn kept(mask: &Rgb, crop: &Crop) -> Vec<bool> {
        tokens(mask, crop, White::Keep, MaskRule::AllPixels)
    }

    #[test]
    fn tokens_with_one_black_pixel_are_free() {
        // 6 × 5 pixels, of which the middle 4 × 4 are the crop, at its own size.
        let crop = crop((6, 5), 1, 0, 4);
        assert_eq!(kept(&mask(6, 5, &[]), &crop), [true; 4]);
        assert_eq!(kept(&mask(6, 5, &[(2, 1)]), &crop), [false, true, true, true]);
        assert_eq!(kept(&mask(6, 5, &[(3, 3), (4, 3)]), &crop), [true, true, true, false]);
        // Beside and below the crop.
        assert_eq!(kept(&mask(6, 5, &[(0, 0), (5, 2), (3, 4)]), &crop), [true; 4]);
    }

    #[test]
    fn white_may_mean_edit() {
        let edited = |mask| tokens(&mask, &crop((4, 4), 0, 0, 4), White::Edit, MaskRule::AllPixels);
        assert_eq!(edited(mask(4, 4, &[])), [false; 4]);
        let black: Vec<(u32, u32)> = (0..4).flat_map(|y| (0..2).map(move |x| (x, y))).collect();
        assert_eq!(edited(mask(4, 4, &black)), [true, false, true, false]);
    }

    #[test]
    fn scaled_crops_look_at_every_pixel_below() {
        // Each of the crop's 4 × 4 pixels stands for 2.5 × 2.5 of the original.
        let crop = crop((10, 10), 0, 0, 10);
        assert_eq!(kept(&mask(10, 10, &[(4, 0)]), &crop), [false, true, true, true]);
        assert_eq!(kept(&mask(10, 10, &[(5, 0)]), &crop), [true, false, true, true]);
        // Smaller than the crop: one pixel of the original lies below several.
        let crop = super::tests::crop((3, 3), 0, 0, 3);
        assert_eq!(kept(&mask(3, 3, &[(1, 1)]), &crop), [false; 4]);
    }

    #[test]
    fn the_authors_look_at_the_first_pixel() {
        let mask = mask(4, 4, &[(1, 1), (2, 2)]);
        let tokens = tokens(&mask, &crop((4, 4), 0, 0, 4), White::Keep, MaskRule::FirstPixel);
        assert_eq!(tokens, [true, true, true, false]);
    }

    #[test]
    fn mirrored_crops_have_mirrored_masks() {
        let crop = Crop { flipped: true, ..crop((4, 4), 0, 0, 4) };
        assert_eq!(kept(&mask(4, 4, &[(0, 0)]), &crop), [true, false, true, true]);
    }

    #[test]
    fn halves_meet_at_the_line() {
        let rows = |half: Half| half.drawn(4, 3).known.chunks(4).map(|row| row.to_vec()).collect::<Vec<_>>();
        assert_eq!(rows(Half::Upper), [[false; 4], [false; 4], [false; 4], [true; 4]].map(Vec::from));
        assert_eq!(rows(Half::Lower), [[true; 4], [true; 4], [true; 4], [false; 4]].map(Vec::from));
        assert_eq!(all(2).known, [true; 4]);
    }

    #[test]
    fn masks_of_another_size_are_told() {
        let message = known(&mask(4, 5, &[]), &crop((4, 4), 0, 0, 4), 4, White::Keep).unwrap_err();
        assert_eq!(message, "it has 4x5 pixels, its image has 4x4: they must be equal");
    }
}
