//! What may change the bytes of an output: a closed list, hashed into the run's identity.

use super::decode::latent_rows;
use super::run::Run;
use super::{LatentRow, LatentsWriter, TableError, TableSchema};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Version of the tables' layout and meaning. Raised when files of two versions must not be mixed.
pub const FORMAT_VERSION: u32 = 1;

/// The identity of an `encode` run: same identity, same bytes, whatever the workers, ranks, stores or interruptions.
///
/// The list is closed. The URL and store of the output, rank and world, credentials, timings, host and crate version are
/// never part of it. Its canonical form is the JSON of the fields in the order they stand here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// [`FORMAT_VERSION`] of the program that wrote the output.
    pub format_version: u32,
    /// Fingerprint of the tokenizer's weights: SHA-256 hex over names, shapes and bytes.
    pub tokenizer: String,
    pub preprocessing: Preprocessing,
    pub dataset: Selection,
    /// Seed of every counter-based random draw.
    pub seed: u64,
    /// Images the tokenizer sees at once: convolutions differ by float noise between batch sizes.
    pub batch_size: u32,
    /// Number type of the tokenizer's network: `fp32`, `bf16`.
    pub dtype: String,
    /// `cpu`, or the CUDA architecture: `cuda-sm_90`.
    pub device: String,
    /// torch's intra-op threads: they order the sums of a reduction.
    pub threads: u32,
}

/// From image file to crop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Side of a crop, in pixels.
    pub size: u32,
    /// Resize filter: `pillow-bicubic`.
    pub resize: String,
    /// `center` or `random`.
    pub crop: String,
    /// Crops per image.
    pub crops: u32,
    /// `none` or `both`.
    pub flip: String,
    /// Images with more pixels are rejected.
    pub max_pixels: u64,
    /// Images of more encoded bytes are rejected.
    pub max_bytes: u64,
    /// Images with a shorter side are rejected.
    pub min_side: u32,
    /// `white-border`, where padding is cut off; left out where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trim: Option<String>,
}

/// Which samples of the dataset are read, and how they are cut into work units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// The dataset's format: `webdataset`, `folder`.
    pub format: String,
    /// The format's settings that choose or name samples, such as the digest of a list file, where classes come from, or
    /// the rows of a unit; in key order.
    pub settings: BTreeMap<String, String>,
}

impl Run for Identity {
    type Row = LatentRow;
    type Writer = LatentsWriter;

    const TABLE: &'static str = "latents";
    const REJECTS: &'static str = "rejects";
    const MANIFEST: &'static str = "manifest.json";
    const FACTS: &'static str = "run";
    const BATCH_ROWS: usize = 1024;

    fn schema() -> Result<TableSchema, TableError> {
        TableSchema::latents()
    }

    fn rows(batch: &RecordBatch) -> Option<Vec<LatentRow>> {
        latent_rows(batch)
    }

    fn tokenizer(&self) -> &str {
        &self.tokenizer
    }

    /// None: how many rows a shard becomes is known only once it is read.
    fn rows_of_unit(&self, _unit: &str) -> Option<u64> {
        None
    }
}

/// One field of which two sides disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Dotted name: `preprocessing.size`.
    pub field: String,
    /// What this run has; none when it lacks the field.
    pub ours: Option<String>,
    /// What the directory or file records; none when it lacks the field.
    pub recorded: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "{}: {} here, {} recorded", self.field, show(&self.ours), show(&self.recorded))
    }
}

/// Every field in which two canonical identities differ.
pub(crate) fn difference(ours: &str, recorded: &str) -> Vec<Difference> {
    let flat = |canonical: &str| {
        let mut fields = BTreeMap::new();
        flatten("", &serde_json::from_str(canonical).unwrap_or_default(), &mut fields);
        fields
    };
    differences(&flat(ours), &flat(recorded))
}

/// Compares two flat records, field by field.
pub(crate) fn differences(ours: &BTreeMap<String, String>, recorded: &BTreeMap<String, String>) -> Vec<Difference> {
    let fields: BTreeSet<&String> = ours.keys().chain(recorded.keys()).collect();
    fields
        .into_iter()
        .filter(|field| ours.get(*field) != recorded.get(*field))
        .map(|field| Difference {
            field: field.clone(),
            ours: ours.get(field).cloned(),
            recorded: recorded.get(field).cloned(),
        })
        .collect()
}

/// The leaves of a JSON value under dotted names.
fn flatten(name: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, out);
            }
        }
        leaf => {
            out.insert(name.to_owned(), leaf.to_string());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Identity {
        Identity {
            format_version: FORMAT_VERSION,
            tokenizer: "a".repeat(64),
            preprocessing: Preprocessing {
                size: 256,
                resize: "pillow-bicubic".to_owned(),
                crop: "center".to_owned(),
                crops: 1,
                flip: "none".to_owned(),
                max_pixels: 1 << 28,
                max_bytes: 1 << 28,
                min_side: 8,
                trim: None,
            },
            dataset: Selection { format: "folder".to_owned(), settings: BTreeMap::new() },
            seed: 23,
            batch_size: 8,
            dtype: "fp32".to_owned(),
            device: "cpu".to_owned(),
            threads: 2,
        }
    }

    /// The canonical form is a contract: outputs on users' disks are resumed by it.
    #[test]
    fn the_canonical_form_never_changes() {
        let identity = example();
        let weights = "a".repeat(64);
        let expected = format!(
            "{{\"format_version\":1,\"tokenizer\":\"{weights}\",\"preprocessing\":{{\"size\":256,\
             \"resize\":\"pillow-bicubic\",\"crop\":\"center\",\"crops\":1,\"flip\":\"none\",\"max_pixels\":268435456,\
             \"max_bytes\":268435456,\"min_side\":8}},\"dataset\":{{\"format\":\"folder\",\"settings\":{{}}}},\"seed\":23,\
             \"batch_size\":8,\"dtype\":\"fp32\",\"device\":\"cpu\",\"threads\":2}}"
        );
        assert_eq!(identity.canonical(), expected);
        assert_eq!(identity.sha256().len(), 64);
        assert_eq!(serde_json::from_str::<Identity>(&identity.canonical()).unwrap(), identity);
    }

    #[test]
    fn trimming_is_part_of_the_identity_where_there_is_any() {
        let mut trimmed = example();
        trimmed.preprocessing.trim = Some("white-border".to_owned());
        assert!(trimmed.canonical().contains("\"min_side\":8,\"trim\":\"white-border\"}"), "{}", trimmed.canonical());
        assert_ne!(trimmed.sha256(), example().sha256());
        let shown: Vec<String> = trimmed.difference(&example()).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["preprocessing.trim: \"white-border\" here, nothing recorded"]);
    }

    #[test]
    fn both_sides_of_every_difference_are_shown() {
        let ours = example();
        let mut recorded = ours.clone();
        assert!(ours.difference(&recorded).is_empty());
        recorded.batch_size = 16;
        recorded.preprocessing.resize = "cv2-linear".to_owned();
        recorded.dataset.settings.insert("list".to_owned(), "train.txt".to_owned());
        let shown: Vec<String> = ours.difference(&recorded).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "batch_size: 8 here, 16 recorded",
                "dataset.settings.list: nothing here, \"train.txt\" recorded",
                "preprocessing.resize: \"pillow-bicubic\" here, \"cv2-linear\" recorded",
            ]
        );
        assert_ne!(ours.sha256(), recorded.sha256());
    }
}
