//! The blocks that encoder and decoder share: residual block, attention, the middle.

use super::ops::{Conv, Loader, Norm, attend};
use crate::torch::weights::WeightsError;
use tch::{TchError, Tensor};

/// Norm, swish, 3×3, twice, plus the input (through a 1×1 convolution where the width changes).
#[derive(Debug)]
pub struct ResBlock {
    norm1: Norm,
    conv1: Conv,
    norm2: Norm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

impl ResBlock {
    /// The block `name`, from `input` to `output` channels.
    pub fn load(loader: Loader, name: &str, input: i64, output: i64) -> Result<ResBlock, WeightsError> {
        let shortcut = (input != output).then(|| loader.conv(&format!("{name}.nin_shortcut"))).transpose()?;
        Ok(ResBlock {
            norm1: loader.norm(&format!("{name}.norm1"))?,
            conv1: loader.conv(&format!("{name}.conv1"))?,
            norm2: loader.norm(&format!("{name}.norm2"))?,
            conv2: loader.conv(&format!("{name}.conv2"))?,
            shortcut,
        })
    }

    /// `[batch, input, h, w]` to `[batch, output, h, w]`. Takes the memory of `x`, which nobody else may hold.
    pub fn forward(&self, x: Tensor) -> Result<Tensor, TchError> {
        let h = self.conv1.after(&self.norm1, &x)?;
        let residual = match &self.shortcut {
            Some(conv) => conv.forward(&x)?,
            None => x,
        };
        self.conv2.after_plus(&self.norm2, &h, residual)
    }
}

/// Single-head self-attention over positions, plus the input.
#[derive(Debug)]
pub struct Attention {
    norm: Norm,
    q: Conv,
    k: Conv,
    v: Conv,
    proj_out: Conv,
}

impl Attention {
    /// The block `name`.
    pub fn load(loader: Loader, name: &str) -> Result<Attention, WeightsError> {
        let conv = |part: &str| loader.conv(&format!("{name}.{part}"));
        let norm = loader.norm(&format!("{name}.norm"))?;
        Ok(Attention { norm, q: conv("q")?, k: conv("k")?, v: conv("v")?, proj_out: conv("proj_out")? })
    }

    /// `[batch, channels, h, w]`, in and out. Takes the memory of `x`, which nobody else may hold.
    pub fn forward(&self, x: Tensor) -> Result<Tensor, TchError> {
        let h = self.norm.forward(&x)?;
        let mixed = attend(&self.q.forward(&h)?, &self.k.forward(&h)?, &self.v.forward(&h)?)?;
        self.proj_out.plus(&mixed, x)
    }
}

/// A residual block, and the attention that follows it on some levels.
#[derive(Debug)]
pub struct Step {
    block: ResBlock,
    attention: Option<Attention>,
}

impl Step {
    /// The step `index` of the level under `name`.
    pub fn load(
        loader: Loader,
        name: &str,
        index: i64,
        (input, output): (i64, i64),
        attention: bool,
    ) -> Result<Step, WeightsError> {
        let block = ResBlock::load(loader, &format!("{name}.block.{index}"), input, output)?;
        let attention = attention.then(|| Attention::load(loader, &format!("{name}.attn.{index}"))).transpose()?;
        Ok(Step { block, attention })
    }

    /// `[batch, input, h, w]` to `[batch, output, h, w]`. Takes the memory of `x`, which nobody else may hold.
    pub fn forward(&self, x: Tensor) -> Result<Tensor, TchError> {
        let h = self.block.forward(x)?;
        match &self.attention {
            Some(attention) => attention.forward(h),
            None => Ok(h),
        }
    }
}

/// Residual block, attention, residual block, at the coarsest level.
#[derive(Debug)]
pub struct Middle {
    block_1: ResBlock,
    attn_1: Attention,
    block_2: ResBlock,
}

impl Middle {
    /// The middle of `network` (`encoder` or `decoder`), of `width` channels.
    pub fn load(loader: Loader, network: &str, width: i64) -> Result<Middle, WeightsError> {
        Ok(Middle {
            block_1: ResBlock::load(loader, &format!("{network}.mid.block_1"), width, width)?,
            attn_1: Attention::load(loader, &format!("{network}.mid.attn_1"))?,
            block_2: ResBlock::load(loader, &format!("{network}.mid.block_2"), width, width)?,
        })
    }

    /// `[batch, width, h, w]`, in and out. Takes the memory of `x`, which nobody else may hold.
    pub fn forward(&self, x: Tensor) -> Result<Tensor, TchError> {
        self.block_2.forward(self.attn_1.forward(self.block_1.forward(x)?)?)
    }
}
