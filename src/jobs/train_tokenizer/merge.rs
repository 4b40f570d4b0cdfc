//! Codes that mean the same, made one.
//!
//! A codebook that has more entries than images need spends them on differences that cannot be seen: on a plain ground, hundreds
//! of entries come to lie so near one another that which of them a token gets tells nothing, but a chain has to learn it.

use super::super::shrink::Usage;
use crate::jobs::JobError;
use crate::vqgan::VqganConfig;
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

const CODEBOOK: &str = "quantize.embedding.weight";

/// Replaces the codebook by one of fewer entries. From the most used on, an entry takes in all that lie within `distance` of it
/// (Euclidean, in codebook space) and are not taken yet; the new entry is their mean, weighted by use. Entries that stand less
/// than `min_count` times go.
///
/// # Errors
/// [`JobError::Usage`] when no entry is used enough.
pub fn merge(
    tensors: &mut BTreeMap<String, Tensor>,
    config: &mut VqganConfig,
    usage: &Usage,
    (distance, min_count): (f64, u64),
) -> Result<(), JobError> {
    let missing = || JobError::Failed(format!("the tokenizer has no {CODEBOOK}"));
    let entries = tensors.get(CODEBOOK).ok_or_else(missing)?;
    let rows = entries.f_to_device(Device::Cpu).and_then(|rows| rows.f_to_kind(Kind::Double));
    let rows: Vec<Vec<f64>> = rows.and_then(Vec::try_from).map_err(JobError::failed)?;
    let merged = merged(&rows, usage.counts(), distance, min_count);
    if merged.is_empty() {
        return Err(JobError::Usage(format!(
            "no code stands {min_count} times or more among the validation images: lower train_tokenizer.shrink_min_count"
        )));
    }
    let tensor = || -> Result<Tensor, TchError> {
        let (count, width) = (merged.len() as i64, config.embed_dim);
        Tensor::f_from_slice(&merged.concat())?.f_view([count, width])?.f_to_kind(Kind::Float)
    };
    config.n_embed = merged.len() as i64;
    tensors.insert(CODEBOOK.to_owned(), tensor().map_err(JobError::failed)?);
    Ok(())
}

/// The new entries, the most used first.
fn merged(entries: &[Vec<f64>], counts: &[u64], distance: f64, min_count: u64) -> Vec<Vec<f64>> {
    let count = |entry: usize| counts.get(entry).copied().unwrap_or(0);
    let mut left: Vec<usize> = (0..entries.len()).filter(|&entry| count(entry) >= min_count.max(1)).collect();
    left.sort_by_key(|&entry| std::cmp::Reverse(count(entry)));
    let mut merged = Vec::new();
    while let Some(&first) = left.first() {
        let apart = |entry: &usize| {
            let squares = entries[first].iter().zip(&entries[*entry]).map(|(a, b)| (a - b) * (a - b));
            squares.sum::<f64>().sqrt() > distance
        };
        let (others, taken): (Vec<usize>, Vec<usize>) = left.iter().copied().partition(|entry| apart(entry));
        let total: f64 = taken.iter().map(|&entry| count(entry) as f64).sum();
        let mean = |at: usize| taken.iter().map(|&entry| entries[entry][at] * count(entry) as f64).sum::<f64>() / total;
        merged.push((0..entries[first].len()).map(mean).collect());
        left = others;
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_codes_become_their_mean_and_unused_ones_go() {
        let entries = [vec![0.0, 0.0], vec![5.0, 0.0], vec![0.3, 0.0], vec![0.0, 0.6], vec![5.0, 0.1], vec![9.0, 9.0]];
        let counts = [10, 3, 30, 2, 1, 0];
        // 2 takes 0 in; 3 is too far from it, though not from 0.
        let expected = [vec![0.225, 0.0], vec![5.0, 0.025], vec![0.0, 0.6]];
        assert_eq!(merged(&entries, &counts, 0.5, 1), expected);
        assert_eq!(merged(&entries, &counts, 0.5, 3), [vec![0.225, 0.0], vec![5.0, 0.0]]);
        assert_eq!(merged(&entries, &counts, 0.0, 1).len(), 5, "at no distance all that are used stay");
        assert!(merged(&entries, &counts, 0.5, 99).is_empty());
    }
}
