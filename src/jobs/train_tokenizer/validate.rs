//! How well the weights at hand do on held-out images.

use super::plan::upload;
use crate::imaging::Rgb;
use crate::jobs::JobError;
use crate::jobs::shrink::Usage;
use crate::torch::weights::Weights;
use crate::training::images::Images;
use crate::vqgan::lpips::Perceptual;
use crate::vqgan::network::Codebook;
use crate::vqgan::ops::{Layout, Placement};
use crate::vqgan::tokenizer::to_pixels;
use crate::vqgan::{Vqgan, VqganConfig};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use tch::{Device, Kind, TchError, Tensor};

/// PSNR of identical pictures, in dB.
const PERFECT: f64 = 99.0;

/// Figures of held-out images.
#[derive(Clone, Debug, Serialize)]
pub struct Validation {
    pub images: u64,
    /// Mean absolute error, of values in [-1, 1].
    pub l1: f64,
    /// LPIPS, where it is on.
    pub perceptual: Option<f64>,
    /// Mean over the images, in dB, of the 8-bit pictures.
    pub psnr: f64,
    /// Codes that stand among the tokens, and e to the entropy of their shares.
    pub codes: u64,
    pub perplexity: f64,
    /// Images that could not be read.
    pub rejected: u64,
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Validation { images, l1, psnr, codes, perplexity, .. } = self;
        write!(f, "{images} images: L1 {l1:.4}, PSNR {psnr:.2} dB")?;
        if let Some(perceptual) = self.perceptual {
            write!(f, ", LPIPS {perceptual:.4}")?;
        }
        write!(f, ", {codes} codes in use (perplexity {perplexity:.1})")
    }
}

/// What the weights are tried on.
pub struct Trial<'a> {
    pub images: &'a Images,
    pub side: u32,
    /// Images that are looked at; all without.
    pub limit: Option<u64>,
    pub device: Device,
    pub perceptual: Option<&'a Perceptual>,
}

impl Trial<'_> {
    /// Tries a network: its figures, and how often each code stands.
    pub fn run(
        &self,
        config: &VqganConfig,
        weights: BTreeMap<String, Tensor>,
    ) -> Result<(Validation, Usage), JobError> {
        let _guard = tch::no_grad_guard();
        let network = self.network(config, weights)?;
        let mut sums = Sums::new(config.n_embed);
        let mut feed = self.images.once();
        while let Some(batch) = feed.next_batch().map_err(JobError::failed)? {
            sums.rejected = batch.read.rejected();
            let left = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(sums.images));
            let images = (batch.images as u64).min(left) as usize;
            if images == 0 {
                break;
            }
            let bytes = batch.pixels.len() / batch.images.max(1);
            let pixels = batch.pixels.get(..bytes * images).unwrap_or_default();
            self.add(&network, pixels, &mut sums).map_err(JobError::failed)?;
        }
        if sums.images == 0 {
            return Err(JobError::Usage("none of the validation images can be read".to_owned()));
        }
        Ok(sums.figures(self.perceptual.is_some()))
    }

    /// Pictures of `pixels`, each followed by its reconstruction.
    pub fn pairs(
        &self,
        config: &VqganConfig,
        weights: BTreeMap<String, Tensor>,
        pixels: &[u8],
    ) -> Result<Vec<Rgb>, JobError> {
        let _guard = tch::no_grad_guard();
        let network = self.network(config, weights)?;
        let decoded = || {
            let decoded = reconstruct(&network, &upload(pixels, self.side, self.device)?)?.1;
            Vec::<u8>::try_from(to_pixels(&decoded)?.f_to_device(Device::Cpu)?.f_flatten(0, -1)?)
        };
        let decoded = decoded().map_err(JobError::failed)?;
        let size = (self.side as usize * self.side as usize * 3).max(1);
        let picture = |pixels: &[u8]| Rgb { width: self.side, height: self.side, pixels: pixels.to_vec() };
        let pairs = pixels.chunks_exact(size).zip(decoded.chunks_exact(size));
        Ok(pairs.flat_map(|(original, decoded)| [picture(original), picture(decoded)]).collect())
    }

    /// A network for inference.
    fn network(&self, config: &VqganConfig, weights: BTreeMap<String, Tensor>) -> Result<Vqgan, JobError> {
        let placement = Placement { device: self.device, kind: Kind::Float, layout: Layout::ChannelsLast };
        let config = VqganConfig { used: None, ..config.clone() };
        let weights = Weights::from_tensors("the tokenizer", weights).map_err(JobError::failed)?;
        Vqgan::load(&config, &weights, placement, false).map_err(JobError::failed)
    }

    fn add(&self, network: &Vqgan, pixels: &[u8], sums: &mut Sums) -> Result<(), TchError> {
        let images = upload(pixels, self.side, self.device)?;
        let (indices, decoded) = reconstruct(network, &images)?;
        let count = images.size4()?.0;
        let l1 = images.f_sub(&decoded)?.f_abs()?.f_mean(Kind::Double)?.f_double_value(&[])?;
        sums.l1 += l1 * count as f64;
        if let Some(perceptual) = self.perceptual {
            let distance = perceptual.distance(&images, &decoded)?.f_mean(Kind::Double)?.f_double_value(&[])?;
            sums.perceptual += distance * count as f64;
        }
        let shown = to_pixels(&decoded)?.f_to_device(Device::Cpu)?.f_flatten(1, -1)?.f_to_kind(Kind::Double)?;
        let original = to_pixels(&images)?.f_to_device(Device::Cpu)?.f_flatten(1, -1)?.f_to_kind(Kind::Double)?;
        let squares = shown.f_sub(&original)?.f_square()?.f_mean_dim([1i64].as_slice(), false, Kind::Double)?;
        for square in Vec::<f64>::try_from(squares)? {
            sums.psnr += if square > 0.0 { (10.0 * (255.0 * 255.0 / square).log10()).min(PERFECT) } else { PERFECT };
        }
        let tokens = Vec::<i64>::try_from(indices.f_flatten(0, -1)?.f_to_device(Device::Cpu)?)?;
        let tokens: Vec<u16> = tokens.into_iter().filter_map(|token| u16::try_from(token).ok()).collect();
        sums.usage.add(&tokens);
        sums.images += count as u64;
        Ok(())
    }
}

/// Indices of images, and what is decoded from them.
fn reconstruct(network: &Vqgan, images: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let Codebook::Nearest(quantizer) = &network.codebook else {
        return Err(TchError::Kind("a Gumbel tokenizer".to_owned()));
    };
    let indices = quantizer.indices(&network.features(images)?)?;
    let decoded = network.decode(&quantizer.entries(&indices)?)?;
    Ok((indices, decoded))
}

/// Sums over images.
struct Sums {
    images: u64,
    l1: f64,
    perceptual: f64,
    psnr: f64,
    rejected: u64,
    usage: Usage,
}

impl Sums {
    fn new(codes: i64) -> Sums {
        let usage = Usage::new(u32::try_from(codes).unwrap_or(0));
        Sums { images: 0, l1: 0.0, perceptual: 0.0, psnr: 0.0, rejected: 0, usage }
    }

    fn figures(self, perceptual: bool) -> (Validation, Usage) {
        let mean = |sum: f64| sum / self.images.max(1) as f64;
        let facts = self.usage.facts(&[]);
        let validation = Validation {
            images: self.images,
            l1: mean(self.l1),
            perceptual: perceptual.then(|| mean(self.perceptual)),
            psnr: mean(self.psnr),
            codes: facts.seen,
            perplexity: facts.perplexity,
            rejected: self.rejected,
        };
        (validation, self.usage)
    }
}
