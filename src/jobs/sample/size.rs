//! Pictures larger than those the chain was trained for: from pixels to the grid that is drawn.

use crate::chain::LargeGrid;
use crate::config::SampleSection;
use crate::jobs::JobError;

/// The grid of `sample.size`, for a chain whose grid is `trained` and whose tokens' sides are `factor` pixels; none where the
/// pictures are of the chain's own size.
///
/// # Errors
/// [`JobError::Usage`]: a size that is smaller, too large or between tokens; a stride out of range.
pub fn large(section: &SampleSection, trained: (u32, u32), factor: u32) -> Result<Option<LargeGrid>, JobError> {
    let Some(size) = section.size else { return Ok(None) };
    let wrong = |what: String| JobError::Usage(format!("sample.size = {size:?}: {what}"));
    let [rows, columns] = size.map(|pixels| whole_tokens(pixels, factor).map_err(wrong));
    let (rows, columns) = (rows?, columns?);
    if rows < trained.0 || columns < trained.1 {
        let (height, width) = (trained.0.saturating_mul(factor), trained.1.saturating_mul(factor));
        return Err(wrong(format!(
            "the chain was trained for [{height}, {width}], and only larger pictures than that can be drawn"
        )));
    }
    let usual = LargeGrid::new((rows, columns), trained);
    let large = LargeGrid { stride: section.stride.unwrap_or(usual.stride), ..usual };
    large.check(trained).map_err(|error| JobError::Usage(format!("sample.size, sample.stride: {error}")))?;
    Ok(Some(large).filter(|large| large.grid != trained))
}

/// The tokens of a side of `pixels`, each of `factor`.
///
/// # Errors
/// A sentence, where it is not a multiple.
pub fn whole_tokens(pixels: u32, factor: u32) -> Result<u32, String> {
    let factor = factor.max(1);
    if pixels.is_multiple_of(factor) {
        return Ok(pixels / factor);
    }
    let below = pixels / factor * factor;
    Err(format!(
        "{pixels} is not a multiple of {factor}, the pixels of a token's side; the nearest are {below} and {}",
        below.saturating_add(factor)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(size: [u32; 2], stride: Option<u32>) -> Result<Option<LargeGrid>, String> {
        let section = SampleSection { size: Some(size), stride, ..SampleSection::default() };
        large(&section, (16, 16), 16).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_are_whole_tokens() {
        assert_eq!(of([256, 768], None), Ok(Some(LargeGrid { grid: (16, 48), stride: 8 })));
        assert_eq!(of([512, 256], Some(1)), Ok(Some(LargeGrid { grid: (32, 16), stride: 1 })));
        assert_eq!(of([256, 256], Some(3)), Ok(None));
        assert_eq!(large(&SampleSection::default(), (16, 16), 16).unwrap(), None);
    }

    #[test]
    fn sizes_that_cannot_be_are_sentences() {
        let fault = |size, stride| of(size, stride).unwrap_err();
        assert_eq!(
            fault([256, 700], None),
            "sample.size = [256, 700]: 700 is not a multiple of 16, the pixels of a token's side; the nearest are 688 and 704"
        );
        assert_eq!(
            fault([128, 768], None),
            "sample.size = [128, 768]: the chain was trained for [256, 256], and only larger pictures than that can be drawn"
        );
        assert!(fault([8192, 8192], None).contains("a grid of 512 × 512 tokens has more than 65536"));
        assert!(fault([256, 768], Some(17)).contains("a stride of 17 tokens must be 1 to 16"));
    }
}
