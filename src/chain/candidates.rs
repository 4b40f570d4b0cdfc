//! Candidates of a pass: what is drawn answers to known tokens that come later in the raster.
//!
//! A pass draws its tokens in raster order, so that a free token knows of the known ones only those before it (and, below the last
//! scale, what is left of them in x_t). With m candidates the free tokens are drawn m times, the known ones put in their places, and
//! candidate i stays with a probability in proportion to
//!
//! ```text
//! w_i = product over known positions n of p(known_n | x_{<n} of candidate i, x_t, c)
//! ```
//!
//! which is importance resampling (Rubin, "The calculation of posterior distributions by data augmentation", 1987): the free tokens
//! are drawn from p(free before and between | c), and w_i is what the distribution given all known tokens has besides. So as m
//! grows, what stays follows p_t(free | known, x_t, c) itself. One candidate is the plain pass. Settings that draw other than the
//! guided network (temperature, top-k, top-p) are left as they are: the weights are those of the guided network.
//!
//! The choice is the largest of log w_i + G_i, with G_i independent of Gumbel's distribution, which has those probabilities and needs
//! one candidate at a time on the device.

use super::error::SampleError;
use super::loaded::Chain;
use super::rows::ScaleBatch;
use super::walk::{Drawn, Visit, Walk};
use crate::random::{Purpose, RowKey};
use tch::{Device, Kind, TchError, Tensor};

/// The random numbers of all candidates of all visits, uploaded once.
#[derive(Debug)]
pub(super) struct Numbers {
    /// One for each token: float64 `[candidates, tokens, batch]`.
    uniforms: Tensor,
    /// Gumbel's: float64 `[candidates, batch]`.
    gumbel: Tensor,
}

impl Numbers {
    /// Those of a walk's rows. The first candidate's are a plain pass's.
    pub fn new(walk: &Walk, device: Device) -> Result<Numbers, TchError> {
        let tokens = walk.windows.tokens() as u32;
        let candidates: usize = walk.visits.iter().map(|visit| visit.candidates as usize).sum();
        let mut uniforms = Vec::with_capacity(candidates * walk.rows.len() * tokens as usize);
        let mut gumbel = Vec::with_capacity(candidates * walk.rows.len());
        for visit in &walk.visits {
            let scale = u16::try_from(visit.scale).unwrap_or(u16::MAX);
            let rows: Vec<RowKey> = walk.rows.iter().map(|row| row.key.at(scale, visit.pass)).collect();
            for candidate in 0..visit.candidates {
                // A candidate's numbers follow those of the one before, its own choice last.
                let at = |position: u32| candidate.wrapping_mul(tokens.wrapping_add(1)).wrapping_add(position);
                for position in 0..tokens {
                    uniforms.extend(rows.iter().map(|row| match candidate {
                        0 => row.uniform(Purpose::Token, position),
                        _ => row.uniform(Purpose::Candidate, at(position)),
                    }));
                }
                gumbel.extend(rows.iter().map(|row| {
                    // In the middle of its 2^-24: neither 0 nor 1.
                    let uniform = f64::from(row.uniform(Purpose::Candidate, at(tokens))) + 2f64.powi(-25);
                    -(-uniform.ln()).ln()
                }));
            }
        }
        let (candidates, rows) = (candidates as i64, walk.rows.len() as i64);
        let uniforms = Tensor::f_from_slice(&uniforms)?.f_view([candidates, i64::from(tokens), rows])?;
        let gumbel = Tensor::f_from_slice(&gumbel)?.f_view([candidates, rows])?;
        Ok(Numbers {
            uniforms: uniforms.f_to_device(device)?.f_to_kind(Kind::Double)?,
            gumbel: gumbel.f_to_device(device)?,
        })
    }
}

impl Chain {
    /// What a visit draws from x_t `[batch, tokens]`: the candidate that stays. Its numbers are those from `first` on.
    pub(super) fn visit(
        &self,
        (walk, visit): (&Walk, &Visit),
        batch: &ScaleBatch,
        x_t: &Tensor,
        (numbers, first): (&Numbers, i64),
    ) -> Result<Drawn, SampleError> {
        let candidate = |number: i64| self.pass((walk, visit), batch, x_t, &numbers.uniforms.f_select(0, number)?);
        let mut kept = candidate(first)?;
        if visit.candidates == 1 {
            return Ok(kept);
        }
        let mut score = scored(&kept, numbers, first)?;
        for number in first + 1..first + i64::from(visit.candidates) {
            let other = candidate(number)?;
            let other_score = scored(&other, numbers, number)?;
            let better = other_score.f_gt_tensor(&score)?;
            score = other_score.f_where_self(&better, &score)?;
            kept.tokens = other.tokens.f_where_self(&better.f_unsqueeze(1)?, &kept.tokens)?;
            kept.sound = kept.sound.f_add(&other.sound)?;
        }
        Ok(kept)
    }
}

/// log w + G of a candidate: `[batch]`.
fn scored(drawn: &Drawn, numbers: &Numbers, number: i64) -> Result<Tensor, TchError> {
    let gumbel = numbers.gumbel.f_select(0, number)?;
    match &drawn.likelihood {
        Some(weight) => weight.f_add(&gumbel),
        None => Ok(gumbel),
    }
}
