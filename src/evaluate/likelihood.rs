//! The variational bound of a chain on token grids, term by term (Esser et al., NeurIPS 2021, eq. 5 and 6).
//!
//! ```text
//! -log p(x_0) <= -log p(x_0 | x_1)                                       scale 1, hard
//!              + sum over t = 2..T of KL(q(x_{t-1} | x_t, x_0) || p_t)   scale t, soft
//!              + KL(q(x_T | x_0) || uniform)                             the start
//! ```
//!
//! in expectation over the forward process, which draws x_1 to x_T. A step's divergence is that of its tokens one after the other,
//! each given the drawn ones before it. The start is 0 where nothing is left of x_0 in x_T, and known in closed form else.

use crate::chain::Chain;
use crate::diffusion::{Posteriors, SoftTarget, forward, hard_loss, soft_loss};
use crate::training::{Batch, Conditioning, RowsError};
use crate::transformer::{ConditionIds, Source, TransformerError};
use tch::{Kind, TchError, Tensor};

/// Why a likelihood cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum LikelihoodError {
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Network(#[from] TransformerError),
    #[error("the chain has no network of scale {0}")]
    NoScale(u32),
    #[error("the tokens of a batch could not be scored: {0}")]
    Torch(#[from] TchError),
}

/// x_0, and what the forward process made of it at one scale: int64 `[batch, tokens]` each.
#[derive(Clone, Copy, Debug)]
pub struct Drawn<'a> {
    pub clean: &'a Tensor,
    /// x_{t-1}.
    pub before: &'a Tensor,
    /// x_t.
    pub after: &'a Tensor,
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
            let drawn = Drawn { clean: &clean, before: &before, after: &after };
            let bits = self.step(t, drawn, condition.condition())?.f_div_scalar(std::f64::consts::LN_2)?;
            Ok(super::numbers(&bits)?)
        };
        (1..=self.chain.config().scales()).map(scale).collect()
    }

    /// What scale t, 1..=T, adds to the bound for what was drawn, in nats a row: float64 `[batch]`.
    ///
    /// # Errors
    /// A scale that the chain does not have; shapes that do not go together.
    pub fn step(&self, t: u32, drawn: Drawn, condition: ConditionIds) -> Result<Tensor, LikelihoodError> {
        let network = self.chain.network(t).ok_or(LikelihoodError::NoScale(t))?;
        let (rows, tokens) = drawn.clean.size2()?;
        let scale = Tensor::f_full([rows], i64::from(t), (Kind::Int64, drawn.clean.device()))?;
        let source = Source { scale: &scale, condition, x_t: Some(drawn.after) };
        let log_p = network.logits(&source, drawn.before)?.f_log_softmax(-1, Kind::Float)?;
        let mean = if t == 1 {
            hard_loss(&log_p, drawn.before)?
        } else {
            let posterior = self.posteriors.at(&scale, drawn.clean, drawn.after)?;
            soft_loss(&log_p, SoftTarget::Posterior(&posterior))?
        };
        Ok(mean.f_to_kind(Kind::Double)?.f_mul_scalar(tokens as f64)?)
    }

    /// KL(q(x_T | x_0) ‖ uniform) in nats a token: the same for every grid.
    pub fn start(&self) -> f64 {
        let (schedule, codes) = (self.chain.schedule(), self.codes as f64);
        let kept = f64::from(schedule.cumulative(schedule.scales()));
        let part = |p: f64| if p > 0.0 { p * (p * codes).ln() } else { 0.0 };
        part(kept + (1.0 - kept) / codes) + (codes - 1.0) * part((1.0 - kept) / codes)
    }
}
