//! The canvas that an edit is drawn on: an image and margins around it.
//!
//! A chain draws grids of one size. A larger canvas is drawn in windows of that size, the way taming-transformers slides its
//! window: every network sees a whole grid with the positions it knows, wherever the window lies. The first window is the image;
//! from it the others move outwards by half their size. To each what earlier ones drew is as known as the image.

use crate::windows::outwards;

/// An image of `image` = (rows, columns) with margins, in tokens or in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Canvas {
    pub image: (u32, u32),
    /// Left, top, right, bottom.
    pub margins: [u32; 4],
}

impl Canvas {
    /// Rows and columns of all of it.
    pub fn size(&self) -> (u32, u32) {
        let ((rows, columns), [left, top, right, bottom]) = (self.image, self.margins);
        (rows.saturating_add(top).saturating_add(bottom), columns.saturating_add(left).saturating_add(right))
    }

    /// The same in units of which `factor` are one of this one's.
    pub fn times(&self, factor: u32) -> Canvas {
        let (rows, columns) = self.image;
        Canvas {
            image: (rows.saturating_mul(factor), columns.saturating_mul(factor)),
            margins: self.margins.map(|margin| margin.saturating_mul(factor)),
        }
    }

    /// Where the image is.
    fn inner(&self) -> (u32, u32) {
        let [left, top, ..] = self.margins;
        (top, left)
    }

    /// The image with what is `outside` around it; `per` values are one place.
    pub fn place<T: Copy>(&self, image: &[T], per: usize, outside: T) -> Vec<T> {
        let (rows, columns) = self.size();
        let mut canvas = vec![outside; (rows as usize).saturating_mul(columns as usize).saturating_mul(per)];
        self.put(&mut canvas, self.inner(), image, per);
        canvas
    }

    /// Puts a `part` of the image's size with its first row and column at `at`.
    pub fn put<T: Copy>(&self, canvas: &mut [T], at: (u32, u32), part: &[T], per: usize) {
        let (width, part_width) = (self.size().1 as usize * per, self.image.1 as usize * per);
        let lines = canvas.chunks_mut(width.max(1)).skip(at.0 as usize).zip(part.chunks(part_width.max(1)));
        for (line, part) in lines {
            let places = line.iter_mut().skip(at.1 as usize * per);
            places.zip(part).for_each(|(place, value)| *place = *value);
        }
    }

    /// The part of the image's size whose first row and column are `at`.
    pub fn cut<T: Copy>(&self, canvas: &[T], at: (u32, u32)) -> Vec<T> {
        let ((rows, columns), width) = (self.image, self.size().1 as usize);
        let lines = canvas.chunks(width.max(1)).skip(at.0 as usize).take(rows as usize);
        lines.flat_map(|line| line.iter().skip(at.1 as usize).take(columns as usize).copied()).collect()
    }

    /// The first row and column of each window, in the order they are drawn in. Together they are the whole canvas.
    pub fn windows(&self) -> Vec<(u32, u32)> {
        let [left, top, right, bottom] = self.margins;
        let columns = outwards(left, right, self.image.1);
        outwards(top, bottom, self.image.0)
            .into_iter()
            .flat_map(|row| columns.iter().map(move |&at| (row, at)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_go_from_the_image_outwards() {
        let canvas = Canvas { image: (4, 6), margins: [1, 0, 0, 3] };
        assert_eq!((canvas.size(), canvas.windows()), ((7, 7), vec![(0, 1), (0, 0), (2, 1), (2, 0), (3, 1), (3, 0)]));
    }

    #[test]
    fn windows_fill_the_canvas_and_know_at_least_half() {
        for margins in [[3, 5, 7, 11], [0, 0, 40, 0], [1, 30, 0, 1], [0; 4]] {
            let canvas = Canvas { image: (8, 6), margins };
            let mut known = canvas.place(&[true; 48], 1, false);
            for window in canvas.windows() {
                let inside = canvas.cut(&known, window);
                assert!(
                    inside.len() == 48 && inside.iter().filter(|&&known| known).count() >= 24,
                    "{margins:?} {window:?}"
                );
                canvas.put(&mut known, window, &[true; 48], 1);
            }
            assert!(known.into_iter().all(|known| known), "{margins:?}");
        }
    }

    #[test]
    fn an_image_keeps_its_place() {
        let canvas = Canvas { image: (1, 2), margins: [1, 0, 0, 1] };
        assert_eq!(canvas.place(&[7, 8], 1, 0), [0, 7, 8, 0, 0, 0]);
        assert_eq!(canvas.place(&[1, 2, 3, 4], 2, 0), [0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0]);
        let mut tokens = canvas.place(&[7, 8], 1, 0);
        canvas.put(&mut tokens, (1, 0), &[5, 6], 1);
        assert_eq!((canvas.cut(&tokens, (1, 0)), canvas.cut(&tokens, (0, 1))), (vec![5, 6], vec![7, 8]));
        let pixels = Canvas { image: (2, 4), margins: [2, 0, 0, 2] };
        assert_eq!((canvas.times(2), pixels.size()), (pixels, (4, 6)));
    }
}
