//! The encoder: image to `z_channels` features on the token grid.

use super::blocks::{Middle, Step};
use super::config::VqganConfig;
use super::ops::{Conv, Loader, Norm};
use crate::torch::weights::WeightsError;
use tch::{TchError, Tensor};

/// taming's Encoder (`taming/modules/diffusionmodules/model.py`), under `encoder.` in the checkpoints.
#[derive(Debug)]
pub struct Encoder {
    conv_in: Conv,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: Norm,
    conv_out: Conv,
}

#[derive(Debug)]
struct Level {
    steps: Vec<Step>,
    downsample: Option<Conv>,
}

impl Encoder {
    /// Takes the encoder's tensors.
    pub fn load(config: &VqganConfig, loader: Loader) -> Result<Encoder, WeightsError> {
        let mut width = config.ch;
        let mut levels = Vec::new();
        for level in 0..config.ch_mult.len() {
            let name = format!("encoder.down.{level}");
            let mut steps = Vec::new();
            for index in 0..config.num_res_blocks {
                let widths = (width, config.channels(level));
                steps.push(Step::load(loader, &name, index, widths, config.has_attention(level))?);
                width = config.channels(level);
            }
            let last = level + 1 == config.ch_mult.len();
            let downsample =
                (!last).then(|| loader.downsampling_conv(&format!("{name}.downsample.conv"))).transpose()?;
            levels.push(Level { steps, downsample });
        }
        Ok(Encoder {
            conv_in: loader.conv("encoder.conv_in")?,
            levels,
            middle: Middle::load(loader, "encoder", width)?,
            norm_out: loader.norm("encoder.norm_out")?,
            conv_out: loader.conv("encoder.conv_out")?,
        })
    }

    /// `[batch, 3, h, w]` in [-1, 1] to `[batch, z_channels, h / f, w / f]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut h = self.conv_in.forward(x)?;
        for level in &self.levels {
            for step in &level.steps {
                h = step.forward(h)?;
            }
            if let Some(conv) = &level.downsample {
                h = conv.forward(&h)?;
            }
        }
        let h = self.middle.forward(h)?;
        self.conv_out.after(&self.norm_out, &h)
    }
}
