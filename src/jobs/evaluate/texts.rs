//! How well images fit their texts: by a module of the user's (CLIP-score), or by the rule reader of the demo.

use super::Stop;
use super::figure::{Better, Figure, Group};
use super::pictures::{Picture, Source};
use super::plan::{Making, usage};
use crate::chain::{Condition, ModelDirectory};
use crate::imaging::Rgb;
use crate::jobs::JobError;
use crate::jobs::demo::reader::{self, ATTRIBUTES, Score};
use crate::jobs::demo::scenes::SIDE;
use crate::jobs::demo::words::Caption;
use crate::jobs::model::refused;
use crate::jobs::sample::scorer::{Module, ModuleFile};
use crate::text::TextTokenizer;
use sha2::{Digest, Sha256};

/// A figure of the reader's: its name, what it is a share of, and the share that a picture has right.
type Share = (&'static str, &'static str, fn(&Score) -> f64);

const SHARES: [Share; 7] = [
    ("attributes", "of 7 a picture: sizes, colours and kinds of two shapes, and how they lie", |score| {
        part(score.right(), ATTRIBUTES)
    }),
    ("sizes", "of 2 a picture", |score| part(score.sizes, 2)),
    ("colours", "of 2 a picture", |score| part(score.colours, 2)),
    ("kinds", "of 2 a picture", |score| part(score.kinds, 2)),
    ("relations", "of pictures", |score| part(score.relations, 1)),
    ("clean", "of pictures: two shapes and nothing else", |score| part(score.clean.into(), 1)),
    ("perfect", "of pictures: clean, and all attributes right", |score| part(score.is_perfect().into(), 1)),
];

fn part(right: u32, of: u32) -> f64 {
    f64::from(right) / f64::from(of)
}

/// What judges images by their texts.
pub enum Judge {
    /// The rule reader of the demo's shapes.
    Shapes,
    /// A TorchScript module, and what pins it.
    Module(Box<Module>, String),
}

/// Judges images by their texts.
pub struct Texts {
    pub judge: Judge,
    /// Images of one forward pass.
    pub batch: usize,
}

impl Texts {
    /// Judges up to `limit` images that have a text: the figures, and what a reader must know.
    ///
    /// # Errors
    /// [`JobError::Usage`] for images without texts, texts that are no captions of the demo, a score that is no number; what reading
    /// and libtorch report.
    pub fn run(
        &self,
        source: &Source,
        (mut group, limit): (Group, u64),
        stop: &Stop,
    ) -> Result<(Vec<Figure>, Vec<String>), JobError> {
        let mut judged = Judged::default();
        let (mut pictures, mut identity, mut without) = (source.open(), Sha256::new(), 0u64);
        while judged.rows() < limit
            && let Some(batch) = pictures.next_batch(self.batch)?
        {
            stop.check()?;
            let before = batch.len();
            let mut told: Vec<Told> = batch.into_iter().filter_map(Told::of).collect();
            without += (before - told.len()) as u64;
            told.truncate(usize::try_from(limit - judged.rows()).unwrap_or(usize::MAX));
            // Rows are texts: chains that drew the same ones are compared in pairs.
            told.iter().for_each(|told| identity.update(Sha256::digest(&told.text)));
            self.judge.add(&told, &mut judged)?;
        }
        group.rows = judged.rows();
        if group.rows == 0 {
            return Err(JobError::Usage(
                "none of the images has a text to be scored beside: draw them of prompts, or leave evaluate.scorer out"
                    .to_owned(),
            ));
        }
        group.rows_id = crate::digest::hex(&identity.finalize());
        let note = || format!("{without} images without a text were not scored beside one.");
        Ok((self.judge.figures(judged, &group), (without > 0).then(note).into_iter().collect()))
    }
}

/// An image with its text.
struct Told {
    key: String,
    text: String,
    image: Rgb,
}

impl Told {
    fn of(Picture { image, key, text }: Picture) -> Option<Told> {
        Some(Told { key, text: text?, image })
    }
}

/// Of every image, in order; by either judge.
#[derive(Default)]
struct Judged {
    similarities: Vec<f64>,
    scores: Vec<Score>,
}

impl Judged {
    fn rows(&self) -> u64 {
        self.similarities.len().max(self.scores.len()) as u64
    }
}

impl Judge {
    fn add(&self, told: &[Told], judged: &mut Judged) -> Result<(), JobError> {
        match self {
            Judge::Shapes => {
                for told in told {
                    judged.scores.push(read(told)?);
                }
            }
            Judge::Module(module, _) => {
                let images: Vec<&Rgb> = told.iter().map(|told| &told.image).collect();
                let texts: Vec<&str> = told.iter().map(|told| told.text.as_str()).collect();
                let scores = module.score_texts(&images, &texts).map_err(|error| {
                    // libtorch's errors go on with a trace.
                    let (error, first) = (error.to_string(), told.first().map_or("", |told| told.key.as_str()));
                    let line = error.lines().next().unwrap_or_default();
                    JobError::Usage(format!("evaluate.scorer, at the image {first} or one of those behind it: {line}"))
                })?;
                if let Some((told, score)) = told.iter().zip(&scores).find(|(_, score)| !score.is_finite()) {
                    return Err(JobError::Usage(format!(
                        "evaluate.scorer gives {score} for the image {}: the module or its input is broken",
                        told.key
                    )));
                }
                judged.similarities.extend(scores);
            }
        }
        Ok(())
    }

    fn figures(&self, judged: Judged, group: &Group) -> Vec<Figure> {
        let what = ("", Better::Higher);
        match self {
            Judge::Module(_, name) => {
                let figure = group.mean("clip_score", judged.similarities, what);
                let pinned = figure.map(|figure| {
                    let definition = "mean of what the module gives for an image (0 to 1, as it is) and its text";
                    figure.with("scorer", name).with("definition", definition)
                });
                pinned.into_iter().collect()
            }
            Judge::Shapes => {
                let columns = SHARES.into_iter().filter_map(|(name, definition, share)| {
                    let figure = group.mean(name, judged.scores.iter().map(share).collect(), what)?;
                    Some(figure.with("scorer", "rule reader of the demo's shapes").with("definition", definition))
                });
                columns.collect()
            }
        }
    }
}

fn read(told: &Told) -> Result<Score, JobError> {
    let Told { key, text, image } = told;
    let caption = Caption::parse(text).ok_or_else(|| {
        JobError::Usage(format!(
            "evaluate.scorer = \"shapes\" reads the demo's captions, and \"{text}\" of the image {key} is none of them"
        ))
    })?;
    let reading = reader::read(image).map_err(|error| JobError::Usage(format!("the image {key}: {error}")))?;
    Ok(reading.score(&caption))
}

impl Making<'_> {
    /// What judges the texts of the `generated` images.
    ///
    /// # Errors
    /// [`JobError::Usage`]: a scorer that cannot judge such images.
    pub async fn text(&self, generated: Option<&Source>) -> Result<Option<(Texts, Group)>, JobError> {
        let (pipeline, section) = (self.pipeline, self.section);
        let Some(scorer) = &section.scorer else {
            let what =
                "evaluate.metrics asks for text: give evaluate.scorer, \"shapes\" or the file of a TorchScript module";
            return self.missing(what);
        };
        let Some(source) = generated else { return self.nothing_generated("text") };
        let (batch, (width, height)) = (section.batch_size as usize, source.size().await?);
        let judge = match scorer.as_str() {
            "shapes" => {
                readable((width, height))?;
                Judge::Shapes
            }
            path => {
                let (tokenizer, length) = match (&section.scorer_tokenizer, section.scorer_length) {
                    (Some(file), Some(length)) => (TextTokenizer::open(file).map_err(usage)?, length as usize),
                    _ => self.tokenizer_of_chain(&pipeline.chain.model)?,
                };
                let file = ModuleFile::of_texts(("evaluate.scorer", path), tokenizer, length)?;
                let module = file.load(self.device.device, &Condition::None, (height, width), batch)?;
                Judge::Module(Box::new(module), file.name())
            }
        };
        Ok(Some((Texts { judge, batch }, self.group("text"))))
    }

    /// The text tokenizer of the chain, and how many of its ids the chain sees.
    fn tokenizer_of_chain(&self, model: &str) -> Result<(TextTokenizer, usize), JobError> {
        let none = "evaluate.scorer is a module that takes token ids: give evaluate.scorer_tokenizer and evaluate.scorer_length, or \
                    chain.model of a chain that is conditioned on text";
        if model.is_empty() {
            return Err(JobError::Usage(none.to_owned()));
        }
        let directory = ModelDirectory::open(model).map_err(refused)?;
        match directory.config().condition {
            Condition::Text(text) => {
                let tokenizer = TextTokenizer::open(directory.text_tokenizer_file()).map_err(usage)?;
                Ok((tokenizer, usize::try_from(text.length).unwrap_or(0)))
            }
            _ => Err(JobError::Usage(none.to_owned())),
        }
    }
}

/// Whether the reader can read images of this width and height.
///
/// # Errors
/// [`JobError::Usage`] for other sizes than the demo's.
fn readable((width, height): (u32, u32)) -> Result<(), JobError> {
    match (width, height) == (SIDE, SIDE) {
        true => Ok(()),
        false => Err(JobError::Usage(format!(
            "evaluate.scorer = \"shapes\" reads the demo's pictures of {SIDE} × {SIDE} pixels, and these have {width} × {height}"
        ))),
    }
}
