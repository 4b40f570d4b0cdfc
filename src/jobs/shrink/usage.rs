//! How often each entry of a codebook stands in latents.

use serde::Serialize;
use std::fmt;

/// Counts of a codebook's ids over token grids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    counts: Vec<u64>,
}

impl Usage {
    /// No tokens yet, of a codebook of `codes` ids.
    pub fn new(codes: u32) -> Usage {
        Usage { counts: vec![0; codes as usize] }
    }

    /// Adds the tokens of a grid. Tokens that are no id are left out: the tables have none.
    pub fn add(&mut self, tokens: &[u16]) {
        for token in tokens {
            if let Some(count) = self.counts.get_mut(usize::from(*token)) {
                *count += 1;
            }
        }
    }

    /// Adds what another count found.
    pub fn merge(&mut self, other: &Usage) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
    }

    /// The ids that stand at least `min_count` times, ascending.
    pub fn used(&self, min_count: u64) -> Vec<u16> {
        let ids = (0..=u16::MAX).zip(&self.counts);
        ids.filter(|(_, count)| **count >= min_count.max(1)).map(|(id, _)| id).collect()
    }

    /// How often each id stands.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// What a report says of it, where these ids are `kept`.
    pub fn facts(&self, kept: &[u16]) -> UsageFacts {
        let tokens: u64 = self.counts.iter().sum();
        let kept_tokens: u64 = kept.iter().filter_map(|id| self.counts.get(usize::from(*id))).sum();
        let share = |count: u64| count as f64 / tokens.max(1) as f64;
        let entropy: f64 =
            self.counts.iter().map(|count| share(*count)).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
        UsageFacts {
            codes: self.counts.len() as u64,
            tokens,
            seen: self.counts.iter().filter(|count| **count > 0).count() as u64,
            kept: kept.len() as u64,
            outlier_share: share(tokens - kept_tokens),
            perplexity: entropy.exp(),
            most_frequent_share: share(self.counts.iter().copied().max().unwrap_or(0)),
        }
    }
}

/// A codebook's use in figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct UsageFacts {
    /// Ids of the codebook.
    pub codes: u64,
    /// Tokens counted.
    pub tokens: u64,
    /// Ids that stand at least once.
    pub seen: u64,
    /// Ids that are kept.
    pub kept: u64,
    /// Share of the tokens whose id is not kept.
    pub outlier_share: f64,
    /// e to the entropy of the ids: as many equally frequent ids would be as hard to predict without context.
    pub perplexity: f64,
    /// Share of the tokens that have the most frequent id.
    pub most_frequent_share: f64,
}

impl fmt::Display for UsageFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UsageFacts { codes, tokens, seen, kept, outlier_share, perplexity, .. } = self;
        write!(
            f,
            "{seen} of {codes} codes stand among {tokens} tokens (perplexity {perplexity:.1}), {kept} are kept, \
             {:.3} % of the tokens are outliers",
            outlier_share * 100.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_become_figures() {
        let mut usage = Usage::new(8);
        usage.add(&[0, 0, 0, 3, 3, 3, 5, 9]);
        let mut more = Usage::new(8);
        more.add(&[7]);
        usage.merge(&more);
        assert_eq!(usage.used(1), [0, 3, 5, 7]);
        assert_eq!(usage.used(0), usage.used(1));
        assert_eq!(usage.used(2), [0, 3]);
        let facts = usage.facts(&usage.used(2));
        assert_eq!((facts.codes, facts.tokens, facts.seen, facts.kept), (8, 8, 4, 2));
        assert_eq!((facts.outlier_share, facts.most_frequent_share), (0.25, 0.375));
        // H = -2 (3/8) ln(3/8) - 2 (1/8) ln(1/8)
        assert!((facts.perplexity - (0.75 * (8f64 / 3.0).ln() + 0.25 * 8f64.ln()).exp()).abs() < 1e-12);
        assert_eq!(Usage::new(4).facts(&[]).perplexity, 1.0);
    }

    #[test]
    fn uniform_tokens_have_the_codebook_s_perplexity() {
        let mut usage = Usage::new(1 << 16);
        let all: Vec<u16> = (0..=u16::MAX).collect();
        usage.add(&all);
        assert_eq!(usage.used(1).len(), 1 << 16);
        assert!((usage.facts(&all).perplexity / 65536.0 - 1.0).abs() < 1e-9);
    }
}
