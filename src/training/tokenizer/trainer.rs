//! Networks, losses, optimizers and averages of a VQGAN in training, and one step of it.

use super::TrainerError;
use super::codebook::{Codebook, CodebookConfig, use_of};
use crate::torch::weights::Weights;
use crate::training::{AdamW, AdamWConfig, Ema, LearningRate, ParameterGroup};
use crate::vqgan::discriminator::{Discriminator, DiscriminatorConfig};
use crate::vqgan::losses::{GeneratorLoss, LossConfig, Pair, VqganLoss};
use crate::vqgan::lpips::Perceptual;
use crate::vqgan::network;
use crate::vqgan::ops::{Layout, Placement};
use crate::vqgan::quantizer::{Commitment, Quantized};
use crate::vqgan::{Vqgan, VqganConfig};
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

/// Adam as taming-transformers sets it; weights are not decayed.
const ADAM: AdamWConfig = AdamWConfig { betas: (0.5, 0.9), epsilon: 1e-8 };
/// The weight of the decoder's last convolution, at which the adaptive weight compares gradients.
const LAST_LAYER: &str = "decoder.conv_out.weight";
const CODEBOOK: &str = "quantize.embedding.weight";

/// The learning rates of the two optimizers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    pub generator: LearningRate,
    pub discriminator: LearningRate,
}

/// What is trained, and how.
#[derive(Clone, Debug)]
pub struct TrainerConfig {
    pub network: VqganConfig,
    pub losses: LossConfig,
    /// None where it never counts.
    pub discriminator: Option<DiscriminatorConfig>,
    pub commitment: Commitment,
    pub codebook: CodebookConfig,
    /// Decay of the averages of the parameters; none are kept without it.
    pub ema: Option<f64>,
    pub rates: Rates,
    /// Of the initial weights.
    pub seed: u64,
    pub device: Device,
    pub layout: Layout,
}

/// A VQGAN in training.
#[derive(Debug)]
pub struct Trainer {
    pub(super) config: TrainerConfig,
    /// The leaves: the network computes with these very tensors.
    pub(super) parameters: BTreeMap<String, Tensor>,
    network: Vqgan,
    pub(super) losses: VqganLoss,
    pub(super) generator: AdamW,
    pub(super) critic: Option<AdamW>,
    pub(super) ema: Option<Ema>,
    pub(super) codebook: Codebook,
    /// Optimizer steps so far, skipped ones included.
    pub(super) step: u64,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub figures: Figures,
    /// Whether a loss or a gradient was not a number, so that nothing was changed.
    pub skipped: bool,
}

/// The figures of a step, means over its batches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// What the generator minimises.
    pub total: f64,
    /// Mean absolute error and weighted perceptual distance.
    pub nll: f64,
    pub perceptual: f64,
    pub quantizer: f64,
    pub adversarial: f64,
    /// The adaptive weight, `disc_weight` and `disc_factor` included.
    pub weight: f64,
    pub discriminator: f64,
    pub logits_real: f64,
    pub logits_fake: f64,
    /// Norm of the generator's gradient.
    pub gradient: f64,
    /// Codes that stand in the batches, and e to the entropy of their shares.
    pub codes: f64,
    pub perplexity: f64,
    /// Codes that were placed anew.
    pub restarted: f64,
    /// Whether the discriminator counted.
    pub judged: bool,
    pub rate: f64,
}

/// What one batch leaves for the rest of the step.
struct Passed {
    /// Scalars in the order of [`SCALARS`].
    scalars: Tensor,
    /// `[rows, embed_dim]`, and the index of each.
    features: Tensor,
    indices: Tensor,
}

/// Scalars of a batch that go to the host together.
const SCALARS: usize = 9;

impl Trainer {
    /// Fresh networks. `perceptual`: on the same device.
    ///
    /// # Errors
    /// A shape that is not trained here; what libtorch reports.
    pub fn new(config: TrainerConfig, perceptual: Option<Perceptual>) -> Result<Trainer, TrainerError> {
        if config.network.gumbel {
            return Err(TrainerError::Gumbel);
        }
        let placement = Placement { device: config.device, kind: Kind::Float, layout: config.layout };
        let mut parameters = BTreeMap::new();
        let network = VqganConfig { used: None, ..config.network.clone() };
        let follows_means = config.codebook.decay.is_some();
        for (name, tensor) in Weights::init(&network.tensors(), config.seed)?.into_tensors() {
            let placed = placement.place(&tensor)?.f_detach()?;
            let leaf = placed.f_set_requires_grad(!(follows_means && name == CODEBOOK))?;
            parameters.insert(name, leaf);
        }
        let shared = parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        let network = Vqgan::load(&network, &Weights::from_tensors("the tokenizer", shared)?, placement, false)?;
        let discriminator = match config.discriminator {
            Some(shape) => {
                let weights = Weights::init(&shape.tensors(), config.seed)?;
                Some(Discriminator::load(shape, &weights, config.device)?)
            }
            None => None,
        };
        let trained = parameters.iter().filter(|(_, tensor)| tensor.requires_grad());
        let generator = adam(trained.map(|(name, tensor)| (name.as_str(), tensor)))?;
        let critic = discriminator.as_ref().map(|critic| adam(critic.parameters())).transpose()?;
        let ema = config.ema.map(|decay| Ema::new(named(&parameters), decay)).transpose()?;
        let codebook = Codebook::new(config.codebook, leaf(&parameters, CODEBOOK)?)?;
        let losses = VqganLoss { config: config.losses, discriminator, perceptual };
        Ok(Trainer { config, parameters, network, losses, generator, critic, ema, codebook, step: 0 })
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The perceptual distance, where it is on.
    pub fn perceptual(&self) -> Option<&Perceptual> {
        self.losses.perceptual.as_ref()
    }

    /// The network's shape.
    pub fn network(&self) -> &VqganConfig {
        &self.config.network
    }

    /// One step: the gradients of all `batches` together, `[images, 3, h, w]` in [-1, 1] each.
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn step(&mut self, batches: &[Tensor]) -> Result<Step, TrainerError> {
        let counts = self.critic.is_some() && self.losses.config.factor(self.signed_step()) > 0.0;
        self.generator.zero_gradients()?;
        if let Some(critic) = &self.critic {
            critic.zero_gradients()?;
        }
        let statistics = if counts { self.statistics()? } else { Vec::new() };
        let share = 1.0 / batches.len().max(1) as f64;
        let passed = batches.iter().map(|images| self.pass(images, counts, share)).collect::<Result<Vec<_>, _>>()?;
        let gradient = self.gradient_norm()?;
        let mut figures = figures(&passed, &gradient)?;
        figures.judged = counts;
        figures.rate = self.config.rates.generator.at(self.step);
        let skipped = !figures.is_finite();
        if skipped {
            for (statistic, before) in &statistics {
                tch::no_grad(|| statistic.shallow_clone().f_copy_(before))?;
            }
        } else {
            self.apply(&passed, counts, &mut figures)?;
        }
        self.step += 1;
        Ok(Step { figures, skipped })
    }

    /// Forward and backward of one batch.
    fn pass(&self, images: &Tensor, counts: bool, share: f64) -> Result<Passed, TrainerError> {
        let features = self.network.features(images)?;
        let network::Codebook::Nearest(quantizer) = &self.network.codebook else { return Err(TrainerError::Gumbel) };
        let Quantized { mut z_q, mut loss, indices } = quantizer.quantize(&features, self.config.commitment)?;
        if !self.codebook.counts(self.step) {
            z_q = features.shallow_clone();
            loss = loss.f_mul_scalar(0.0)?;
        }
        let reconstructions = self.network.decode(&z_q)?;
        let pair = Pair { images, reconstructions: &reconstructions };
        let zero = || Tensor::f_zeros([], (Kind::Float, self.config.device));
        let (generator, critic) = match (counts, &self.losses.discriminator) {
            (true, Some(critic)) => {
                critic.record(false)?;
                let last = leaf(&self.parameters, LAST_LAYER)?;
                let generator = self.losses.generator(pair, &loss, last, self.signed_step())?;
                generator.total.f_mul_scalar(share)?.f_backward()?;
                critic.record(true)?;
                let critic = self.losses.discriminator(pair, self.signed_step())?;
                critic.total.f_mul_scalar(share)?.f_backward()?;
                (generator, [critic.total, critic.logits_real, critic.logits_fake])
            }
            _ => {
                let generator = self.losses.without_critic(pair, &loss)?;
                generator.total.f_mul_scalar(share)?.f_backward()?;
                (generator, [zero()?, zero()?, zero()?])
            }
        };
        let GeneratorLoss { total, nll, perceptual, quantizer, adversarial, weight, factor } = generator;
        let weight = weight.f_mul_scalar(factor)?;
        let [first, second, third] = critic;
        let scalars = [total, nll, perceptual, quantizer, adversarial, weight, first, second, third];
        let scalars = tch::no_grad(|| Tensor::f_stack(&scalars, 0))?.f_detach()?;
        let channels = features.size4()?.1;
        let features = features.f_detach()?.f_permute([0, 2, 3, 1])?.f_reshape([-1, channels])?;
        Ok(Passed { scalars, features: features.f_to_kind(Kind::Float)?, indices: indices.f_flatten(0, -1)? })
    }

    /// Changes weights, codebook and averages.
    fn apply(&mut self, passed: &[Passed], counts: bool, figures: &mut Figures) -> Result<(), TrainerError> {
        let rates = self.config.rates;
        self.generator.step(rates.generator.at(self.step))?;
        if let Some(critic) = self.critic.as_mut().filter(|_| counts) {
            critic.step(rates.discriminator.at(self.step))?;
        }
        let features: Vec<&Tensor> = passed.iter().map(|passed| &passed.features).collect();
        let indices: Vec<&Tensor> = passed.iter().map(|passed| &passed.indices).collect();
        let entries = leaf(&self.parameters, CODEBOOK)?;
        let (codebook, step) = (&mut self.codebook, self.step);
        let restarted = tch::no_grad(|| {
            codebook.update(entries, &Tensor::f_cat(&features, 0)?, &Tensor::f_cat(&indices, 0)?, step)
        })?;
        if let Some(ema) = &mut self.ema {
            ema.update(|name| self.parameters.get(name))?;
            if let (Some(rows), Some(average)) = (&restarted, ema.average(CODEBOOK)) {
                // An entry in a new place has nothing to do with where it was.
                let fresh = tch::no_grad(|| entries.f_index_select(0, rows))?;
                let _ = tch::no_grad(|| average.shallow_clone().f_index_copy_(0, rows, &fresh))?;
            }
        }
        figures.restarted = restarted.map_or(0.0, |rows| rows.numel() as f64);
        Ok(())
    }

    /// Norm of the gradient of all of the generator's parameters, on the device.
    fn gradient_norm(&self) -> Result<Tensor, TchError> {
        tch::no_grad(|| {
            let mut norms = Vec::new();
            for parameter in self.parameters.values().filter(|parameter| parameter.requires_grad()) {
                let gradient = parameter.f_grad()?;
                if gradient.defined() {
                    norms.push(gradient.f_norm()?);
                }
            }
            Tensor::f_stack(&norms, 0)?.f_norm()
        })
    }

    /// The discriminator's running statistics, each with a copy.
    fn statistics(&self) -> Result<Vec<(Tensor, Tensor)>, TchError> {
        let Some(critic) = &self.losses.discriminator else { return Ok(Vec::new()) };
        let statistics = critic.tensors().values().filter(|tensor| !tensor.requires_grad());
        statistics.map(|tensor| Ok((tensor.shallow_clone(), tensor.f_detach_copy()?))).collect()
    }

    fn signed_step(&self) -> i64 {
        i64::try_from(self.step).unwrap_or(i64::MAX)
    }
}

impl Figures {
    /// Whether all of them are numbers.
    pub fn is_finite(&self) -> bool {
        [self.total, self.discriminator, self.gradient].iter().all(|figure| figure.is_finite())
    }
}

/// The means of the batches' scalars. The one wait of a step for the device.
fn figures(passed: &[Passed], gradient: &Tensor) -> Result<Figures, TchError> {
    let scalars: Vec<&Tensor> = passed.iter().map(|passed| &passed.scalars).collect();
    let means = Tensor::f_stack(&scalars, 0)?.f_mean_dim([0i64].as_slice(), false, Kind::Float)?;
    let all = Tensor::f_cat(&[means, gradient.f_view(1)?], 0)?.f_to_device(Device::Cpu)?;
    let all = Vec::<f32>::try_from(all)?;
    let at = |index: usize| all.get(index).map_or(f64::NAN, |value| f64::from(*value));
    let indices: Vec<&Tensor> = passed.iter().map(|passed| &passed.indices).collect();
    let (codes, perplexity) = use_of(&Tensor::f_cat(&indices, 0)?.f_bincount(None::<Tensor>, 0)?)?;
    Ok(Figures {
        total: at(0),
        nll: at(1),
        perceptual: at(2),
        quantizer: at(3),
        adversarial: at(4),
        weight: at(5),
        discriminator: at(6),
        logits_real: at(7),
        logits_fake: at(8),
        gradient: at(SCALARS),
        codes,
        perplexity,
        ..Figures::default()
    })
}

fn adam<'a>(parameters: impl Iterator<Item = (&'a str, &'a Tensor)>) -> Result<AdamW, TrainerError> {
    let all: BTreeMap<&str, &Tensor> = parameters.collect();
    let names = all.keys().map(|name| (*name).to_owned()).collect();
    Ok(AdamW::new(ADAM, &[ParameterGroup { weight_decay: 0.0, names }], |name| all.get(name).copied())?)
}

pub(super) fn named(tensors: &BTreeMap<String, Tensor>) -> impl Iterator<Item = (&str, &Tensor)> {
    tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
}

fn leaf<'a>(parameters: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor, TchError> {
    let missing = || TchError::TensorNameNotFound(name.to_owned(), "the tokenizer".to_owned());
    parameters.get(name).ok_or_else(missing)
}
