//! `[choose]`: which of the images that are drawn are kept.

use serde::{Deserialize, Serialize};

/// `[choose]`: draw more images of each row than are wanted, and keep the best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChooseSection {
    /// What scores images: `likelihood`, `shapes`, or the file of a TorchScript module. Nothing when left out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scorer: String,
    /// Candidates of each row, of which the best `count` are accepted; as many as `count` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draw: Option<u32>,
    /// Accepts this share of each row's candidates, at least one, in place of `count`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Accepts no image with a lower score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// What becomes of the others: `drop`, or `keep`: they are in the table, marked.
    pub rejected: String,
    /// The text tokenizer of a module that sees texts; the chain's when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// How many ids of it the module takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
}

impl Default for ChooseSection {
    fn default() -> Self {
        ChooseSection {
            scorer: String::new(),
            draw: None,
            rate: None,
            threshold: None,
            rejected: "drop".to_owned(),
            tokenizer: None,
            length: None,
        }
    }
}

impl ChooseSection {
    /// What is wrong with it, if anything: the key, and a sentence.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        let (scored, module) = (!self.scorer.is_empty(), !["", "likelihood", "shapes"].contains(&self.scorer.as_str()));
        let given = [
            ("choose.draw", self.draw.is_some()),
            ("choose.rate", self.rate.is_some()),
            ("choose.threshold", self.threshold.is_some()),
            ("choose.rejected", self.rejected != "drop"),
        ];
        if let Some((key, _)) = given.into_iter().find(|(_, given)| *given && !scored) {
            let what = "needs choose.scorer: \"likelihood\", \"shapes\", or the file of a TorchScript module";
            return Some((key, format!("{key} {what}")));
        }
        if self.draw == Some(0) {
            return Some(("choose.draw", "choose.draw must be 1 or more".to_owned()));
        }
        if let Some(rate) = self.rate.filter(|rate| !(*rate > 0.0 && *rate <= 1.0)) {
            return Some(("choose.rate", format!("choose.rate = {rate} must be above 0 and at most 1")));
        }
        if self.threshold.is_some_and(f32::is_nan) {
            return Some(("choose.threshold", "choose.threshold is not a number".to_owned()));
        }
        if (self.tokenizer.is_some() || self.length.is_some()) && !module {
            let what = "choose.tokenizer and choose.length are for TorchScript modules alone";
            return Some(("choose.tokenizer", what.to_owned()));
        }
        if self.tokenizer.is_some() != self.length.is_some() {
            return Some(("choose.length", "give choose.tokenizer and choose.length, or neither".to_owned()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let fault = |text: &str| toml::from_str::<ChooseSection>(text).unwrap().fault().map(|(key, _)| key);
        assert_eq!(fault(""), None);
        assert_eq!(fault("scorer = \"likelihood\"\ndraw = 8\nthreshold = -5\nrejected = \"keep\""), None);
        assert_eq!(fault("scorer = \"clip.pt\"\ntokenizer = \"clip.json\"\nlength = 77\nrate = 0.1"), None);
        assert_eq!(fault("draw = 8"), Some("choose.draw"));
        assert_eq!(fault("rejected = \"keep\""), Some("choose.rejected"));
        assert_eq!(fault("scorer = \"shapes\"\ndraw = 0"), Some("choose.draw"));
        assert_eq!(fault("scorer = \"shapes\"\nrate = 1.5"), Some("choose.rate"));
        assert_eq!(fault("scorer = \"shapes\"\nthreshold = nan"), Some("choose.threshold"));
        assert_eq!(fault("scorer = \"shapes\"\nlength = 77"), Some("choose.tokenizer"));
        assert_eq!(fault("scorer = \"clip.pt\"\nlength = 77"), Some("choose.length"));
    }
}
