//! One network of a chain in training: a step of the optimizer, a look at held-out rows, and the state to go on from.

use super::rows::Ids;
use super::{AdamW, AdamWConfig, Batch, Conditioning, Ema, LearningRate, TrainingError, parameter_groups};
use crate::chain::ScaleConfig;
use crate::diffusion::{Loss, Posteriors, Schedule, SoftTarget, forward, loss};
use crate::random::{Purpose, RowKey};
use crate::torch::weights::Weights;
use crate::transformer::{Network, NetworkConfig, Placement, Source};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// How a network is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerSettings {
    pub seed: u64,
    pub rate: LearningRate,
    /// Of the parameters that the [groups](parameter_groups) decay.
    pub weight_decay: f64,
    /// Gradients of a larger norm are scaled down to it.
    pub clip: Option<f64>,
    /// Decay of the moving averages.
    pub ema: f64,
    /// Share of rows that are shown without their condition.
    pub condition_dropout: f64,
    /// Keeps the layers' inputs alone and computes the rest anew for the gradients.
    pub checkpoint_activations: bool,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stepped {
    /// In nats a token: alpha of the soft loss and the rest of the hard one.
    pub loss: f64,
    /// Cross entropy with the drawn x_{t-1}, and divergence from the posterior, in nats a token.
    pub hard: f64,
    pub soft: f64,
    /// Of all gradients, before they are clipped.
    pub gradient_norm: f64,
    pub learning_rate: f64,
    /// Loss or gradients were not finite: nothing has changed but the count of steps.
    pub skipped: bool,
}

/// Losses on rows that are not trained on, by the moving averages, in nats a token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    pub loss: f64,
    pub hard: f64,
    pub soft: f64,
    /// Rows they are means of.
    pub rows: u64,
}

/// A network in training, on one device.
#[derive(Debug)]
pub struct Trainer {
    scale: ScaleConfig,
    schedule: Schedule,
    codes: i64,
    posteriors: Posteriors,
    conditioning: Conditioning,
    settings: TrainerSettings,
    placement: Placement,
    /// float32 leaves that record gradients.
    parameters: BTreeMap<String, Tensor>,
    network: Network,
    adamw: AdamW,
    ema: Ema,
    /// Over the moving averages.
    averaged: Network,
    step: u64,
}

impl Trainer {
    /// A trainer of one network, which starts from `weights`. Those are copied to the placement's device in float32, whatever
    /// the placement computes in.
    ///
    /// # Errors
    /// Weights that do not fit the network; a decay outside 0..=1; what libtorch reports.
    pub fn new(
        scale: &ScaleConfig,
        schedule: &Schedule,
        codes: i64,
        weights: Weights,
        conditioning: Conditioning,
        settings: TrainerSettings,
        placement: Placement,
    ) -> Result<Trainer, TrainingError> {
        let masters = Placement { kind: Kind::Float, ..placement };
        weights.check(&scale.network.tensors())?;
        let mut parameters = BTreeMap::new();
        for (name, tensor) in weights.into_tensors() {
            let mut leaf = masters.place(&tensor)?.f_detach()?.f_zeros_like()?;
            tch::no_grad(|| leaf.f_copy_(&tensor))?;
            let leaf = leaf.f_set_requires_grad(true)?;
            parameters.insert(name, leaf);
        }
        let network = Network::new(&scale.network, &parameters, schedule.alphas(), placement)?;
        let mut groups = parameter_groups(&scale.network);
        for group in groups.iter_mut().filter(|group| group.weight_decay > 0.0) {
            group.weight_decay = settings.weight_decay;
        }
        let adamw = AdamW::new(AdamWConfig::default(), &groups, |name| parameters.get(name))?;
        let ema = Ema::new(named(&parameters), settings.ema)?;
        let averaged = averaged(&scale.network, &parameters, &ema, schedule, placement)?;
        Ok(Trainer {
            scale: scale.clone(),
            schedule: schedule.clone(),
            codes,
            posteriors: Posteriors::new(schedule, codes, placement.device)?,
            conditioning,
            settings,
            placement,
            parameters,
            network,
            adamw,
            ema,
            averaged,
            step: 0,
        })
    }

    /// Optimizer steps so far.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Codes K.
    pub fn codes(&self) -> i64 {
        self.codes
    }

    /// Scales that the network serves.
    pub fn scales(&self) -> &[u32] {
        &self.scale.scales
    }

    /// One step of the optimizer, with the mean gradient of `batches`. A step whose loss or gradient is not finite changes
    /// nothing but the count of steps.
    ///
    /// The host waits for the device once, for the loss and the norm of the gradients.
    ///
    /// # Errors
    /// Rows that the condition does not fit; what libtorch reports.
    pub fn step(&mut self, batches: &[Batch]) -> Result<Stepped, TrainingError> {
        let learning_rate = self.settings.rate.at(self.step);
        self.adamw.zero_gradients()?;
        let mut sums: Option<Tensor> = None;
        for (number, batch) in batches.iter().enumerate() {
            let scale = self.scale_of(number, batches.len());
            let loss = self.backward(batch, scale, 1.0 / batches.len() as f64)?;
            let parts = Tensor::f_stack(&[loss.total.f_detach()?, loss.hard, loss.soft], 0)?;
            sums = Some(match sums {
                Some(sums) => sums.f_add(&parts)?,
                None => parts,
            });
        }
        self.step += 1;
        let norm = self.gradient_norm()?;
        let sums = sums.ok_or_else(|| tch::TchError::Shape("a step needs a batch".to_owned()))?;
        let read = Tensor::f_cat(&[sums.f_div_scalar(batches.len() as f64)?, norm.f_view([1])?], 0)?;
        let read = Vec::<f64>::try_from(read.f_to_kind(Kind::Double)?)?;
        let &[loss, hard, soft, gradient_norm] = read.as_slice() else {
            return Err(tch::TchError::Shape("a step has four numbers".to_owned()).into());
        };
        let skipped = !(loss.is_finite() && gradient_norm.is_finite());
        if !skipped {
            if let Some(clip) = self.settings.clip.filter(|clip| gradient_norm > *clip) {
                self.scale_gradients(clip / (gradient_norm + 1e-6))?;
            }
            self.adamw.step(learning_rate)?;
            self.ema.update(|name| self.parameters.get(name))?;
        }
        Ok(Stepped { loss, hard, soft, gradient_norm, learning_rate, skipped })
    }

    /// The losses of the moving averages on rows that are not trained on, at `scale`. Their noise depends on the rows' keys
    /// alone, so that it is the same every time.
    ///
    /// # Errors
    /// As [`step`](Trainer::step); a scale that the network does not serve.
    pub fn measure(&self, batch: &Batch, scale: u32) -> Result<Measured, TrainingError> {
        let _guard = tch::no_grad_guard();
        let rows = Prepared::new(self, batch, scale, 0.0)?;
        let logits = self.averaged.logits(&rows.source(), &rows.before)?;
        let loss = rows.loss(self, &logits)?;
        let read = |tensor: &Tensor| tensor.f_double_value(&[]);
        let (total, hard, soft) = (read(&loss.total)?, read(&loss.hard)?, read(&loss.soft)?);
        Ok(Measured { loss: total, hard, soft, rows: batch.len() as u64 })
    }

    /// Everything that training changes, for a checkpoint: `weights.*`, `ema.*`, `optimizer.*`. Shares storage.
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainingError> {
        let mut state = BTreeMap::new();
        let mut add = |part: &str, tensors: BTreeMap<String, Tensor>| {
            state.extend(tensors.into_iter().map(|(name, tensor)| (format!("{part}.{name}"), tensor)));
        };
        add("weights", self.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.detach())).collect());
        add("ema", self.ema.state()?);
        add("optimizer", self.adamw.state()?);
        Ok(state)
    }

    /// Goes on from a [state](Trainer::state) taken after `step` steps.
    ///
    /// # Errors
    /// Parts that are missing or do not fit.
    pub fn restore(&mut self, step: u64, state: &BTreeMap<String, Tensor>) -> Result<(), TrainingError> {
        let below = |part: &str| -> BTreeMap<String, Tensor> {
            let named = state.iter().filter_map(|(name, tensor)| {
                let rest = name.strip_prefix(part)?.strip_prefix('.')?;
                Some((rest.to_owned(), tensor.shallow_clone()))
            });
            named.collect()
        };
        let weights = Weights::from_tensors("the checkpoint", below("weights"))?;
        weights.check(&self.scale.network.tensors())?;
        tch::no_grad(|| -> Result<(), TrainingError> {
            for (name, parameter) in &mut self.parameters {
                parameter.f_copy_(weights.get(name)?)?;
            }
            Ok(())
        })?;
        self.adamw.restore(&below("optimizer"))?;
        self.ema = Ema::resume(named(&self.parameters), &below("ema"))?;
        self.averaged = averaged(&self.scale.network, &self.parameters, &self.ema, &self.schedule, self.placement)?;
        self.step = step;
        Ok(())
    }

    /// The moving averages under the parameters' names: what is exported.
    pub fn averages(&self) -> BTreeMap<String, Tensor> {
        averages(&self.parameters, &self.ema)
    }

    /// The network over the moving averages.
    pub fn averaged(&self) -> &Network {
        &self.averaged
    }

    /// The scale of batch `number` of the next step. In joint training it is drawn once a batch, uniformly, as the authors do.
    fn scale_of(&self, number: usize, batches: usize) -> u32 {
        let index = self.step * batches as u64 + number as u64;
        let key = RowKey::new(self.settings.seed, "scale of a batch", index, 0);
        let drawn = key.below(Purpose::Scale, 0, self.scale.scales.len() as u32);
        self.scale.scales.get(drawn as usize).copied().unwrap_or(1)
    }

    /// Adds `share` of a batch's gradient to the parameters'.
    fn backward(&self, batch: &Batch, scale: u32, share: f64) -> Result<Loss, TrainingError> {
        let rows = Prepared::new(self, batch, scale, self.settings.condition_dropout)?;
        if self.settings.checkpoint_activations {
            let mut parts = None;
            self.network.backward(&rows.source(), &rows.before, |logits| {
                let loss = rows.loss(self, logits)?;
                let total = loss.total.f_mul_scalar(share)?;
                parts = Some(loss);
                Ok(total)
            })?;
            return parts.ok_or_else(|| tch::TchError::Shape("a step has a loss".to_owned()).into());
        }
        let logits = self.network.logits(&rows.source(), &rows.before)?;
        let loss = rows.loss(self, &logits)?;
        loss.total.f_mul_scalar(share)?.f_backward()?;
        Ok(loss)
    }

    fn gradients(&self) -> Result<Vec<Tensor>, tch::TchError> {
        let all = self.parameters.values().map(Tensor::f_grad).collect::<Result<Vec<_>, _>>()?;
        Ok(all.into_iter().filter(Tensor::defined).collect())
    }

    fn gradient_norm(&self) -> Result<Tensor, tch::TchError> {
        let norms = self.gradients()?.iter().map(Tensor::f_norm).collect::<Result<Vec<_>, _>>()?;
        Tensor::f_stack(&norms, 0)?.f_norm()
    }

    fn scale_gradients(&self, by: f64) -> Result<(), tch::TchError> {
        tch::no_grad(|| self.gradients()?.iter_mut().try_for_each(|gradient| gradient.f_mul_scalar_(by).map(drop)))
    }
}

fn named(parameters: &BTreeMap<String, Tensor>) -> impl Iterator<Item = (&str, &Tensor)> {
    parameters.iter().map(|(name, tensor)| (name.as_str(), tensor))
}

fn averages(parameters: &BTreeMap<String, Tensor>, ema: &Ema) -> BTreeMap<String, Tensor> {
    let average = |name: &String| Some((name.clone(), ema.average(name)?.shallow_clone()));
    parameters.keys().filter_map(average).collect()
}

fn averaged(
    config: &NetworkConfig,
    parameters: &BTreeMap<String, Tensor>,
    ema: &Ema,
    schedule: &Schedule,
    placement: Placement,
) -> Result<Network, TrainingError> {
    Ok(Network::new(config, &averages(parameters, ema), schedule.alphas(), placement)?)
}

/// A batch on the device: its noise drawn, its conditions as ids.
pub(super) struct Prepared {
    /// int64 `[batch]`.
    scale: Tensor,
    ids: Ids,
    /// x_0, x_{t-1} and x_t, int64 `[batch, tokens]`.
    pub clean: Tensor,
    before: Tensor,
    pub x_t: Tensor,
}

impl Prepared {
    pub fn new(trainer: &Trainer, batch: &Batch, scale: u32, dropout: f64) -> Result<Prepared, TrainingError> {
        let device = trainer.placement.device;
        let rows = batch.len() as i64;
        let ids: Vec<i64> = batch.tokens.iter().map(|&id| i64::from(id)).collect();
        let clean = Tensor::f_from_slice(&ids)?.f_view([rows, -1])?.f_to_device(device)?;
        let scale = Tensor::f_full([rows], i64::from(scale), (Kind::Int64, device))?;
        let (before, x_t) = forward(&clean, &trainer.schedule, trainer.codes, &batch.rows)?.pair(&scale)?;
        let ids = trainer.conditioning.ids(batch, dropout, device)?;
        Ok(Prepared { scale, ids, clean, before, x_t })
    }

    pub fn source(&self) -> Source<'_> {
        Source { scale: &self.scale, condition: self.ids.condition(), x_t: Some(&self.x_t) }
    }

    fn loss(&self, trainer: &Trainer, logits: &Tensor) -> Result<Loss, tch::TchError> {
        let posterior = trainer.posteriors.at(&self.scale, &self.clean, &self.x_t)?;
        loss(logits, &self.before, SoftTarget::Posterior(&posterior), trainer.scale.alpha, None)
    }
}
