//! `[sample]` and `[edit]`: how a chain draws images.

use super::sections::DType;
use super::values::{Auto, LabelChoice, PerScale};
use crate::datasets::Pairs;
use serde::{Deserialize, Serialize};

/// `[sample]`: how tokens are drawn, and how many images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleSection {
    /// Images to draw; with prompts, of each of them: one when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// A table of texts or classes to draw images of, a local path or a URL: see [`crate::datasets::prompts`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<String>,
    /// Columns of that table that are passed over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_columns: Vec<String>,
    /// A file with the names of the chain's classes, one a line, class 0 first: a local path or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_names: Option<String>,
    /// Refuses prompts that are longer than the chain's text; otherwise their end is lost.
    pub strict: bool,
    /// Lets rows of the table have the same seed.
    pub shared_seeds: bool,
    /// Rows of a work unit, which is committed as one. A multiple of the batch size wastes no batch.
    pub unit_rows: u64,
    /// Height and width of the pictures in pixels, where they are larger than those the chain was trained for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<[u32; 2]>,
    /// The most tokens that a window of the chain's size moves over a larger picture at once; half a window when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<u32>,
    /// Rows the networks see at once.
    pub batch_size: Auto<u32>,
    /// Arithmetic of the chain's networks: `fp32`, `bf16`, or `auto`: fp32 on the CPU, bf16 on CUDA.
    pub dtype: Auto<DType>,
    /// A device for each scale, from scale 1 up, as `--device` names them: while a batch is at one scale, the batch behind it is at the
    /// scale before. All scales share one device when left out. Changes no bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Divides the logits; 1 when left out. A number, or a list from scale 1 up, as the three below.
    #[serde(skip_serializing_if = "PerScale::is_empty")]
    pub temperature: PerScale<f32>,
    /// Draws among this many of the likeliest tokens; all of them when left out.
    #[serde(skip_serializing_if = "PerScale::is_empty")]
    pub top_k: PerScale<u32>,
    /// Draws from the smallest set of tokens with this much probability; all of them when left out.
    #[serde(skip_serializing_if = "PerScale::is_empty")]
    pub top_p: PerScale<f32>,
    /// Classifier-free guidance; 1, which is none, when left out.
    #[serde(skip_serializing_if = "PerScale::is_empty")]
    pub guidance: PerScale<f32>,
    /// Takes the likeliest token instead of drawing: for tests.
    pub greedy: bool,
    /// The classes the rows take in turn: `all`, a number, a list; `none` draws without a condition. `auto`: `all` where the
    /// chain has classes.
    pub labels: LabelChoice,
    /// `default`, or `authors`: their code lets only the last scale obey the temperature.
    pub compat: String,
    /// What images are written as: `png` (lossless), `jpeg` (lossy), `webp` (lossless).
    pub image: String,
    /// Quality of `jpeg`, from 1 to 100; 90 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<u8>,
}

impl Default for SampleSection {
    fn default() -> Self {
        SampleSection {
            count: None,
            prompts: None,
            ignore_columns: Vec::new(),
            class_names: None,
            strict: false,
            shared_seeds: false,
            unit_rows: 1024,
            size: None,
            stride: None,
            batch_size: Auto::Auto,
            dtype: Auto::Auto,
            devices: Vec::new(),
            temperature: PerScale::default(),
            top_k: PerScale::default(),
            top_p: PerScale::default(),
            guidance: PerScale::default(),
            greedy: false,
            labels: LabelChoice::Auto,
            compat: "default".to_owned(),
            image: "png".to_owned(),
            quality: None,
        }
    }
}

/// `[edit]`: what is edited, and how the chain goes about it. Temperature and the like are those of `[sample]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EditSection {
    /// A folder of images, or a Parquet table of images and masks: a local path or a URL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub images: String,
    /// A folder of masks, each named as its image but for the ending; none with a table, which has them, and where the mode needs
    /// none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub masks: String,
    /// What is drawn anew: `inpaint`, what the mask says; `upper-half`, `lower-half`; `outpaint`, margins around the image.
    pub mode: String,
    /// Pixels by which the canvas is larger than the image: left, top, right, bottom.
    #[serde(skip_serializing_if = "is_zero")]
    pub margins: [u32; 4],
    /// Images to draw of each that is edited, unless its row says; 1 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// What white pixels of a mask say: `keep`, as the authors' masks do, or `edit`.
    pub white: String,
    /// The class to edit towards, where the chain has classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    /// The text to edit towards, where the chain is conditioned on text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Whether the pixels that stay are the image's own. If not, they are what the tokenizer makes of them.
    pub blend: bool,
    /// Over how many pixels they fade into what was drawn.
    pub feather: u16,
    /// How often each scale is run: a number, or a list from scale 1 up. Left out: as the authors do.
    #[serde(skip_serializing_if = "PerScale::is_empty")]
    pub repeats: PerScale<u32>,
    /// How many candidates each pass draws, of which one stays by how well the known tokens fit it: a number, or a list from scale 1
    /// up. Left out: one.
    #[serde(skip_serializing_if = "PerScale::is_empty")]
    pub candidates: PerScale<u32>,
    /// The scale to start from; the last one when left out. Lower scales change less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u32>,
    /// `default`, or `authors`: their inpainting, which re-noises known tokens too.
    pub compat: String,
}

impl EditSection {
    /// Whether masks say what is drawn anew.
    pub fn is_masked(&self) -> bool {
        self.mode == "inpaint"
    }

    /// What is wrong with it: the key, and what to do about it.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        let table = Pairs::is_table(&self.images);
        match () {
            () if self.count == Some(0) => Some(("edit.count", "edit.count must be 1 or more".to_owned())),
            () if !self.masks.is_empty() && table => {
                let message =
                    "edit.masks is given, but edit.images is a table, whose column `mask` has them: leave it out";
                Some(("edit.masks", message.to_owned()))
            }
            () if !self.masks.is_empty() && !self.is_masked() => Some((
                "edit.masks",
                format!("edit.masks is given, but edit.mode = \"{}\" takes no masks: leave one out", self.mode),
            )),
            () if (self.mode == "outpaint") == is_zero(&self.margins) => Some((
                "edit.margins",
                "edit.margins = [left, top, right, bottom] and edit.mode = \"outpaint\" need each other".to_owned(),
            )),
            () if self.feather > 0 && !self.blend => {
                Some(("edit.feather", "edit.feather needs edit.blend = true: without it there is no seam".to_owned()))
            }
            () => None,
        }
    }
}

fn is_zero(margins: &[u32; 4]) -> bool {
    *margins == [0; 4]
}

impl Default for EditSection {
    fn default() -> Self {
        EditSection {
            images: String::new(),
            masks: String::new(),
            mode: "inpaint".to_owned(),
            margins: [0; 4],
            count: None,
            white: "keep".to_owned(),
            label: None,
            prompt: None,
            blend: true,
            feather: 0,
            repeats: PerScale::default(),
            candidates: PerScale::default(),
            start: None,
            compat: "default".to_owned(),
        }
    }
}
