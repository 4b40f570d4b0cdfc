//! Drawn images: the rows of the `samples` table, and the identity of the runs that draw them.

use super::decode::sample_rows;
use super::run::{Run, TableRow};
use super::{Preprocessing, SamplesWriter, TableError, TableSchema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One row of the `samples` table: a drawn or edited image.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleRow {
    /// The row's number over the whole run: see [`row_key`]; of prompts and edits, `<key of their row>-<number>`.
    pub key: String,
    /// The text it was drawn for.
    pub prompt: Option<String>,
    /// The class it was drawn for.
    pub label: Option<i32>,
    /// Seed of its random draws.
    pub seed: u64,
    /// Codebook indices, `[h * w]` row-major, each below the codebook size.
    pub tokens: Vec<u16>,
    pub image: ImageFile,
    /// How well the image fits its condition.
    pub score: Option<f32>,
    /// Place among the candidates of one prompt, from 0.
    pub rank: Option<u32>,
    /// Whether the run kept it.
    pub accepted: bool,
    /// Edits: key of the source image.
    pub parent: Option<String>,
    /// How it was drawn. Shared: the rows of a run have few different ones.
    pub settings: Arc<RowSettings>,
}

/// An image as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    pub bytes: Bytes,
    /// A name for the file.
    pub path: String,
}

/// How a row was drawn, from scale 1 to T.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowSettings {
    /// What logits were divided by; 0 where the likeliest token was taken.
    pub temperature: Vec<f32>,
    /// How many of the likeliest tokens could be drawn; the codebook size where that was no limit.
    pub top_k: Vec<u32>,
    /// The probability of the smallest set that tokens were drawn from; 1 where that was no limit.
    pub top_p: Vec<f32>,
    /// The scale of classifier-free guidance; 1 where there was none.
    pub guidance: Vec<f32>,
}

/// The key of row `number`: nine digits, more where they are needed.
pub fn row_key(number: u64) -> String {
    format!("{number:09}")
}

/// The identity of a `sample` or `edit` run: same identity, same bytes.
///
/// The list is closed, as that of [`Identity`](super::Identity); its canonical form is the JSON of the fields in the order
/// they stand here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplesIdentity {
    /// [`FORMAT_VERSION`](super::FORMAT_VERSION) of the program that wrote the output.
    pub format_version: u32,
    /// Fingerprint of the tokenizer's weights: SHA-256 hex over names, shapes and bytes.
    pub tokenizer: String,
    /// Fingerprint of the chain: its description and the weights of all scales.
    pub chain: String,
    /// The noise schedule: cumulative alphas from 0 to T.
    pub schedule: Vec<f32>,
    /// Temperature, top-k, top-p and guidance of every scale.
    pub settings: RowSettings,
    /// `default`, or `authors`: their code's behaviour where it differs.
    pub compat: String,
    pub rows: RowSelection,
    /// Which of the rows are kept, where the run chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choose: Option<ChooseSelection>,
    /// Edits only: what is edited, and how.
    pub edit: Option<EditSelection>,
    /// File format of the images: `png`, `webp`, or `jpeg-90` with its quality.
    pub image: String,
    /// Seed of every counter-based random draw.
    pub seed: u64,
    /// Rows the networks see at once.
    pub batch_size: u32,
    /// Images the tokenizer decodes (and encodes, for edits) at once.
    pub tokenizer_batch_size: u32,
    /// Number type of the chain's networks: `fp32`, `bf16`.
    pub dtype: String,
    /// Number type of the tokenizer's network.
    pub tokenizer_dtype: String,
    /// `cpu`, or the CUDA architecture: `cuda-sm_90`.
    pub device: String,
    /// torch's intra-op threads: they order the sums of a reduction.
    pub threads: u32,
}

/// Which rows are drawn, and how they are cut into work units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowSelection {
    /// Rows that the run draws.
    pub count: u64,
    /// Rows of a work unit; batches never span units.
    pub unit_rows: u64,
    /// What the rows are drawn of: `none`, `null`, `all` classes in turn, the list of classes they take in turn, or
    /// `prompts`.
    pub labels: String,
    /// SHA-256 over the rows of prompts in their order, where rows are drawn of prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<String>,
}

/// Which of the images that are drawn are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChooseSelection {
    /// `likelihood`, `shapes`, or the SHA-256 of a module with that of its text tokenizer.
    pub scorer: String,
    /// Candidates of each row; none: as many as it wants.
    pub draw: Option<u64>,
    /// The share of them that is accepted; none: as many as the row wants.
    pub rate: Option<f64>,
    /// The least score that is accepted.
    pub threshold: Option<f32>,
    /// What becomes of the others: `drop` or `keep`.
    pub rejected: String,
}

/// What an edit takes in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditSelection {
    /// SHA-256 over the names and sizes of all images and masks, or over their places in a table.
    pub inputs: String,
    pub preprocessing: Preprocessing,
    /// What white pixels of a mask say: `keep` or `edit`.
    pub white: String,
    /// How often each scale is run, from scale 1 to T.
    pub repeats: Vec<u32>,
    /// How many candidates each pass draws, from scale 1 to T; one each where it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<u32>,
    /// The scale the chain starts from.
    pub start: u32,
    /// What is drawn anew: `inpaint`, `outpaint`, `upper-half` or `lower-half`.
    #[serde(default)]
    pub mode: String,
    /// Pixels by which the canvas is larger than the image: left, top, right, bottom.
    #[serde(default)]
    pub margins: [u32; 4],
    /// Whether known pixels are put back.
    #[serde(default)]
    pub blend: bool,
    /// Pixels over which they fade into what was drawn.
    #[serde(default)]
    pub feather: u16,
}

impl Run for SamplesIdentity {
    type Row = SampleRow;
    type Writer = SamplesWriter;

    const TABLE: &'static str = "samples";
    const REJECTS: &'static str = "samples-rejects";
    const MANIFEST: &'static str = "samples-manifest.json";
    const FACTS: &'static str = "run-samples";
    // Images come with the rows.
    const BATCH_ROWS: usize = 64;

    fn schema() -> Result<TableSchema, TableError> {
        TableSchema::samples()
    }

    fn rows(batch: &RecordBatch) -> Option<Vec<SampleRow>> {
        sample_rows(batch)
    }

    fn tokenizer(&self) -> &str {
        &self.tokenizer
    }

    /// A unit is named for its rows: `rows@000000000-000001000` has a thousand, unless some were drawn in vain.
    fn rows_of_unit(&self, unit: &str) -> Option<u64> {
        if self.choose.as_ref().is_some_and(|choose| choose.rejected == "drop") {
            return None;
        }
        let (start, end) = unit.rsplit_once('@')?.1.split_once('-')?;
        end.parse::<u64>().ok()?.checked_sub(start.parse().ok()?)
    }
}

impl TableRow for SampleRow {
    fn key(&self) -> &str {
        &self.key
    }

    /// Every row is a sample of its own.
    fn index(&self, position: u64) -> u64 {
        position
    }

    fn tokens(&self) -> &[u16] {
        &self.tokens
    }

    fn image(&self) -> Option<&[u8]> {
        Some(&self.image.bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::FORMAT_VERSION;
    use super::*;

    pub(crate) fn example() -> SamplesIdentity {
        SamplesIdentity {
            format_version: FORMAT_VERSION,
            tokenizer: "a".repeat(64),
            chain: "b".repeat(64),
            schedule: vec![1.0, 0.63605, 0.0],
            settings: RowSettings {
                temperature: vec![1.0, 0.9],
                top_k: vec![548, 100],
                top_p: vec![1.0; 2],
                guidance: vec![1.0; 2],
            },
            compat: "default".to_owned(),
            rows: RowSelection { count: 10, unit_rows: 4, labels: "none".to_owned(), prompts: None },
            choose: None,
            edit: None,
            image: "png".to_owned(),
            seed: 23,
            batch_size: 8,
            tokenizer_batch_size: 4,
            dtype: "fp32".to_owned(),
            tokenizer_dtype: "fp32".to_owned(),
            device: "cpu".to_owned(),
            threads: 2,
        }
    }

    /// The canonical form is a contract: outputs on users' disks are resumed by it.
    #[test]
    fn the_canonical_form_never_changes() {
        let identity = example();
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let expected = format!(
            "{{\"format_version\":1,\"tokenizer\":\"{a}\",\"chain\":\"{b}\",\"schedule\":[1.0,0.63605,0.0],\"settings\":{{\
             \"temperature\":[1.0,0.9],\"top_k\":[548,100],\"top_p\":[1.0,1.0],\"guidance\":[1.0,1.0]}},\
             \"compat\":\"default\",\"rows\":{{\"count\":10,\"unit_rows\":4,\"labels\":\"none\"}},\"edit\":null,\
             \"image\":\"png\",\"seed\":23,\"batch_size\":8,\"tokenizer_batch_size\":4,\"dtype\":\"fp32\",\
             \"tokenizer_dtype\":\"fp32\",\"device\":\"cpu\",\"threads\":2}}"
        );
        assert_eq!(identity.canonical(), expected);
        assert_eq!(serde_json::from_str::<SamplesIdentity>(&expected).unwrap(), identity);

        let mut prompted = identity;
        prompted.rows = RowSelection { labels: "prompts".to_owned(), prompts: Some("c".repeat(64)), ..prompted.rows };
        let rows = format!("\"labels\":\"prompts\",\"prompts\":\"{}\"}}", "c".repeat(64));
        let expected = expected.replace("\"labels\":\"none\"}", &rows);
        assert_eq!(prompted.canonical(), expected);
        assert_eq!(serde_json::from_str::<SamplesIdentity>(&expected).unwrap(), prompted);
    }

    #[test]
    fn choosing_is_part_of_the_identity_where_there_is_any() {
        let choose = ChooseSelection {
            scorer: "likelihood".to_owned(),
            draw: Some(8),
            rate: None,
            threshold: Some(0.5),
            rejected: "drop".to_owned(),
        };
        let chosen = SamplesIdentity { choose: Some(choose), ..example() };
        let expected = "\"choose\":{\"scorer\":\"likelihood\",\"draw\":8,\"rate\":null,\"threshold\":0.5,\
                        \"rejected\":\"drop\"},\"edit\":null";
        assert!(chosen.canonical().contains(expected), "{}", chosen.canonical());
        assert_eq!(serde_json::from_str::<SamplesIdentity>(&chosen.canonical()).unwrap(), chosen);
        assert_eq!(chosen.rows_of_unit("rows@000000000-000001000"), None);
    }

    #[test]
    fn differences_show_numbers_as_they_were_given() {
        let ours = example();
        let mut recorded = ours.clone();
        recorded.settings.temperature[1] = 0.95;
        let shown: Vec<String> = ours.difference(&recorded).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["settings.temperature: [1.0,0.9] here, [1.0,0.95] recorded"]);
    }

    #[test]
    fn a_unit_tells_its_rows() {
        let identity = example();
        assert_eq!(identity.rows_of_unit("rows@000000000-000001000"), Some(1000));
        assert_eq!(identity.rows_of_unit("rows@1999999999-2000000001"), Some(2));
        for odd in ["rows", "rows@1", "rows@2-1", "rows@a-b"] {
            assert_eq!(identity.rows_of_unit(odd), None, "{odd}");
        }
        assert_eq!((row_key(123), row_key(1_234_567_890)), ("000000123".to_owned(), "1234567890".to_owned()));
    }
}
