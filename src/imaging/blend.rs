//! What stays of an image when parts of it are drawn anew: its own pixels over the drawn ones, with a soft seam.

use super::Rgb;

/// The pixels of an image that stay.
#[derive(Clone, Debug)]
pub struct Kept {
    image: Rgb,
    /// Of each pixel its share of the result, from 0 to `whole`.
    shares: Vec<u16>,
    whole: u16,
}

impl Kept {
    /// The pixels of `image` that are `known`, row-major. Those fewer than `feather` + 1 pixels from one that is not known, counted
    /// along rows, columns and diagonals, are mixed with what was drawn there, the nearer the more; with 0 none is. The seam lies
    /// within the known part: nothing of what is not known shows.
    ///
    /// None where `known` has not a value for each pixel.
    pub fn new(image: Rgb, known: &[bool], feather: u16) -> Option<Kept> {
        let pixels = image.width as usize * image.height as usize;
        if known.len() != pixels || image.pixels.len() != pixels * 3 {
            return None;
        }
        let whole = feather.saturating_add(1);
        let shares = distances(known, image.width as usize, whole);
        Some(Kept { image, shares, whole })
    }

    /// Puts them over `drawn`, an image of their image's size; one of another size stays as it is.
    pub fn over(&self, drawn: &mut Rgb) {
        if (drawn.width, drawn.height) != (self.image.width, self.image.height) {
            return;
        }
        let pixels = drawn.pixels.chunks_exact_mut(3).zip(self.image.pixels.chunks_exact(3));
        for ((drawn, kept), &share) in pixels.zip(&self.shares) {
            mix(drawn, kept, share.into(), self.whole.into());
        }
    }
}

/// Puts `over` on what is `under` it, with a share of `share` in `whole`; equal bytes stay as they are.
pub(super) fn mix(under: &mut [u8], over: &[u8], share: u32, whole: u32) {
    if share >= whole {
        under.copy_from_slice(over);
    } else if share > 0 {
        for (under, over) in under.iter_mut().zip(over) {
            let sum = u32::from(*over) * share + u32::from(*under) * (whole - share);
            // A mean of bytes is one.
            *under = ((sum + whole / 2) / whole) as u8;
        }
    }
}

/// Of each pixel the distance to the nearest that is not known, at most `limit`: chessboard metric, in two passes.
fn distances(known: &[bool], width: usize, limit: u16) -> Vec<u16> {
    let mut distances: Vec<u16> = known.iter().map(|&known| if known { limit } else { 0 }).collect();
    let (width, end) = (width as isize, distances.len() as isize);
    let mut relax = |at: isize, neighbours: [(isize, isize); 4]| {
        let column = at % width;
        let near = |(down, right): (isize, isize)| {
            let other = at + down * width + right;
            let inside = (0..width).contains(&(column + right)) && (0..end).contains(&other);
            if inside { distances.get(other as usize).copied() } else { None }
        };
        let least = neighbours.into_iter().filter_map(near).min().unwrap_or(limit);
        if let Some(distance) = distances.get_mut(at as usize) {
            *distance = (*distance).min(least.saturating_add(1));
        }
    };
    (0..end).for_each(|at| relax(at, [(-1, -1), (-1, 0), (-1, 1), (0, -1)]));
    (0..end).rev().for_each(|at| relax(at, [(1, 1), (1, 0), (1, -1), (0, 1)]));
    distances
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(width: u32, height: u32, value: u8) -> Rgb {
        Rgb { width, height, pixels: vec![value; (width * height * 3) as usize] }
    }

    /// The first channel of what `known` of a white image leaves of a black one.
    fn blended(width: u32, known: &[bool], feather: u16) -> Vec<u8> {
        let height = known.len() as u32 / width;
        let mut drawn = flat(width, height, 0);
        Kept::new(flat(width, height, 240), known, feather).unwrap().over(&mut drawn);
        assert!(drawn.pixels.chunks(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
        drawn.pixels.chunks(3).map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn known_pixels_are_put_back_to_the_bit() {
        let known = [true, false, true, true, true, false];
        assert_eq!(blended(3, &known, 0), [240, 0, 240, 240, 240, 0]);
        assert_eq!(blended(2, &[true; 4], 9), [240; 4]);
        assert_eq!(blended(2, &[false; 4], 9), [0; 4]);
    }

    #[test]
    fn a_seam_is_within_the_known_part() {
        let known = [false, true, true, true, true, true];
        assert_eq!(blended(6, &known, 2), [0, 80, 160, 240, 240, 240]);
        // Down and up, along diagonals, and not around the edge.
        assert_eq!(blended(1, &known, 2), [0, 80, 160, 240, 240, 240]);
        let mut corner = [true; 16];
        corner[15] = false;
        let distance = |at: usize| (3 - at / 4).max(3 - at % 4) as u8;
        assert_eq!(blended(4, &corner, 2), (0..16).map(|at| 80 * distance(at)).collect::<Vec<_>>());
        let mut edge = [true; 8];
        edge[3] = false;
        assert_eq!(blended(4, &edge, 1), [240, 240, 120, 0, 240, 240, 120, 120]);
    }

    #[test]
    fn what_does_not_fit_is_left_alone() {
        assert!(Kept::new(flat(2, 2, 0), &[true; 3], 0).is_none());
        let mut other = flat(3, 2, 7);
        Kept::new(flat(2, 2, 0), &[true; 4], 0).unwrap().over(&mut other);
        assert_eq!(other, flat(3, 2, 7));
    }
}
