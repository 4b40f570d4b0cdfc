//! Crops against those of the reference loaders: every image of `reference/REFERENCE.json`, and the parity fixture.

use crate::{preprocessing, skip};

use imagebart::imaging::{CropMode, Flip, Format, Limits, Preprocess, Resize, Trim, decode, probe};
use imagebart::random::RowKey;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

#[test]
fn the_parity_fixture_is_met() {
    let file =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/preprocessing.safetensors"))
            .expect("the fixture is part of the repository");
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let error = preprocessing::check(&tensors, &Value::Null).unwrap();
    println!("preprocessing: largest error {error}");
    assert!(error <= 1.0, "largest error {error}");
}

#[test]
fn reference_crops_are_met() {
    let Some(root) = std::env::var_os("IMAGEBART_DATA_DIR").map(PathBuf::from) else {
        skip::skipped(format_args!("reference_crops_are_met: IMAGEBART_DATA_DIR is not set"));
        return;
    };
    let text = std::fs::read_to_string(root.join("reference/REFERENCE.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let images = reference["images"].as_array().unwrap();
    let (mut checked, mut skipped, mut failures) = (0, 0, Vec::new());
    for image in images {
        let id = image["id"].as_str().unwrap();
        let Some(bytes) = find(&root, image["where"].as_str().unwrap()) else {
            skipped += 1;
            continue;
        };
        let lossless =
            matches!(probe(&bytes, &Limits::default()).unwrap().format, Format::Png | Format::Gif | Format::Bmp);
        for (kind, resize) in [("file", Resize::PillowBicubic), ("taming_linear256", Resize::Cv2Linear)] {
            let Some(file) = image[kind].as_str() else { continue };
            let (mean, largest) = compare(&bytes, resize, &root.join("reference").join(file));
            println!("{id} {resize:?}: mean {mean:.4}, largest {largest}");
            if if lossless { largest > 1 } else { mean >= 0.5 } {
                failures.push(format!("{id} {resize:?}: mean {mean:.4}, largest {largest}"));
            }
            checked += 1;
        }
    }
    println!(
        "{checked} crops compared; {skipped} of {} images skipped: their container has no reader here",
        images.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(checked > images.len() / 2, "only {checked} crops compared");
}

/// Mean and largest difference between our crop and the reference's.
fn compare(bytes: &[u8], resize: Resize, expected: &Path) -> (f64, u8) {
    let expected = decode(&std::fs::read(expected).unwrap(), &Limits::default()).unwrap();
    let limits = Limits::default();
    let preprocess = Preprocess {
        size: expected.width,
        resize,
        crop: CropMode::Center,
        crops: 1,
        flip: Flip::None,
        trim: Trim::None,
        limits,
    };
    let crops = preprocess.prepare(bytes, |crop| RowKey::new(0, "reference", 0, crop)).unwrap();
    let differences = || crops[0].pixels.iter().zip(&expected.pixels).map(|(&a, &b)| a.abs_diff(b));
    let sum: u64 = differences().map(u64::from).sum();
    (sum as f64 / expected.pixels.len() as f64, differences().max().unwrap())
}

/// The bytes at `place`: a file, or `archive.tar -> member`, where the member may be a tar again. `None` for containers
/// that need a reader of their own (LMDB keys).
fn find(root: &Path, place: &str) -> Option<Vec<u8>> {
    let mut parts = place.split(" -> ");
    let file = root.join(parts.next()?);
    if !file.is_file() {
        return None;
    }
    let mut bytes = std::fs::read(&file).unwrap();
    for member in parts {
        bytes = tar_member(&bytes, member).unwrap_or_else(|| panic!("{place}: no member {member}"));
    }
    Some(bytes)
}

fn tar_member(archive: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path_bytes().as_ref() == name.as_bytes() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            return Some(bytes);
        }
    }
    None
}
