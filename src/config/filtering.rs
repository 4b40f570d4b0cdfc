//! `[filter]`: what is kept of the samples of a run.

use serde::{Deserialize, Serialize};

/// `[filter]`: rules that need all samples of a run. One that is left out is not in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterSection {
    /// Images whose score is less are not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f32>,
    /// An image goes when at most this share of its tokens differs from a better image's: 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_tokens: Option<f32>,
    /// An image goes when at most so many of the 64 bits of its perceptual hash differ from a better image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_image: Option<u32>,
    /// Outputs of `encode`, such as the latents that were trained on: near copies of their rows go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<String>,
    /// The share of tokens that may differ in a near copy.
    pub copy_tokens: f32,
    /// Of the images of one prompt or class, no more are kept: the best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_prompt: Option<u64>,
    /// Of all images of the run, no larger share is kept: the best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
}

impl Default for FilterSection {
    fn default() -> Self {
        FilterSection {
            min_score: None,
            duplicate_tokens: None,
            duplicate_image: None,
            against: Vec::new(),
            copy_tokens: 0.05,
            per_prompt: None,
            rate: None,
        }
    }
}
