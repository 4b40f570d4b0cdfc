//! The primitives the VQGAN's time goes into: convolution, GroupNorm with swish, residual addition.
//!
//! Everything above this file is plumbing. Weights are prepared here once, in the placement's device, dtype and memory layout;
//! where no gradient is recorded, results overwrite their inputs' memory.

use crate::torch::weights::{Weights, WeightsError};
use std::borrow::Borrow;
use tch::{Device, Kind, TchError, Tensor};

const GROUPS: i64 = 32;
const EPSILON: f64 = 1e-6;

/// How the activations of 4-d tensors lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[batch, channels, height, width]` as written.
    Contiguous,
    /// Channels innermost, as pixels come; shapes stay `[batch, channels, height, width]`.
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

    /// A tensor in this device, dtype and (4-d tensors) memory layout.
    pub fn place(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        let tensor = tensor.f_to_device(self.device)?.f_to_kind(self.kind)?;
        match self.layout {
            Layout::ChannelsLast if tensor.dim() == 4 => {
                tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])
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
}

impl Loader<'_> {
    /// A tensor in the placement.
    pub fn tensor(&self, name: &str) -> Result<Tensor, WeightsError> {
        let tensor = self.weights.get(name)?;
        self.placement.place(tensor).map_err(|source| WeightsError::Torch { tensor: name.to_owned(), source })
    }

    /// A convolution of stride 1 that keeps the size.
    pub fn conv(&self, name: &str) -> Result<Conv, WeightsError> {
        let weight = self.tensor(&format!("{name}.weight"))?;
        let padding = weight.size().get(2).map_or(0, |side| side / 2);
        Ok(Conv { weight, bias: self.tensor(&format!("{name}.bias"))?, stride: 1, padding })
    }

    /// The downsampling convolution: stride 2, no padding of its own.
    pub fn strided_conv(&self, name: &str) -> Result<Conv, WeightsError> {
        Ok(Conv { stride: 2, padding: 0, ..self.conv(name)? })
    }

    /// A GroupNorm.
    pub fn norm(&self, name: &str) -> Result<Norm, WeightsError> {
        Ok(Norm { weight: self.tensor(&format!("{name}.weight"))?, bias: self.tensor(&format!("{name}.bias"))? })
    }
}

/// A convolution with bias.
#[derive(Debug)]
pub struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
}

impl Conv {
    /// `[batch, in, h, w]` to `[batch, out, h', w']`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        x.f_conv2d(&self.weight, Some(&self.bias), stride, padding, [1, 1], 1)
    }
}

/// GroupNorm of 32 groups, eps 1e-6.
#[derive(Debug)]
pub struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    /// The normalised tensor, of the input's shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_group_norm(GROUPS, Some(&self.weight), Some(&self.bias), EPSILON, true)
    }

    /// The normalised tensor through swish, x·sigmoid(x).
    pub fn swish(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut y = self.forward(x)?;
        if y.requires_grad() { y.f_silu() } else { y.f_silu_() }
    }
}

/// `x + y`. Takes the memory of `x`, which nobody else may hold.
pub fn add(mut x: Tensor, y: impl Borrow<Tensor>) -> Result<Tensor, TchError> {
    if x.requires_grad() { x.f_add(y.borrow()) } else { x.f_add_(y.borrow()) }
}

/// Single-head attention over positions: `q`, `k`, `v` are `[batch, channels, h, w]`, and so is the result.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, TchError> {
    let (batch, channels, height, width) = q.size4()?;
    let rows = |x: &Tensor| x.f_permute([0, 2, 3, 1])?.f_reshape([batch, height * width, channels]);
    let (q, k, v) = (rows(q)?, rows(k)?, rows(v)?);
    let scores = q.f_bmm(&k.f_transpose(1, 2)?)?.f_mul_scalar((channels as f64).powf(-0.5))?;
    let mixed = scores.f_softmax(2, None)?.f_bmm(&v)?;
    mixed.f_reshape([batch, height, width, channels])?.f_permute([0, 3, 1, 2])
}
