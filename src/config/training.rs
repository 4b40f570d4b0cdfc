//! `[train]` and `[train_tokenizer]`: how a chain and its tokenizer are trained.

use super::sections::DType;
use super::values::Auto;
use serde::{Deserialize, Serialize};

/// `[train]`: the networks of a chain, from latents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// Where checkpoints, event files and reports go, a folder for each network: a local path or a URL. Left out: `train/`
    /// under `output.url`.
    pub to: String,
    /// The latents, by the URLs of their outputs. Left out: those at `output.url`.
    pub latents: Vec<String>,
    /// Latents that are never trained on, by the URL of their output; the best checkpoint is chosen by their loss.
    pub validation: Option<String>,
    /// Rows of the validation latents that are looked at; all when left out.
    pub validation_rows: Option<u64>,
    /// Optimizer steps.
    pub steps: u64,
    /// Rows of one forward pass.
    pub batch_size: u32,
    /// Batches whose gradients make one step.
    pub accumulate: u32,
    /// The learning rate after the warm-up.
    pub lr: f64,
    /// The rate of the first step, and that from `decay_steps` on.
    pub lr_start: f64,
    pub lr_min: f64,
    /// Steps of the linear rise from `lr_start` to `lr`.
    pub warm_up_steps: u64,
    /// The step at which half a cosine has come down to `lr_min`; `steps` when left out.
    pub decay_steps: Option<u64>,
    /// Of the parameters that are decayed.
    pub weight_decay: f64,
    /// Gradients of a larger norm are scaled down to it; never when left out.
    pub clip: Option<f64>,
    /// Decay of the moving averages that are validated and exported.
    pub ema: f64,
    /// Share of rows that are shown without their condition, which guidance needs.
    pub condition_dropout: f64,
    /// Arithmetic of the networks: `fp32`, `bf16` (over fp32 weights), or `auto`: fp32 on the CPU, bf16 on CUDA.
    pub dtype: Auto<DType>,
    /// Lets CUDA multiply float32 matrices in TF32.
    pub tf32: bool,
    /// Keeps each layer's input alone and computes the rest anew for the gradients: less memory for a third more work.
    pub checkpoint_activations: bool,
    /// Rows that are shuffled together in memory.
    pub window_rows: u64,
    /// Steps between two lines of the log and of the curves.
    pub log_every: u64,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept beside the best one.
    pub keep: u32,
    /// Steps between two looks at the validation latents.
    pub validate_every: u64,
    /// `best`: the averages that had the lowest validation loss go into the model directory, the last ones where nothing was
    /// validated; or `last`.
    pub export: String,
    /// Steps between two pictures of what the network draws; 0 for none.
    pub sample_every: u64,
    /// Steps in a row whose loss is not a number before the run stops; each is skipped and counted.
    pub max_bad_steps: u32,
}

impl Default for TrainSection {
    fn default() -> Self {
        TrainSection {
            to: String::new(),
            latents: Vec::new(),
            validation: None,
            validation_rows: None,
            steps: 100_000,
            batch_size: 16,
            accumulate: 1,
            lr: 1e-4,
            lr_start: 2.5e-6,
            lr_min: 1e-8,
            warm_up_steps: 10_000,
            decay_steps: None,
            weight_decay: 0.01,
            clip: None,
            ema: 0.9999,
            condition_dropout: 0.0,
            dtype: Auto::Auto,
            tf32: false,
            checkpoint_activations: false,
            window_rows: 1 << 16,
            log_every: 50,
            checkpoint_every: 1000,
            keep: 3,
            validate_every: 1000,
            export: "best".to_owned(),
            sample_every: 0,
            max_bad_steps: 10,
        }
    }
}

/// `[train_tokenizer]`: the VQGAN, from images. The names are those of taming-transformers where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainTokenizerSection {
    /// Where checkpoints, event files and the report go: a local path or a URL. Left out: `train-tokenizer/` under `output.url`.
    pub to: String,
    /// The images that are never trained on, in the terms of `dataset.url` (and `dataset.list`, when `validation_list` is given).
    pub validation: Option<String>,
    pub validation_list: Option<String>,
    /// Images of it that are looked at; all when left out.
    pub validation_images: Option<u64>,
    pub steps: u64,
    pub batch_size: u32,
    pub accumulate: u32,
    /// Of encoder, codebook and decoder; taming takes 4.5e-6 times the batch.
    pub lr: f64,
    /// Of the discriminator; `lr` when left out.
    pub disc_lr: Option<f64>,
    /// Steps of a linear rise of both rates from 0.
    pub warm_up_steps: u64,
    /// The step at which half a cosine has come down to a hundredth of the rates; constant when left out.
    pub decay_steps: Option<u64>,
    /// Decay of the moving averages that are validated and exported; none when left out, as in taming.
    pub ema: Option<f64>,
    /// Which weights are exported: `last`, those of the last step, or `best`, those with the lowest validation loss.
    pub export: String,
    /// A file of LPIPS: its weights as `.safetensors`, or a TorchScript module. Without it there is no perceptual loss.
    pub lpips: Option<String>,
    pub perceptual_weight: f64,
    pub codebook_weight: f64,
    /// Weight of the smaller term of the codebook loss, and whether that is the codebook's (as in all released models).
    pub beta: f64,
    pub legacy: bool,
    /// The step at which the discriminator begins to count; never when left out.
    pub disc_start: Option<u64>,
    pub disc_weight: f64,
    pub disc_factor: f64,
    /// Layers and width of the patch discriminator.
    pub disc_layers: u32,
    pub disc_ndf: u32,
    /// Steps before anything is quantized: encoder and decoder learn to reproduce images first, then the codes are placed among the
    /// features of a batch. Needs `restart_after`, which places them.
    pub quantize_after: u64,
    /// Moves the codebook by running means with this decay instead of by gradients.
    pub codebook_ema: Option<f64>,
    /// Codes that were not used for this many steps are placed anew, at features of the batch at hand that are far from all codes.
    pub restart_after: Option<u64>,
    /// Writes the used codes of the validation images into the exported weights as the remap.
    pub shrink: bool,
    /// Codes of the exported weights that are no farther apart than this are made one: for codebooks that have more codes than the
    /// images need. Use among the validation images decides which take in which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge: Option<f64>,
    /// How often a code must be used there to be kept, by `shrink` and `merge`.
    pub shrink_min_count: u64,
    /// Images that are shuffled together in memory.
    pub window_images: u64,
    pub tf32: bool,
    pub log_every: u64,
    pub checkpoint_every: u64,
    pub keep: u32,
    pub validate_every: u64,
    /// Steps between two pictures of reconstructions; 0 for none.
    pub sample_every: u64,
    pub max_bad_steps: u32,
}

impl Default for TrainTokenizerSection {
    fn default() -> Self {
        TrainTokenizerSection {
            to: String::new(),
            validation: None,
            validation_list: None,
            validation_images: None,
            steps: 100_000,
            batch_size: 8,
            accumulate: 1,
            lr: 3.6e-5,
            disc_lr: None,
            warm_up_steps: 0,
            decay_steps: None,
            ema: None,
            export: "last".to_owned(),
            lpips: None,
            perceptual_weight: 1.0,
            codebook_weight: 1.0,
            beta: 0.25,
            legacy: true,
            disc_start: None,
            disc_weight: 0.8,
            disc_factor: 1.0,
            disc_layers: 3,
            disc_ndf: 64,
            codebook_ema: None,
            quantize_after: 0,
            restart_after: None,
            shrink: false,
            merge: None,
            shrink_min_count: 1,
            window_images: 1024,
            tf32: false,
            log_every: 50,
            checkpoint_every: 1000,
            keep: 3,
            validate_every: 1000,
            sample_every: 0,
            max_bad_steps: 10,
        }
    }
}
