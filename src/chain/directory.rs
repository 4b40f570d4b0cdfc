//! The model directory: a trained chain on disk.
//!
//! ```text
//! chain.toml                format, the tokenizer's fingerprint, [chain] with [[chain.scale]], [condition]
//! tokenizer.safetensors     the VQGAN, its shape in the file's metadata
//! scale-1.safetensors ...   one file per network; one that serves several scales is named after its first
//! text-tokenizer.json       when images are conditioned on text
//! ```
//!
//! Tensors of a scale have the names they have in the released checkpoints, `transformer.` included, and nothing else is in
//! the file: no optimizer, no masks (they follow from the shape), no tokenizer. [`SCALE_PREFIX`] is taken off when they load.

use super::config::{ChainConfig, ChainError, Condition, ScaleConfig};
use super::loaded::Chain;
use crate::config::{ChainSection, ConditionSection, ConfigError, parse_toml};
use crate::diffusion::{Schedule, ScheduleError};
use crate::digest::hex;
use crate::torch::weights::{TensorSpec, Weights, WeightsError, WeightsFile};
use crate::transformer::{NetworkConfig, Placement, TransformerError};
use crate::vqgan::{Tokenizer, TokenizerError, TokenizerOptions, VqganConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// The description's file name.
pub const CONFIG_FILE: &str = "chain.toml";
/// The VQGAN's file name.
pub const TOKENIZER_FILE: &str = "tokenizer.safetensors";
/// The text tokenizer's file name.
pub const TEXT_TOKENIZER_FILE: &str = "text-tokenizer.json";
/// What the tensors' names begin with, as in the released checkpoints.
pub const SCALE_PREFIX: &str = "transformer.";
/// The version of the layout that is written and read.
pub const FORMAT: u32 = 1;

/// The file name of the network whose first scale is `first`.
pub fn scale_file_name(first: u32) -> String {
    format!("scale-{first}.safetensors")
}

/// A network's tensors as its file names them.
pub fn scale_tensors(network: &NetworkConfig) -> Vec<TensorSpec> {
    let named = |spec: TensorSpec| TensorSpec { name: format!("{SCALE_PREFIX}{}", spec.name), ..spec };
    network.tensors().into_iter().map(named).collect()
}

/// Why a model directory cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Toml(#[from] ConfigError),
    #[error("{}: format = {found}; this version reads format {FORMAT}", path.display())]
    Format { path: PathBuf, found: u32 },
    #[error("{}: {source}", path.display())]
    Chain { path: PathBuf, source: ChainError },
    #[error("{}: chain.schedule: {source}", path.display())]
    Schedule { path: PathBuf, source: ScheduleError },
    #[error("{}: the description cannot be written back as it is: {detail}", path.display())]
    Unwritable { path: PathBuf, detail: String },
    #[error("there is no scale {scale} in a chain of {scales}")]
    NoScale { scale: u32, scales: u32 },
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("{origin}: {source}")]
    Network { origin: String, source: Box<TransformerError> },
    #[error("{}: {source}", path.display())]
    Tokenizer { path: PathBuf, source: TokenizerError },
    #[error("{}: quantize.{tensor} gives {found} codes, but chain.codebook_size is {expected} in {}", path.display(), config.display())]
    Codebook { path: PathBuf, tensor: &'static str, found: i64, expected: u32, config: PathBuf },
    #[error(
        "{}: chain.grid = [{}, {}], but images of {height}x{width} pixels have {}x{} tokens in {} (one token is {factor}x{factor} pixels)",
        path.display(), expected.0, expected.1, height / factor, width / factor, tokenizer.display()
    )]
    Grid { path: PathBuf, expected: (u32, u32), height: u32, width: u32, factor: u32, tokenizer: PathBuf },
    #[error(
        "{}: its weights have the fingerprint {found}, but {} was made with the tokenizer {expected}",
        path.display(), config.display()
    )]
    Fingerprint { path: PathBuf, found: String, expected: String, config: PathBuf },
    #[error("{} is missing: condition.kind = \"text\" in {} needs it", path.display(), config.display())]
    NoTextTokenizer { path: PathBuf, config: PathBuf },
}

/// `chain.toml`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    /// Fingerprint of the tokenizer that the chain's tokens come from.
    tokenizer: String,
    chain: ChainSection,
    #[serde(default)]
    condition: ConditionSection,
}

/// A model directory whose description has been read; weights are read by [`load`](ModelDirectory::load) alone.
#[derive(Clone, Debug)]
pub struct ModelDirectory {
    root: PathBuf,
    config: ChainConfig,
    schedule: Schedule,
    tokenizer: String,
}

impl ModelDirectory {
    /// Opens a directory and checks everything that file headers tell: the description, the schedule's length, each
    /// network's tensors by name and shape, the tokenizer's number of codes, the text tokenizer's presence. Reads no weights.
    ///
    /// # Errors
    /// The first thing that is wrong, by file and key or tensor.
    pub fn open(root: impl AsRef<Path>) -> Result<ModelDirectory, ModelError> {
        let directory = ModelDirectory::describe(root)?;
        directory.check_files()?;
        Ok(directory)
    }

    /// Reads the description alone: for a chain whose scales are not all there yet.
    ///
    /// # Errors
    /// What is wrong in `chain.toml`, by key.
    pub fn describe(root: impl AsRef<Path>) -> Result<ModelDirectory, ModelError> {
        let root = root.as_ref().to_path_buf();
        let path = root.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
        let written: Written = parse_toml(&text, &path.display().to_string())?;
        if written.format != FORMAT {
            return Err(ModelError::Format { path, found: written.format });
        }
        let (config, schedule) = described(&path, &written)?;
        Ok(ModelDirectory { root, config, schedule, tokenizer: written.tokenizer })
    }

    /// Writes `chain.toml` under its final name, whole; makes the directory if need be.
    ///
    /// # Errors
    /// A description that would not be read back as it is, and failures to write.
    pub fn write_config(root: impl AsRef<Path>, config: &ChainConfig, tokenizer: &str) -> Result<(), ModelError> {
        let path = root.as_ref().join(CONFIG_FILE);
        let unwritable = |detail: String| ModelError::Unwritable { path: path.clone(), detail };
        let (chain, condition) = config.to_sections();
        let written = Written { format: FORMAT, tokenizer: tokenizer.to_owned(), chain, condition };
        let text = toml::to_string(&written).map_err(|error| unwritable(error.to_string()))?;
        let (read, _) = described(&path, &parse_toml(&text, &path.display().to_string())?)?;
        if read != *config {
            let different = read.networks.iter().zip(&config.networks).position(|(read, given)| read != given);
            let part = different.map_or("chain".to_owned(), |index| format!("chain.scale number {}", index + 1));
            return Err(unwritable(format!("{part} has values that do not follow from each other")));
        }
        let partial = root.as_ref().join(format!("{CONFIG_FILE}.partial"));
        let io = |source| ModelError::Write { path: path.clone(), source };
        std::fs::create_dir_all(root.as_ref()).map_err(io)?;
        std::fs::write(&partial, text).map_err(io)?;
        std::fs::rename(&partial, &path).map_err(io)
    }

    /// Writes the file of the network that serves `first` and perhaps the scales after it. `tensors` have the names of
    /// [`NetworkConfig::tensors`], without prefix.
    ///
    /// # Errors
    /// Tensors that are not those of the network, all named; failures to write.
    pub fn write_scale(
        root: impl AsRef<Path>,
        first: u32,
        network: &NetworkConfig,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<PathBuf, ModelError> {
        let path = root.as_ref().join(scale_file_name(first));
        let named = |(name, tensor): (&String, &Tensor)| (format!("{SCALE_PREFIX}{name}"), tensor.shallow_clone());
        let weights = Weights::from_tensors(&path.display().to_string(), tensors.iter().map(named).collect())?;
        weights.check(&scale_tensors(network))?;
        std::fs::create_dir_all(root.as_ref())
            .map_err(|source| ModelError::Write { path: root.as_ref().to_path_buf(), source })?;
        crate::torch::weights::write(&path, weights.tensors(), &BTreeMap::new())?;
        Ok(path)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The chain's description.
    pub fn config(&self) -> &ChainConfig {
        &self.config
    }

    /// The noise schedule, resolved.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Fingerprint of the tokenizer the chain was made for, as `chain.toml` has it.
    pub fn tokenizer_fingerprint(&self) -> &str {
        &self.tokenizer
    }

    /// `chain.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.root.join(CONFIG_FILE)
    }

    /// The VQGAN's weights.
    pub fn tokenizer_file(&self) -> PathBuf {
        self.root.join(TOKENIZER_FILE)
    }

    /// The text tokenizer.
    pub fn text_tokenizer_file(&self) -> PathBuf {
        self.root.join(TEXT_TOKENIZER_FILE)
    }

    /// The file of the network that serves `scale` (1..=T).
    pub fn scale_file(&self, scale: u32) -> Result<PathBuf, ModelError> {
        let network = self.config.network(scale);
        let network = network.ok_or(ModelError::NoScale { scale, scales: self.config.scales() })?;
        Ok(self.network_file(network))
    }

    fn network_file(&self, network: &ScaleConfig) -> PathBuf {
        self.root.join(scale_file_name(network.scales.first().copied().unwrap_or(0)))
    }

    /// Checks the headers of all files.
    fn check_files(&self) -> Result<(), ModelError> {
        for network in &self.config.networks {
            let file = WeightsFile::open(self.network_file(network))?;
            let differences = file.compare(&scale_tensors(&network.network));
            if !differences.is_empty() {
                let origin = file.path().display().to_string();
                return Err(WeightsError::Mismatch { origin, differences }.into());
            }
        }
        self.tokenizer_config()?;
        let path = self.text_tokenizer_file();
        if matches!(self.config.condition, Condition::Text(_)) && !path.is_file() {
            return Err(ModelError::NoTextTokenizer { path, config: self.config_file() });
        }
        Ok(())
    }

    /// The VQGAN's shape, from its file's header, checked against the chain's codebook.
    pub fn tokenizer_config(&self) -> Result<VqganConfig, ModelError> {
        let path = self.tokenizer_file();
        let wrong = |source| ModelError::Tokenizer { path: path.clone(), source };
        let file = WeightsFile::open(&path)?;
        let config = Tokenizer::config_of(&file, None).map_err(wrong)?;
        let differences = file.compare(&config.tensors());
        if !differences.is_empty() {
            return Err(WeightsError::Mismatch { origin: path.display().to_string(), differences }.into());
        }
        if config.ids() != i64::from(self.config.codebook_size) {
            let tensor = if config.used.is_some() { "used" } else { "embedding.weight" };
            let (found, expected) = (config.ids(), self.config.codebook_size);
            return Err(ModelError::Codebook { path, tensor, found, expected, config: self.config_file() });
        }
        Ok(config)
    }

    /// Checks that images of this size have the chain's token grid.
    pub fn check_image_size(&self, (height, width): (u32, u32)) -> Result<(), ModelError> {
        let factor = u32::try_from(self.tokenizer_config()?.downsampling()).unwrap_or(u32::MAX).max(1);
        let (rows, columns) = self.config.grid;
        let whole = rows.checked_mul(factor) == Some(height) && columns.checked_mul(factor) == Some(width);
        if whole {
            return Ok(());
        }
        Err(ModelError::Grid {
            path: self.config_file(),
            expected: self.config.grid,
            height,
            width,
            factor,
            tokenizer: self.tokenizer_file(),
        })
    }

    /// Loads the VQGAN and checks that it is the one the chain was made for.
    pub fn load_tokenizer(&self, options: TokenizerOptions) -> Result<Tokenizer, ModelError> {
        self.tokenizer_config()?;
        let path = self.tokenizer_file();
        let tokenizer = Tokenizer::load(&path, None, options)
            .map_err(|source| ModelError::Tokenizer { path: path.clone(), source })?;
        self.check_tokenizer(tokenizer.fingerprint())?;
        Ok(tokenizer)
    }

    /// Checks a tokenizer's fingerprint against the chain's.
    pub fn check_tokenizer(&self, fingerprint: &str) -> Result<(), ModelError> {
        if fingerprint == self.tokenizer {
            return Ok(());
        }
        let (found, expected) = (fingerprint.to_owned(), self.tokenizer.clone());
        Err(ModelError::Fingerprint { path: self.tokenizer_file(), found, expected, config: self.config_file() })
    }

    /// The weights of one of the description's networks, named as in [`NetworkConfig::tensors`].
    pub fn load_weights(&self, network: &ScaleConfig) -> Result<Weights, ModelError> {
        let mut file = WeightsFile::open(self.network_file(network))?;
        Ok(file.load(&scale_tensors(&network.network))?.below(SCALE_PREFIX))
    }

    /// Hex SHA-256 over what images depend on beyond the tokenizer: the description (less `alpha`, which only training
    /// reads), the fingerprints of all weights and the text tokenizer's bytes. Reads every weights file once, one tensor at
    /// a time; a loaded chain knows it.
    pub fn fingerprint(&self) -> Result<String, ModelError> {
        let mut scales = Vec::with_capacity(self.config.networks.len());
        for network in &self.config.networks {
            scales.push(WeightsFile::open(self.network_file(network))?.fingerprint()?);
        }
        self.combined_fingerprint(&scales)
    }

    /// The same from the weights' fingerprints.
    pub(super) fn combined_fingerprint(&self, scales: &[String]) -> Result<String, ModelError> {
        let mut text = Vec::new();
        if matches!(self.config.condition, Condition::Text(_)) {
            let path = self.text_tokenizer_file();
            text = std::fs::read(&path).map_err(|source| ModelError::Read { path, source })?;
        }
        fingerprint(&self.config, scales, &text)
    }

    /// Loads the networks: each file is read once, and dropped when its network is placed.
    ///
    /// # Errors
    /// Files that changed since they were opened, failures to read, tensors that do not fit.
    pub fn load(&self, placement: Placement) -> Result<Chain, ModelError> {
        Chain::load(self, placement)
    }

    /// Loads the chain in parts: of scale t, at index t - 1, one that has the network of this scale alone, where `placement` says. A
    /// network that serves several scales is placed for each of them. A part draws with [`SampleOptions`](super::SampleOptions) whose
    /// start and end are its scale.
    ///
    /// # Errors
    /// As of [`load`](ModelDirectory::load).
    pub fn load_apart(&self, placement: impl Fn(u32) -> Placement) -> Result<Vec<Chain>, ModelError> {
        Chain::load_apart(self, placement)
    }
}

/// The fingerprint of a chain from those of its weights and the text tokenizer's bytes.
pub(super) fn fingerprint(config: &ChainConfig, scales: &[String], text: &[u8]) -> Result<String, ModelError> {
    let (mut chain, condition) = config.to_sections();
    chain.scale.iter_mut().for_each(|scale| scale.alpha = 0.0);
    let description = serde_json::to_string(&(FORMAT, chain, condition, scales))
        .map_err(|error| ModelError::Unwritable { path: CONFIG_FILE.into(), detail: error.to_string() })?;
    let mut hash = Sha256::new();
    hash.update((description.len() as u64).to_le_bytes());
    hash.update(description);
    hash.update(text);
    Ok(hex(&hash.finalize()))
}

fn described(path: &Path, written: &Written) -> Result<(ChainConfig, Schedule), ModelError> {
    let config = ChainConfig::from_sections(&written.chain, &written.condition, None)
        .map_err(|source| ModelError::Chain { path: path.to_path_buf(), source })?;
    let schedule = Schedule::new(&config.schedule, config.scales())
        .map_err(|source| ModelError::Schedule { path: path.to_path_buf(), source })?;
    Ok((config, schedule))
}
