//! Features of images: a TorchScript network of the user's, and how images are prepared for it.

use crate::imaging::Rgb;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

/// Why images have no features.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot open the feature network {}: {source}", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("{} is not a TorchScript module: {detail}", path.display())]
    NoModule { path: PathBuf, detail: String },
    #[error(
        "the feature network {} must take a batch of images and give features [batch, dims], alone or followed by logits [batch, \
         classes]: {detail}",
        path.display()
    )]
    Signature { path: PathBuf, detail: String },
    #[error("images of {}x{} and {}x{} pixels cannot be one batch: give evaluate.network_resize", first.0, first.1, second.0, second.1)]
    Sizes { first: (u32, u32), second: (u32, u32) },
    #[error("libtorch could not prepare images: {0}")]
    Torch(#[from] TchError),
}

/// How an image's size is changed for the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureResize {
    /// Bicubic, antialiased, on floats, clamped to 0..255: clean-fid (Parmar et al., CVPR 2022).
    Clean,
    /// Bilinear without antialiasing, pixel centres aligned as PyTorch's `align_corners=False`: pytorch-fid.
    Legacy,
    /// The network does it, or wants none.
    None,
}

/// What is done to an image of bytes before the network sees it: resize to `size` x `size`, divide by 255, (x - mean) / std.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureInput {
    pub resize: FeatureResize,
    pub size: u32,
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
    /// Passed to the network behind the images.
    pub flags: Vec<bool>,
}

impl fmt::Display for FeatureInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FeatureInput { resize, size, mean, std, flags } = self;
        match resize {
            FeatureResize::Clean => write!(f, "clean (bicubic, antialiased) to {size}")?,
            FeatureResize::Legacy => write!(f, "legacy (bilinear, not antialiased) to {size}")?,
            FeatureResize::None => write!(f, "not resized")?,
        }
        write!(f, ", mean {mean:?}, std {std:?}")?;
        if flags.is_empty() { Ok(()) } else { write!(f, ", flags {flags:?}") }
    }
}

/// What a network says of a batch, both float32 on its device.
#[derive(Debug)]
pub struct Features {
    /// `[batch, dims]`.
    pub features: Tensor,
    /// `[batch, classes]`, where the network is a classifier.
    pub logits: Option<Tensor>,
}

/// A network with its input.
#[derive(Debug)]
pub struct FeatureNetwork {
    path: PathBuf,
    module: CModule,
    input: FeatureInput,
    fingerprint: String,
    device: Device,
    dims: i64,
    classes: Option<i64>,
}

impl FeatureNetwork {
    /// Loads the module at `path` onto the device, and tries it on two images of `side` pixels.
    ///
    /// # Errors
    /// A file that is not there or no module; a module that does not give features.
    pub fn load(path: &Path, input: FeatureInput, side: u32, device: Device) -> Result<FeatureNetwork, NetworkError> {
        let open = |source| NetworkError::Open { path: path.to_owned(), source };
        let no_module = |error: TchError| NetworkError::NoModule { path: path.to_owned(), detail: first_line(&error) };
        let bytes = std::fs::read(path).map_err(open)?;
        let mut module = CModule::load_data_on_device(&mut bytes.as_slice(), device).map_err(no_module)?;
        module.f_set_eval().map_err(no_module)?;
        let fingerprint = crate::digest::hex(&Sha256::digest(&bytes));
        let (path, classes) = (path.to_owned(), None);
        let mut network = FeatureNetwork { path, module, input, fingerprint, device, dims: 0, classes };
        let black = Rgb { width: side, height: side, pixels: vec![0; side as usize * side as usize * 3] };
        let tried = network.features(&[&black, &black])?;
        network.dims = tried.features.size().get(1).copied().unwrap_or(0);
        network.classes = tried.logits.and_then(|logits| logits.size().get(1).copied());
        Ok(network)
    }

    /// SHA-256 of the module's file.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How images are prepared.
    pub fn input(&self) -> &FeatureInput {
        &self.input
    }

    /// Dimensions of the features.
    pub fn dims(&self) -> i64 {
        self.dims
    }

    /// Classes of the logits, where there are any.
    pub fn classes(&self) -> Option<i64> {
        self.classes
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The features of images.
    ///
    /// # Errors
    /// Images of different sizes, where they are not resized; a network that answers with anything but features.
    pub fn features(&self, images: &[&Rgb]) -> Result<Features, NetworkError> {
        let _guard = tch::no_grad_guard();
        let prepared = self.prepare(images)?;
        let wrong = |detail: String| NetworkError::Signature { path: self.path.clone(), detail };
        let inputs = std::iter::once(IValue::Tensor(prepared));
        let inputs: Vec<IValue> = inputs.chain(self.input.flags.iter().map(|flag| IValue::Bool(*flag))).collect();
        let answer = self.module.forward_is(&inputs).map_err(|error| wrong(first_line(&error)))?;
        let mut tensors = match answer {
            IValue::Tensor(features) => vec![features],
            IValue::Tuple(parts) | IValue::GenericList(parts) => parts
                .into_iter()
                .map(|part| match part {
                    IValue::Tensor(tensor) => Ok(tensor),
                    other => Err(wrong(format!("it gave a tuple with {}", kind_of(&other)))),
                })
                .collect::<Result<_, _>>()?,
            IValue::TensorList(tensors) => tensors,
            other => return Err(wrong(format!("it gave {}", kind_of(&other)))),
        }
        .into_iter();
        let mut next = |what: &str| -> Result<Option<Tensor>, NetworkError> {
            let Some(tensor) = tensors.next() else { return Ok(None) };
            // Pooled features often keep their 1 x 1 positions.
            let flat = match tensor.size()[..] {
                [_, _, 1, 1] => tensor.f_flatten(1, -1)?,
                _ => tensor,
            };
            match flat.size()[..] {
                [rows, _] if rows == images.len() as i64 => Ok(Some(flat.f_to_kind(Kind::Float)?)),
                _ => Err(wrong(format!("its {what} for {} images have the shape {:?}", images.len(), flat.size()))),
            }
        };
        let features = next("features")?.ok_or_else(|| wrong("it gave nothing".to_owned()))?;
        let logits = next("logits")?;
        Ok(Features { features, logits })
    }

    /// `[batch, 3, size, size]` float32, as the network takes them.
    fn prepare(&self, images: &[&Rgb]) -> Result<Tensor, NetworkError> {
        let size = |image: &Rgb| (image.width, image.height);
        let one = |image: &Rgb| -> Result<Tensor, TchError> {
            let shape = [1, i64::from(image.height), i64::from(image.width), 3];
            Tensor::f_from_data_size(&image.pixels, &shape, Kind::Uint8)?
                .f_to_device(self.device)?
                .f_permute([0, 3, 1, 2])
        };
        let alike = images.windows(2).all(|pair| matches!(pair, [a, b] if size(a) == size(b)));
        let floats = if alike {
            let whole: Vec<Tensor> = images.iter().map(|image| one(image)).collect::<Result<_, _>>()?;
            self.resized(&Tensor::f_cat(&whole, 0)?.f_to_kind(Kind::Float)?)?
        } else if self.input.resize == FeatureResize::None {
            let mut sizes = images.iter().map(|image| size(image));
            let first = sizes.next().unwrap_or_default();
            return Err(NetworkError::Sizes { first, second: sizes.find(|size| *size != first).unwrap_or_default() });
        } else {
            let each = |image: &&Rgb| self.resized(&one(image)?.f_to_kind(Kind::Float)?);
            Tensor::f_cat(&images.iter().map(each).collect::<Result<Vec<_>, _>>()?, 0)?
        };
        let channels = |values: &[f64]| -> Result<Tensor, TchError> {
            let tensor = Tensor::f_from_slice(values)?.f_to_kind(Kind::Float)?.f_view([1, -1, 1, 1])?;
            tensor.f_to_device(self.device)
        };
        let shares = floats.f_div_scalar(255.0)?;
        Ok(shares.f_sub(&channels(&self.input.mean)?)?.f_div(&channels(&self.input.std)?)?)
    }

    fn resized(&self, images: &Tensor) -> Result<Tensor, TchError> {
        let side = i64::from(self.input.size);
        match self.input.resize {
            FeatureResize::None => Ok(images.shallow_clone()),
            _ if images.size().get(2..) == Some(&[side, side]) => Ok(images.shallow_clone()),
            FeatureResize::Clean => {
                images.f_internal_upsample_bicubic2d_aa([side, side], false, None, None)?.f_clamp(0.0, 255.0)
            }
            FeatureResize::Legacy => images.f_upsample_bilinear2d([side, side], false, None, None),
        }
    }
}

/// libtorch's errors go on with a trace of its own code.
fn first_line(error: &TchError) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    // What TorchScript itself complains of stands behind its trace.
    lines.rfind(|line| line.starts_with("RuntimeError:")).map_or(first, str::to_owned)
}

fn kind_of(value: &IValue) -> &'static str {
    match value {
        IValue::None => "nothing",
        IValue::Tensor(_) => "a tensor",
        IValue::Double(_) | IValue::Int(_) | IValue::Bool(_) => "a number",
        IValue::String(_) | IValue::StringList(_) => "text",
        IValue::GenericDict(_) => "a dictionary",
        _ => "something else",
    }
}
