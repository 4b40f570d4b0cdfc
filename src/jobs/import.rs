//! `imagebart import`: released PyTorch checkpoints to safetensors.
//!
//! The checkpoints of a chain (one network each, with the averages of its weights, the schedule and the first stage) become a
//! model directory: `tokenizer.safetensors`, `scale-1.safetensors` and so on, and `chain.toml`. A taming-transformers VQGAN
//! alone becomes `tokenizer.safetensors`. Tensors keep their released names and become float32. Everything is checked before
//! the first byte is written, one checkpoint is open and one tensor in memory at a time, and files appear under their names
//! when all of them are whole.

mod chain;
mod chain_report;
mod chain_tokenizer;
mod error;
mod first_stage;
mod network;
mod order;
mod released;
mod report;
mod scale;
mod vqgan;
mod write;
mod yaml;

pub use chain_report::{ChainReport, ScaleReport};
pub use error::{Disagreement, ImportError};
pub use report::ImportReport;
pub use scale::Rest;

use crate::torch::checkpoint::Checkpoint;
use crate::transformer::Variant;
use chain::{ChainPlan, Inputs};
use std::fmt;
use std::path::{Path, PathBuf};

/// The file a tokenizer has in a model directory.
pub use crate::chain::directory::TOKENIZER_FILE;

/// Which of a checkpoint's weights to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChosenWeights {
    /// The exponential moving averages, which the authors sample with.
    #[default]
    Ema,
    /// Those of the last training step.
    Raw,
}

/// What to import, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// PyTorch checkpoints: the networks of one chain from scale 1 up, or VQGANs.
    pub checkpoints: Vec<PathBuf>,
    /// The model directory. Several VQGANs become `<to>/<file stem>/tokenizer.safetensors` each.
    pub to: PathBuf,
    /// The authors' YAML files: one for each checkpoint, or one that lists checkpoints and configs.
    pub configs: Vec<PathBuf>,
    /// Which of a network's weights to take.
    pub weights: ChosenWeights,
    /// The chain's tokenizer, where it is not the checkpoints' first stage: a VQGAN's checkpoint, or a file of ours.
    pub tokenizer: Option<PathBuf>,
    /// Take the VQGAN alone, also of a checkpoint that holds a network.
    pub tokenizer_only: bool,
    /// What encoder-decoders do with `log_scalors`, where no config tells.
    pub variant: Option<Variant>,
    /// Heads of a GPT, where no config tells; 16 by default.
    pub heads: Option<i64>,
    /// Number of classes, 0 for none, where no config tells.
    pub classes: Option<u32>,
    /// Side of the images the VQGAN was trained on, in pixels, where no config tells; 256 by default.
    pub resolution: Option<i64>,
    /// Replace files that are there.
    pub overwrite: bool,
}

impl ImportOptions {
    /// Checkpoints to a model directory, everything else by default.
    pub fn new(checkpoints: Vec<PathBuf>, to: impl Into<PathBuf>) -> ImportOptions {
        ImportOptions {
            checkpoints,
            to: to.into(),
            configs: Vec::new(),
            weights: ChosenWeights::default(),
            tokenizer: None,
            tokenizer_only: false,
            variant: None,
            heads: None,
            classes: None,
            resolution: None,
            overwrite: false,
        }
    }
}

/// What was imported. Displays as lines for the user.
#[derive(Clone, Debug, PartialEq)]
pub enum Imported {
    /// A report for each VQGAN.
    Tokenizers(Vec<ImportReport>),
    Chain(Box<ChainReport>),
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Imported::Tokenizers(reports) => {
                let reports: Vec<String> = reports.iter().map(ImportReport::to_string).collect();
                f.write_str(&reports.join("\n"))
            }
            Imported::Chain(report) => report.fmt(f),
        }
    }
}

/// Imports checkpoints, all or none: all of them are checked before the first is written.
///
/// # Errors
/// A checkpoint that is damaged, would execute something, or does not hold what it should, each with the names of what is
/// missing or of another shape; checkpoints and configs that contradict each other, with both sides; a target that exists.
pub fn import(options: &ImportOptions) -> Result<Imported, ImportError> {
    match plan(options)? {
        Plan::Tokenizers(plans) => {
            let reports = plans.into_iter().map(vqgan::Plan::carry_out).collect::<Result<_, _>>()?;
            Ok(Imported::Tokenizers(reports))
        }
        Plan::Chain(plan) => {
            let written = plan.carry_out()?;
            Ok(Imported::Chain(Box::new(chain_report::report(*plan, options.weights, written))))
        }
    }
}

/// What [`import`] would write, in lines, for `--dry-run`.
///
/// # Errors
/// As [`import`]'s, but for those of writing.
pub fn describe(options: &ImportOptions) -> Result<Vec<String>, ImportError> {
    Ok(match plan(options)? {
        Plan::Tokenizers(plans) => plans.iter().map(vqgan::Plan::describe).collect(),
        Plan::Chain(plan) => chain_report::describe(&plan, options.weights),
    })
}

enum Plan {
    Tokenizers(Vec<vqgan::Plan>),
    Chain(Box<ChainPlan>),
}

fn plan(options: &ImportOptions) -> Result<Plan, ImportError> {
    if options.to.to_string_lossy().contains("://") {
        return Err(ImportError::NotLocal(options.to.clone()));
    }
    let chain = !options.configs.is_empty() || options.tokenizer.is_some();
    if options.tokenizer_only {
        if chain {
            let problem = "goes with neither --config nor --tokenizer".to_owned();
            return Err(ImportError::Option { option: "--tokenizer-only", problem });
        }
        return vqgan::plans(options).map(Plan::Tokenizers);
    }
    if chain || any_network(&options.checkpoints)? {
        let plan = ChainPlan::new(Inputs::new(options)?, options)?;
        return Ok(Plan::Chain(Box::new(plan)));
    }
    vqgan::plans(options).map(Plan::Tokenizers)
}

/// Whether one of the checkpoints holds a network of a chain.
fn any_network(checkpoints: &[PathBuf]) -> Result<bool, ImportError> {
    for path in checkpoints {
        if scale::holds_network(&Checkpoint::open(path)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A path as the user knows it.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
