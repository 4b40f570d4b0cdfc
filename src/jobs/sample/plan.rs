//! What a `sample` will do, found out before any work: the model, the rows and their units, the identity.

use super::SampleOptions;
use super::prompts::{Prompt, Prompts};
use crate::chain::{ChainConfig, Condition, RowCondition};
use crate::config::{LabelChoice, Pipeline};
use crate::datasets::Unit;
use crate::jobs::JobError;
use crate::jobs::model::{Model, Painter, describe_chain, refused};
use crate::jobs::work::{Pending, Work, outlook};
use crate::tables::{RowSelection, SamplesIdentity};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Most units of a run: their names stand in one manifest.
const MAX_UNITS: u64 = 1_000_000;

/// Everything `sample` needs, checked; the weights are not loaded yet.
pub struct SamplePlan {
    pub(super) model: Model,
    pub(super) subjects: Subjects,
    units: Vec<Arc<Unit>>,
    selection: RowSelection,
    /// Bytes of a row's pixels.
    pub(super) pixels: u64,
}

/// What the rows of a run are drawn of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subjects {
    Labels(Labels),
    Prompts(Prompts),
}

impl Subjects {
    /// What row `number` is drawn of.
    pub fn of(&self, number: u64) -> Subject {
        match self {
            Subjects::Labels(labels) => labels.of(number).map_or(Subject::Nothing, Subject::Class),
            Subjects::Prompts(prompts) => prompts.of_row(number).cloned().map_or(Subject::Nothing, Subject::Prompt),
        }
    }
}

/// What one row is drawn of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// No condition, or the learned null condition where the chain has one.
    Nothing,
    Class(u32),
    Prompt(Prompt),
}

impl Subject {
    /// The row's condition for a chain with this `condition`.
    pub fn condition(&self, condition: &Condition) -> RowCondition {
        match self {
            Subject::Nothing => self::condition(condition, None),
            Subject::Class(label) => self::condition(condition, Some(*label)),
            Subject::Prompt(prompt) => RowCondition::Text(prompt.ids.clone()),
        }
    }

    /// As the table has it.
    pub fn label(&self) -> Option<i32> {
        match self {
            Subject::Class(label) => i32::try_from(*label).ok(),
            Subject::Nothing | Subject::Prompt(_) => None,
        }
    }

    /// As the table has it.
    pub fn prompt(&self) -> Option<Arc<str>> {
        match self {
            Subject::Prompt(prompt) => Some(prompt.text.clone()),
            Subject::Nothing | Subject::Class(_) => None,
        }
    }
}

/// The classes that rows take in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Labels {
    None,
    /// 0 to n - 1.
    All(u32),
    List(Arc<[u32]>),
}

impl Labels {
    /// The class of row `number`.
    pub fn of(&self, number: u64) -> Option<u32> {
        match self {
            Labels::None => None,
            Labels::All(classes) => Some((number % u64::from((*classes).max(1))) as u32),
            Labels::List(list) => list.get((number % list.len().max(1) as u64) as usize).copied(),
        }
    }

    fn choose(choice: &LabelChoice, condition: &Condition) -> Result<Labels, JobError> {
        let refuse = |text: String| Err(JobError::Usage(format!("sample.labels: {text}")));
        match (choice, condition) {
            (LabelChoice::Auto, Condition::Class { classes, .. })
            | (LabelChoice::All, Condition::Class { classes, .. }) => Ok(Labels::All(*classes)),
            (LabelChoice::Auto, _) => Ok(Labels::None),
            (LabelChoice::None, Condition::Class { null: false, .. }) => refuse(
                "\"none\" needs a learned null class, which this chain has not (condition.null = true)".to_owned(),
            ),
            (LabelChoice::None, _) => Ok(Labels::None),
            (LabelChoice::All | LabelChoice::List(_), Condition::None) => {
                refuse("this chain is unconditional".to_owned())
            }
            (LabelChoice::All | LabelChoice::List(_), Condition::Text(_)) => {
                refuse("this chain is conditioned on text, not on classes".to_owned())
            }
            (LabelChoice::List(list), Condition::Class { classes, .. }) => {
                match list.iter().find(|label| *label >= classes) {
                    Some(label) => {
                        refuse(format!("class {label} is out of range; the chain has {classes}: 0 to {}", classes - 1))
                    }
                    None => Ok(Labels::List(list.clone().into())),
                }
            }
        }
    }

    /// As it stands in the identity.
    fn name(&self, condition: &Condition) -> String {
        match self {
            Labels::None if *condition == Condition::None => "none".to_owned(),
            Labels::None => "null".to_owned(),
            Labels::All(_) => "all".to_owned(),
            Labels::List(list) => list.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        }
    }
}

/// What a row of a chain with this `condition` is drawn of.
pub fn condition(condition: &Condition, label: Option<u32>) -> RowCondition {
    match (label, condition) {
        (Some(label), _) => RowCondition::Class(label),
        (None, Condition::None) => RowCondition::None,
        (None, _) => RowCondition::Null,
    }
}

impl SamplePlan {
    /// Opens model and device, and decides what was left open. Settings on `auto` take what the output records.
    pub async fn make(pipeline: &Pipeline, options: &SampleOptions) -> Result<SamplePlan, JobError> {
        let choice = (options.device, options.overwrite);
        let model = Model::open(pipeline, choice, &pipeline.sample.compat).await?;
        let config = model.directory.config();
        let labels = Labels::choose(&pipeline.sample.labels, &config.condition)?;
        let unit_rows = pipeline.sample.unit_rows;
        let (subjects, selection) = match &pipeline.sample.prompts {
            Some(url) => {
                let prompts = prompts(pipeline, url, &model).await?;
                let (digest, labels) = (Some(prompts.digest.clone()), "prompts".to_owned());
                let selection = RowSelection { count: prompts.rows(), unit_rows, labels, prompts: digest };
                (Subjects::Prompts(prompts), selection)
            }
            None => {
                if matches!(config.condition, Condition::Text(_)) {
                    tracing::info!("the chain is conditioned on text: without prompts, its null condition is drawn");
                }
                let count = pipeline.sample.count.unwrap_or(0);
                let labels_name = labels.name(&config.condition);
                (Subjects::Labels(labels), RowSelection { count, unit_rows, labels: labels_name, prompts: None })
            }
        };
        let units = units(selection.count, unit_rows)?;
        let shape = model.directory.tokenizer_config().map_err(refused)?;
        let factor = shape.downsampling().unsigned_abs();
        let pixels = (config.tokens() as u64).saturating_mul(factor).saturating_mul(factor).saturating_mul(3);
        Ok(SamplePlan { model, subjects, units, selection, pixels })
    }

    /// Prompts whose end is lost.
    pub(super) fn cut(&self) -> u64 {
        match &self.subjects {
            Subjects::Prompts(prompts) => prompts.cut,
            Subjects::Labels(_) => 0,
        }
    }

    /// Loads the weights; with them the run's identity is known.
    pub fn load(&self, pipeline: &Pipeline) -> Result<(Painter, Work<SamplesIdentity>), JobError> {
        let painter = self.model.load()?;
        let provenance = Arc::new(self.model.provenance(&painter, self.selection.clone(), None));
        let url = pipeline.output.url.clone();
        let work = Work { units: self.units.clone(), provenance, url, recorded: self.model.recorded() };
        Ok((painter, work))
    }

    /// What would be done, for `--dry-run`: no weights are read, and the model need not be there yet.
    pub async fn describe(pipeline: &Pipeline, options: &SampleOptions) -> Result<String, JobError> {
        let model = &pipeline.chain.model;
        if !Path::new(model).exists() && !pipeline.chain.scale.is_empty() {
            return Ok(Untrained::new(pipeline)?.to_string());
        }
        let plan = SamplePlan::make(pipeline, options).await?;
        let keep = plan.model.recorded() && !options.overwrite;
        let pending = outlook::<SamplesIdentity>(&plan.units, (&pipeline.output.url, keep), options.rank).await?;
        Ok(Description { plan: &plan, pipeline, pending: &pending }.to_string())
    }
}

/// The prompts at `url`.
async fn prompts(pipeline: &Pipeline, url: &str, model: &Model) -> Result<Prompts, JobError> {
    if pipeline.sample.labels != LabelChoice::Auto {
        return Err(JobError::Usage("sample.labels and sample.prompts exclude each other: take one out".to_owned()));
    }
    let prompts = Prompts::read(url, &model.directory, pipeline.sample.count.unwrap_or(1)).await?;
    if prompts.cut > 0 {
        tracing::warn!("{} of {} prompts are longer than the chain's text and are cut", prompts.cut, prompts.len());
    }
    Ok(prompts)
}

/// Units of `unit_rows` rows, the last one of what is left.
fn units(count: u64, unit_rows: u64) -> Result<Vec<Arc<Unit>>, JobError> {
    let number = count.div_ceil(unit_rows.max(1));
    if number > MAX_UNITS {
        return Err(JobError::Usage(format!(
            "sample.count = {count} makes {number} units of sample.unit_rows = {unit_rows}; at most {MAX_UNITS} are \
             kept track of: make units larger"
        )));
    }
    let unit = |number: u64| {
        let (start, end) = (number * unit_rows, (number * unit_rows).saturating_add(unit_rows).min(count));
        Arc::new(Unit { name: format!("rows@{start:09}-{end:09}"), sources: Vec::new(), range: Some(start..end) })
    };
    Ok((0..number).map(unit).collect())
}

/// The text of `--dry-run` where the model is not there yet.
struct Untrained<'a> {
    pipeline: &'a Pipeline,
    config: ChainConfig,
}

impl<'a> Untrained<'a> {
    fn new(pipeline: &'a Pipeline) -> Result<Untrained<'a>, JobError> {
        let config = ChainConfig::from_sections(&pipeline.chain, &pipeline.condition, None)
            .map_err(|error| JobError::Usage(error.to_string()))?;
        Ok(Untrained { pipeline, config })
    }
}

impl fmt::Display for Untrained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model      {} is not there yet; the pipeline file describes:", self.pipeline.chain.model)?;
        describe_chain(f, &self.config, 4, 1)
    }
}

/// The text of `--dry-run`.
struct Description<'a> {
    plan: &'a SamplePlan,
    pipeline: &'a Pipeline,
    pending: &'a Pending,
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { plan, pipeline, pending } = self;
        writeln!(f, "model      {}", pipeline.chain.model)?;
        plan.model.describe(f)?;
        let RowSelection { count, unit_rows, labels, .. } = &plan.selection;
        writeln!(f, "rows       {count} in {} units of {unit_rows}, labels {labels}", plan.units.len())?;
        if let Subjects::Prompts(prompts) = &plan.subjects {
            let from = pipeline.sample.prompts.as_deref().unwrap_or_default();
            writeln!(f, "prompts    {} from {from}, {} of them cut", prompts.len(), prompts.cut)?;
        }
        writeln!(f, "           {} units for this process, {} to do", pending.own(), pending.units.len())?;
        writeln!(f, "output     {}", pipeline.output.url)?;
        pending.list(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_into_units() {
        let names: Vec<String> = units(2500, 1000).unwrap().iter().map(|unit| unit.name.clone()).collect();
        assert_eq!(names, ["rows@000000000-000001000", "rows@000001000-000002000", "rows@000002000-000002500"]);
        assert!(units(u64::MAX, 1).unwrap_err().to_string().contains("make units larger"));
        assert_eq!(units(u64::MAX, u64::MAX).unwrap().len(), 1);
    }

    #[test]
    fn rows_take_the_classes_in_turn() {
        let classes = Condition::Class { classes: 3, null: false };
        let choose = |choice, condition| Labels::choose(&choice, &condition);
        let of = |labels: Labels| (0..5).map(|number| labels.of(number)).collect::<Vec<_>>();
        assert_eq!(of(choose(LabelChoice::Auto, classes).unwrap()), [0, 1, 2, 0, 1].map(Some));
        assert_eq!(of(choose(LabelChoice::List(vec![2, 0]), classes).unwrap()), [2, 0, 2, 0, 2].map(Some));
        assert_eq!(of(choose(LabelChoice::Auto, Condition::None).unwrap()), [None; 5]);
        let fault = |choice, condition| choose(choice, condition).unwrap_err().to_string();
        assert!(
            fault(LabelChoice::List(vec![3]), classes).contains("class 3 is out of range; the chain has 3: 0 to 2")
        );
        assert!(fault(LabelChoice::All, Condition::None).contains("unconditional"));
        assert!(fault(LabelChoice::None, classes).contains("null class"));
    }
}
