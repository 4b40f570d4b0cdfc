//! Released shapes with random weights.

use super::Error;
use imagebart::torch::weights::Weights;
use imagebart::transformer::{EncoderDecoderConfig, GptConfig, Network, NetworkConfig, Placement, Variant};
use imagebart::vqgan::VqganConfig;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Codes of FFHQ.
pub const CODES: i64 = 548;
pub const TOKENS: i64 = 256;

/// The networks of a chain of two scales.
pub struct Shapes {
    /// Scale 1.
    pub encoder_decoder: NetworkConfig,
    /// Scale 2.
    pub gpt: NetworkConfig,
    pub vqgan: VqganConfig,
    /// Side of the matrices whose product is timed.
    pub probe: i64,
}

impl Shapes {
    /// FFHQ-2: 615 M, 641 M and 72 M parameters.
    pub fn released() -> Result<Shapes, Error> {
        Ok(Shapes {
            encoder_decoder: encoder_decoder(1152, [32, 6], 16),
            gpt: gpt(1216, 36, 16),
            vqgan: vqgan(128, 256, "[1, 1, 2, 2, 4]", 256)?,
            probe: 8192,
        })
    }

    /// The same kind of chain, small enough for a test on any CPU.
    pub fn tiny() -> Result<Shapes, Error> {
        Ok(Shapes {
            encoder_decoder: encoder_decoder(64, [2, 1], 2),
            gpt: gpt(64, 2, 2),
            vqgan: vqgan(32, 16, "[1, 1]", 32)?,
            probe: 128,
        })
    }
}

fn encoder_decoder(dim: i64, [encoder_depth, decoder_depth]: [i64; 2], heads: i64) -> NetworkConfig {
    NetworkConfig::EncoderDecoder(EncoderDecoderConfig {
        dim,
        encoder_depth,
        decoder_depth,
        encoder_heads: heads,
        decoder_heads: heads,
        encoder_tokens: CODES,
        encoder_length: TOKENS + 1,
        decoder_tokens: CODES,
        decoder_length: TOKENS,
        variant: Variant::Plain,
        scales: 2,
        text: None,
    })
}

fn gpt(dim: i64, depth: i64, heads: i64) -> NetworkConfig {
    NetworkConfig::Gpt(GptConfig {
        dim,
        depth,
        heads,
        input_tokens: CODES,
        output_tokens: CODES,
        block: TOKENS,
        unmasked: 0,
        text: None,
    })
}

fn vqgan(ch: i64, z: i64, ch_mult: &str, resolution: i64) -> Result<VqganConfig, Error> {
    let ddconfig = format!(
        r#"{{"double_z": false, "z_channels": {z}, "resolution": {resolution}, "in_channels": 3, "out_ch": 3, "ch": {ch},
        "ch_mult": {ch_mult}, "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0}}"#
    );
    let metadata = [("ddconfig", ddconfig), ("embed_dim", z.to_string()), ("n_embed", "1024".to_owned())];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    VqganConfig::from_metadata(&metadata)?.ok_or_else(|| "no config".into())
}

/// A network of random weights: libtorch's generator, which is fast, and no checkpoint's values.
pub fn random(config: &NetworkConfig, placement: Placement) -> Result<Network, Error> {
    let _guard = tch::no_grad_guard();
    tch::manual_seed(1);
    let mut tensors = BTreeMap::new();
    for spec in config.tensors() {
        let norm = spec.shape.len() == 1 && spec.name.ends_with("weight");
        let tensor = match norm {
            true => Tensor::f_ones(&spec.shape[..], (Kind::Float, Device::Cpu))?,
            false => Tensor::f_empty(&spec.shape[..], (Kind::Float, Device::Cpu))?.f_uniform_(-0.03, 0.03)?,
        };
        tensors.insert(spec.name, tensor);
    }
    let weights = Weights::from_tensors("random weights", tensors)?;
    Ok(Network::load(config, &weights, &[], placement)?)
}
