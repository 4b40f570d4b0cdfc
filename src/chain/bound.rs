//! How likely a chain takes finished images: the variational bound on -log p(x_0 | c) (Esser et al., NeurIPS 2021, eq. 5 and 6).
//!
//! ```text
//! -log p(x_0) <= -log p(x_0 | x_1)                                       scale 1, hard
//!              + sum over t = 2..T of KL(q(x_{t-1} | x_t, x_0) || p_t)   scale t, soft
//!              + KL(q(x_T | x_0) || uniform)                             the start
//! ```
//!
//! in expectation over the forward process, which draws x_1 to x_T. A step's divergence is that of its tokens one after the other,
//! each given the drawn ones before it. The start is 0 where nothing is left of x_0 in x_T, and known in closed form else.

use super::error::SampleError;
use super::loaded::Chain;
use super::rows::Row;
use super::settings::ScaleSettings;
use super::walk::Compat;
use crate::diffusion::{Posteriors, SoftTarget, forward, hard_loss, soft_loss};
use crate::random::RowKey;
use crate::transformer::Source;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// x_0, and what the forward process made of it at one scale: int64 `[batch, tokens]` each.
#[derive(Clone, Copy, Debug)]
pub struct Noised<'a> {
    pub clean: &'a Tensor,
    /// x_{t-1}.
    pub before: &'a Tensor,
    /// x_t.
    pub after: &'a Tensor,
}

impl Chain {
    /// What scale t, 1..=T, adds to the bound, in nats a row: float64 `[batch]`, on the device. The source's x_t is
    /// [`Noised::after`]; `posteriors` are the chain's.
    ///
    /// # Errors
    /// A scale that the chain does not have; shapes that do not go together.
    pub fn bound_step(
        &self,
        t: u32,
        noised: Noised,
        source: &Source,
        posteriors: &Posteriors,
    ) -> Result<Tensor, SampleError> {
        let network = self.network(t).ok_or_else(|| self.no_scale(t))?;
        let logits = network.logits(source, noised.before);
        let logits = logits.map_err(|error| SampleError::Network { scale: t, source: Box::new(error) })?;
        let log_p = logits.f_log_softmax(-1, Kind::Float)?;
        let mean = if t == 1 {
            hard_loss(&log_p, noised.before)?
        } else {
            let posterior = posteriors.at(source.scale, noised.clean, noised.after)?;
            soft_loss(&log_p, SoftTarget::Posterior(&posterior))?
        };
        let (_, tokens) = noised.clean.size2()?;
        Ok(mean.f_to_kind(Kind::Double)?.f_mul_scalar(tokens as f64)?)
    }

    /// One estimate of the bound for each row, in nats: that of the way which the row's key of `paths` takes through the forward
    /// process, without the start, which is the same for all. Rows of one path compare well: what they have in common is noised
    /// alike. The networks' own distributions count, whatever the settings and keys of `rows`.
    ///
    /// # Errors
    /// Rows or grids that do not fit the chain; a number of grids or paths other than that of rows.
    pub fn bound(&self, rows: &[Row], grids: &[&[u16]], paths: &[RowKey]) -> Result<Vec<f64>, SampleError> {
        let _guard = tch::no_grad_guard();
        if let Some(other) = [grids.len(), paths.len()].into_iter().find(|&other| other != rows.len()) {
            return Err(SampleError::Rows { rows: rows.len(), grids: other });
        }
        let plain: Arc<[ScaleSettings]> = vec![ScaleSettings::default(); self.config().scales() as usize].into();
        let rows: Vec<Row> = rows.iter().map(|row| Row { settings: plain.clone(), ..row.clone() }).collect();
        let rows: Vec<&Row> = rows.iter().collect();
        self.check_rows(&rows)?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let clean = self.grids("the image", grids, self.config().tokens())?;
        let codes = i64::from(self.config().codebook_size);
        let posteriors = Posteriors::new(self.schedule(), codes, self.placement().device)?;
        let path = forward(&clean, self.schedule(), codes, paths)?;
        let mut sum = Tensor::f_zeros([rows.len() as i64], (Kind::Double, self.placement().device))?;
        for t in 1..=self.config().scales() {
            let (before, after) = (path.at(t - 1)?, path.at(t)?);
            let noised = Noised { clean: &clean, before: &before, after: &after };
            let batch = self.scale_batch(&rows, t, Compat::None)?;
            sum = sum.f_add(&self.bound_step(t, noised, &batch.source(&after), &posteriors)?)?;
        }
        Ok(Vec::<f64>::try_from(sum.f_to_device(Device::Cpu)?)?)
    }
}
