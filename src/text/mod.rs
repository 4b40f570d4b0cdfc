//! Captions as token ids: what text-conditioned networks see.
//!
//! - [`TextTokenizer`] is a `tokenizer.json` of the `tokenizers` library, the user's own or one learned here. It turns a caption
//!   into a fixed number of ids: a long caption is cut, a short one filled up with the padding id, which is one more than the
//!   last of the vocabulary and has a row of its own in the networks' text embedding (so no mask is needed, Esser et al. 2021
//!   do without one too).
//! - [`WordCounts`] and [`train`] learn a byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) from captions: no character
//!   is unknown to it. The same captions in the same order give the same file.

mod bpe;
mod memo;
mod tokenizer;
mod words;

pub use bpe::{MIN_VOCABULARY, train};
pub use tokenizer::{Encoded, MAX_CAPTION_BYTES, TextTokenizer};
pub use words::{MAX_WORD_BYTES, MAX_WORDS, WordCounts};

use std::io;
use std::path::PathBuf;

/// Why text cannot be turned into ids.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("cannot read the text tokenizer {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no text tokenizer: {detail}", path.display())]
    NotATokenizer { path: PathBuf, detail: String },
    #[error("{}: {detail}", path.display())]
    Unfit { path: PathBuf, detail: String },
    #[error("{}: {caption:?} cannot be turned into tokens: {detail}", path.display())]
    Encode { path: PathBuf, caption: String, detail: String },
    #[error("a vocabulary of {vocabulary} is too small: the 256 single bytes and one more are the least")]
    Vocabulary { vocabulary: u32 },
    #[error("a vocabulary of {vocabulary} is too large: {most} is the most")]
    TooLarge { vocabulary: u32, most: u32 },
    #[error("there are no captions to learn a text tokenizer from")]
    NoCaptions,
    #[error("the caption {caption:?} cannot be split into words: {detail}")]
    Split { caption: String, detail: String },
    #[error("the text tokenizer cannot be put together: {0}")]
    Assemble(String),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The start of a text, for messages.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// As much of `text` as `limit` bytes hold, at a character's end.
fn start_of(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}
