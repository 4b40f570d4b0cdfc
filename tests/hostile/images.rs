//! Images: each is decoded, refused for the reason its item names, or treated in one of the further ways it accepts.

use crate::json;
use imagebart::imaging::{Format, Limits, Rgb, decode, probe};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// What Pillow made of some of the images.
pub struct References {
    root: PathBuf,
    images: Value,
}

impl References {
    /// Reads `REFERENCE.json` in `root`.
    pub fn load(root: &Path) -> References {
        References { root: root.to_owned(), images: json(&root.join("REFERENCE.json"))["images"].take() }
    }

    fn of(&self, file: &str) -> Option<&Value> {
        let id = format!("hostile:{file}");
        self.images.as_array()?.iter().find(|image| text(image, "id") == Some(&id))
    }
}

/// Whether the image at `path` is treated as `item` says; else what is wrong.
pub fn check(item: &Value, path: &Path, references: &References) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let reference = references.of(text(item, "file").unwrap_or_default());
    check_bytes(item, &bytes, reference, &references.root)
}

fn check_bytes(item: &Value, bytes: &[u8], reference: Option<&Value>, references: &Path) -> Result<(), String> {
    let decoded = decode(bytes, &Limits::default());
    let action = text(item, "action").ok_or("no action")?;
    let accepted = |other: &str| {
        item["accept"].as_array().is_some_and(|list| list.iter().any(|accept| accept.as_str() == Some(other)))
    };
    match decoded {
        Ok(image) if action == "decode" => check_pixels(item, bytes, &image, reference, references),
        Ok(_) if accepted("decode") => Ok(()),
        Ok(_) => Err(format!("decoded, expected {action} for {}", item["reason"])),
        Err(error) if action == "skip" || accepted("skip") => {
            let reason = error.reason().code();
            let named: Vec<&str> =
                ["reason", "accept_reason"].into_iter().filter_map(|field| text(item, field)).collect();
            // An item that may be skipped without a reason named may be skipped for any.
            if named.is_empty() || named.contains(&reason) {
                Ok(())
            } else {
                Err(format!("refused as {reason} ({error}), expected {named:?}"))
            }
        }
        Err(error) => Err(format!("refused as {} ({error}), expected {action}", error.reason().code())),
    }
}

fn check_pixels(
    item: &Value,
    bytes: &[u8],
    image: &Rgb,
    reference: Option<&Value>,
    references: &Path,
) -> Result<(), String> {
    let size = (item["width"].as_u64(), item["height"].as_u64());
    if size != (Some(image.width.into()), Some(image.height.into())) {
        return Err(format!("{}x{} pixels, expected {size:?}", image.width, image.height));
    }
    if image.pixels.len() as u64 != u64::from(image.width) * u64::from(image.height) * 3 {
        return Err(format!("{} bytes for {}x{} pixels", image.pixels.len(), image.width, image.height));
    }
    if text(item, "rgb_sha256") == Some(&hex(&image.pixels)) {
        return Ok(());
    }
    let format = probe(bytes, &Limits::default()).map_err(|error| error.to_string())?.format;
    let inexact = text(item, "note").is_some_and(|note| note.contains("+-1"));
    match (format, reference) {
        // Other decoders of lossy formats differ by small amounts: compare where there are pixels to compare with.
        (Format::Jpeg | Format::WebP, Some(reference)) => close_to_reference(bytes, reference, references),
        (Format::Jpeg | Format::WebP, None) => Ok(()),
        _ if inexact => Ok(()),
        _ => Err("lossless pixels differ from the reference".to_owned()),
    }
}

/// The centre crop at 256 against the reference's PNG: mean difference below half a step.
fn close_to_reference(bytes: &[u8], reference: &Value, references: &Path) -> Result<(), String> {
    use imagebart::imaging::{CropMode, Flip, Preprocess, Resize, Trim};
    let file = text(reference, "file").ok_or("the reference has no file")?;
    let expected = std::fs::read(references.join(file)).map_err(|error| error.to_string())?;
    let expected = decode(&expected, &Limits::default()).map_err(|error| error.to_string())?;
    let preprocess = Preprocess {
        size: expected.width,
        resize: Resize::PillowBicubic,
        crop: CropMode::Center,
        crops: 1,
        flip: Flip::None,
        trim: Trim::None,
        limits: Limits::default(),
    };
    let row = |crop| imagebart::random::RowKey::new(0, "hostile", 0, crop);
    let crops = preprocess.prepare(bytes, row).map_err(|error| error.to_string())?;
    let sum: u64 = crops[0].pixels.iter().zip(&expected.pixels).map(|(&a, &b)| u64::from(a.abs_diff(b))).sum();
    let mean = sum as f64 / expected.pixels.len() as f64;
    if mean < 0.5 { Ok(()) } else { Err(format!("mean difference from the reference crop {mean:.3}")) }
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value[field].as_str()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
