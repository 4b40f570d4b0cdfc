//! A trainer's state as a checkpoint holds it, and the weights it has come to.

use super::trainer::named;
use super::{Trainer, TrainerError};
use crate::training::Ema;
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

/// Where the parts of the state lie in a checkpoint.
const NETWORK: &str = "network.";
const CRITIC: &str = "discriminator.";
const ADAM: &str = "adam.";
const CRITIC_ADAM: &str = "discriminator_adam.";
const EMA: &str = "ema.";
const CODEBOOK: &str = "codebook.";

impl Trainer {
    /// Everything that training changes, by name; the tensors share the trainer's storage.
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainerError> {
        let mut state = BTreeMap::new();
        let mut add = |prefix: &str, tensors: BTreeMap<String, Tensor>| {
            state.extend(tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
        };
        for (prefix, tensors) in self.places() {
            add(prefix, tensors);
        }
        add(ADAM, self.generator.state()?);
        if let Some(critic) = &self.critic {
            add(CRITIC_ADAM, critic.state()?);
        }
        if let Some(ema) = &self.ema {
            add(EMA, ema.state()?);
        }
        Ok(state)
    }

    /// Goes on from the state after `step` steps.
    ///
    /// # Errors
    /// A state that lacks something, or is of another network.
    pub fn restore(&mut self, step: u64, state: &BTreeMap<String, Tensor>) -> Result<(), TrainerError> {
        for (prefix, tensors) in self.places() {
            for (name, tensor) in tensors {
                let name = format!("{prefix}{name}");
                let found = state.get(&name).ok_or_else(|| TrainerError::Missing(name.clone()))?;
                let (expected, size) = (tensor.size(), found.size());
                if expected != size {
                    return Err(TrainerError::Shape { name, found: size, expected });
                }
                tch::no_grad(|| tensor.shallow_clone().f_copy_(found))?;
            }
        }
        self.generator.restore(&below(state, ADAM))?;
        if let Some(critic) = &mut self.critic {
            critic.restore(&below(state, CRITIC_ADAM))?;
        }
        if self.ema.is_some() {
            self.ema = Some(Ema::resume(named(&self.parameters), &below(state, EMA))?);
        }
        self.step = step;
        Ok(())
    }

    /// The weights to use, float32 on the CPU: the averages where there are any.
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>, TchError> {
        let weight = |(name, parameter): (&String, &Tensor)| {
            let average = self.ema.as_ref().and_then(|ema| ema.average(name));
            let tensor = average.unwrap_or(parameter).f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
            Ok((name.clone(), tensor.f_contiguous()?.f_detach_copy()?))
        };
        self.parameters.iter().map(weight).collect()
    }

    /// The tensors of a checkpoint that are copied as they are.
    fn places(&self) -> [(&'static str, BTreeMap<String, Tensor>); 3] {
        let shared = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.shallow_clone());
        let critic = self.losses.discriminator.as_ref();
        let critic = critic.map(|critic| critic.tensors().iter().map(shared).collect()).unwrap_or_default();
        [(NETWORK, self.parameters.iter().map(shared).collect()), (CRITIC, critic), (CODEBOOK, self.codebook.state())]
    }
}

/// The entries below a prefix, without it.
fn below(state: &BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    let named =
        |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.shallow_clone()));
    state.iter().filter_map(named).collect()
}
