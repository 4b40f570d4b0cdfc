//! A `tokenizer.json` and what it makes of captions.

use super::memo::Memo;
use super::{TextError, excerpt, start_of};
use crate::digest::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::{Tokenizer, TruncationDirection};

/// Longest `tokenizer.json` that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most ids of a vocabulary, as many rows as an embedding may have.
const MAX_VOCABULARY: i64 = (1 << 20) - 2;
/// Bytes of a caption that are looked at. The rest of a longer one is cut off.
pub const MAX_CAPTION_BYTES: usize = 1 << 16;

/// Turns captions into token ids.
///
/// Lower-casing, Unicode forms and special tokens are as the file says; its own settings of truncation and padding are not
/// used, since the length is the networks'.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    path: PathBuf,
    bytes: Vec<u8>,
    vocabulary: i64,
    fingerprint: String,
    memo: Option<Arc<Memo>>,
}

/// A caption as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// `[length]`: each below the vocabulary, then the padding id.
    pub ids: Vec<u32>,
    /// Whether the caption was longer and its end is lost.
    pub truncated: bool,
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// A file that is no tokenizer, one without tokens or with too many, and one that gives a text other tokens at every run.
    pub fn open(path: impl AsRef<Path>) -> Result<TextTokenizer, TextError> {
        let path = path.as_ref();
        let failed = |source| TextError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            let detail = format!("it has more than the {MAX_FILE_BYTES} bytes that are read");
            return Err(TextError::NotATokenizer { path: path.to_owned(), detail });
        }
        TextTokenizer::from_bytes(path, bytes)
    }

    /// A tokenizer from the bytes of its file; `path` stands for it in messages.
    ///
    /// # Errors
    /// As [`open`](TextTokenizer::open)'s.
    pub fn from_bytes(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<TextTokenizer, TextError> {
        let path = path.into();
        let not = |detail: String| TextError::NotATokenizer { path: path.clone(), detail };
        let unfit = |detail: String| TextError::Unfit { path: path.clone(), detail };
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| not(format!("it is no JSON: {error}")))?;
        if value.get("model").is_none() {
            return Err(not("it has no \"model\": a tokenizer.json of the tokenizers library is needed".to_owned()));
        }
        if value.pointer("/model/dropout").and_then(Value::as_f64).is_some_and(|dropout| dropout != 0.0) {
            return Err(unfit("model.dropout gives a text other tokens at every run: set it to null".to_owned()));
        }
        let mut tokenizer = parse(&bytes).map_err(not)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| not(error.to_string()))?;
        let vocabulary = tokenizer.get_vocab(true).into_values().max().map_or(0, |last| i64::from(last) + 1);
        if !(1..=MAX_VOCABULARY).contains(&vocabulary) {
            return Err(unfit(format!("its ids go up to {vocabulary}; 1 to {MAX_VOCABULARY} ids can be used")));
        }
        let fingerprint = fingerprint(&value);
        let memo = Memo::of(&value).map(Arc::new);
        Ok(TextTokenizer { tokenizer, path, bytes, vocabulary, fingerprint, memo })
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's bytes, for a copy beside the weights that were trained with it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One more than the largest id. The padding id of [`TextConfig`](crate::transformer::TextConfig) is this number.
    pub fn vocabulary(&self) -> i64 {
        self.vocabulary
    }

    /// Hex SHA-256 over the file's content: the same for the same tokenizer however it is laid out, and whatever it says of
    /// truncation and padding.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The ids of a caption: exactly `length` of them.
    ///
    /// # Errors
    /// A length that the tokenizer's own special tokens fill up; a text that the tokenizer has no ids for.
    pub fn encode(&self, caption: &str, length: usize) -> Result<Encoded, TextError> {
        let text = start_of(caption, MAX_CAPTION_BYTES);
        let (mut ids, cut) = self.tokens(text, length)?;
        ids.resize(length, u32::try_from(self.vocabulary).unwrap_or(u32::MAX));
        Ok(Encoded { ids, truncated: cut || text.len() < caption.len() })
    }

    /// The ids of a caption, cut to `length` but not filled up, and whether something was cut off.
    fn tokens(&self, text: &str, length: usize) -> Result<(Vec<u32>, bool), TextError> {
        let Some(memo) = self.memo.as_ref().filter(|_| length > 0 && Memo::fits(text)) else {
            return self.split(text, length);
        };
        let mut ids = memo.ids(text, length, |word| Ok(self.split(word, usize::MAX)?.0))?;
        let cut = ids.len() > length;
        ids.truncate(length);
        Ok((ids, cut))
    }

    /// The same by the library alone.
    fn split(&self, text: &str, length: usize) -> Result<(Vec<u32>, bool), TextError> {
        let wrong = |detail: String| TextError::Encode { path: self.path.clone(), caption: excerpt(text), detail };
        let special =
            self.tokenizer.get_post_processor().map_or(0, |post| tokenizers::PostProcessor::added_tokens(post, false));
        if special >= length {
            let detail =
                format!("it adds {special} special tokens to every text, which leaves no room in a length of {length}");
            return Err(TextError::Unfit { path: self.path.clone(), detail });
        }
        let failed = |error: tokenizers::Error| wrong(error.to_string());
        let mut encoding = self.tokenizer.encode_fast(text, false).map_err(failed)?;
        let room = length - special;
        let cut = encoding.len() > room;
        encoding.truncate(room, 0, TruncationDirection::Right);
        // Special tokens come after the cut, so that those at the end are not lost.
        let ids = self.tokenizer.post_process(encoding, None, true).map_err(failed)?.get_ids().to_vec();
        match ids.iter().find(|&&id| i64::from(id) >= self.vocabulary) {
            Some(id) => Err(wrong(format!("it gives the id {id}, beyond the vocabulary of {}", self.vocabulary))),
            None => Ok((ids, cut)),
        }
    }

    /// How many ids a caption has, special tokens included, when nothing is cut off.
    ///
    /// # Errors
    /// A text that the tokenizer has no ids for.
    pub fn length(&self, caption: &str) -> Result<usize, TextError> {
        self.tokens(start_of(caption, MAX_CAPTION_BYTES), usize::MAX).map(|(ids, _)| ids.len())
    }

    /// The text of ids; padding and whatever the vocabulary has not are left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        let known: Vec<u32> = ids.iter().copied().filter(|&id| i64::from(id) < self.vocabulary).collect();
        self.tokenizer.decode(&known, true).map_err(|error| TextError::Unfit {
            path: self.path.clone(),
            detail: format!("ids cannot be turned back into text: {error}"),
        })
    }
}

/// The library's reading of a file. It panics on some that contradict themselves, such as merges that make no token.
fn parse(bytes: &[u8]) -> Result<Tokenizer, String> {
    match std::panic::catch_unwind(|| Tokenizer::from_bytes(bytes)) {
        Ok(tokenizer) => tokenizer.map_err(|error| error.to_string()),
        Err(_) => Err("its parts contradict one another".to_owned()),
    }
}

/// SHA-256 over the JSON in one way of writing it, less what encoding does not depend on.
fn fingerprint(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &["padding", "truncation"], &mut text);
    hex(&Sha256::digest(text))
}

/// JSON without spaces, keys sorted, less the top level's `without`.
fn canonical(value: &Value, without: &[&str], out: &mut String) {
    match value {
        Value::Object(entries) => {
            let mut entries: Vec<_> = entries.iter().filter(|(key, _)| !without.contains(&key.as_str())).collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (key, value) in entries {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(value, &[], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, &[], out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}
