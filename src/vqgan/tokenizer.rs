//! Pixels to token ids and back, batch by batch: what the jobs use of the VQGAN.

use super::config::{ConfigError, VqganConfig};
use super::gumbel;
use super::network::{Codebook, Vqgan};
use super::ops::{Layout, Placement};
use super::quantizer::OUTLIER;
use crate::config::DType;
use crate::imaging::Rgb;
use crate::random::{Purpose, RowKey};
use crate::torch::device::kind;
use crate::torch::weights::{Weights, WeightsError, WeightsFile};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, TchError, Tensor};

/// How a tokenizer runs.
#[derive(Clone, Copy, Debug)]
pub struct TokenizerOptions {
    pub device: Device,
    /// Arithmetic of the network; distances to the codebook are always float32. bf16 is faster on GPUs, and a few tokens in a
    /// hundred differ.
    pub dtype: DType,
    pub layout: Layout,
    /// Sends decoded images through tanh. The released code never does, whatever `tanh_out` says in its configs.
    pub apply_tanh: bool,
    /// Draws the ids of a Gumbel tokenizer with noise, as its authors do; else takes the likeliest.
    pub gumbel_noise: bool,
}

impl Default for TokenizerOptions {
    fn default() -> TokenizerOptions {
        TokenizerOptions {
            device: Device::Cpu,
            dtype: DType::Fp32,
            layout: Layout::ChannelsLast,
            apply_tanh: false,
            gumbel_noise: true,
        }
    }
}

/// Why images could not be tokenized, or tokens not decoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("{}: {source}", path.display())]
    Config { path: PathBuf, source: ConfigError },
    #[error(
        "the network shape of {} is unknown: write it into the file's metadata (ddconfig, embed_dim and n_embed, as \
         `imagebart import` does) or give it as [tokenizer.ddconfig], embed_dim and n_embed in the pipeline file",
        path.display()
    )]
    NoShape { path: PathBuf },
    #[error("images of {width}x{height} do not divide into tokens: both sides must be multiples of {factor}")]
    Size { width: u32, height: u32, factor: i64 },
    #[error("image {image} of the batch has {found} bytes; {width}x{height} RGB has {expected}")]
    Bytes { image: usize, found: usize, expected: usize, width: u32, height: u32 },
    #[error("a batch of {images} images came with {rows} row keys")]
    Rows { images: usize, rows: usize },
    #[error("token grid {grid} of the batch has {found} tokens, its shape says {expected}")]
    Grid { grid: usize, found: usize, expected: usize },
    #[error("token {token} of grid {grid} is not below {ids}, the number of ids")]
    Token { grid: usize, token: u16, ids: i64 },
    #[error("the network gave NaN or infinity for image(s) {} of the batch; check the weights, or use fp32", list(.0))]
    NotFinite(Vec<usize>),
    #[error("the tokenizer failed in libtorch: {0}")]
    Torch(#[from] TchError),
}

fn list(images: &[usize]) -> String {
    images.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// A VQGAN ready to encode and decode on one device. Weights are prepared once; nothing is recorded for gradients.
///
/// ```
/// use imagebart::random::RowKey;
/// use imagebart::torch::weights::{Weights, write};
/// use imagebart::vqgan::{Tokenizer, TokenizerOptions, VqganConfig};
///
/// // A small network with random weights, written as a tokenizer file.
/// let config: VqganConfig = serde_json::from_str(r#"{"ddconfig": {"z_channels": 8, "resolution": 32, "in_channels": 3, "out_ch": 3,
///     "ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "attn_resolutions": []}, "embed_dim": 8, "n_embed": 64}"#)?;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("tokenizer.safetensors");
/// write(&path, Weights::init(&config.tensors(), 0)?.tensors(), &config.to_metadata())?;
///
/// let tokenizer = Tokenizer::load(&path, None, TokenizerOptions::default())?;
/// let image = vec![128; 32 * 32 * 3];
/// let grids = tokenizer.encode(&[&image], (32, 32), &[RowKey::new(0, "doc", 0, 0)])?;
/// assert_eq!(tokenizer.grid(32, 32)?, (8, 8));
/// assert_eq!(grids[0].len(), 64);
/// let pictures = tokenizer.decode(&[&grids[0]], (8, 8))?;
/// assert_eq!((pictures[0].width, pictures[0].height), (32, 32));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Tokenizer {
    network: Vqgan,
    config: VqganConfig,
    options: TokenizerOptions,
    fingerprint: String,
}

impl Tokenizer {
    /// Loads a tokenizer from a safetensors file. The network's shape comes from the file's metadata, else from `config`.
    pub fn load(
        path: impl AsRef<Path>,
        config: Option<VqganConfig>,
        options: TokenizerOptions,
    ) -> Result<Tokenizer, TokenizerError> {
        let mut file = WeightsFile::open(path.as_ref())?;
        let config = Tokenizer::config_of(&file, config)?;
        let weights = file.load(&config.tensors())?;
        Tokenizer::new(config, &weights, options)
    }

    /// The network's shape as a file's header tells it: from its metadata, else `config`. Reads no weights.
    pub fn config_of(file: &WeightsFile, config: Option<VqganConfig>) -> Result<VqganConfig, TokenizerError> {
        let wrong = |source| TokenizerError::Config { path: file.path().to_path_buf(), source };
        let written = VqganConfig::from_metadata(file.metadata()).map_err(wrong)?;
        let no_shape = || TokenizerError::NoShape { path: file.path().to_path_buf() };
        let mut config = written.or(config).ok_or_else(no_shape)?;
        // Released configs name the remap by a path of the authors' machine; what counts is the tensor.
        config.used = file.shape("quantize.used").and_then(|shape| shape.first().copied());
        config.validate().map_err(wrong)?;
        Ok(config)
    }

    /// A tokenizer of weights in memory.
    pub fn new(config: VqganConfig, weights: &Weights, options: TokenizerOptions) -> Result<Tokenizer, TokenizerError> {
        let placement = Placement { device: options.device, kind: kind(options.dtype), layout: options.layout };
        let _guard = tch::no_grad_guard();
        let network = Vqgan::load(&config, weights, placement, options.apply_tanh)?;
        Ok(Tokenizer { network, config, options, fingerprint: weights.fingerprint().to_owned() })
    }

    /// SHA-256 of the weights: see [`Weights::fingerprint`]. The same on every device and in every dtype.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The network's shape.
    pub fn config(&self) -> &VqganConfig {
        &self.config
    }

    /// Number of ids K: tokens are in `0..K`.
    pub fn codebook_size(&self) -> u32 {
        u32::try_from(self.config.ids()).unwrap_or(u32::MAX)
    }

    /// Rows and columns of the token grid of an image of `height` × `width` pixels.
    pub fn grid(&self, height: u32, width: u32) -> Result<(u32, u32), TokenizerError> {
        let factor = self.config.downsampling();
        let rows = |side: u32| u32::try_from(i64::from(side) / factor).ok();
        let whole = |side: u32| side > 0 && i64::from(side) % factor == 0;
        match (rows(height), rows(width)) {
            (Some(rows), Some(columns)) if whole(height) && whole(width) => Ok((rows, columns)),
            _ => Err(TokenizerError::Size { width, height, factor }),
        }
    }

    /// The token grids of a batch: each image `height` × `width` × 3 bytes, each grid row-major. `rows` key the random ids of
    /// outliers and the noise of a Gumbel tokenizer: one per image.
    pub fn encode(
        &self,
        images: &[&[u8]],
        (height, width): (u32, u32),
        rows: &[RowKey],
    ) -> Result<Vec<Vec<u16>>, TokenizerError> {
        self.grid(height, width)?;
        if rows.len() != images.len() {
            return Err(TokenizerError::Rows { images: images.len(), rows: rows.len() });
        }
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let _guard = tch::no_grad_guard();
        let pixels = upload(images, (height, width), self.options.device)?;
        let features = self.network.features(&normalise(&pixels)?)?;
        let ids = self.ids(&features, rows)?;
        // One copy brings the ids and a flag for each image: the only wait for the device.
        let finite = finite(&features)?;
        let answer = Tensor::f_cat(&[ids.f_flatten(1, -1)?, finite.f_to_kind(Kind::Int64)?], 1)?;
        self.tokens(&answer, rows)
    }

    fn ids(&self, features: &Tensor, rows: &[RowKey]) -> Result<Tensor, TchError> {
        match &self.network.codebook {
            Codebook::Nearest(quantizer) => quantizer.remap().to_ids(&quantizer.indices(features)?),
            Codebook::Gumbel(quantizer) if self.options.gumbel_noise => {
                let (_, _, height, width) = features.size4()?;
                let noise = gumbel::noise(rows, self.config.ids(), (height, width))?;
                quantizer.ids(&quantizer.logits(features)?, Some(&noise.f_to_device(self.options.device)?))
            }
            Codebook::Gumbel(quantizer) => quantizer.ids(&quantizer.logits(features)?, None),
        }
    }

    /// `[batch, tokens + 1]` of ids and a flag to tokens, outliers drawn.
    fn tokens(&self, answer: &Tensor, rows: &[RowKey]) -> Result<Vec<Vec<u16>>, TokenizerError> {
        let answer = Vec::<Vec<i64>>::try_from(answer.f_to_device(Device::Cpu)?)?;
        let bad: Vec<usize> = (0..answer.len()).filter(|&image| answer[image].last() != Some(&1)).collect();
        if !bad.is_empty() {
            return Err(TokenizerError::NotFinite(bad));
        }
        let ids = self.codebook_size();
        let token = |row: &RowKey, position: usize, id: i64| match id {
            OUTLIER => row.below(Purpose::Outlier, position as u32, ids) as u16,
            id => id as u16,
        };
        let grid = |(row, answer): (&RowKey, Vec<i64>)| {
            let tokens = answer.len() - 1;
            answer.into_iter().take(tokens).enumerate().map(|(position, id)| token(row, position, id)).collect()
        };
        Ok(rows.iter().zip(answer).map(grid).collect())
    }

    /// The images of token grids of `rows` × `columns` tokens: trunc(clip(255 (x + 1) / 2)).
    pub fn decode(&self, grids: &[&[u16]], (rows, columns): (u32, u32)) -> Result<Vec<Rgb>, TokenizerError> {
        let factor = self.config.downsampling();
        let side = |tokens: u32| u32::try_from(i64::from(tokens) * factor).ok().filter(|&side| side > 0);
        let (height, width) =
            side(rows).zip(side(columns)).ok_or(TokenizerError::Size { width: columns, height: rows, factor })?;
        if grids.is_empty() {
            return Ok(Vec::new());
        }
        let _guard = tch::no_grad_guard();
        let shape = [grids.len() as i64, i64::from(rows), i64::from(columns)];
        let ids = Tensor::f_from_slice(&self.checked(grids, (rows, columns))?)?.f_view(shape)?;
        let indices = self.network.codebook.remap().to_indices(&ids.f_to_device(self.options.device)?)?;
        let image = self.network.decode(&self.network.codebook.entries(&indices)?)?.f_to_kind(Kind::Float)?;
        let finite = Vec::<i64>::try_from(finite(&image)?.f_to_kind(Kind::Int64)?.f_flatten(0, -1)?)?;
        let bad: Vec<usize> = (0..finite.len()).filter(|&image| finite[image] == 0).collect();
        if !bad.is_empty() {
            return Err(TokenizerError::NotFinite(bad));
        }
        let pixels = to_pixels(&image)?.f_to_device(Device::Cpu)?;
        let bytes = Vec::<u8>::try_from(pixels.f_flatten(0, -1)?)?;
        let size = bytes.len() / grids.len();
        Ok(bytes.chunks_exact(size).map(|pixels| Rgb { width, height, pixels: pixels.to_vec() }).collect())
    }

    /// The grids' ids in one list, each checked.
    pub(super) fn checked(&self, grids: &[&[u16]], (rows, columns): (u32, u32)) -> Result<Vec<i64>, TokenizerError> {
        let ids = self.config.ids();
        let expected = (rows as usize).saturating_mul(columns as usize);
        let mut list = Vec::new();
        for (grid, tokens) in grids.iter().enumerate() {
            if tokens.len() != expected {
                return Err(TokenizerError::Grid { grid, found: tokens.len(), expected });
            }
            if let Some(&token) = tokens.iter().find(|&&token| i64::from(token) >= ids) {
                return Err(TokenizerError::Token { grid, token, ids });
            }
            list.extend(tokens.iter().map(|&token| i64::from(token)));
        }
        Ok(list)
    }
}

/// `[batch, height, width, 3]` bytes on the device.
fn upload(images: &[&[u8]], (height, width): (u32, u32), device: Device) -> Result<Tensor, TokenizerError> {
    let expected = (height as usize).saturating_mul(width as usize).saturating_mul(3);
    for (image, bytes) in images.iter().enumerate() {
        if bytes.len() != expected {
            return Err(TokenizerError::Bytes { image, found: bytes.len(), expected, width, height });
        }
    }
    let shape = [images.len() as i64, i64::from(height), i64::from(width), 3];
    Ok(Tensor::f_from_data_size(&images.concat(), &shape, Kind::Uint8)?.f_to_device(device)?)
}

/// Bytes `[batch, h, w, 3]` to float32 `[batch, 3, h, w]`, channels last: x / 127.5 − 1 in float64, then float32, as the authors
/// compute it.
pub fn normalise(pixels: &Tensor) -> Result<Tensor, TchError> {
    let scaled = pixels.f_to_kind(Kind::Double)?.f_div_scalar(127.5)?.f_sub_scalar(1.0)?;
    scaled.f_to_kind(Kind::Float)?.f_permute([0, 3, 1, 2])
}

/// float32 `[batch, 3, h, w]` to bytes `[batch, h, w, 3]`: trunc(clip(255 (x + 1) / 2)).
pub fn to_pixels(image: &Tensor) -> Result<Tensor, TchError> {
    let unit = image.f_clamp(-1.0, 1.0)?.f_add_scalar(1.0)?.f_div_scalar(2.0)?;
    unit.f_mul_scalar(255.0)?.f_to_kind(Kind::Uint8)?.f_permute([0, 2, 3, 1])?.f_contiguous()
}

/// Whether all numbers of each image are finite: `[batch, 1]`, bool.
fn finite(batch: &Tensor) -> Result<Tensor, TchError> {
    batch.f_isfinite()?.f_flatten(1, -1)?.f_all_dim(1, true)
}
