//! `[card]`: what the data-set card says that only the user can say.

use serde::{Deserialize, Serialize};

/// `[card]`: what `README.md` beside samples says of them besides what the run knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CardSection {
    /// The data set's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it is for, and what one should know of it, in Markdown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The licence it may be used under, as the Hugging Face hub names it: `cc-by-4.0`, `cc0-1.0`, `apache-2.0` ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

impl CardSection {
    /// What is wrong with it: the key, and a sentence.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        let lines = [("card.title", &self.title), ("card.licence", &self.licence)];
        let wrong = |text: &String| text.trim().is_empty() || text.contains(char::is_control);
        let (key, _) = lines.into_iter().find(|(_, text)| text.as_ref().is_some_and(wrong))?;
        Some((key, format!("{key} must be one line of text; leave it out where there is none")))
    }
}
