//! The primitives the VQGAN's time goes into: convolution, GroupNorm with swish, residual addition.
//!
//! Everything above this file is plumbing. Weights are prepared here once, in the placement's device, dtype and memory layout.
//! Float32 on the CPU with channels last goes through our kernels, which fuse a convolution with the norm before and the addition
//! after it; everything else, and whatever records gradients, through libtorch's operations.

use crate::torch::kernels::{Affine, Around, Instructions, Packed, suits};
use crate::torch::weights::{Weights, WeightsError};
use std::cell::OnceCell;
use tch::{Device, Kind, TchError, Tensor};

const EPSILON: f64 = 1e-6;

/// How the activations of 4-d tensors lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[batch, channels, height, width]` as written.
    Contiguous,
    /// Channels innermost, as pixels come; shapes stay `[batch, channels, height, width]`. On the CPU in float32 the kernels
    /// of [`crate::torch::kernels`] then do the work.
    ChannelsLast,
}

/// Where and how a network computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub device: Device,
    /// `Kind::Float` or `Kind::BFloat16`.
    pub kind: Kind,
    pub layout: Layout,
}

impl Placement {
    /// float32 on the CPU, channels last.
    pub fn cpu() -> Placement {
        Placement { device: Device::Cpu, kind: Kind::Float, layout: Layout::ChannelsLast }
    }

    /// A tensor in this device, dtype and (4-d tensors) memory layout; one that has them is not copied: what is given back is
    /// the same tensor, a leaf that records gradients included.
    pub fn place(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        let tensor = tensor.f_to_device(self.device)?.f_to_kind(self.kind)?;
        match self.layout {
            Layout::ChannelsLast if tensor.dim() == 4 => {
                let rows = tensor.f_permute([0, 2, 3, 1])?;
                if rows.is_contiguous() {
                    return Ok(tensor);
                }
                rows.f_contiguous()?.f_permute([0, 3, 1, 2])
            }
            _ => tensor.f_contiguous(),
        }
    }
}

/// Takes a network's tensors out of [`Weights`] by name and prepares them.
#[derive(Clone, Copy)]
pub struct Loader<'a> {
    pub weights: &'a Weights,
    pub placement: Placement,
    /// Of every GroupNorm; without normalising when 0.
    pub norm_groups: i64,
}

impl Loader<'_> {
    /// A tensor in the placement.
    pub fn tensor(&self, name: &str) -> Result<Tensor, WeightsError> {
        let tensor = self.weights.get(name)?;
        self.placement.place(tensor).map_err(|source| WeightsError::Torch { tensor: name.to_owned(), source })
    }

    /// A convolution of stride 1 that keeps the size.
    pub fn conv(&self, name: &str) -> Result<Conv, WeightsError> {
        self.strided(name, 1)
    }

    /// The downsampling convolution: stride 2, over one more row below and column to the right, of zeros.
    pub fn downsampling_conv(&self, name: &str) -> Result<Conv, WeightsError> {
        self.strided(name, 2)
    }

    fn strided(&self, name: &str, stride: i64) -> Result<Conv, WeightsError> {
        let (weight, bias) = (self.tensor(&format!("{name}.weight"))?, self.tensor(&format!("{name}.bias"))?);
        let kernels = self.placement.layout == Layout::ChannelsLast;
        Ok(Conv { weight, bias, stride, kernels, packed: OnceCell::new() })
    }

    /// A GroupNorm.
    pub fn norm(&self, name: &str) -> Result<Norm, WeightsError> {
        let (weight, bias) = (self.tensor(&format!("{name}.weight"))?, self.tensor(&format!("{name}.bias"))?);
        let kernels = self.placement.layout == Layout::ChannelsLast && !weight.requires_grad() && !bias.requires_grad();
        Ok(Norm { weight, bias, groups: self.norm_groups, kernels })
    }
}

/// A convolution with bias.
#[derive(Debug)]
pub struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    /// Whether the CPU kernels are to be used.
    kernels: bool,
    /// The same weights for these, packed at first use: a decoder that only loads costs no memory. `None` if they cannot serve.
    packed: OnceCell<Option<Packed>>,
}

impl Conv {
    /// `[batch, in, h, w]` to `[batch, out, h', w']`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        match self.packed(x)? {
            Some(packed) => packed.forward(x, Around::default(), Instructions::Best),
            None => self.plain(x),
        }
    }

    /// The convolution of `x` enlarged twice, each pixel to 2×2.
    pub fn upsampled(&self, x: &Tensor) -> Result<Tensor, TchError> {
        match self.packed(x)? {
            Some(packed) if packed.fuses_input() => {
                packed.forward(x, Around { upsample: true, ..Around::default() }, Instructions::Best)
            }
            _ => {
                let (_, _, height, width) = x.size4()?;
                self.forward(&x.f_upsample_nearest2d([height * 2, width * 2], None, None)?)
            }
        }
    }

    /// The convolution plus `residual`, `[batch, out, h', w']`, whose memory it takes: nobody else may hold that tensor.
    pub fn plus(&self, x: &Tensor, residual: Tensor) -> Result<Tensor, TchError> {
        match self.packed(x)? {
            Some(packed) if suits(&residual) => {
                packed.forward(x, Around { residual: Some(residual), ..Around::default() }, Instructions::Best)
            }
            _ => add(self.plain(x)?, &residual),
        }
    }

    /// The convolution of `x` normalised and through swish.
    pub fn after(&self, norm: &Norm, x: &Tensor) -> Result<Tensor, TchError> {
        match self.packed(x)? {
            Some(packed) if packed.fuses_input() => {
                let norm = norm.affine(x)?;
                packed.forward(x, Around { norm: Some(&norm), ..Around::default() }, Instructions::Best)
            }
            _ => self.forward(&norm.swish(x)?),
        }
    }

    /// [`after`](Conv::after) plus `residual`, as [`plus`](Conv::plus) adds it.
    pub fn after_plus(&self, norm: &Norm, x: &Tensor, residual: Tensor) -> Result<Tensor, TchError> {
        match self.packed(x)? {
            Some(packed) if packed.fuses_input() && suits(&residual) => {
                let norm = norm.affine(x)?;
                let around = Around { norm: Some(&norm), upsample: false, residual: Some(residual) };
                packed.forward(x, around, Instructions::Best)
            }
            _ => self.plus(&norm.swish(x)?, residual),
        }
    }

    /// The weights for the kernels, if these can serve `x`.
    fn packed(&self, x: &Tensor) -> Result<Option<&Packed>, TchError> {
        if !self.kernels || !suits(x) {
            return Ok(None);
        }
        if self.packed.get().is_none() {
            let packed = Packed::new(&self.weight, &self.bias, self.stride)?;
            return Ok(self.packed.get_or_init(|| packed).as_ref());
        }
        Ok(self.packed.get().and_then(Option::as_ref))
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let conv = |x: &Tensor, padding: i64| {
            x.f_conv2d(&self.weight, Some(&self.bias), [self.stride; 2], [padding; 2], [1, 1], 1)
        };
        match self.stride {
            1 => conv(x, self.weight.size().get(2).map_or(0, |side| side / 2)),
            _ => conv(&x.f_constant_pad_nd([0, 1, 0, 1])?, 0),
        }
    }
}

/// GroupNorm, eps 1e-6; of no groups it is its scale and shift alone, so that a pixel depends on what is around it only.
#[derive(Debug)]
pub struct Norm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    /// Whether the CPU kernels are to be used.
    kernels: bool,
}

impl Norm {
    /// The normalised tensor, of the input's shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        match self.kernels && suits(x) {
            true => self.affine(x)?.apply(x, false, Instructions::Best),
            false => self.plain(x),
        }
    }

    /// The normalised tensor through swish, x·sigmoid(x).
    pub fn swish(&self, x: &Tensor) -> Result<Tensor, TchError> {
        if self.kernels && suits(x) {
            return self.affine(x)?.apply(x, true, Instructions::Best);
        }
        let mut y = self.plain(x)?;
        if y.requires_grad() { y.f_silu() } else { y.f_silu_() }
    }

    fn affine(&self, x: &Tensor) -> Result<Affine, TchError> {
        if self.groups == 0 {
            return Affine::uniform(x, (&self.weight, &self.bias));
        }
        Affine::group_norm(x, self.groups, EPSILON, (&self.weight, &self.bias), Instructions::Best)
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor, TchError> {
        if self.groups == 0 {
            let channels = |row: &Tensor| row.f_view([1, -1, 1, 1]);
            return x.f_mul(&channels(&self.weight)?)?.f_add(&channels(&self.bias)?);
        }
        x.f_group_norm(self.groups, Some(&self.weight), Some(&self.bias), EPSILON, true)
    }
}

/// `x + y`. Takes the memory of `x`, which nobody else may hold.
fn add(mut x: Tensor, y: &Tensor) -> Result<Tensor, TchError> {
    if x.requires_grad() || y.requires_grad() { x.f_add(y) } else { x.f_add_(y) }
}

/// Single-head attention over positions: `q`, `k`, `v` are `[batch, channels, h, w]`, and so is the result.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, TchError> {
    let (batch, channels, height, width) = q.size4()?;
    let dense = q.is_contiguous();
    let rows = |x: &Tensor| x.f_permute([0, 2, 3, 1])?.f_reshape([batch, height * width, channels]);
    let (q, k, v) = (rows(q)?, rows(k)?, rows(v)?);
    let scores = q.f_bmm(&k.f_transpose(1, 2)?)?.f_mul_scalar((channels as f64).powf(-0.5))?;
    let mixed = scores.f_softmax(2, None)?.f_bmm(&v)?;
    let mixed = mixed.f_reshape([batch, height, width, channels])?.f_permute([0, 3, 1, 2])?;
    // In the layout of what comes in: convolutions and sums would hand another one on to all layers after them.
    if dense { mixed.f_contiguous() } else { Ok(mixed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::spec::{Init, TensorSpec};

    fn weights() -> Weights {
        let spec = |name: &str, shape: &[i64]| TensorSpec::new(name, shape, Init::Normal(0.1));
        let specs = [
            spec("norm.weight", &[32]),
            spec("norm.bias", &[32]),
            spec("conv.weight", &[48, 32, 3, 3]),
            spec("conv.bias", &[48]),
            spec("down.weight", &[32, 32, 3, 3]),
            spec("down.bias", &[32]),
            spec("point.weight", &[48, 32, 1, 1]),
            spec("point.bias", &[48]),
        ];
        Weights::init(&specs, 3).expect("weights")
    }

    /// Every primitive on `x`, in a layout.
    fn results(weights: &Weights, layout: Layout, x: &Tensor) -> Vec<Tensor> {
        let placement = Placement { layout, ..Placement::cpu() };
        let loader = Loader { weights, placement, norm_groups: 32 };
        let conv = |name| loader.conv(name).expect("a convolution");
        let (wide, point, norm) = (conv("conv"), conv("point"), loader.norm("norm").expect("a norm"));
        let residual = point.forward(x).expect("computes");
        let results = [
            wide.forward(x),
            wide.upsampled(x),
            wide.plus(x, residual.copy()),
            wide.after(&norm, x),
            wide.after_plus(&norm, x, residual.copy()),
            point.after(&norm, x),
            point.after_plus(&norm, x, residual.copy()),
            point.upsampled(x),
            loader.downsampling_conv("down").expect("a convolution").forward(x),
            norm.forward(x),
            norm.swish(x),
        ];
        results.into_iter().map(|result| result.expect("computes")).collect()
    }

    #[test]
    fn kernels_and_libtorch_agree_and_gradients_take_libtorch() {
        let weights = weights();
        let x = TensorSpec::new("x", &[2, 32, 10, 12], Init::Normal(1.0)).fill(4).expect("an input");
        let plain = results(&weights, Layout::Contiguous, &x);
        let fast = results(&weights, Layout::ChannelsLast, &x);
        let recorded = x.copy().set_requires_grad(true);
        let recorded = results(&weights, Layout::ChannelsLast, &recorded);
        for (index, plain) in plain.iter().enumerate() {
            assert!(plain.allclose(&fast[index], 1e-4, 1e-4, false), "result {index} differs");
            assert!(plain.allclose(&recorded[index], 1e-4, 1e-4, false), "result {index} differs with gradients");
            assert!(recorded[index].requires_grad() && !fast[index].requires_grad());
        }
    }
}
