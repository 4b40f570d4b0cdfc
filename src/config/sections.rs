//! The sections of a pipeline file. Every key has a default but the few that only the user can know.

use super::card::CardSection;
use super::choosing::ChooseSection;
use super::evaluation::EvaluateSection;
use super::filtering::FilterSection;
use super::sampling::{EditSection, SampleSection};
use super::training::{TrainSection, TrainTokenizerSection};
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
    pub train_tokenizer: TrainTokenizerSection,
    pub shrink: ShrinkSection,
    pub chain: ChainSection,
    pub condition: ConditionSection,
    pub train: TrainSection,
    pub sample: SampleSection,
    pub choose: ChooseSection,
    pub edit: EditSection,
    pub evaluate: EvaluateSection,
    pub filter: FilterSection,
    pub card: CardSection,
    pub output: OutputSection,
    pub run: RunSection,
}

/// `[dataset]`: what to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetSection {
    /// The dataset's format: one of [`crate::datasets::Format::ALL`], such as `folder` or `webdataset`.
    pub format: String,
    /// Where it is: a local path or a URL (`s3://`, `gs://`, `az://`, `http(s)://`, `file://`), with braces for shards.
    pub url: String,
    /// A file of names, one per line, or FFHQ's metadata and a category of it (`ffhq-dataset-v2.json#training`): only these are
    /// kept (folders, zip archives, LMDBs).
    pub list: Option<String>,
    /// What tells the classes of ImageNet's validation images: the devkit's archive, `validation_synset.txt`,
    /// `LOC_val_solution.csv`, or files joined with `::`.
    pub mapping: Option<String>,
    /// `train` or `val`, where ImageNet's training and validation images lie side by side.
    pub split: Option<String>,
    /// Where labels come from: `auto` (what the format itself says), `directory` (folders: the rank of the top directory's
    /// name; LMDBs: that of the database's), or `none`.
    pub labels: String,
    /// Where captions come from: `auto` (what the format itself says), `json.<key>`, or `none`.
    pub captions: String,
    /// Labels must be below this number, when it is given.
    pub classes: Option<u32>,
    /// Samples per work unit, where a unit is a block of files or a slice of a file.
    pub unit_rows: u64,
}

impl Default for DatasetSection {
    fn default() -> Self {
        DatasetSection {
            format: String::new(),
            url: String::new(),
            list: None,
            mapping: None,
            split: None,
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
    /// `none`, or `white-border`: cut off the white bars that img2dataset pads images with to a square.
    pub trim: String,
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
            trim: "none".to_owned(),
            max_pixels: limits.max_pixels,
            max_bytes: ByteSize(limits.max_bytes),
            min_side: limits.min_side,
        }
    }
}

/// `[tokenizer]`: the VQGAN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The most that decoding one picture may hold in activations: `sample` and `edit` decode larger ones in tiles.
    pub decode_memory: ByteSize,
}

impl Default for TokenizerSection {
    fn default() -> Self {
        TokenizerSection {
            weights: String::new(),
            ddconfig: None,
            embed_dim: None,
            n_embed: None,
            batch_size: Auto::Auto,
            dtype: Auto::Auto,
            decode_memory: ByteSize(2 << 30),
        }
    }
}

/// `[shrink]`: a tokenizer with only the codes that are used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShrinkSection {
    /// A local path or URL; the remapped latents go under it.
    pub to: String,
    /// The latents whose codes count as used, by the URL of their output: a validation split, in the paper. Without it, those
    /// that are remapped.
    pub count: Option<String>,
    /// How often a code must stand there to be kept.
    pub min_count: u64,
    /// The smaller tokenizer's file. Without it, `<name>-shrunk.safetensors` beside `tokenizer.weights`.
    pub tokenizer: Option<String>,
}

impl Default for ShrinkSection {
    fn default() -> Self {
        ShrinkSection { to: String::new(), count: None, min_count: 1, tokenizer: None }
    }
}

/// Arithmetic of a network.
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
    /// A local path or URL; `latents/`, `samples/` and their rejects go under it.
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
    /// Threads that decode or encode images.
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

/// `[chain]`: the scales of the diffusion, as a pipeline file and a model directory's `chain.toml` describe them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChainSection {
    /// The model directory: what `train` writes and `sample` reads.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// The noise schedule, as the released configs' `redraw_prob`: `geometric`, a number, `alphacum:1,0.6,0`,
    /// `bernoulli_PSIM`, `ffhq_bernoulli_PSIM` ...
    pub schedule: ScheduleValue,
    /// Codes K in use; 0 takes the tokenizer's.
    pub codebook_size: u32,
    /// Rows and columns of the token grid.
    pub grid: [u32; 2],
    /// The networks, from scale 1 up.
    pub scale: Vec<ScaleSection>,
}

impl Default for ChainSection {
    fn default() -> Self {
        ChainSection {
            model: String::new(),
            schedule: ScheduleValue::Name("geometric".to_owned()),
            codebook_size: 0,
            grid: [16, 16],
            scale: Vec::new(),
        }
    }
}

/// A noise schedule: a constant redraw probability, or a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ScheduleValue {
    Number(f64),
    Name(String),
}

/// `[[chain.scale]]`: one network. Lengths and vocabularies that are left out follow from grid, codebook and condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScaleSection {
    /// `encoder-decoder` or `gpt`.
    pub network: String,
    /// `plain`, `scaled`, `residual` or `residual-scaled` (encoder-decoder).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    pub dim: u32,
    /// Layers of the GPT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_depth: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder_depth: Option<u32>,
    /// Attention heads; 16 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<u32>,
    /// The encoder's heads, where they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_heads: Option<u32>,
    /// Share of the soft loss in training; 0 is cross entropy with the drawn x_{t-1}, 1 is KL to the posterior.
    pub alpha: f64,
    /// The scales this network serves, when it serves several (joint training): `[1, 2, 3, 4]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scales: Option<Vec<u32>>,
    /// Rows of the input embedding (encoder or GPT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u32>,
    /// Rows of the input positions (encoder or GPT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_length: Option<u32>,
    /// Leading tokens of the GPT that see one another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmasked: Option<u32>,
}

/// `[condition]`: what images are drawn of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConditionSection {
    /// `none`, `class` or `text`.
    pub kind: String,
    /// Number of classes (class).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<u32>,
    /// Whether there is a learned null class, which guidance needs (class; text always has one).
    pub null: bool,
    /// The text tokenizer, a `tokenizer.json` of the tokenizers library (text).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Ids of the text tokenizer (text).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<u32>,
    /// Tokens of every text, padding included (text).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
}

impl Default for ConditionSection {
    fn default() -> Self {
        let kind = "none".to_owned();
        ConditionSection { kind, classes: None, null: false, tokenizer: None, vocabulary: None, length: None }
    }
}
