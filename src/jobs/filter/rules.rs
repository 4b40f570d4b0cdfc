//! What is kept of the samples of a run, and why not: rules that need all of them.
//!
//! Rows are looked at from the best to the worst: by score where all have one, else in the run's order. So of two that are nearly
//! the same the better one stays, and a cap keeps the best of a prompt.

use super::near::Near;
use std::collections::HashMap;

/// What the rules need of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Rows of one prompt or class have one number.
    pub group: u32,
    pub score: Option<f32>,
    /// Whether the run itself kept it.
    pub accepted: bool,
    /// `[h * w]`; empty where no rule looks at them.
    pub tokens: Vec<u16>,
    /// The perceptual hash's bits, a symbol each; empty where no rule looks at them.
    pub bits: Vec<u16>,
}

/// The rules that are in force. A distance is a share of places.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rules {
    pub min_score: Option<f32>,
    /// Tokens that may differ from a better row.
    pub tokens: Option<f32>,
    /// Bits of the perceptual hash that may differ from a better row.
    pub bits: Option<u32>,
    pub per_prompt: Option<u64>,
    /// Of all rows of the run.
    pub rate: Option<f64>,
}

/// Which rule decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// None spoke against the row.
    Kept,
    /// The run itself did not accept it.
    NotAccepted,
    /// Its score is below the least.
    Score,
    /// It is nearly a row of the other latents.
    Copy,
    /// Its tokens are nearly those of a better row.
    Tokens,
    /// Its image looks nearly like that of a better row.
    Image,
    /// Its prompt has enough better rows.
    Prompt,
    /// The run has enough better rows.
    Rate,
}

impl Rule {
    pub const ALL: [Rule; 8] =
        [Rule::Kept, Rule::NotAccepted, Rule::Score, Rule::Copy, Rule::Tokens, Rule::Image, Rule::Prompt, Rule::Rate];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Kept => "kept",
            Rule::NotAccepted => "not-accepted",
            Rule::Score => "min-score",
            Rule::Copy => "training-copy",
            Rule::Tokens => "duplicate-tokens",
            Rule::Image => "duplicate-image",
            Rule::Prompt => "per-prompt",
            Rule::Rate => "rate",
        }
    }
}

/// The row that stands against another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// A row of the run.
    Sample(usize),
    /// A row of the other latents.
    Latent(u32),
}

/// What was decided about a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    pub rule: Rule,
    /// What the rule measured: a score, a share of tokens, a number of bits, a place from 0 among the prompt's or the run's rows.
    pub value: Option<f32>,
    pub neighbour: Option<Against>,
}

impl Decision {
    fn of(rule: Rule, value: Option<f32>) -> Decision {
        Decision { rule, value, neighbour: None }
    }
}

/// Decides about every row. `latents`: the tokens that copies are looked for among.
pub fn decide(rows: &[Facts], rules: &Rules, latents: Option<&Near>) -> Vec<Decision> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    if rows.iter().all(|row| row.score.is_some()) {
        // A score that is no number is worse than any.
        let value = |at: &usize| rows[*at].score.filter(|score| !score.is_nan()).unwrap_or(f32::NEG_INFINITY);
        order.sort_by(|a, b| value(b).total_cmp(&value(a)).then(a.cmp(b)));
    }
    let mut kept = Kept::new(rows, rules);
    let mut decisions = vec![Decision::of(Rule::Kept, None); rows.len()];
    for at in order {
        decisions[at] = kept.decide(at, &rows[at], rules, latents);
    }
    decisions
}

/// The rows that stay, so far.
struct Kept {
    tokens: Option<(Near, Vec<usize>)>,
    bits: Option<(Near, Vec<usize>)>,
    of_group: HashMap<u32, u64>,
    count: u64,
    /// How many may stay.
    limit: Option<u64>,
}

impl Kept {
    fn new(rows: &[Facts], rules: &Rules) -> Kept {
        let width = |of: fn(&Facts) -> usize| rows.first().map_or(0, of);
        let (tokens, bits) = (width(|row| row.tokens.len()), width(|row| row.bits.len()));
        Kept {
            tokens: rules.tokens.map(|share| (Near::new(tokens, places(tokens, share)), Vec::new())),
            bits: rules.bits.map(|most| (Near::new(bits, most as usize), Vec::new())),
            of_group: HashMap::new(),
            count: 0,
            limit: rules.rate.map(|rate| (rows.len() as f64 * rate).round() as u64),
        }
    }

    fn decide(&mut self, at: usize, row: &Facts, rules: &Rules, latents: Option<&Near>) -> Decision {
        if !row.accepted {
            return Decision::of(Rule::NotAccepted, row.score);
        }
        if rules.min_score.is_some_and(|least| row.score.is_none_or(|score| score < least || score.is_nan())) {
            return Decision::of(Rule::Score, row.score);
        }
        let share = |distance: usize| Some(distance as f32 / row.tokens.len().max(1) as f32);
        if let Some(near) = latents.and_then(|latents| latents.nearest(&row.tokens)) {
            let neighbour = Some(Against::Latent(near.row));
            return Decision { rule: Rule::Copy, value: share(near.distance), neighbour };
        }
        if let Some((near, row)) = found(&self.tokens, &row.tokens) {
            return Decision { rule: Rule::Tokens, value: share(near), neighbour: Some(Against::Sample(row)) };
        }
        if let Some((near, row)) = found(&self.bits, &row.bits) {
            return Decision { rule: Rule::Image, value: Some(near as f32), neighbour: Some(Against::Sample(row)) };
        }
        let of_group = self.of_group.entry(row.group).or_default();
        if rules.per_prompt.is_some_and(|most| *of_group >= most) {
            return Decision::of(Rule::Prompt, Some(*of_group as f32));
        }
        if self.limit.is_some_and(|limit| self.count >= limit) {
            return Decision::of(Rule::Rate, row.score);
        }
        *of_group += 1;
        self.count += 1;
        for (near, symbols) in [(&mut self.tokens, &row.tokens), (&mut self.bits, &row.bits)] {
            if let Some((near, rows)) = near
                && near.insert(symbols)
            {
                rows.push(at);
            }
        }
        Decision::of(Rule::Kept, row.score)
    }
}

/// How many of `width` places a share is.
pub fn places(width: usize, share: f32) -> usize {
    // 5 % of 40 is 2, whatever the rounding of 0.05.
    (width as f64 * f64::from(share) + 1e-6) as usize
}

/// The distance and the row of the run of what is near.
fn found(kept: &Option<(Near, Vec<usize>)>, symbols: &[u16]) -> Option<(usize, usize)> {
    let (near, rows) = kept.as_ref()?;
    let neighbour = near.nearest(symbols)?;
    Some((neighbour.distance, *rows.get(neighbour.row as usize)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: u32, score: Option<f32>, tokens: [u16; 4]) -> Facts {
        Facts { group, score, accepted: true, tokens: tokens.to_vec(), bits: vec![] }
    }

    fn names(decisions: &[Decision]) -> Vec<&'static str> {
        decisions.iter().map(|decision| decision.rule.name()).collect()
    }

    #[test]
    fn of_near_rows_the_better_stays_and_is_named() {
        let rows = [
            row(0, Some(0.1), [1, 2, 3, 4]),
            row(0, Some(0.9), [1, 2, 3, 5]),
            row(0, Some(0.5), [9, 9, 9, 9]),
            row(0, Some(0.2), [1, 2, 0, 0]),
        ];
        let rules = Rules { tokens: Some(0.25), ..Rules::default() };
        let decisions = decide(&rows, &rules, None);
        assert_eq!(names(&decisions), ["duplicate-tokens", "kept", "kept", "kept"]);
        assert_eq!((decisions[0].value, decisions[0].neighbour), (Some(0.25), Some(Against::Sample(1))));
        // Without scores the first stays.
        let unscored = rows.map(|row| Facts { score: None, ..row });
        assert_eq!(names(&decide(&unscored, &rules, None)), ["kept", "duplicate-tokens", "kept", "kept"]);
    }

    #[test]
    fn hashes_scores_caps_and_rates_decide_in_turn() {
        let mut rows = [
            row(0, Some(0.9), [0; 4]),
            row(0, Some(0.8), [1; 4]),
            row(0, Some(0.7), [2; 4]),
            row(1, Some(0.6), [3; 4]),
            row(1, Some(0.5), [4; 4]),
            row(1, Some(f32::NAN), [5; 4]),
            row(1, Some(0.4), [6; 4]),
            row(2, Some(0.95), [7; 4]),
        ];
        for (row, bits) in rows.iter_mut().zip([0b000, 0b111, 0b110, 0b011, 0b101, 0, 0, 0b010]) {
            row.bits = (0..3).map(|bit| bits >> bit & 1).collect();
        }
        rows[7].accepted = false;
        let rules =
            Rules { min_score: Some(0.45), bits: Some(0), per_prompt: Some(2), rate: Some(0.375), ..Rules::default() };
        let decisions = decide(&rows, &rules, None);
        let expected = ["kept", "kept", "per-prompt", "kept", "rate", "min-score", "min-score", "not-accepted"];
        assert_eq!(names(&decisions), expected);
        assert_eq!(decisions[2].value, Some(2.0));
        let rules = Rules { bits: Some(1), ..Rules::default() };
        let decisions = decide(&rows, &rules, None);
        assert_eq!(decisions[2], Decision { rule: Rule::Image, value: Some(1.0), neighbour: Some(Against::Sample(1)) });
    }

    #[test]
    fn copies_of_latents_are_named() {
        let mut latents = Near::new(4, places(4, 0.5));
        assert!(latents.insert(&[8; 4]) && latents.insert(&[1, 2, 3, 4]));
        let rows = [row(0, None, [1, 2, 0, 0]), row(0, None, [1, 0, 0, 0])];
        let decisions = decide(&rows, &Rules::default(), Some(&latents));
        assert_eq!(decisions[0], Decision { rule: Rule::Copy, value: Some(0.5), neighbour: Some(Against::Latent(1)) });
        assert_eq!(decisions[1].rule, Rule::Kept);
    }

    #[test]
    fn a_share_is_a_whole_number_of_places() {
        assert_eq!([places(40, 0.05), places(64, 0.05), places(256, 0.1), places(256, 0.0)], [2, 3, 25, 0]);
    }
}
