//! The CPU kernels of `kernels.cpp`: convolution with what stands before and after it, GroupNorm, linear layers of few rows.
//!
//! Images are float32 on the CPU, of shape `[batch, channels, height, width]` with channels innermost in memory; others are
//! copied into that layout first. Nothing is recorded for gradients. Results do not depend on the number of threads, and an
//! image's not on the rest of its batch.

mod linear;

pub use linear::{linear, suits_linear};

use std::ffi::c_int;
use tch::{Device, Kind, TchError, Tensor};

/// A convolution for `kernels.h`: field by field its `struct Convolution`.
#[repr(C)]
struct Call {
    x: *const f32,
    weights: *const f32,
    bias: *const f32,
    scale: *const f32,
    shift: *const f32,
    residual: *const f32,
    y: *mut f32,
    batch: i64,
    in_height: i64,
    in_width: i64,
    in_channels: i64,
    height: i64,
    width: i64,
    channels: i64,
    side: i64,
    stride: i64,
    padding: i64,
    magnify: i64,
}

unsafe extern "C" {
    fn imagebart_instruction_sets() -> c_int;
    fn imagebart_packed_floats(in_channels: i64, channels: i64, side: i64, winograd: c_int) -> i64;
    fn imagebart_pack_winograd(
        weights: *const f32,
        in_channels: i64,
        channels: i64,
        out: *mut f32,
        threads: c_int,
    ) -> c_int;
    fn imagebart_pack_direct(weights: *const f32, in_channels: i64, channels: i64, side: i64, out: *mut f32);
    fn imagebart_winograd(call: *const Call, threads: c_int, isa: c_int) -> c_int;
    fn imagebart_direct(call: *const Call, threads: c_int, isa: c_int) -> c_int;
    fn imagebart_group_norm(
        x: *const f32,
        batch: i64,
        pixels: i64,
        channels: i64,
        groups: i64,
        epsilon: f64,
        weight: *const f32,
        bias: *const f32,
        scale: *mut f32,
        shift: *mut f32,
        threads: c_int,
        isa: c_int,
    ) -> c_int;
    fn imagebart_affine(
        x: *const f32,
        batch: i64,
        pixels: i64,
        channels: i64,
        scale: *const f32,
        shift: *const f32,
        swish: c_int,
        y: *mut f32,
        threads: c_int,
        isa: c_int,
    ) -> c_int;
}

/// The largest kernel, in pixels a side, and the most input channels the kernels take.
const MAX_SIDE: i64 = 3;
const MAX_CHANNELS: i64 = 1 << 14;

/// Which of the machine's instruction sets to use: tests try each, the rest of the crate takes the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// The widest the machine has.
    Best,
    /// By its number, counted from the narrowest.
    Numbered(u8),
}

impl Instructions {
    fn number(self) -> c_int {
        match self {
            Instructions::Best => -1,
            Instructions::Numbered(number) => number.into(),
        }
    }
}

/// Number of instruction sets this machine has kernels for, at least 1.
pub fn instruction_sets() -> u8 {
    // SAFETY: a function without arguments that only reads what the processor can do.
    u8::try_from(unsafe { imagebart_instruction_sets() }).unwrap_or(1)
}

/// Whether a tensor can go through the kernels: float32 on the CPU, 4-d, not empty, nothing to record for gradients.
pub fn suits(x: &Tensor) -> bool {
    let plain = x.defined() && !x.is_sparse() && !x.is_mkldnn() && x.device() == Device::Cpu;
    plain && matches!(x.f_kind(), Ok(Kind::Float)) && x.dim() == 4 && x.numel() > 0 && !x.requires_grad()
}

/// A tensor's floats, where it is sure that they lie densely in the order of its shape.
struct Floats(Tensor);

impl Floats {
    /// The tensor itself if it is dense, else a dense copy.
    fn of(tensor: &Tensor) -> Result<Floats, TchError> {
        if !tensor.defined() || tensor.device() != Device::Cpu || tensor.f_kind()? != Kind::Float {
            return Err(TchError::Kind("the CPU kernels take float32 tensors on the CPU".to_owned()));
        }
        Ok(Floats(tensor.f_contiguous()?))
    }

    /// `[batch, channels, height, width]` as `[batch, height, width, channels]`.
    fn pixels(tensor: &Tensor) -> Result<Floats, TchError> {
        Floats::of(&tensor.f_permute([0, 2, 3, 1])?)
    }

    fn new(shape: &[i64]) -> Result<Floats, TchError> {
        Ok(Floats(Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?))
    }

    fn pointer(&self) -> *mut f32 {
        self.0.data_ptr().cast()
    }

    fn overlaps(&self, other: &Floats) -> bool {
        let range = |floats: &Floats| {
            let start = floats.pointer().addr();
            start..start + floats.0.numel() * size_of::<f32>()
        };
        let (a, b) = (range(self), range(other));
        a.start < b.end && b.start < a.end
    }

    fn expect(&self, what: &str, shape: &[i64]) -> Result<(), TchError> {
        let found = self.0.size();
        if found == shape { Ok(()) } else { Err(TchError::Shape(format!("{what} is {found:?}, not {shape:?}"))) }
    }
}

fn threads() -> c_int {
    tch::get_num_threads().max(1)
}

fn check(status: c_int) -> Result<(), TchError> {
    if status == 0 { Ok(()) } else { Err(TchError::Torch("out of memory in a CPU kernel".to_owned())) }
}

/// What GroupNorm does to each channel of each image: scale · x + shift.
#[derive(Debug)]
pub struct Affine {
    /// `[batch, channels]` both.
    scale: Tensor,
    shift: Tensor,
}

impl Affine {
    /// GroupNorm of `x` with `weight` and `bias`, `[channels]` each.
    pub fn group_norm(
        x: &Tensor,
        groups: i64,
        epsilon: f64,
        (weight, bias): (&Tensor, &Tensor),
        isa: Instructions,
    ) -> Result<Affine, TchError> {
        let (batch, channels, height, width) = x.size4()?;
        let (x, weight, bias) = (Floats::pixels(x)?, Floats::of(weight)?, Floats::of(bias)?);
        weight.expect("GroupNorm's weight", &[channels])?;
        bias.expect("GroupNorm's bias", &[channels])?;
        if groups < 1 || channels % groups != 0 || x.0.numel() == 0 {
            return Err(TchError::Shape(format!("GroupNorm of {groups} groups over {:?}", x.0.size())));
        }
        let (scale, shift) = (Floats::new(&[batch, channels])?, Floats::new(&[batch, channels])?);
        // SAFETY: all are dense float32 tensors that outlive the call: x [batch, height, width, channels] (the permuted sizes),
        // weight and bias [channels] (checked), scale and shift [batch, channels], fresh and so held by nobody else. `groups`
        // divides `channels`.
        check(unsafe {
            imagebart_group_norm(
                x.pointer(),
                batch,
                height * width,
                channels,
                groups,
                epsilon,
                weight.pointer(),
                bias.pointer(),
                scale.pointer(),
                shift.pointer(),
                threads(),
                isa.number(),
            )
        })?;
        Ok(Affine { scale: scale.0, shift: shift.0 })
    }

    /// The same scale and shift, `[channels]` each, for every image of `x`, whatever is in it.
    pub fn uniform(x: &Tensor, (scale, shift): (&Tensor, &Tensor)) -> Result<Affine, TchError> {
        let (batch, channels, _, _) = x.size4()?;
        let each = |row: &Tensor| row.f_expand([batch, channels], false)?.f_contiguous();
        Ok(Affine { scale: each(scale)?, shift: each(shift)? })
    }

    /// scale · x + shift, then x·sigmoid(x) with `swish`.
    pub fn apply(&self, x: &Tensor, swish: bool, isa: Instructions) -> Result<Tensor, TchError> {
        let (batch, channels, height, width) = x.size4()?;
        let (x, scale, shift) = (Floats::pixels(x)?, Floats::of(&self.scale)?, Floats::of(&self.shift)?);
        scale.expect("the scale", &[batch, channels])?;
        shift.expect("the shift", &[batch, channels])?;
        let y = Floats::new(&[batch, height, width, channels])?;
        // SAFETY: dense float32 tensors that outlive the call: x and y [batch, height, width, channels], scale and shift
        // [batch, channels] (checked); y is fresh.
        check(unsafe {
            imagebart_affine(
                x.pointer(),
                batch,
                height * width,
                channels,
                scale.pointer(),
                shift.pointer(),
                swish.into(),
                y.pointer(),
                threads(),
                isa.number(),
            )
        })?;
        y.0.f_permute([0, 3, 1, 2])
    }
}

/// What a [`Packed`] convolution takes in beside itself.
#[derive(Debug, Default)]
pub struct Around<'a> {
    /// The input goes through this and swish first.
    pub norm: Option<&'a Affine>,
    /// Every input pixel counts as 2×2 (nearest-neighbour upsampling).
    pub upsample: bool,
    /// Added to the output, which then takes its memory: nobody else may hold this tensor.
    pub residual: Option<Tensor>,
}

/// A convolution's weights, laid out for the kernels. 3×3 of stride 1 runs as Winograd's F(4×4, 3×3), others directly.
#[derive(Debug)]
pub struct Packed {
    weights: Tensor,
    bias: Tensor,
    in_channels: i64,
    channels: i64,
    side: i64,
    stride: i64,
    winograd: bool,
}

impl Packed {
    /// Packs weights `[out, in, side, side]` and bias `[out]`. Padding is `side / 2` with stride 1; with stride 2 there is none
    /// above and left, and one pixel right and below. `None` if the kernels cannot serve the tensors or the shape.
    pub fn new(weight: &Tensor, bias: &Tensor, stride: i64) -> Result<Option<Packed>, TchError> {
        if !suits(weight) || bias.requires_grad() || !(1..=2).contains(&stride) {
            return Ok(None);
        }
        let (channels, in_channels, side, across) = weight.size4()?;
        let shape = side == across && side % 2 == 1 && side <= MAX_SIDE && (stride == 1 || side == 3);
        if !shape || in_channels > MAX_CHANNELS {
            return Ok(None);
        }
        let (weight, bias) = (Floats::of(weight)?, Floats::of(bias)?);
        bias.expect("the convolution's bias", &[channels])?;
        let winograd = side == 3 && stride == 1;
        // SAFETY: plain arithmetic on its arguments.
        let floats = unsafe { imagebart_packed_floats(in_channels, channels, side, winograd.into()) };
        let packed = Floats(Tensor::f_zeros([floats], (Kind::Float, Device::Cpu))?);
        let (from, to) = (weight.pointer(), packed.pointer());
        // SAFETY: `weight` holds channels · in_channels · side · side dense floats, `packed` as many zeros as the shim asked for.
        unsafe {
            if winograd {
                check(imagebart_pack_winograd(from, in_channels, channels, to, threads()))?;
            } else {
                imagebart_pack_direct(from, in_channels, channels, side, to);
            }
        }
        Ok(Some(Packed { weights: packed.0, bias: bias.0, in_channels, channels, side, stride, winograd }))
    }

    /// Whether this convolution can take in a norm and an upsampling before it.
    pub fn fuses_input(&self) -> bool {
        self.winograd
    }

    /// `[batch, in, h, w]` to `[batch, out, h', w']`.
    pub fn forward(&self, x: &Tensor, around: Around, isa: Instructions) -> Result<Tensor, TchError> {
        if (around.norm.is_some() || around.upsample) && !self.fuses_input() {
            return Err(TchError::Shape(
                "only a 3×3 convolution of stride 1 takes in what stands before it".to_owned(),
            ));
        }
        let (batch, in_channels, in_height, in_width) = x.size4()?;
        if in_channels != self.in_channels || x.numel() == 0 {
            return Err(TchError::Shape(format!("{:?} into a convolution of {} channels", x.size(), self.in_channels)));
        }
        let magnify = if around.upsample { 2 } else { 1 };
        let (height, width) = (in_height * magnify / self.stride, in_width * magnify / self.stride);
        if height < 1 || width < 1 {
            return Err(TchError::Shape(format!(
                "{:?} is too small for a convolution of stride {}",
                x.size(),
                self.stride
            )));
        }
        let shape = [batch, height, width, self.channels];
        let (x, weights, bias) = (Floats::pixels(x)?, Floats::of(&self.weights)?, Floats::of(&self.bias)?);
        let residual = around.residual.as_ref().map(Floats::pixels).transpose()?;
        let norm = around.norm.map(|norm| Ok::<_, TchError>((Floats::of(&norm.scale)?, Floats::of(&norm.shift)?)));
        let norm = norm.transpose()?;
        if let Some(residual) = &residual {
            residual.expect("the residual", &shape)?;
        }
        if let Some((scale, shift)) = &norm {
            scale.expect("the scale", &[batch, in_channels])?;
            shift.expect("the shift", &[batch, in_channels])?;
        }
        let y = match &residual {
            Some(residual) if !residual.overlaps(&x) => Floats(residual.0.shallow_clone()),
            _ => Floats::new(&shape)?,
        };
        let pointer = |floats: Option<&Floats>| floats.map_or(std::ptr::null(), |floats| floats.pointer().cast_const());
        let call = Call {
            x: x.pointer(),
            weights: weights.pointer(),
            bias: bias.pointer(),
            scale: pointer(norm.as_ref().map(|(scale, _)| scale)),
            shift: pointer(norm.as_ref().map(|(_, shift)| shift)),
            residual: pointer(residual.as_ref()),
            y: y.pointer(),
            batch,
            in_height,
            in_width,
            in_channels,
            height,
            width,
            channels: self.channels,
            side: self.side,
            stride: self.stride,
            padding: if self.stride == 1 { self.side / 2 } else { 0 },
            magnify,
        };
        // SAFETY: dense float32 tensors that outlive the call, of the shapes `struct Convolution` names: x by its sizes, weights
        // and bias from `new`, residual, scale and shift checked above; y is fresh, or the residual's memory, which x does not
        // share. The kernels read x only where they checked that the pixel is inside.
        check(unsafe {
            match self.winograd {
                true => imagebart_winograd(&call, threads(), isa.number()),
                false => imagebart_direct(&call, threads(), isa.number()),
            }
        })?;
        y.0.f_permute([0, 3, 1, 2])
    }
}

#[cfg(test)]
mod tests;
