//! A whole chain: checkpoints of all scales to a model directory.

use super::chain_tokenizer::{self, TokenizerSource};
use super::order::{Placed, in_order};
use super::released::{self, Config, ModelConfig};
use super::scale::Scale;
use super::write::{self, Pending};
use super::{ImportError, ImportOptions, TOKENIZER_FILE};
use crate::chain::directory::{CONFIG_FILE, scale_file_name};
use crate::chain::{ChainConfig, Condition, ModelDirectory, ModelError, ScaleConfig};
use crate::config::ScheduleValue;
use crate::diffusion::Schedule;
use crate::torch::checkpoint::Checkpoint;
use crate::torch::weights::WeightsFile;
use crate::transformer::NetworkConfig;
use crate::vqgan::VqganConfig;
use std::fs;
use std::path::{Path, PathBuf};

/// Schedules are compared to this: float32 rounds at 6e-8.
const SCHEDULE_TOLERANCE: f32 = 1e-5;

/// A chain, checked, and where it goes.
#[derive(Debug)]
pub(super) struct ChainPlan {
    pub to: PathBuf,
    pub config: ChainConfig,
    /// The checkpoints from scale 1 up, and the scales of each.
    pub scales: Vec<Placed>,
    pub tokenizer: TokenizerSource,
    pub tokenizer_config: VqganConfig,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// The checkpoints and their configs, as asked for.
pub(super) struct Inputs {
    pub checkpoints: Vec<PathBuf>,
    pub configs: Vec<ModelConfig>,
    pub notes: Vec<String>,
}

impl Inputs {
    /// Reads the configs. One that lists checkpoints stands for all of them; checkpoints that are named go before its own.
    pub fn new(options: &ImportOptions) -> Result<Inputs, ImportError> {
        let mut inputs = Inputs { checkpoints: options.checkpoints.clone(), configs: Vec::new(), notes: Vec::new() };
        for path in &options.configs {
            match released::read(path)? {
                Config::Model(config) => inputs.configs.push(*config),
                Config::Sampling(sampling) => {
                    inputs.notes.extend(sampling.note.clone());
                    for wanted in &sampling.configs {
                        inputs.configs.push(released::read_model(&released::find(&sampling.path, wanted)?)?);
                    }
                    if options.checkpoints.is_empty() {
                        let found = sampling.checkpoints.iter().map(|wanted| released::find(&sampling.path, wanted));
                        inputs.checkpoints.extend(found.collect::<Result<Vec<PathBuf>, ImportError>>()?);
                    }
                }
            }
        }
        inputs.notes.extend(inputs.configs.iter().filter_map(|config| config.note.clone()));
        let (configs, checkpoints) = (inputs.configs.len(), inputs.checkpoints.len());
        match checkpoints {
            0 => Err(ImportError::Nothing),
            _ if configs > 0 && configs != checkpoints => Err(ImportError::Configs { configs, checkpoints }),
            _ => Ok(inputs),
        }
    }
}

impl ChainPlan {
    /// Checks every checkpoint and what they say together.
    pub fn new(inputs: Inputs, options: &ImportOptions) -> Result<ChainPlan, ImportError> {
        refuse_existing(options)?;
        let Inputs { checkpoints, configs, mut notes } = inputs;
        let mut configs = configs.into_iter().map(Some).collect::<Vec<_>>();
        configs.resize_with(checkpoints.len(), || None);
        let scales = checkpoints.iter().zip(configs).map(|(path, config)| Scale::new(path, config, options));
        let (total, scales) = in_order(scales.collect::<Result<Vec<Scale>, ImportError>>()?)?;
        let config = chain(&scales, total, options, &mut notes)?;
        let (tokenizer, tokenizer_config) = chain_tokenizer::find(&scales, options, &mut notes)?;
        for (scale, _) in &scales {
            let (ids, codes) = (tokenizer_config.ids(), scale.network.codes());
            if ids != codes {
                let (tokenizer, network) = (tokenizer.path().to_owned(), scale.path.clone());
                return Err(ImportError::Codebook { tokenizer, ids, network, codes });
            }
        }
        let side = tokenizer_config.resolution / tokenizer_config.downsampling();
        if i64::from(config.grid.0) != side {
            let (grid, resolution) = (config.grid.0, tokenizer_config.resolution);
            notes.push(format!(
                "the networks have a grid of {grid} x {grid} tokens, the tokenizer's resolution of {resolution} pixels {side} x {side}"
            ));
        }
        let to = options.to.clone();
        Ok(ChainPlan { to, config, scales, tokenizer, tokenizer_config, notes })
    }

    /// The file of each scale's network.
    pub fn scale_file(&self, served: &[u32]) -> PathBuf {
        self.to.join(scale_file_name(served.first().copied().unwrap_or(1)))
    }

    /// Writes everything beside its final name, then gives the names; the description comes last, so that a directory that
    /// has it is whole. The files and their lengths.
    pub fn carry_out(&self) -> Result<Vec<(PathBuf, u64)>, ImportError> {
        let mut pending = vec![self.write_tokenizer()?];
        let fingerprint = WeightsFile::open(pending[0].partial())?.fingerprint()?;
        for (scale, served) in &self.scales {
            let path = self.scale_file(served);
            tracing::info!("{} to {}", scale.path.display(), path.display());
            // One checkpoint is open at a time.
            let mut checkpoint = Checkpoint::open(&scale.path)?;
            pending.push(write::write(&path, &Default::default(), &scale.tensors, &mut checkpoint)?);
        }
        self.remove_old()?;
        let written = pending.into_iter().map(Pending::commit).collect::<Result<Vec<_>, ImportError>>()?;
        ModelDirectory::write_config(&self.to, &self.config, &fingerprint).map_err(model)?;
        ModelDirectory::open(&self.to).map_err(model)?;
        Ok(written)
    }

    fn write_tokenizer(&self) -> Result<Pending, ImportError> {
        let target = self.to.join(TOKENIZER_FILE);
        match &self.tokenizer {
            TokenizerSource::File(path) => write::copy(path, &target),
            TokenizerSource::Stage(path, stage) => {
                let mut checkpoint = Checkpoint::open(path)?;
                write::write(&target, &self.tokenizer_config.to_metadata(), &stage.tensors, &mut checkpoint)
            }
        }
    }

    /// Takes away the description of the model that is replaced, and those of its scales that the new one has not.
    fn remove_old(&self) -> Result<(), ImportError> {
        let own: Vec<PathBuf> = self.scales.iter().map(|(_, served)| self.scale_file(served)).collect();
        let old = scale_files(&self.to).into_iter().filter(|path| !own.contains(path));
        for path in [self.to.join(CONFIG_FILE)].into_iter().chain(old).filter(|path| path.exists()) {
            fs::remove_file(&path).map_err(|source| ImportError::Write { path, source })?;
        }
        Ok(())
    }
}

fn model(error: ModelError) -> ImportError {
    ImportError::Model(error.to_string())
}

/// Files of a directory that are named like those of scales.
fn scale_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_scale = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("scale-").and_then(|rest| rest.strip_suffix(".safetensors"));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_scale).collect();
    files.sort();
    files
}

fn refuse_existing(options: &ImportOptions) -> Result<(), ImportError> {
    if options.overwrite {
        return Ok(());
    }
    let named = [CONFIG_FILE, TOKENIZER_FILE].map(|name| options.to.join(name));
    match named.into_iter().filter(|path| path.exists()).chain(scale_files(&options.to)).next() {
        Some(path) => Err(ImportError::Exists(path)),
        None => Ok(()),
    }
}

/// The chain's description.
fn chain(
    scales: &[Placed],
    total: u32,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<ChainConfig, ImportError> {
    let codes = agreed(scales, "the number of codes K", |scale| Some(scale.network.codes()))?.unwrap_or(0);
    let tokens = agreed(scales, "the number of tokens", |scale| match &scale.network {
        NetworkConfig::EncoderDecoder(network) => Some(network.decoder_length),
        NetworkConfig::Gpt(_) => None,
    })?;
    let condition = condition(scales, options, notes)?;
    let config = ChainConfig {
        schedule: schedule(scales, total)?,
        codebook_size: u32::try_from(codes).unwrap_or(u32::MAX),
        grid: grid(scales, tokens)?,
        condition,
        networks: scales
            .iter()
            .map(|(scale, served)| ScaleConfig {
                scales: served.clone(),
                network: scale.network.clone(),
                alpha: scale.config.as_ref().map_or(if served[..] == [1] { 0.0 } else { 1.0 }, |config| config.alpha),
            })
            .collect(),
    };
    if scales.iter().any(|(scale, _)| scale.config.is_none()) {
        notes.push(
            "checkpoints do not tell alpha, the share of the soft loss in training: 0 was taken for scale 1, 1 for the others"
                .to_owned(),
        );
    }
    // What the description cannot say is found before anything is written.
    let (sections, condition) = config.to_sections();
    ChainConfig::from_sections(&sections, &condition, None)?;
    Ok(config)
}

/// What all checkpoints that say it say alike.
fn agreed<T: PartialEq + std::fmt::Display>(
    scales: &[Placed],
    what: &str,
    of: impl Fn(&Scale) -> Option<T>,
) -> Result<Option<T>, ImportError> {
    let mut first: Option<(&Scale, T)> = None;
    for (scale, _) in scales {
        match (&first, of(scale)) {
            (_, None) => {}
            (None, Some(value)) => first = Some((scale, value)),
            (Some((_, same)), Some(value)) if *same == value => {}
            (Some((earlier, other)), Some(value)) => {
                let first = (earlier.described_by(), other.to_string());
                return Err(ImportError::disagree(what, first, (scale.described_by(), value.to_string())));
            }
        }
    }
    Ok(first.map(|(_, value)| value))
}

/// The noise schedule, which the configs and the checkpoints' buffers must agree on.
fn schedule(scales: &[Placed], total: u32) -> Result<ScheduleValue, ImportError> {
    let mut expected: Option<(PathBuf, Vec<f32>)> = None;
    let mut named = None;
    for (scale, _) in scales {
        if let Some(config) = &scale.config {
            let schedule = Schedule::new(&config.schedule, total)
                .map_err(|source| ImportError::Schedule { path: config.path.clone(), source })?;
            compare(&mut expected, &config.path, schedule.cumulatives())?;
            named.get_or_insert_with(|| config.schedule.clone());
        }
        if let Some(cumulative) = &scale.cumulative {
            compare(&mut expected, &scale.path, cumulative)?;
        }
    }
    match (named, expected) {
        (Some(named), _) => Ok(named),
        (None, Some((path, cumulative))) => named_after(&path, &cumulative, total),
        (None, None) => Err(ImportError::Nothing),
    }
}

/// Cumulative alphas must be those seen first.
fn compare(expected: &mut Option<(PathBuf, Vec<f32>)>, path: &Path, found: &[f32]) -> Result<(), ImportError> {
    let Some((first, alphas)) = expected else {
        *expected = Some((path.to_owned(), found.to_vec()));
        return Ok(());
    };
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= SCHEDULE_TOLERANCE;
    if alphas.len() == found.len() && alphas.iter().zip(found).all(close) {
        return Ok(());
    }
    let what = "the schedule (cumulative alphas 0..=T)".to_owned();
    let (first, second) = ((first.clone(), format!("{alphas:?}")), (path.to_owned(), format!("{found:?}")));
    Err(ImportError::disagree(what, first, second))
}

/// The schedule of these cumulative alphas: a known name, else the numbers themselves.
fn named_after(path: &Path, cumulative: &[f32], total: u32) -> Result<ScheduleValue, ImportError> {
    let listed = cumulative.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
    let known = ["geometric", "bernoulli_PSIM", "ffhq_bernoulli_PSIM", "bernoulli_FID", "ffhq_bernoulli_FID"];
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= SCHEDULE_TOLERANCE;
    let same = |schedule: &Schedule| schedule.cumulatives().iter().zip(cumulative).all(close);
    for name in known {
        let value = ScheduleValue::Name(name.to_owned());
        if Schedule::new(&value, total).is_ok_and(|schedule| same(&schedule)) {
            return Ok(value);
        }
    }
    let value = ScheduleValue::Name(format!("alphacum:{listed}"));
    Schedule::new(&value, total).map_err(|source| ImportError::Schedule { path: path.to_owned(), source })?;
    Ok(value)
}

/// The square grid of so many tokens; those of a lone GPT are what its positions have room for.
fn grid(scales: &[Placed], tokens: Option<i64>) -> Result<(u32, u32), ImportError> {
    let of_gpt = || {
        scales.iter().find_map(|(scale, _)| match &scale.network {
            NetworkConfig::Gpt(network) => Some(network.block),
            NetworkConfig::EncoderDecoder(_) => None,
        })
    };
    let (tokens, exact) = tokens.map_or_else(|| (of_gpt().unwrap_or(0), false), |tokens| (tokens, true));
    let side = u32::try_from(tokens).unwrap_or(0).isqrt();
    if side == 0 || exact && i64::from(side) * i64::from(side) != tokens {
        let path = scales.first().map(|(scale, _)| scale.described_by()).unwrap_or_default();
        let detail = format!("has {tokens} tokens, which are no square grid");
        return Err(ImportError::Order { path, detail });
    }
    Ok((side, side))
}

/// The class condition: as the configs say; else it is there if there are ids beyond the codes and scale numbers.
fn condition(scales: &[Placed], options: &ImportOptions, notes: &mut Vec<String>) -> Result<Condition, ImportError> {
    let ids = |scale: &Scale| match &scale.network {
        NetworkConfig::EncoderDecoder(network) => network.encoder_tokens,
        NetworkConfig::Gpt(network) => network.input_tokens,
    };
    let rows = scales.iter().map(|(scale, _)| ids(scale)).min().unwrap_or(0);
    let rows = u32::try_from(rows).unwrap_or(0);
    let told = agreed(scales, "whether there is a class", |scale| Some(scale.config.as_ref()?.class))?;
    match (options.classes, told) {
        (Some(0), Some(true)) | (Some(1..), Some(false)) => {
            let problem = "is against the configs, which say whether there is a class".to_owned();
            Err(ImportError::Option { option: "--classes", problem })
        }
        (Some(classes), _) if classes > rows => {
            let problem = format!("{classes} is more than the {rows} ids that the networks have rows for");
            Err(ImportError::Option { option: "--classes", problem })
        }
        (Some(0), _) | (None, Some(false)) => Ok(Condition::None),
        (Some(classes), _) => Ok(Condition::Class { classes, null: false }),
        (None, Some(true)) => Ok(Condition::Class { classes: rows, null: false }),
        (None, None) => {
            let codes = scales.iter().map(|(scale, _)| scale.network.codes()).max().unwrap_or(0);
            let last = scales.iter().flat_map(|(_, served)| served).max().copied().unwrap_or(0);
            if i64::from(rows) > codes.max(i64::from(last) + 1) {
                notes.push(format!(
                    "{rows} input ids for {codes} codes: taken as a condition on {rows} classes (--classes says otherwise)"
                ));
                return Ok(Condition::Class { classes: rows, null: false });
            }
            Ok(Condition::None)
        }
    }
}
