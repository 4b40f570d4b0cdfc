//! One network's training: from its last checkpoint to the end.

use super::export;
use super::plan::{TrainPlan, conditioning};
use super::watch::{Watch, operations};
use crate::chain::ScaleConfig;
use crate::jobs::{JobError, open_output};
use crate::torch::device::set_threads;
use crate::torch::weights::Weights;
use crate::training::{
    Batch, Checkpoint, CheckpointError, Checkpoints, Feed, Measured, Position, RunFolder, Stepped, Trainer,
};
use crate::vqgan::{Tokenizer, TokenizerOptions};
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Rows that a picture of a training shows, and how many stand side by side.
const LOOKS: usize = 8;
const LOOKS_IN_A_ROW: usize = 2;

/// What the training of one network came to.
#[derive(Clone, Debug)]
pub struct NetworkSummary {
    pub scales: Vec<u32>,
    /// Optimizer steps in all, and those of this process.
    pub steps: u64,
    pub own_steps: u64,
    /// Steps whose loss was no number.
    pub skipped: u64,
    /// The last step's loss, in nats a token; none when there was nothing left to do.
    pub loss: Option<f64>,
    /// The step of the best validation and its loss.
    pub best: Option<(u64, f64)>,
    /// Tokens that this process trained on, a second.
    pub tokens_per_second: f64,
    /// Operations of its networks that this process did, in 10^12 a second (`NetworkConfig::training_flops`).
    pub teraflops: f64,
    /// Share of the time in which the device waited for latents.
    pub waiting: f64,
    pub file: PathBuf,
}

impl fmt::Display for NetworkSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.scales.iter().map(u32::to_string).collect();
        write!(f, "scale {}: {} steps", numbers.join(", "), self.steps)?;
        if let Some(loss) = self.loss {
            write!(f, ", loss {loss:.4} nats a token")?;
        }
        if let Some((step, loss)) = self.best {
            write!(f, ", best validation {loss:.4} at step {step}")?;
        }
        if self.skipped > 0 {
            write!(f, ", {} steps skipped whose loss was no number", self.skipped)?;
        }
        if self.own_steps > 0 {
            let NetworkSummary { tokens_per_second, teraflops, waiting, .. } = self;
            write!(
                f,
                ", {tokens_per_second:.0} tokens/s, {teraflops:.3} TFLOP/s, {:.2} % waiting for data",
                waiting * 100.0
            )?;
        }
        write!(f, ", {}", self.file.display())
    }
}

/// One network's training, opened: what is there can be gone on with.
pub struct Run {
    plan: Arc<TrainPlan>,
    network: ScaleConfig,
    folder: RunFolder,
    checkpoints: Checkpoints,
    /// Decodes pictures, where some are asked for.
    tokenizer: Option<Tokenizer>,
    cancel: CancellationToken,
}

/// What a run counts beside the trainer's own state.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// The next batch.
    position: Position,
    /// Steps whose loss was no number, in all and since the last one that was.
    skipped: u64,
    in_a_row: u32,
}

impl Counts {
    fn facts(&self) -> Map<String, Value> {
        let Position { epoch, step } = self.position;
        let facts = json!({"epoch": epoch, "batch": step, "skipped": self.skipped});
        facts.as_object().cloned().unwrap_or_default()
    }

    fn of(facts: &Map<String, Value>) -> Counts {
        let number = |key: &str| facts.get(key).and_then(Value::as_u64).unwrap_or(0);
        let position = Position { epoch: number("epoch"), step: number("batch") };
        Counts { position, skipped: number("skipped"), in_a_row: 0 }
    }
}

impl Run {
    /// Opens the checkpoints of a network, or deletes them to start anew.
    pub async fn open(
        plan: Arc<TrainPlan>,
        network: ScaleConfig,
        overwrite: bool,
        cancel: CancellationToken,
    ) -> Result<Run, JobError> {
        let first = network.scales.first().copied().unwrap_or(1);
        let folder = RunFolder::of(&open_output(&plan.to, true).await?).below(&format!("scale-{first}"));
        if overwrite {
            Checkpoints::clear(&folder).await.map_err(failed)?;
        }
        let identity = plan.identity(&network);
        let checkpoints = Checkpoints::open(folder.clone(), identity, plan.section.keep).await.map_err(failed)?;
        let options = TokenizerOptions { device: plan.device.device, ..TokenizerOptions::default() };
        let tokenizer = match plan.section.sample_every {
            0 => None,
            _ => Some(Tokenizer::load(&plan.tokenizer, None, options).map_err(JobError::failed)?),
        };
        Ok(Run { plan, network, folder, checkpoints, tokenizer, cancel })
    }

    /// Trains to the end, and exports. Blocks the thread, which owns the device meanwhile.
    pub fn train(self) -> Result<NetworkSummary, JobError> {
        let (plan, section) = (self.plan.clone(), &self.plan.section);
        set_threads(plan.threads);
        let mut trainer = self.trainer()?;
        let mut counts = Counts::default();
        if let Some(checkpoint) = self.wait(self.checkpoints.latest()).map_err(failed)? {
            trainer.restore(checkpoint.step, &checkpoint.tensors).map_err(JobError::failed)?;
            counts = Counts::of(&checkpoint.facts);
            tracing::info!("scales {:?}: going on after step {}", self.network.scales, checkpoint.step);
        }
        let from = trainer.step_count();
        let mut watch = self.wait(Watch::open(self.folder.clone(), (&plan, &self.network), from))?;
        let start = Instant::now();
        let mut feed = self.feed(counts.position);
        let mut last = None;
        while trainer.step_count() < section.steps {
            if self.cancel.is_cancelled() {
                self.save(&trainer, &counts, &mut watch, None)?;
                return Err(JobError::Interrupted);
            }
            let batches = self.batches(&mut feed, &mut counts)?;
            let stepped = trainer.step(&batches).map_err(JobError::failed)?;
            self.judge(&stepped, &mut counts, trainer.step_count())?;
            watch.step(feed.waited());
            last = Some(stepped);
            self.after(&trainer, (&counts, &stepped), &batches, &mut watch)?;
        }
        let own_steps = trainer.step_count() - from;
        if own_steps > 0 && self.checkpoints.newest() != Some(trainer.step_count()) {
            self.save(&trainer, &counts, &mut watch, None)?;
        }
        let elapsed = start.elapsed().as_secs_f64().max(1e-9);
        let rows = own_steps * u64::from(section.batch_size) * u64::from(section.accumulate);
        let tokens = plan.config.tokens() as u64;
        Ok(NetworkSummary {
            scales: self.network.scales.clone(),
            steps: trainer.step_count(),
            own_steps,
            skipped: counts.skipped,
            loss: last.map(|stepped| stepped.loss),
            best: self.checkpoints.best(),
            tokens_per_second: (rows * tokens) as f64 / elapsed,
            teraflops: (rows * tokens) as f64 * operations(&plan, &self.network) / elapsed / 1e12,
            waiting: feed.waited().as_secs_f64() / elapsed,
            file: self.export(&trainer)?,
        })
    }

    fn trainer(&self) -> Result<Trainer, JobError> {
        let plan = &self.plan;
        // Networks of one shape start from different weights.
        let seed = plan.seed.wrapping_add(u64::from(self.network.scales.first().copied().unwrap_or(1)));
        let weights = Weights::init(&self.network.network.tensors(), seed).map_err(JobError::failed)?;
        let codes = i64::from(plan.config.codebook_size);
        let conditioning = conditioning(plan)?;
        Trainer::new(&self.network, &plan.schedule, codes, weights, conditioning, plan.settings(), plan.placement())
            .map_err(JobError::failed)
    }

    fn feed(&self, position: Position) -> Feed {
        let _guard = Handle::current().enter();
        self.plan.loader.train(position)
    }

    /// The batches of one step.
    fn batches(&self, feed: &mut Feed, counts: &mut Counts) -> Result<Vec<Batch>, JobError> {
        let mut batches = Vec::with_capacity(self.plan.section.accumulate as usize);
        for _ in 0..self.plan.section.accumulate {
            let batch = feed.next_batch().map_err(JobError::failed)?;
            let batch = batch.ok_or_else(|| JobError::Failed("the latents ended".to_owned()))?;
            let Position { epoch, step } = batch.position;
            counts.position = match step + 1 < self.plan.loader.steps() {
                true => Position { epoch, step: step + 1 },
                false => Position { epoch: epoch + 1, step: 0 },
            };
            batches.push(batch);
        }
        Ok(batches)
    }

    /// Counts a step whose loss was no number, and ends the run after too many.
    fn judge(&self, stepped: &Stepped, counts: &mut Counts, step: u64) -> Result<(), JobError> {
        if !stepped.skipped {
            counts.in_a_row = 0;
            return Ok(());
        }
        counts.skipped += 1;
        counts.in_a_row += 1;
        let Stepped { loss, gradient_norm, .. } = stepped;
        tracing::warn!("step {step} is skipped: its loss is {loss}, the norm of its gradient {gradient_norm}");
        if counts.in_a_row < self.plan.section.max_bad_steps {
            return Ok(());
        }
        let good = match self.checkpoints.newest() {
            Some(step) => format!("the last good checkpoint is {}", self.checkpoints.shown(step)),
            None => "there is no checkpoint yet".to_owned(),
        };
        Err(JobError::Failed(format!(
            "the loss of {} steps in a row, up to step {step}, was no number: {good}; lower train.lr or set train.clip",
            counts.in_a_row
        )))
    }

    /// What is due after a step: a line, pictures, a look at the validation rows, a checkpoint.
    fn after(
        &self,
        trainer: &Trainer,
        (counts, stepped): (&Counts, &Stepped),
        batches: &[Batch],
        watch: &mut Watch,
    ) -> Result<(), JobError> {
        let (step, section) = (trainer.step_count(), &self.plan.section);
        let due = |every: u64| step.is_multiple_of(every) || step == section.steps;
        if due(section.log_every) {
            self.wait(watch.line(step, stepped, counts.skipped))?;
        }
        let measured = match due(section.validate_every) {
            true => self.validate(trainer)?,
            false => None,
        };
        if let Some(measured) = &measured {
            watch.measured(step, measured);
        }
        if let (Some(tokenizer), Some(batch)) = (&self.tokenizer, batches.first())
            && due(section.sample_every)
        {
            self.look(trainer, tokenizer, batch, watch)?;
        }
        let best = |loss: f64| self.checkpoints.best().is_none_or(|(_, best)| loss < best);
        if due(section.checkpoint_every) || measured.is_some_and(|measured| best(measured.loss)) {
            self.save(trainer, counts, watch, measured.map(|measured| measured.loss))?;
        }
        Ok(())
    }

    /// Shows rows of a clean image, the same noised, and one step drawn back from there, at every scale of the network.
    fn look(&self, trainer: &Trainer, tokenizer: &Tokenizer, batch: &Batch, watch: &mut Watch) -> Result<(), JobError> {
        let (grid, batch) = (self.plan.config.grid, batch.first(LOOKS));
        let mut pictures = Vec::new();
        for &scale in trainer.scales() {
            let look = trainer.look(&batch, scale).map_err(JobError::failed)?;
            for ((clean, noised), drawn) in look.clean.iter().zip(&look.noised).zip(&look.drawn) {
                pictures.extend(tokenizer.decode(&[clean, noised, drawn], grid).map_err(JobError::failed)?);
            }
        }
        watch.pictures(trainer.step_count(), &pictures, 3 * LOOKS_IN_A_ROW)
    }

    /// The losses on the validation rows, the mean over the network's scales.
    fn validate(&self, trainer: &Trainer) -> Result<Option<Measured>, JobError> {
        let Some(loader) = &self.plan.validation else { return Ok(None) };
        let limit = self.plan.section.validation_rows.unwrap_or(u64::MAX);
        let mut feed = {
            let _guard = Handle::current().enter();
            loader.once()
        };
        let mut sum = Measured::default();
        while let Some(batch) = feed.next_batch().map_err(JobError::failed)? {
            if sum.rows >= limit {
                break;
            }
            for &scale in trainer.scales() {
                let one = trainer.measure(&batch, scale).map_err(JobError::failed)?;
                let weight = one.rows as f64 / trainer.scales().len() as f64;
                sum.loss += one.loss * weight;
                sum.hard += one.hard * weight;
                sum.soft += one.soft * weight;
            }
            sum.rows += batch.len() as u64;
        }
        let rows = sum.rows.max(1) as f64;
        Ok(Some(Measured { loss: sum.loss / rows, hard: sum.hard / rows, soft: sum.soft / rows, rows: sum.rows }))
    }

    /// Writes a checkpoint, and before it everything that was told up to there.
    fn save(&self, trainer: &Trainer, counts: &Counts, watch: &mut Watch, loss: Option<f64>) -> Result<(), JobError> {
        self.wait(watch.seal(trainer.step_count()))?;
        let tensors = trainer.state().map_err(JobError::failed)?;
        let checkpoint = Checkpoint { step: trainer.step_count(), tensors, facts: counts.facts() };
        self.wait(self.checkpoints.save(&checkpoint, loss)).map_err(failed)
    }

    /// Writes the averages into the model directory: those of the best checkpoint, where there is one and it is wanted.
    fn export(&self, trainer: &Trainer) -> Result<PathBuf, JobError> {
        let best = self.checkpoints.best().map(|(step, _)| step);
        let best = best.filter(|step| self.plan.section.export == "best" && *step != trainer.step_count());
        let Some(step) = best else { return export::network(&self.plan, &self.network, &trainer.averages()) };
        let checkpoint = self.wait(self.checkpoints.load(step)).map_err(failed)?;
        let mut other = self.trainer()?;
        other.restore(step, &checkpoint.tensors).map_err(JobError::failed)?;
        export::network(&self.plan, &self.network, &other.averages())
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        Handle::current().block_on(future)
    }
}

/// What a checkpoint says against going on is the user's to resolve; a failing store is not.
fn failed(error: CheckpointError) -> JobError {
    match error {
        CheckpointError::Other { .. } | CheckpointError::AllBroken { .. } => JobError::Usage(error.to_string()),
        error => JobError::failed(error),
    }
}
