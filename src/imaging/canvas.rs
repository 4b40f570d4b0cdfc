//! Pictures laid out on one: contact sheets, grids.

use super::Rgb;

/// What shows between the pictures of a grid.
const GUTTER: [u8; 3] = [24, 24, 27];
/// Pixels of it between two pictures.
const GUTTER_WIDTH: u32 = 2;

/// A picture to lay others on.
#[derive(Clone, Debug)]
pub struct Canvas {
    picture: Rgb,
}

impl Canvas {
    /// A canvas of one colour.
    pub fn new(width: u32, height: u32, ground: [u8; 3]) -> Canvas {
        let pixels = ground.repeat(width as usize * height as usize);
        Canvas { picture: Rgb { width, height, pixels } }
    }

    /// Row `y` from `x` on, `width` pixels at most: what lies outside is left out.
    pub fn row(&mut self, x: u32, y: u32, width: u32) -> &mut [u8] {
        let stride = (self.picture.width as usize * 3).max(1);
        let row = self.picture.pixels.chunks_exact_mut(stride).nth(y as usize).unwrap_or_default();
        let end = row.len().min((x as usize + width as usize) * 3);
        row.get_mut(x as usize * 3..end).unwrap_or_default()
    }

    /// Lays a picture with its upper left corner at `left`, `top`. Rows that do not fit are left out.
    pub fn paste(&mut self, picture: &Rgb, left: u32, top: u32) {
        let stride = (picture.width as usize * 3).max(1);
        for (y, source) in (top..).zip(picture.pixels.chunks_exact(stride)) {
            let target = self.row(left, y, picture.width);
            if target.len() == source.len() {
                target.copy_from_slice(source);
            }
        }
    }

    /// What lies on it.
    pub fn into_picture(self) -> Rgb {
        self.picture
    }
}

/// Pictures in reading order, `columns` to a row, with a thin gutter between them. They are copied, never scaled; the largest
/// sets the cell. No pictures make one of a single pixel, which every format can hold.
pub fn grid(pictures: &[Rgb], columns: usize) -> Rgb {
    let columns = columns.clamp(1, pictures.len().max(1));
    let cell = |side: fn(&Rgb) -> u32| pictures.iter().map(side).max().unwrap_or(0).max(1);
    let (width, height) = (cell(|picture| picture.width), cell(|picture| picture.height));
    let span = |count: usize, side: u32| (count as u32).saturating_mul(side + GUTTER_WIDTH) - GUTTER_WIDTH;
    let rows = pictures.len().div_ceil(columns).max(1);
    let mut canvas = Canvas::new(span(columns, width), span(rows, height), GUTTER);
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) =
            ((i % columns) as u32 * (width + GUTTER_WIDTH), (i / columns) as u32 * (height + GUTTER_WIDTH));
        canvas.paste(picture, left, top);
    }
    canvas.into_picture()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: u32, height: u32, value: u8) -> Rgb {
        Rgb { width, height, pixels: vec![value; (width * height * 3) as usize] }
    }

    fn at(picture: &Rgb, x: u32, y: u32) -> u8 {
        picture.pixels[((y * picture.width + x) * 3) as usize]
    }

    #[test]
    fn a_grid_reads_from_left_to_right() {
        let pictures: Vec<Rgb> = (1..=5).map(|value| plain(4, 3, value)).collect();
        let grid = grid(&pictures, 2);
        assert_eq!((grid.width, grid.height), (4 + 2 + 4, 3 + 2 + 3 + 2 + 3));
        assert_eq!(grid.pixels.len(), (grid.width * grid.height * 3) as usize);
        for (i, corner) in [(0, 0), (6, 0), (0, 5), (6, 5), (0, 10)].into_iter().enumerate() {
            assert_eq!(at(&grid, corner.0, corner.1), i as u8 + 1);
            assert_eq!(at(&grid, corner.0 + 3, corner.1 + 2), i as u8 + 1);
        }
        assert_eq!((at(&grid, 4, 0), at(&grid, 0, 3), at(&grid, 9, 12)), (24, 24, 24));
    }

    #[test]
    fn odd_grids_are_pictures_too() {
        assert_eq!(grid(&[], 3), Rgb { width: 1, height: 1, pixels: GUTTER.to_vec() });
        let mixed = grid(&[plain(2, 5, 9), plain(4, 1, 8)], 100);
        assert_eq!((mixed.width, mixed.height), (10, 5));
        assert_eq!((at(&mixed, 1, 4), at(&mixed, 2, 0), at(&mixed, 9, 0), at(&mixed, 9, 1)), (9, 24, 8, 24));
        assert_eq!(grid(&[plain(3, 2, 7)], 0), plain(3, 2, 7));
    }
}
