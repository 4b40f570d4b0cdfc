//! The decoder: codebook entries on the token grid to image.

use super::blocks::{Middle, Step};
use super::config::VqganConfig;
use super::ops::{Conv, Loader, Norm};
use crate::torch::weights::WeightsError;
use tch::{TchError, Tensor};

/// taming's Decoder (`taming/modules/diffusionmodules/model.py`), under `decoder.` in the checkpoints.
#[derive(Debug)]
pub struct Decoder {
    conv_in: Conv,
    middle: Middle,
    /// Coarsest first, the order they run in; `decoder.up.0` is the finest.
    levels: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv,
    tanh: bool,
}

#[derive(Debug)]
struct Level {
    steps: Vec<Step>,
    upsample: Option<Conv>,
}

impl Decoder {
    /// Takes the decoder's tensors. With `tanh` the image goes through tanh, which the released code never does, whatever
    /// its config says.
    pub fn load(config: &VqganConfig, loader: Loader, tanh: bool) -> Result<Decoder, WeightsError> {
        let coarsest = config.ch_mult.len() - 1;
        let mut width = config.channels(coarsest);
        let middle = Middle::load(loader, "decoder", width)?;
        let mut levels = Vec::new();
        for level in (0..=coarsest).rev() {
            let name = format!("decoder.up.{level}");
            let mut steps = Vec::new();
            for index in 0..=config.num_res_blocks {
                let widths = (width, config.channels(level));
                steps.push(Step::load(loader, &name, index, widths, config.has_attention(level))?);
                width = config.channels(level);
            }
            let upsample = (level > 0).then(|| loader.conv(&format!("{name}.upsample.conv"))).transpose()?;
            levels.push(Level { steps, upsample });
        }
        Ok(Decoder {
            conv_in: loader.conv("decoder.conv_in")?,
            middle,
            levels,
            norm_out: loader.norm("decoder.norm_out")?,
            conv_out: loader.conv("decoder.conv_out")?,
            tanh,
        })
    }

    /// `[batch, z_channels, h, w]` to `[batch, 3, h * f, w * f]`, about [-1, 1].
    pub fn forward(&self, z: &Tensor) -> Result<Tensor, TchError> {
        let mut h = self.middle.forward(self.conv_in.forward(z)?)?;
        for level in &self.levels {
            for step in &level.steps {
                h = step.forward(h)?;
            }
            if let Some(conv) = &level.upsample {
                h = conv.upsampled(&h)?;
            }
        }
        let image = self.conv_out.after(&self.norm_out, &h)?;
        if self.tanh { image.f_tanh() } else { Ok(image) }
    }
}
