//! Baseline JPEGs of all common kinds, against what Pillow (13.0.0, libjpeg-turbo 3.2.0) makes of them: `NAME.jpg` and
//! `NAME.png` in `tests/fixtures/jpeg`, drawn with NumPy for this purpose.

use imagebart::imaging::{CropMode, Flip, ImageError, Limits, Preprocess, Resize, Rgb, Trim, decode};
use imagebart::random::RowKey;
use std::path::{Path, PathBuf};

fn fixtures() -> Vec<(String, Vec<u8>, Rgb)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jpeg");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    paths.sort();
    assert!(!paths.is_empty());
    paths
        .into_iter()
        .map(|path| {
            let expected = decode(&std::fs::read(path.with_extension("png")).unwrap(), &Limits::default()).unwrap();
            (path.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap(), expected)
        })
        .collect()
}

#[test]
fn pixels_are_libjpegs() {
    for (name, bytes, expected) in fixtures() {
        let image = decode(&bytes, &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((image.width, image.height), (expected.width, expected.height), "{name}");
        let largest = image.pixels.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert_eq!(largest, Some(0), "{name}");
    }
}

/// A crop is decoded from the blocks it needs; it must be what the whole image gives.
#[test]
fn a_crop_is_the_same_from_part_and_whole() {
    for (name, bytes, expected) in fixtures() {
        let side = expected.width.min(expected.height);
        let preprocess = |size, resize| Preprocess {
            size,
            resize,
            crop: CropMode::Random,
            crops: 1,
            flip: Flip::None,
            trim: Trim::None,
            limits: Limits::default(),
        };
        let png = imagebart::imaging::encode_png(&expected).unwrap();
        for draw in 0..12 {
            let row = |crop| RowKey::new(draw, &name, 0, crop);
            for (size, resize) in [(side, Resize::PillowBox), (24, Resize::PillowBicubic), (24, Resize::Cv2Linear)] {
                let preprocess = preprocess(size, resize);
                let part = preprocess.prepare(&bytes, row).unwrap();
                let whole = preprocess.prepare(&png, row).unwrap();
                assert!(part == whole, "{name}, {resize:?} at {size}, draw {draw}");
            }
        }
    }
}

/// Cut anywhere in its scan, an image is truncated; without its end marker alone it is whole.
#[test]
fn a_cut_image_is_truncated_and_never_gray() {
    for (name, bytes, expected) in fixtures() {
        let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap() + 14;
        let end = bytes.windows(2).rposition(|pair| pair == [0xff, 0xd9]).unwrap();
        for cut in 4..end {
            match decode(&bytes[..cut], &Limits::default()) {
                Err(ImageError::Truncated { .. }) => {}
                // The last bits of the last byte are padding; an image that is whole without it is whole.
                Ok(image) if cut > scan && image == expected => {}
                other => panic!("{name} cut at {cut} of {end}: {:?}", other.map(|_| "other pixels")),
            }
        }
        assert!(decode(&bytes[..end], &Limits::default()).is_ok_and(|image| image == expected), "{name} without EOI");
    }
}
