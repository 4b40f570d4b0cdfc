//! The ids of words that were seen before.
//!
//! Splitting a caption into words costs the `tokenizers` library many times what looking up their ids does. Where a word's ids
//! depend on nothing but the word, as they do under the rules of [`train`](super::train), a caption of words that were seen
//! before is looked up alone.

use super::words::{MAX_WORD_BYTES, normalizer, splitter};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Most words that are kept: at 64 bytes a word, less than 32 MB with their ids. Frequent words come early.
const MAX_KEPT: usize = 1 << 16;

/// Words, as captions write them, and their ids.
#[derive(Debug, Default)]
pub(super) struct Memo {
    words: RwLock<HashMap<Box<str>, Box<[u32]>>>,
}

impl Memo {
    /// A memo for the tokenizer of the file `tokenizer`; none where a word's ids may depend on its neighbours.
    ///
    /// Under the rules of `train` a word follows a single space, and GPT-2's pattern crosses no space: it is split, and then
    /// merged, as if it were alone.
    pub fn of(tokenizer: &Value) -> Option<Memo> {
        let same = |key: &str, ours: Option<Value>| ours.is_some() && tokenizer.get(key) == ours.as_ref();
        let none = |key: &str| tokenizer.get(key).is_none_or(Value::is_null);
        let normalizer = normalizer().ok().and_then(|ours| serde_json::to_value(ours).ok());
        let splitter = serde_json::to_value(splitter()).ok();
        let words_alone = same("normalizer", normalizer) && same("pre_tokenizer", splitter) && none("post_processor");
        let no_others = tokenizer.get("added_tokens").and_then(Value::as_array).is_none_or(Vec::is_empty);
        (words_alone && no_others).then(Memo::default)
    }

    /// Whether a caption's words are divided by its spaces alone: Unicode has other spaces, and characters that combine.
    pub fn fits(caption: &str) -> bool {
        caption.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    }

    /// The ids of a caption that [fits](Memo::fits), or as many of them as exceed `length`. `learn` gives those of a new word.
    ///
    /// # Errors
    /// Those of `learn`.
    pub fn ids<E>(
        &self,
        caption: &str,
        length: usize,
        mut learn: impl FnMut(&str) -> Result<Vec<u32>, E>,
    ) -> Result<Vec<u32>, E> {
        let mut ids = Vec::new();
        let mut words = caption.split(' ').filter(|word| !word.is_empty());
        let mut known = self.words.read().unwrap_or_else(PoisonError::into_inner);
        while let Some(word) = words.next().filter(|_| ids.len() <= length) {
            if let Some(own) = known.get(word) {
                ids.extend_from_slice(own);
                continue;
            }
            drop(known);
            let own = learn(word)?;
            ids.extend_from_slice(&own);
            self.keep(word, own);
            known = self.words.read().unwrap_or_else(PoisonError::into_inner);
        }
        Ok(ids)
    }

    fn keep(&self, word: &str, ids: Vec<u32>) {
        let mut words = self.words.write().unwrap_or_else(PoisonError::into_inner);
        if words.len() < MAX_KEPT && word.len() <= MAX_WORD_BYTES {
            words.insert(word.into(), ids.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{TextTokenizer, WordCounts, train};
    use std::path::Path;

    fn tokenizer() -> TextTokenizer {
        let mut words = WordCounts::new().unwrap();
        for caption in ["a large red circle, and a red square", "the circle's left of the 12 squares!", "a large one"] {
            words.add(caption).unwrap();
        }
        train(words, 320, Path::new("tokenizer.json")).unwrap()
    }

    /// The same tokenizer without a memo: what is said of a token that no caption has changes no ids.
    fn plain(tokenizer: &TextTokenizer) -> TextTokenizer {
        let mut value: Value = serde_json::from_slice(tokenizer.bytes()).unwrap();
        let token = serde_json::json!({"id": 0, "content": "\u{1}", "single_word": false, "lstrip": false, "rstrip": false,
                                       "normalized": false, "special": true});
        value["added_tokens"] = Value::Array(vec![token]);
        assert!(Memo::of(&value).is_none());
        TextTokenizer::from_bytes("plain.json", serde_json::to_vec(&value).unwrap()).unwrap()
    }

    #[test]
    fn ids_are_those_of_the_library_whether_words_are_new_or_known() {
        let tokenizer = tokenizer();
        assert!(Memo::of(&serde_json::from_slice(tokenizer.bytes()).unwrap()).is_some());
        let plain = plain(&tokenizer);
        let captions = [
            "a large red circle",
            "  The  circle's LEFT-of  12squares ",
            "",
            "   ",
            "can't 'tis 'll we'll 's' ''",
            "!?#~ a\tb",
            "Cafe\u{301} caf\u{e9}",
            "a\u{a0}b",
            "x_1 x1x 1x1 (a) \"b\"",
            "a\u{301}",
            "12 345 6.78 $9",
            "a large red circle",
        ];
        for caption in captions.iter().chain(&captions) {
            for length in [1, 3, 12, 100] {
                let (ours, theirs) =
                    (tokenizer.encode(caption, length).unwrap(), plain.encode(caption, length).unwrap());
                let unpadded = |ids: &[u32], padding: i64| -> Vec<u32> {
                    ids.iter().copied().filter(|&id| i64::from(id) != padding).collect()
                };
                assert_eq!(ours.truncated, theirs.truncated, "{caption:?} {length}");
                assert_eq!(
                    unpadded(&ours.ids, tokenizer.vocabulary()),
                    unpadded(&theirs.ids, plain.vocabulary()),
                    "{caption:?} {length}"
                );
            }
            assert_eq!(tokenizer.length(caption).unwrap(), plain.length(caption).unwrap(), "{caption:?}");
        }
    }

    #[test]
    fn other_rules_have_no_memo() {
        let file: Value = serde_json::from_slice(tokenizer().bytes()).unwrap();
        for (key, other) in [
            ("normalizer", Value::Null),
            ("pre_tokenizer", serde_json::json!({"type": "Whitespace"})),
            (
                "post_processor",
                serde_json::json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false}),
            ),
        ] {
            let mut changed = file.clone();
            changed[key] = other;
            assert!(Memo::of(&changed).is_none(), "{key}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (memo, long) = (Memo::default(), "x".repeat(MAX_WORD_BYTES + 1));
        let mut asked = 0;
        for caption in ["a b a", "b a", &long, &long] {
            let learn = |word: &str| -> Result<Vec<u32>, ()> {
                asked += 1;
                Ok(vec![word.len() as u32])
            };
            memo.ids(caption, 10, learn).unwrap();
        }
        assert_eq!(asked, 4, "a, b, and the long one twice");
        assert_eq!(memo.ids("a b a b", 1, |_| Err(())).unwrap(), [1, 1], "no more than is needed to see the cut");
    }
}
