//! What the formats of named fields or columns share: which names they look for, and what a class and a caption may be.

use super::open::{Captions, DatasetOptions, Labels};
use crate::reject::Reason;

/// Fields and columns of encoded images, in order of preference. The bytes decide about the format, not the name.
pub(super) const IMAGES: [&str; 7] = ["image", "jpg", "jpeg", "png", "webp", "gif", "bmp"];
/// Of classes.
pub(super) const LABELS: [&str; 2] = ["label", "cls"];
/// Of captions.
pub(super) const CAPTIONS: [&str; 3] = ["txt", "caption", "text"];
/// Of a sample's name.
pub(super) const KEYS: [&str; 3] = ["key", "__key__", "name"];

/// Of the size before img2dataset scaled and padded an image.
pub(super) const ORIGINAL: [&str; 2] = ["original_width", "original_height"];

/// Why a sample cannot be used.
pub(super) type Problem = (Reason, String);

/// The names under which a caption is looked for: none where none is wanted.
pub(super) fn caption_names(options: &DatasetOptions) -> Vec<&str> {
    match &options.captions {
        Captions::Auto => CAPTIONS.to_vec(),
        Captions::None => Vec::new(),
        Captions::Json(key) => vec![key],
    }
}

/// The names under which a class is looked for: none where none is wanted.
pub(super) fn label_names(options: &DatasetOptions) -> &'static [&'static str] {
    if options.labels == Labels::None { &[] } else { &LABELS }
}

/// A class, checked against the number of classes.
pub(super) fn label(value: i64, options: &DatasetOptions) -> Result<i32, Problem> {
    let bad = |message: String| (Reason::BadLabel, message);
    let label = i32::try_from(value).ok().filter(|label| *label >= 0);
    let label = label.ok_or_else(|| bad(format!("its label {value} is not a number from 0 to {}", i32::MAX)))?;
    match options.classes {
        Some(classes) if label.cast_unsigned() >= classes => {
            Err(bad(format!("its label {label} is not below {classes}, the number of classes")))
        }
        _ => Ok(label),
    }
}

/// Width and height from numbers, where both are there and make sense.
pub(super) fn size(width: Option<i64>, height: Option<i64>) -> Option<(u32, u32)> {
    let side = |number: Option<i64>| u32::try_from(number?).ok().filter(|side| *side > 0);
    Some((side(width)?, side(height)?))
}

/// The original size that img2dataset's JSON tells.
pub(super) fn original_size(json: &serde_json::Value) -> Option<(u32, u32)> {
    let [width, height] = ORIGINAL.map(|name| json.get(name).and_then(serde_json::Value::as_i64));
    size(width, height)
}

/// A caption from bytes, without line ends at its end.
pub(super) fn caption(bytes: &[u8], field: &str) -> Result<String, Problem> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| (Reason::BadUtf8Caption, format!("its {field} is not UTF-8 ({error})")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// An encoded image's bytes: some, and not more than the limit.
pub(super) fn check_image(size: u64, options: &DatasetOptions) -> Result<(), Problem> {
    match size {
        0 => Err((Reason::Empty, "its image has no bytes".to_owned())),
        n if n > options.max_bytes => Err(too_large(n, options)),
        _ => Ok(()),
    }
}

/// What is said of an image that is not read for its size.
pub(super) fn too_large(size: u64, options: &DatasetOptions) -> Problem {
    (Reason::TooLarge, format!("its image has {size} bytes, more than the limit of {}", options.max_bytes))
}

/// Bytes as text for keys and messages; those that are not UTF-8 as `\xNN`, so that different names stay different.
pub(super) fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}
