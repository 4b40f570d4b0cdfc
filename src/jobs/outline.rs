//! A chain in the text of `--dry-run`: its networks, and the memory they take.

use crate::chain::{ChainConfig, ScaleConfig};
use crate::config::ByteSize;
use crate::transformer::{HEAD_WIDTH, NetworkConfig};
use crate::vqgan::Tiles;
use std::fmt;

/// Writes the chain's networks with their parameters, and the memory of their weights and caches.
pub fn describe_chain(f: &mut fmt::Formatter<'_>, config: &ChainConfig, bytes: u64, batch: u32) -> fmt::Result {
    let ((rows, columns), scales) = (config.grid, config.scales());
    writeln!(f, "chain      {scales} scales, {rows} × {columns} tokens of {}", config.codebook_size)?;
    for network in &config.networks {
        let ScaleConfig { scales, network, .. } = network;
        let numbers: Vec<String> = scales.iter().map(u32::to_string).collect();
        let numbers = format!("scale{} {}", if scales.len() > 1 { "s" } else { "" }, numbers.join(", "));
        let shape = match network {
            NetworkConfig::EncoderDecoder(shape) => format!(
                "encoder-decoder, width {}, {} + {} layers",
                shape.dim, shape.encoder_depth, shape.decoder_depth
            ),
            NetworkConfig::Gpt(shape) => format!("gpt, width {}, {} layers", shape.dim, shape.depth),
        };
        writeln!(f, "{numbers:<10} {shape}: {} parameters", network.parameters())?;
    }
    let parameters = config.networks.iter().map(|network| network.network.parameters().unsigned_abs());
    let caches = config.networks.iter().map(|network| cache(config, &network.network)).max().unwrap_or(0);
    writeln!(
        f,
        "memory     {} for the weights of {} parameters, {} for the caches of a batch",
        ByteSize(parameters.clone().sum::<u64>().saturating_mul(bytes)),
        parameters.sum::<u64>(),
        ByteSize(caches.saturating_mul(bytes).saturating_mul(batch.into()))
    )
}

/// Writes how a picture is decoded that is too large to be decoded whole.
pub fn describe_tiles(f: &mut fmt::Formatter<'_>, tiles: Option<&Tiles>) -> fmt::Result {
    let Some(Tiles { size: (rows, columns), overlap, .. }) = tiles else { return Ok(()) };
    writeln!(f, "decodes    in tiles of {rows} × {columns} tokens that overlap by {overlap}")
}

/// Numbers in the key and value caches of one row.
fn cache(config: &ChainConfig, network: &NetworkConfig) -> u64 {
    let tokens = config.tokens() as u64;
    let text = network.text().map_or(0, |text| text.length.unsigned_abs());
    match network {
        NetworkConfig::EncoderDecoder(shape) => {
            let width = HEAD_WIDTH.saturating_mul(shape.decoder_heads).unsigned_abs();
            let context = tokens.saturating_add(2).saturating_add(text);
            let both = tokens.saturating_add(context).saturating_mul(2).saturating_mul(width);
            both.saturating_mul(shape.decoder_depth.unsigned_abs())
        }
        NetworkConfig::Gpt(shape) => {
            let length = shape.block.unsigned_abs().saturating_add(text);
            length.saturating_mul(2).saturating_mul(shape.dim.unsigned_abs()).saturating_mul(shape.depth.unsigned_abs())
        }
    }
}
