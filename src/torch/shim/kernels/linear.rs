//! Linear layers of few rows, as the single steps of a transformer have them: the time is that of reading the weights once.

use super::{Floats, Instructions, check, threads};
use std::ffi::c_int;
use tch::{Device, Kind, TchError, Tensor};

/// For `kernels.h`: field by field its `struct Linear`.
#[repr(C)]
struct Call {
    x: *const f32,
    weight: *const f32,
    bias: *const f32,
    y: *mut f32,
    rows: i64,
    inputs: i64,
    outputs: i64,
}

unsafe extern "C" {
    fn imagebart_linear(call: *const Call, threads: c_int, isa: c_int) -> c_int;
}

/// Rows beyond which the layer is bound by arithmetic, not by reading its weights, and is left to libtorch.
const MOST_ROWS: i64 = 32;

/// Whether the kernel serves `x` `[rows, in]`: float32 on the CPU, few rows, nothing to record for gradients.
pub fn suits_linear(x: &Tensor, weight: &Tensor) -> bool {
    let plain = |tensor: &Tensor| {
        tensor.defined()
            && !tensor.is_sparse()
            && !tensor.is_mkldnn()
            && tensor.device() == Device::Cpu
            && matches!(tensor.f_kind(), Ok(Kind::Float))
            && tensor.dim() == 2
            && tensor.numel() > 0
            && !tensor.requires_grad()
    };
    plain(x) && plain(weight) && x.size().first().is_some_and(|&rows| rows <= MOST_ROWS)
}

/// `x · weightᵀ + bias`: `[rows, in]`, `[out, in]` and `[out]` to `[rows, out]`. A row's result depends on that row alone, to
/// the last bit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, isa: Instructions) -> Result<Tensor, TchError> {
    let (rows, inputs) = x.size2()?;
    let (outputs, _) = weight.size2()?;
    let (x, weight, bias) = (Floats::of(x)?, Floats::of(weight)?, bias.map(Floats::of).transpose()?);
    weight.expect("the weight", &[outputs, inputs])?;
    if let Some(bias) = &bias {
        bias.expect("the bias", &[outputs])?;
    }
    let y = Floats::new(&[rows, outputs])?;
    if rows == 0 || outputs == 0 {
        return Ok(y.0);
    }
    let call = Call {
        x: x.pointer(),
        weight: weight.pointer(),
        bias: bias.as_ref().map_or(std::ptr::null(), |bias| bias.pointer().cast_const()),
        y: y.pointer(),
        rows,
        inputs,
        outputs,
    };
    // SAFETY: dense float32 tensors that outlive the call: x [rows, in] (its sizes), weight [out, in] and bias [out] (checked),
    // y [rows, out], fresh and so held by nobody else. The kernel reads and writes within these sizes.
    check(unsafe { imagebart_linear(&call, threads(), isa.number()) })?;
    Ok(y.0)
}

#[cfg(test)]
mod tests {
    use super::super::instruction_sets;
    use super::*;

    #[test]
    fn agrees_with_libtorch_on_every_instruction_set() {
        tch::manual_seed(3);
        let options = (Kind::Float, Device::Cpu);
        for isa in (0..instruction_sets()).map(Instructions::Numbered) {
            for (rows, inputs, outputs) in
                [(1, 1, 1), (1, 16, 8), (1, 77, 203), (2, 50, 9), (3, 64, 64), (7, 33, 130), (32, 96, 5)]
            {
                let x = Tensor::randn([rows, inputs], options);
                let (weight, bias) = (Tensor::randn([outputs, inputs], options), Tensor::randn([outputs], options));
                for bias in [Some(&bias), None] {
                    let ours = linear(&x, &weight, bias, isa).unwrap();
                    let exact = x
                        .to_kind(Kind::Double)
                        .linear(&weight.to_kind(Kind::Double), bias.map(|bias| bias.to_kind(Kind::Double)).as_ref());
                    let error = (ours.to_kind(Kind::Double) - exact).abs().max().double_value(&[]);
                    assert!(error < 2e-5, "{isa:?} {rows}x{inputs}x{outputs}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_row_depends_on_itself_alone() {
        let options = (Kind::Float, Device::Cpu);
        let (x, weight) = (Tensor::randn([9, 45], options), Tensor::randn([70, 45], options));
        let whole = linear(&x, &weight, None, Instructions::Best).unwrap();
        for row in 0..9 {
            let alone = linear(&x.narrow(0, row, 1), &weight, None, Instructions::Best).unwrap();
            assert!(alone.equal(&whole.narrow(0, row, 1)), "row {row}");
        }
        tch::set_num_threads(1);
        assert!(linear(&x, &weight, None, Instructions::Best).unwrap().equal(&whole));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let options = (Kind::Float, Device::Cpu);
        let x = Tensor::zeros([2, 4], options);
        assert!(linear(&x, &Tensor::zeros([3, 5], options), None, Instructions::Best).is_err());
        let bias = Tensor::zeros([2], options);
        assert!(linear(&x, &Tensor::zeros([3, 4], options), Some(&bias), Instructions::Best).is_err());
        assert!(!suits_linear(&Tensor::zeros([33, 4], options), &Tensor::zeros([3, 4], options)));
        assert!(!suits_linear(&x.to_kind(Kind::BFloat16), &Tensor::zeros([3, 4], options)));
    }
}
