//! What was imported of a chain, for the user.

use super::chain::ChainPlan;
use super::report::{conversions, converted, format_name, grouped, vqgan};
use super::scale::{Rest, Scale};
use super::{ChosenWeights, shown};
use crate::chain::{ChainConfig, Condition};
use crate::config::ScheduleValue;
use crate::torch::checkpoint::CheckpointFormat;
use crate::transformer::{NetworkConfig, Variant};
use crate::vqgan::VqganConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What became of the checkpoints of a chain. Displays as lines for the user.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainReport {
    /// The model directory.
    pub to: PathBuf,
    pub config: ChainConfig,
    pub tokenizer: VqganConfig,
    /// Where the tokenizer came from.
    pub tokenizer_from: PathBuf,
    /// A report for each checkpoint, from scale 1 up.
    pub scales: Vec<ScaleReport>,
    /// The files that were written, and their bytes: the tokenizer, then the networks.
    pub files: Vec<(PathBuf, u64)>,
    /// What the user should know: what was assumed, what was read around.
    pub notes: Vec<String>,
}

/// What became of one checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleReport {
    pub checkpoint: PathBuf,
    pub format: CheckpointFormat,
    /// The scales its network serves.
    pub scales: Vec<u32>,
    /// Number of tensors written, and of their elements.
    pub tensors: usize,
    pub parameters: u64,
    /// How many tensors were converted to float32, by their dtype in the checkpoint.
    pub converted: BTreeMap<String, usize>,
    /// Training steps behind the averages, where averages were taken and the checkpoint tells.
    pub updates: Option<i64>,
    /// What was not taken.
    pub rest: Rest,
    line: String,
}

impl ScaleReport {
    fn new(scale: &Scale, served: &[u32], weights: ChosenWeights) -> ScaleReport {
        ScaleReport {
            checkpoint: scale.path.clone(),
            format: scale.format,
            scales: served.to_vec(),
            tensors: scale.tensors.len(),
            parameters: scale.parameters(),
            converted: converted(&scale.tensors),
            updates: scale.updates,
            rest: scale.rest.clone(),
            line: network(&scale.network, weights),
        }
    }

    fn lines(&self) -> Vec<String> {
        let scales: Vec<String> = self.scales.iter().map(u32::to_string).collect();
        let of = if scales.len() == 1 { "scale" } else { "scales" };
        let updates = self.updates.map_or_else(String::new, |steps| format!(" over {steps} steps"));
        let mut lines = vec![format!(
            "{of} {} from {} ({}): {}{updates}, {} tensors, {} parameters",
            scales.join(", "),
            self.checkpoint.display(),
            format_name(self.format),
            self.line,
            self.tensors,
            self.parameters
        )];
        lines.extend(conversions(&self.converted));
        let rest = &self.rest;
        lines.push(format!(
            "left out: {} other weights of the network, {} buffers that follow from the description",
            rest.other_weights, rest.buffers
        ));
        lines.extend(grouped("left out, needed for training only", &rest.dropped));
        lines.extend(grouped("unused", &rest.unused));
        if !rest.beside.is_empty() {
            lines.push(format!("ignored beside the state dict: {}", rest.beside.join(", ")));
        }
        lines
    }
}

pub(super) fn report(plan: ChainPlan, weights: ChosenWeights, files: Vec<(PathBuf, u64)>) -> ChainReport {
    let scales = plan.scales.iter().map(|(scale, served)| ScaleReport::new(scale, served, weights));
    ChainReport {
        scales: scales.collect(),
        tokenizer_from: plan.tokenizer.path().to_owned(),
        to: plan.to,
        config: plan.config,
        tokenizer: plan.tokenizer_config,
        files,
        notes: plan.notes,
    }
}

impl fmt::Display for ChainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: u64 = self.files.iter().map(|(_, bytes)| bytes).sum();
        writeln!(f, "{}: {} ({:.1} MB)", self.to.display(), chain(&self.config), bytes as f64 / 1e6)?;
        write!(f, "  tokenizer from {}: {}", self.tokenizer_from.display(), vqgan(&self.tokenizer))?;
        for scale in &self.scales {
            write!(f, "\n  {}", scale.lines().join("\n    "))?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n  note: {note}"))
    }
}

/// The lines of `--dry-run`.
pub(super) fn describe(plan: &ChainPlan, weights: ChosenWeights) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", plan.to.display(), chain(&plan.config))];
    let tokenizer: i64 = plan.tokenizer_config.tensors().iter().map(|tensor| tensor.numel()).sum();
    let target = shown(&plan.to.join(super::TOKENIZER_FILE));
    lines.push(format!("  {} to {target}: {tokenizer} parameters", plan.tokenizer.path().display()));
    let mut all = 0;
    for (scale, served) in &plan.scales {
        let (from, to, parameters) = (scale.path.display(), shown(&plan.scale_file(served)), scale.parameters());
        let line = network(&scale.network, weights);
        lines.push(format!("  {from} to {to}: {line}, {} tensors, {parameters} parameters", scale.tensors.len()));
        all += parameters;
    }
    lines.push(format!("  {all} parameters in the networks, {:.1} GB of float32", all as f64 * 4e-9));
    lines.extend(plan.notes.iter().map(|note| format!("  note: {note}")));
    lines
}

fn chain(config: &ChainConfig) -> String {
    let schedule = match &config.schedule {
        ScheduleValue::Name(name) => name.clone(),
        ScheduleValue::Number(beta) => format!("constant {beta}"),
    };
    let condition = match config.condition {
        Condition::None => "unconditional".to_owned(),
        Condition::Class { classes, .. } => format!("{classes} classes"),
        Condition::Text(_) => "text".to_owned(),
    };
    let (rows, columns) = config.grid;
    let (scales, codes) = (config.scales(), config.codebook_size);
    format!("a chain of {scales} scales, schedule {schedule}, {rows} x {columns} tokens of {codes} codes, {condition}")
}

fn network(network: &NetworkConfig, weights: ChosenWeights) -> String {
    let shape = match network {
        NetworkConfig::EncoderDecoder(network) => {
            let variant = match network.variant {
                Variant::Plain => "encoder-decoder",
                Variant::Scaled => "scaled encoder-decoder",
                Variant::Residual => "residual encoder-decoder",
                Variant::ResidualScaled => "residual scaled encoder-decoder",
            };
            let (dim, encoder, decoder) = (network.dim, network.encoder_depth, network.decoder_depth);
            format!("{variant} of dim {dim}, {encoder} + {decoder} layers, {} heads", network.decoder_heads)
        }
        NetworkConfig::Gpt(network) => {
            format!("GPT of dim {}, {} layers, {} heads", network.dim, network.depth, network.heads)
        }
    };
    let weights = match weights {
        ChosenWeights::Ema => "averaged weights",
        ChosenWeights::Raw => "weights of the last step",
    };
    format!("{shape}, {weights}")
}
