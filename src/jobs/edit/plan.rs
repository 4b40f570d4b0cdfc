//! What an `edit` will do, found out before any work: the model, images and masks, units, identity.

use super::canvas::Canvas;
use super::mask::{Half, White};
use super::prepare::{Mode, Preparation};
use crate::chain::{Compat, Condition, EditOptions, MaskRule};
use crate::config::{EditSection, Pipeline};
use crate::datasets::prompts::{PromptRow, PromptTable};
use crate::datasets::{Captions, DatasetOptions, PairFolders, PairTable, Pairs, Unit};
use crate::imaging::{Preprocess, Trim};
use crate::jobs::JobError;
use crate::jobs::encode::{preprocess_of, preprocessing};
use crate::jobs::model::{Model, Painter, Selections, refused};
use crate::jobs::outline::describe_tiles;
use crate::jobs::sample::{
    Cutter, Interpreter, Module, SampleOptions, Scorer, Share, Subject, Survey, survey, whole_tokens,
};
use crate::jobs::work::{Pending, Work, outlook};
use crate::tables::{EditSelection, Preprocessing, RowSelection, SamplesIdentity};
use crate::vqgan::Tiles;
use std::fmt;
use std::sync::Arc;

/// The key that names images, for messages.
const IMAGES: &str = "edit.images";
/// Largest margin, in pixels: an image behind a larger one is a mistake.
const MAX_MARGIN: u32 = 8192;

/// Everything `edit` needs, checked; the weights are not loaded yet.
pub struct EditPlan {
    pub(super) model: Model,
    pub(super) pairs: Pairs,
    pub(super) interpreter: Interpreter,
    /// What a first look through the rows told.
    pub(super) survey: Survey,
    pub(super) preparation: Preparation,
    pub(super) options: EditOptions,
    pub(super) scorer: Option<Scorer>,
    /// How the canvas is decoded, where it is too large to be decoded whole.
    pub(super) tiles: Option<Tiles>,
    rows: RowSelection,
    edit: EditSelection,
}

impl EditPlan {
    /// Opens model and device, finds images and masks, and decides what was left open. Settings on `auto` take what the output
    /// records.
    pub async fn make(pipeline: &Pipeline, options: &SampleOptions) -> Result<EditPlan, JobError> {
        let section = &pipeline.edit;
        let model = Model::open(pipeline, (options.device, options.overwrite), &section.compat).await?;
        let preparation = preparation(pipeline, &model)?;
        let options = chain_options(section, &model)?;
        let size = preparation.canvas.times(preparation.factor).size();
        let tiles = model.tiles(preparation.canvas.size(), pipeline.tokenizer.decode_memory)?;
        let scorer = Scorer::open(&pipeline.choose, &model.directory.config().condition, size)?;
        let share = scorer.as_ref().map(|_| Share::new(&pipeline.choose));
        let (pairs, interpreter) = inputs(pipeline, &model, share).await?;
        let cutter = Cutter::new(pipeline.sample.unit_rows).whole(share.is_some());
        let survey = survey(&interpreter, cutter, pipeline.sample.shared_seeds).await?;
        let rows = RowSelection {
            count: survey.draws,
            unit_rows: pipeline.sample.unit_rows,
            labels: "prompts".to_owned(),
            prompts: Some(survey.digest.clone()),
        };
        let edit = EditSelection {
            inputs: pairs.digest(),
            preprocessing: Preprocessing { trim: None, ..preprocessing(pipeline) },
            white: section.white.clone(),
            repeats: options.repeats.clone(),
            candidates: if options.has_candidates() { options.candidates.clone() } else { Vec::new() },
            start: options.start.unwrap_or_else(|| model.directory.config().scales()),
            mode: section.mode.clone(),
            margins: section.margins,
            blend: section.blend,
            feather: section.feather,
        };
        Ok(EditPlan { model, pairs, interpreter, survey, preparation, options, scorer, tiles, rows, edit })
    }

    /// Loads the weights; with them the run's identity is known.
    pub fn load(&self, pipeline: &Pipeline) -> Result<(Painter, Work<SamplesIdentity>), JobError> {
        let painter = self.model.load()?;
        let choose = self.scorer.as_ref().map(|scorer| scorer.selection(&pipeline.choose));
        let selections = Selections {
            grid: self.preparation.canvas.size(),
            rows: self.rows.clone(),
            choose,
            large: None,
            tiles: self.tiles,
            edit: Some(self.edit.clone()),
        };
        let provenance = Arc::new(self.model.provenance((painter.chain.fingerprint(), &painter.developer), selections));
        let (units, url) = (self.survey.units.clone(), pipeline.output.url.clone());
        Ok((painter, Work { units, provenance, url, recorded: self.model.recorded() }))
    }

    /// Loads the scorer onto the run's device, where it is a module of the user's.
    pub(super) fn load_scorer(&self) -> Result<Option<Module>, JobError> {
        let size = self.preparation.canvas.times(self.preparation.factor).size();
        self.scorer.as_ref().map_or(Ok(None), |scorer| scorer.load(&self.model, size))
    }

    fn units(&self) -> &[Arc<Unit>] {
        &self.survey.units
    }

    /// What would be done, for `--dry-run`: no weights are read.
    pub async fn describe(pipeline: &Pipeline, options: &SampleOptions) -> Result<String, JobError> {
        let plan = EditPlan::make(pipeline, options).await?;
        let keep = plan.model.recorded() && !options.overwrite;
        let pending = outlook::<SamplesIdentity>(plan.units(), (&pipeline.output.url, keep), options.rank).await?;
        Ok(Description { plan: &plan, pipeline, pending: &pending }.to_string())
    }
}

/// How images become tokens, and what of them stays.
fn preparation(pipeline: &Pipeline, model: &Model) -> Result<Preparation, JobError> {
    let section = &pipeline.edit;
    // Masks are drawn over images as they are: nothing is trimmed, whatever the dataset's images need.
    let preprocess = Preprocess { trim: Trim::None, ..preprocess_of(pipeline)? };
    if preprocess.rows_per_image() != 1 {
        let message = "edit takes one crop of an image: set image.crops = 1 and image.flip = \"none\"";
        return Err(JobError::Usage(message.to_owned()));
    }
    model.directory.check_image_size((preprocess.size, preprocess.size)).map_err(refused)?;
    let factor = model.factor()?;
    let margins = margins(section, factor)?;
    let mode = match section.mode.as_str() {
        "upper-half" => Mode::Half(Half::Upper),
        "lower-half" => Mode::Half(Half::Lower),
        "outpaint" => Mode::Outpaint,
        _ => Mode::Inpaint,
    };
    Ok(Preparation {
        preprocess,
        mode,
        canvas: Canvas { image: model.directory.config().grid, margins },
        factor,
        rule: if model.compat == Compat::Authors { MaskRule::FirstPixel } else { MaskRule::AllPixels },
        white: if section.white == "edit" { White::Edit } else { White::Keep },
        feather: section.blend.then_some(section.feather),
        seed: pipeline.run.seed,
    })
}

/// The canvas's margins in tokens of `factor` pixels.
fn margins(section: &EditSection, factor: u32) -> Result<[u32; 4], JobError> {
    let given = section.margins;
    let wrong = |text: String| Err(JobError::Usage(format!("edit.margins = {given:?}: {text}")));
    let mut tokens = given;
    for (margin, tokens) in given.into_iter().zip(&mut tokens) {
        if margin > MAX_MARGIN {
            return wrong(format!("{margin} is more than {MAX_MARGIN} pixels"));
        }
        match whole_tokens(margin, factor) {
            Ok(whole) => *tokens = whole,
            Err(what) => return wrong(what),
        }
    }
    Ok(tokens)
}

/// How the chain goes about it.
fn chain_options(section: &EditSection, model: &Model) -> Result<EditOptions, JobError> {
    let config = model.directory.config();
    let repeats = per_scale("repeats", &section.repeats.0, config.scales())?;
    let candidates = per_scale("candidates", &section.candidates.0, config.scales())?;
    let options = EditOptions { compat: model.compat, repeats, candidates, start: section.start };
    let options = options
        .resolve(config, model.directory.schedule())
        .map_err(|error| JobError::Usage(format!("[edit]: {error}")))?;
    match options.start {
        Some(start) if section.mode == "outpaint" && start < config.scales() => Err(JobError::Usage(format!(
            "edit.start = {start}, but margins have nothing to start from: edit.mode = \"outpaint\" starts at scale {}",
            config.scales()
        ))),
        _ => Ok(options),
    }
}

/// A value for each scale; empty where nobody says.
fn per_scale(key: &str, given: &[u32], scales: u32) -> Result<Vec<u32>, JobError> {
    match given {
        [one] => Ok(vec![*one; scales as usize]),
        [] => Ok(Vec::new()),
        _ if given.len() == scales as usize => Ok(given.to_vec()),
        _ => Err(JobError::Usage(format!(
            "edit.{key} lists {} values; give one for all scales, or {scales}: from scale 1 to scale {scales}",
            given.len()
        ))),
    }
}

/// The images and masks, and what is asked of the chain for each.
async fn inputs(pipeline: &Pipeline, model: &Model, share: Option<Share>) -> Result<(Pairs, Interpreter), JobError> {
    let (section, url) = (&pipeline.edit, &pipeline.edit.images);
    let usage = |error: &dyn fmt::Display| JobError::Usage(error.to_string());
    let options =
        DatasetOptions { max_bytes: pipeline.image.max_bytes.0, captions: Captions::None, ..DatasetOptions::default() };
    let images = (section.count.unwrap_or(1), share);
    let (pairs, interpreter) = if Pairs::is_table(url) {
        let ignored = &pipeline.sample.ignore_columns;
        let table = PromptTable::open_beside(IMAGES, url, ignored, &PairTable::COLUMNS).await;
        let interpreter = Interpreter::of(table.map_err(|error| usage(&error))?, pipeline, model, images).await?;
        let table = PairTable::open(IMAGES, url, section.is_masked(), options).await.map_err(|error| usage(&error))?;
        (Pairs::Table(Arc::new(table)), interpreter)
    } else {
        let masks = section.is_masked().then_some(section.masks.as_str());
        let folders = PairFolders::find(url, masks, options).await.map_err(|error| usage(&error))?;
        let table = PromptTable::of_keys(IMAGES, url, "image", folders.keys());
        (Pairs::Folders(Arc::new(folders)), Interpreter::of(table, pipeline, model, images).await?)
    };
    let otherwise = subject(section, &interpreter, &model.directory.config().condition)?;
    Ok((pairs, interpreter.otherwise(otherwise)))
}

/// What rows are drawn of that do not say; none where they must.
fn subject(
    section: &EditSection,
    interpreter: &Interpreter,
    condition: &Condition,
) -> Result<Option<Subject>, JobError> {
    let refuse = |key: &str, text: String| Err(JobError::Usage(format!("{key}{text}")));
    match (section.label, &section.prompt, condition) {
        (Some(label), _, Condition::Class { classes, .. }) if label >= *classes => refuse(
            "edit.label",
            format!(" = {label} is out of range; the chain has {classes} classes: 0 to {}", classes - 1),
        ),
        (Some(label), _, Condition::None | Condition::Text(_)) => {
            refuse("edit.label", format!(" = {label}, but the chain has no classes"))
        }
        (_, Some(_), Condition::None | Condition::Class { .. }) => {
            refuse("edit.prompt", " is given, but the chain is not conditioned on text".to_owned())
        }
        (Some(label), None, Condition::Class { .. }) => Ok(Some(Subject::Class(label))),
        (None, Some(text), Condition::Text(_)) => {
            let row = PromptRow { prompt: Some(text.trim().to_owned()), ..PromptRow::default() };
            let (subject, cut) =
                interpreter.subject(&row).map_err(|what| JobError::Usage(format!("edit.prompt: {what}")))?;
            if cut {
                tracing::warn!("edit.prompt is longer than the chain's text and is cut");
            }
            Ok(Some(subject))
        }
        (None, None, Condition::Class { null: false, .. }) if !Pairs::is_table(&section.images) => refuse(
            "edit.label",
            " is missing: the chain has classes, and no learned null class to edit without one".to_owned(),
        ),
        (None, None, Condition::Class { null: false, .. }) => Ok(None),
        (None, None, _) => Ok(Some(Subject::Nothing)),
    }
}

/// The text of `--dry-run`.
struct Description<'a> {
    plan: &'a EditPlan,
    pipeline: &'a Pipeline,
    pending: &'a Pending,
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { plan, pipeline, pending } = self;
        let (section, edit, survey) = (&pipeline.edit, &plan.edit, &plan.survey);
        writeln!(f, "model      {}", pipeline.chain.model)?;
        plan.model.describe(f)?;
        let side = plan.preparation.preprocess.size;
        writeln!(f, "images     {} of {side} × {side} from {}", survey.rows, section.images)?;
        match plan.preparation.mode {
            Mode::Inpaint if Pairs::is_table(&section.images) => {
                writeln!(f, "masks      white says {}, from the same rows", edit.white)?;
            }
            Mode::Inpaint => writeln!(f, "masks      white says {}, from {}", edit.white, section.masks)?,
            Mode::Half(_) => writeln!(f, "draws      the {}", edit.mode.replace('-', " "))?,
            Mode::Outpaint => {
                let canvas = plan.preparation.canvas;
                let (height, width) = canvas.times(plan.preparation.factor).size();
                let windows = canvas.windows().len();
                writeln!(f, "draws      margins up to {width} × {height} pixels, in {windows} windows")?;
                describe_tiles(f, plan.tiles.as_ref())?;
            }
        }
        match (edit.blend, edit.feather) {
            (true, 0) => writeln!(f, "keeps      known pixels as they are")?,
            (true, feather) => writeln!(f, "keeps      known pixels as they are, fading over {feather}")?,
            (false, _) => writeln!(f, "keeps      known tokens, and pixels as the tokenizer makes them")?,
        }
        let passes: Vec<String> = edit.repeats.iter().map(u32::to_string).collect();
        writeln!(f, "passes     {} from scale 1 up, starting at scale {}", passes.join(", "), edit.start)?;
        if !edit.candidates.is_empty() {
            let candidates: Vec<String> = edit.candidates.iter().map(u32::to_string).collect();
            writeln!(f, "candidates {} of each pass, from scale 1 up", candidates.join(", "))?;
        }
        writeln!(f, "rows       {} to draw, {} prompts cut", survey.draws, survey.cut)?;
        writeln!(f, "units      {} for this process, {} to do", pending.own(), pending.units.len())?;
        writeln!(f, "output     {}", pipeline.output.url)
    }
}
