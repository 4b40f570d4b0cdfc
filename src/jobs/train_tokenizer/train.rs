//! The loop: batches in, steps, checkpoints, and at the end the tokenizer.

use super::TrainTokenizerSummary;
use super::export::export;
use super::plan::{TokenizerPlan, lpips_on, refused, upload};
use super::validate::{Trial, Validation};
use crate::jobs::JobError;
use crate::jobs::shrink::Usage;
use crate::torch::device::set_threads;
use crate::training::images::{Cursor, ImageFeed, Tally};
use crate::training::tokenizer::{Figures, Step, Trainer};
use crate::training::{Checkpoint, Checkpoints};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tch::Tensor;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// What a checkpoint knows besides tensors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Facts {
    cursor: Cursor,
    read: Tally,
    /// Steps whose loss was not a number, in all and the last ones in a row.
    skipped: u64,
    bad_in_a_row: u32,
}

/// A run under way.
struct Run<'a> {
    plan: &'a TokenizerPlan,
    checkpoints: &'a Checkpoints,
    runtime: &'a Handle,
    trainer: Trainer,
    facts: Facts,
}

/// Trains to the end, or to `cancel`.
pub fn run(
    plan: TokenizerPlan,
    checkpoints: &Checkpoints,
    runtime: &Handle,
    cancel: &CancellationToken,
) -> Result<TrainTokenizerSummary, JobError> {
    set_threads(plan.threads);
    if plan.lpips.is_none() {
        tracing::info!("no perceptual loss: train_tokenizer.lpips names no file of LPIPS weights");
    }
    let lpips = lpips_on(plan.lpips.as_ref(), plan.trainer.device)?;
    let trainer = Trainer::new(plan.trainer.clone(), lpips).map_err(JobError::failed)?;
    let mut run = Run { plan: &plan, checkpoints, runtime, trainer, facts: Facts::default() };
    run.resume()?;
    run.train(cancel)?;
    run.finish()
}

impl Run<'_> {
    /// Takes the newest checkpoint, if there is one.
    fn resume(&mut self) -> Result<(), JobError> {
        let Some(Checkpoint { step, tensors, facts }) =
            self.runtime.block_on(self.checkpoints.latest()).map_err(refused)?
        else {
            return Ok(());
        };
        self.trainer.restore(step, &tensors).map_err(JobError::failed)?;
        self.facts = serde_json::from_value(Value::Object(facts)).map_err(JobError::failed)?;
        let all = self.plan.section.steps;
        match step >= all {
            true => tracing::info!("nothing to train: all {all} steps are done"),
            false => tracing::info!("going on from {}: {step} of {all} steps are done", self.checkpoints.shown(step)),
        }
        Ok(())
    }

    fn train(&mut self, cancel: &CancellationToken) -> Result<(), JobError> {
        let section = &self.plan.section;
        if self.trainer.steps() >= section.steps {
            return Ok(());
        }
        let mut feed = {
            let _entered = self.runtime.enter();
            self.plan.images.train(self.facts.cursor.clone())
        };
        let mut pace = Pace::new();
        while self.trainer.steps() < section.steps {
            if cancel.is_cancelled() {
                self.save(None)?;
                return Err(JobError::Interrupted);
            }
            let step = self.step(&mut feed)?;
            self.judge(&step)?;
            let done = self.trainer.steps();
            pace.add(u64::from(section.batch_size) * u64::from(section.accumulate));
            if done % section.log_every == 0 || done == section.steps {
                tracing::info!("step {done}/{}: {}; {}", section.steps, line(&step.figures), pace.line(feed.waited()));
                pace = Pace { waited: feed.waited(), ..Pace::new() };
            }
            let validation = match done % section.validate_every == 0 && done < section.steps {
                true => self.validate()?,
                false => None,
            };
            if done % section.checkpoint_every == 0 && done < section.steps {
                self.save(validation.as_ref().map(|(validation, _)| self.loss(validation)))?;
            }
        }
        Ok(())
    }

    /// One optimizer step over the next batches.
    fn step(&mut self, feed: &mut ImageFeed) -> Result<Step, JobError> {
        let (side, device) = (self.plan.side, self.plan.trainer.device);
        let mut batches: Vec<Tensor> = Vec::new();
        for _ in 0..self.plan.section.accumulate {
            let batch = feed.next_batch().map_err(|error| match error {
                crate::training::images::ImagesError::TooFew { .. } => JobError::Usage(error.to_string()),
                error => JobError::failed(error),
            })?;
            let batch = batch.ok_or_else(|| JobError::Failed("the images ended".to_owned()))?;
            batches.push(upload(&batch.pixels, side, device).map_err(JobError::failed)?);
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
        tracing::warn!("step {number} is skipped: its loss or its gradient is not a number ({row} in a row)");
        if row < most.max(1) {
            return Ok(());
        }
        let last = match self.checkpoints.newest() {
            Some(step) => format!("the last good checkpoint is {}", self.checkpoints.shown(step)),
            None => "there is no checkpoint yet".to_owned(),
        };
        Err(JobError::Failed(format!(
            "the loss was not a number {row} times in a row, up to step {number}; {last}: lower train_tokenizer.lr"
        )))
    }

    fn validate(&self) -> Result<Option<(Validation, Usage)>, JobError> {
        let Some(images) = &self.plan.validation else { return Ok(None) };
        let lpips = lpips_on(self.plan.lpips.as_ref(), self.plan.trainer.device)?;
        let trial = Trial {
            images,
            side: self.plan.side,
            limit: self.plan.section.validation_images,
            device: self.plan.trainer.device,
            lpips: lpips.as_ref(),
        };
        let _entered = self.runtime.enter();
        let weights = self.trainer.weights().map_err(JobError::failed)?;
        let (validation, usage) = trial.run(self.trainer.network(), weights)?;
        tracing::info!("validation after step {}: {validation}", self.trainer.steps());
        Ok(Some((validation, usage)))
    }

    /// What decides which checkpoint is best.
    fn loss(&self, validation: &Validation) -> f64 {
        validation.l1 + validation.perceptual.unwrap_or(0.0) * self.plan.section.perceptual_weight
    }

    fn save(&self, loss: Option<f64>) -> Result<(), JobError> {
        let step = self.trainer.steps();
        let facts = serde_json::to_value(&self.facts).map_err(JobError::failed)?;
        let facts: Map<String, Value> = facts.as_object().cloned().unwrap_or_default();
        let tensors = self.trainer.state().map_err(JobError::failed)?;
        let checkpoint = Checkpoint { step, tensors, facts };
        self.runtime.block_on(self.checkpoints.save(&checkpoint, loss)).map_err(refused)
    }

    /// Validates, keeps the last state, and writes the tokenizer.
    fn finish(self) -> Result<TrainTokenizerSummary, JobError> {
        let tried = self.validate()?;
        let steps = self.trainer.steps();
        if self.checkpoints.newest() != Some(steps) {
            self.save(tried.as_ref().map(|(validation, _)| self.loss(validation)))?;
        }
        let section = &self.plan.section;
        let usage = tried.as_ref().map(|(_, usage)| (usage, section.shrink_min_count)).filter(|_| section.shrink);
        let about = BTreeMap::from([
            ("about".to_owned(), format!("imagebart train-tokenizer, {steps} steps")),
            ("trained_as".to_owned(), self.plan.digest()),
        ]);
        let weights = self.trainer.weights().map_err(JobError::failed)?;
        let exported = export(&self.plan.weights, self.trainer.network(), weights, usage, about)?;
        Ok(TrainTokenizerSummary {
            steps,
            skipped: self.facts.skipped,
            epochs: self.facts.cursor.epoch + 1,
            read: self.facts.read.clone(),
            validation: tried.map(|(validation, _)| validation),
            tokenizer: self.plan.weights.clone(),
            fingerprint: exported.fingerprint,
            ids: exported.ids,
        })
    }
}

/// A step's figures for the log.
fn line(figures: &Figures) -> String {
    let Figures { nll, quantizer, codes, perplexity, gradient, .. } = figures;
    let mut line = format!("loss {nll:.4}, codebook {quantizer:.4}");
    if figures.perceptual != 0.0 {
        line += &format!(", LPIPS {:.4}", figures.perceptual);
    }
    if figures.discriminator != 0.0 {
        let Figures { adversarial, weight, discriminator, .. } = figures;
        line += &format!(", adversarial {adversarial:.4} × {weight:.3}, discriminator {discriminator:.4}");
    }
    line + &format!(", {codes:.0} codes (perplexity {perplexity:.1}), gradient {gradient:.3}")
}

/// Images a second, and the share of the time that was spent waiting for them.
struct Pace {
    since: Instant,
    images: u64,
    waited: Duration,
}

impl Pace {
    fn new() -> Pace {
        Pace { since: Instant::now(), images: 0, waited: Duration::ZERO }
    }

    fn add(&mut self, images: u64) {
        self.images += images;
    }

    fn line(&self, waited: Duration) -> String {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let share = waited.saturating_sub(self.waited).as_secs_f64() / seconds * 100.0;
        format!("{:.1} images/s, {share:.1} % waiting", self.images as f64 / seconds)
    }
}
