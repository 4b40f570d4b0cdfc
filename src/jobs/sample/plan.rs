//! What a `sample` will do, found out before any work: the model, the rows and their units, the identity.

use super::SampleOptions;
use super::choose::Share;
use super::draws::{Counted, Draws};
use super::estimate::Estimate;
use super::requests::Interpreter;
use super::scales::{Drawer, How, devices, usual_device};
use super::scorer::{Module, Scorer};
use super::size::large;
use super::subjects::Labels;
use super::survey::{Survey, survey};
use super::units::Cutter;
use crate::chain::{self, ChainConfig, Condition, LargeGrid};
use crate::config::{LabelChoice, Pipeline};
use crate::datasets::Unit;
use crate::jobs::JobError;
use crate::jobs::developer::Developer;
use crate::jobs::model::{Model, Selections};
use crate::jobs::outline::{describe_chain, describe_tiles};
use crate::jobs::work::{Pending, Work, outlook};
use crate::tables::{ChooseSelection, RowSelection, SamplesIdentity};
use crate::torch::device::DeviceInUse;
use crate::vqgan::Tiles;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Everything `sample` needs, checked; the weights are not loaded yet.
pub struct SamplePlan {
    pub(super) model: Model,
    /// Those of the scales, from scale 1 up, where they have devices of their own.
    devices: Vec<DeviceInUse>,
    pub(super) draws: Draws,
    /// What a first look through the table of prompts told, where there is one.
    survey: Option<Survey>,
    pub(super) units: Vec<Arc<Unit>>,
    pub(super) selection: RowSelection,
    pub(super) scorer: Option<Scorer>,
    choose: Option<ChooseSelection>,
    /// The grid, where it is larger than the chain's.
    large: Option<LargeGrid>,
    /// How images are decoded, where they are too large to be decoded whole.
    tiles: Option<Tiles>,
    /// Height and width of an image.
    size: (u32, u32),
    /// Bytes of a row's pixels.
    pub(super) pixels: u64,
}

impl SamplePlan {
    /// Opens model and device, and decides what was left open. Settings on `auto` take what the output records.
    pub async fn make(pipeline: &Pipeline, options: &SampleOptions) -> Result<SamplePlan, JobError> {
        let choice = (usual_device(options.device, &pipeline.sample)?, options.overwrite);
        let model = Model::open(pipeline, choice, &pipeline.sample.compat).await?;
        let devices = devices(&model, &pipeline.sample)?;
        let factor = model.factor()?;
        let large = large(&pipeline.sample, model.directory.config().grid, factor)?;
        let model = match &large {
            Some(large) => model.enlarged(pipeline, large),
            None => model,
        };
        let config = model.directory.config();
        let grid = large.map_or(config.grid, |large| large.grid);
        let tiles = model.tiles(grid, pipeline.tokenizer.decode_memory)?;
        let size = (grid.0.saturating_mul(factor), grid.1.saturating_mul(factor));
        let scorer = Scorer::open(&pipeline.choose, &config.condition, size)?;
        let share = scorer.as_ref().map(|_| Share::new(&pipeline.choose));
        let Rows { draws, survey, units, selection } = match &pipeline.sample.prompts {
            Some(url) => table(pipeline, url, &model, share).await?,
            None => counted(pipeline, &model, scorer.as_ref(), share)?,
        };
        let pixels = u64::from(size.0).saturating_mul(size.1.into()).saturating_mul(3);
        let choose = scorer.as_ref().map(|scorer| scorer.selection(&pipeline.choose));
        Ok(SamplePlan { model, devices, draws, survey, units, selection, scorer, choose, large, tiles, size, pixels })
    }

    /// Prompts whose end is lost.
    pub(super) fn cut(&self) -> u64 {
        self.survey.as_ref().map_or(0, |survey| survey.cut)
    }

    /// Loads the weights; with them the run's identity is known.
    pub(super) fn load(&self, pipeline: &Pipeline) -> Result<(Drawer, Developer, Work<SamplesIdentity>), JobError> {
        let developer = self.model.load_developer()?.with_grid(self.grid(), self.tiles);
        let drawer = Drawer::load(&self.model, &self.devices)?;
        let selections = Selections {
            grid: self.grid(),
            rows: self.selection.clone(),
            choose: self.choose.clone(),
            large: self.large,
            tiles: self.tiles,
            edit: None,
        };
        let provenance = Arc::new(self.model.provenance((drawer.fingerprint(), &developer), selections));
        let url = pipeline.output.url.clone();
        let work = Work { units: self.units.clone(), provenance, url, recorded: self.model.recorded() };
        Ok((drawer, developer, work))
    }

    /// How its batches are drawn.
    pub(super) fn how(&self) -> How {
        let options =
            chain::SampleOptions { compat: self.model.compat, large: self.large, ..chain::SampleOptions::default() };
        let likelihood = matches!(self.scorer, Some(Scorer::Likelihood));
        How { options, likelihood, threads: self.model.settings.threads }
    }

    /// Rows and columns of the grids that are drawn.
    fn grid(&self) -> (u32, u32) {
        self.large.map_or(self.model.directory.config().grid, |large| large.grid)
    }

    /// Tokens of an image.
    pub(super) fn tokens(&self) -> usize {
        self.large.map_or(self.model.directory.config().tokens(), |large| large.tokens())
    }

    /// Loads the scorer onto the run's device, where it is a module of the user's.
    pub(super) fn load_scorer(&self) -> Result<Option<Module>, JobError> {
        self.scorer.as_ref().map_or(Ok(None), |scorer| scorer.load(&self.model, self.size))
    }

    /// The most images that are kept, of all units.
    pub(super) fn keep(&self) -> u64 {
        match (&self.draws, &self.survey) {
            (_, Some(survey)) => survey.keep,
            (Draws::Counted(Counted { candidates: Some((of, keep)), .. }), _) => {
                (self.selection.count / (*of).max(1)).saturating_mul(*keep)
            }
            _ => self.selection.count,
        }
    }

    /// What would be done, for `--dry-run`, with what a few batches that are drawn tell of the whole. The model need not be there
    /// yet.
    pub async fn describe(pipeline: &Pipeline, options: &SampleOptions) -> Result<String, JobError> {
        let model = &pipeline.chain.model;
        if !Path::new(model).exists() && !pipeline.chain.scale.is_empty() {
            return Ok(Untrained::new(pipeline)?.to_string());
        }
        let plan = SamplePlan::make(pipeline, options).await?;
        let keep = plan.model.recorded() && !options.overwrite;
        let pending = outlook::<SamplesIdentity>(&plan.units, (&pipeline.output.url, keep), options.rank).await?;
        let mut text = Description { plan: &plan, pipeline, pending: &pending }.to_string();
        if let Some(estimate) = Estimate::of(&plan, pipeline, &pending.units).await? {
            text.push_str(&estimate.to_string());
        }
        Ok(text)
    }
}

/// The rows of a run, and how they are cut into units.
struct Rows {
    draws: Draws,
    survey: Option<Survey>,
    units: Vec<Arc<Unit>>,
    selection: RowSelection,
}

/// The images that the table at `url` asks for.
async fn table(pipeline: &Pipeline, url: &str, model: &Model, share: Option<Share>) -> Result<Rows, JobError> {
    let sample = &pipeline.sample;
    if sample.labels != LabelChoice::Auto {
        return Err(JobError::Usage("sample.labels and sample.prompts exclude each other: take one out".to_owned()));
    }
    let interpreter = Interpreter::open(pipeline, url, model, share).await?;
    let cutter = Cutter::new(sample.unit_rows).whole(share.is_some());
    let survey = survey(&interpreter, cutter, sample.shared_seeds).await?;
    let (labels, prompts) = ("prompts".to_owned(), Some(survey.digest.clone()));
    let selection = RowSelection { count: survey.draws, unit_rows: sample.unit_rows, labels, prompts };
    let draws = Draws::Table(Box::new(interpreter));
    Ok(Rows { draws, units: survey.units.clone(), survey: Some(survey), selection })
}

/// As many images as `sample.count` says, of the classes in turn or of nothing.
fn counted(
    pipeline: &Pipeline,
    model: &Model,
    scorer: Option<&Scorer>,
    share: Option<Share>,
) -> Result<Rows, JobError> {
    let condition = model.directory.config().condition;
    let labels = Labels::choose(&pipeline.sample.labels, &condition)?;
    if matches!(condition, Condition::Text(_)) {
        tracing::info!("the chain is conditioned on text: without prompts, its null condition is drawn");
    }
    let subjectless = labels == Labels::None && condition != Condition::None;
    if let Some(scorer) = scorer.filter(|scorer| subjectless && scorer.needs_subject()) {
        return Err(JobError::Usage(format!(
            "choose.scorer = {} tells how well an image fits a class or a text, but the rows are drawn of none",
            scorer.name()
        )));
    }
    let candidates = match share {
        Some(share) => Some((share.draws(1), share.keep(1).map_err(JobError::Usage)?)),
        None => None,
    };
    let of = candidates.map_or(1, |(of, _)| of).max(1);
    let (unit_rows, count) = (pipeline.sample.unit_rows, pipeline.sample.count.unwrap_or(0).saturating_mul(of));
    // All candidates of a row in one unit.
    let mut cutter = Cutter::new((unit_rows / of).max(1).saturating_mul(of));
    cutter.add(count)?;
    let selection = RowSelection { count, unit_rows, labels: labels.name(&condition), prompts: None };
    let (settings, seed) = (model.usual.clone(), pipeline.run.seed);
    let draws = Draws::Counted(Counted { labels, settings, seed, candidates });
    Ok(Rows { draws, survey: None, units: cutter.finish()?, selection })
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
        for (scale, device) in (1..).zip(&plan.devices) {
            writeln!(f, "scale {scale:<4} on {}", device.line)?;
        }
        let RowSelection { count, unit_rows, labels, .. } = &plan.selection;
        if let Some(large) = plan.large {
            let ((height, width), (rows, columns)) = (plan.size, large.grid);
            let (down, across) = large.windows(plan.model.directory.config().grid);
            let windows = format!("{down} × {across} windows at most {} apart", large.stride);
            writeln!(f, "size       {height} × {width} pixels, {rows} × {columns} tokens drawn in {windows}")?;
        }
        describe_tiles(f, plan.tiles.as_ref())?;
        writeln!(f, "rows       {count} in {} units of {unit_rows}, labels {labels}", plan.units.len())?;
        if let Some(survey) = &plan.survey {
            let from = pipeline.sample.prompts.as_deref().unwrap_or_default();
            writeln!(f, "prompts    {} from {from}, {} of them cut", survey.rows, survey.cut)?;
        }
        if let Some(ChooseSelection { scorer, draw, rate, threshold, rejected }) = &plan.choose {
            let of =
                draw.map_or("as many candidates as a row wants".to_owned(), |draw| format!("{draw} candidates a row"));
            let share = rate.map_or("the best `count`".to_owned(), |rate| format!("the best {} %", rate * 100.0));
            let least = threshold.map_or(String::new(), |least| format!(" of {least} or more"));
            writeln!(f, "choose     {share}{least} of {of}, by {scorer}; others: {rejected}")?;
        }
        writeln!(f, "           {} units for this process, {} to do", pending.own(), pending.units.len())?;
        writeln!(f, "output     {}", pipeline.output.url)?;
        pending.list(f)
    }
}
