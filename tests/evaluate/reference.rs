//! Figures of `reference.py` on the same arrays.

use imagebart::evaluate::{
    Estimate, Kid, KidSettings, Manifolds, Moments, Singular, Window, frechet, inception_score, kernel_distance,
    mean_difference, ssim,
};
use imagebart::imaging::{Rgb, psnr};
use safetensors::SafeTensors;
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const FILE: &[u8] = include_bytes!("reference.safetensors");

struct Reference {
    expected: HashMap<String, f64>,
}

impl Reference {
    fn open() -> Result<Reference, Box<dyn std::error::Error>> {
        let (_, metadata) = SafeTensors::read_metadata(FILE)?;
        let metadata = metadata.metadata().as_ref().ok_or("no metadata")?;
        let number = |(name, value): (&String, &String)| Ok((name.clone(), value.parse::<f64>()?));
        let figures = metadata.iter().filter(|(name, _)| *name != "versions");
        let expected: Result<_, std::num::ParseFloatError> = figures.map(number).collect();
        Ok(Reference { expected: expected? })
    }

    fn check(&self, name: &str, ours: f64, tolerance: f64) {
        let expected = self.expected[name];
        let error = (ours - expected).abs() / expected.abs().max(1e-12);
        assert!(error <= tolerance, "{name}: {ours}, the reference has {expected}: off by {error:e}");
    }
}

pub fn features(name: &str) -> Result<Tensor, Box<dyn std::error::Error>> {
    let file = SafeTensors::deserialize(FILE)?;
    let view = file.tensor(name)?;
    let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
    Ok(Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?)
}

pub fn picture(name: &str) -> Result<Rgb, Box<dyn std::error::Error>> {
    let file = SafeTensors::deserialize(FILE)?;
    let view = file.tensor(name)?;
    let (height, width) = (view.shape()[0] as u32, view.shape()[1] as u32);
    Ok(Rgb::new(width, height, view.data().to_vec()).ok_or("not a picture")?)
}

#[test]
fn frechet_distance() -> Outcome {
    let reference = Reference::open()?;
    let mut sides = Vec::new();
    for name in ["fake", "real"] {
        let (whole, mut streamed) = (features(name)?, Moments::new(16, Device::Cpu)?);
        let mut apart = [Moments::new(16, Device::Cpu)?, Moments::new(16, Device::Cpu)?];
        for (part, batch) in whole.chunk(7, 0).iter().enumerate() {
            streamed.add(batch)?;
            apart[part % 2].add(batch)?;
        }
        // Merged from two sums of different batches, it is the same.
        let [mut merged, other] = apart;
        merged.merge(&other)?;
        let (merged, streamed) = (merged.gaussian()?, streamed.gaussian()?);
        assert!((&merged.covariance - &streamed.covariance).abs().max().double_value(&[]) < 1e-10);
        let centred = &whole.to_kind(Kind::Double) - &streamed.mean;
        let plain = centred.tr().matmul(&centred) / (whole.size()[0] - 1) as f64;
        assert!((&plain - &streamed.covariance).abs().max().double_value(&[]) < 1e-10);
        sides.push(streamed);
    }
    let found = frechet(&sides[0], &sides[1], Singular::Refuse)?;
    for name in ["frechet", "torchmetrics_frechet", "cleanfid_frechet"] {
        reference.check(name, found.distance, 1e-9);
    }
    assert_eq!(found.ranks, (16, 16));
    Ok(())
}

/// The contributions are derivatives: a set with one row twice is where they say, to second order in its weight.
#[test]
fn contributions_are_derivatives() -> Outcome {
    let (fake, real) = (features("fake")?, features("real")?);
    let gaussian = |features: &Tensor| -> Result<_, Box<dyn std::error::Error>> {
        let mut moments = Moments::new(16, Device::Cpu)?;
        moments.add(features)?;
        Ok(moments.gaussian()?)
    };
    let many = Tensor::cat(&vec![&fake; 50], 0);
    let base = frechet(&gaussian(&many)?, &gaussian(&real)?, Singular::Refuse)?;
    let contributions = base.contributions(&fake)?;
    let mean = contributions.iter().sum::<f64>() / contributions.len() as f64;
    for row in [0, 9, 33] {
        let more = Tensor::cat(&[&many, &fake.narrow(0, row, 1)], 0);
        let moved = frechet(&gaussian(&more)?, &gaussian(&real)?, Singular::Refuse)?.distance - base.distance;
        let told = (contributions[row as usize] - mean) / more.size()[0] as f64;
        assert!((moved - told).abs() < 0.02 * told.abs().max(1e-4), "row {row}: {moved} instead of {told}");
    }
    Ok(())
}

#[test]
fn kernel_distances() -> Outcome {
    let reference = Reference::open()?;
    let (fake, real) = (features("fake")?, features("real")?);
    reference.check("kernel_distance", kernel_distance(&fake, &real)?, 1e-10);
    let as_many = kernel_distance(&fake, &real.narrow(0, 0, 64))?;
    for name in ["torchmetrics_kernel_distance", "cleanfid_kernel_distance"] {
        reference.check(name, as_many, 1e-9);
    }
    // Subsets as large as the smaller side: the fake rows are the same in all of them.
    let kid = Kid::between(&fake, &real, KidSettings { subsets: 400, size: 64, seed: 3 })?;
    // Their spread is as large as the distance: 400 of them tell it to a twentieth.
    reference.check("kernel_distance", kid.distance, 0.15);
    assert!(kid.spread > 0.0 && kid.contributions.len() == 64);
    assert_eq!(Kid::between(&fake, &real, KidSettings { subsets: 1, size: 1000, seed: 3 })?.spread, 0.0);
    Ok(())
}

#[test]
fn inception_scores() -> Outcome {
    let reference = Reference::open()?;
    let found = inception_score(&features("logits")?, reference.expected["splits"] as u32)?;
    reference.check("inception", found.score, 1e-10);
    reference.check("inception_spread", found.spread, 1e-9);
    reference.check("torchmetrics_inception", inception_score(&features("logits")?, 1)?.score, 1e-9);
    Ok(())
}

#[test]
fn manifolds() -> Outcome {
    let reference = Reference::open()?;
    let found = Manifolds::between(&features("fake")?, &features("real")?, reference.expected["nearest"] as u32)?;
    let parts = [
        ("precision", found.precision),
        ("recall", found.recall),
        ("density", found.density),
        ("coverage", found.coverage),
    ];
    for (name, rows) in parts {
        reference.check(name, Estimate::mean(rows).ok_or("no rows")?.value, 1e-12);
    }
    Ok(())
}

#[test]
fn pictures() -> Outcome {
    let reference = Reference::open()?;
    let (original, decoded) = (picture("original")?, picture("decoded")?);
    reference.check("psnr", psnr(&original, &decoded), 1e-12);
    reference.check("ssim_uniform", ssim(&original, &decoded, Window::Uniform)?, 1e-9);
    reference.check("ssim_gaussian", ssim(&original, &decoded, Window::Gaussian)?, 1e-9);
    reference.check("l1", mean_difference(&original, &decoded)?, 1e-12);
    assert_eq!(ssim(&original, &original, Window::Gaussian)?, 1.0);
    Ok(())
}
