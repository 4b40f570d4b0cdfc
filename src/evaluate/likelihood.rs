//! The variational bound of a chain on batches as a trainer takes them, term by term: see [`Chain::bound_step`].
//!
//! With the terms of all scales comes the start, KL(q(x_T | x_0) || uniform), which is 0 where nothing is left of x_0 in x_T.

use crate::chain::{Chain, Noised, SampleError};
use crate::diffusion::{Posteriors, forward};
use crate::training::{Batch, Conditioning, RowsError};
use crate::transformer::{ConditionIds, Source};
use tch::{Kind, TchError, Tensor};

/// Why a likelihood cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum LikelihoodError {
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Chain(#[from] SampleError),
    #[error("the tokens of a batch could not be scored: {0}")]
    Torch(#[from] TchError),
}

/// Scores token grids with a chain.
#[derive(Debug)]
pub struct Likelihood<'a> {
    chain: &'a Chain,
    conditioning: &'a Conditioning,
    posteriors: Posteriors,
    codes: i64,
}

impl<'a> Likelihood<'a> {
    /// Scores with `chain`, whose rows are conditioned as `conditioning` says.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn new(chain: &'a Chain, conditioning: &'a Conditioning) -> Result<Likelihood<'a>, LikelihoodError> {
        let codes = i64::from(chain.config().codebook_size);
        let posteriors = Posteriors::new(chain.schedule(), codes, chain.placement().device)?;
        Ok(Likelihood { chain, conditioning, posteriors, codes })
    }

    /// The terms of a batch's bound in bits a row: of scales 1 to T, each `[rows]`. The noise of a row depends on its key alone.
    /// With their expectations' last term, [`start`](Likelihood::start), the sum is the bound.
    ///
    /// # Errors
    /// Rows that the condition does not fit; what libtorch reports.
    pub fn terms(&self, batch: &Batch) -> Result<Vec<Vec<f64>>, LikelihoodError> {
        let _guard = tch::no_grad_guard();
        let device = self.chain.placement().device;
        let ids: Vec<i64> = batch.tokens.iter().map(|&id| i64::from(id)).collect();
        let clean = Tensor::f_from_slice(&ids)?.f_view([batch.len() as i64, -1])?.f_to_device(device)?;
        let walked = forward(&clean, self.chain.schedule(), self.codes, &batch.rows)?;
        let condition = self.conditioning.ids(batch, 0.0, device)?;
        let scale = |t: u32| {
            let (before, after) = (walked.at(t - 1)?, walked.at(t)?);
            let noised = Noised { clean: &clean, before: &before, after: &after };
            let bits = self.step(t, noised, condition.condition())?.f_div_scalar(std::f64::consts::LN_2)?;
            Ok(super::numbers(&bits)?)
        };
        (1..=self.chain.config().scales()).map(scale).collect()
    }

    /// What scale t, 1..=T, adds to the bound for what was drawn, in nats a row: float64 `[batch]`.
    ///
    /// # Errors
    /// A scale that the chain does not have; shapes that do not go together.
    pub fn step(&self, t: u32, noised: Noised, condition: ConditionIds) -> Result<Tensor, LikelihoodError> {
        let (rows, _) = noised.clean.size2()?;
        let scale = Tensor::f_full([rows], i64::from(t), (Kind::Int64, noised.clean.device()))?;
        let source = Source { scale: &scale, condition, x_t: Some(noised.after) };
        Ok(self.chain.bound_step(t, noised, &source, &self.posteriors)?)
    }

    /// KL(q(x_T | x_0) ‖ uniform) in nats a token: the same for every grid.
    pub fn start(&self) -> f64 {
        let (schedule, codes) = (self.chain.schedule(), self.codes as f64);
        let kept = f64::from(schedule.cumulative(schedule.scales()));
        let part = |p: f64| if p > 0.0 { p * (p * codes).ln() } else { 0.0 };
        part(kept + (1.0 - kept) / codes) + (codes - 1.0) * part((1.0 - kept) / codes)
    }
}
