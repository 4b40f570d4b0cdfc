//! taming's GumbelQuantize: an index is drawn from logits with Gumbel noise instead of taken by distance.

use super::ops::{Conv, Loader};
use super::quantizer::{Remap, Unknown, entries};
use crate::random::{Purpose, RowKey};
use crate::torch::weights::WeightsError;
use tch::{Kind, TchError, Tensor};

/// The Gumbel quantizer.
#[derive(Debug)]
pub struct GumbelQuantizer {
    proj: Conv,
    /// `[n_embed, embed_dim]`.
    codebook: Tensor,
    /// The entries in use, `[ids]`, where remapped: logits of other entries are dropped before the draw, so there are no outliers.
    used: Option<Tensor>,
    remap: Remap,
}

impl GumbelQuantizer {
    /// Takes projection, codebook and the entries in use.
    pub fn load(loader: Loader) -> Result<GumbelQuantizer, WeightsError> {
        let name = "quantize.embed.weight";
        let device = loader.placement.device;
        let torch = |source| WeightsError::Torch { tensor: name.to_owned(), source };
        let codebook = loader.weights.get(name)?.f_to_device(device).map_err(torch)?;
        let used = loader.weights.tensors().get("quantize.used");
        let n_embed = codebook.size2().map_err(torch)?.0;
        Ok(GumbelQuantizer {
            proj: loader.conv("quantize.proj")?,
            codebook,
            used: used.map(|used| used.f_to_device(device)).transpose().map_err(torch)?,
            remap: Remap::new(used, n_embed, Unknown::Outlier, device).map_err(torch)?,
        })
    }

    /// The remap.
    pub fn remap(&self) -> &Remap {
        &self.remap
    }

    /// Logits of the entries in use, float32: `[batch, z_channels, h, w]` to `[batch, ids, h, w]`.
    pub fn logits(&self, z: &Tensor) -> Result<Tensor, TchError> {
        let logits = self.proj.forward(z)?.f_to_kind(Kind::Float)?;
        match &self.used {
            Some(used) => logits.f_index_select(1, used),
            None => Ok(logits),
        }
    }

    /// The drawn ids, `[batch, h, w]`: argmax (logits + noise), noise of the logits' shape; without noise the likeliest id.
    /// A temperature would not change them.
    pub fn ids(&self, logits: &Tensor, noise: Option<&Tensor>) -> Result<Tensor, TchError> {
        match noise {
            Some(noise) => logits.f_add(noise)?.f_argmax(1, false),
            None => logits.f_argmax(1, false),
        }
    }

    /// Mean over positions of KL(softmax(logits) || uniform), as taming writes it: the uniform distribution counts all
    /// entries, also those not in use.
    pub fn kl(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let n_embed = self.codebook.size2()?.0 as f64;
        let q = logits.f_softmax(1, None)?;
        let log = q.f_mul_scalar(n_embed)?.f_add_scalar(1e-10)?.f_log()?;
        q.f_mul(&log)?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?.f_mean(Kind::Float)
    }

    /// The entries of indices: `[batch, h, w]` to `[batch, embed_dim, h, w]`.
    pub fn entries(&self, indices: &Tensor) -> Result<Tensor, TchError> {
        entries(&self.codebook, indices)
    }
}

/// Standard Gumbel noise of each row, `[rows, ids, h, w]` on the CPU: −ln(−ln u), u uniform in (0, 1), keyed by row, token and id.
pub fn noise(rows: &[RowKey], ids: i64, (height, width): (i64, i64)) -> Result<Tensor, TchError> {
    let tokens = height * width;
    let total = u32::try_from(tokens * ids)
        .map_err(|_| TchError::Shape(format!("{tokens} tokens of {ids} ids need too much noise")))?;
    let mut values = Vec::with_capacity(rows.len() * total as usize);
    for row in rows {
        // Half a step away from 0 and 1, so that both logarithms are finite.
        let uniform = |position| f64::from(row.uniform(Purpose::Gumbel, position)) + 0.5 / 16_777_216.0;
        values.extend((0..total).map(|position| -(-uniform(position).ln()).ln() as f32));
    }
    Tensor::f_from_slice(&values)?.f_view([rows.len() as i64, tokens, ids])?.f_transpose(1, 2)?.f_reshape([
        rows.len() as i64,
        ids,
        height,
        width,
    ])
}
