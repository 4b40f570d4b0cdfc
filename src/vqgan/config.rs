//! The shape of a VQGAN: taming-transformers' `ddconfig`, its codebook, and the list of its tensors.

use crate::torch::weights::{Init, TensorSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Groups of every GroupNorm of taming's networks.
pub const NORM_GROUPS: i64 = 32;
/// Far above any trained VQGAN; keeps the arithmetic on sizes from overflowing.
const MAX_SIZE: i64 = 1 << 16;

/// Why a network shape is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("the VQGAN's {key} is {value}: {problem}")]
    Invalid { key: &'static str, value: String, problem: String },
    #[error("cannot understand the VQGAN's {key}: {detail}")]
    Parse { key: &'static str, detail: String },
    #[error("the VQGAN's shape lacks {key}")]
    Missing { key: &'static str },
}

/// The network shape of a VQGAN.
///
/// Serialises as the authors write it: `ddconfig` (a table), `embed_dim`, `n_embed`, and `gumbel` for the Gumbel variant.
///
/// ```
/// use imagebart::vqgan::VqganConfig;
/// let text = r#"{"ddconfig": {"double_z": false, "z_channels": 256, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
///     "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0}, "embed_dim": 256, "n_embed": 1024}"#;
/// let config: VqganConfig = serde_json::from_str(text)?;
/// assert_eq!(config.downsampling(), 16);
/// let parameters: i64 = config.tensors().iter().map(|tensor| tensor.numel()).sum();
/// assert_eq!(parameters, 72_141_699);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct VqganConfig {
    /// Channels of the finest level.
    pub ch: i64,
    /// Channels of each level, finest first, as multiples of `ch`.
    pub ch_mult: Vec<i64>,
    /// Residual blocks of each level of the encoder; the decoder has one more.
    pub num_res_blocks: i64,
    /// Sides, in pixels at `resolution`, of the levels that have attention.
    pub attn_resolutions: Vec<i64>,
    /// Side of the training images: it places the attention, and does not limit the images' size.
    pub resolution: i64,
    pub in_channels: i64,
    pub out_ch: i64,
    /// Channels between encoder and `quant_conv`.
    pub z_channels: i64,
    /// Means and variances from the encoder: a KL autoencoder, not a VQGAN. Always false.
    pub double_z: bool,
    /// Dropout while training.
    pub dropout: f64,
    /// What `ddconfig` says of a final tanh. The released decoder ignores the key, so this does too: see
    /// the tokenizer's options.
    pub tanh_out: bool,
    /// Channels of a codebook entry.
    pub embed_dim: i64,
    /// Entries of the codebook.
    pub n_embed: i64,
    /// Entries in use, where the codebook is remapped (`quantize.used`).
    pub used: Option<i64>,
    /// taming's `GumbelVQ` rather than its `VQModel`.
    pub gumbel: bool,
    /// Groups of every GroupNorm: [`NORM_GROUPS`], taming's, unless `ddconfig` has `norm_groups`, which taming does not know. Where
    /// a level has hardly more channels than groups, normalising takes from every channel what it is over the whole image: flat
    /// colours are learned several times slower. Of 0 groups a norm is its scale and shift alone: statistics over the whole image
    /// make every token depend on all that the image shows, which a small chain cannot learn to undo.
    pub norm_groups: i64,
}

impl VqganConfig {
    /// Pixels of a token's side: 2 to the number of levels minus one.
    pub fn downsampling(&self) -> i64 {
        1 << (self.ch_mult.len() - 1)
    }

    /// Number of ids: entries in use when remapped, else all entries.
    pub fn ids(&self) -> i64 {
        self.used.unwrap_or(self.n_embed)
    }

    /// Channels of level `level` (0 is the finest).
    pub fn channels(&self, level: usize) -> i64 {
        self.ch * self.ch_mult[level]
    }

    /// Whether level `level` (0 is the finest) has attention: placed by `resolution`, not by the image's size.
    pub fn has_attention(&self, level: usize) -> bool {
        self.attn_resolutions.contains(&(self.resolution >> level))
    }

    /// The shape from a file's metadata: `ddconfig` as JSON, `embed_dim`, `n_embed`, and where they apply `used` and `gumbel`.
    /// `None` when the file says nothing of a VQGAN.
    pub fn from_metadata(metadata: &BTreeMap<String, String>) -> Result<Option<VqganConfig>, ConfigError> {
        let Some(ddconfig) = metadata.get("ddconfig") else { return Ok(None) };
        let ddconfig = serde_json::from_str(ddconfig)
            .map_err(|error| ConfigError::Parse { key: "ddconfig", detail: error.to_string() })?;
        let number = |key: &'static str| match metadata.get(key) {
            None => Ok(None),
            Some(text) => text
                .parse::<i64>()
                .map(Some)
                .map_err(|_| ConfigError::Parse { key, detail: format!("{text:?} is not an integer") }),
        };
        Written {
            ddconfig,
            embed_dim: number("embed_dim")?.ok_or(ConfigError::Missing { key: "embed_dim" })?,
            n_embed: number("n_embed")?.ok_or(ConfigError::Missing { key: "n_embed" })?,
            used: number("used")?,
            gumbel: metadata.get("gumbel").is_some_and(|text| text == "true"),
        }
        .try_into()
        .map(Some)
    }

    /// The shape as a file's metadata, which [`from_metadata`](VqganConfig::from_metadata) reads back.
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        let written = Written::from(self.clone());
        let ddconfig = serde_json::json!(written.ddconfig).to_string();
        let mut metadata = BTreeMap::from([
            ("ddconfig".to_owned(), ddconfig),
            ("embed_dim".to_owned(), self.embed_dim.to_string()),
            ("n_embed".to_owned(), self.n_embed.to_string()),
        ]);
        if let Some(used) = self.used {
            metadata.insert("used".to_owned(), used.to_string());
        }
        if self.gumbel {
            metadata.insert("gumbel".to_owned(), "true".to_owned());
        }
        metadata
    }

    /// The shape from a released model's config: the `params` of `target: ...VQModel`, `VQGANWrapper` or `GumbelVQ`. Training
    /// settings among them are ignored, and so is `remap`, a path of the authors' machine.
    pub fn from_released(target: &str, params: &serde_json::Value) -> Result<VqganConfig, ConfigError> {
        let part = |key: &'static str| params.get(key).ok_or(ConfigError::Missing { key });
        let integer = |key: &'static str| {
            let value = part(key)?;
            value.as_i64().ok_or(ConfigError::Parse { key, detail: format!("{value} is not an integer") })
        };
        let ddconfig = Ddconfig::deserialize(part("ddconfig")?)
            .map_err(|error| ConfigError::Parse { key: "ddconfig", detail: error.to_string() })?;
        let gumbel = target.ends_with("GumbelVQ");
        let (embed_dim, n_embed) = (integer("embed_dim")?, integer("n_embed")?);
        Written { ddconfig, embed_dim, n_embed, used: None, gumbel }.try_into()
    }

    /// Every tensor of the network, under its name in the released checkpoints.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut list = Vec::new();
        self.encoder_tensors(&mut list);
        self.decoder_tensors(&mut list);
        conv(&mut list, "quant_conv", self.z_channels, self.embed_dim, 1);
        conv(&mut list, "post_quant_conv", self.embed_dim, self.z_channels, 1);
        let codebook = [self.n_embed, self.embed_dim];
        if self.gumbel {
            conv(&mut list, "quantize.proj", self.z_channels, self.n_embed, 1);
            list.push(TensorSpec::new("quantize.embed.weight", &codebook, Init::Normal(1.0)));
        } else {
            let init = Init::Uniform(1.0 / self.n_embed as f64);
            list.push(TensorSpec::new("quantize.embedding.weight", &codebook, init));
        }
        if let Some(used) = self.used {
            list.push(TensorSpec::new("quantize.used", &[used], Init::Range));
        }
        list
    }

    fn encoder_tensors(&self, list: &mut Vec<TensorSpec>) {
        let levels = self.ch_mult.len();
        let mut width = self.ch;
        conv(list, "encoder.conv_in", self.in_channels, width, 3);
        for level in 0..levels {
            for block in 0..self.num_res_blocks {
                res_block(list, &format!("encoder.down.{level}.block.{block}"), width, self.channels(level));
                width = self.channels(level);
                if self.has_attention(level) {
                    attention(list, &format!("encoder.down.{level}.attn.{block}"), width);
                }
            }
            if level + 1 < levels {
                conv(list, &format!("encoder.down.{level}.downsample.conv"), width, width, 3);
            }
        }
        middle(list, "encoder.mid", width);
        norm(list, "encoder.norm_out", width);
        conv(list, "encoder.conv_out", width, self.z_channels, 3);
    }

    fn decoder_tensors(&self, list: &mut Vec<TensorSpec>) {
        let levels = self.ch_mult.len();
        let mut width = self.channels(levels - 1);
        conv(list, "decoder.conv_in", self.z_channels, width, 3);
        middle(list, "decoder.mid", width);
        for level in (0..levels).rev() {
            for block in 0..=self.num_res_blocks {
                res_block(list, &format!("decoder.up.{level}.block.{block}"), width, self.channels(level));
                width = self.channels(level);
                if self.has_attention(level) {
                    attention(list, &format!("decoder.up.{level}.attn.{block}"), width);
                }
            }
            if level > 0 {
                conv(list, &format!("decoder.up.{level}.upsample.conv"), width, width, 3);
            }
        }
        norm(list, "decoder.norm_out", width);
        conv(list, "decoder.conv_out", width, self.out_ch, 3);
    }
}

/// A convolution with bias, initialised as PyTorch does: uniform in ±1/sqrt(fan in).
fn conv(list: &mut Vec<TensorSpec>, name: &str, input: i64, output: i64, kernel: i64) {
    let init = Init::Uniform(1.0 / ((input * kernel * kernel) as f64).sqrt());
    list.push(TensorSpec::new(format!("{name}.weight"), &[output, input, kernel, kernel], init));
    list.push(TensorSpec::new(format!("{name}.bias"), &[output], init));
}

fn norm(list: &mut Vec<TensorSpec>, name: &str, width: i64) {
    list.push(TensorSpec::new(format!("{name}.weight"), &[width], Init::Constant(1.0)));
    list.push(TensorSpec::new(format!("{name}.bias"), &[width], Init::Constant(0.0)));
}

fn res_block(list: &mut Vec<TensorSpec>, name: &str, input: i64, output: i64) {
    norm(list, &format!("{name}.norm1"), input);
    conv(list, &format!("{name}.conv1"), input, output, 3);
    norm(list, &format!("{name}.norm2"), output);
    conv(list, &format!("{name}.conv2"), output, output, 3);
    if input != output {
        conv(list, &format!("{name}.nin_shortcut"), input, output, 1);
    }
}

fn attention(list: &mut Vec<TensorSpec>, name: &str, width: i64) {
    norm(list, &format!("{name}.norm"), width);
    for part in ["q", "k", "v", "proj_out"] {
        conv(list, &format!("{name}.{part}"), width, width, 1);
    }
}

fn middle(list: &mut Vec<TensorSpec>, name: &str, width: i64) {
    res_block(list, &format!("{name}.block_1"), width, width);
    attention(list, &format!("{name}.attn_1"), width);
    res_block(list, &format!("{name}.block_2"), width, width);
}

/// [`VqganConfig`] as the authors write it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    ddconfig: Ddconfig,
    embed_dim: i64,
    n_embed: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gumbel: bool,
}

/// taming's `ddconfig`, the arguments of its Encoder and Decoder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ddconfig {
    #[serde(default)]
    double_z: bool,
    z_channels: i64,
    resolution: i64,
    in_channels: i64,
    out_ch: i64,
    ch: i64,
    ch_mult: Vec<i64>,
    num_res_blocks: i64,
    attn_resolutions: Vec<i64>,
    #[serde(default)]
    dropout: f64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tanh_out: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    norm_groups: Option<i64>,
}

impl From<VqganConfig> for Written {
    fn from(config: VqganConfig) -> Written {
        Written {
            ddconfig: Ddconfig {
                double_z: config.double_z,
                z_channels: config.z_channels,
                resolution: config.resolution,
                in_channels: config.in_channels,
                out_ch: config.out_ch,
                ch: config.ch,
                ch_mult: config.ch_mult,
                num_res_blocks: config.num_res_blocks,
                attn_resolutions: config.attn_resolutions,
                dropout: config.dropout,
                tanh_out: config.tanh_out,
                norm_groups: Some(config.norm_groups).filter(|&groups| groups != NORM_GROUPS),
            },
            embed_dim: config.embed_dim,
            n_embed: config.n_embed,
            used: config.used,
            gumbel: config.gumbel,
        }
    }
}

impl TryFrom<Written> for VqganConfig {
    type Error = ConfigError;

    fn try_from(written: Written) -> Result<VqganConfig, ConfigError> {
        let dd = written.ddconfig;
        let config = VqganConfig {
            ch: dd.ch,
            ch_mult: dd.ch_mult,
            num_res_blocks: dd.num_res_blocks,
            attn_resolutions: dd.attn_resolutions,
            resolution: dd.resolution,
            in_channels: dd.in_channels,
            out_ch: dd.out_ch,
            z_channels: dd.z_channels,
            double_z: dd.double_z,
            dropout: dd.dropout,
            tanh_out: dd.tanh_out,
            embed_dim: written.embed_dim,
            n_embed: written.n_embed,
            used: written.used,
            gumbel: written.gumbel,
            norm_groups: dd.norm_groups.unwrap_or(NORM_GROUPS),
        };
        config.validate()?;
        Ok(config)
    }
}

impl VqganConfig {
    /// Fails when no network has this shape, saying which value is wrong and why.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("ch", self.ch),
            ("resolution", self.resolution),
            ("z_channels", self.z_channels),
            ("embed_dim", self.embed_dim),
        ];
        for (key, value) in sizes {
            check(key, value, (1..=MAX_SIZE).contains(&value), format!("it must be in 1..={MAX_SIZE}"))?;
        }
        for (key, value) in [("in_channels", self.in_channels), ("out_ch", self.out_ch)] {
            check(key, value, value == 3, "images here have 3 channels")?;
        }
        let blocks = self.num_res_blocks;
        check("num_res_blocks", blocks, (1..=64).contains(&blocks), "it must be in 1..=64")?;
        let levels = self.ch_mult.len();
        check("ch_mult", format!("{:?}", self.ch_mult), (1..=12).contains(&levels), "it must have 1 to 12 levels")?;
        let groups = self.norm_groups;
        check("norm_groups", groups, (0..=MAX_SIZE).contains(&groups), format!("it must be in 0..={MAX_SIZE}"))?;
        for (level, &multiple) in self.ch_mult.iter().enumerate() {
            let width = (1..=MAX_SIZE).contains(&multiple).then(|| self.ch * multiple);
            let ok = self.ch % groups.max(1) == 0 && width.is_some_and(|width| width <= MAX_SIZE);
            let problem =
                format!("level {level} must have a multiple of {} channels, at most {MAX_SIZE}", groups.max(1));
            check("ch_mult", format!("{:?} with ch {}", self.ch_mult, self.ch), ok, problem)?;
        }
        check("double_z", self.double_z, !self.double_z, "that is a KL autoencoder, which has no tokens")?;
        check("dropout", self.dropout, (0.0..1.0).contains(&self.dropout), "it must be in 0..1")?;
        let fits = (1..=MAX_SIZE).contains(&self.n_embed);
        check("n_embed", self.n_embed, fits, "token ids are 16 bits wide: it must be in 1..=65536")?;
        let used = self.used.unwrap_or(1);
        check("used", used, (1..=self.n_embed).contains(&used), "it must be in 1..=n_embed")?;
        let equal = !self.gumbel || self.embed_dim == self.z_channels;
        check("embed_dim", self.embed_dim, equal, "a GumbelVQ needs it equal to z_channels")
    }
}

fn check(key: &'static str, value: impl ToString, ok: bool, problem: impl Into<String>) -> Result<(), ConfigError> {
    if ok { Ok(()) } else { Err(ConfigError::Invalid { key, value: value.to_string(), problem: problem.into() }) }
}
