//! Exponential moving averages of the parameters, under the names that the authors' checkpoints give them (code: `LitEma`).

use super::TrainingError;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// The name of a parameter's moving average: the parameter's own, its dots removed.
pub fn shadow_name(parameter: &str) -> String {
    parameter.replace('.', "")
}

/// One parameter's moving average.
#[derive(Debug)]
struct Shadow {
    parameter: String,
    entry: String,
    average: Tensor,
}

/// Moving averages of a network's parameters.
///
/// Update n moves each by `1 - min(decay, (1 + n) / (10 + n))` of the way to its parameter, n counted from 1. Rates are float32.
#[derive(Debug)]
pub struct Ema {
    shadows: Vec<Shadow>,
    decay: f32,
    /// Updates so far; negative for averages whose rate does not start slower.
    updates: i32,
}

impl Ema {
    /// Averages that begin as copies of the parameters, which are named below `transformer.`.
    ///
    /// # Errors
    /// A decay outside 0..=1; two names that are one without dots; what libtorch reports.
    pub fn new<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
        decay: f64,
    ) -> Result<Ema, TrainingError> {
        if !(0.0..=1.0).contains(&decay) {
            return Err(TrainingError::Decay(decay));
        }
        let mut taken: BTreeMap<String, &str> = BTreeMap::new();
        let mut shadows = Vec::new();
        for (parameter, tensor) in parameters {
            let entry = shadow_name(parameter);
            if let Some(first) = taken.insert(entry.clone(), parameter) {
                let (first, second) = (first.to_owned(), parameter.to_owned());
                return Err(TrainingError::Collision { first, second, entry });
            }
            let mut average = tensor.f_detach()?.f_zeros_like()?;
            tch::no_grad(|| average.f_copy_(tensor))?;
            shadows.push(Shadow { parameter: parameter.to_owned(), entry, average });
        }
        Ok(Ema { shadows, decay: decay as f32, updates: 0 })
    }

    /// Continues from a checkpoint: averages under dot-less names, `decay` and `num_updates` beside them.
    ///
    /// # Errors
    /// A parameter whose average is missing or has another shape; two names that are one without dots.
    pub fn resume<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<Ema, TrainingError> {
        let entry = |name: &str, parameter: &str| {
            let missing = || TrainingError::NoShadow { entry: name.to_owned(), parameter: parameter.to_owned() };
            state.get(name).ok_or_else(missing)
        };
        let mut ema = Ema::new(parameters, entry("decay", "transformer_ema")?.f_double_value(&[])?)?;
        let updates = entry("num_updates", "transformer_ema")?.f_int64_value(&[])?;
        ema.updates = updates.clamp(-1, i64::from(i32::MAX)) as i32;
        for shadow in &mut ema.shadows {
            let found = entry(&shadow.entry, &shadow.parameter)?;
            let (expected, size) = (shadow.average.size(), found.size());
            if expected != size {
                let (entry, parameter) = (shadow.entry.clone(), shadow.parameter.clone());
                return Err(TrainingError::ShadowShape { entry, parameter, found: size, expected });
            }
            tch::no_grad(|| shadow.average.f_copy_(found))?;
        }
        Ok(ema)
    }

    /// Moves every average towards its parameter: `parameters` finds a parameter by its name.
    ///
    /// # Errors
    /// A parameter that is not there; what libtorch reports.
    pub fn update<'a>(&mut self, parameters: impl Fn(&str) -> Option<&'a Tensor>) -> Result<(), TrainingError> {
        let mut decay = self.decay;
        if self.updates >= 0 {
            self.updates = self.updates.saturating_add(1);
            let n = self.updates as f32;
            decay = decay.min((1.0 + n) / (10.0 + n));
        }
        let rate = f64::from(1.0 - decay);
        for shadow in &mut self.shadows {
            let tensor = parameters(&shadow.parameter);
            let tensor = tensor.ok_or_else(|| TrainingError::NoParameter(shadow.parameter.clone()))?;
            let _ = tch::no_grad(|| {
                let step = shadow.average.f_sub(tensor)?.f_mul_scalar(rate)?;
                shadow.average.f_sub_(&step)
            })?;
        }
        Ok(())
    }

    /// The average of a parameter.
    pub fn average(&self, parameter: &str) -> Option<&Tensor> {
        self.shadows.iter().find(|shadow| shadow.parameter == parameter).map(|shadow| &shadow.average)
    }

    /// Updates so far.
    pub fn updates(&self) -> i32 {
        self.updates
    }

    /// What a checkpoint holds: every average under its dot-less name, `decay` (float32) and `num_updates` (int32).
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>, TrainingError> {
        let named = |shadow: &Shadow| (shadow.entry.clone(), shadow.average.shallow_clone());
        let mut state: BTreeMap<String, Tensor> = self.shadows.iter().map(named).collect();
        let decay = Tensor::f_full([], f64::from(self.decay), (Kind::Float, Device::Cpu))?;
        let updates = Tensor::f_full([], i64::from(self.updates), (Kind::Int, Device::Cpu))?;
        state.extend([("decay".to_owned(), decay), ("num_updates".to_owned(), updates)]);
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn early_updates_move_faster() -> Outcome {
        let mut parameter = Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
        let mut ema = Ema::new([("a.b", &parameter)], 0.9999)?;
        let _ = tch::no_grad(|| parameter.fill_(2.0));
        ema.update(|name| (name == "a.b").then_some(&parameter))?;
        let average = ema.average("a.b").ok_or("an average")?;
        assert!((average.double_value(&[0]) - (2.0 - 2.0 / 11.0)).abs() < 1e-6);
        assert!(!average.requires_grad());
        assert_eq!(ema.updates(), 1);

        let state = ema.state()?;
        assert_eq!(state.keys().collect::<Vec<_>>(), ["ab", "decay", "num_updates"]);
        let resumed = Ema::resume([("a.b", &parameter)], &state)?;
        assert_eq!((resumed.updates(), resumed.average("a.b")), (1, ema.average("a.b")));
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_named() -> Outcome {
        let (one, two) = (Tensor::from_slice(&[1.0f32]), Tensor::from_slice(&[1.0f32, 2.0]));
        let message = |result: Result<Ema, TrainingError>| result.expect_err("refused").to_string();
        assert!(message(Ema::new([("a", &one)], 1.5)).contains("between 0 and 1, not 1.5"));
        assert_eq!(
            message(Ema::new([("a.bc", &one), ("ab.c", &one)], 0.9)),
            "parameters a.bc and ab.c would share the moving average abc: rename one of them"
        );
        let state = Ema::new([("a.b", &one)], 0.9)?.state()?;
        assert!(message(Ema::resume([("a.b", &two)], &state)).contains("ab has shape [1], its parameter a.b has [2]"));
        assert!(message(Ema::resume([("c.d", &one)], &state)).contains("no entry cd, which parameter c.d needs"));
        let mut ema = Ema::new([("a.b", &one)], 0.9)?;
        assert!(ema.update(|_| None).expect_err("refused").to_string().contains("no parameter a.b"));
        Ok(())
    }
}
