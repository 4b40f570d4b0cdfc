//! One checkpoint of a chain: its network, which tensors become it, and what all others are.

use super::first_stage::{FIRST_STAGE, FirstStage, LOSS, is_float, names, refuse_foreign, shape_of};
use super::network::{Shapes, Untold, infer};
use super::released::ModelConfig;
use super::write::{Planned, in_file_order};
use super::{ChosenWeights, ImportError, ImportOptions};
use crate::torch::checkpoint::{Checkpoint, CheckpointFormat};
use crate::torch::weights::{Differences, TensorSpec};
use crate::transformer::NetworkConfig;
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What stands before the names of the network's tensors.
pub(super) const RAW: &str = "transformer.";
/// What stands before the names of their averages, which have no dots.
pub(super) const EMA: &str = "transformer_ema.";
/// What the averages have beside them.
const EMA_STATE: [&str; 2] = ["decay", "num_updates"];
/// What the model has beside its network: the first code, and the schedule.
const BUFFERS: [&str; 3] = ["sos_token", "alphats", "alphacum"];
/// Heads of every released network.
const HEADS: i64 = 16;
/// Longest schedule that is read.
const MAX_SCALES: usize = 1 << 16;

/// A checkpoint of a chain, checked by itself.
#[derive(Debug)]
pub(super) struct Scale {
    pub path: PathBuf,
    pub format: CheckpointFormat,
    pub config: Option<ModelConfig>,
    pub network: NetworkConfig,
    /// Cumulative alphas 0..=T, where the checkpoint has them.
    pub cumulative: Option<Vec<f32>>,
    /// The one scale that `log_scalors` were trained for, where they tell.
    pub trained_scale: Option<u32>,
    /// How many steps the averages were made of.
    pub updates: Option<i64>,
    pub tensors: Vec<Planned>,
    pub first_stage: Option<FirstStage>,
    /// SHA-256 of the first stage's tensors.
    pub digests: BTreeMap<String, String>,
    pub rest: Rest,
}

/// What is in a checkpoint and not in the model directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// The other weights of the network: raw when the averages were taken, averages when not.
    pub other_weights: usize,
    /// Masks, schedule and the like, which follow from the model's description.
    pub buffers: usize,
    /// Losses that only training needs, by their names in the checkpoint.
    pub dropped: Vec<String>,
    /// Tensors nobody knows, by their names in the checkpoint.
    pub unused: Vec<String>,
    /// What lies beside the state dict: `optimizer_states`, `epoch` and the like.
    pub beside: Vec<String>,
}

impl Scale {
    /// Opens a checkpoint and checks all that it tells of itself, and against its config.
    ///
    /// # Errors
    /// A damaged checkpoint, a network that is not the config's, values that are not the released ones', with their tensors.
    pub fn new(path: &Path, config: Option<ModelConfig>, options: &ImportOptions) -> Result<Scale, ImportError> {
        let mut checkpoint = Checkpoint::open(path)?;
        if !holds_network(&checkpoint) {
            return Err(ImportError::NoNetwork(path.to_owned()));
        }
        let cumulative = cumulative(&mut checkpoint)?;
        check_start(&mut checkpoint)?;
        let unmasked = unmasked(&mut checkpoint)?;
        let network = network(&checkpoint, config.as_ref(), cumulative.as_deref(), unmasked, options)?;
        let tensors = tensors(&checkpoint, &network, config.as_ref(), options.weights)?;
        let trained_scale = trained_scale(&mut checkpoint, &tensors)?;
        let updates = integer(&mut checkpoint, &format!("{EMA}num_updates"))?;
        let resolution = config.as_ref().and_then(|config| Some(config.first_stage.as_ref()?.resolution));
        let first_stage = match options.tokenizer {
            Some(_) => None,
            None => FirstStage::find(&checkpoint, options.resolution.or(resolution))?,
        };
        let digests = first_stage.as_ref().map(|stage| stage.digests(&mut checkpoint)).transpose()?;
        let rest = rest(&checkpoint, &network, &tensors, first_stage.as_ref());
        Ok(Scale {
            path: path.to_owned(),
            format: checkpoint.format(),
            config,
            network,
            cumulative,
            trained_scale,
            updates: updates.filter(|_| options.weights == ChosenWeights::Ema),
            tensors,
            first_stage,
            digests: digests.unwrap_or_default(),
            rest,
        })
    }

    /// Number of numbers of the network.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(Planned::elements).sum()
    }

    /// Where the network's shape was read.
    pub fn described_by(&self) -> PathBuf {
        self.config.as_ref().map_or_else(|| self.path.clone(), |config| config.path.clone())
    }
}

/// Whether a checkpoint holds a network of a chain.
pub(super) fn holds_network(checkpoint: &Checkpoint) -> bool {
    names(checkpoint).any(|name| name.starts_with(RAW) || name.starts_with(EMA))
}

/// The network: as the config says, else as the tensors tell.
fn network(
    checkpoint: &Checkpoint,
    config: Option<&ModelConfig>,
    cumulative: Option<&[f32]>,
    unmasked: Option<i64>,
    options: &ImportOptions,
) -> Result<NetworkConfig, ImportError> {
    let path = checkpoint.path();
    let untold = |detail| ImportError::Untold { path: path.to_owned(), detail };
    if let Some(config) = config {
        if let (NetworkConfig::Gpt(gpt), Some(mask)) = (&config.network, unmasked)
            && gpt.unmasked.max(1) != mask.max(1)
        {
            let what = "the number of leading tokens that see one another (n_unmasked)".to_owned();
            let (first, second) =
                ((config.path.clone(), gpt.unmasked.to_string()), (path.to_owned(), mask.to_string()));
            return Err(ImportError::disagree(what, first, second));
        }
        return Ok(config.network.clone());
    }
    let missing = || untold("alphacum, which tells the number of scales, is missing: give the model's --config".into());
    let scales = cumulative.ok_or_else(missing)?.len() as u32 - 1;
    let raw: Shapes = checkpoint
        .tensors()
        .filter_map(|tensor| Some((tensor.key.strip_prefix(RAW)?.to_owned(), shape_of(tensor.shape))))
        .collect();
    if raw.is_empty() {
        return Err(untold(format!("nothing is under {RAW} but averages: give the model's --config")));
    }
    let heads = options.heads.unwrap_or(HEADS);
    let untold_values = Untold { heads, variant: options.variant, scales, unmasked: unmasked.unwrap_or(0) };
    infer(&raw, untold_values).map_err(|detail| match detail.contains("--config") {
        true => untold(detail),
        false => untold(format!("{detail} (the model's --config tells it)")),
    })
}

/// The network's tensors in the checkpoint.
fn tensors(
    checkpoint: &Checkpoint,
    network: &NetworkConfig,
    config: Option<&ModelConfig>,
    weights: ChosenWeights,
) -> Result<Vec<Planned>, ImportError> {
    let path = checkpoint.path();
    let prefix = weights.prefix();
    if !names(checkpoint).any(|name| name.starts_with(prefix)) {
        return Err(match weights {
            ChosenWeights::Ema => ImportError::NoEma(path.to_owned()),
            ChosenWeights::Raw => ImportError::NoNetwork(path.to_owned()),
        });
    }
    let specs: Vec<TensorSpec> =
        network.tensors().into_iter().map(|spec| TensorSpec { name: weights.key(&spec.name), ..spec }).collect();
    let dtypes: BTreeMap<&str, Dtype> = checkpoint.tensors().map(|tensor| (tensor.key, tensor.dtype)).collect();
    let known = known_beside(network);
    let found = checkpoint.tensors().filter(|tensor| tensor.key.starts_with(prefix) && !known.contains(tensor.key));
    let found = found.map(|tensor| (tensor.key, shape_of(tensor.shape), !is_float(tensor.dtype)));
    let differences = Differences::between(&specs, found);
    refuse_foreign(checkpoint, |key| differences.missing.iter().any(|missing| missing == key))?;
    if !differences.is_empty() {
        let described = match config {
            Some(config) => format!("{} describes", config.path.display()),
            None => "its sizes tell".to_owned(),
        };
        return Err(ImportError::Network { path: path.to_owned(), described, differences: Box::new(differences) });
    }
    let planned = network.tensors().into_iter().filter_map(|spec| {
        let key = weights.key(&spec.name);
        let from = *dtypes.get(key.as_str())?;
        Some(Planned { name: format!("{RAW}{}", spec.name), key, shape: spec.shape, from, to: Dtype::F32 })
    });
    Ok(in_file_order(planned.collect()))
}

/// Full names of what stands beside the network's parameters.
fn known_beside(network: &NetworkConfig) -> BTreeSet<String> {
    let masks = network.buffers().into_iter().map(|(name, _)| format!("{RAW}{name}"));
    let state = EMA_STATE.map(|name| format!("{EMA}{name}"));
    masks.chain(state).chain(BUFFERS.map(str::to_owned)).collect()
}

impl ChosenWeights {
    fn prefix(self) -> &'static str {
        match self {
            ChosenWeights::Ema => EMA,
            ChosenWeights::Raw => RAW,
        }
    }

    /// The name in the checkpoint of the tensor `name` of the network.
    fn key(self, name: &str) -> String {
        match self {
            ChosenWeights::Ema => format!("{EMA}{}", name.replace('.', "")),
            ChosenWeights::Raw => format!("{RAW}{name}"),
        }
    }

    fn other(self) -> ChosenWeights {
        match self {
            ChosenWeights::Ema => ChosenWeights::Raw,
            ChosenWeights::Raw => ChosenWeights::Ema,
        }
    }
}

/// Every name of the checkpoint that is not written, by what it is.
fn rest(checkpoint: &Checkpoint, network: &NetworkConfig, tensors: &[Planned], stage: Option<&FirstStage>) -> Rest {
    let taken: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.key.as_str()).collect();
    let of_stage: BTreeSet<&str> = stage.iter().flat_map(|stage| &stage.tensors).map(|t| t.key.as_str()).collect();
    let weights = match taken.iter().any(|key| key.starts_with(EMA)) {
        true => ChosenWeights::Ema,
        false => ChosenWeights::Raw,
    };
    let other: BTreeSet<String> = network.tensors().iter().map(|spec| weights.other().key(&spec.name)).collect();
    let known = known_beside(network);
    let mut rest = Rest { beside: checkpoint.beside().to_vec(), ..Rest::default() };
    for name in names(checkpoint).chain(checkpoint.data()) {
        if taken.contains(name) || of_stage.contains(name) {
            continue;
        } else if other.contains(name) {
            rest.other_weights += 1;
        } else if known.contains(name) {
            rest.buffers += 1;
        } else if name.strip_prefix(FIRST_STAGE).is_some_and(|name| name.starts_with(LOSS)) || name.starts_with(LOSS) {
            rest.dropped.push(name.to_owned());
        } else {
            rest.unused.push(name.to_owned());
        }
    }
    rest
}

fn value_error(checkpoint: &Checkpoint, tensor: &str, detail: impl Into<String>) -> ImportError {
    ImportError::Value { path: checkpoint.path().to_owned(), tensor: tensor.to_owned(), detail: detail.into() }
}

/// The numbers of a small tensor, in order; none when it is not there.
fn numbers(checkpoint: &mut Checkpoint, key: &str, most: usize) -> Result<Option<Vec<f64>>, ImportError> {
    let Some(tensor) = checkpoint.tensors().find(|tensor| tensor.key == key) else { return Ok(None) };
    let shape = shape_of(tensor.shape);
    let count: u64 = tensor.shape.iter().product();
    if count > most as u64 {
        return Err(value_error(checkpoint, key, format!("its shape {shape:?} is beyond all models")));
    }
    let (to, from) = (if is_float(tensor.dtype) { Dtype::F32 } else { Dtype::I64 }, tensor.dtype);
    let planned = Planned { name: key.to_owned(), key: key.to_owned(), shape, from, to };
    let bytes = planned.read(checkpoint)?;
    Ok(Some(match to {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect(),
        _ => bytes.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes) as f64).collect(),
    }))
}

/// A single whole number.
fn integer(checkpoint: &mut Checkpoint, key: &str) -> Result<Option<i64>, ImportError> {
    Ok(numbers(checkpoint, key, 1)?.and_then(|numbers| numbers.first().map(|&number| number as i64)))
}

/// The cumulative alphas 0..=T.
fn cumulative(checkpoint: &mut Checkpoint) -> Result<Option<Vec<f32>>, ImportError> {
    let Some(alphas) = numbers(checkpoint, "alphacum", MAX_SCALES)? else { return Ok(None) };
    if alphas.len() < 2 {
        return Err(value_error(checkpoint, "alphacum", format!("{} cumulative alphas are no schedule", alphas.len())));
    }
    Ok(Some(alphas.into_iter().map(|alpha| alpha as f32).collect()))
}

/// Decoders start from code 0, and nothing else is supported.
fn check_start(checkpoint: &mut Checkpoint) -> Result<(), ImportError> {
    match numbers(checkpoint, "sos_token", 1)?.as_deref() {
        None | Some([0.0]) => Ok(()),
        Some(other) => {
            let detail = format!("it is {other:?}, and only [0] is supported: decoders start from code 0");
            Err(value_error(checkpoint, "sos_token", detail))
        }
    }
}

/// Leading tokens of a GPT that see one another: how much of the first row its mask lets through. 0 when only the token itself.
fn unmasked(checkpoint: &mut Checkpoint) -> Result<Option<i64>, ImportError> {
    let key = format!("{RAW}blocks.0.attn.mask");
    let Some(tensor) = checkpoint.tensors().find(|tensor| tensor.key == key) else { return Ok(None) };
    let &[1, 1, side, columns] = tensor.shape else {
        let shape = shape_of(tensor.shape);
        return Err(value_error(checkpoint, &key, format!("its shape is {shape:?}, not [1, 1, block, block]")));
    };
    let most = usize::try_from(side.saturating_mul(columns)).unwrap_or(usize::MAX).min(1 << 24);
    let mask = numbers(checkpoint, &key, most)?.unwrap_or_default();
    let seen = mask.iter().take(usize::try_from(columns).unwrap_or(0)).take_while(|&&seen| seen != 0.0).count();
    Ok(Some(if seen > 1 { seen as i64 } else { 0 }))
}

/// The scale whose entry of `log_scalors` alone is not 0. Training for one scale moves that entry alone.
fn trained_scale(checkpoint: &mut Checkpoint, tensors: &[Planned]) -> Result<Option<u32>, ImportError> {
    let Some(planned) = tensors.iter().find(|tensor| tensor.name == format!("{RAW}log_scalors")) else {
        return Ok(None);
    };
    let scalors = numbers(checkpoint, &planned.key, MAX_SCALES)?.unwrap_or_default();
    let mut moved = scalors.iter().zip(1..).filter(|(scalor, _)| **scalor != 0.0).map(|(_, scale)| scale);
    Ok(moved.next().filter(|_| moved.next().is_none()))
}
