//! Drawing images: x_T uniform, then scales T to 1, each token from the distribution its scale gives it.

use super::error::SampleError;
use super::loaded::Chain;
use super::rows::Row;
use super::walk::{Compat, Step, Visit, Walk, Walked};
use super::windows::{LargeGrid, Windows};
use tch::Tensor;

/// How a batch is sampled.
#[derive(Clone, Copy, Debug, Default)]
pub struct SampleOptions<'a> {
    pub compat: Compat,
    /// Where to enter the chain; pure noise at the last scale when left out.
    pub start: Option<Start<'a>>,
    /// The last scale t whose network runs, so that x_{t-1} is drawn; 1 when left out.
    pub end: Option<u32>,
    /// A grid larger than the chain's; the chain's own when left out.
    pub large: Option<LargeGrid>,
}

/// Token grids to start from.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The first scale t whose network runs, 1..=T.
    pub scale: u32,
    /// x_t of each row, row-major.
    pub grids: &'a [&'a [u16]],
}

impl Chain {
    /// Draws a batch: x_0 of each row, row-major. A row's tokens are a function of its key, condition and settings, up to the
    /// float noise that the size of a batch makes.
    ///
    /// # Errors
    /// A row that does not fit the chain; logits that are NaN or infinite, with rows and scale.
    pub fn sample(&self, rows: &[Row]) -> Result<Vec<Vec<u16>>, SampleError> {
        self.sample_as(rows, SampleOptions::default())
    }

    /// As [`sample`](Chain::sample), by other `options` than the usual ones.
    pub fn sample_as(&self, rows: &[Row], options: SampleOptions) -> Result<Vec<Vec<u16>>, SampleError> {
        let walked = self.sample_with(rows, options, false, false)?;
        Ok(walked.steps.into_iter().next_back().map(|step| step.tokens).unwrap_or_default())
    }

    /// As [`sample_as`](Chain::sample_as), and tells of each image how likely the chain takes it: the sum over all scales of
    /// log p_t(x_{t-1} | x_t, c) in nats, of the grids that were drawn, by the networks' own distributions, whatever the
    /// temperature, the codes that are left out and the guidance they were drawn with. Of a [large grid](SampleOptions::large) each token
    /// counts under the window it was drawn under.
    ///
    /// # Errors
    /// As of [`sample`](Chain::sample).
    pub fn sample_scored(&self, rows: &[Row], options: SampleOptions) -> Result<Vec<(Vec<u16>, f64)>, SampleError> {
        let walked = self.sample_with(rows, options, false, true)?;
        let tokens = walked.steps.into_iter().next_back().map(|step| step.tokens).unwrap_or_default();
        Ok(tokens.into_iter().zip(walked.likelihood).collect())
    }

    /// As [`sample_as`](Chain::sample_as), and tells what each scale read and drew. Empty for no rows.
    pub fn sample_steps(&self, rows: &[Row], options: SampleOptions) -> Result<Vec<Step>, SampleError> {
        Ok(self.sample_with(rows, options, true, false)?.steps)
    }

    fn sample_with(
        &self,
        rows: &[Row],
        options: SampleOptions,
        trace: bool,
        likelihood: bool,
    ) -> Result<Walked, SampleError> {
        let rows: Vec<&Row> = rows.iter().collect();
        self.check_rows(&rows)?;
        let windows = Windows::new(self.config(), options.large)?;
        let scales = self.config().scales();
        let (first, start) = match options.start {
            None => (scales, None),
            Some(start) if !(1..=scales).contains(&start.scale) => {
                return Err(SampleError::Scale { scale: start.scale, scales });
            }
            Some(start) if start.grids.len() != rows.len() => {
                return Err(SampleError::Rows { rows: rows.len(), grids: start.grids.len() });
            }
            Some(start) => (start.scale, Some(self.grids("the grid to start from", start.grids, windows.tokens())?)),
        };
        let end = options.end.unwrap_or(1);
        if !(1..=first).contains(&end) {
            return Err(SampleError::End { end, start: first });
        }
        if rows.is_empty() {
            return Ok(Walked::default());
        }
        let start = match start {
            Some(grids) => grids,
            None => self.noise(&rows, windows.tokens())?,
        };
        let visits = (end..=first)
            .rev()
            .map(|scale| Visit { scale, pass: 0, noise: None, known: None, candidates: 1 })
            .collect();
        self.walk(&Walk { rows: &rows, windows, start, visits, compat: options.compat, likelihood }, trace)
    }

    /// The distributions that the tokens x_{t-1} of grids are drawn from, each given x_t and the tokens before it:
    /// `[batch, tokens, K]` float64 on the device. A `guide` of that shape is added to the logits first (0 leaves a code as it is,
    /// minus infinity excludes it).
    ///
    /// # Errors
    /// Rows, grids or a scale that do not fit the chain.
    pub fn probabilities(
        &self,
        rows: &[Row],
        scale: u32,
        (x_t, tokens): (&[&[u16]], &[&[u16]]),
        compat: Compat,
        guide: Option<&Tensor>,
    ) -> Result<Tensor, SampleError> {
        let _guard = tch::no_grad_guard();
        let rows: Vec<&Row> = rows.iter().collect();
        self.check_rows(&rows)?;
        if let Some(grids) = [x_t, tokens].iter().find(|grids| grids.len() != rows.len()) {
            return Err(SampleError::Rows { rows: rows.len(), grids: grids.len() });
        }
        let batch = self.scale_batch(&rows, scale, compat)?;
        let network = self.network(scale).ok_or_else(|| self.no_scale(scale))?;
        let length = self.config().tokens();
        let x_t = batch.widen(&self.grids("x_t", x_t, length)?)?;
        let tokens = batch.widen(&self.grids("x_{t-1}", tokens, length)?)?;
        let logits = network.logits(&batch.source(&x_t), &tokens);
        let logits = logits.map_err(|source| SampleError::Network { scale, source: Box::new(source) })?;
        let mut probabilities = Vec::with_capacity(length);
        for position in 0..length as i64 {
            let guide = guide.map(|guide| guide.f_select(1, position)).transpose()?;
            let logits = batch.guide(logits.f_select(1, position)?)?;
            probabilities.push(batch.draw.probabilities(&logits, guide.as_ref())?);
        }
        Ok(Tensor::f_stack(&probabilities, 1)?)
    }
}
