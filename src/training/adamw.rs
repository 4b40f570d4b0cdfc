//! AdamW (Loshchilov and Hutter 2019), the arithmetic of `torch.optim.AdamW` over tensors of its own state.

use super::{ParameterGroup, TrainingError};
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

/// What does not change while training. The defaults are the released models'.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decays of the means of gradients and of their squares.
    pub betas: (f64, f64),
    pub epsilon: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { betas: (0.9, 0.95), epsilon: 1e-8 }
    }
}

/// One parameter and what is remembered of its gradients.
#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    weight_decay: f64,
    moments: Option<Moments>,
}

/// Running means of a parameter's gradients, of its dtype and on its device.
#[derive(Debug)]
struct Moments {
    /// Steps in which the parameter had a gradient.
    steps: i32,
    mean: Tensor,
    square: Tensor,
}

/// The optimizer. It shares the parameters' storage with the network and changes them in place.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
}

impl AdamW {
    /// An optimizer of the groups' parameters, which `parameters` finds by name.
    ///
    /// # Errors
    /// A name without a parameter.
    pub fn new<'a>(
        config: AdamWConfig,
        groups: &[ParameterGroup],
        parameters: impl Fn(&str) -> Option<&'a Tensor>,
    ) -> Result<AdamW, TrainingError> {
        let names = groups.iter().flat_map(|group| group.names.iter().map(|name| (name, group.weight_decay)));
        let slot = |(name, weight_decay): (&String, f64)| {
            let parameter = parameters(name).ok_or_else(|| TrainingError::NoParameter(name.clone()))?.shallow_clone();
            Ok(Slot { name: name.clone(), parameter, weight_decay, moments: None })
        };
        Ok(AdamW { config, slots: names.map(slot).collect::<Result<_, TrainingError>>()? })
    }

    /// One step with this learning rate, from the gradients that the parameters have. One without a gradient is left alone:
    /// it is not decayed either.
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn step(&mut self, learning_rate: f64) -> Result<(), TchError> {
        tch::no_grad(|| self.slots.iter_mut().try_for_each(|slot| slot.step(&self.config, learning_rate)))
    }

    /// What a checkpoint holds, for every parameter that has been stepped: `<name>.mean` and `<name>.square` of its shape, and
    /// `<name>.steps` (int32). They share the optimizer's storage.
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>, TchError> {
        let mut state = BTreeMap::new();
        for slot in &self.slots {
            let Some(moments) = &slot.moments else { continue };
            let steps = Tensor::f_full([], i64::from(moments.steps), (Kind::Int, Device::Cpu))?;
            let named = [("mean", moments.mean.shallow_clone()), ("square", moments.square.shallow_clone())];
            state.extend(named.into_iter().map(|(part, tensor)| (format!("{}.{part}", slot.name), tensor)));
            state.insert(format!("{}.steps", slot.name), steps);
        }
        Ok(state)
    }

    /// Continues from a [state](AdamW::state); parameters it does not know have not been stepped yet.
    ///
    /// # Errors
    /// A parameter of which only a part is there, or in another shape.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), TrainingError> {
        for slot in &mut self.slots {
            let entry = |part: &str| state.get(&format!("{}.{part}", slot.name));
            slot.moments = match (entry("mean"), entry("square"), entry("steps")) {
                (None, None, None) => None,
                (Some(mean), Some(square), Some(steps)) => Some(Moments {
                    steps: i32::try_from(steps.f_int64_value(&[])?).unwrap_or(i32::MAX),
                    mean: slot.remembered(mean)?,
                    square: slot.remembered(square)?,
                }),
                _ => return Err(TrainingError::HalfAState(slot.name.clone())),
            };
        }
        Ok(())
    }

    /// Sets the parameters' gradients to 0.
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn zero_gradients(&self) -> Result<(), TchError> {
        tch::no_grad(|| {
            for slot in &self.slots {
                let mut gradient = slot.parameter.f_grad()?;
                if gradient.defined() {
                    let _ = gradient.f_zero_()?;
                }
            }
            Ok(())
        })
    }
}

impl Slot {
    /// A copy of a moment, in the parameter's dtype and on its device.
    fn remembered(&self, moment: &Tensor) -> Result<Tensor, TrainingError> {
        let (expected, found) = (self.parameter.size(), moment.size());
        if expected != found {
            return Err(TrainingError::MomentShape { parameter: self.name.clone(), found, expected });
        }
        let mut copy = self.parameter.f_zeros_like()?;
        tch::no_grad(|| copy.f_copy_(moment))?;
        Ok(copy)
    }

    fn step(&mut self, config: &AdamWConfig, learning_rate: f64) -> Result<(), TchError> {
        let gradient = self.parameter.f_grad()?;
        if !gradient.defined() {
            return Ok(());
        }
        let moments = match &mut self.moments {
            Some(moments) => moments,
            none => none.insert(Moments {
                steps: 0,
                mean: self.parameter.f_zeros_like()?,
                square: self.parameter.f_zeros_like()?,
            }),
        };
        let (first, second) = config.betas;
        moments.steps = moments.steps.saturating_add(1);
        let _ = self.parameter.f_mul_scalar_(1.0 - learning_rate * self.weight_decay)?;
        let _ = moments.mean.f_lerp_(&gradient, 1.0 - first)?;
        let square = gradient.f_mul_scalar(1.0 - second)?.f_mul(&gradient)?;
        let _ = moments.square.f_mul_scalar_(second)?.f_add_(&square)?;

        let step_size = learning_rate / (1.0 - first.powi(moments.steps));
        let correction = (1.0 - second.powi(moments.steps)).sqrt();
        let scale = moments.square.f_sqrt()?.f_div_scalar(correction)?.f_add_scalar(config.epsilon)?;
        let _ = self.parameter.f_add_(&moments.mean.f_mul_scalar(-step_size)?.f_div(&scale)?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn optimizer(parameters: &[(&str, &Tensor)], weight_decay: f64) -> Result<AdamW, TrainingError> {
        let names = parameters.iter().map(|(name, _)| (*name).to_owned()).collect();
        let find = |name: &str| parameters.iter().find(|(known, _)| *known == name).map(|(_, tensor)| *tensor);
        AdamW::new(AdamWConfig::default(), &[ParameterGroup { weight_decay, names }], find)
    }

    /// The textbook recurrence in float64, for a gradient that is a function of the parameter.
    fn by_hand(mut p: f64, decay: f64, rates: &[f64], gradient: impl Fn(f64) -> f64) -> f64 {
        let (mut mean, mut square) = (0.0, 0.0);
        for (step, rate) in (1..).zip(rates) {
            let g = gradient(p);
            p -= rate * decay * p;
            mean = 0.9 * mean + 0.1 * g;
            square = 0.95 * square + 0.05 * g * g;
            let (mean, square) = (mean / (1.0 - 0.9f64.powi(step)), square / (1.0 - 0.95f64.powi(step)));
            p -= rate * mean / (square.sqrt() + 1e-8);
        }
        p
    }

    #[test]
    fn follows_the_recurrence() -> Outcome {
        let parameter = Tensor::from_slice(&[0.7f64, -1.3]).set_requires_grad(true);
        let mut adamw = optimizer(&[("p", &parameter)], 0.3)?;
        let rates = [0.1, 0.02, 0.05, 0.3];
        for rate in rates {
            adamw.zero_gradients()?;
            (&parameter * &parameter * &parameter).sum(Kind::Double).backward();
            adamw.step(rate)?;
        }
        for (index, start) in [(0, 0.7), (1, -1.3)] {
            let expected = by_hand(start, 0.3, &rates, |p| 3.0 * p * p);
            assert!((parameter.double_value(&[index]) - expected).abs() < 1e-12);
        }
        Ok(())
    }

    #[test]
    fn without_a_gradient_nothing_moves() -> Outcome {
        let used = Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
        let unused = Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
        let mut adamw = optimizer(&[("used", &used), ("unused", &unused)], 0.5)?;
        used.sum(Kind::Float).backward();
        adamw.step(0.1)?;
        assert_eq!(unused.double_value(&[0]), 1.0);
        assert!((used.double_value(&[0]) - 0.85).abs() < 1e-6);
        assert!(used.requires_grad());
        Ok(())
    }

    #[test]
    fn a_state_continues_where_it_was_taken() -> Outcome {
        let start = || Tensor::from_slice(&[0.7f64, -1.3]).set_requires_grad(true);
        let (one, unused) = (start(), start());
        let steps = |adamw: &mut AdamW, parameter: &Tensor, rates: &[f64]| -> Outcome {
            for rate in rates {
                adamw.zero_gradients()?;
                (parameter * parameter * parameter).sum(Kind::Double).backward();
                adamw.step(*rate)?;
            }
            Ok(())
        };
        let mut straight = optimizer(&[("p", &one), ("unused", &unused)], 0.3)?;
        steps(&mut straight, &one, &[0.1, 0.02])?;
        let state: BTreeMap<_, _> =
            straight.state()?.into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect();
        assert_eq!(state.keys().collect::<Vec<_>>(), ["p.mean", "p.square", "p.steps"]);
        let two = one.detach().copy().set_requires_grad(true);
        let mut resumed = optimizer(&[("p", &two), ("unused", &unused)], 0.3)?;
        resumed.restore(&state)?;
        steps(&mut straight, &one, &[0.05, 0.3])?;
        steps(&mut resumed, &two, &[0.05, 0.3])?;
        assert_eq!(one, two);

        let half = BTreeMap::from([("p.mean".to_owned(), one.copy())]);
        assert!(resumed.restore(&half).expect_err("refused").to_string().contains("only a part of p"));
        Ok(())
    }

    #[test]
    fn a_missing_parameter_is_named() {
        let groups = [ParameterGroup { weight_decay: 0.0, names: vec!["head.weight".to_owned()] }];
        let result = AdamW::new(AdamWConfig::default(), &groups, |_| None);
        assert!(result.expect_err("refused").to_string().contains("no parameter head.weight"));
    }
}
