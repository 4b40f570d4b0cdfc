use super::*;
use crate::imaging::{Crop, CropMode, Flip, Limits, Preprocess, Resize, Rgb, decode, encode_jpeg, encode_png};
use crate::random::RowKey;
use proptest::prelude::*;

/// A picture without a white line at its edges: noise below 200.
fn noise(width: u32, height: u32, seed: u32) -> Rgb {
    let byte = |at: u32| ((at ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8 % 200;
    Rgb { width, height, pixels: (0..width * height * 3).map(byte).collect() }
}

/// A smooth picture, as photographs are: JPEG shades it little.
fn smooth(width: u32, height: u32) -> Rgb {
    let pixel = |at: u32| {
        let (x, y) = (at % width, at / width);
        [40 + (x * 120 / width) as u8, 60 + (y * 100 / height) as u8, 90]
    };
    Rgb { width, height, pixels: (0..width * height).flat_map(pixel).collect() }
}

/// A picture of `side` in its longer side as img2dataset pads it.
fn padded(picture: &Rgb) -> Rgb {
    let side = picture.width.max(picture.height);
    let (left, top) = ((side - picture.width) / 2, (side - picture.height) / 2);
    let mut pixels = vec![255; (side * side * 3) as usize];
    for (y, row) in picture.pixels.chunks(picture.width as usize * 3).enumerate() {
        let start = ((top as usize + y) * side as usize + left as usize) * 3;
        pixels[start..start + row.len()].copy_from_slice(row);
    }
    Rgb { width: side, height: side, pixels }
}

fn found(image: &Rgb, original: Option<(u32, u32)>) -> Option<(u32, u32, u32, u32)> {
    picture(&image.pixels, (image.width, image.height), original).map(|area| (area.x, area.y, area.width, area.height))
}

/// Where `padded` puts a picture; `None` if it is square.
fn place(picture: &Rgb) -> Option<(u32, u32, u32, u32)> {
    let side = picture.width.max(picture.height);
    let bars = picture.width != picture.height;
    bars.then(|| ((side - picture.width) / 2, (side - picture.height) / 2, picture.width, picture.height))
}

proptest! {
    #[test]
    fn bars_go_and_nothing_else(width in 1u32..40, height in 1u32..40, seed: u32) {
        let picture = noise(width, height, seed);
        let image = padded(&picture);
        prop_assert_eq!(found(&image, None), place(&picture));
        // Three times as large before it was scaled.
        prop_assert_eq!(found(&image, Some((3 * width, 3 * height))), place(&picture));
        if let Some(area) = super::picture(&image.pixels, (image.width, image.height), None) {
            let mut pixels = image.pixels.clone();
            keep(&mut pixels, image.width, area);
            prop_assert_eq!(pixels, picture.pixels);
        }
    }

    #[test]
    fn a_known_size_never_cuts_into_white_pictures(width in 1u32..40, height in 1u32..40, gray in 231u8..=255) {
        let picture = Rgb { width, height, pixels: vec![gray; (width * height * 3) as usize] };
        prop_assert_eq!(found(&padded(&picture), Some((width, height))), place(&picture));
    }

    #[test]
    fn no_side_loses_more_than_the_other_has(top in 0u32..12, bottom in 0u32..12, seed: u32) {
        // White margins that no padding explains: only what both sides have goes, and one line of an odd number.
        let mut image = noise(24, 24, seed);
        let line = 24 * 3;
        image.pixels[..top as usize * line].fill(255);
        let end = image.pixels.len();
        image.pixels[end - bottom as usize * line..].fill(255);
        let (first, last) = found(&image, None).map_or((0, 0), |(_, y, _, height)| (y, 24 - y - height));
        let common = top.min(bottom);
        prop_assert_eq!((first, last), (common, if bottom == top + 1 { bottom } else { common }));
    }

    #[test]
    fn other_shapes_are_left_alone(width in 1u32..20, height in 1u32..20, original: Option<(u32, u32)>) {
        prop_assume!(width != height);
        let image = Rgb { width, height, pixels: vec![255; (width * height * 3) as usize] };
        prop_assert_eq!(found(&image, original), None);
    }
}

#[test]
fn what_no_padding_explains_stays() {
    let white = Rgb { width: 30, height: 30, pixels: vec![255; 2700] };
    assert_eq!(found(&white, None), None);
    assert_eq!(found(&white, Some((10, 10))), None, "a square has no bars");
    // A thing on a white ground, with white on all sides.
    let mut thing = white.clone();
    thing.pixels[15 * 90 + 30..15 * 90 + 60].fill(0);
    assert_eq!(found(&thing, None), None);
    // Where the size is known the bars go, and the picture's own margins stay.
    assert_eq!(found(&thing, Some((300, 200))), Some((0, 5, 30, 20)));
    assert_eq!(found(&thing, Some((200, 301))), Some((5, 0, 20, 30)));
    // Another aspect, but no bars: img2dataset cropped it.
    assert_eq!(found(&noise(30, 30, 7), Some((300, 200))), None);
    assert_eq!(found(&noise(30, 30, 7), Some((0, 200))), None);
    assert_eq!(found(&noise(30, 30, 7), Some((u32::MAX, 1))), None);
}

/// The sizes of bars are albumentations': halves to even, the odd line last.
#[test]
fn known_bars_are_albumentations_own() {
    let bars = |original| known_bars(256, original).unwrap();
    assert_eq!(bars((640, 426)), (false, (43, 43)));
    assert_eq!(bars((640, 427)), (false, (42, 43)));
    assert_eq!(bars((478, 640)), (true, (32, 33)));
    assert_eq!(bars((512, 3)), (false, (127, 127)), "1.5 is 2");
    assert_eq!(bars((512, 1)), (false, (127, 128)), "0.5 is 0, which albumentations cannot make");
    assert_eq!(known_bars(256, (5, 5)), None);
}

#[test]
fn a_jpegs_shadows_do_not_hide_its_bars() {
    for quality in [75, 85, 95] {
        for (width, height) in [(96, 64), (96, 61), (70, 96), (96, 33)] {
            let image = padded(&smooth(width, height));
            let jpeg = encode_jpeg(&image, quality).unwrap();
            let image = decode(&jpeg, &Limits::default()).unwrap();
            let expected = place(&smooth(width, height));
            assert_eq!(found(&image, None), expected, "{width} x {height} at quality {quality}");
            assert_eq!(found(&image, Some((width * 5, height * 5))), expected);
        }
    }
}

fn crops(image: &Rgb, trim: Trim, resize: Resize, crop: CropMode) -> Vec<Crop> {
    let preprocess = Preprocess { size: 16, resize, crop, crops: 3, flip: Flip::Both, trim, limits: Limits::default() };
    let bytes = encode_png(image).unwrap();
    preprocess.prepare_padded(&bytes, None, |index| RowKey::new(3, "unit", 5, index)).unwrap()
}

/// Trimming gives the pixels of the picture that was never padded; the crop's place is told in the padded image.
#[test]
fn a_trimmed_image_is_cropped_like_the_picture_in_it() {
    for resize in [Resize::PillowBicubic, Resize::Cv2Linear] {
        for picture in [noise(50, 31, 1), noise(20, 50, 2), noise(24, 24, 3)] {
            let (x, y) = place(&picture).map_or((0, 0), |(x, y, _, _)| (x, y));
            let expected = crops(&picture, Trim::None, resize, CropMode::Random);
            let found = crops(&padded(&picture), Trim::WhiteBorder, resize, CropMode::Random);
            let side = picture.width.max(picture.height);
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.pixels, expected.pixels);
                assert_eq!((found.rect.x, found.rect.y), (expected.rect.x + x, expected.rect.y + y));
                assert_eq!((found.rect.size, found.original), (expected.rect.size, (side, side)));
            }
            assert_eq!(found.len(), expected.len());
            // Without it the bars are in the picture.
            if x + y > 0 {
                assert_ne!(
                    crops(&padded(&picture), Trim::None, resize, CropMode::Center)[0].pixels,
                    expected[0].pixels
                );
            }
        }
    }
}

#[test]
fn what_is_left_must_not_be_too_small() {
    let image = encode_png(&padded(&noise(40, 5, 9))).unwrap();
    let limits = Limits { min_side: 6, ..Limits::default() };
    let preprocess = Preprocess {
        size: 8,
        resize: Resize::PillowBox,
        crop: CropMode::Center,
        crops: 1,
        flip: Flip::None,
        trim: Trim::WhiteBorder,
        limits,
    };
    let error = preprocess.prepare(&image, |_| RowKey::new(0, "unit", 0, 0)).unwrap_err();
    assert_eq!(error.reason(), crate::reject::Reason::TooSmall);
    assert!(Preprocess { trim: Trim::None, ..preprocess }.prepare(&image, |_| RowKey::new(0, "unit", 0, 0)).is_ok());
}
