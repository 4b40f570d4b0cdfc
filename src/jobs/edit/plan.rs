//! What an `edit` will do, found out before any work: the model, images and masks, units, identity.

use super::Shape;
use super::inputs::Inputs;
use super::mask::White;
use crate::chain::{Compat, Condition, EditOptions, MaskRule, RowCondition};
use crate::config::Pipeline;
use crate::datasets::{Captions, DatasetOptions, Reader, Unit};
use crate::imaging::{Preprocess, Trim};
use crate::jobs::JobError;
use crate::jobs::encode::{preprocess_of, preprocessing};
use crate::jobs::model::{Model, Painter, refused};
use crate::jobs::sample::{SampleOptions, condition};
use crate::jobs::work::{Pending, Work, outlook};
use crate::tables::{EditSelection, Preprocessing, RowSelection, SamplesIdentity};
use std::fmt;
use std::sync::Arc;

/// Everything `edit` needs, checked; the weights are not loaded yet.
pub struct EditPlan {
    pub(super) model: Model,
    pub(super) inputs: Arc<Inputs>,
    pub(super) preprocess: Preprocess,
    pub(super) shape: Shape,
    pub(super) options: EditOptions,
    pub(super) condition: RowCondition,
    units: Vec<Arc<Unit>>,
    rows: RowSelection,
    edit: EditSelection,
}

impl EditPlan {
    /// Opens model and device, lists images and masks, and decides what was left open. Settings on `auto` take what the output
    /// records.
    pub async fn make(pipeline: &Pipeline, options: &SampleOptions) -> Result<EditPlan, JobError> {
        let section = &pipeline.edit;
        let model = Model::open(pipeline, (options.device, options.overwrite), &section.compat).await?;
        // Masks are drawn over images as they are: nothing is trimmed, whatever the dataset's images need.
        let preprocess = Preprocess { trim: Trim::None, ..preprocess_of(pipeline)? };
        if preprocess.rows_per_image() != 1 {
            let message = "edit takes one crop of an image: set image.crops = 1 and image.flip = \"none\"";
            return Err(JobError::Usage(message.to_owned()));
        }
        let side = preprocess.size;
        model.directory.check_image_size((side, side)).map_err(refused)?;
        let config = model.directory.config();
        let compat = model.compat;
        let chosen = repeats(&section.repeats.0, config.scales())?;
        let options = EditOptions { compat, repeats: chosen, start: section.start };
        let options = options
            .resolve(config, model.directory.schedule())
            .map_err(|error| JobError::Usage(format!("[edit]: {error}")))?;
        let rule = if compat == Compat::Authors { MaskRule::FirstPixel } else { MaskRule::AllPixels };
        let white = if section.white == "edit" { White::Edit } else { White::Keep };
        let shape = Shape { grid: config.grid, factor: side / config.grid.0.max(1), rule, white };
        let condition = edit_condition(section.label, &config.condition)?;

        let unit_rows = pipeline.sample.unit_rows;
        let max_bytes = preprocess.limits.max_bytes;
        let captions = Captions::None;
        let dataset = DatasetOptions { unit_rows, max_bytes, captions, ..DatasetOptions::default() };
        let inputs = Inputs::find(&section.images, &section.masks, dataset).await?;
        let units = inputs.reader.units().await.map_err(|error| JobError::Usage(error.to_string()))?;
        let rows = RowSelection {
            count: inputs.images,
            unit_rows,
            labels: section.label.map_or_else(|| unlabelled(&config.condition).to_owned(), |label| label.to_string()),
            prompts: None,
        };
        let edit = EditSelection {
            inputs: inputs.digest.clone(),
            preprocessing: Preprocessing { trim: None, ..preprocessing(pipeline) },
            white: section.white.clone(),
            repeats: options.repeats.clone(),
            start: options.start.unwrap_or_else(|| config.scales()),
        };
        let units = units.into_iter().map(Arc::new).collect();
        Ok(EditPlan { model, inputs: Arc::new(inputs), preprocess, shape, options, condition, units, rows, edit })
    }

    /// Loads the weights; with them the run's identity is known.
    pub fn load(&self, pipeline: &Pipeline) -> Result<(Painter, Work<SamplesIdentity>), JobError> {
        let painter = self.model.load()?;
        let provenance = Arc::new(self.model.provenance(&painter, self.rows.clone(), (None, Some(self.edit.clone()))));
        let url = pipeline.output.url.clone();
        let work = Work { units: self.units.clone(), provenance, url, recorded: self.model.recorded() };
        Ok((painter, work))
    }

    /// What would be done, for `--dry-run`: no weights are read.
    pub async fn describe(pipeline: &Pipeline, options: &SampleOptions) -> Result<String, JobError> {
        let plan = EditPlan::make(pipeline, options).await?;
        let keep = plan.model.recorded() && !options.overwrite;
        let pending = outlook::<SamplesIdentity>(&plan.units, (&pipeline.output.url, keep), options.rank).await?;
        Ok(Description { plan: &plan, pipeline, pending: &pending }.to_string())
    }
}

/// Passes of each scale; empty where nobody says.
fn repeats(given: &[u32], scales: u32) -> Result<Vec<u32>, JobError> {
    match given {
        [one] => Ok(vec![*one; scales as usize]),
        [] => Ok(Vec::new()),
        _ if given.len() == scales as usize => Ok(given.to_vec()),
        _ => Err(JobError::Usage(format!(
            "edit.repeats lists {} values; give one for all scales, or {scales}: from scale 1 to scale {scales}",
            given.len()
        ))),
    }
}

fn unlabelled(condition: &Condition) -> &'static str {
    if *condition == Condition::None { "none" } else { "null" }
}

fn edit_condition(label: Option<u32>, chain: &Condition) -> Result<RowCondition, JobError> {
    let refuse = |text: String| Err(JobError::Usage(format!("edit.label{text}")));
    match (label, chain) {
        (Some(label), Condition::Class { classes, .. }) if label >= *classes => {
            refuse(format!(" = {label} is out of range; the chain has {classes} classes: 0 to {}", classes - 1))
        }
        (Some(label), Condition::None | Condition::Text(_)) => {
            refuse(format!(" = {label}, but the chain has no classes"))
        }
        (None, Condition::Class { null: false, .. }) => {
            refuse(" is missing: the chain has classes, and no learned null class to edit without one".to_owned())
        }
        (label, chain) => Ok(condition(chain, label)),
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
        writeln!(f, "model      {}", pipeline.chain.model)?;
        plan.model.describe(f)?;
        let side = plan.preprocess.size;
        writeln!(f, "images     {} of {side} × {side} from {}", plan.rows.count, pipeline.edit.images)?;
        writeln!(f, "masks      white says {}, from {}", plan.edit.white, pipeline.edit.masks)?;
        let passes: Vec<String> = plan.edit.repeats.iter().map(u32::to_string).collect();
        writeln!(f, "passes     {} from scale 1 up, starting at scale {}", passes.join(", "), plan.edit.start)?;
        writeln!(f, "units      {} for this process, {} to do", pending.own(), pending.units.len())?;
        writeln!(f, "output     {}", pipeline.output.url)
    }
}
