//! The sections of a pipeline file. Every key has a default but the few that only the user can know.

use super::values::{Auto, ByteSize};
use crate::imaging::Limits;
use serde::{Deserialize, Serialize};

/// A pipeline file: one experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pipeline {
    pub dataset: DatasetSection,
    pub image: ImageSection,
    pub tokenizer: TokenizerSection,
    pub output: OutputSection,
    pub run: RunSection,
}

/// `[dataset]`: what to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetSection {
    /// The dataset's format: `folder` or `webdataset`.
    pub format: String,
    /// Where it is: a local path or a URL (`s3://`, `gs://`, `az://`, `http(s)://`, `file://`), with braces for shards.
    pub url: String,
    /// A file of names, one per line: only these are kept (folders).
    pub list: Option<String>,
    /// Where labels come from: `auto` (what the format itself says), `directory` (folders: the rank of the top directory's
    /// name), or `none`.
    pub labels: String,
    /// Where captions come from: `auto` (what the format itself says), `json.<key>`, or `none`.
    pub captions: String,
    /// Labels must be below this number, when it is given.
    pub classes: Option<u32>,
    /// Files per work unit, for formats that are not sharded.
    pub unit_rows: u64,
}

impl Default for DatasetSection {
    fn default() -> Self {
        DatasetSection {
            format: String::new(),
            url: String::new(),
            list: None,
            labels: "auto".to_owned(),
            captions: "auto".to_owned(),
            classes: None,
            unit_rows: 5000,
        }
    }
}

/// `[image]`: from encoded bytes to the tokenizer's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageSection {
    /// Side of the square crop in pixels.
    pub size: u32,
    /// `pillow-bicubic`, `pillow-lanczos`, `pillow-bilinear`, `pillow-box` or `cv2-linear`.
    pub resize: String,
    /// `center` or `random`.
    pub crop: String,
    /// Crops per image; more than one only with `crop = "random"`.
    pub crops: u32,
    /// `none`, or `both`: the image and its mirror, two rows.
    pub flip: String,
    /// Images of more pixels are rejected from their header.
    pub max_pixels: u64,
    /// Images of more bytes are rejected unread.
    pub max_bytes: ByteSize,
    /// Images whose shorter side is less are rejected.
    pub min_side: u32,
}

impl Default for ImageSection {
    fn default() -> Self {
        let limits = Limits::default();
        ImageSection {
            size: 256,
            resize: "pillow-bicubic".to_owned(),
            crop: "center".to_owned(),
            crops: 1,
            flip: "none".to_owned(),
            max_pixels: limits.max_pixels,
            max_bytes: ByteSize(limits.max_bytes),
            min_side: limits.min_side,
        }
    }
}

/// `[tokenizer]`: the VQGAN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerSection {
    /// A safetensors file with the tensor names of the released checkpoints.
    pub weights: String,
    /// The network's shape as in the released configs, where the file's metadata does not tell it.
    pub ddconfig: Option<serde_json::Value>,
    /// Width of a codebook entry; with `ddconfig`.
    pub embed_dim: Option<i64>,
    /// Number of codebook entries; with `ddconfig`.
    pub n_embed: Option<i64>,
    /// Images per forward pass.
    pub batch_size: Auto<u32>,
    /// `fp32`; `bf16`, which is faster on GPUs but changes a few tokens in a hundred; or `auto`: fp32.
    pub dtype: Auto<DType>,
}

/// Arithmetic of the tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    Fp32,
    Bf16,
}

/// `[output]`: where tables go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputSection {
    /// A local path or URL; `latents/` and `rejects/` go under it.
    pub url: String,
}

/// `[run]`: how the work is done on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSection {
    /// Seed of every random draw.
    pub seed: u64,
    /// Threads of one tensor operation on the CPU.
    pub threads: Auto<u32>,
    /// Threads that decode images.
    pub decode_workers: Auto<u32>,
    /// Bytes of samples in flight, encoded and decoded.
    pub memory_budget: ByteSize,
    /// A run with a larger share of rejected samples ends with exit code 3.
    pub max_reject_fraction: f64,
}

impl Default for RunSection {
    fn default() -> Self {
        RunSection {
            seed: 0,
            threads: Auto::Auto,
            decode_workers: Auto::Auto,
            memory_budget: ByteSize(1 << 30),
            max_reject_fraction: 0.05,
        }
    }
}
