//! `preprocessing.safetensors`: decoding, crop and resize of the reference loaders, as bytes.

use imagebart::imaging::{CropMode, Flip, Limits, Preprocess, Resize, Trim, decode};
use imagebart::random::RowKey;
use safetensors::SafeTensors;
use serde_json::Value;

/// Checks every `out.*` tensor of the fixture and returns the largest error, in units of one 8-bit step; the float output is
/// compared after `x / 127.5 - 1`, scaled back.
///
/// # Errors
/// A sentence that names the tensor that is missing, unknown or of another shape.
pub fn check(tensors: &SafeTensors, _config: &Value) -> Result<f32, String> {
    let mut largest = 0f32;
    for (name, tensor) in tensors.tensors() {
        let Some(rest) = name.strip_prefix("out.") else { continue };
        let (image, what) = rest.split_once('.').ok_or_else(|| format!("{name}: no image in the name"))?;
        let png = tensors.tensor(&format!("in.{image}.png")).map_err(|error| format!("in.{image}.png: {error}"))?;
        let expected: Vec<f32> = match tensor.dtype() {
            safetensors::Dtype::U8 => tensor.data().iter().map(|&value| f32::from(value)).collect(),
            safetensors::Dtype::F32 => floats(tensor.data()).map(|value| (value + 1.0) * 127.5).collect(),
            other => return Err(format!("{name}: unexpected type {other:?}")),
        };
        let ours = ours(png.data(), what).map_err(|error| format!("{name}: {error}"))?;
        if ours.len() != expected.len() {
            return Err(format!("{name}: {} values, expected {}", ours.len(), expected.len()));
        }
        let error = ours.iter().zip(&expected).map(|(&a, &b)| (f32::from(a) - b).abs()).fold(0.0, f32::max);
        // Rounding of the float output, 2^-24 of 127.5, is no step.
        largest = largest.max(if error < 1e-4 { 0.0 } else { error });
    }
    Ok(largest)
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// What this crate makes of the image for the case `what`: `rgb`, `lsun.<filter>.s<size>`, `lsun_f32.s<size>`,
/// `lsun.nosize`, `paths.s<size>`.
fn ours(png: &[u8], what: &str) -> Result<Vec<u8>, String> {
    if what == "rgb" {
        return decode(png, &Limits::default()).map(|image| image.pixels).map_err(|error| error.to_string());
    }
    let (kind, size) = what.rsplit_once('.').ok_or("no size in the name")?;
    let resize = match kind {
        "lsun" | "lsun_f32" | "lsun.bicubic" => Resize::PillowBicubic,
        "lsun.lanczos" => Resize::PillowLanczos,
        "lsun.bilinear" => Resize::PillowBilinear,
        "lsun.box" => Resize::PillowBox,
        "paths" => Resize::Cv2Linear,
        other => return Err(format!("unknown kind {other}")),
    };
    let size = match size.strip_prefix('s') {
        Some(size) => size.parse().map_err(|_| format!("unknown size {size}"))?,
        // Without a size the crop keeps that of the shorter side.
        None => {
            let image = decode(png, &Limits::default()).map_err(|error| error.to_string())?;
            image.width.min(image.height)
        }
    };
    let limits = Limits::default();
    let preprocess =
        Preprocess { size, resize, crop: CropMode::Center, crops: 1, flip: Flip::None, trim: Trim::None, limits };
    let crops = preprocess.prepare(png, |crop| RowKey::new(0, "parity", 0, crop)).map_err(|error| error.to_string())?;
    crops.into_iter().next().map(|crop| crop.pixels).ok_or_else(|| "no crop".to_owned())
}
