//! Learning the merges of a byte-level BPE.
//!
//! The trainer of the `tokenizers` library learns the same merges (the tests compare), but counts in 32 bits, takes several
//! times the memory, and leaves the order of equal merges to its data structures; here it is fixed: the pair of the smaller
//! ids first.

use super::words::{normalizer, splitter};
use super::{TextError, TextTokenizer, WordCounts};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::path::Path;
use tokenizers::Tokenizer;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// The least vocabulary: all bytes and one merge.
pub const MIN_VOCABULARY: u32 = 257;
/// The largest vocabulary that is learned.
const MAX_VOCABULARY: u32 = 1 << 17;
/// A pair that occurs once teaches nothing.
const MIN_COUNT: u64 = 2;

/// Two neighbouring tokens.
type Pair = (u32, u32);

/// Learns a tokenizer of at most `vocabulary` ids; fewer when the words have no more pairs that occur twice. `path` stands for
/// it in messages.
///
/// # Errors
/// No captions; a vocabulary that does not hold the bytes, or is beyond all use.
pub fn train(words: WordCounts, vocabulary: u32, path: &Path) -> Result<TextTokenizer, TextError> {
    if vocabulary < MIN_VOCABULARY {
        return Err(TextError::Vocabulary { vocabulary });
    }
    if vocabulary > MAX_VOCABULARY {
        return Err(TextError::TooLarge { vocabulary, most: MAX_VOCABULARY });
    }
    if words.words() == 0 {
        return Err(TextError::NoCaptions);
    }
    let (tokens, merges) = learn(&words.into_sorted(), vocabulary as usize);
    TextTokenizer::from_bytes(path, assemble(&tokens, &merges)?)
}

/// Tokens in the order of their ids, and merges in the order they were learned.
fn learn(words: &[(String, u64)], vocabulary: usize) -> (Vec<String>, Vec<Pair>) {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let ids: HashMap<char, u32> = alphabet.iter().copied().zip(0..).collect();
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let mut by_name: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let spelled = |word: &String| word.chars().filter_map(|c| ids.get(&c).copied()).collect();
    let mut corpus = Corpus::new(words.iter().map(|(word, count)| (spelled(word), *count)).collect());
    let mut merges = Vec::new();
    while tokens.len() < vocabulary {
        let Some(pair) = corpus.best() else { break };
        let name = format!("{}{}", tokens[pair.0 as usize], tokens[pair.1 as usize]);
        // Another pair may have made the same token already.
        let id = *by_name.entry(name.clone()).or_insert(tokens.len() as u32);
        if id as usize == tokens.len() {
            tokens.push(name);
        }
        merges.push(pair);
        corpus.merge(pair, id);
    }
    (tokens, merges)
}

/// Words as tokens, and where each pair occurs.
struct Corpus {
    words: Vec<(Vec<u32>, u64)>,
    counts: HashMap<Pair, u64>,
    places: HashMap<Pair, BTreeSet<u32>>,
    /// Every pair with each count it has had; those that are no longer right are passed over.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Corpus {
    fn new(words: Vec<(Vec<u32>, u64)>) -> Corpus {
        let mut corpus = Corpus { words, counts: HashMap::new(), places: HashMap::new(), queue: BinaryHeap::new() };
        for at in 0..corpus.words.len() {
            corpus.enter(at, &mut HashSet::new());
        }
        corpus.queue = corpus.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        corpus
    }

    /// Counts the pairs of a word.
    fn enter(&mut self, at: usize, changed: &mut HashSet<Pair>) {
        let (word, count) = &self.words[at];
        for pair in word.windows(2).map(|pair| (pair[0], pair[1])) {
            *self.counts.entry(pair).or_default() += count;
            self.places.entry(pair).or_default().insert(at as u32);
            changed.insert(pair);
        }
    }

    /// Takes the pairs of a word out of the counts.
    fn leave(&mut self, at: usize, changed: &mut HashSet<Pair>) {
        let (word, count) = &self.words[at];
        for pair in word.windows(2).map(|pair| (pair[0], pair[1])) {
            if let Some(all) = self.counts.get_mut(&pair) {
                *all = all.saturating_sub(*count);
            }
            if let Some(places) = self.places.get_mut(&pair) {
                places.remove(&(at as u32));
            }
            changed.insert(pair);
        }
    }

    /// The most frequent pair; of equally frequent ones that of the smallest ids.
    fn best(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            if count < MIN_COUNT {
                return None;
            }
            if self.counts.get(&pair) == Some(&count) {
                return Some(pair);
            }
        }
        None
    }

    /// Makes one token of a pair wherever it occurs, from left to right.
    fn merge(&mut self, pair: Pair, id: u32) {
        let mut changed = HashSet::new();
        for at in self.places.remove(&pair).unwrap_or_default() {
            let at = at as usize;
            self.leave(at, &mut changed);
            let word = &self.words[at].0;
            let mut merged = Vec::with_capacity(word.len());
            let mut position = 0;
            while position < word.len() {
                let here = word.get(position + 1).is_some_and(|&next| (word[position], next) == pair);
                merged.push(if here { id } else { word[position] });
                position += if here { 2 } else { 1 };
            }
            self.words[at].0 = merged;
            self.enter(at, &mut changed);
        }
        for pair in changed {
            match self.counts.get(&pair).copied() {
                Some(0) | None => {
                    self.counts.remove(&pair);
                    self.places.remove(&pair);
                }
                Some(count) => self.queue.push((count, Reverse(pair))),
            }
        }
    }
}

/// The file: what is learned, and how text is prepared for it.
fn assemble(tokens: &[String], merges: &[Pair]) -> Result<Vec<u8>, TextError> {
    let wrong = |error: tokenizers::Error| TextError::Assemble(error.to_string());
    let vocabulary: Vocab = tokens.iter().cloned().zip(0..).collect();
    let names = |&(a, b): &Pair| (tokens[a as usize].clone(), tokens[b as usize].clone());
    let merges = merges.iter().map(names).collect();
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).build().map_err(wrong)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer()?)).map_err(wrong)?;
    tokenizer.with_pre_tokenizer(Some(splitter()));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer.to_string(true).map_err(wrong)?.into_bytes())
}
