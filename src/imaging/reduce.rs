//! Smaller pictures to look at.

use super::Rgb;
use image::RgbImage;
use image::imageops::thumbnail;

/// A picture whose longer side has at most `side` pixels: a larger one is made smaller by averaging, in the same proportions.
/// What a tokenizer is given never goes through this.
pub fn reduce(picture: Rgb, side: u32) -> Rgb {
    let Rgb { width, height, pixels } = picture;
    let longer = width.max(height);
    if longer <= side {
        return Rgb { width, height, pixels };
    }
    let reduced = |length: u32| (u64::from(length) * u64::from(side) / u64::from(longer)).max(1) as u32;
    match RgbImage::from_raw(width, height, pixels) {
        Some(whole) => {
            let small = thumbnail(&whole, reduced(width), reduced(height));
            Rgb { width: small.width(), height: small.height(), pixels: small.into_raw() }
        }
        // Fewer pixels than its size says: a picture of none.
        None => Rgb { width: 0, height: 0, pixels: Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proportions_and_colours_are_kept() {
        let pixels: Vec<u8> =
            (0..40 * 20).flat_map(|at| if at % 40 < 20 { [200, 0, 0] } else { [0, 0, 100] }).collect();
        let whole = Rgb { width: 40, height: 20, pixels };
        let small = reduce(whole.clone(), 10);
        assert_eq!((small.width, small.height), (10, 5));
        assert_eq!((&small.pixels[..3], &small.pixels[27..30]), (&[200, 0, 0][..], &[0, 0, 100][..]));
        assert_eq!(reduce(whole.clone(), 40), whole);
        let line = reduce(Rgb { width: 400, height: 1, pixels: vec![9; 1200] }, 8);
        assert_eq!((line.width, line.height, line.pixels), (8, 1, vec![9; 24]));
        assert_eq!(reduce(Rgb { width: 9, height: 9, pixels: vec![0; 3] }, 3).pixels.len(), 0);
    }
}
