//! Each kernel against libtorch's operations, in every instruction set of the machine.

use super::{Affine, Around, Instructions, Packed, instruction_sets, suits};
use crate::torch::spec::{Init, TensorSpec};
use proptest::prelude::*;
use tch::{Device, Kind, TchError, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// A convolution's shape and surroundings.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: i64,
    input: i64,
    output: i64,
    height: i64,
    width: i64,
    side: i64,
    stride: i64,
    norm: bool,
    upsample: bool,
    residual: bool,
}

/// A convolution with its tensors.
struct Problem {
    case: Case,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm: (Tensor, Tensor),
    residual: Option<Tensor>,
}

impl Problem {
    fn new(case: Case, seed: u64) -> Problem {
        let random = |name: &str, shape: &[i64]| normal(name, shape, seed);
        let magnify = if case.upsample { 2 } else { 1 };
        let (height, width) = (case.height * magnify / case.stride, case.width * magnify / case.stride);
        Problem {
            case,
            x: random("x", &[case.batch, case.input, case.height, case.width]) + 0.5,
            weight: random("weight", &[case.output, case.input, case.side, case.side])
                / ((case.input * case.side * case.side) as f64).sqrt(),
            bias: random("bias", &[case.output]),
            norm: (random("norm.weight", &[case.input]), random("norm.bias", &[case.input])),
            residual: case.residual.then(|| random("residual", &[case.batch, case.output, height, width])),
        }
    }

    fn packed(&self) -> Packed {
        Packed::new(&self.weight, &self.bias, self.case.stride).expect("packs").expect("suits")
    }

    fn by_kernels(&self, packed: &Packed, x: &Tensor, isa: Instructions) -> Result<Tensor, TchError> {
        let norm =
            (self.case.norm).then(|| Affine::group_norm(x, 1, 1e-6, (&self.norm.0, &self.norm.1), isa)).transpose()?;
        let around = Around {
            norm: norm.as_ref(),
            upsample: self.case.upsample,
            residual: self.residual.as_ref().map(Tensor::copy),
        };
        packed.forward(x, around, isa)
    }

    /// By libtorch's operations, in float64.
    fn by_libtorch(&self) -> Tensor {
        let double = |x: &Tensor| x.to_kind(Kind::Double);
        let mut x = double(&self.x);
        if self.case.norm {
            x = x.group_norm(1, Some(&double(&self.norm.0)), Some(&double(&self.norm.1)), 1e-6, false).silu();
        }
        if self.case.upsample {
            x = x.upsample_nearest2d([self.case.height * 2, self.case.width * 2], None, None);
        }
        let padding = if self.case.stride == 1 { self.case.side / 2 } else { 0 };
        if self.case.stride == 2 {
            x = x.constant_pad_nd([0, 1, 0, 1]);
        }
        let stride = [self.case.stride; 2];
        let y = x.conv2d(&double(&self.weight), Some(&double(&self.bias)), stride, [padding; 2], [1, 1], 1);
        self.residual.iter().fold(y, |y, residual| y + double(residual))
    }

    fn check(&self) {
        let (packed, expected) = (self.packed(), self.by_libtorch());
        for isa in every_isa() {
            let found = self.by_kernels(&packed, &self.x, isa).expect("computes");
            assert_eq!(found.size(), expected.size(), "{:?}", self.case);
            let error = largest(&(found.to_kind(Kind::Double) - &expected));
            assert!(error < 1e-4, "{:?} with {isa:?}: off by {error}", self.case);
        }
    }
}

/// Normally distributed numbers, a function of the arguments.
fn normal(name: &str, shape: &[i64], seed: u64) -> Tensor {
    TensorSpec::new(name, shape, Init::Normal(1.0)).fill(seed).expect("fills")
}

fn every_isa() -> impl Iterator<Item = Instructions> {
    (0..instruction_sets()).map(Instructions::Numbered)
}

fn largest(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

const PLAIN: Case = Case {
    batch: 1,
    input: 16,
    output: 32,
    height: 8,
    width: 8,
    side: 3,
    stride: 1,
    norm: false,
    upsample: false,
    residual: false,
};

#[test]
fn convolutions_of_odd_shapes() {
    let cases = [
        PLAIN,
        Case { batch: 3, input: 3, output: 40, height: 37, width: 41, norm: true, residual: true, ..PLAIN },
        Case { batch: 3, input: 72, output: 3, height: 5, width: 66, norm: true, ..PLAIN },
        Case { batch: 9, input: 33, output: 65, height: 4, width: 4, residual: true, ..PLAIN },
        Case { batch: 2, input: 70, output: 31, height: 1, width: 1, norm: true, ..PLAIN },
        Case { input: 40, output: 24, height: 9, width: 7, norm: true, upsample: true, residual: true, ..PLAIN },
        Case { batch: 3, input: 20, output: 35, height: 11, width: 13, stride: 2, residual: true, ..PLAIN },
        Case { batch: 3, input: 37, output: 50, height: 7, width: 5, side: 1, residual: true, ..PLAIN },
    ];
    for (seed, case) in cases.into_iter().enumerate() {
        Problem::new(case, seed as u64).check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn convolutions_of_any_shape(
        (batch, input, output) in (1..4i64, 1..70i64, 1..70i64),
        (height, width) in (2..24i64, 2..24i64),
        kind in 0..3u8,
        (norm, upsample, residual) in any::<(bool, bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let (side, stride) = [(3, 1), (3, 2), (1, 1)][usize::from(kind)];
        let fuses = kind == 0;
        let (norm, upsample) = (norm && fuses, upsample && fuses);
        let case = Case { batch, input, output, height, width, side, stride, norm, upsample, residual };
        Problem::new(case, seed.into()).check();
    }

    #[test]
    fn group_norms_of_any_shape(
        (batch, groups, each) in (1..4i64, 1..9i64, 1..9i64),
        (height, width) in (1..40i64, 1..40i64),
        mean in -30.0..30.0f64,
        swish in any::<bool>(),
        seed in any::<u16>(),
    ) {
        let channels = groups * each;
        let random = |name: &str, shape: &[i64]| normal(name, shape, seed.into());
        let x = random("x", &[batch, channels, height, width]) + mean;
        let (weight, bias) = (random("weight", &[channels]), random("bias", &[channels]));
        let double = |x: &Tensor| x.to_kind(Kind::Double);
        let expected = double(&x).group_norm(groups, Some(&double(&weight)), Some(&double(&bias)), 1e-2, false);
        let expected = if swish { expected.silu() } else { expected };
        for isa in every_isa() {
            let norm = Affine::group_norm(&x, groups, 1e-2, (&weight, &bias), isa).expect("computes");
            let found = norm.apply(&x, swish, isa).expect("computes");
            let error = largest(&(double(&found) - &expected));
            prop_assert!(error < 1e-3, "{isa:?}: off by {error}");
        }
    }
}

/// The exponential's whole range, and what is no number.
#[test]
fn swish_of_any_number() {
    let x = Tensor::from_slice(&[-1e4f32, -104.0, -88.5, -20.0, -1.0, -1e-30, 0.0, 1e-3, 7.5, 88.5, 1e30])
        .view([1, 1, 1, -1]);
    let one = Affine { scale: Tensor::ones([1, 1], FLOAT), shift: Tensor::zeros([1, 1], FLOAT) };
    for isa in every_isa() {
        let found = one.apply(&x, true, isa).expect("computes");
        let error = (&found - x.silu()) / (x.abs() * 1e-6 + 1e-30);
        assert!(largest(&error.to_kind(Kind::Double)) < 1.0, "{isa:?}: {found:?}");
        let nan = one.apply(&(&x * f64::NAN), true, isa).expect("computes");
        assert!(nan.isnan().all().int64_value(&[]) == 1, "{isa:?}: NaN is lost");
    }
}

#[test]
fn threads_and_the_rest_of_the_batch_change_nothing() {
    let before = tch::get_num_threads();
    for case in [
        Case { batch: 3, input: 40, output: 72, height: 21, width: 17, norm: true, residual: true, ..PLAIN },
        Case { batch: 3, input: 40, output: 72, height: 21, width: 17, stride: 2, ..PLAIN },
    ] {
        let problem = Problem::new(case, 5);
        let packed = problem.packed();
        let mut results = Vec::new();
        for threads in [1, 2, 3, 8] {
            tch::set_num_threads(threads);
            results.push(problem.by_kernels(&packed, &problem.x, Instructions::Best).expect("computes"));
        }
        tch::set_num_threads(before);
        assert!(results.iter().all(|result| *result == results[0]), "{case:?}");
        for image in 0..case.batch {
            let one = |x: &Tensor| x.narrow(0, image, 1);
            let residual = problem.residual.as_ref().map(one);
            let alone = Problem { residual, x: one(&problem.x), ..Problem::new(case, 5) };
            let alone = alone.by_kernels(&packed, &alone.x, Instructions::Best).expect("computes");
            assert_eq!(alone, one(&results[0]), "image {image} of {case:?}");
        }
    }
}

/// Memory layouts and views that are not dense are copied, not misread.
#[test]
fn any_layout_gives_the_same() {
    let problem = Problem::new(Case { batch: 2, norm: true, ..PLAIN }, 6);
    let packed = problem.packed();
    let expected = problem.by_kernels(&packed, &problem.x, Instructions::Best).expect("computes");
    let wide = Tensor::cat(&[&problem.x, &problem.x], 3).narrow(3, 0, 8);
    let last = problem.x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    for x in [wide, last] {
        assert_eq!(problem.by_kernels(&packed, &x, Instructions::Best).expect("computes"), expected);
    }
}

/// A residual gives its memory to the result, unless that is the input's too.
#[test]
fn results_take_the_residuals_memory() {
    let problem = Problem::new(Case { output: 16, ..PLAIN }, 8);
    let packed = problem.packed();
    let forward = |x: &Tensor, residual: Tensor| {
        packed
            .forward(x, Around { residual: Some(residual), ..Around::default() }, Instructions::Best)
            .expect("computes")
    };
    let last = |x: &Tensor| x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    let (x, residual) = (last(&problem.x), last(&problem.x));
    let memory = residual.data_ptr();
    let expected = forward(&x, residual);
    assert_eq!(expected.data_ptr(), memory);
    assert_eq!(x, problem.x);
    let found = forward(&x, x.shallow_clone());
    assert_eq!(found, expected);
    assert_eq!(x, problem.x);
}

#[test]
fn what_does_not_fit_is_refused() {
    let problem = Problem::new(PLAIN, 7);
    let packed = problem.packed();
    let forward = |x: &Tensor, around: Around| packed.forward(x, around, Instructions::Best);
    let zeros = |shape: &[i64]| Tensor::zeros(shape, FLOAT);
    assert!(forward(&zeros(&[1, 15, 8, 8]), Around::default()).is_err());
    assert!(forward(&zeros(&[1, 16, 0, 8]), Around::default()).is_err());
    assert!(forward(&zeros(&[16, 8, 8]), Around::default()).is_err());
    assert!(forward(&problem.x.to_kind(Kind::Double), Around::default()).is_err());
    let residual = zeros(&[1, 32, 8, 7]);
    assert!(forward(&problem.x, Around { residual: Some(residual), ..Around::default() }).is_err());
    let norm = Affine { scale: zeros(&[2, 16]), shift: zeros(&[2, 16]) };
    assert!(forward(&problem.x, Around { norm: Some(&norm), ..Around::default() }).is_err());
    let group_norm =
        |groups| Affine::group_norm(&problem.x, groups, 1e-6, (&zeros(&[16]), &zeros(&[16])), Instructions::Best);
    assert!(group_norm(3).is_err() && group_norm(0).is_err() && group_norm(4).is_ok());

    let pack = |weight: &Tensor, stride| Packed::new(weight, &zeros(&[4]), stride).expect("answers");
    assert!(pack(&zeros(&[4, 4, 5, 5]), 1).is_none());
    assert!(pack(&zeros(&[4, 4, 3, 1]), 1).is_none());
    assert!(pack(&zeros(&[4, 4, 3, 3]), 3).is_none());
    assert!(pack(&zeros(&[4, 4, 3, 3]).to_kind(Kind::BFloat16), 1).is_none());
    assert!(Packed::new(&zeros(&[4, 4, 3, 3]), &zeros(&[5]), 1).is_err());
    assert!(!suits(&zeros(&[1, 4, 4, 4]).set_requires_grad(true)));
}
