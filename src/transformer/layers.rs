//! The pieces both networks are built of: linear layers, norms, attention, feed-forward.
//!
//! Each runs in two ways: `forward` over all positions at once `[batch, tokens, dim]`, differentiable; `step` over one position
//! `[batch, dim]`, with the keys and values of earlier positions in a [`Cache`]. Weights of another dtype than the activations
//! (float32 masters in bf16 training) are cast where they are used.

use super::parameters::Parameters;
use super::{Placement, TransformerError};
use crate::torch::kernels::{Instructions, linear, suits_linear};
use tch::{Device, Kind, TchError, Tensor};

pub(super) type Torch<T> = Result<T, TchError>;

/// Epsilon of every LayerNorm.
const EPSILON: f64 = 1e-5;

/// `x · weightᵀ + bias`.
#[derive(Debug)]
pub(super) struct Linear {
    /// `[out, in]`
    weight: Tensor,
    /// `[out]`
    bias: Option<Tensor>,
}

impl Linear {
    pub fn new(parameters: &Parameters, name: &str, bias: bool) -> Result<Linear, TransformerError> {
        let weight = parameters.get(&format!("{name}.weight"))?;
        let bias = if bias { Some(parameters.get(&format!("{name}.bias"))?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Torch<Tensor> {
        let kind = x.f_kind()?;
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
        x.f_linear(&self.weight.f_to_kind(kind)?, bias.as_ref())
    }

    /// `[batch, in]` to `[batch, out]` for few rows.
    pub fn step(&self, x: &Tensor) -> Torch<Tensor> {
        match suits_linear(x, &self.weight) {
            true => linear(x, &self.weight, self.bias.as_ref(), Instructions::Best),
            false => self.forward(x),
        }
    }
}

/// Several linear layers of one input: one matrix where the weights are this network's own, each for itself where they are
/// shared with a trainer.
#[derive(Debug)]
pub(super) enum Stacked {
    One { linear: Linear, parts: i64 },
    Each(Vec<Linear>),
}

impl Stacked {
    pub fn new(parameters: &Parameters, names: &[String], bias: bool) -> Result<Stacked, TransformerError> {
        if !parameters.fuse {
            let each = names.iter().map(|name| Linear::new(parameters, name, bias)).collect::<Result<_, _>>()?;
            return Ok(Stacked::Each(each));
        }
        let join = |part: &str| -> Result<Tensor, TransformerError> {
            let tensors = names.iter().map(|name| parameters.get(&format!("{name}.{part}")));
            let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
            Ok(Tensor::f_cat(&tensors, 0)?)
        };
        let bias = if bias { Some(join("bias")?) } else { None };
        Ok(Stacked::One { linear: Linear { weight: join("weight")?, bias }, parts: names.len() as i64 })
    }

    /// `[.., in]` to as many `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Torch<Vec<Tensor>> {
        match self {
            Stacked::One { linear, parts } => linear.forward(x)?.f_chunk(*parts, -1),
            Stacked::Each(each) => each.iter().map(|linear| linear.forward(x)).collect(),
        }
    }

    /// `[batch, in]` to as many `[batch, out]`, for few rows.
    pub fn step(&self, x: &Tensor) -> Torch<Vec<Tensor>> {
        match self {
            Stacked::One { linear, parts } => linear.step(x)?.f_chunk(*parts, -1),
            Stacked::Each(each) => each.iter().map(|linear| linear.step(x)).collect(),
        }
    }
}

/// LayerNorm over the last dimension.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    pub fn new(parameters: &Parameters, name: &str) -> Result<Norm, TransformerError> {
        Ok(Norm { weight: parameters.get(&format!("{name}.weight"))?, bias: parameters.get(&format!("{name}.bias"))? })
    }

    pub fn forward(&self, x: &Tensor) -> Torch<Tensor> {
        let kind = x.f_kind()?;
        let (weight, bias) = (self.weight.f_to_kind(kind)?, self.bias.f_to_kind(kind)?);
        x.f_layer_norm(self.weight.size(), Some(&weight), Some(&bias), EPSILON, true)
    }
}

/// Rows of an embedding, in the placement's dtype.
#[derive(Debug)]
pub(super) struct Embedding {
    /// `[rows, dim]`
    weight: Tensor,
    placement: Placement,
}

impl Embedding {
    pub fn new(parameters: &Parameters, name: &str) -> Result<Embedding, TransformerError> {
        let weight = parameters.get(name)?;
        // The GPT's positions are [1, rows, dim].
        let weight = if weight.dim() == 3 { weight.f_squeeze_dim(0)? } else { weight };
        Ok(Embedding { weight, placement: parameters.placement })
    }

    /// The rows of `ids`: `[..]` to `[.., dim]`.
    pub fn rows(&self, ids: &Tensor) -> Torch<Tensor> {
        Tensor::f_embedding(&self.weight, ids, -1, false, false)?.f_to_kind(self.placement.kind)
    }

    /// `count` rows from `first` on, `[count, dim]`.
    pub fn range(&self, first: i64, count: i64) -> Torch<Tensor> {
        self.weight.f_narrow(0, first, count)?.f_to_kind(self.placement.kind)
    }
}

/// What positions see of one another.
#[derive(Debug)]
pub(super) enum Mask {
    /// All of them.
    Full,
    /// Themselves and what is before them.
    Causal,
    /// Where this `[tokens, tokens]` is true.
    Given(Tensor),
}

impl Mask {
    /// What `tokens` positions see that come behind `first` others: those, themselves and what is before them.
    pub fn behind(first: i64, tokens: i64, device: Device) -> Torch<Mask> {
        if first == 0 {
            return Ok(Mask::Causal);
        }
        Ok(Mask::Given(Tensor::f_ones([tokens, first + tokens], (Kind::Bool, device))?.f_tril(first)?))
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Torch<Tensor> {
        let given = if let Mask::Given(mask) = self { Some(mask) } else { None };
        Tensor::f_scaled_dot_product_attention(q, k, v, given, 0.0, matches!(self, Mask::Causal), None, false)
    }
}

/// Keys and values of a self-attention's positions, preallocated: `[batch, heads, capacity, head width]` each.
#[derive(Debug)]
pub(super) struct Cache {
    keys: Tensor,
    values: Tensor,
}

impl Cache {
    pub fn new(shape: [i64; 4], placement: Placement) -> Torch<Cache> {
        let options = (placement.kind, placement.device);
        Ok(Cache { keys: Tensor::f_zeros(shape, options)?, values: Tensor::f_zeros(shape, options)? })
    }

    /// Writes positions `first..`; `keys` and `values` are `[batch, heads, tokens, head width]`.
    fn write(&mut self, first: i64, keys: &Tensor, values: &Tensor) -> Torch<()> {
        for (cache, new) in [(&self.keys, keys), (&self.values, values)] {
            let count = new.size().get(2).copied().unwrap_or(0);
            cache.f_narrow(2, first, count)?.f_copy_(new)?;
        }
        Ok(())
    }
}

/// `[batch, tokens, heads · width]` to `[batch, heads, tokens, width]`.
fn split_heads(x: &Tensor, heads: i64) -> Torch<Tensor> {
    let (batch, tokens, _) = x.size3()?;
    x.f_reshape([batch, tokens, heads, -1])?.f_transpose(1, 2)
}

/// `[batch, heads, tokens, width]` to `[batch, tokens, heads · width]`.
fn join_heads(x: &Tensor) -> Torch<Tensor> {
    let (batch, _, tokens, _) = x.size4()?;
    x.f_transpose(1, 2)?.f_reshape([batch, tokens, -1])
}

/// `[batch, heads · width]` to `[batch, heads, 1, width]`.
fn split_step(x: &Tensor, heads: i64) -> Torch<Tensor> {
    let (batch, _) = x.size2()?;
    x.f_reshape([batch, heads, 1, -1])
}

/// `x + y`, in the memory of `x`, which nobody else may hold.
fn add(mut x: Tensor, y: &Tensor) -> Torch<Tensor> {
    x.f_add_(y)
}

/// `x + attention(norm(x))` among the positions of `x`.
#[derive(Debug)]
pub(super) struct SelfAttention {
    pub norm: Norm,
    /// Query, key, value.
    pub qkv: Stacked,
    pub out: Linear,
    pub heads: i64,
}

impl SelfAttention {
    fn project(&self, x: &Tensor) -> Torch<[Tensor; 3]> {
        let qkv = self.qkv.forward(&self.norm.forward(x)?)?;
        let heads: Vec<Tensor> = qkv.iter().map(|x| split_heads(x, self.heads)).collect::<Torch<_>>()?;
        heads.try_into().map_err(|_| TchError::Shape("a self-attention has three projections".to_owned()))
    }

    /// All positions at once, `[batch, tokens, dim]`.
    pub fn forward(&self, x: &Tensor, mask: &Mask) -> Torch<Tensor> {
        let [q, k, v] = self.project(x)?;
        x.f_add(&self.out.forward(&join_heads(&mask.attend(&q, &k, &v)?)?)?)
    }

    /// As [`forward`](SelfAttention::forward), and keeps keys and values as the first positions of the cache.
    pub fn prefill(&self, x: &Tensor, mask: &Mask, cache: &mut Cache) -> Torch<Tensor> {
        let [q, k, v] = self.project(x)?;
        cache.write(0, &k, &v)?;
        x.f_add(&self.out.forward(&join_heads(&mask.attend(&q, &k, &v)?)?)?)
    }

    /// Positions `first..` at once, `[batch, tokens, dim]`, behind those in the cache, which keeps their keys and values too. `mask` is
    /// [`Mask::behind`] as many.
    pub fn extend(&self, x: &Tensor, mask: &Mask, cache: &mut Cache, first: i64) -> Torch<Tensor> {
        let [q, k, v] = self.project(x)?;
        let (_, tokens, _) = x.size3()?;
        cache.write(first, &k, &v)?;
        let (keys, values) = (cache.keys.f_narrow(2, 0, first + tokens)?, cache.values.f_narrow(2, 0, first + tokens)?);
        x.f_add(&self.out.forward(&join_heads(&mask.attend(&q, &keys, &values)?)?)?)
    }

    /// Position `position` alone, `[batch, dim]`; it sees itself and what the cache holds before it.
    pub fn step(&self, x: &Tensor, cache: &mut Cache, position: i64) -> Torch<Tensor> {
        let qkv = self.qkv.step(&self.norm.forward(x)?)?;
        let [q, k, v] = &qkv[..] else {
            return Err(TchError::Shape("a self-attention has three projections".to_owned()));
        };
        cache.write(position, &split_step(k, self.heads)?, &split_step(v, self.heads)?)?;
        let keys = cache.keys.f_narrow(2, 0, position + 1)?;
        let values = cache.values.f_narrow(2, 0, position + 1)?;
        attend_step(&self.out, x, &split_step(q, self.heads)?, &keys, &values)
    }
}

/// `x + out(attention)` of one query a row.
fn attend_step(out: &Linear, x: &Tensor, q: &Tensor, keys: &Tensor, values: &Tensor) -> Torch<Tensor> {
    let (batch, _) = x.size2()?;
    let mixed = Mask::Full.attend(q, keys, values)?.f_reshape([batch, -1])?;
    add(out.step(&mixed)?, x)
}

/// `x + attention(norm(x), context)`.
#[derive(Debug)]
pub(super) struct CrossAttention {
    pub norm: Norm,
    pub query: Linear,
    /// Key, value: of the context, which is normed already.
    pub kv: Stacked,
    pub out: Linear,
    pub heads: i64,
}

/// Keys and values of the context, `[batch, heads, tokens, head width]` each.
#[derive(Debug)]
pub(super) struct Memory {
    keys: Tensor,
    values: Tensor,
}

impl CrossAttention {
    /// The keys and values of a context `[batch, tokens, dim]`.
    pub fn memory(&self, context: &Tensor) -> Torch<Memory> {
        let kv = self.kv.forward(context)?;
        let [keys, values] = &kv[..] else {
            return Err(TchError::Shape("a cross-attention has two projections of its context".to_owned()));
        };
        Ok(Memory { keys: split_heads(keys, self.heads)?, values: split_heads(values, self.heads)? })
    }

    /// All positions at once, `[batch, tokens, dim]`.
    pub fn forward(&self, x: &Tensor, memory: &Memory) -> Torch<Tensor> {
        let q = split_heads(&self.query.forward(&self.norm.forward(x)?)?, self.heads)?;
        x.f_add(&self.out.forward(&join_heads(&Mask::Full.attend(&q, &memory.keys, &memory.values)?)?)?)
    }

    /// One position, `[batch, dim]`.
    pub fn step(&self, x: &Tensor, memory: &Memory) -> Torch<Tensor> {
        let q = split_step(&self.query.step(&self.norm.forward(x)?)?, self.heads)?;
        attend_step(&self.out, x, &q, &memory.keys, &memory.values)
    }
}

impl Memory {
    /// The same, laid out for many steps.
    pub fn settled(self) -> Torch<Memory> {
        Ok(Memory { keys: self.keys.f_contiguous()?, values: self.values.f_contiguous()? })
    }
}

/// `x + down(gelu(up(norm(x))))`, the exact (erf) GELU.
#[derive(Debug)]
pub(super) struct FeedForward {
    pub norm: Norm,
    pub up: Linear,
    pub down: Linear,
}

impl FeedForward {
    pub fn forward(&self, x: &Tensor) -> Torch<Tensor> {
        let hidden = self.up.forward(&self.norm.forward(x)?)?.f_gelu("none")?;
        x.f_add(&self.down.forward(&hidden)?)
    }

    /// One position, `[batch, dim]`.
    pub fn step(&self, x: &Tensor) -> Torch<Tensor> {
        let hidden = self.up.step(&self.norm.forward(x)?)?.f_gelu_("none")?;
        add(self.down.step(&hidden)?, x)
    }
}
