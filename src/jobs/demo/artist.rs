//! A chain that draws shapes from captions, and completes pictures of them.

use super::DemoError;
use super::scenes::SIDE;
use super::words::Caption;
use crate::chain::{
    Chain, Condition, EditOptions, EditRow, ModelDirectory, Row, RowCondition, SampleError, ScaleSettings,
    SettingsLists,
};
use crate::imaging::Rgb;
use crate::jobs::JobError;
use crate::jobs::model::refused;
use crate::random::RowKey;
use crate::text::TextTokenizer;
use crate::torch::device::DeviceInUse;
use crate::transformer::Placement;
use crate::vqgan::{Tokenizer, TokenizerOptions};
use std::path::Path;
use std::sync::Arc;
use tch::Kind;

/// How pictures are completed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completing {
    /// Passes of each scale, from scale 1 up; none for [`Chain::default_repeats`].
    pub repeats: Vec<u32>,
    /// Candidates of each scale's passes, from scale 1 up; none for one each.
    pub candidates: Vec<u32>,
    /// So many completions of each picture are drawn, and the likeliest is kept (see [`Chain::bound`]). 0 is 1.
    pub draws: u64,
}

/// Pictures that the networks see at once.
const BATCH: usize = 16;

/// Which half of a picture is given; the other is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    Upper,
    Lower,
}

/// A picture to complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    pub tokens: Vec<u16>,
    /// What the whole picture shows, where that is told.
    pub caption: Option<Caption>,
}

/// The networks of a model directory in float32.
#[derive(Debug)]
pub struct Artist {
    chain: Chain,
    tokenizer: Tokenizer,
    text: TextTokenizer,
    settings: Arc<[ScaleSettings]>,
    length: usize,
    seed: u64,
}

impl Artist {
    /// Loads a chain that is conditioned on text and draws pictures of the data set's size.
    ///
    /// # Errors
    /// [`JobError::Usage`] for a model that is no such chain, and for settings that do not fit it.
    pub fn open(model: &Path, device: &DeviceInUse, settings: &SettingsLists, seed: u64) -> Result<Artist, JobError> {
        let directory = ModelDirectory::open(model).map_err(refused)?;
        let config = directory.config();
        let Condition::Text(text) = config.condition else {
            let message = format!("the chain in {} is not conditioned on text, so it has no captions", model.display());
            return Err(JobError::Usage(message));
        };
        directory.check_image_size((SIDE, SIDE)).map_err(refused)?;
        let settings = settings
            .resolve(config.scales(), config.codebook_size, &config.condition)
            .map_err(|error| JobError::Usage(error.to_string()))?;
        let chain = directory.load(Placement { device: device.device, kind: Kind::Float }).map_err(refused)?;
        let options = TokenizerOptions { device: device.device, ..TokenizerOptions::default() };
        let tokenizer = directory.load_tokenizer(options).map_err(refused)?;
        let file = directory.text_tokenizer_file();
        let words = TextTokenizer::open(file).map_err(|error| JobError::Usage(error.to_string()))?;
        let length = usize::try_from(text.length).unwrap_or(0);
        Ok(Artist { chain, tokenizer, text: words, settings, length, seed })
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// What turns captions into ids.
    pub fn text(&self) -> &TextTokenizer {
        &self.text
    }

    /// A picture for each caption, by the random numbers that `imagebart sample` has for the same rows.
    pub fn draw(&self, captions: &[Caption]) -> Result<Vec<Rgb>, JobError> {
        let mut pictures = Vec::with_capacity(captions.len());
        for (at, captions) in (0..).step_by(BATCH).zip(captions.chunks(BATCH)) {
            let rows: Result<Vec<Row>, JobError> =
                (at..).zip(captions).map(|(number, caption)| self.row("rows", number, Some(caption))).collect();
            let grids = self.chain.sample(&rows?).map_err(JobError::failed)?;
            pictures.extend(self.decode(&grids)?);
        }
        Ok(pictures)
    }

    /// The pictures with the half that is not given drawn anew.
    pub fn complete(&self, torn: &[Torn], given: Given, how: &Completing) -> Result<Vec<Rgb>, JobError> {
        let (rows, columns) = self.chain.config().grid;
        let upper = (rows / 2 * columns) as usize;
        let known: Vec<bool> =
            (0..self.chain.config().tokens()).map(|token| (token < upper) == (given == Given::Upper)).collect();
        let options =
            EditOptions { repeats: how.repeats.clone(), candidates: how.candidates.clone(), ..EditOptions::default() };
        let draws = how.draws.max(1);
        let mut edits = Vec::with_capacity(torn.len());
        for (picture, torn) in (0..).zip(torn) {
            let path = RowKey::new(self.seed, "paths", picture, 0);
            for number in picture * draws..(picture + 1) * draws {
                let row = self.row("completions", number, torn.caption.as_ref())?;
                edits.push((EditRow { row, tokens: torn.tokens.clone(), known: known.clone() }, path));
            }
        }
        let drawn: Result<Vec<_>, JobError> =
            edits.chunks(BATCH).map(|edits| self.completions(edits, &options)).collect();
        let likeliest = |of: &[(Vec<u16>, f64)]| {
            let best = of.iter().min_by(|(_, a), (_, b)| a.total_cmp(b));
            best.map(|(grid, _)| grid.clone()).unwrap_or_default()
        };
        let grids: Vec<Vec<u16>> = drawn?.concat().chunks(draws as usize).map(likeliest).collect();
        self.decode(&grids)
    }

    /// What edits draw, and the [bound](Chain::bound) of each on its way through the forward process.
    fn completions(
        &self,
        edits: &[(EditRow, RowKey)],
        options: &EditOptions,
    ) -> Result<Vec<(Vec<u16>, f64)>, JobError> {
        let failed = |error: SampleError| JobError::failed(error);
        let (edits, paths): (Vec<EditRow>, Vec<RowKey>) = edits.iter().cloned().unzip();
        let grids = self.chain.edit(&edits, options).map_err(failed)?;
        let rows: Vec<Row> = edits.into_iter().map(|edit| edit.row).collect();
        let slices: Vec<&[u16]> = grids.iter().map(Vec::as_slice).collect();
        let bounds = self.chain.bound(&rows, &slices, &paths).map_err(failed)?;
        Ok(grids.into_iter().zip(bounds).collect())
    }

    /// The token grids of pictures of the data set.
    pub fn encode(&self, pictures: &[Rgb]) -> Result<Vec<Vec<u16>>, JobError> {
        let mut grids = Vec::with_capacity(pictures.len());
        for (at, pictures) in (0..).step_by(BATCH).zip(pictures.chunks(BATCH)) {
            let images: Vec<&[u8]> = pictures.iter().map(|picture| picture.pixels.as_slice()).collect();
            let keys: Vec<RowKey> =
                (at..).take(pictures.len()).map(|number| RowKey::new(self.seed, "pictures", number, 0)).collect();
            if let Some(other) = pictures.iter().find(|picture| (picture.width, picture.height) != (SIDE, SIDE)) {
                return Err(JobError::failed(DemoError::Side { width: other.width, height: other.height }));
            }
            grids.extend(self.tokenizer.encode(&images, (SIDE, SIDE), &keys).map_err(JobError::failed)?);
        }
        Ok(grids)
    }

    /// The pictures of token grids.
    pub fn decode(&self, grids: &[Vec<u16>]) -> Result<Vec<Rgb>, JobError> {
        let mut pictures = Vec::with_capacity(grids.len());
        for grids in grids.chunks(BATCH) {
            let grids: Vec<&[u16]> = grids.iter().map(Vec::as_slice).collect();
            pictures.extend(self.tokenizer.decode(&grids, self.chain.config().grid).map_err(JobError::failed)?);
        }
        Ok(pictures)
    }

    fn row(&self, unit: &str, number: u64, caption: Option<&Caption>) -> Result<Row, JobError> {
        let condition = match caption {
            None => RowCondition::Null,
            Some(caption) => {
                let ids = self.text.encode(&caption.to_string(), self.length).map_err(JobError::failed)?.ids;
                RowCondition::Text(ids)
            }
        };
        Ok(Row { key: RowKey::new(self.seed, unit, number, 0), condition, settings: self.settings.clone() })
    }
}
