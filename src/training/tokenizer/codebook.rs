//! What moves a codebook besides gradients: running means of the features it stands for, and new places for dead entries.

use super::places::far_rows;
use crate::random::RowKey;
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

/// The least running mean of an entry's features, in number, that it follows.
const LEAST: f64 = 1e-5;

/// How a codebook moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodebookConfig {
    /// Steps in which the decoder is given the features themselves, before the codebook is placed among them.
    pub begin: u64,
    /// Decay of the running means that the entries follow (van den Oord et al. 2017, appendix A.1); by gradients when none.
    pub decay: Option<f64>,
    /// An entry that was not used for so many steps is placed anew, at a feature of the batch at hand that lies far from all
    /// entries in use (`far_rows`); never when none. In the codebook's first step all that it does not use are.
    pub restart_after: Option<u64>,
    /// Of the places.
    pub seed: u64,
}

/// What is remembered of the use of a codebook of K entries of D channels.
#[derive(Debug)]
pub struct Codebook {
    config: CodebookConfig,
    /// Running means of the number of features an entry stood for, `[K]`, and of their sum, `[K, D]`.
    means: Option<(Tensor, Tensor)>,
    /// The step each entry was last used in, `[K]` int64.
    last_used: Tensor,
}

impl Codebook {
    /// For entries `[K, D]`.
    pub fn new(config: CodebookConfig, entries: &Tensor) -> Result<Codebook, TchError> {
        let (count, device) = (entries.size2()?.0, entries.device());
        let means = match config.decay {
            // As if every entry had stood for one feature, where it is.
            Some(_) => Some((Tensor::f_ones([count], (Kind::Float, device))?, entries.f_detach_copy()?)),
            None => None,
        };
        let steps = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let never = steps(config.begin).saturating_sub(steps(config.restart_after.unwrap_or(0)));
        let last_used = Tensor::f_full([count], never, (Kind::Int64, device))?;
        Ok(Codebook { config, means, last_used })
    }

    /// Whether it counts yet in a step.
    pub fn counts(&self, step: u64) -> bool {
        step >= self.config.begin
    }

    /// Learns that the features `[N, D]` were given the entries `indices` (`[N]`), and moves `entries`. Returns the entries that
    /// were placed anew. Before it [counts](Codebook::counts) nothing moves.
    pub fn update(
        &mut self,
        entries: &Tensor,
        features: &Tensor,
        indices: &Tensor,
        step: u64,
    ) -> Result<Option<Tensor>, TchError> {
        if !self.counts(step) {
            return Ok(None);
        }
        let counts = indices.f_bincount(None::<Tensor>, entries.size2()?.0)?;
        if let (Some((number, sum)), Some(decay)) = (&mut self.means, self.config.decay) {
            let sums = sum.f_zeros_like()?.f_index_add(0, indices, features)?;
            let _ = number.f_lerp_(&counts.f_to_kind(Kind::Float)?, 1.0 - decay)?;
            let _ = sum.f_lerp_(&sums, 1.0 - decay)?;
            // Mean of nothing: such an entry stays where it is.
            let alive = number.f_gt(LEAST)?.f_unsqueeze(1)?;
            let moved = sum.f_div(&number.f_clamp_min(LEAST)?.f_unsqueeze(1)?)?;
            entries.shallow_clone().f_copy_(&moved.f_where_self(&alive, entries)?)?;
        }
        let now = i64::try_from(step).unwrap_or(i64::MAX);
        let _ = self.last_used.f_masked_fill_(&counts.f_gt(0)?, now)?;
        match self.config.restart_after {
            Some(after) => self.restart(entries, features, step, after),
            None => Ok(None),
        }
    }

    /// Places the dead entries at features, each at another; of those for which there is none left the last wait.
    fn restart(
        &mut self,
        entries: &Tensor,
        features: &Tensor,
        step: u64,
        after: u64,
    ) -> Result<Option<Tensor>, TchError> {
        let (now, after) = (i64::try_from(step).unwrap_or(i64::MAX), i64::try_from(after).unwrap_or(i64::MAX));
        let dead = self.last_used.f_le(now.saturating_sub(after))?;
        let alive = entries.f_index_select(0, &dead.f_logical_not()?.f_nonzero()?.f_view(-1)?)?;
        let dead = dead.f_nonzero()?.f_view(-1)?;
        if dead.size1()? == 0 {
            return Ok(None);
        }
        let key = RowKey::new(self.config.seed, "restart of codes", step, 0);
        let chosen = far_rows(features, &alive, usize::try_from(dead.size1()?).unwrap_or(0), key)?;
        if chosen.is_empty() {
            return Ok(None);
        }
        let dead = dead.f_narrow(0, 0, chosen.len() as i64)?;
        let chosen = Tensor::f_from_slice(&chosen)?.f_to_device(features.device())?;
        let places = features.f_index_select(0, &chosen)?;
        let _ = entries.shallow_clone().f_index_copy_(0, &dead, &places)?;
        if let Some((number, sum)) = &mut self.means {
            let _ = number.f_index_fill_(0, &dead, 1.0)?;
            let _ = sum.f_index_copy_(0, &dead, &places)?;
        }
        let _ = self.last_used.f_index_fill_(0, &dead, now)?;
        Ok(Some(dead))
    }

    /// What a checkpoint holds.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::from([("last_used".to_owned(), self.last_used.shallow_clone())]);
        if let Some((number, sum)) = &self.means {
            state.insert("number".to_owned(), number.shallow_clone());
            state.insert("sum".to_owned(), sum.shallow_clone());
        }
        state
    }
}

/// Share of the tokens of each entry, as figures: how many entries stand among them, and e to their entropy.
pub fn use_of(counts: &Tensor) -> Result<(f64, f64), TchError> {
    let counts = Vec::<f64>::try_from(counts.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?;
    let all: f64 = counts.iter().sum();
    let shares = counts.iter().filter(|count| **count > 0.0).map(|count| count / all);
    let (used, entropy) = shares.fold((0u32, 0.0), |(used, entropy), share| (used + 1, entropy - share * share.ln()));
    Ok((f64::from(used), entropy.exp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
        Vec::try_from(tensor).expect("two dimensions")
    }

    #[test]
    fn entries_follow_the_means_of_their_features() -> Outcome {
        let entries = Tensor::from_slice(&[0.0f32, 0.0, 8.0, 8.0]).view([2, 2]);
        let config = CodebookConfig { begin: 0, decay: Some(0.5), restart_after: None, seed: 0 };
        let mut codebook = Codebook::new(config, &entries)?;
        let features = Tensor::from_slice(&[2.0f32, 0.0, 4.0, 0.0, 3.0, 3.0]).view([3, 2]);
        for _ in 0..30 {
            codebook.update(&entries, &features, &Tensor::from_slice(&[0i64, 0, 0]), 0)?;
        }
        // The mean of its features; the other one, which has none, stays where it is.
        for (found, expected) in rows(&entries).concat().iter().zip([3.0, 1.0, 8.0, 8.0]) {
            assert!((found - expected).abs() < 0.05, "{found} {expected}");
        }
        Ok(())
    }

    #[test]
    fn dead_entries_are_placed_at_different_features() -> Outcome {
        let entries = Tensor::zeros([4, 1], (Kind::Float, Device::Cpu));
        let config = CodebookConfig { begin: 0, decay: None, restart_after: Some(3), seed: 1 };
        let mut codebook = Codebook::new(config, &entries)?;
        let features = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0]).view([5, 1]);
        let zero = Tensor::from_slice(&[0i64; 5]);
        // The first step places all that it does not use.
        let placed = codebook.update(&entries, &features, &zero, 0)?.ok_or("some are placed")?;
        assert_eq!(Vec::<i64>::try_from(placed)?, [1, 2, 3]);
        let mut places = rows(&entries).concat();
        assert_eq!(places.remove(0), 0.0);
        places.sort_by(f32::total_cmp);
        places.dedup();
        assert!(places.len() == 3 && places.iter().all(|place| (1.0..=5.0).contains(place)), "{places:?}");
        // Then none for three steps, in which 2 is used once.
        assert!(codebook.update(&entries, &features, &zero, 1)?.is_none());
        assert!(codebook.update(&entries, &features, &Tensor::from_slice(&[0i64, 0, 2, 0, 0]), 2)?.is_none());
        let placed = codebook.update(&entries, &features, &zero, 3)?.ok_or("some are placed")?;
        assert_eq!(Vec::<i64>::try_from(placed)?, [1, 3]);
        Ok(())
    }

    #[test]
    fn use_is_counted_and_weighed() -> Outcome {
        assert_eq!(use_of(&Tensor::from_slice(&[4i64, 0, 4, 0]))?, (2.0, 2.0));
        assert_eq!(use_of(&Tensor::from_slice(&[7i64]))?, (1.0, 1.0));
        Ok(())
    }
}
