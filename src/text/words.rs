//! The words of captions, counted within bounded memory.

use super::{MAX_CAPTION_BYTES, TextError, excerpt, start_of};
use std::collections::HashMap;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

/// Most distinct words that are kept. When there are more, the rarest are forgotten. Bounds the memory of training to less
/// than 1 GB (measured: 490 MB with 730,000 words).
pub const MAX_WORDS: usize = 1 << 20;
/// Longer words (addresses, hashes) are not learned from. They are encoded all the same, in pieces.
pub const MAX_WORD_BYTES: usize = 64;

/// How often each word occurs, spaces before it included, its bytes written as GPT-2 writes them: a character each.
#[derive(Debug)]
pub struct WordCounts {
    normalizer: Sequence,
    splitter: ByteLevel,
    words: HashMap<String, u64>,
    limit: usize,
    captions: u64,
    forgotten: u64,
}

impl WordCounts {
    /// No words yet.
    ///
    /// # Errors
    /// None that is known: the rules are fixed.
    pub fn new() -> Result<WordCounts, TextError> {
        WordCounts::with_limit(MAX_WORDS)
    }

    fn with_limit(limit: usize) -> Result<WordCounts, TextError> {
        Ok(WordCounts {
            normalizer: normalizer()?,
            splitter: splitter(),
            words: HashMap::new(),
            limit,
            captions: 0,
            forgotten: 0,
        })
    }

    /// Counts the words of a caption.
    ///
    /// # Errors
    /// A text that cannot be split, with its beginning.
    pub fn add(&mut self, caption: &str) -> Result<(), TextError> {
        let text = start_of(caption, MAX_CAPTION_BYTES);
        let failed = |error: tokenizers::Error| TextError::Split { caption: excerpt(text), detail: error.to_string() };
        let mut normalized = NormalizedString::from(text);
        self.normalizer.normalize(&mut normalized).map_err(failed)?;
        let mut parts = PreTokenizedString::from(normalized);
        self.splitter.pre_tokenize(&mut parts).map_err(failed)?;
        for (word, _, _) in parts.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            // Every byte is one character here.
            if word.is_empty() || word.chars().count() > MAX_WORD_BYTES {
                continue;
            }
            match self.words.get_mut(word) {
                Some(count) => *count = count.saturating_add(1),
                None => drop(self.words.insert(word.to_owned(), 1)),
            }
        }
        self.captions += 1;
        if self.words.len() > self.limit {
            self.forget();
        }
        Ok(())
    }

    /// Forgets the rarest words until half of the limit is free. What goes depends on the counts alone, so the same captions in
    /// the same order leave the same words.
    fn forget(&mut self) {
        let before = self.words.len();
        let mut least = 1;
        while self.words.len() > self.limit / 2 {
            self.words.retain(|_, count| *count > least);
            least += 1;
        }
        self.forgotten += (before - self.words.len()) as u64;
    }

    /// Number of captions counted.
    pub fn captions(&self) -> u64 {
        self.captions
    }

    /// Number of distinct words known.
    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// How many distinct words were forgotten for want of room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The words and their counts, sorted.
    pub(super) fn into_sorted(self) -> Vec<(String, u64)> {
        let mut words: Vec<(String, u64)> = self.words.into_iter().collect();
        words.sort();
        words
    }
}

/// Composed characters, single spaces, lower case: captions of the web are careless about all three.
pub(super) fn normalizer() -> Result<Sequence, TextError> {
    let assemble = |error: tokenizers::Error| TextError::Assemble(error.to_string());
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(assemble)?;
    Ok(Sequence::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces),
        NormalizerWrapper::StripNormalizer(Strip::new(true, true)),
        NormalizerWrapper::Lowercase(Lowercase),
    ]))
}

/// GPT-2's words, the first one with a space before it like the others.
pub(super) fn splitter() -> ByteLevel {
    ByteLevel::new(true, false, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(captions: &[&str], limit: usize) -> WordCounts {
        let mut words = WordCounts::with_limit(limit).unwrap();
        captions.iter().for_each(|caption| words.add(caption).unwrap());
        words
    }

    #[test]
    fn words_are_counted_after_normalising() {
        let words = count(&["A  Dog,\n a dog", " a\tCAT's toy ", "", "  "], 100);
        let expected = [("'s", 1), (",", 1), ("Ġa", 3), ("Ġcat", 1), ("Ġdog", 2), ("Ġtoy", 1)];
        let found = words.into_sorted();
        assert_eq!(found, expected.map(|(word, count)| (word.to_owned(), count)));
        let composed = count(&["Cafe\u{301}", "CAFÉ"], 100);
        assert_eq!(composed.into_sorted(), [("ĠcafÃ©".to_owned(), 2)]);
    }

    #[test]
    fn memory_is_bounded_and_the_rarest_words_go_first() {
        let mut captions: Vec<String> = (0..300).map(|n| format!("common w{}", "x".repeat(n % 50 + 1))).collect();
        captions.extend((0..300).map(|n| format!("common {}", char::from_u32(0x4e00 + n).unwrap())));
        let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
        let words = count(&captions, 100);
        assert!(words.words() <= 100 && words.forgotten() > 200, "{} {}", words.words(), words.forgotten());
        assert_eq!(words.captions(), 600);
        let kept = words.into_sorted();
        assert_eq!(kept, count(&captions, 100).into_sorted());
        assert!(kept.iter().any(|(word, count)| word == "Ġcommon" && *count == 600));
        assert_eq!(count(&["x".repeat(80).as_str(), "y"], 100).words(), 1);
    }
}
