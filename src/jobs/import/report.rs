//! What was imported, for the user.

use super::first_stage::{FIRST_STAGE, LOSS, names};
use super::vqgan::Plan;
use super::write::Planned;
use crate::torch::checkpoint::{Checkpoint, CheckpointFormat};
use crate::vqgan::VqganConfig;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What became of one checkpoint. Displays as a few lines for the user.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportReport {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    pub format: CheckpointFormat,
    /// The file that was written, and its bytes.
    pub target: PathBuf,
    pub bytes: u64,
    /// The network shape, as it stands in the file's metadata.
    pub config: VqganConfig,
    /// Number of tensors written, and of their elements.
    pub tensors: usize,
    pub parameters: u64,
    /// How many tensors were converted to float32 or int64, by their dtype in the checkpoint.
    pub converted: BTreeMap<String, usize>,
    /// Whether the VQGAN was found inside a larger model, under `first_stage_model.`.
    pub first_stage: bool,
    /// Tensors that only training needs (`loss.`), by their names in the checkpoint.
    pub dropped: Vec<String>,
    /// Tensors a VQGAN of this shape does not have, by released name.
    pub unused: Vec<String>,
    /// Tensors outside `first_stage_model.`, of the larger model.
    pub outside: Vec<String>,
    /// What lies beside the state dict: `optimizer_states`, `epoch` and the like.
    pub beside: Vec<String>,
}

pub(super) fn report(checkpoint: &Checkpoint, plan: Plan, bytes: u64) -> ImportReport {
    let Plan { checkpoint: path, target, stage } = plan;
    let prefix = stage.prefix;
    let is_loss = |name: &&str| name.strip_prefix(prefix).is_some_and(|name| name.starts_with(LOSS));
    let of = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    ImportReport {
        format: checkpoint.format(),
        target,
        bytes,
        tensors: stage.tensors.len(),
        parameters: stage.tensors.iter().map(Planned::elements).sum(),
        converted: converted(&stage.tensors),
        first_stage: prefix == FIRST_STAGE,
        dropped: of(names(checkpoint).filter(is_loss).collect()),
        outside: of(names(checkpoint).filter(|name| !name.starts_with(prefix)).collect()),
        beside: checkpoint.beside().to_vec(),
        config: stage.config,
        unused: stage.unused,
        checkpoint: path,
    }
}

/// How many tensors are converted, by their dtype in the checkpoint.
pub(super) fn converted(tensors: &[Planned]) -> BTreeMap<String, usize> {
    let mut converted = BTreeMap::new();
    for tensor in tensors.iter().filter(|tensor| tensor.from != tensor.to) {
        *converted.entry(dtype_name(tensor.from)).or_insert(0) += 1;
    }
    converted
}

/// A line for each dtype that was converted.
pub(super) fn conversions(converted: &BTreeMap<String, usize>) -> impl Iterator<Item = String> {
    converted.iter().map(|(dtype, count)| {
        let to = if dtype.contains("float") { "float32" } else { "int64" };
        format!("{count} tensors converted from {dtype} to {to}")
    })
}

pub(super) fn format_name(format: CheckpointFormat) -> &'static str {
    match format {
        CheckpointFormat::Zip => "zip format",
        CheckpointFormat::Legacy => "legacy format",
    }
}

fn dtype_name(dtype: Dtype) -> String {
    match dtype {
        Dtype::F64 => "float64".to_owned(),
        Dtype::F16 => "float16".to_owned(),
        Dtype::BF16 => "bfloat16".to_owned(),
        Dtype::I32 => "int32".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n  "))
    }
}

impl ImportReport {
    fn lines(&self) -> Vec<String> {
        let format = format_name(self.format);
        let (from, to, megabytes) = (self.checkpoint.display(), self.target.display(), self.bytes as f64 / 1e6);
        let place = if self.first_stage { format!(", found under {FIRST_STAGE}") } else { String::new() };
        let mut lines = vec![
            format!("{from} ({format}) -> {to} ({megabytes:.1} MB)"),
            format!("{} tensors, {} parameters{place}", self.tensors, self.parameters),
            vqgan(&self.config),
            format!("the weights do not tell the resolution: {} was taken", self.config.resolution),
        ];
        lines.extend(conversions(&self.converted));
        if !self.unused.is_empty() {
            lines.push(format!("unused ({}): {}", self.unused.len(), self.unused.join(", ")));
        }
        lines.extend(grouped("dropped, needed for training only", &self.dropped));
        lines.extend(grouped("left out, of the larger model", &self.outside));
        if !self.beside.is_empty() {
            lines.push(format!("ignored beside the state dict: {}", self.beside.join(", ")));
        }
        lines
    }
}

/// A VQGAN in a line.
pub(super) fn vqgan(c: &VqganConfig) -> String {
    let kind = if c.gumbel { "GumbelVQ" } else { "VQGAN" };
    let used = c.used.map_or_else(String::new, |used| format!(", of which {used} in use"));
    format!(
        "{kind}: ch {}, ch_mult {:?}, {} res blocks, attention at {:?} of {}, z_channels {}, codebook {} x {}{used}",
        c.ch, c.ch_mult, c.num_res_blocks, c.attn_resolutions, c.resolution, c.z_channels, c.n_embed, c.embed_dim
    )
}

/// Long lists of names, by their first two parts: `loss.discriminator.* (24)`.
pub(super) fn grouped(title: &str, names: &[String]) -> Option<String> {
    let mut groups: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for name in names {
        let mut ends = name.match_indices('.').map(|(at, _)| at).skip(1);
        let group = ends.next().map_or_else(|| name.clone(), |end| format!("{}.*", &name[..end]));
        groups.entry(group).or_insert((0, name)).0 += 1;
    }
    let groups = groups.iter().map(|(group, (count, first))| match count {
        1 => (*first).to_owned(),
        _ => format!("{group} ({count})"),
    });
    let groups: Vec<String> = groups.collect();
    (!names.is_empty()).then(|| format!("{title} ({}): {}", names.len(), groups.join(", ")))
}
