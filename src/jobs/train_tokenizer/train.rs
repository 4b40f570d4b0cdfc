//! The loop: batches in, steps, checkpoints, and at the end the tokenizer.

use super::TrainTokenizerSummary;
use super::export::export;
use super::merge::merge;
use super::plan::{TokenizerPlan, refused, upload};
use super::validate::{Trial, Validation};
use super::watch::Watch;
use crate::jobs::JobError;
use crate::jobs::shrink::Usage;
use crate::torch::device::set_threads;
use crate::training::images::{Cursor, ImageFeed, ImagesError, Tally};
use crate::training::tokenizer::{Step, Trainer};
use crate::training::{Checkpoint, Checkpoints};
use crate::vqgan::VqganConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tch::Tensor;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Images that a picture of a training shows.
const LOOKS: usize = 16;

/// What a checkpoint knows besides tensors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Facts {
    cursor: Cursor,
    read: Tally,
    /// Steps whose loss was not a number, in all and the last ones in a row.
    skipped: u64,
    bad_in_a_row: u32,
}

/// What goes into the tokenizer's file.
struct Exporting {
    config: VqganConfig,
    weights: BTreeMap<String, Tensor>,
    tried: Option<(Validation, Usage)>,
}

/// A run under way.
struct Run<'a> {
    plan: &'a TokenizerPlan,
    checkpoints: &'a Checkpoints,
    runtime: &'a Handle,
    trainer: Trainer,
    facts: Facts,
    watch: Watch,
    /// The newest look at the held-out images, and the step it was at.
    validated: Option<(u64, Validation, Usage)>,
    /// The pixels that pictures are made of.
    shown: Option<Vec<u8>>,
}

/// Trains to the end, or to `cancel`.
pub fn run(
    mut plan: TokenizerPlan,
    checkpoints: &Checkpoints,
    runtime: &Handle,
    cancel: &CancellationToken,
) -> Result<TrainTokenizerSummary, JobError> {
    set_threads(plan.threads);
    let perceptual = plan.perceptual.take();
    if perceptual.is_none() {
        tracing::info!("no perceptual loss: train_tokenizer.lpips names no file of LPIPS weights");
    }
    let mut trainer = Trainer::new(plan.trainer.clone(), perceptual).map_err(JobError::failed)?;
    let facts = resume(&mut trainer, checkpoints, runtime, plan.section.steps)?;
    let watch = async { Watch::open(plan.folder().await?, &plan, trainer.steps()).await };
    let watch = runtime.block_on(watch)?;
    let mut run = Run { plan: &plan, checkpoints, runtime, trainer, facts, watch, validated: None, shown: None };
    run.train(cancel)?;
    run.finish()
}

/// Takes the newest checkpoint, if there is one.
fn resume(trainer: &mut Trainer, checkpoints: &Checkpoints, runtime: &Handle, all: u64) -> Result<Facts, JobError> {
    let Some(Checkpoint { step, tensors, facts }) = runtime.block_on(checkpoints.latest()).map_err(refused)? else {
        return Ok(Facts::default());
    };
    trainer.restore(step, &tensors).map_err(JobError::failed)?;
    match step >= all {
        true => tracing::info!("nothing to train: all {all} steps are done"),
        false => tracing::info!("going on from {}: {step} of {all} steps are done", checkpoints.shown(step)),
    }
    serde_json::from_value(Value::Object(facts)).map_err(JobError::failed)
}

impl Run<'_> {
    fn train(&mut self, cancel: &CancellationToken) -> Result<(), JobError> {
        if self.trainer.steps() >= self.plan.section.steps {
            return Ok(());
        }
        let mut feed = {
            let _entered = self.runtime.enter();
            self.plan.images.train(self.facts.cursor.clone())
        };
        while self.trainer.steps() < self.plan.section.steps {
            if cancel.is_cancelled() {
                self.save(None)?;
                return Err(JobError::Interrupted);
            }
            let step = self.step(&mut feed)?;
            self.judge(&step)?;
            self.watch.step(feed.waited());
            self.after(&step)?;
        }
        Ok(())
    }

    /// One optimizer step over the next batches.
    fn step(&mut self, feed: &mut ImageFeed) -> Result<Step, JobError> {
        let (side, device) = (self.plan.side, self.plan.trainer.device);
        let mut batches: Vec<Tensor> = Vec::new();
        for _ in 0..self.plan.section.accumulate {
            let batch = feed.next_batch().map_err(|error| match error {
                ImagesError::TooFew { .. } => JobError::Usage(error.to_string()),
                error => JobError::failed(error),
            })?;
            let batch = batch.ok_or_else(|| JobError::Failed("the images ended".to_owned()))?;
            batches.push(upload(&batch.pixels, side, device).map_err(JobError::failed)?);
            if self.shown.is_none() && self.plan.validation.is_none() {
                self.shown = Some(first(&batch.pixels, side));
            }
            (self.facts.cursor, self.facts.read) = (batch.next, batch.read);
        }
        self.trainer.step(&batches).map_err(JobError::failed)
    }

    /// Counts a step that was skipped; too many in a row end the run.
    fn judge(&mut self, step: &Step) -> Result<(), JobError> {
        if !step.skipped {
            self.facts.bad_in_a_row = 0;
            return Ok(());
        }
        self.facts.skipped += 1;
        self.facts.bad_in_a_row += 1;
        let (row, most) = (self.facts.bad_in_a_row, self.plan.section.max_bad_steps);
        let number = self.trainer.steps();
        tracing::warn!("step {number} is skipped: its loss or its gradient is no number ({row} in a row)");
        if row < most {
            return Ok(());
        }
        let last = match self.checkpoints.newest() {
            Some(step) => format!("the last good checkpoint is {}", self.checkpoints.shown(step)),
            None => "there is no checkpoint yet".to_owned(),
        };
        Err(JobError::Failed(format!(
            "the loss of {row} steps in a row, up to step {number}, was no number: {last}; lower train_tokenizer.lr"
        )))
    }

    /// What is due after a step: a line, a look at the held-out images, pictures, a checkpoint.
    fn after(&mut self, step: &Step) -> Result<(), JobError> {
        let (done, section) = (self.trainer.steps(), &self.plan.section);
        let due = |every: u64| done.is_multiple_of(every) || done == section.steps;
        if due(section.log_every) {
            let (skipped, rejected) = (self.facts.skipped, self.facts.read.rejected());
            self.runtime.block_on(self.watch.line(done, &step.figures, skipped, rejected))?;
        }
        let mut loss = None;
        if due(section.validate_every)
            && let Some((validation, usage)) = self.validate()?
        {
            let found = self.loss(&validation);
            self.watch.validated(done, &validation, found);
            (self.validated, loss) = (Some((done, validation, usage)), Some(found));
        }
        if section.sample_every > 0 && due(section.sample_every) {
            self.look()?;
        }
        let better = |loss: f64| self.checkpoints.best().is_none_or(|(_, best)| loss < best);
        if due(section.checkpoint_every) || loss.is_some_and(better) {
            self.save(loss)?;
        }
        Ok(())
    }

    fn trial<'a>(&'a self, images: &'a crate::training::images::Images) -> Trial<'a> {
        Trial {
            images,
            side: self.plan.side,
            limit: self.plan.section.validation_images,
            device: self.plan.trainer.device,
            perceptual: self.trainer.perceptual(),
        }
    }

    fn validate(&self) -> Result<Option<(Validation, Usage)>, JobError> {
        let Some(images) = &self.plan.validation else { return Ok(None) };
        let _entered = self.runtime.enter();
        let weights = self.trainer.weights().map_err(JobError::failed)?;
        self.trial(images).run(self.trainer.network(), weights).map(Some)
    }

    /// The tokenizer as it is exported, how it does on the validation images, and how often they use each code.
    fn merged(&self, tried: Option<(Validation, Usage)>) -> Result<Exporting, JobError> {
        let mut weights = self.trainer.weights().map_err(JobError::failed)?;
        let mut config = self.trainer.network().clone();
        let section = &self.plan.section;
        let tried = match (section.merge, tried, &self.plan.validation) {
            (Some(distance), Some((_, usage)), Some(images)) => {
                merge(&mut weights, &mut config, &usage, (distance, section.shrink_min_count))?;
                let _entered = self.runtime.enter();
                let copies = weights.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
                Some(self.trial(images).run(&config, copies)?)
            }
            (_, tried, _) => tried,
        };
        Ok(Exporting { config, weights, tried })
    }

    /// What decides which checkpoint is best.
    fn loss(&self, validation: &Validation) -> f64 {
        validation.l1 + validation.perceptual.unwrap_or(0.0) * self.plan.section.perceptual_weight
    }

    /// Shows held-out images, or else those of the first batch, beside their reconstructions.
    fn look(&mut self) -> Result<(), JobError> {
        let images = self.plan.validation.as_ref().unwrap_or(&self.plan.images);
        if self.shown.is_none() {
            let _entered = self.runtime.enter();
            let batch = images.once().next_batch().map_err(JobError::failed)?;
            self.shown = batch.map(|batch| first(&batch.pixels, self.plan.side));
        }
        let Some(pixels) = &self.shown else { return Ok(()) };
        let weights = self.trainer.weights().map_err(JobError::failed)?;
        let pairs = self.trial(images).pairs(self.trainer.network(), weights, pixels)?;
        self.watch.pictures(self.trainer.steps(), &pairs)
    }

    /// Writes a checkpoint, and before it everything that was told up to there.
    fn save(&mut self, loss: Option<f64>) -> Result<(), JobError> {
        let step = self.trainer.steps();
        self.runtime.block_on(self.watch.seal(step))?;
        let facts = serde_json::to_value(&self.facts).map_err(JobError::failed)?;
        let facts: Map<String, Value> = facts.as_object().cloned().unwrap_or_default();
        let tensors = self.trainer.state().map_err(JobError::failed)?;
        let checkpoint = Checkpoint { step, tensors, facts };
        self.runtime.block_on(self.checkpoints.save(&checkpoint, loss)).map_err(refused)
    }

    /// Writes the tokenizer.
    fn finish(mut self) -> Result<TrainTokenizerSummary, JobError> {
        let (steps, section) = (self.trainer.steps(), &self.plan.section);
        let best = self.checkpoints.best().map(|(step, _)| step);
        if let Some(best) = best.filter(|best| section.export == "best" && *best != steps) {
            let checkpoint = self.runtime.block_on(self.checkpoints.load(best)).map_err(refused)?;
            self.trainer.restore(best, &checkpoint.tensors).map_err(JobError::failed)?;
        }
        let exported = self.trainer.steps();
        let tried = match self.validated.take() {
            Some((step, validation, usage)) if step == exported => Some((validation, usage)),
            _ => self.validate()?,
        };
        let Exporting { config, weights, tried } = self.merged(tried)?;
        let usage = tried.as_ref().map(|(_, usage)| (usage, section.shrink_min_count)).filter(|_| section.shrink);
        let about = BTreeMap::from([
            ("about".to_owned(), format!("imagebart train-tokenizer, {exported} steps")),
            ("trained_as".to_owned(), self.plan.digest()),
        ]);
        let written = export(&self.plan.weights, &config, weights, usage, about)?;
        Ok(TrainTokenizerSummary {
            steps,
            exported,
            skipped: self.facts.skipped,
            epochs: self.facts.cursor.epoch + 1,
            read: self.facts.read,
            validation: tried.map(|(validation, _)| validation),
            tokenizer: self.plan.weights.clone(),
            fingerprint: written.fingerprint,
            ids: written.ids,
        })
    }
}

/// The first images of a batch.
fn first(pixels: &[u8], side: u32) -> Vec<u8> {
    let bytes = LOOKS * side as usize * side as usize * 3;
    pixels.get(..bytes).unwrap_or(pixels).to_vec()
}
