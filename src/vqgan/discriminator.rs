//! The patch discriminator a VQGAN is trained against (Isola et al., CVPR 2017), as taming-transformers builds it.

use crate::torch::weights::{Init, TensorSpec, Weights, WeightsError};
use std::collections::BTreeMap;
use tch::{Device, TchError, Tensor};

const SLOPE: f64 = 0.2;
const MOMENTUM: f64 = 0.1;
const EPSILON: f64 = 1e-5;
/// Statistics that training updates without gradients.
const STATISTICS: [&str; 3] = ["running_mean", "running_var", "num_batches_tracked"];

/// The shape of a discriminator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscriminatorConfig {
    /// Channels of the image.
    pub in_channels: i64,
    /// Channels of the first layer (taming's `disc_ndf`); each next one doubles them, up to 8 times.
    pub ndf: i64,
    /// Downsampling layers (taming's `disc_num_layers`).
    pub layers: usize,
}

impl DiscriminatorConfig {
    /// Every tensor, under its name in the released checkpoints (without `loss.discriminator.`), with taming's initial values.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut list = Vec::new();
        for plan in self.plan() {
            let index = plan.index;
            let weight = [plan.output, plan.input, 4, 4];
            list.push(TensorSpec::new(format!("main.{index}.weight"), &weight, Init::Normal(0.02)));
            if !plan.normalised {
                // A bias of a convolution keeps PyTorch's own initial values.
                let bound = 1.0 / ((plan.input * 16) as f64).sqrt();
                list.push(TensorSpec::new(format!("main.{index}.bias"), &[plan.output], Init::Uniform(bound)));
                continue;
            }
            let norm = |part: &str| format!("main.{}.{part}", index + 1);
            let width = [plan.output];
            list.push(TensorSpec::new(norm("weight"), &width, Init::NormalAbout(1.0, 0.02)));
            list.push(TensorSpec::new(norm("bias"), &width, Init::Constant(0.0)));
            list.push(TensorSpec::new(norm("running_mean"), &width, Init::Constant(0.0)));
            list.push(TensorSpec::new(norm("running_var"), &width, Init::Constant(1.0)));
            list.push(TensorSpec::new(norm("num_batches_tracked"), &[], Init::Range));
        }
        list
    }

    /// The convolutions in order: `layers` of stride 2, one of stride 1, and the one that gives the logits.
    fn plan(&self) -> Vec<Plan> {
        let width = |layer: usize| self.ndf << layer.min(3);
        let mut plan = vec![Plan { index: 0, input: self.in_channels, output: self.ndf, stride: 2, normalised: false }];
        for layer in 1..=self.layers {
            let stride = if layer < self.layers { 2 } else { 1 };
            let (input, output) = (width(layer - 1), width(layer));
            plan.push(Plan { index: 3 * layer - 1, input, output, stride, normalised: true });
        }
        let input = width(self.layers);
        plan.push(Plan { index: 3 * self.layers + 2, input, output: 1, stride: 1, normalised: false });
        plan
    }
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Its number in taming's `main`.
    index: usize,
    input: i64,
    output: i64,
    stride: i64,
    /// Followed by a BatchNorm, and then without bias.
    normalised: bool,
}

/// A discriminator that can be trained: it owns its parameters, which record gradients.
#[derive(Debug)]
pub struct Discriminator {
    config: DiscriminatorConfig,
    tensors: BTreeMap<String, Tensor>,
}

impl Discriminator {
    /// Copies the weights, which must be those of `config`, to the device.
    pub fn load(config: DiscriminatorConfig, weights: &Weights, device: Device) -> Result<Discriminator, WeightsError> {
        weights.check(&config.tensors())?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in weights.tensors() {
            let copy = || tensor.f_detach_copy()?.f_to_device(device)?.f_set_requires_grad(is_parameter(name));
            let copy = copy().map_err(|source| WeightsError::Torch { tensor: name.clone(), source })?;
            tensors.insert(name.clone(), copy);
        }
        Ok(Discriminator { config, tensors })
    }

    /// Parameters and statistics by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The parameters by name, without the statistics.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().filter(|(name, _)| is_parameter(name)).map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Whether gradients of the parameters are recorded from here on: not while they only judge the generator.
    pub fn record(&self, gradients: bool) -> Result<(), TchError> {
        self.parameters().try_for_each(|(_, tensor)| tensor.f_set_requires_grad(gradients).map(drop))
    }

    /// One logit a patch: `[batch, in_channels, h, w]` to `[batch, 1, h', w']`. While training, normalisation uses the
    /// batch's statistics and updates the running ones.
    pub fn forward(&self, image: &Tensor, training: bool) -> Result<Tensor, TchError> {
        let plan = self.config.plan();
        let mut x = image.shallow_clone();
        for (layer, plan) in plan.iter().enumerate() {
            let tensor = |part: &str| self.tensors.get(&format!("main.{}.{part}", plan.index));
            let weight = tensor("weight").ok_or_else(|| missing(plan.index))?;
            x = x.f_conv2d(weight, tensor("bias"), [plan.stride; 2], [1, 1], [1, 1], 1)?;
            if plan.normalised {
                x = self.normalise(&x, plan.index + 1, training)?;
            }
            if layer < self.config.layers + 1 {
                x = x.f_maximum(&x.f_mul_scalar(SLOPE)?)?;
            }
        }
        Ok(x)
    }

    fn normalise(&self, x: &Tensor, index: usize, training: bool) -> Result<Tensor, TchError> {
        let tensor = |part: &str| self.tensors.get(&format!("main.{index}.{part}"));
        if let Some(count) = tensor("num_batches_tracked").filter(|_| training) {
            // In place: the clone is the same tensor.
            let _ = count.shallow_clone().f_add_scalar_(1)?;
        }
        let (mean, variance) = (tensor("running_mean"), tensor("running_var"));
        x.f_batch_norm(tensor("weight"), tensor("bias"), mean, variance, training, MOMENTUM, EPSILON, false)
    }
}

fn is_parameter(name: &str) -> bool {
    !STATISTICS.iter().any(|statistic| name.ends_with(statistic))
}

fn missing(index: usize) -> TchError {
    TchError::TensorNameNotFound(format!("main.{index}.weight"), "the discriminator".to_owned())
}
