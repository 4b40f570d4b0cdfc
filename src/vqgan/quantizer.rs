//! The codebook: features to indices and back, with the remap to the entries in use.

use super::ops::Loader;
use crate::torch::weights::WeightsError;
use tch::{Device, Kind, TchError, Tensor};

/// What id an index outside the entries in use gets (taming's `unknown_index`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// [`OUTLIER`], for the caller to replace by a random id in use: what the released models do.
    Outlier,
    /// One more id, after those in use. It means entry `used[0]` when read back.
    Extra,
    /// This id.
    Id(i64),
}

/// The mark of an index outside the entries in use.
pub const OUTLIER: i64 = -1;

/// Translates codebook indices to ids among the entries in use, and back. Without `used` they are the same.
#[derive(Debug)]
pub struct Remap {
    tables: Option<Tables>,
    unknown: Unknown,
}

#[derive(Debug)]
struct Tables {
    /// `[n_embed]`: the id of each index, or the unknown one's.
    ids: Tensor,
    /// `[ids]`: the index of each id, the extra one's included.
    indices: Tensor,
}

impl Remap {
    /// The remap to `used` (`[ids]` int64, `quantize.used`) of a codebook of `n_embed` entries.
    pub fn new(used: Option<&Tensor>, n_embed: i64, unknown: Unknown, device: Device) -> Result<Remap, TchError> {
        let Some(used) = used else { return Ok(Remap { tables: None, unknown }) };
        let used = Vec::<i64>::try_from(used.f_to_kind(Kind::Int64)?)?;
        let unknown_id = match unknown {
            Unknown::Outlier => OUTLIER,
            Unknown::Extra => used.len() as i64,
            Unknown::Id(id) => id,
        };
        let mut ids = vec![unknown_id; usize::try_from(n_embed).unwrap_or(0)];
        for (id, &index) in used.iter().enumerate() {
            let slot = usize::try_from(index).ok().and_then(|index| ids.get_mut(index));
            let problem =
                || TchError::Shape(format!("quantize.used has entry {index}, the codebook {n_embed} entries"));
            *slot.ok_or_else(problem)? = id as i64;
        }
        let extra = (unknown == Unknown::Extra).then(|| used.first().copied().unwrap_or(0));
        let indices: Vec<i64> = used.iter().copied().chain(extra).collect();
        let tables = Tables {
            ids: Tensor::f_from_slice(&ids)?.f_to_device(device)?,
            indices: Tensor::f_from_slice(&indices)?.f_to_device(device)?,
        };
        Ok(Remap { tables: Some(tables), unknown })
    }

    /// Number of ids, the extra one included: taming's `re_embed`. `None` without a remap.
    pub fn ids(&self) -> Option<i64> {
        self.tables.as_ref().map(|tables| tables.indices.numel() as i64)
    }

    /// What indices outside the entries in use become.
    pub fn unknown(&self) -> Unknown {
        self.unknown
    }

    /// Indices of codebook entries to ids, of the same shape.
    pub fn to_ids(&self, indices: &Tensor) -> Result<Tensor, TchError> {
        lookup(self.tables.as_ref().map(|tables| &tables.ids), indices)
    }

    /// Ids to indices of codebook entries, of the same shape.
    pub fn to_indices(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        lookup(self.tables.as_ref().map(|tables| &tables.indices), ids)
    }
}

fn lookup(table: Option<&Tensor>, at: &Tensor) -> Result<Tensor, TchError> {
    match table {
        None => Ok(at.shallow_clone()),
        Some(table) => table.f_index_select(0, &at.f_flatten(0, -1)?)?.f_view(&at.size()[..]),
    }
}

/// taming's VectorQuantizer2: nearest entry of a codebook. Computes in float32 whatever the network does.
#[derive(Debug)]
pub struct Quantizer {
    /// `[n_embed, embed_dim]`.
    codebook: Tensor,
    remap: Remap,
}

/// What a training step needs of the quantizer.
#[derive(Debug)]
pub struct Quantized {
    /// The entries, `[batch, embed_dim, h, w]`; their gradient goes straight through to the features.
    pub z_q: Tensor,
    /// Codebook loss and commitment loss, a scalar.
    pub loss: Tensor,
    /// Indices of the entries, `[batch, h, w]`.
    pub indices: Tensor,
}

/// Weights of the two terms of the quantizer's loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Commitment {
    /// Weight of the term that is not 1; the authors take 0.25.
    pub beta: f64,
    /// The authors' code weighs the codebook's term by beta instead of the features' (`legacy`), and so do all released models.
    pub legacy: bool,
}

impl Quantizer {
    /// Takes the codebook and the entries in use.
    pub fn load(loader: Loader, unknown: Unknown) -> Result<Quantizer, WeightsError> {
        let name = "quantize.embedding.weight";
        let used = loader.weights.tensors().get("quantize.used");
        let codebook = loader.weights.get(name)?;
        let device = loader.placement.device;
        Quantizer::new(codebook, used, unknown, device)
            .map_err(|source| WeightsError::Torch { tensor: name.to_owned(), source })
    }

    /// A quantizer of the codebook `[n_embed, embed_dim]`, remapped to `used` (`[ids]` int64).
    pub fn new(
        codebook: &Tensor,
        used: Option<&Tensor>,
        unknown: Unknown,
        device: Device,
    ) -> Result<Quantizer, TchError> {
        let remap = Remap::new(used, codebook.size2()?.0, unknown, device)?;
        Ok(Quantizer { codebook: codebook.f_to_device(device)?.f_to_kind(Kind::Float)?, remap })
    }

    /// The remap.
    pub fn remap(&self) -> &Remap {
        &self.remap
    }

    /// Index of the nearest entry, argmin |z|² + |e|² − 2 z·e: `[batch, embed_dim, h, w]` to `[batch, h, w]`.
    pub fn indices(&self, z: &Tensor) -> Result<Tensor, TchError> {
        let (batch, channels, height, width) = z.size4()?;
        let z = z.f_permute([0, 2, 3, 1])?.f_reshape([-1, channels])?.f_to_kind(Kind::Float)?;
        let square_sum = |x: &Tensor, keep| x.f_square()?.f_sum_dim_intlist([1i64].as_slice(), keep, Kind::Float);
        let squares = square_sum(&z, true)?.f_add(&square_sum(&self.codebook, false)?)?;
        let distances = squares.f_sub(&z.f_matmul(&self.codebook.f_transpose(0, 1)?)?.f_mul_scalar(2.0)?)?;
        distances.f_argmin(1, false)?.f_view([batch, height, width])
    }

    /// The entries of indices: `[batch, h, w]` to `[batch, embed_dim, h, w]`, channels last in memory.
    pub fn entries(&self, indices: &Tensor) -> Result<Tensor, TchError> {
        entries(&self.codebook, indices)
    }

    /// Quantizes for training, gradients and loss included (Eq. 4 of the VQGAN paper).
    pub fn quantize(&self, z: &Tensor, commitment: Commitment) -> Result<Quantized, TchError> {
        let indices = tch::no_grad(|| self.indices(z))?;
        let entries = self.entries(&indices)?;
        let mean_square = |a: &Tensor, b: &Tensor| a.f_sub(b)?.f_square()?.f_mean(Kind::Float);
        let features = mean_square(&entries.f_detach()?, z)?;
        let codebook = mean_square(&entries, &z.f_detach()?)?;
        let (plain, weighted) = if commitment.legacy { (features, codebook) } else { (codebook, features) };
        let loss = plain.f_add(&weighted.f_mul_scalar(commitment.beta)?)?;
        let z_q = z.f_add(&entries.f_sub(z)?.f_detach()?)?;
        Ok(Quantized { z_q, loss, indices })
    }
}

/// Rows of a codebook `[n_embed, embed_dim]` at indices `[batch, h, w]`: `[batch, embed_dim, h, w]`.
pub(super) fn entries(codebook: &Tensor, indices: &Tensor) -> Result<Tensor, TchError> {
    let (batch, height, width) = indices.size3()?;
    let rows = codebook.f_index_select(0, &indices.f_flatten(0, -1)?)?;
    rows.f_view([batch, height, width, -1])?.f_permute([0, 3, 1, 2])
}
