//! The record of a checkpoint: a small JSON file beside its tensors.

use crate::tables::Difference;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Endings of a checkpoint's two files.
pub const TENSORS: &str = "safetensors";
pub const RECORD: &str = "json";

/// What is written into a record of this form.
const FORMAT: u32 = 1;

/// What a checkpoint's tensors belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    identity: BTreeMap<String, String>,
    pub facts: Map<String, Value>,
    /// Of the file of tensors.
    pub size: u64,
    pub sha256: String,
    /// The validation's loss at this step.
    pub loss: Option<f64>,
}

impl Record {
    pub fn new(
        identity: BTreeMap<String, String>,
        facts: Map<String, Value>,
        (size, sha256): (u64, String),
        loss: Option<f64>,
    ) -> Record {
        Record { format: FORMAT, identity, facts, size, sha256, loss }
    }

    /// Reads a record, or says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Record, String> {
        let record: Record = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match record.format {
            FORMAT => Ok(record),
            other => Err(format!("its format is {other}, this program reads {FORMAT}")),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        serde_json::json!(self).to_string().into_bytes()
    }

    /// Every field in which a run with `ours` differs from the checkpoint's.
    pub fn difference(&self, ours: &BTreeMap<String, String>) -> Vec<Difference> {
        let fields: BTreeSet<&String> = ours.keys().chain(self.identity.keys()).collect();
        let differing = fields.into_iter().filter(|field| ours.get(*field) != self.identity.get(*field));
        let difference = |field: &String| Difference {
            field: field.clone(),
            ours: ours.get(field).cloned(),
            recorded: self.identity.get(field).cloned(),
        };
        differing.map(difference).collect()
    }
}

/// The name of one of the two files of the checkpoint at `step`: sorted by name they are sorted by step.
pub fn name(step: u64, ending: &str) -> String {
    format!("step-{step:010}.{ending}")
}

/// The step of a file with this ending.
pub fn step_of(file: &str, ending: &str) -> Option<u64> {
    let digits = file.strip_prefix("step-")?.strip_suffix(ending)?.strip_suffix('.')?;
    let step = digits.parse().ok()?;
    (name(step, ending) == file).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_steps() {
        assert_eq!(name(12, TENSORS), "step-0000000012.safetensors");
        for step in [0, 12, 12_345_678_901] {
            assert_eq!(step_of(&name(step, RECORD), RECORD), Some(step));
        }
        for other in
            ["step-12.json", "step-0000000012.safetensors", "report.html", "step-+000000012.json", "step-.json"]
        {
            assert_eq!(step_of(other, RECORD), None, "{other}");
        }
    }

    #[test]
    fn differences_show_both_sides() {
        let fields = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let record = Record::new(fields(&[("dim", "8"), ("seed", "1")]), Map::new(), (3, "ab".to_owned()), Some(0.5));
        assert_eq!(Record::parse(&record.bytes()), Ok(record.clone()));
        assert!(record.difference(&fields(&[("dim", "8"), ("seed", "1")])).is_empty());
        let shown: Vec<String> =
            record.difference(&fields(&[("dim", "16"), ("alpha", "0")])).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["alpha: 0 here, nothing recorded", "dim: 16 here, 8 recorded", "seed: nothing here, 1 recorded"]
        );
    }
}
