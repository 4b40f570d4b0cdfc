//! Shapes of the networks, and what makes one impossible.

use serde::{Deserialize, Serialize};

/// What the encoder-decoder adds to its logits (Esser et al. 2021, code: `ScaledXTransformer` and its kin).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// The logits as they are (`XTransformer`).
    #[default]
    Plain,
    /// Logits times exp(log_scalors\[t-1\]).
    Scaled,
    /// Logits plus log(alpha_t onehot(x_t) + (1 - alpha_t) / K); `log_scalors` exists and is not used.
    Residual,
    /// Both: scaled first, then the residual term.
    ResidualScaled,
}

impl Variant {
    /// Whether the network has a tensor `log_scalors`.
    pub fn has_scalors(self) -> bool {
        self != Variant::Plain
    }

    /// Whether the logits are multiplied by exp(log_scalors).
    pub fn is_scaled(self) -> bool {
        matches!(self, Variant::Scaled | Variant::ResidualScaled)
    }

    /// Whether the residual term is added.
    pub fn is_residual(self) -> bool {
        matches!(self, Variant::Residual | Variant::ResidualScaled)
    }
}

/// A text condition as the networks see it: `length` token ids, each below `vocabulary`.
///
/// Two more rows of the text embedding follow the vocabulary: the padding and the null condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Ids of the text tokenizer.
    pub vocabulary: i64,
    /// Tokens of every condition, padding included.
    pub length: i64,
}

impl TextConfig {
    /// The id that fills up a short text.
    pub fn padding(&self) -> i64 {
        self.vocabulary
    }

    /// The id that stands at every position when there is no condition.
    pub fn null(&self) -> i64 {
        self.vocabulary + 1
    }

    /// Rows of the text embedding.
    pub fn rows(&self) -> i64 {
        self.vocabulary + 2
    }
}

/// Inner width of one attention head of an encoder-decoder, whatever its `dim` is.
pub const HEAD_WIDTH: i64 = 64;

/// The encoder-decoder of one scale: the encoder reads `[t, condition..., x_t...]`, the decoder writes x_{t-1}.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderDecoderConfig {
    pub dim: i64,
    pub encoder_depth: i64,
    pub decoder_depth: i64,
    pub encoder_heads: i64,
    pub decoder_heads: i64,
    /// Rows of the encoder's embedding: codes, classes and scale numbers share them.
    pub encoder_tokens: i64,
    /// Rows of the encoder's positions: at least `[t, class, x_t...]`.
    pub encoder_length: i64,
    /// Codes K: rows of the decoder's embedding, and its logits.
    pub decoder_tokens: i64,
    /// Tokens of the grid.
    pub decoder_length: i64,
    pub variant: Variant,
    /// Scales T of the chain: entries of `log_scalors` (unused by the plain variant).
    pub scales: i64,
    /// A text condition, which has its own embedding and positions, between t and x_t.
    pub text: Option<TextConfig>,
}

/// The decoder-only network of the last scale: `[t, condition..., x_0 .. x_{n-2}]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GptConfig {
    pub dim: i64,
    pub depth: i64,
    pub heads: i64,
    /// Rows of the embedding: codes, classes and the scale number.
    pub input_tokens: i64,
    /// Codes K.
    pub output_tokens: i64,
    /// Rows of the positions: `[t, class, x_0 .. x_{n-2}]` must fit.
    pub block: i64,
    /// Leading tokens that see one another; those after see what is before them.
    pub unmasked: i64,
    /// A text condition, which has its own embedding and positions, between t and x.
    pub text: Option<TextConfig>,
}

/// The shape of one scale's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkConfig {
    EncoderDecoder(EncoderDecoderConfig),
    Gpt(GptConfig),
}

/// What makes a network's shape impossible.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NetworkError {
    #[error("{key} = {value} must be {rule}")]
    Value { key: &'static str, value: i64, rule: String },
    #[error("{0}")]
    Released(String),
}

impl NetworkConfig {
    /// Number of codes K that the network gives probabilities of.
    pub fn codes(&self) -> i64 {
        match self {
            NetworkConfig::EncoderDecoder(config) => config.decoder_tokens,
            NetworkConfig::Gpt(config) => config.output_tokens,
        }
    }

    /// The text condition, if it has one.
    pub fn text(&self) -> Option<TextConfig> {
        match self {
            NetworkConfig::EncoderDecoder(config) => config.text,
            NetworkConfig::Gpt(config) => config.text,
        }
    }

    /// Checks what can be checked of one network alone.
    ///
    /// # Errors
    /// The first impossible value, by its key in `[[chain.scale]]`.
    pub fn validate(&self) -> Result<(), NetworkError> {
        match self {
            NetworkConfig::EncoderDecoder(config) => config.validate(),
            NetworkConfig::Gpt(config) => config.validate(),
        }?;
        match self.text() {
            Some(text) => positive(&[("vocabulary", text.vocabulary), ("length", text.length)]),
            None => Ok(()),
        }
    }
}

impl EncoderDecoderConfig {
    fn validate(&self) -> Result<(), NetworkError> {
        positive(&[
            ("dim", self.dim),
            ("encoder_depth", self.encoder_depth),
            ("decoder_depth", self.decoder_depth),
            ("encoder_heads", self.encoder_heads),
            ("decoder_heads", self.decoder_heads),
            ("input_tokens", self.encoder_tokens),
            ("codebook_size", self.decoder_tokens),
            ("grid", self.decoder_length),
            ("scales", self.scales),
        ])?;
        at_least("input_length", self.encoder_length, 1 + self.decoder_length, "[t, x_t...]")?;
        at_least("input_tokens", self.encoder_tokens, self.decoder_tokens.max(self.scales + 1), "codes and scales")
    }
}

impl GptConfig {
    fn validate(&self) -> Result<(), NetworkError> {
        positive(&[
            ("dim", self.dim),
            ("depth", self.depth),
            ("heads", self.heads),
            ("codebook_size", self.output_tokens),
            ("input_length", self.block),
        ])?;
        if self.dim % self.heads != 0 {
            let rule = format!("a multiple of heads = {}", self.heads);
            return Err(NetworkError::Value { key: "dim", value: self.dim, rule });
        }
        if self.unmasked < 0 {
            return Err(NetworkError::Value { key: "unmasked", value: self.unmasked, rule: "0 or more".to_owned() });
        }
        at_least("input_tokens", self.input_tokens, self.output_tokens, "the codes")
    }
}

/// Sizes beyond this are no network's: products of a few of them stay within i64.
const LARGEST: i64 = 1 << 20;

fn positive(values: &[(&'static str, i64)]) -> Result<(), NetworkError> {
    match values.iter().find(|(_, value)| !(1..=LARGEST).contains(value)) {
        Some(&(key, value)) => Err(NetworkError::Value { key, value, rule: format!("1 to {LARGEST}") }),
        None => Ok(()),
    }
}

fn at_least(key: &'static str, value: i64, least: i64, what: &str) -> Result<(), NetworkError> {
    if (least..=LARGEST).contains(&value) {
        return Ok(());
    }
    Err(NetworkError::Value { key, value, rule: format!("{least} to {LARGEST}: it holds {what}") })
}
