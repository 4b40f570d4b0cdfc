//! The demo tokenizer's decoder: three convolutions fitted by least squares, coarse to fine.
//!
//! The trunk of a decoder whose branches are silent is linear up to its last GroupNorm, so each of its convolutions can be
//! solved for, one after the other: `conv_in` draws the 6×6 pixels around a token from the tokens around it, the first
//! upsampling convolution the 2×2 pixels of each quarter, the second one the pixel. A few seconds replace a training.

use super::LEVEL_WIDTHS;
use super::encoder::{at_centre, set_conv};
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

/// Keeps the normal equations solvable where inputs are copies of each other, relative to their power.
const RIDGE: f64 = 1e-4;
/// Pictures of a step; bounds the memory of the unfolded inputs.
const BATCH: i64 = 8;

/// Fits the decoder's trunk to `images` (`[n, 3, h, w]` in [-1, 1]) and the codebook entries of their tokens
/// (`[n, z, h / 4, w / 4]`), and puts it into the weights.
pub fn fit(tensors: &mut BTreeMap<String, Tensor>, entries: &Tensor, images: &Tensor) -> Result<(), TchError> {
    let [fine, middle, coarse] = LEVEL_WIDTHS;
    let features = entries.size4()?.1;
    let eye = Tensor::f_eye(features, (Kind::Float, Device::Cpu))?;
    set_conv(tensors, "post_quant_conv", &eye.f_reshape([features, features, 1, 1])?)?;

    let patches = Fit::new(entries, &windows(images, 4, 1)?)?;
    patches.put(tensors, "decoder.conv_in", features, coarse)?;
    let drawn = double(&patches.apply(entries)?)?;

    let quarters = Fit::new(&drawn, &windows(images, 2, 0)?)?;
    quarters.put(tensors, "decoder.up.2.upsample.conv", coarse, coarse)?;
    let keep = Tensor::f_eye(coarse, (Kind::Float, Device::Cpu))?.f_narrow(0, 0, middle)?;
    set_conv(tensors, "decoder.up.1.block.0.nin_shortcut", &keep.f_reshape([middle, coarse, 1, 1])?)?;
    let drawn = double(&quarters.apply(&drawn)?)?;

    let pixels = Fit::new(&drawn, images)?;
    let power = pixels.apply(&drawn)?.f_square()?.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?;
    pixels.in_pairs()?.put(tensors, "decoder.up.1.upsample.conv", middle, fine)?;
    finish(tensors, &power.f_sqrt()?.f_mean_dim([0i64].as_slice(), false, Kind::Float)?, fine)
}

/// The last GroupNorm and convolution. A group is (s, −s): its mean is 0, and it is divided by the power of s, which hardly
/// varies between pictures; `power` `[3]`, the mean over pictures, undoes that. Then swish(s) − swish(−s) = s.
fn finish(tensors: &mut BTreeMap<String, Tensor>, power: &Tensor, width: i64) -> Result<(), TchError> {
    let colours = power.size1()?;
    let gain = Tensor::f_stack(&[power, power], 1)?.f_flatten(0, 1)?;
    tensors.insert("decoder.norm_out.weight".to_owned(), gain.f_constant_pad_nd([0, width - 2 * colours])?);
    let eye = Tensor::f_eye(colours, (Kind::Float, Device::Cpu))?;
    let differences = Tensor::f_stack(&[&eye, &eye.f_neg()?], 2)?.f_flatten(1, 2)?;
    let differences = differences.f_constant_pad_nd([0, width - 2 * colours])?;
    set_conv(tensors, "decoder.conv_out", &at_centre(&differences)?)
}

/// A 3×3 convolution that least squares found.
struct Fit {
    /// `[out, in, 3, 3]`
    weight: Tensor,
    /// `[out]`
    bias: Tensor,
}

impl Fit {
    /// The convolution that comes nearest to making `targets` (`[n, out, h, w]`) of `inputs` (`[n, in, h, w]`): ridge
    /// regression by the normal equations, summed in double precision.
    fn new(inputs: &Tensor, targets: &Tensor) -> Result<Fit, TchError> {
        let (count, channels, height, width) = inputs.size4()?;
        let outputs = targets.size4()?.1;
        let unknowns = 9 * channels + 1;
        let double = (Kind::Double, Device::Cpu);
        let mut square = Tensor::f_eye(unknowns, double)?.f_mul_scalar(RIDGE * (count * height * width) as f64)?;
        let mut right = Tensor::f_zeros([unknowns, outputs], double)?;
        for start in (0..count).step_by(BATCH as usize) {
            let size = BATCH.min(count - start);
            let rows = unfold(&inputs.f_narrow(0, start, size)?)?;
            let wanted = targets.f_narrow(0, start, size)?.f_permute([0, 2, 3, 1])?.f_reshape([-1, outputs])?;
            let columns = rows.f_transpose(0, 1)?;
            square = square.f_add(&columns.f_matmul(&rows)?.f_to_kind(Kind::Double)?)?;
            right = right.f_add(&columns.f_matmul(&wanted)?.f_to_kind(Kind::Double)?)?;
        }
        let factor = square.f_linalg_cholesky(false)?;
        let solution = right.f_cholesky_solve(&factor, false)?.f_to_kind(Kind::Float)?.f_transpose(0, 1)?;
        let weight = solution.f_narrow(1, 0, 9 * channels)?.f_reshape([outputs, channels, 3, 3])?;
        Ok(Fit { weight, bias: solution.f_select(1, 9 * channels)? })
    }

    fn apply(&self, inputs: &Tensor) -> Result<Tensor, TchError> {
        inputs.f_conv2d(&self.weight, Some(&self.bias), [1, 1], [1, 1], [1, 1], 1)
    }

    /// Each output followed by its negative.
    fn in_pairs(&self) -> Result<Fit, TchError> {
        let pair = |tensor: &Tensor| Tensor::f_stack(&[tensor, &tensor.f_neg()?], 1)?.f_flatten(0, 1);
        Ok(Fit { weight: pair(&self.weight)?, bias: pair(&self.bias)? })
    }

    /// Puts it into the weights, the channels it does not use filled up with zeros.
    fn put(
        &self,
        tensors: &mut BTreeMap<String, Tensor>,
        name: &str,
        inputs: i64,
        outputs: i64,
    ) -> Result<(), TchError> {
        let (used_outputs, used_inputs, _, _) = self.weight.size4()?;
        let missing = outputs - used_outputs;
        let weight = self.weight.f_constant_pad_nd([0, 0, 0, 0, 0, inputs - used_inputs, 0, missing])?;
        set_conv(tensors, name, &weight)?;
        tensors.insert(format!("{name}.bias"), self.bias.f_constant_pad_nd([0, missing])?);
        Ok(())
    }
}

/// What a 3×3 convolution sees at each place, and a one for its bias: `[n, c, h, w]` to `[n · h · w, 9 c + 1]`.
fn unfold(inputs: &Tensor) -> Result<Tensor, TchError> {
    let width = inputs.size4()?.1 * 9;
    let rows = inputs.f_im2col([3, 3], [1, 1], [1, 1], [1, 1])?.f_permute([0, 2, 1])?.f_reshape([-1, width])?;
    rows.f_constant_pad_nd([0, 1])?.f_add(&Tensor::f_eye(width + 1, (Kind::Float, Device::Cpu))?.f_get(width)?)
}

/// The pixels around each `side`×`side` cell, `margin` of its neighbours' included: `[n, 3, h, w]` to
/// `[n, 3 (side + 2 margin)², h / side, w / side]`.
fn windows(images: &Tensor, side: i64, margin: i64) -> Result<Tensor, TchError> {
    let (count, _, height, width) = images.size4()?;
    let window = side + 2 * margin;
    let padded = images.f_replication_pad2d([margin; 4])?;
    let columns = padded.f_im2col([window; 2], [1, 1], [0, 0], [side; 2])?;
    columns.f_reshape([count, -1, height / side, width / side])
}

/// Nearest-neighbour upsampling by two, as the decoder does it.
fn double(features: &Tensor) -> Result<Tensor, TchError> {
    let (_, _, height, width) = features.size4()?;
    features.f_upsample_nearest2d([2 * height, 2 * width], None, None)
}
