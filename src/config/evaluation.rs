//! `[evaluate]`: what is measured, with what, and where the report goes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// `[evaluate]`: figures of a tokenizer and a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSection {
    /// Of `reconstruction`, `generation`, `text`, `likelihood`. Left out: all that the pipeline has what it takes for.
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
    /// What is compared with it, and scored beside its texts: `samples`, or `latents`, decoded.
    pub generated: String,
    /// What tells how well an image fits its text: `shapes`, the rule reader of the demo, or the file of a TorchScript module that
    /// takes images and token ids. Without it there are no text metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scorer: Option<String>,
    /// The text tokenizer of such a module; the chain's when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scorer_tokenizer: Option<String>,
    /// How many ids of it the module takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scorer_length: Option<u32>,
    /// The k of precision, recall, density and coverage.
    pub neighbours: u32,
    /// Parts of the Inception Score.
    pub splits: u32,
    /// Subsets of the kernel distance, and their rows.
    pub kid_subsets: u32,
    pub kid_size: u32,
    /// Checkpoints or runs that are measured alike, in one report. None: what the pipeline itself names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<EvaluateRun>,
}

/// `[[evaluate.run]]`: one of several checkpoints or runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateRun {
    /// Its name in the report.
    pub name: String,
    /// Where it stands along the curves, such as its training step. Given for all runs or for none, which are then evenly apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<f64>,
    /// In place of `chain.model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// In place of `tokenizer.weights`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// In place of `output.url`: where its samples, or latents, are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
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
            scorer: None,
            scorer_tokenizer: None,
            scorer_length: None,
            neighbours: 3,
            splits: 10,
            kid_subsets: 100,
            kid_size: 1000,
            run: Vec::new(),
        }
    }
}

impl EvaluateSection {
    /// What is wrong with its scorer or its runs, if anything: the key, and a sentence.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        let texts = self.scorer_tokenizer.is_some() || self.scorer_length.is_some();
        if texts && self.scorer.as_deref().is_none_or(|scorer| scorer == "shapes") {
            let what = "evaluate.scorer_tokenizer and scorer_length are for TorchScript modules alone";
            return Some(("evaluate.scorer_tokenizer", what.to_owned()));
        }
        if self.scorer_tokenizer.is_some() != self.scorer_length.is_some() {
            let what = "give evaluate.scorer_tokenizer and evaluate.scorer_length, or neither";
            return Some(("evaluate.scorer_length", what.to_owned()));
        }
        if self.scorer_length == Some(0) {
            return Some(("evaluate.scorer_length", "evaluate.scorer_length must be 1 or more".to_owned()));
        }
        let mut names = BTreeSet::new();
        for run in &self.run {
            if run.name.is_empty() || !names.insert(run.name.as_str()) {
                return Some((
                    "evaluate.run",
                    format!("evaluate.run: every run needs a name of its own, not \"{}\"", run.name),
                ));
            }
        }
        let placed = self.run.iter().filter(|run| run.at.is_some_and(f64::is_finite)).count();
        let placeless = placed == 0 && self.run.iter().all(|run| run.at.is_none());
        let sentence = "evaluate.run: give `at`, a number, for all runs or for none";
        (!placeless && placed < self.run.len()).then(|| ("evaluate.run", sentence.to_owned()))
    }
}
