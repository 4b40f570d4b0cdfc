//! The tensors a network has: names, shapes, fresh values, and the comparison with tensors at hand.

use crate::random::{Purpose, RowKey};
use std::collections::BTreeMap;
use std::fmt;
use tch::{Kind, TchError, Tensor};

/// One tensor of a network: its name in the released checkpoints, its shape, how a fresh one is filled.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<i64>,
    pub init: Init,
}

/// How a fresh tensor is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform in `[-bound, bound]`.
    Uniform(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// This number everywhere.
    Constant(f64),
    /// Normal with this mean and standard deviation.
    NormalAbout(f64, f64),
    /// The integers 0, 1, 2 ... as int64 (a scalar is 0); every other initialisation is floating point.
    Range,
}

impl TensorSpec {
    /// A tensor `name` of `shape`, filled by `init`.
    pub fn new(name: impl Into<String>, shape: &[i64], init: Init) -> TensorSpec {
        TensorSpec { name: name.into(), shape: shape.to_vec(), init }
    }

    /// Number of elements.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Whether the tensor holds integers (int64) rather than floating-point numbers.
    pub fn is_integer(&self) -> bool {
        self.init == Init::Range
    }

    /// A fresh tensor on the CPU: float32, or int64 for [`Init::Range`]. A pure function of the seed and the name.
    pub fn fill(&self, seed: u64) -> Result<Tensor, TchError> {
        let count = u32::try_from(self.numel())
            .map_err(|_| TchError::Shape(format!("{} has {} elements, too many to fill", self.name, self.numel())))?;
        let row = RowKey::new(seed, &self.name, 0, 0);
        let options = (Kind::Float, tch::Device::Cpu);
        let values: Vec<f32> = match self.init {
            Init::Constant(value) => return Tensor::f_full(&self.shape, value, options),
            Init::Range => {
                return Tensor::f_arange(self.numel(), (Kind::Int64, tch::Device::Cpu))?.f_view(&self.shape[..]);
            }
            Init::Uniform(bound) => {
                (0..count).map(|i| ((f64::from(row.uniform(Purpose::Init, i)) * 2.0 - 1.0) * bound) as f32).collect()
            }
            Init::NormalAbout(mean, deviation) => {
                (0..count).map(|i| (normal(&row, i) * deviation + mean) as f32).collect()
            }
            Init::Normal(deviation) => (0..count).map(|i| (normal(&row, i) * deviation) as f32).collect(),
        };
        Tensor::f_from_slice(&values)?.f_view(&self.shape[..])
    }
}

/// A standard normal number by the Box-Muller transform: elements 2n and 2n + 1 are the two of one draw.
fn normal(row: &RowKey, position: u32) -> f64 {
    let first = position & !1;
    let radius = (-2.0 * (1.0 - f64::from(row.uniform(Purpose::Init, first))).ln()).sqrt();
    let angle = std::f64::consts::TAU * f64::from(row.uniform(Purpose::Init, first | 1));
    if position == first { radius * angle.cos() } else { radius * angle.sin() }
}

/// How the tensors at hand differ from those a network has. Empty when they fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Names the network has and the file has not.
    pub missing: Vec<String>,
    /// Names the file has and the network has not.
    pub unused: Vec<String>,
    /// Names with another shape or kind of number: `name (is [..], must be [..])`.
    pub mismatched: Vec<String>,
}

impl Differences {
    /// Compares a network's list with the names, shapes and integer flags of the tensors at hand.
    pub fn between<'a>(
        specs: &[TensorSpec],
        found: impl IntoIterator<Item = (&'a str, Vec<i64>, bool)>,
    ) -> Differences {
        let mut wanted: BTreeMap<&str, &TensorSpec> = specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
        let mut differences = Differences::default();
        for (name, shape, integer) in found {
            match wanted.remove(name) {
                None => differences.unused.push(name.to_owned()),
                Some(spec) if spec.shape != shape => {
                    differences.mismatched.push(format!("{name} (is {shape:?}, must be {:?})", spec.shape));
                }
                Some(spec) if spec.is_integer() != integer => {
                    let kind = if spec.is_integer() { "integers" } else { "floating-point numbers" };
                    differences.mismatched.push(format!("{name} (must hold {kind})"));
                }
                Some(_) => {}
            }
        }
        differences.missing = wanted.into_keys().map(str::to_owned).collect();
        differences
    }

    /// Whether the tensors fit the network.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.mismatched.is_empty()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("missing", &self.missing), ("mismatched", &self.mismatched), ("unused", &self.unused)];
        let mut separator = "";
        for (title, names) in parts.iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{separator}{title} ({}): {}", names.len(), names.join(", "))?;
            separator = "; ";
        }
        Ok(())
    }
}
