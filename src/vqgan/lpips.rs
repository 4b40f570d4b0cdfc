//! LPIPS, the perceptual distance of VQGAN training (Zhang et al., CVPR 2018): weighted differences of VGG16 features.

use crate::torch::weights::{Init, TensorSpec, Weights, WeightsError};
use std::collections::BTreeMap;
use tch::{CModule, Device, Kind, TchError, Tensor};

/// The convolutions of each slice of VGG16, as their numbers in torchvision's `features`, and the slice's channels.
const SLICES: [(&[usize], i64); 5] =
    [(&[0, 2], 64), (&[5, 7], 128), (&[10, 12, 14], 256), (&[17, 19, 21], 512), (&[24, 26, 28], 512)];
const EPSILON: f64 = 1e-10;

/// A perceptual distance of images.
#[derive(Debug)]
pub enum Perceptual {
    Lpips(Lpips),
    /// A TorchScript module that takes two batches of images, `[batch, 3, h, w]` in [-1, 1], and gives one distance an image.
    Script(CModule),
}

impl Perceptual {
    /// The distance of images in [-1, 1]: two of `[batch, 3, h, w]` to `[batch, 1, 1, 1]`.
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Perceptual::Lpips(lpips) => lpips.distance(a, b),
            Perceptual::Script(module) => module.forward_ts(&[a, b])?.f_view([a.size4()?.0, 1, 1, 1]),
        }
    }
}

/// The network's tensors, which record no gradient.
#[derive(Debug)]
pub struct Lpips {
    tensors: BTreeMap<String, Tensor>,
}

impl Lpips {
    /// Every tensor, under its name in taming's LPIPS (without `loss.perceptual_loss.`). Fresh values are only good for tests:
    /// the distance means something with trained weights alone.
    pub fn tensors() -> Vec<TensorSpec> {
        let mut list = Vec::new();
        let mut input = 3;
        for (slice, (convolutions, width)) in SLICES.iter().enumerate() {
            for number in *convolutions {
                let bound = (6.0 / (input * 9) as f64).sqrt();
                let name = convolution(slice, *number);
                list.push(TensorSpec::new(format!("{name}.weight"), &[*width, input, 3, 3], Init::Uniform(bound)));
                list.push(TensorSpec::new(format!("{name}.bias"), &[*width], Init::Constant(0.0)));
                input = *width;
            }
            let weights = Init::Constant(1.0 / *width as f64);
            list.push(TensorSpec::new(linear(slice), &[1, *width, 1, 1], weights));
        }
        for name in ["scaling_layer.scale", "scaling_layer.shift"] {
            list.push(TensorSpec::new(name, &[1, 3, 1, 1], Init::Constant(0.0)));
        }
        list
    }

    /// Takes the weights, which must be all of [`Lpips::tensors`], to the device.
    pub fn load(weights: &Weights, device: Device) -> Result<Lpips, WeightsError> {
        weights.check(&Lpips::tensors())?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in weights.tensors() {
            let placed = tensor.f_detach().and_then(|tensor| tensor.f_to_device(device));
            tensors
                .insert(name.clone(), placed.map_err(|source| WeightsError::Torch { tensor: name.clone(), source })?);
        }
        Ok(Lpips { tensors })
    }

    /// The distance of images in [-1, 1]: two of `[batch, 3, h, w]` to `[batch, 1, 1, 1]`.
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
        let (a, b) = (self.features(a)?, self.features(b)?);
        let mut total: Option<Tensor> = None;
        for (slice, (a, b)) in a.iter().zip(&b).enumerate() {
            let difference = unit(a)?.f_sub(&unit(b)?)?.f_square()?;
            let weighted = difference.f_mul(self.get(&linear(slice))?)?;
            let part = weighted.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?;
            let part = part.f_mean_dim([2i64, 3].as_slice(), true, Kind::Float)?;
            total = Some(match total {
                Some(total) => total.f_add(&part)?,
                None => part,
            });
        }
        total.ok_or_else(|| TchError::Shape("no features".to_owned()))
    }

    /// The outputs of VGG16's five slices: channels 64, 128, 256, 512, 512 at sides 1, 1/2, 1/4, 1/8, 1/16.
    pub fn features(&self, image: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let (shift, scale) = (self.get("scaling_layer.shift")?, self.get("scaling_layer.scale")?);
        let mut x = image.f_sub(shift)?.f_div(scale)?;
        let mut outputs = Vec::with_capacity(SLICES.len());
        for (slice, (convolutions, _)) in SLICES.iter().enumerate() {
            if slice > 0 {
                x = x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
            }
            for number in *convolutions {
                let name = convolution(slice, *number);
                let weight = self.get(&format!("{name}.weight"))?;
                let bias = self.get(&format!("{name}.bias"))?;
                x = x.f_conv2d(weight, Some(bias), [1, 1], [1, 1], [1, 1], 1)?.f_relu()?;
            }
            outputs.push(x.shallow_clone());
        }
        Ok(outputs)
    }

    fn get(&self, name: &str) -> Result<&Tensor, TchError> {
        let missing = || TchError::TensorNameNotFound(name.to_owned(), "LPIPS".to_owned());
        self.tensors.get(name).ok_or_else(missing)
    }
}

fn convolution(slice: usize, number: usize) -> String {
    format!("net.slice{}.{number}", slice + 1)
}

fn linear(slice: usize) -> String {
    format!("lin{slice}.model.1.weight")
}

/// Features scaled to length 1 at every position.
fn unit(features: &Tensor) -> Result<Tensor, TchError> {
    let length = features.f_square()?.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?.f_sqrt()?;
    features.f_div(&length.f_add_scalar(EPSILON)?)
}
