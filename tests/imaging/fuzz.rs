//! Damaged images of every format: an answer for any bytes, no panic, no pixels beyond what the header announced.

use image::{DynamicImage, ImageFormat, RgbaImage};
use imagebart::imaging::{
    CropMode, Flip, ImageError, Limits, Preprocess, Resize, Trim, cost, decode, encode_jpeg, encode_png, probe,
};
use imagebart::random::RowKey;
use proptest::prelude::*;
use std::io::Cursor;
use std::sync::LazyLock;

/// Small intact files of each format and of several pixel types, and the JPEG fixtures.
static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let picture = DynamicImage::from(RgbaImage::from_fn(23, 17, |x, y| {
        image::Rgba([(x * 11) as u8, (y * 13) as u8, (x * y) as u8, 255 - (x + y) as u8])
    }));
    let file = |picture: DynamicImage, format| {
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, format).unwrap();
        file.into_inner()
    };
    let mut files = vec![
        file(picture.clone(), ImageFormat::Png),
        file(picture.to_rgb8().into(), ImageFormat::Png),
        file(picture.to_luma16().into(), ImageFormat::Png),
        file(picture.to_rgba16().into(), ImageFormat::Png),
        file(picture.clone(), ImageFormat::WebP),
        file(picture.to_rgb8().into(), ImageFormat::WebP),
        file(picture.clone(), ImageFormat::Gif),
        file(picture.to_rgb8().into(), ImageFormat::Bmp),
        file(picture.clone(), ImageFormat::Bmp),
        file(picture.to_luma8().into(), ImageFormat::Bmp),
        file(picture.to_luma8().into(), ImageFormat::Jpeg),
    ];
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jpeg");
    let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    files.extend(
        paths.iter().filter(|path| path.extension().is_some_and(|e| e == "jpg")).map(|p| std::fs::read(p).unwrap()),
    );
    files
});

/// One act of damage; positions are fractions of the file, so that headers and ends are met as often as the middle.
#[derive(Clone, Debug)]
enum Damage {
    Set(f64, u8),
    Flip(f64, u8),
    Cut(f64),
    Remove(f64, usize),
    Repeat(f64, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    // Squared, half of all positions lie in the first quarter, where the headers are.
    let place = || (0.0..1.0f64).prop_map(|place| place * place);
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        4 => (place(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => (0.0..1.0f64).prop_map(Damage::Cut),
        1 => (place(), 1..9usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => (place(), 1..9usize).prop_map(|(at, count)| Damage::Repeat(at, count)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let place = |at: f64| ((at * bytes.len() as f64) as usize).min(bytes.len().saturating_sub(1));
    if bytes.is_empty() {
        return;
    }
    match *damage {
        Damage::Set(at, value) => {
            let at = place(at);
            bytes[at] = value;
        }
        Damage::Flip(at, bit) => {
            let at = place(at);
            bytes[at] ^= 1 << bit;
        }
        Damage::Cut(at) => bytes.truncate(place(at)),
        Damage::Remove(at, count) => {
            let at = place(at);
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Damage::Repeat(at, count) => {
            let at = place(at);
            let part = bytes[at..(at + count).min(bytes.len())].to_vec();
            bytes.splice(at..at, part);
        }
    }
}

/// A million pixels, so that a lying header does not make the test slow.
const LIMITS: Limits = Limits { max_pixels: 1 << 20, max_bytes: 1 << 20, min_side: 1 };

/// What the library says when a decoder panicked. A panic costs one image, but each is a fault to be found.
fn panicked(error: &ImageError) -> bool {
    error.to_string().contains("its decoder failed")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_gets_an_answer(file in 0..1000usize, damages in prop::collection::vec(damage(), 1..5), size in 1..40u32) {
        let mut bytes = FILES[file % FILES.len()].clone();
        damages.iter().for_each(|damage| apply(&mut bytes, damage));
        let header = probe(&bytes, &LIMITS);
        prop_assert!(cost(&bytes, &LIMITS) >= bytes.len() as u64);
        match decode(&bytes, &LIMITS) {
            Ok(image) => {
                let header = header.unwrap();
                prop_assert_eq!((image.width, image.height), (header.width, header.height));
                prop_assert_eq!(image.pixels.len() as u64, header.pixels() * 3);
            }
            Err(error) => prop_assert!(!panicked(&error), "{}", error),
        }
        for resize in [Resize::PillowBicubic, Resize::Cv2Linear] {
            let preprocess = Preprocess { size, resize, crop: CropMode::Random, crops: 2, flip: Flip::Both, trim: Trim::None, limits: LIMITS };
            match preprocess.prepare(&bytes, |crop| RowKey::new(1, "fuzz", 2, crop)) {
                Ok(crops) => {
                    prop_assert_eq!(crops.len(), 4);
                    prop_assert!(crops.iter().all(|crop| crop.pixels.len() == (size * size * 3) as usize));
                }
                Err(error) => prop_assert!(!panicked(&error), "{}", error),
            }
        }
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in 0..6usize) {
        let magics: [&[u8]; 6] = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xf0\0\0\0WEBPVP8 ", b"GIF89a", b"BM"];
        let bytes = [magics[magic], &bytes].concat();
        if let Err(error) = decode(&bytes, &LIMITS) {
            prop_assert!(!panicked(&error), "{}", error);
        }
    }
}

/// A PNG has checksums over everything: no flipped bit of its pixels passes.
#[test]
fn no_flipped_bit_of_a_png_passes() {
    let image = imagebart::imaging::Rgb::new(9, 7, (0..9 * 7 * 3).map(|at| (at * 5) as u8).collect()).unwrap();
    let png = encode_png(&image).unwrap();
    for at in 8..png.len() {
        for bit in 0..8 {
            let mut bytes = png.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(decoded) = decode(&bytes, &Limits::default()) {
                assert!(decoded == image, "bit {bit} of byte {at} of {} changes pixels unseen", png.len());
            }
        }
    }
}

#[test]
fn a_cut_file_of_any_format_is_an_error() {
    for file in FILES.iter() {
        let format = probe(file, &LIMITS).unwrap().format;
        let intact = decode(file, &LIMITS).unwrap();
        for cut in 2..file.len() {
            match decode(&file[..cut], &LIMITS) {
                Ok(image) => assert!(image == intact, "{format} cut at {cut} of {} gives other pixels", file.len()),
                Err(ImageError::Truncated { .. }) => {}
                Err(error) => assert!(cut < 20, "{format} cut at {cut} of {}: {error}", file.len()),
            }
        }
    }
}

#[test]
fn limits_hold_before_anything_is_decoded() {
    let jpeg = encode_jpeg(&imagebart::imaging::Rgb::new(64, 32, vec![7; 64 * 32 * 3]).unwrap(), 80).unwrap();
    // Cut right behind the frame header: only a header is read, or this would be truncated.
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let head = &jpeg[..frame + 20];
    let reason = |limits: Limits| decode(head, &limits).unwrap_err().reason().code();
    assert_eq!(reason(Limits::default()), "truncated");
    assert_eq!(reason(Limits { max_pixels: 64 * 32 - 1, ..Limits::default() }), "too_large");
    assert_eq!(reason(Limits { max_bytes: 10, ..Limits::default() }), "too_large");
    assert_eq!(reason(Limits { min_side: 33, ..Limits::default() }), "too_small");
}
