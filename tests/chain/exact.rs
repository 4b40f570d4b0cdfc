//! The exact distribution of a tiny chain, by enumerating all grids, and the χ² test against it.

use crate::support::{all_grids, number};
use imagebart::chain::Chain;
use imagebart::transformer::{ConditionIds, Source};
use tch::{Kind, Tensor};

/// p(x_{t-1} | x_t) of one scale over all grids: `[x_t][x_{t-1}][position]`, the probability of the token at each position given
/// those before it. From the network's teacher forcing, not from its cached steps.
pub fn conditionals(chain: &Chain, scale: u32) -> Vec<Vec<Vec<f64>>> {
    let config = chain.config();
    let codes = config.codebook_size as usize;
    let grids = all_grids(config.tokens(), codes);
    let tensor = |grids: &[&[u16]]| {
        let ids: Vec<i64> = grids.iter().flat_map(|grid| grid.iter().map(|&id| i64::from(id))).collect();
        Tensor::from_slice(&ids).view([grids.len() as i64, -1])
    };
    let network = chain.network(scale).expect("a network");
    let all = tensor(&grids.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let scales = Tensor::from_slice(&vec![i64::from(scale); grids.len()]);
    let row = |x_t: &Vec<u16>| {
        let x_t = tensor(&vec![x_t.as_slice(); grids.len()]);
        let source = Source { scale: &scales, condition: ConditionIds::None, x_t: Some(&x_t) };
        let logits = network.logits(&source, &all).expect("logits").to_kind(Kind::Double);
        let chosen = logits.softmax(-1, Kind::Double).gather(-1, &all.unsqueeze(2), false).squeeze_dim(2);
        Vec::<Vec<f64>>::try_from(chosen).expect("numbers")
    };
    grids.iter().map(row).collect()
}

/// The code that `uniform` chooses at place `at` by logits `[1, tokens, K]`, the slow and obvious way.
pub fn chosen(logits: &Tensor, at: i64, uniform: f32) -> u16 {
    let logits = logits.select(1, at).to_kind(Kind::Double);
    let p = Vec::<f64>::try_from(logits.softmax(-1, Kind::Double).squeeze_dim(0)).expect("numbers");
    let mut sum = 0.0;
    let token = p.iter().position(|p| {
        sum += p;
        sum > f64::from(uniform)
    });
    token.unwrap_or(p.len() - 1) as u16
}

/// Rows of a transition matrix from per-position probabilities, those of `known` positions left out: what is known must be
/// equal to `given`.
pub fn transitions(conditionals: &[Vec<Vec<f64>>], known: &[Option<u16>], codes: usize) -> Vec<Vec<f64>> {
    let grids = all_grids(known.len(), codes);
    let probability = |grid: &[u16], steps: &[f64]| -> f64 {
        let factor = |((token, step), known): ((&u16, &f64), &Option<u16>)| match known {
            None => *step,
            Some(known) if known == token => 1.0,
            Some(_) => 0.0,
        };
        grid.iter().zip(steps).zip(known).map(factor).product()
    };
    let row = |rows: &Vec<Vec<f64>>| grids.iter().zip(rows).map(|(grid, steps)| probability(grid, steps)).collect();
    conditionals.iter().map(row).collect()
}

/// A distribution after one transition.
pub fn after(distribution: &[f64], transitions: &[Vec<f64>]) -> Vec<f64> {
    let mut next = vec![0.0; transitions[0].len()];
    for (from, row) in distribution.iter().zip(transitions) {
        next.iter_mut().zip(row).for_each(|(next, step)| *next += from * step);
    }
    next
}

/// How often each grid was drawn.
pub fn counts(grids: &[Vec<u16>], codes: usize, cells: usize) -> Vec<f64> {
    let mut counts = vec![0.0; cells];
    grids.iter().for_each(|grid| counts[number(grid, codes)] += 1.0);
    counts
}

/// χ² of counts against probabilities divided by its critical value at p = 0.001: below 1 where they agree. Cells that expect
/// fewer than 5 are taken together.
pub fn chi_square(counts: &[f64], probabilities: &[f64]) -> f64 {
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-6, "probabilities must sum to 1");
    let total: f64 = counts.iter().sum();
    let (mut sum, mut cells) = (0.0, 0);
    let (mut rare_count, mut rare_expected) = (0.0, 0.0);
    for (count, probability) in counts.iter().zip(probabilities) {
        assert!(*probability > 0.0 || *count == 0.0, "something impossible was drawn");
        let expected = probability * total;
        if expected < 5.0 {
            rare_count += count;
            rare_expected += expected;
        } else {
            sum += (count - expected).powi(2) / expected;
            cells += 1;
        }
    }
    if rare_expected > 1.0 {
        sum += (rare_count - rare_expected).powi(2) / rare_expected;
        cells += 1;
    }
    assert!(cells > 2, "too few cells to test");
    // Wilson and Hilferty's approximation of the quantile.
    let freedom = f64::from(cells - 1);
    let critical = freedom * (1.0 - 2.0 / (9.0 * freedom) + 3.0902 * (2.0 / (9.0 * freedom)).sqrt()).powi(3);
    sum / critical
}
