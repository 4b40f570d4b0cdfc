//! A chain's description as the sections of a TOML file: the way back of [`ChainConfig::from_sections`].

use super::config::{ChainConfig, Condition, ScaleConfig};
use crate::config::{ChainSection, ConditionSection, ScaleSection};
use crate::transformer::{NetworkConfig, Variant};

impl ChainConfig {
    /// `[chain]` with its `[[chain.scale]]`, and `[condition]`. Every length and vocabulary is written out, so that the file
    /// means the same whatever the defaults become.
    pub fn to_sections(&self) -> (ChainSection, ConditionSection) {
        let chain = ChainSection {
            model: String::new(),
            schedule: self.schedule.clone(),
            codebook_size: self.codebook_size,
            grid: [self.grid.0, self.grid.1],
            scale: self.networks.iter().map(ScaleConfig::to_section).collect(),
        };
        (chain, self.condition.to_section())
    }
}

impl ScaleConfig {
    fn to_section(&self) -> ScaleSection {
        let shared = ScaleSection { alpha: self.alpha, scales: Some(self.scales.clone()), ..ScaleSection::default() };
        match &self.network {
            NetworkConfig::EncoderDecoder(config) => ScaleSection {
                network: "encoder-decoder".to_owned(),
                variant: Some(variant(config.variant).to_owned()),
                dim: size(config.dim),
                encoder_depth: Some(size(config.encoder_depth)),
                decoder_depth: Some(size(config.decoder_depth)),
                heads: Some(size(config.decoder_heads)),
                encoder_heads: Some(size(config.encoder_heads)),
                input_tokens: Some(size(config.encoder_tokens)),
                input_length: Some(size(config.encoder_length)),
                ..shared
            },
            NetworkConfig::Gpt(config) => ScaleSection {
                network: "gpt".to_owned(),
                dim: size(config.dim),
                depth: Some(size(config.depth)),
                heads: Some(size(config.heads)),
                input_tokens: Some(size(config.input_tokens)),
                input_length: Some(size(config.block)),
                unmasked: Some(size(config.unmasked)),
                ..shared
            },
        }
    }
}

impl Condition {
    fn to_section(self) -> ConditionSection {
        let section = |kind: &str| ConditionSection { kind: kind.to_owned(), ..ConditionSection::default() };
        match self {
            Condition::None => section("none"),
            Condition::Class { classes, null } => ConditionSection { classes: Some(classes), null, ..section("class") },
            Condition::Text(text) => ConditionSection {
                vocabulary: Some(size(text.vocabulary)),
                length: Some(size(text.length)),
                ..section("text")
            },
        }
    }
}

fn variant(variant: Variant) -> &'static str {
    match variant {
        Variant::Plain => "plain",
        Variant::Scaled => "scaled",
        Variant::Residual => "residual",
        Variant::ResidualScaled => "residual-scaled",
    }
}

/// Sizes of a valid network are small; one that is not becomes what no section accepts.
fn size(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
