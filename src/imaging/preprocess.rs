//! From encoded bytes to the square crops a tokenizer takes.

use super::cv2::{Axis, resize_window};
use super::decode::{Area, decode_area};
use super::probe::probe;
use super::resize::{Buffers, Filter, resize_square};
use super::trim::{self, Trim};
use super::{Header, ImageError, Limits, cost};
use crate::random::{Purpose, RowKey};
use std::cell::RefCell;

/// How pixels are resampled, and with that the order of crop and resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resize {
    /// Crops a square of the shorter side, then resizes as Pillow's `BICUBIC` (a = -0.5, antialiased): the paper's LSUN.
    PillowBicubic,
    /// As `PillowBicubic`, with Pillow's `LANCZOS` (3 lobes).
    PillowLanczos,
    /// As `PillowBicubic`, with Pillow's `BILINEAR` (a triangle, antialiased).
    PillowBilinear,
    /// As `PillowBicubic`, with Pillow's `BOX`.
    PillowBox,
    /// Resizes the shorter side to the size as OpenCV's `INTER_LINEAR` (no antialiasing), then crops: the paper's FFHQ and
    /// ImageNet (albumentations `SmallestMaxSize`, then `CenterCrop` or `RandomCrop`).
    Cv2Linear,
}

impl Resize {
    fn filter(self) -> Option<Filter> {
        match self {
            Resize::PillowBicubic => Some(Filter::Bicubic),
            Resize::PillowLanczos => Some(Filter::Lanczos),
            Resize::PillowBilinear => Some(Filter::Bilinear),
            Resize::PillowBox => Some(Filter::Box),
            Resize::Cv2Linear => None,
        }
    }
}

/// Where crops lie along the longer side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CropMode {
    /// In the middle, rounded down.
    Center,
    /// At a random offset, drawn from the row's own random numbers.
    Random,
}

/// Whether mirror images are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flip {
    None,
    /// Each crop is followed by its mirror image, left to right, as a row of its own.
    Both,
}

/// What is done to each image of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preprocess {
    /// Side of the crops after resizing, in pixels; 0 counts as 1.
    pub size: u32,
    pub resize: Resize,
    pub crop: CropMode,
    /// Crops an image. More than one makes sense with [`CropMode::Random`] only.
    pub crops: u32,
    pub flip: Flip,
    /// What is cut off before the image is cropped.
    pub trim: Trim,
    pub limits: Limits,
}

/// The square of the original that a crop shows, in original pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CropRect {
    pub x: u32,
    pub y: u32,
    /// Its side: always the shorter side of the image, or of what trimming leaves of it.
    pub size: u32,
}

/// One row for the tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crop {
    /// `[size, size, 3]`, 8 bits.
    pub pixels: Vec<u8>,
    /// Width and height of the original, as stored: bars that were trimmed count.
    pub original: (u32, u32),
    /// Where it lies in the original. Exact for the Pillow resizes; with [`Resize::Cv2Linear`], which crops after resizing, the
    /// window's offset is scaled back and rounded to the nearest pixel.
    pub rect: CropRect,
    /// Whether it is the mirror image of what `rect` shows.
    pub flipped: bool,
    /// Its number among the rows of its image, `0..rows_per_image()`: what its row key counts.
    pub index: u32,
}

/// A window of the resized image, or of the original where the crop comes first.
#[derive(Clone, Copy, Debug)]
struct Plan {
    x: u32,
    y: u32,
    rect: CropRect,
}

/// Buffers of a worker thread that are worth keeping between images.
#[derive(Default)]
struct Scratch {
    buffers: Buffers,
    pixels: Vec<u8>,
}

/// Buffers above this many bytes go back to the system: one huge image must not cost each worker that memory for good.
const KEPT_BYTES: usize = 4 << 20;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Preprocess {
    /// Rows that one image becomes.
    pub fn rows_per_image(&self) -> u32 {
        match self.flip {
            Flip::None => self.crops,
            Flip::Both => self.crops.saturating_mul(2),
        }
    }

    /// Bytes of memory that an image and the rows it becomes occupy until the rows leave: [`cost`] plus the rows.
    pub fn cost(&self, bytes: &[u8]) -> u64 {
        let row = (u64::from(self.size) * u64::from(self.size)).saturating_mul(3);
        cost(bytes, &self.limits).saturating_add(row.saturating_mul(u64::from(self.rows_per_image())))
    }

    /// Decodes an image and cuts its crops, in the order of [`Crop::index`]: crop 0, its mirror image (with [`Flip::Both`]),
    /// crop 1 and so on. `row` gives the random numbers of the row of an index; a mirror image shares the place of its crop.
    ///
    /// # Errors
    /// Those of [`decode`](super::decode()).
    pub fn prepare(&self, bytes: &[u8], row: impl Fn(u32) -> RowKey) -> Result<Vec<Crop>, ImageError> {
        self.prepare_padded(bytes, None, row)
    }

    /// Like [`Preprocess::prepare`], of an image that may have been padded: `padded` is the width and height of the picture
    /// before it was scaled and padded, where that is known. It matters to [`Trim`] alone.
    ///
    /// # Errors
    /// Those of [`Preprocess::prepare`], and [`ImageError::TooSmall`] when trimming leaves too little.
    pub fn prepare_padded(
        &self,
        bytes: &[u8],
        padded: Option<(u32, u32)>,
        row: impl Fn(u32) -> RowKey,
    ) -> Result<Vec<Crop>, ImageError> {
        let this = Preprocess { size: self.size.max(1), ..*self };
        let header = probe(bytes, &this.limits)?;
        let mut scratch = SCRATCH.take();
        let result = match this.trim {
            Trim::WhiteBorder if header.width == header.height => {
                this.trimmed(bytes, &header, padded, row, &mut scratch)
            }
            _ => this.cut(bytes, &header, &this.plans(&header, row), &mut scratch),
        };
        if scratch.pixels.capacity() > KEPT_BYTES {
            scratch.pixels = Vec::new();
        }
        if scratch.buffers.bytes() > KEPT_BYTES {
            scratch.buffers = Buffers::default();
        }
        SCRATCH.set(scratch);
        result
    }

    fn plans(&self, header: &Header, row: impl Fn(u32) -> RowKey) -> Vec<Plan> {
        let per_crop = if self.flip == Flip::Both { 2 } else { 1 };
        (0..self.crops).map(|crop| self.plan(header, || row(crop * per_crop))).collect()
    }

    /// Crops what trimming leaves of the image. Places stay those in the image as stored.
    fn trimmed(
        &self,
        bytes: &[u8],
        header: &Header,
        padded: Option<(u32, u32)>,
        row: impl Fn(u32) -> RowKey,
        scratch: &mut Scratch,
    ) -> Result<Vec<Crop>, ImageError> {
        let size = (header.width, header.height);
        let whole = Area::whole(size.0, size.1);
        decode_area(bytes, header, whole, &mut scratch.pixels)?;
        let picture = trim::picture(&scratch.pixels, size, padded);
        if let Some(picture) = picture {
            trim::keep(&mut scratch.pixels, header.width, picture);
        }
        let picture = picture.unwrap_or(whole);
        let (width, height, limit) = (picture.width, picture.height, self.limits.min_side);
        if width.min(height) < limit {
            return Err(ImageError::TooSmall { width, height, limit });
        }
        let inner = Header { width, height, ..*header };
        let plans = self.plans(&inner, row);
        let mut crops = self.crops(&inner, &plans, Area::whole(width, height), scratch);
        for crop in &mut crops {
            crop.original = size;
            crop.rect.x += picture.x;
            crop.rect.y += picture.y;
        }
        Ok(crops)
    }

    fn cut(
        &self,
        bytes: &[u8],
        header: &Header,
        plans: &[Plan],
        scratch: &mut Scratch,
    ) -> Result<Vec<Crop>, ImageError> {
        let Some(wanted) = plans.iter().map(|plan| self.reads(header, plan)).reduce(join) else {
            return Ok(Vec::new());
        };
        let area = decode_area(bytes, header, wanted, &mut scratch.pixels)?;
        Ok(self.crops(header, plans, area, scratch))
    }

    /// The crops of an image of which `scratch` holds `area`.
    fn crops(&self, header: &Header, plans: &[Plan], area: Area, scratch: &mut Scratch) -> Vec<Crop> {
        let mut crops = Vec::with_capacity(self.rows_per_image() as usize);
        for plan in plans {
            let pixels = self.render(header, plan, area, scratch);
            let crop = Crop {
                pixels,
                original: (header.width, header.height),
                rect: plan.rect,
                flipped: false,
                index: crops.len() as u32,
            };
            let mirrored = (self.flip == Flip::Both).then(|| Crop {
                pixels: mirror(&crop.pixels, self.size),
                flipped: true,
                index: crop.index + 1,
                ..crop.clone()
            });
            crops.push(crop);
            crops.extend(mirrored);
        }
        crops
    }

    /// Where a crop lies.
    fn plan(&self, header: &Header, row: impl FnOnce() -> RowKey) -> Plan {
        let (width, height) = (header.width, header.height);
        let side = width.min(height);
        let (full, window) = match self.resize {
            Resize::Cv2Linear => {
                let (x, y) = self.axes(header);
                ((x.to, y.to), self.size)
            }
            _ => ((width, height), side),
        };
        let room = (full.0.saturating_sub(window), full.1.saturating_sub(window));
        let (x, y) = match self.crop {
            CropMode::Center => (room.0 / 2, room.1 / 2),
            CropMode::Random => {
                let row = row();
                let draw = |position, room: u32| row.below(Purpose::Crop, position, room.saturating_add(1));
                (draw(0, room.0), draw(1, room.1))
            }
        };
        let back = |at: u32, full: u32, original: u32| {
            let scaled = (f64::from(at) * f64::from(original) / f64::from(full)).round() as u32;
            scaled.min(original - side)
        };
        Plan { x, y, rect: CropRect { x: back(x, full.0, width), y: back(y, full.1, height), size: side } }
    }

    /// The sizes albumentations' `SmallestMaxSize` resizes to: half to even, as Python's `round`.
    fn axes(&self, header: &Header) -> (Axis, Axis) {
        let scale = f64::from(self.size) / f64::from(header.width.min(header.height));
        let axis = |from: u32| Axis { from, to: ((f64::from(from) * scale).round_ties_even() as u32).max(self.size) };
        (axis(header.width), axis(header.height))
    }

    /// The pixels of the original that a crop depends on.
    fn reads(&self, header: &Header, plan: &Plan) -> Area {
        let (x, y) = match self.resize {
            Resize::Cv2Linear => {
                let axes = self.axes(header);
                (axes.0.sources(plan.x..plan.x + self.size), axes.1.sources(plan.y..plan.y + self.size))
            }
            _ => (plan.x..plan.x + plan.rect.size, plan.y..plan.y + plan.rect.size),
        };
        Area { x: x.start, y: y.start, width: x.end - x.start, height: y.end - y.start }
    }

    fn render(&self, header: &Header, plan: &Plan, area: Area, scratch: &mut Scratch) -> Vec<u8> {
        let Scratch { buffers, pixels } = scratch;
        match self.resize.filter() {
            Some(filter) => resize_square(buffers, filter, pixels, area, (plan.x, plan.y, plan.rect.size), self.size),
            None => resize_window(pixels, area, self.axes(header), (plan.x, plan.y), self.size),
        }
    }
}

/// The smallest area that holds both.
fn join(a: Area, b: Area) -> Area {
    let (x, y) = (a.x.min(b.x), a.y.min(b.y));
    let right = (a.x + a.width).max(b.x + b.width);
    let bottom = (a.y + a.height).max(b.y + b.height);
    Area { x, y, width: right - x, height: bottom - y }
}

/// The mirror image of a square of RGB pixels, left to right.
fn mirror(pixels: &[u8], size: u32) -> Vec<u8> {
    let mut mirrored = Vec::with_capacity(pixels.len());
    for row in pixels.chunks_exact(size as usize * 3) {
        mirrored.extend(row.rchunks_exact(3).flatten());
    }
    mirrored
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::{Rgb, encode_png};

    fn preprocess(resize: Resize, crop: CropMode, crops: u32, flip: Flip) -> Preprocess {
        Preprocess { size: 8, resize, crop, crops, flip, trim: Trim::None, limits: Limits::default() }
    }

    fn picture(width: u32, height: u32) -> Vec<u8> {
        let pixels = (0..width * height * 3).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        encode_png(&Rgb { width, height, pixels }).unwrap()
    }

    fn row(index: u32) -> RowKey {
        RowKey::new(3, "unit", 5, index)
    }

    #[test]
    fn the_centre_is_rounded_down() {
        for (size, expected) in [((21, 10), (5, 0)), ((10, 21), (0, 5)), ((10, 10), (0, 0))] {
            for resize in [Resize::PillowBicubic, Resize::Cv2Linear] {
                let preprocess = preprocess(resize, CropMode::Center, 1, Flip::None);
                let crops = preprocess.prepare(&picture(size.0, size.1), row).unwrap();
                let rect = crops[0].rect;
                // cv2 crops the resized image: 16.8 = 17 wide, 4 to the left, which are 4.94 = 5 of the original.
                assert_eq!((rect.x, rect.y, rect.size), (expected.0, expected.1, 10));
                assert_eq!(crops[0].original, size);
            }
        }
    }

    #[test]
    fn random_crops_cover_the_image_and_depend_on_the_row_alone() {
        let image = picture(30, 10);
        for resize in [Resize::PillowBilinear, Resize::Cv2Linear] {
            let preprocess = preprocess(resize, CropMode::Random, 400, Flip::None);
            let crops = preprocess.prepare(&image, row).unwrap();
            let offsets: std::collections::BTreeSet<u32> = crops.iter().map(|crop| crop.rect.x).collect();
            assert_eq!((offsets.first(), offsets.last()), (Some(&0), Some(&20)));
            assert!(offsets.len() > 14 && crops.iter().all(|crop| crop.rect.y == 0));
            let few = Preprocess { crops: 3, ..preprocess }.prepare(&image, row).unwrap();
            assert!(few == crops[..3]);
            assert_ne!(preprocess.prepare(&image, |index| RowKey::new(4, "unit", 5, index)).unwrap(), crops);
        }
    }

    #[test]
    fn both_ways_each_crop_is_followed_by_its_mirror() {
        let preprocess = preprocess(Resize::PillowBicubic, CropMode::Random, 3, Flip::Both);
        let crops = preprocess.prepare(&picture(40, 11), row).unwrap();
        assert_eq!(crops.len() as u32, preprocess.rows_per_image());
        for (number, pair) in crops.chunks(2).enumerate() {
            assert_eq!((pair[0].index, pair[1].index), (2 * number as u32, 2 * number as u32 + 1));
            assert_eq!((pair[0].flipped, pair[1].flipped), (false, true));
            assert_eq!(pair[0].rect, pair[1].rect);
            for (row, mirrored) in pair[0].pixels.chunks(24).zip(pair[1].pixels.chunks(24)) {
                assert!(row.chunks(3).eq(mirrored.rchunks(3)));
            }
        }
    }

    #[test]
    fn extremes_have_an_answer() {
        for (width, height) in [(1, 1), (1, 500), (3000, 1), (2, 9)] {
            for resize in [Resize::PillowLanczos, Resize::PillowBox, Resize::Cv2Linear] {
                for size in [0, 1, 8, 33] {
                    let preprocess = Preprocess { size, ..preprocess(resize, CropMode::Random, 2, Flip::Both) };
                    let crops = preprocess.prepare(&picture(width, height), row).unwrap();
                    let side = size.max(1) as usize;
                    assert!(crops.iter().all(|crop| crop.pixels.len() == side * side * 3));
                    assert!(crops.iter().all(|crop| crop.rect.x < width && crop.rect.y < height));
                }
            }
        }
        assert!(
            preprocess(Resize::PillowBox, CropMode::Center, 0, Flip::Both)
                .prepare(&picture(4, 4), row)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn cost_counts_the_rows() {
        let one = preprocess(Resize::PillowBox, CropMode::Random, 1, Flip::None);
        let many = Preprocess { crops: 5, flip: Flip::Both, ..one };
        let image = picture(20, 20);
        assert_eq!(many.cost(&image) - one.cost(&image), 9 * 8 * 8 * 3);
        assert_eq!(one.cost(b"not an image"), 12 + 8 * 8 * 3);
    }
}
