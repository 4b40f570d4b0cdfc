//! What a chain is made of: from `[chain]`, `[[chain.scale]]` and `[condition]` to the shapes of its networks.

use crate::config::{ChainSection, ConditionSection, ScaleSection, ScheduleValue};
use crate::transformer::{EncoderDecoderConfig, GptConfig, NetworkConfig, NetworkError, TextConfig, Variant};

/// Heads of every released network.
const HEADS: u32 = 16;

/// A chain, every length and vocabulary decided.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainConfig {
    /// The noise schedule as the user named it.
    pub schedule: ScheduleValue,
    /// Codes K.
    pub codebook_size: u32,
    /// Rows and columns of the token grid.
    pub grid: (u32, u32),
    pub condition: Condition,
    /// The networks, in the order of the scales they serve.
    pub networks: Vec<ScaleConfig>,
}

/// What images are drawn of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    None,
    /// One of `classes`; `null` says that id `classes` is a learned "no class".
    Class {
        classes: u32,
        null: bool,
    },
    Text(TextConfig),
}

/// One network and the scales it serves.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleConfig {
    /// Scales t, ascending; several when they were trained jointly.
    pub scales: Vec<u32>,
    pub network: NetworkConfig,
    /// Share of the soft loss in training.
    pub alpha: f64,
}

/// What makes a chain's description impossible.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ChainError {
    #[error("{key}: {message}")]
    Key { key: String, message: String },
    #[error("chain.scale number {number}: {source}")]
    Network { number: usize, source: NetworkError },
}

fn wrong(key: impl Into<String>, message: impl Into<String>) -> ChainError {
    ChainError::Key { key: key.into(), message: message.into() }
}

impl Condition {
    /// Ids that the condition puts before x_t in the shared embedding: 1 for a class.
    pub fn shared_tokens(&self) -> u32 {
        u32::from(matches!(self, Condition::Class { .. }))
    }

    /// The text condition, if it is one.
    pub fn text(&self) -> Option<TextConfig> {
        match self {
            Condition::Text(text) => Some(*text),
            _ => None,
        }
    }

    /// Whether there is a learned null condition, which guidance needs.
    pub fn has_null(&self) -> bool {
        matches!(self, Condition::Class { null: true, .. } | Condition::Text(_))
    }

    fn from_section(section: &ConditionSection) -> Result<Condition, ChainError> {
        let positive = |key: &str, value: Option<u32>| match value {
            Some(value) if value > 0 => Ok(value),
            _ => Err(wrong(format!("condition.{key}"), "must be given, and 1 or more")),
        };
        match section.kind.as_str() {
            "none" => Ok(Condition::None),
            "class" => Ok(Condition::Class { classes: positive("classes", section.classes)?, null: section.null }),
            "text" => Ok(Condition::Text(TextConfig {
                vocabulary: positive("vocabulary", section.vocabulary)?.into(),
                length: positive("length", section.length)?.into(),
            })),
            other => Err(wrong("condition.kind", format!("\"{other}\" is not one of none, class, text"))),
        }
    }

    /// Rows of the shared embedding that the condition's ids need.
    fn ids(&self) -> u32 {
        match *self {
            Condition::Class { classes, null } => classes.saturating_add(null.into()),
            Condition::None | Condition::Text(_) => 0,
        }
    }
}

/// What is wrong with a codebook size that nothing tells.
const UNTOLD: &str = "is not given, and there is no tokenizer or model yet to tell it: \
    give the number of codes of the tokenizer, or train first";

impl ChainConfig {
    /// The chain that the sections describe, with a codebook of `codes` entries where they leave it open.
    ///
    /// # Errors
    /// The first key that is missing or impossible.
    pub fn from_sections(
        chain: &ChainSection,
        condition: &ConditionSection,
        codes: Option<u32>,
    ) -> Result<ChainConfig, ChainError> {
        let condition = Condition::from_section(condition)?;
        let codebook_size = match (chain.codebook_size, codes) {
            (0, Some(codes)) => codes,
            (0, None) => return Err(wrong("chain.codebook_size", UNTOLD)),
            (size, _) => size,
        };
        if !(1..=1 << 16).contains(&codebook_size) {
            return Err(wrong("chain.codebook_size", "must be 1 to 65536: the number of codes the tokenizer uses"));
        }
        let [rows, columns] = chain.grid;
        let tokens = rows.checked_mul(columns).filter(|&tokens| (1..=1 << 16).contains(&tokens));
        let tokens = tokens.ok_or_else(|| wrong("chain.grid", "must have 1 to 65536 tokens"))?;
        let scales = scales(&chain.scale)?;
        let last = scales.iter().flatten().max().copied().unwrap_or(0);
        let shape = Shape { tokens, codebook_size, last, condition };
        let mut networks = Vec::with_capacity(chain.scale.len());
        for (position, (section, scales)) in chain.scale.iter().zip(scales).enumerate() {
            let network = shape.network(position + 1, section, &scales)?;
            let in_position = |source| ChainError::Network { number: position + 1, source };
            network.validate().map_err(in_position)?;
            if !(0.0..=1.0).contains(&section.alpha) {
                return Err(wrong(at(position + 1, "alpha"), "must be between 0 and 1"));
            }
            networks.push(ScaleConfig { scales, network, alpha: section.alpha });
        }
        Ok(ChainConfig { schedule: chain.schedule.clone(), codebook_size, grid: (rows, columns), condition, networks })
    }

    /// Number of scales T.
    pub fn scales(&self) -> u32 {
        self.networks.iter().flat_map(|network| &network.scales).max().copied().unwrap_or(0)
    }

    /// Tokens of the grid.
    pub fn tokens(&self) -> usize {
        self.grid.0 as usize * self.grid.1 as usize
    }

    /// The network of scale `scale` (1..=T).
    pub fn network(&self, scale: u32) -> Option<&ScaleConfig> {
        self.networks.iter().find(|network| network.scales.contains(&scale))
    }
}

/// The scales each network serves: 1..=T, each once.
fn scales(sections: &[ScaleSection]) -> Result<Vec<Vec<u32>>, ChainError> {
    let mut next = 1;
    let mut all = Vec::with_capacity(sections.len());
    for (position, section) in sections.iter().enumerate() {
        let own = section.scales.clone().unwrap_or_else(|| vec![next]);
        for &scale in &own {
            if scale != next {
                let message = format!("scale {scale} where {next} is next: scales count from 1, each in one network");
                return Err(wrong(at(position + 1, "scales"), message));
            }
            next += 1;
        }
        if own.is_empty() {
            return Err(wrong(at(position + 1, "scales"), "is empty"));
        }
        all.push(own);
    }
    if all.is_empty() {
        return Err(wrong("chain.scale", "is missing: write a [[chain.scale]] for every scale, from 1 up"));
    }
    Ok(all)
}

fn at(number: usize, key: &str) -> String {
    format!("chain.scale number {number}: {key}")
}

/// What the networks of a chain share.
struct Shape {
    tokens: u32,
    codebook_size: u32,
    last: u32,
    condition: Condition,
}

impl Shape {
    fn network(&self, number: usize, section: &ScaleSection, scales: &[u32]) -> Result<NetworkConfig, ChainError> {
        let needed =
            |key: &str, value: Option<u32>| value.map(i64::from).ok_or_else(|| wrong(at(number, key), "is missing"));
        // Codes, classes and scale numbers share one embedding.
        let ids = self.codebook_size.max(self.condition.ids()).max(self.last.saturating_add(1));
        let input_tokens = i64::from(section.input_tokens.unwrap_or(ids));
        if input_tokens < i64::from(ids) {
            return Err(wrong(at(number, "input_tokens"), format!("must be {ids} or more: codes, classes and scales")));
        }
        let heads = i64::from(section.heads.unwrap_or(HEADS));
        match section.network.as_str() {
            "encoder-decoder" => {
                let least = 1 + self.condition.shared_tokens() + self.tokens;
                let encoder_length = section.input_length.unwrap_or(least);
                if encoder_length < least {
                    return Err(wrong(
                        at(number, "input_length"),
                        format!("must be {least} or more: [t, class, x_t...]"),
                    ));
                }
                Ok(NetworkConfig::EncoderDecoder(EncoderDecoderConfig {
                    dim: section.dim.into(),
                    encoder_depth: needed("encoder_depth", section.encoder_depth)?,
                    decoder_depth: needed("decoder_depth", section.decoder_depth)?,
                    encoder_heads: section.encoder_heads.map_or(heads, i64::from),
                    decoder_heads: heads,
                    encoder_tokens: input_tokens,
                    encoder_length: encoder_length.into(),
                    decoder_tokens: self.codebook_size.into(),
                    decoder_length: self.tokens.into(),
                    variant: variant(number, section)?,
                    scales: self.last.into(),
                    text: self.condition.text(),
                }))
            }
            "gpt" => {
                if scales != [self.last] {
                    let message = format!("a gpt never sees x_t, so it can only be scale {}, the last one", self.last);
                    return Err(wrong(at(number, "network"), message));
                }
                let prompt = 1 + self.condition.shared_tokens();
                let least = prompt + self.tokens - 1;
                let block = section.input_length.unwrap_or(least);
                if block < least {
                    return Err(wrong(
                        at(number, "input_length"),
                        format!("must be {least} or more: [t, class, x...]"),
                    ));
                }
                let seen = i64::from(prompt) + self.condition.text().map_or(0, |text| text.length);
                let unmasked = section.unmasked.map_or(if seen > 1 { seen } else { 0 }, i64::from);
                if seen > 1 && unmasked != seen {
                    let message = format!("must be {seen}: the prompt's tokens see one another");
                    return Err(wrong(at(number, "unmasked"), message));
                }
                Ok(NetworkConfig::Gpt(GptConfig {
                    dim: section.dim.into(),
                    depth: needed("depth", section.depth)?,
                    heads,
                    input_tokens,
                    output_tokens: self.codebook_size.into(),
                    block: block.into(),
                    unmasked,
                    text: self.condition.text(),
                }))
            }
            "" => Err(wrong(at(number, "network"), "is missing: encoder-decoder or gpt")),
            other => Err(wrong(at(number, "network"), format!("\"{other}\" is not one of encoder-decoder, gpt"))),
        }
    }
}

fn variant(number: usize, section: &ScaleSection) -> Result<Variant, ChainError> {
    match section.variant.as_deref() {
        None | Some("plain") => Ok(Variant::Plain),
        Some("scaled") => Ok(Variant::Scaled),
        Some("residual") => Ok(Variant::Residual),
        Some("residual-scaled") => Ok(Variant::ResidualScaled),
        Some(other) => {
            let message = format!("\"{other}\" is not one of plain, scaled, residual, residual-scaled");
            Err(wrong(at(number, "variant"), message))
        }
    }
}
