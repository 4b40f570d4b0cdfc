//! `[evaluate]`: what is measured, with what, and where the report goes.

use serde::{Deserialize, Serialize};

/// `[evaluate]`: figures of a tokenizer and a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSection {
    /// Of `reconstruction`, `generation`, `likelihood`. Left out: all that the pipeline has what it takes for.
    pub metrics: Vec<String>,
    /// The local folder of the report. Left out: `evaluate/` under `output.url`.
    pub to: String,
    /// Rows of each set that are looked at; all when left out.
    pub count: Option<u64>,
    /// Images, or token grids, of one forward pass.
    pub batch_size: u32,
    /// Resamples behind every interval.
    pub bootstrap: u32,
    /// A file of LPIPS: its weights as `.safetensors`, or a TorchScript module. Without it there is no LPIPS.
    pub lpips: Option<String>,
    /// SSIM's window: `gaussian` (11×11, sigma 1.5, the paper's) or `uniform` (7×7, scikit-image's default).
    pub ssim: String,
    /// A TorchScript module that gives features of images, perhaps logits. Without it there are neither rFID nor generation metrics.
    pub network: Option<String>,
    /// How images are resized for it: `clean` (bicubic, antialiased), `legacy` (bilinear, not antialiased) or `none`.
    pub network_resize: String,
    /// The side it takes.
    pub network_size: u32,
    /// Pixels become (x / 255 - mean) / std: a list of one number, or of three.
    pub network_mean: Vec<f64>,
    pub network_std: Vec<f64>,
    /// Booleans passed to it behind the images.
    pub network_flags: Vec<bool>,
    /// What samples are compared with: a `.npz` that others published, a `.safetensors` of statistics, which is made of the dataset where
    /// it is not there, or the dataset itself when left out.
    pub reference: Option<String>,
    /// What is compared with it: `samples`, or `latents`, decoded.
    pub generated: String,
    /// The k of precision, recall, density and coverage.
    pub neighbours: u32,
    /// Parts of the Inception Score.
    pub splits: u32,
    /// Subsets of the kernel distance, and their rows.
    pub kid_subsets: u32,
    pub kid_size: u32,
}

impl Default for EvaluateSection {
    fn default() -> Self {
        EvaluateSection {
            metrics: Vec::new(),
            to: String::new(),
            count: None,
            batch_size: 16,
            bootstrap: 1000,
            lpips: None,
            ssim: "gaussian".to_owned(),
            network: None,
            network_resize: "clean".to_owned(),
            network_size: 299,
            network_mean: vec![0.5],
            network_std: vec![0.5],
            network_flags: Vec::new(),
            reference: None,
            generated: "samples".to_owned(),
            neighbours: 3,
            splits: 10,
            kid_subsets: 100,
            kid_size: 1000,
        }
    }
}
