//! The contact sheet: pairs of original and reconstruction, or samples alone, in a grid, as one picture.

use super::{GalleryError, Original, Tile};
use crate::imaging::{Canvas, Rgb};

/// The largest sheet, in pixels.
pub const MAX_PIXELS: u64 = 1 << 28;

const GROUND: [u8; 3] = [24, 24, 27];
const HATCH: [u8; 3] = [52, 52, 58];
/// Pixels between the two pictures of a pair.
const SEAM: u32 = 1;
/// Pixels between pairs and round the sheet.
const GAP: u32 = 6;

/// Columns that make a sheet of these tiles about 4:3; full rows where they are near.
pub fn columns_for(tiles: &[&Tile]) -> u32 {
    let (width, height) = tiles.first().map_or((0, 0), |tile| (tile.picture.width, tile.picture.height));
    let width = match tiles.iter().any(|tile| tile.is_pair()) {
        true => 2.0 * f64::from(width) + f64::from(SEAM),
        false => f64::from(width),
    };
    let (count, shape) = (tiles.len(), (width + f64::from(GAP)) / (f64::from(height) + f64::from(GAP)));
    let ideal = ((count as f64 * 4.0 / 3.0 / shape).sqrt().round() as usize).clamp(1, count.clamp(1, 1 << 16));
    let near = [ideal, ideal + 1, ideal.saturating_sub(1)];
    near.into_iter().find(|&columns| columns > 0 && count.is_multiple_of(columns)).unwrap_or(ideal) as u32
}

/// Lays the tiles out row by row, `columns` to a row. Of a pair the original is left (hatched where it is missing), the
/// reconstruction right. Pictures are copied, never scaled; the largest sets the cell.
pub fn compose(tiles: &[&Tile], columns: u32) -> Result<Rgb, GalleryError> {
    let columns = columns.clamp(1, tiles.len().clamp(1, 1 << 16) as u32);
    let pictures = || tiles.iter().flat_map(|tile| tile.original.found().into_iter().chain([&tile.picture]));
    let pairs = tiles.iter().any(|tile| tile.is_pair());
    let cell_width = u64::from(pictures().map(|p| p.width).max().unwrap_or(0));
    let cell_height = u64::from(pictures().map(|p| p.height).max().unwrap_or(0));
    let (seam, gap) = (u64::from(SEAM), u64::from(GAP));
    let rows = (tiles.len() as u64).div_ceil(u64::from(columns));
    // Where the picture begins within its tile.
    let shift = if pairs { cell_width + seam } else { 0 };
    let tile_width = shift + cell_width;
    let width = gap + u64::from(columns) * (tile_width + gap);
    let height = gap + rows * (cell_height + gap);
    let pixels = width.saturating_mul(height);
    if pixels > MAX_PIXELS {
        return Err(GalleryError::TooLarge { tiles: tiles.len(), pixels });
    }
    // Both fit u32: each side is below MAX_PIXELS.
    let mut sheet = Canvas::new(width as u32, height as u32, GROUND);
    for (i, tile) in (0u64..).zip(tiles) {
        let left = (gap + (i % u64::from(columns)) * (tile_width + gap)) as u32;
        let top = (gap + (i / u64::from(columns)) * (cell_height + gap)) as u32;
        match &tile.original {
            Original::Found(original) => sheet.paste(original, left, top),
            Original::Missing => hatch(&mut sheet, (left, top), (tile.picture.width, tile.picture.height)),
            Original::None => {}
        }
        sheet.paste(&tile.picture, left + shift as u32, top);
    }
    Ok(sheet.into_picture())
}

/// Diagonal lines where a picture is missing.
fn hatch(sheet: &mut Canvas, (left, top): (u32, u32), (width, height): (u32, u32)) {
    for y in 0..height {
        for (x, pixel) in (0u32..).zip(sheet.row(left, top + y, width).chunks_exact_mut(3)) {
            if (x + y) % 8 == 0 {
                pixel.copy_from_slice(&HATCH);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: u32, height: u32, colour: [u8; 3]) -> Rgb {
        Rgb { width, height, pixels: colour.repeat((width * height) as usize) }
    }

    fn tile(i: u8, original: bool) -> Tile {
        Tile {
            original: if original { Original::Found(plain(8, 8, [i, 1, 0])) } else { Original::Missing },
            picture: plain(8, 8, [i, 2, 0]),
        }
    }

    fn compose(tiles: &[Tile], columns: u32) -> Result<Rgb, GalleryError> {
        super::compose(&tiles.iter().collect::<Vec<_>>(), columns)
    }

    fn columns_for(tiles: &[Tile]) -> u32 {
        super::columns_for(&tiles.iter().collect::<Vec<_>>())
    }

    fn at(sheet: &Rgb, x: u32, y: u32) -> [u8; 3] {
        let i = ((y * sheet.width + x) * 3) as usize;
        sheet.pixels[i..i + 3].try_into().unwrap()
    }

    #[test]
    fn pairs_lie_in_reading_order() {
        let tiles: Vec<Tile> = (0..5).map(|i| tile(i, true)).collect();
        let sheet = compose(&tiles, 2).unwrap();
        assert_eq!((sheet.width, sheet.height), (6 + 2 * (8 + 1 + 8 + 6), 6 + 3 * (8 + 6)));
        assert_eq!(sheet.pixels.len(), (sheet.width * sheet.height * 3) as usize);
        for i in 0..5u32 {
            let (left, top) = (6 + (i % 2) * 23, 6 + (i / 2) * 14);
            assert_eq!(at(&sheet, left, top), [i as u8, 1, 0]);
            assert_eq!(at(&sheet, left + 7, top + 7), [i as u8, 1, 0]);
            assert_eq!(at(&sheet, left + 8, top), GROUND);
            assert_eq!(at(&sheet, left + 9, top), [i as u8, 2, 0]);
            assert_eq!(at(&sheet, left + 16, top + 7), [i as u8, 2, 0]);
            assert_eq!(at(&sheet, left + 17, top), GROUND);
        }
        assert_eq!(at(&sheet, 6 + 23, 6 + 28), GROUND, "the sixth cell is empty");
    }

    #[test]
    fn a_missing_original_is_hatched() {
        let sheet = compose(&[tile(9, false)], 4).unwrap();
        assert_eq!((sheet.width, sheet.height), (6 + 23, 6 + 14));
        assert_eq!(at(&sheet, 6, 6), HATCH);
        assert_eq!(at(&sheet, 7, 6), GROUND);
        assert_eq!(at(&sheet, 15, 6), [9, 2, 0]);
    }

    #[test]
    fn odd_shapes_are_no_trouble() {
        let mut small = tile(1, true);
        small.original = Original::Found(plain(3, 12, [7, 7, 7]));
        let sheet = compose(&[small, tile(2, true)], 2).unwrap();
        assert_eq!(at(&sheet, 6 + 2, 6 + 11), [7, 7, 7]);
        assert_eq!(at(&sheet, 6 + 3, 6), GROUND);
        assert!(compose(&[], 3).unwrap().width > 0);
        let sized = |count, side| {
            let tile = Tile { picture: plain(side, side, [0; 3]), ..tile(0, false) };
            vec![tile; count]
        };
        assert_eq!(columns_for(&sized(64, 64)), 8);
        assert_eq!(columns_for(&sized(1, 256)), 1);
        assert_eq!(columns_for(&[]), 1);
    }
    #[test]
    fn samples_take_one_cell_each() {
        let tiles: Vec<Tile> = (0..3).map(|i| Tile { original: Original::None, ..tile(i, false) }).collect();
        let sheet = compose(&tiles, 2).unwrap();
        assert_eq!((sheet.width, sheet.height), (6 + 2 * (8 + 6), 6 + 2 * (8 + 6)));
        assert_eq!((at(&sheet, 6, 6), at(&sheet, 6 + 14, 6), at(&sheet, 6, 6 + 14)), ([0, 2, 0], [1, 2, 0], [2, 2, 0]));
        assert_eq!(at(&sheet, 6 + 14, 6 + 14), GROUND);
        assert_eq!(columns_for(&vec![tiles[0].clone(); 48]), 8);
    }
}
