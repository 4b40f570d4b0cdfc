//! From an image and its mask to what the chain is told of them.

use super::canvas::Canvas;
use super::mask::{self, Half, White};
use crate::chain::{MaskRule, PixelMask};
use crate::datasets::{Flaw, Pair};
use crate::imaging::{Crop, Kept, Preprocess, Rgb, decode};
use crate::jobs::sample::{Draw, SketchSource};
use crate::random::RowKey;
use crate::reject::{Reason, Reject};
use std::sync::{Arc, OnceLock};

/// What is drawn anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// What the mask says.
    Inpaint,
    Half(Half),
    /// The margins of the canvas.
    Outpaint,
}

/// How images are prepared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preparation {
    pub preprocess: Preprocess,
    pub mode: Mode,
    /// In tokens.
    pub canvas: Canvas,
    /// Pixels of a token's side.
    pub factor: u32,
    pub rule: MaskRule,
    pub white: White,
    /// Over how many pixels what stays fades into what is drawn; none where its own pixels do not stay.
    pub feather: Option<u16>,
    /// The run's.
    pub seed: u64,
}

/// An image that is edited. What is drawn over it, one or several, shares it.
pub(super) struct Source {
    /// As the table of samples has it.
    pub parent: Arc<str>,
    /// Its file, or that of its table.
    pub file: String,
    pub pair: Result<Pair, Flaw>,
    ready: OnceLock<Result<Arc<Ready>, Flaw>>,
}

/// An image as the networks take it.
pub(super) struct Ready {
    /// The crop's pixels.
    pub pixels: Vec<u8>,
    /// Which of its tokens stay.
    pub known: Vec<bool>,
    /// The random numbers of its tokens: those of outliers.
    pub key: RowKey,
    pub source: SketchSource,
}

/// An image to draw over another.
pub(super) struct Edit {
    pub draw: Draw,
    pub source: Arc<Source>,
    /// Whether it is the first that is drawn over its source.
    pub is_first: bool,
}

/// The same, with its source prepared.
pub(super) struct Prepared {
    pub draw: Draw,
    pub ready: Arc<Ready>,
}

impl Source {
    pub fn new(parent: Arc<str>, file: &str, pair: Result<Pair, Flaw>) -> Source {
        Source { parent, file: file.to_owned(), pair, ready: OnceLock::new() }
    }

    /// Bytes of the image and its mask.
    pub fn bytes(&self) -> u64 {
        let of = |pair: &Pair| pair.image.len() + pair.mask.as_ref().map_or(0, |mask| mask.len());
        self.pair.as_ref().map_or(0, of) as u64
    }
}

impl Preparation {
    /// The memory that an edit takes on its way: its pixels as they are drawn and as a file; and for the first of its source the
    /// files, their pixels while they are decoded, and what stays of them.
    pub fn cost(&self, edit: &Edit) -> u64 {
        let (height, width) = self.canvas.times(self.factor).size();
        let pixels = u64::from(height).saturating_mul(width.into());
        let drawn = pixels.saturating_mul(6);
        match &edit.source.pair {
            Ok(pair) if edit.is_first => {
                let mask = pair.mask.as_ref().map_or(0, |mask| self.preprocess.cost(mask));
                let files = self.preprocess.cost(&pair.image).saturating_add(mask);
                drawn.saturating_add(files).saturating_add(pixels.saturating_mul(5))
            }
            _ => drawn,
        }
    }

    /// Prepares the source of an edit, unless that is done; or rejects the edit with its reason.
    pub fn prepare(&self, Edit { draw, source, .. }: Edit) -> Vec<Result<Prepared, Reject>> {
        let make = || self.make(&source).map(Arc::new);
        vec![match source.ready.get_or_init(make) {
            Ok(ready) => Ok(Prepared { draw, ready: ready.clone() }),
            Err(Flaw { stage, reason, message }) => Err(Reject {
                source: source.file.clone(),
                index: draw.number.saturating_sub(draw.unit.range.as_ref().map_or(0, |range| range.start)),
                key: draw.key,
                unit: draw.unit.name.clone(),
                stage,
                reason: *reason,
                message: message.clone(),
            }),
        }]
    }

    fn make(&self, source: &Source) -> Result<Ready, Flaw> {
        let pair = source.pair.as_ref().map_err(Flaw::clone)?;
        // Of the image's name alone, so that images may come and go beside it.
        let key = RowKey::new(self.seed, &source.parent, 0, 0);
        let flaw = |stage, reason, message| Flaw { stage, reason, message };
        let crops = self.preprocess.prepare(&pair.image, |_| key);
        let crop = crops.map_err(|error| flaw("decode", error.reason(), error.to_string()))?.pop();
        let crop = crop.ok_or_else(|| flaw("decode", Reason::DecodeError, "it has no crop".to_owned()))?;
        let pixels = self.known(pair, &crop)?;
        let size = |what: String| flaw("mask", Reason::MaskSize, what);
        let known =
            pixels.tokens(self.canvas.image, self.factor, self.rule).map_err(|error| size(error.to_string()))?;
        let kept = self.feather.and_then(|feather| self.kept(&crop, &pixels, feather)).map(Arc::new);
        let source = SketchSource { parent: source.parent.clone(), kept };
        Ok(Ready { pixels: crop.pixels, known, key, source })
    }

    /// The pixels of the crop that stay.
    fn known(&self, pair: &Pair, crop: &Crop) -> Result<PixelMask, Flaw> {
        let side = self.preprocess.size;
        match self.mode {
            Mode::Outpaint => Ok(mask::all(side)),
            Mode::Half(half) => Ok(half.drawn(side, self.canvas.image.0 / 2 * self.factor)),
            Mode::Inpaint => {
                let name = &pair.mask_name;
                let flaw = |reason, what: String| Flaw { stage: "mask", reason, message: format!("{name}: {what}") };
                let mask = decode(pair.mask.as_deref().unwrap_or_default(), &self.preprocess.limits);
                let mask = mask.map_err(|error| flaw(error.reason(), error.to_string()))?;
                mask::known(&mask, crop, side, self.white).map_err(|what| flaw(Reason::MaskSize, what))
            }
        }
    }

    /// What stays of the crop's pixels, on the canvas.
    fn kept(&self, crop: &Crop, known: &PixelMask, feather: u16) -> Option<Kept> {
        let canvas = self.canvas.times(self.factor);
        let (height, width) = canvas.size();
        let image = Rgb { width, height, pixels: canvas.place(&crop.pixels, 3, 0) };
        Kept::new(image, &canvas.place(&known.known, 1, false), feather)
    }
}
