//! A look at what a network in training draws: one step back from x_t, token by token.

use super::trainer::Prepared;
use super::{Batch, Trainer, TrainingError};
use crate::chain::ScaleSettings;
use crate::chain::draw::Draw;
use crate::random::Purpose;
use tch::{Kind, Tensor};

/// Token grids of a batch's rows, each row-major.
#[derive(Clone, Debug)]
pub struct Look {
    /// x_0.
    pub clean: Vec<Vec<u16>>,
    /// x_t, which a GPT does not see.
    pub noised: Vec<Vec<u16>>,
    /// The x_{t-1} that the moving averages draw.
    pub drawn: Vec<Vec<u16>>,
}

impl Trainer {
    /// Draws x_{t-1} of a batch at `scale` by the moving averages. The draws depend on the rows' keys alone.
    ///
    /// # Errors
    /// Rows that the condition does not fit; what libtorch reports.
    pub fn look(&self, batch: &Batch, scale: u32) -> Result<Look, TrainingError> {
        let _guard = tch::no_grad_guard();
        let rows = Prepared::new(self, batch, scale, 0.0)?;
        let (count, tokens) = rows.clean.size2()?;
        let codes = u32::try_from(self.codes()).unwrap_or(u32::MAX);
        let settings = vec![ScaleSettings::default(); batch.len()];
        let draw = Draw::new(&settings, codes, rows.clean.device())?;
        let lane = u16::try_from(scale).unwrap_or(u16::MAX);
        let uniform = |row: &crate::random::RowKey| {
            let key = row.at(lane, 0);
            (0..tokens as u32).map(move |position| key.uniform(Purpose::Token, position)).collect::<Vec<_>>()
        };
        let uniforms: Vec<f32> = batch.rows.iter().flat_map(uniform).collect();
        let uniforms = Tensor::f_from_slice(&uniforms)?.f_view([count, tokens])?.f_to_device(rows.clean.device())?;
        let mut decoding = self.averaged().begin(&rows.source())?;
        let mut drawn: Vec<Tensor> = Vec::with_capacity(batch.tokens.len());
        for position in 0..tokens {
            let logits = decoding.next(drawn.last())?;
            drawn.push(draw.tokens(&logits, &uniforms.f_select(1, position)?)?.tokens);
        }
        let grids = |grid: &Tensor| -> Result<Vec<Vec<u16>>, tch::TchError> {
            let ids = Vec::<i64>::try_from(grid.f_to_kind(Kind::Int64)?.f_contiguous()?.f_view([-1])?)?;
            let ids: Vec<u16> = ids.into_iter().map(|id| u16::try_from(id).unwrap_or(0)).collect();
            Ok(ids.chunks(usize::try_from(tokens).unwrap_or(1).max(1)).map(<[u16]>::to_vec).collect())
        };
        Ok(Look { clean: grids(&rows.clean)?, noised: grids(&rows.x_t)?, drawn: grids(&Tensor::f_stack(&drawn, 1)?)? })
    }
}
