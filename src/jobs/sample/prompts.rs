//! What a run's rows are to show, one text each, read from a file.
//!
//! A `.jsonl` file has an object with `"prompt"` on every line; any other file is plain text with a prompt on every line. All of
//! them are read, and turned into tokens, before any work.

use crate::chain::{Condition, ModelDirectory};
use crate::datasets::read_lines;
use crate::digest::hex;
use crate::jobs::JobError;
use crate::text::TextTokenizer;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Longest file that is read: its prompts are held in memory.
const MAX_BYTES: u64 = 1 << 30;

/// A text, and what the networks see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    pub text: Arc<str>,
    /// At most as many ids as the chain's condition has.
    pub ids: Vec<u32>,
}

/// The prompts of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prompts {
    prompts: Arc<[Prompt]>,
    /// How many images of each prompt there are: rows that follow one another.
    each: u64,
    /// How many were longer than the chain's condition, so that their end is lost.
    pub cut: u64,
    /// Hex SHA-256 over the texts in their order, however the file writes them.
    pub digest: String,
}

/// A line of JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: String,
}

impl Prompts {
    /// Reads the prompts at `url` for the chain of `directory`, `each` images of each.
    ///
    /// # Errors
    /// [`JobError::Usage`]: a chain without text, a file that cannot be read or has an empty line, a text without ids.
    pub async fn read(url: &str, directory: &ModelDirectory, each: u64) -> Result<Prompts, JobError> {
        let Condition::Text(text) = directory.config().condition else {
            return Err(JobError::Usage(format!(
                "sample.prompts = {url}: this chain is not conditioned on text, so it cannot draw prompts"
            )));
        };
        let usage = |sentence: String| JobError::Usage(sentence);
        let tokenizer =
            TextTokenizer::open(directory.text_tokenizer_file()).map_err(|error| usage(error.to_string()))?;
        if tokenizer.vocabulary() != text.vocabulary {
            return Err(usage(format!(
                "{} has {} ids, but the chain's text embedding {}: it is not the tokenizer the chain was trained with",
                tokenizer.path().display(),
                tokenizer.vocabulary(),
                text.vocabulary
            )));
        }
        let content = read_lines("sample.prompts", url, MAX_BYTES).await.map_err(|error| usage(error.to_string()))?;
        let texts = match url.ends_with(".jsonl") {
            true => json_lines(&content),
            false => lines(&content),
        };
        let texts = texts.map_err(|what| usage(format!("sample.prompts = {url}: {what}")))?;
        Prompts::of(texts, &tokenizer, text.length, each)
    }

    /// The prompts `texts`, in `length` ids each.
    fn of(texts: Vec<String>, tokenizer: &TextTokenizer, length: i64, each: u64) -> Result<Prompts, JobError> {
        let length = usize::try_from(length).unwrap_or(0);
        let mut hash = Sha256::new();
        let mut prompts = Vec::with_capacity(texts.len());
        let mut cut = 0;
        for text in texts {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(&text);
            let encoded = tokenizer.encode(&text, length).map_err(|error| JobError::Usage(error.to_string()))?;
            cut += u64::from(encoded.truncated);
            prompts.push(Prompt { text: text.into(), ids: encoded.ids });
        }
        Ok(Prompts { prompts: prompts.into(), each, cut, digest: hex(&hash.finalize()) })
    }

    /// How many prompts there are.
    pub fn len(&self) -> u64 {
        self.prompts.len() as u64
    }

    /// Rows of the run.
    pub fn rows(&self) -> u64 {
        self.len().saturating_mul(self.each)
    }

    /// The prompt of row `number`.
    pub fn of_row(&self, number: u64) -> Option<&Prompt> {
        let index = number.checked_div(self.each)?;
        self.prompts.get(usize::try_from(index).ok()?)
    }
}

/// A prompt a line; the last line may end or not.
fn lines(content: &str) -> Result<Vec<String>, String> {
    let mut texts = Vec::new();
    for (number, line) in (1..).zip(content.lines()) {
        if line.trim().is_empty() {
            return Err(format!("line {number} is empty: every line is a prompt"));
        }
        texts.push(line.trim().to_owned());
    }
    some(texts)
}

/// An object a line.
fn json_lines(content: &str) -> Result<Vec<String>, String> {
    let mut texts = Vec::new();
    for (number, line) in (1..).zip(content.lines()) {
        let line: Line = serde_json::from_str(line).map_err(|error| {
            format!(
                "line {number} is no object with a \"prompt\" and nothing else, which is what is read so far: {error}"
            )
        })?;
        if line.prompt.trim().is_empty() {
            return Err(format!("line {number} has an empty prompt"));
        }
        texts.push(line.prompt);
    }
    some(texts)
}

fn some(texts: Vec<String>) -> Result<Vec<String>, String> {
    if texts.is_empty() { Err("there are no prompts in it".to_owned()) } else { Ok(texts) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{WordCounts, train};
    use std::path::Path;

    fn tokenizer() -> TextTokenizer {
        let mut words = WordCounts::new().unwrap();
        words.add("a red circle above a blue square").unwrap();
        train(words, 280, Path::new("text-tokenizer.json")).unwrap()
    }

    fn prompts(texts: &[&str], each: u64) -> Prompts {
        Prompts::of(texts.iter().map(|text| (*text).to_owned()).collect(), &tokenizer(), 8, each).unwrap()
    }

    #[test]
    fn text_and_json_lines_say_the_same() {
        let text = lines("a red circle\r\na \"blue\" square\n").unwrap();
        let json = json_lines("{\"prompt\": \"a red circle\"}\n{\"prompt\": \"a \\\"blue\\\" square\"}").unwrap();
        assert_eq!(text, ["a red circle", "a \"blue\" square"]);
        assert_eq!(text, json);
    }

    #[test]
    fn what_is_no_prompt_is_named_by_its_line() {
        assert!(lines("a\n\nb").unwrap_err().starts_with("line 2 is empty"));
        assert!(lines("").unwrap_err().contains("no prompts"));
        assert!(json_lines("{\"prompt\": \"a\"}\n{\"promt\": \"b\"}").unwrap_err().starts_with("line 2"));
        assert!(json_lines("{\"prompt\": \" \"}").unwrap_err().contains("empty prompt"));
        let more = json_lines("{\"prompt\": \"a\", \"count\": 3}").unwrap_err();
        assert!(more.contains("unknown field `count`"), "{more}");
    }

    #[test]
    fn rows_take_the_prompts_in_order() {
        let prompts = prompts(&["a red circle", "a blue square"], 3);
        assert_eq!((prompts.len(), prompts.rows()), (2, 6));
        let texts: Vec<&str> = (0..6).filter_map(|row| prompts.of_row(row)).map(|prompt| &*prompt.text).collect();
        assert_eq!(texts, [["a red circle"; 3], ["a blue square"; 3]].concat());
        assert_eq!(prompts.of_row(6), None);
        assert!(prompts.prompts.iter().all(|prompt| prompt.ids.len() == 8));
    }

    #[test]
    fn the_digest_is_of_the_texts_and_long_ones_are_counted() {
        let long = "a red circle above a blue square above a red circle above a blue square";
        let (a, b) = (prompts(&["a", "b c"], 1), prompts(&["a b", "c"], 1));
        assert_ne!(a.digest, b.digest);
        assert_eq!(a.digest, prompts(&["a", "b c"], 2).digest);
        assert_eq!((a.cut, prompts(&["a", long, long], 1).cut), (0, 2));
    }
}
