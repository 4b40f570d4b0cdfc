//! From a mask over pixels to the tokens an edit keeps.

/// Which pixels of an image are to stay: row-major, true where known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PixelMask {
    pub height: u32,
    pub width: u32,
    pub known: Vec<bool>,
}

/// When a token counts as known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaskRule {
    /// Only if all its pixels are: no pixel that was to change shows in the result.
    #[default]
    AllPixels,
    /// If its first pixel (top left) is, as the authors shrink masks: nearest neighbour.
    FirstPixel,
}

/// Why a mask does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    #[error(
        "the mask has {width}x{height} pixels, the image has {expected_width}x{expected_height}: they must be equal"
    )]
    Size { height: u32, width: u32, expected_height: u32, expected_width: u32 },
    #[error("the mask has {found} values for its {width}x{height} pixels")]
    Length { height: u32, width: u32, found: usize },
}

impl PixelMask {
    /// The known tokens, row-major, of an image whose `grid` = (rows, columns) of tokens are `factor` × `factor` pixels each.
    ///
    /// # Errors
    /// A mask that has not the image's size.
    pub fn tokens(&self, (rows, columns): (u32, u32), factor: u32, rule: MaskRule) -> Result<Vec<bool>, MaskError> {
        let (height, width) = (self.height, self.width);
        let (expected_height, expected_width) = (rows.saturating_mul(factor), columns.saturating_mul(factor));
        if (height, width) != (expected_height, expected_width) {
            return Err(MaskError::Size { height, width, expected_height, expected_width });
        }
        if self.known.len() as u64 != u64::from(height) * u64::from(width) {
            return Err(MaskError::Length { height, width, found: self.known.len() });
        }
        let (width, factor) = (width as usize, factor as usize);
        let side = match rule {
            MaskRule::AllPixels => factor,
            MaskRule::FirstPixel => 1,
        };
        let token = |row: usize, column: usize| {
            (row * factor..row * factor + side).all(|line| {
                let start = line * width + column * factor;
                self.known[start..start + side].iter().all(|&known| known)
            })
        };
        let grid = (0..rows as usize).flat_map(|row| (0..columns as usize).map(move |column| (row, column)));
        Ok(grid.map(|(row, column)| token(row, column)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 × 6 pixels, all known but those listed.
    fn mask(free: &[(usize, usize)]) -> PixelMask {
        let mut known = vec![true; 24];
        free.iter().for_each(|&(row, column)| known[row * 6 + column] = false);
        PixelMask { height: 4, width: 6, known }
    }

    #[test]
    fn a_token_is_known_if_all_its_pixels_are() {
        let mask = mask(&[(0, 3), (2, 0)]);
        let tokens = mask.tokens((2, 3), 2, MaskRule::AllPixels).unwrap();
        assert_eq!(tokens, [true, false, true, false, true, true]);
        // The authors look at the first pixel alone.
        let tokens = mask.tokens((2, 3), 2, MaskRule::FirstPixel).unwrap();
        assert_eq!(tokens, [true, true, true, false, true, true]);
    }

    #[test]
    fn masks_of_another_size_are_refused() {
        let error = mask(&[]).tokens((3, 3), 2, MaskRule::AllPixels).unwrap_err();
        assert_eq!(error.to_string(), "the mask has 6x4 pixels, the image has 6x6: they must be equal");
        let short = PixelMask { known: vec![true; 3], ..mask(&[]) };
        assert_eq!(
            short.tokens((2, 3), 2, MaskRule::AllPixels).unwrap_err().to_string(),
            "the mask has 3 values for its 6x4 pixels"
        );
    }
}
