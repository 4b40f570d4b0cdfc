//! Bits that a chain needs for the token grids of a table.

use super::Stop;
use super::figure::{Better, Figure, Group};
use crate::chain::Chain;
use crate::evaluate::{Estimate, Likelihood};
use crate::jobs::JobError;
use crate::training::{Conditioning, Loader};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// What is scored, and with what.
pub struct Scoring {
    pub chain: Chain,
    pub conditioning: Conditioning,
    pub latents: Arc<Loader>,
    /// Pixels of the images that the grids stand for, times their three channels.
    pub dimensions: u64,
}

impl Scoring {
    /// Scores up to `limit` grids: bits per token of the chain and of each scale, and per image dimension.
    ///
    /// # Errors
    /// Latents that do not fit the chain's condition; what reading and libtorch report.
    pub fn run(self, (mut group, limit): (Group, u64), stop: &Stop) -> Result<Vec<Figure>, JobError> {
        let likelihood = Likelihood::new(&self.chain, &self.conditioning).map_err(JobError::failed)?;
        let tokens = self.chain.config().tokens() as f64;
        let mut scales: Vec<Vec<f64>> = vec![Vec::new(); self.chain.config().scales() as usize];
        let mut identity = Sha256::new();
        let mut feed = self.latents.once();
        let mut rows = 0;
        while rows < limit
            && let Some(batch) = feed.next_batch().map_err(JobError::failed)?
        {
            stop.check()?;
            let batch = batch.first(usize::try_from(limit - rows).unwrap_or(usize::MAX));
            rows += batch.len() as u64;
            batch.tokens.iter().for_each(|token| identity.update(token.to_le_bytes()));
            let terms = likelihood.terms(&batch).map_err(|error| JobError::Usage(error.to_string()))?;
            for (scale, terms) in scales.iter_mut().zip(terms) {
                scale.extend(terms.into_iter().map(|bits| bits / tokens));
            }
        }
        if let Some(scale) = scales.iter().position(|bits| bits.iter().any(|bits| !bits.is_finite())) {
            let scale = scale + 1;
            return Err(JobError::Failed(format!(
                "the network of scale {scale} gave NaN or infinity; check its weights, or use fp32"
            )));
        }
        group.rows = rows;
        group.rows_id = crate::digest::hex(&identity.finalize());
        Ok(figures(&scales, likelihood.start() / std::f64::consts::LN_2, (tokens, self.dimensions as f64), &group))
    }
}

/// `scales`: bits a token of every row, by scale; `start`: those of x_T.
fn figures(scales: &[Vec<f64>], start: f64, (tokens, dimensions): (f64, f64), group: &Group) -> Vec<Figure> {
    let rows = scales.first().map_or(0, Vec::len);
    let total = (0..rows).map(|row| start + scales.iter().filter_map(|scale| scale.get(row)).sum::<f64>());
    let Some(total) = Estimate::mean(total.collect()) else { return Vec::new() };
    let (bits, bound) = (("bits", Better::Lower), "variational bound, one draw of the noise a row");
    let share = tokens / dimensions.max(1.0);
    let by_dimension = Estimate {
        value: total.value * share,
        contributions: total.contributions.iter().map(|bits| bits * share).collect(),
    };
    let mut figures = vec![
        group.figure("bits_per_token", &total, bits).with("definition", bound),
        group
            .figure("bits_per_dimension", &by_dimension, bits)
            .with("definition", format!("{bound}; of the tokens, over {dimensions} image dimensions")),
    ];
    for (scale, values) in (1..).zip(scales) {
        let metric = format!("bits_per_token_scale_{scale}");
        let definition = if scale == 1 { "-log2 p(x_0 | x_1)" } else { "KL from the posterior, in bits" };
        let figure = group.mean(&metric, values.clone(), bits);
        figures.extend(figure.map(|figure| figure.with("definition", definition)));
    }
    let figure = group.plain("bits_per_token_start", start, bits);
    figures.push(figure.with("definition", "KL of q(x_T | x_0) from the uniform distribution, in bits"));
    figures
}
