//! What tells how well an image fits what it was drawn of.
//!
//! A user's scorer is a TorchScript module, which sees images as float32 `[batch, 3, height, width]` from 0 to 1, the pixels of
//! the files that are written, on the run's device:
//!
//! | the chain is conditioned on | called as | gives | the score is |
//! |---|---|---|---|
//! | classes | `forward(images)` | logits `[batch, classes]` | the probability of the row's class |
//! | texts | `forward(images, ids)`, ids int64 `[batch, length]` | `[batch]` or `[batch, 1]` | what it gives |
//! | nothing | `forward(images)` | `[batch]` or `[batch, 1]` | what it gives |

use super::subjects::Subject;
use crate::chain::Condition;
use crate::config::ChooseSection;
use crate::digest::hex;
use crate::flow::BoxError;
use crate::imaging::Rgb;
use crate::jobs::JobError;
use crate::jobs::demo::reader::{self, ATTRIBUTES};
use crate::jobs::demo::scenes::SIDE;
use crate::jobs::demo::words::Caption;
use crate::jobs::developer::Drawn;
use crate::jobs::model::Model;
use crate::tables::ChooseSelection;
use crate::text::TextTokenizer;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::sync::Arc;
use tch::{CModule, Device, Kind, TchError, Tensor};

/// What scores images.
#[derive(Clone, Debug)]
pub enum Scorer {
    /// The chain's own log-probability of the tokens it drew, at all scales, in nats.
    Likelihood,
    /// The rule reader of the demo's shapes: the share of a caption that a picture has right.
    Shapes,
    /// A TorchScript module.
    Module(ModuleFile),
}

/// A TorchScript module that is not loaded yet.
#[derive(Clone, Debug)]
pub struct ModuleFile {
    /// The key of the pipeline that names it.
    key: &'static str,
    path: String,
    /// Hex SHA-256 of the file.
    fingerprint: String,
    texts: Option<Texts>,
}

/// How a module sees texts.
#[derive(Clone, Debug)]
struct Texts {
    /// The module's own tokenizer; the chain's where it has none.
    tokenizer: Option<Arc<TextTokenizer>>,
    length: usize,
}

impl Scorer {
    /// The scorer that `section` names, if any, for a chain with this `condition` whose images have `height` × `width` pixels.
    ///
    /// # Errors
    /// [`JobError::Usage`]: a scorer that cannot judge such images, a file that cannot be read.
    pub fn open(
        section: &ChooseSection,
        condition: &Condition,
        (height, width): (u32, u32),
    ) -> Result<Option<Scorer>, JobError> {
        match section.scorer.as_str() {
            "" => Ok(None),
            "likelihood" => Ok(Some(Scorer::Likelihood)),
            "shapes" if !matches!(condition, Condition::Text(_)) || (height, width) != (SIDE, SIDE) => {
                Err(JobError::Usage(format!(
                    "choose.scorer = \"shapes\" reads the demo's pictures: {SIDE} × {SIDE} pixels, drawn of captions"
                )))
            }
            "shapes" => Ok(Some(Scorer::Shapes)),
            path => ModuleFile::open(path, section, condition).map(|file| Some(Scorer::Module(file))),
        }
    }

    /// Loads it onto the device of `model`, where it is a module of the user's; images have `size` = (height, width) pixels.
    ///
    /// # Errors
    /// [`JobError::Usage`]: a module that does not score such images.
    pub fn load(&self, model: &Model, size: (u32, u32)) -> Result<Option<Module>, JobError> {
        let Scorer::Module(file) = self else { return Ok(None) };
        let batch = model.settings.tokenizer_batch_size as usize;
        file.load(model.device.device, &model.directory.config().condition, size, batch).map(Some)
    }

    /// What chooses by it as `section` says, for the identity.
    pub fn selection(&self, section: &ChooseSection) -> ChooseSelection {
        ChooseSelection {
            scorer: self.name(),
            draw: section.draw.map(u64::from),
            rate: section.rate,
            threshold: section.threshold,
            rejected: section.rejected.clone(),
        }
    }

    /// Whether it compares an image with what it was drawn of.
    pub fn needs_subject(&self) -> bool {
        !matches!(self, Scorer::Likelihood)
    }

    /// As it stands in the identity.
    pub fn name(&self) -> String {
        match self {
            Scorer::Likelihood => "likelihood".to_owned(),
            Scorer::Shapes => "shapes".to_owned(),
            Scorer::Module(file) => file.name(),
        }
    }
}

/// How much of the row's caption a picture has right, from 0 to 1: its attributes, and that there is nothing else.
pub fn shapes(mut drawn: Drawn) -> Drawn {
    let caption = drawn.prompt.as_deref().and_then(Caption::parse);
    drawn.score = caption.zip(reader::read(&drawn.image).ok()).map(|(caption, reading)| {
        let score = reading.score(&caption);
        (score.right() + u32::from(score.clean)) as f32 / (ATTRIBUTES + 1) as f32
    });
    drawn
}

impl ModuleFile {
    fn open(path: &str, section: &ChooseSection, condition: &Condition) -> Result<ModuleFile, JobError> {
        let usage = |what: String| JobError::Usage(what);
        let texts = match (condition, &section.tokenizer, section.length) {
            (Condition::Text(_), Some(file), Some(length)) => {
                let tokenizer = TextTokenizer::open(file).map_err(|error| usage(error.to_string()))?;
                Some(Texts { tokenizer: Some(Arc::new(tokenizer)), length: length as usize })
            }
            (Condition::Text(text), ..) => {
                Some(Texts { tokenizer: None, length: usize::try_from(text.length).unwrap_or(0) })
            }
            (_, Some(_), _) => {
                return Err(usage("choose.tokenizer is given, but the chain is not conditioned on text".to_owned()));
            }
            _ => None,
        };
        let fingerprint = fingerprint(path).map_err(|error| {
            usage(format!(
                "choose.scorer = \"{path}\" is neither \"likelihood\" nor \"shapes\", and no file that can be read: {error}"
            ))
        })?;
        Ok(ModuleFile { key: "choose.scorer", path: path.to_owned(), fingerprint, texts })
    }

    /// A module that compares images with texts, of which it sees `length` ids of a tokenizer. `key` names it in messages.
    ///
    /// # Errors
    /// [`JobError::Usage`]: a file that cannot be read.
    pub fn of_texts(
        (key, path): (&'static str, &str),
        tokenizer: TextTokenizer,
        length: usize,
    ) -> Result<ModuleFile, JobError> {
        let fingerprint = fingerprint(path).map_err(|error| {
            JobError::Usage(format!("{key} = \"{path}\" is not \"shapes\", and no file that can be read: {error}"))
        })?;
        let texts = Some(Texts { tokenizer: Some(Arc::new(tokenizer)), length });
        Ok(ModuleFile { key, path: path.to_owned(), fingerprint, texts })
    }

    /// What pins it: its bytes, and its tokenizer with the number of its ids.
    pub fn name(&self) -> String {
        match self.texts.as_ref().and_then(|texts| Some((texts, texts.tokenizer.as_ref()?))) {
            Some((texts, tokenizer)) => {
                format!("sha256:{} of {} ids of {}", self.fingerprint, texts.length, tokenizer.fingerprint())
            }
            None => format!("sha256:{}", self.fingerprint),
        }
    }

    /// Loads it onto `device`, and calls it once to see that it keeps to the contract.
    ///
    /// # Errors
    /// [`JobError::Usage`]: no TorchScript, or one of another signature.
    pub fn load(
        &self,
        device: Device,
        condition: &Condition,
        (height, width): (u32, u32),
        batch: usize,
    ) -> Result<Module, JobError> {
        let wrong = |what: String| JobError::Usage(format!("{} = {}: {what}", self.key, self.path));
        let loaded = CModule::load_on_device(&self.path, device).and_then(|mut module| {
            module.f_set_eval()?;
            Ok(module)
        });
        let module = loaded.map_err(|error| wrong(format!("it is no TorchScript module: {}", first_line(&error))))?;
        let classes = match condition {
            Condition::Class { classes, .. } => Some(i64::from(*classes)),
            Condition::None | Condition::Text(_) => None,
        };
        let module = Module { module, device, classes, texts: self.texts.clone(), batch: batch.max(1) };
        let images = vec![vec![0; height as usize * width as usize * 3]; 2];
        let blank: Vec<Rgb> = images.into_iter().map(|pixels| Rgb { width, height, pixels }).collect();
        let ids = self.texts.as_ref().map(|texts| vec![0; texts.length * blank.len()]);
        let given = module.call(&blank.iter().collect::<Vec<_>>(), ids);
        let given = given.map_err(|error| wrong(format!("{}: {}", module.contract(), first_line(&error))))?;
        let size = given.size();
        match module.fits(&size, blank.len()) {
            true => Ok(module),
            false => Err(wrong(format!("{}; of two images it gives the shape {size:?}", module.contract()))),
        }
    }
}

/// A TorchScript module on a device.
#[derive(Debug)]
pub struct Module {
    module: CModule,
    device: Device,
    /// How many classes its logits are of.
    classes: Option<i64>,
    texts: Option<Texts>,
    batch: usize,
}

impl Module {
    /// Settings of the thread that calls it. The module's graph stays as it is: one that is rewritten after a few calls gives the
    /// same image other bits later in a run.
    pub fn on_thread() -> Result<(), TchError> {
        tch::jit::f_set_graph_executor_optimize(false)
    }

    /// Scores images of these subjects.
    ///
    /// # Errors
    /// What the module refuses; texts without ids.
    pub fn score(&self, images: &[&Rgb], subjects: &[&Subject]) -> Result<Vec<Option<f32>>, BoxError> {
        let _guard = tch::no_grad_guard();
        let mut scores = Vec::with_capacity(images.len());
        for (images, subjects) in images.chunks(self.batch).zip(subjects.chunks(self.batch)) {
            let given = self.call(images, self.ids(subjects)?)?;
            let given = match self.classes {
                Some(_) => given.f_softmax(-1, Kind::Double)?,
                None => given.f_view([-1, 1])?,
            };
            let columns = given.size2()?.1 as usize;
            let flat =
                Vec::<f64>::try_from(given.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?.f_flatten(0, -1)?)?;
            for (row, subject) in flat.chunks(columns.max(1)).zip(subjects) {
                let place = match subject {
                    Subject::Class(class) => *class as usize,
                    _ => 0,
                };
                scores.push(row.get(place).map(|score| *score as f32));
            }
        }
        Ok(scores)
    }

    /// How well images fit these texts, by the module's own tokenizer.
    ///
    /// # Errors
    /// What the module refuses; a module without a tokenizer.
    pub fn score_texts(&self, images: &[&Rgb], texts: &[&str]) -> Result<Vec<f64>, BoxError> {
        let own = self.texts.as_ref().and_then(|own| Some((own.tokenizer.as_ref()?, own.length)));
        let (tokenizer, length) = own.ok_or("the module has no text tokenizer")?;
        let mut scores = Vec::with_capacity(images.len());
        for (images, texts) in images.chunks(self.batch).zip(texts.chunks(self.batch)) {
            let mut ids = Vec::with_capacity(texts.len() * length);
            for text in texts {
                ids.extend(tokenizer.encode(text, length)?.ids.into_iter().map(i64::from));
            }
            let given = self.call(images, Some(ids))?.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?;
            scores.extend(Vec::<f64>::try_from(given.f_flatten(0, -1)?)?);
        }
        Ok(scores)
    }

    fn call(&self, images: &[&Rgb], ids: Option<Vec<i64>>) -> Result<Tensor, TchError> {
        let _guard = tch::no_grad_guard();
        let first = images.first().ok_or_else(|| TchError::Shape("no images".to_owned()))?;
        let shape = [images.len() as i64, first.height.into(), first.width.into(), 3];
        let pixels: Vec<u8> = images.iter().flat_map(|image| image.pixels.iter().copied()).collect();
        let pixels = Tensor::f_from_slice(&pixels)?.f_view(shape)?.f_to_device(self.device)?;
        let pixels = pixels.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?.f_contiguous()?;
        match ids {
            None => self.module.forward_ts(&[pixels]),
            Some(ids) => {
                let ids = Tensor::f_from_slice(&ids)?.f_view([images.len() as i64, -1])?.f_to_device(self.device)?;
                self.module.forward_ts(&[pixels, ids])
            }
        }
    }

    /// The ids of texts, row by row.
    fn ids(&self, subjects: &[&Subject]) -> Result<Option<Vec<i64>>, BoxError> {
        let Some(texts) = &self.texts else { return Ok(None) };
        let mut all = Vec::with_capacity(subjects.len() * texts.length);
        for subject in subjects {
            let Subject::Prompt(prompt) = subject else { return Err("an image of no text cannot be scored".into()) };
            match &texts.tokenizer {
                Some(tokenizer) => {
                    all.extend(tokenizer.encode(&prompt.text, texts.length)?.ids.into_iter().map(i64::from))
                }
                None => all.extend(prompt.ids.iter().map(|&id| i64::from(id))),
            }
        }
        Ok(Some(all))
    }

    fn fits(&self, size: &[i64], batch: usize) -> bool {
        let batch = batch as i64;
        match self.classes {
            Some(classes) => size == [batch, classes],
            None => size == [batch] || size == [batch, 1],
        }
    }

    /// What it must be.
    fn contract(&self) -> String {
        match (self.classes, &self.texts) {
            (Some(classes), _) => format!("its forward(images) must give logits of shape [batch, {classes}]"),
            (None, Some(texts)) => {
                format!("its forward(images, ids [batch, {}]) must give one number an image", texts.length)
            }
            (None, None) => "its forward(images) must give one number an image".to_owned(),
        }
    }
}

/// The hex SHA-256 of a file.
fn fingerprint(path: &str) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(piece.get(..read).unwrap_or(&piece)),
        }
    }
}

/// The first line of what libtorch complains about, which a trace follows.
fn first_line(error: &TchError) -> String {
    error.to_string().lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}
