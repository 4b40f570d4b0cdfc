//! One fixture: its tensors, and the record of what was compared.

use imagebart::torch::weights::{Weights, WeightsFile};
use imagebart::vqgan::VqganConfig;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tch::{Kind, Tensor};

pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Largest error of logits and images.
pub const VALUES: f64 = 1e-4;
/// Largest error of gradients.
pub const GRADIENTS: f64 = 1e-5;

pub struct Fixture {
    file: WeightsFile,
    pub config: Value,
    compared: BTreeSet<String>,
    largest: (f64, String),
    exact: BTreeSet<String>,
    excused: BTreeSet<String>,
    failures: Vec<String>,
}

impl Fixture {
    pub fn open(path: &Path) -> Result<Fixture, Box<dyn std::error::Error>> {
        let file = WeightsFile::open(path)?;
        let config = file.metadata().get("config").map_or("null", String::as_str);
        let config = serde_json::from_str(config)?;
        let largest = (0.0, String::new());
        let (compared, exact, excused) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Ok(Fixture { file, config, compared, largest, exact, excused, failures: Vec::new() })
    }

    /// A tensor, as it is in the file.
    pub fn read(&mut self, name: &str) -> Result<Tensor, Box<dyn std::error::Error>> {
        Ok(self.file.read(name)?)
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Records that a check has compared every output by itself, with this largest error.
    pub fn measured(&mut self, error: f64, tolerance: f64) {
        if error.is_nan() || error > tolerance {
            self.failures.push(format!("its outputs differ by {error:.2e}, allowed {tolerance:.0e}"));
        }
        self.compared.extend(self.file.names().filter(|name| name.starts_with("out.")).map(str::to_owned));
        self.largest.0 = error;
    }

    /// The cases that the config lists.
    pub fn cases(&self) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
        Ok(self.config.get("cases").and_then(Value::as_array).ok_or("the config has no cases")?.clone())
    }

    pub fn has(&self, name: &str) -> bool {
        self.file.shape(name).is_some()
    }

    /// Names of tensors that begin with `prefix`, without it.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.file.names().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    /// The tensors under `prefix` as weights.
    pub fn weights(&mut self, prefix: &str) -> Result<Weights, Box<dyn std::error::Error>> {
        let mut tensors = BTreeMap::new();
        for name in self.names(prefix) {
            tensors.insert(name.clone(), self.file.read(&format!("{prefix}{name}"))?);
        }
        Ok(Weights::from_tensors(&self.file.path().display().to_string(), tensors)?)
    }

    /// The network shape, from a config like `{"model": {"target": .., "params": ..}}`.
    pub fn vqgan(&self, key: &str) -> Result<VqganConfig, Box<dyn std::error::Error>> {
        let model = self.config.get(key).ok_or_else(|| format!("the config has no {key}"))?;
        let target = model.get("target").and_then(Value::as_str).unwrap_or_default();
        let mut config = VqganConfig::from_released(target, model.get("params").unwrap_or(&Value::Null))?;
        config.used = self.file.shape("w.quantize.used").and_then(|shape| shape.first().copied());
        Ok(config)
    }

    /// Compares an output within a tolerance.
    pub fn close(&mut self, name: &str, ours: &Tensor, tolerance: f64) -> Outcome {
        let expected = self.expected(name)?.to_kind(Kind::Double);
        if expected.size() != ours.size() {
            self.failures.push(format!("{name} has shape {:?}, ours {:?}", expected.size(), ours.size()));
            return Ok(());
        }
        let error = (ours.detach().to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
        if error.is_nan() || error > tolerance {
            self.failures.push(format!("{name} differs by {error:.2e}, allowed {tolerance:.0e}"));
        }
        if error > self.largest.0 {
            self.largest = (error, name.to_owned());
        }
        Ok(())
    }

    /// Leaves out an output that cannot be compared, for a reason that the caller states.
    pub fn excuse(&mut self, name: &str) {
        self.excused.insert(name.to_owned());
    }

    /// Compares an output of integers, which must be equal.
    pub fn equal(&mut self, name: &str, ours: &Tensor) -> Outcome {
        let expected = self.expected(name)?;
        let same = expected.size() == ours.size()
            && expected.eq_tensor(&ours.to_kind(expected.kind())).all().int64_value(&[]) == 1;
        if !same {
            self.failures.push(format!("{name} is not equal"));
        }
        self.exact.insert(name.to_owned());
        Ok(())
    }

    fn expected(&mut self, name: &str) -> Result<Tensor, Box<dyn std::error::Error>> {
        self.compared.insert(name.to_owned());
        self.read(name)
    }

    /// The line of the table, or what disagreed. An output that nothing was compared with is a failure.
    pub fn finish(mut self) -> Result<String, String> {
        let left: Vec<String> = self.file.names().filter(|name| name.starts_with("out.")).map(str::to_owned).collect();
        for name in left.iter().filter(|name| !self.compared.contains(*name) && !self.excused.contains(*name)) {
            self.failures.push(format!("{name} was not compared"));
        }
        if self.compared.is_empty() {
            self.failures.push("it has no outputs".to_owned());
        }
        if !self.failures.is_empty() {
            return Err(self.failures.join("; "));
        }
        let (error, name) = &self.largest;
        let at = if name.is_empty() { String::new() } else { format!(" ({name})") };
        let count = self.compared.len();
        let excused = match self.excused.len() {
            0 => String::new(),
            count => format!(", {count} left out"),
        };
        Ok(format!("largest error {error:.1e}{at}, {count} outputs, {} of them exact{excused}", self.exact.len()))
    }
}
