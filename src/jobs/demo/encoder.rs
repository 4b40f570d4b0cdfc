//! The demo tokenizer's encoder: seeded random convolutions that lose little.
//!
//! The weights of a fresh VQGAN scramble a picture beyond repair. Here the convolutions of the trunk are random too, but
//! orthonormal: each one turns what lies under it by a seeded rotation, so that a token's features are 32 random directions of
//! the 48 colour values in its 4×4 pixels. Residual and attention branches keep their random weights and are switched off by
//! zeros in their last convolution. What the trunk passes on its way is made to let it through:
//!
//! - the last GroupNorm sees groups of (s, −s, Q, −Q): mean 0, and a variance that the constant Q dominates;
//! - swish(s) − swish(−s) = s, which the last convolution computes.

use super::LEVEL_WIDTHS;
use crate::random::{Purpose, RowKey};
use crate::torch::spec::{Init, TensorSpec};
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

/// The constant beside the signals in the last GroupNorm; the larger, the less the signals' own power matters.
const CARRIER: f64 = 100.0;
/// Colours of a pixel.
const COLOURS: i64 = 3;

/// Overwrites the encoder's trunk in the weights of a fresh VQGAN. `features` is the number of z channels: one for each of the
/// 32 groups of the last GroupNorm.
pub fn fill(tensors: &mut BTreeMap<String, Tensor>, features: i64, seed: u64) -> Result<(), TchError> {
    let [fine, middle, coarse] = LEVEL_WIDTHS;
    // What each level's channels are made of: a pixel, a 2x2 patch, a 4x4 patch.
    let pixel = orthonormal(seed, "pixel", fine, COLOURS)?;
    let small = orthonormal(seed, "small patch", middle, 4 * COLOURS)?;
    let patch = orthonormal(seed, "patch", middle, 16 * COLOURS)?;
    set_conv(tensors, "encoder.conv_in", &at_centre(&pixel)?)?;
    set_conv(tensors, "encoder.down.0.downsample.conv", &gather(&small, &pixel)?)?;
    set_conv(tensors, "encoder.down.1.downsample.conv", &gather(&patch, &small)?)?;

    // Random directions of the patch, and for each its negative and the carrier.
    let directions = orthonormal(seed, "directions", 16 * COLOURS, features)?.f_transpose(0, 1)?;
    let signals = directions.f_matmul(&patch.f_transpose(0, 1)?)?;
    let nothing = signals.f_zeros_like()?;
    let groups = Tensor::f_stack(&[&signals, &signals.f_neg()?, &nothing, &nothing], 1)?;
    set_conv(tensors, "encoder.down.2.block.0.nin_shortcut", &groups.f_reshape([coarse, middle, 1, 1])?)?;
    let carriers = Tensor::f_from_slice(&[0f32, 0.0, CARRIER as f32, -CARRIER as f32])?.f_repeat([features])?;
    tensors.insert("encoder.down.2.block.0.nin_shortcut.bias".to_owned(), carriers);
    // The variance of a group is (s² + Q²) / 2: this undoes it.
    let gain = Tensor::f_full([coarse], CARRIER / 2f64.sqrt(), (Kind::Float, Device::Cpu))?;
    tensors.insert("encoder.norm_out.weight".to_owned(), gain);
    let eye = Tensor::f_eye(features, (Kind::Float, Device::Cpu))?;
    let nothing = eye.f_zeros_like()?;
    let differences = Tensor::f_stack(&[&eye, &eye.f_neg()?, &nothing, &nothing], 2)?;
    set_conv(tensors, "encoder.conv_out", &at_centre(&differences.f_reshape([features, coarse])?)?)?;
    set_conv(tensors, "quant_conv", &eye.f_reshape([features, features, 1, 1])?)
}

/// Switches off what lies beside the trunk, in encoder and decoder: the last convolution of every branch becomes zero.
pub fn silence_branches(tensors: &mut BTreeMap<String, Tensor>) -> Result<(), TchError> {
    for (name, tensor) in tensors.iter_mut() {
        if name.contains(".conv2.") || name.contains(".proj_out.") {
            *tensor = tensor.f_zeros_like()?;
        }
    }
    Ok(())
}

/// Puts a convolution in place, with a bias of zero.
pub fn set_conv(tensors: &mut BTreeMap<String, Tensor>, name: &str, weight: &Tensor) -> Result<(), TchError> {
    let outputs = weight.size().first().copied().unwrap_or(0);
    tensors.insert(format!("{name}.bias"), Tensor::f_zeros([outputs], (Kind::Float, Device::Cpu))?);
    tensors.insert(format!("{name}.weight"), weight.f_contiguous()?);
    Ok(())
}

/// The 3×3 kernel that applies a matrix `[out, in]` to the pixel at its centre.
pub fn at_centre(matrix: &Tensor) -> Result<Tensor, TchError> {
    matrix.f_unsqueeze(2)?.f_unsqueeze(3)?.f_constant_pad_nd([1, 1, 1, 1])
}

/// The 3×3 kernel of stride 2 that reads four neighbours made by `finer` (`[in, n]`) and writes them as one patch made by
/// `coarser` (`[out, 4 n]`). Its third row and column reach beyond the patch and are zero.
fn gather(coarser: &Tensor, finer: &Tensor) -> Result<Tensor, TchError> {
    let values = finer.size2()?.1;
    let mut quarters = Vec::with_capacity(4);
    for quarter in 0..4 {
        quarters.push(coarser.f_narrow(1, quarter * values, values)?.f_matmul(&finer.f_transpose(0, 1)?)?);
    }
    let (outputs, inputs) = (coarser.size2()?.0, finer.size2()?.0);
    Tensor::f_stack(&quarters, 2)?.f_view([outputs, inputs, 2, 2])?.f_constant_pad_nd([0, 1, 0, 1])
}

/// A random matrix `[rows, columns]` whose columns are orthonormal; there are no more columns than rows.
fn orthonormal(seed: u64, name: &str, rows: i64, columns: i64) -> Result<Tensor, TchError> {
    let row = RowKey::new(seed, "demo/tokenizer", 0, 0);
    let own_seed = u64::from(row.bits(Purpose::Init, 0));
    let normal = TensorSpec::new(name, &[rows, columns], Init::Normal(1.0)).fill(own_seed)?;
    Ok(Tensor::f_linalg_qr(&normal, "reduced")?.0)
}
