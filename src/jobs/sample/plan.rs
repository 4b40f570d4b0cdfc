//! What a `sample` will do, found out before any work: the model, the rows and their units, the identity.

use super::SampleOptions;
use super::draws::{Counted, Draws};
use super::requests::Interpreter;
use super::subjects::Labels;
use super::survey::{Survey, survey};
use super::units::Cutter;
use crate::chain::{ChainConfig, Condition};
use crate::config::{LabelChoice, Pipeline};
use crate::datasets::Unit;
use crate::jobs::JobError;
use crate::jobs::model::{Model, Painter, describe_chain, refused};
use crate::jobs::work::{Pending, Work, outlook};
use crate::tables::{RowSelection, SamplesIdentity};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Everything `sample` needs, checked; the weights are not loaded yet.
pub struct SamplePlan {
    pub(super) model: Model,
    pub(super) draws: Draws,
    /// What a first look through the table of prompts told, where there is one.
    survey: Option<Survey>,
    units: Vec<Arc<Unit>>,
    selection: RowSelection,
    /// Bytes of a row's pixels.
    pub(super) pixels: u64,
}

impl SamplePlan {
    /// Opens model and device, and decides what was left open. Settings on `auto` take what the output records.
    pub async fn make(pipeline: &Pipeline, options: &SampleOptions) -> Result<SamplePlan, JobError> {
        let choice = (options.device, options.overwrite);
        let model = Model::open(pipeline, choice, &pipeline.sample.compat).await?;
        let config = model.directory.config();
        let labels = Labels::choose(&pipeline.sample.labels, &config.condition)?;
        let unit_rows = pipeline.sample.unit_rows;
        let (draws, survey) = match &pipeline.sample.prompts {
            Some(url) => {
                let (interpreter, survey) = table(pipeline, url, &model).await?;
                (Draws::Table(Box::new(interpreter)), Some(survey))
            }
            None => {
                if matches!(config.condition, Condition::Text(_)) {
                    tracing::info!("the chain is conditioned on text: without prompts, its null condition is drawn");
                }
                let (settings, seed) = (model.usual.clone(), pipeline.run.seed);
                (Draws::Counted(Counted { labels: labels.clone(), settings, seed }), None)
            }
        };
        let (units, selection) = match &survey {
            Some(survey) => {
                let (labels, prompts) = ("prompts".to_owned(), Some(survey.digest.clone()));
                (survey.units.clone(), RowSelection { count: survey.draws, unit_rows, labels, prompts })
            }
            None => {
                let count = pipeline.sample.count.unwrap_or(0);
                let mut cutter = Cutter::new(unit_rows);
                cutter.add(count)?;
                let labels = labels.name(&config.condition);
                (cutter.finish()?, RowSelection { count, unit_rows, labels, prompts: None })
            }
        };
        let shape = model.directory.tokenizer_config().map_err(refused)?;
        let factor = shape.downsampling().unsigned_abs();
        let pixels = (config.tokens() as u64).saturating_mul(factor).saturating_mul(factor).saturating_mul(3);
        Ok(SamplePlan { model, draws, survey, units, selection, pixels })
    }

    /// Prompts whose end is lost.
    pub(super) fn cut(&self) -> u64 {
        self.survey.as_ref().map_or(0, |survey| survey.cut)
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

/// The images that the table at `url` asks for, and what a first look through it tells.
async fn table(pipeline: &Pipeline, url: &str, model: &Model) -> Result<(Interpreter, Survey), JobError> {
    let sample = &pipeline.sample;
    if sample.labels != LabelChoice::Auto {
        return Err(JobError::Usage("sample.labels and sample.prompts exclude each other: take one out".to_owned()));
    }
    let mut interpreter = Interpreter::open(pipeline, url, model).await?;
    let survey = survey(&mut interpreter, Cutter::new(sample.unit_rows), sample.shared_seeds).await?;
    if survey.cut > 0 {
        tracing::warn!("{} of {} prompts are longer than the chain's text and are cut", survey.cut, survey.rows);
    }
    Ok((interpreter, survey))
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
        if let Some(survey) = &plan.survey {
            let from = pipeline.sample.prompts.as_deref().unwrap_or_default();
            writeln!(f, "prompts    {} from {from}, {} of them cut", survey.rows, survey.cut)?;
        }
        writeln!(f, "           {} units for this process, {} to do", pending.own(), pending.units.len())?;
        writeln!(f, "output     {}", pipeline.output.url)?;
        pending.list(f)
    }
}
