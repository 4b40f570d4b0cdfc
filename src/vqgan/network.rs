//! Encoder, codebook and decoder together.

use super::config::VqganConfig;
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::gumbel::GumbelQuantizer;
use super::ops::{Conv, Loader, Placement};
use super::quantizer::{Quantizer, Remap, Unknown};
use crate::torch::weights::{Weights, WeightsError};
use tch::{TchError, Tensor};

/// How indices are chosen.
#[derive(Debug)]
pub enum Codebook {
    /// By distance: taming's `VQModel`, and all ImageBART models.
    Nearest(Quantizer),
    /// By a draw: taming's `GumbelVQ`.
    Gumbel(GumbelQuantizer),
}

impl Codebook {
    /// The remap to the entries in use.
    pub fn remap(&self) -> &Remap {
        match self {
            Codebook::Nearest(quantizer) => quantizer.remap(),
            Codebook::Gumbel(quantizer) => quantizer.remap(),
        }
    }

    /// The entries of codebook indices: `[batch, h, w]` to `[batch, embed_dim, h, w]` float32.
    pub fn entries(&self, indices: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Codebook::Nearest(quantizer) => quantizer.entries(indices),
            Codebook::Gumbel(quantizer) => quantizer.entries(indices),
        }
    }
}

/// A VQGAN in one placement.
#[derive(Debug)]
pub struct Vqgan {
    pub encoder: Encoder,
    pub quant_conv: Conv,
    pub codebook: Codebook,
    pub post_quant_conv: Conv,
    pub decoder: Decoder,
    placement: Placement,
}

impl Vqgan {
    /// Checks that the weights are those of `config` and prepares them for the placement. `tanh`: see [`Decoder::load`].
    pub fn load(
        config: &VqganConfig,
        weights: &Weights,
        placement: Placement,
        tanh: bool,
    ) -> Result<Vqgan, WeightsError> {
        weights.check(&config.tensors())?;
        let loader = Loader { weights, placement, norm_groups: config.norm_groups };
        let codebook = match config.gumbel {
            true => Codebook::Gumbel(GumbelQuantizer::load(loader)?),
            false => Codebook::Nearest(Quantizer::load(loader, Unknown::Outlier)?),
        };
        Ok(Vqgan {
            encoder: Encoder::load(config, loader)?,
            quant_conv: loader.conv("quant_conv")?,
            codebook,
            post_quant_conv: loader.conv("post_quant_conv")?,
            decoder: Decoder::load(config, loader, tanh)?,
            placement,
        })
    }

    /// Where and how it computes.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// What is quantized: `[batch, 3, h, w]` in [-1, 1] to `[batch, embed_dim, h / f, w / f]`, in the placement's dtype.
    pub fn features(&self, image: &Tensor) -> Result<Tensor, TchError> {
        self.quant_conv.forward(&self.encoder.forward(&self.placement.place(image)?)?)
    }

    /// Images of codebook entries: `[batch, embed_dim, h, w]` to `[batch, 3, h * f, w * f]`, about [-1, 1].
    pub fn decode(&self, entries: &Tensor) -> Result<Tensor, TchError> {
        self.decoder.forward(&self.post_quant_conv.forward(&self.placement.place(entries)?)?)
    }
}
