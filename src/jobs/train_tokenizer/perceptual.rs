//! The perceptual distance that the user gives: LPIPS weights, or a TorchScript module.

use crate::digest::hex;
use crate::jobs::JobError;
use crate::torch::weights::WeightsFile;
use crate::vqgan::lpips::{Lpips, Perceptual};
use sha2::{Digest, Sha256};
use std::path::Path;
use tch::{CModule, Device, Kind, TchError, Tensor};

/// Loads the distance at `path`, which `key` of the pipeline names, onto the device: it, and what identifies it. Images have sides
/// of `side` pixels.
///
/// # Errors
/// [`JobError::Usage`]: a file that is not there, of another layout, or a module that gives no distance.
pub fn load((key, path): (&str, &str), side: u32, device: Device) -> Result<(Perceptual, String), JobError> {
    let wrong = |detail: String| JobError::Usage(format!("{key}: {detail}"));
    if path.ends_with(".safetensors") {
        let weights = WeightsFile::open(path).and_then(|mut file| file.load(&Lpips::tensors()));
        let weights = weights.map_err(|error| wrong(error.to_string()))?;
        let lpips = Lpips::load(&weights, device).map_err(|error| wrong(error.to_string()))?;
        return Ok((Perceptual::Lpips(lpips), weights.fingerprint().to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|error| wrong(format!("cannot open the file {path}: {error}")))?;
    let no_module = |error: TchError| {
        let first = error.to_string().lines().next().unwrap_or_default().to_owned();
        wrong(format!("{path} is neither a .safetensors file of LPIPS weights nor a TorchScript module: {first}"))
    };
    let mut module = CModule::load_on_device(Path::new(path), device).map_err(no_module)?;
    module.f_set_eval().map_err(no_module)?;
    let module = Perceptual::Script(module);
    try_out(&module, side, device).map_err(|detail| {
        wrong(format!("the module {path} must take two batches of images and give one distance an image: {detail}"))
    })?;
    Ok((module, hex(&Sha256::digest(&bytes))))
}

/// Two images have two distances, and they are numbers.
fn try_out(module: &Perceptual, side: u32, device: Device) -> Result<(), String> {
    let _guard = tch::no_grad_guard();
    let side = i64::from(side);
    let distances = || {
        let images = Tensor::f_zeros([2, 3, side, side], (Kind::Float, device))?;
        let distance = module.distance(&images, &images.f_add_scalar(0.5)?)?;
        Vec::<f64>::try_from(distance.f_flatten(0, -1)?.f_to_kind(Kind::Double)?)
    };
    let first = |error: TchError| error.to_string().lines().next().unwrap_or_default().to_owned();
    match distances().map_err(first)? {
        distances if distances.iter().all(|distance| distance.is_finite()) => Ok(()),
        distances => Err(format!("it gave {distances:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &Path, distance: fn(&Tensor, &Tensor) -> Tensor) {
        let images = || Tensor::rand([2, 3, 8, 8], (Kind::Float, Device::Cpu));
        let mut closure = |inputs: &[Tensor]| vec![distance(&inputs[0], &inputs[1])];
        let module = CModule::create_by_tracing("Distance", "forward", &[images(), images()], &mut closure);
        module.unwrap().save(path).unwrap();
    }

    #[test]
    fn a_module_that_gives_a_distance_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("distance.pt");
        let path = path.to_str().unwrap();
        module(Path::new(path), |a, b| (a - b).square().mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float));
        let (perceptual, id) = load(("evaluate.lpips", path), 16, Device::Cpu).unwrap();
        assert_eq!(id.len(), 64);
        let images = Tensor::zeros([3, 3, 16, 16], (Kind::Float, Device::Cpu));
        let other = (&images + 0.5).set_requires_grad(true);
        let distance = perceptual.distance(&images, &other).unwrap();
        assert_eq!(distance.size(), [3, 1, 1, 1]);
        assert!((distance.mean(Kind::Float).double_value(&[]) - 0.25).abs() < 1e-6);
        distance.sum(Kind::Float).backward();
        assert!(other.grad().defined());

        module(Path::new(path), |a, b| (a - b).square().mean(Kind::Float));
        let refused = load(("evaluate.lpips", path), 16, Device::Cpu).unwrap_err().to_string();
        assert!(refused.contains("one distance an image"), "{refused}");
    }
}
