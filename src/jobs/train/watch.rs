//! What a training shows of itself: lines, curves, pictures, the report.

use super::plan::TrainPlan;
use crate::chain::ScaleConfig;
use crate::config::ByteSize;
use crate::diffusion::{noise_floor, uniform_bound};
use crate::imaging::{Rgb, encode_png, grid};
use crate::jobs::JobError;
use crate::jobs::work::dtype_name;
use crate::training::watch::{Bound, Journal, Meter, ReportFacts, StepDone, bits, names, report};
use crate::training::{Measured, RunFolder, Stepped};
use std::time::{Duration, Instant};

/// The watch over one network's training.
pub struct Watch {
    folder: RunFolder,
    journal: Journal,
    meter: Meter,
    /// Tokens and rows of a step.
    tokens: u64,
    rows: u64,
    /// Operations for each token.
    operations: f64,
    /// When the last step ended, and how long the feed had waited then.
    since: Instant,
    waited: Duration,
    facts: ReportFacts,
}

impl Watch {
    /// The watch of a run that goes on after `step`.
    pub async fn open(
        folder: RunFolder,
        (plan, network): (&TrainPlan, &ScaleConfig),
        step: u64,
    ) -> Result<Watch, JobError> {
        let section = &plan.section;
        let rows = u64::from(section.batch_size) * u64::from(section.accumulate);
        Ok(Watch {
            journal: Journal::open(folder.clone(), step).await.map_err(JobError::failed)?,
            folder,
            meter: Meter::new(section.steps),
            tokens: rows * plan.config.tokens() as u64,
            rows,
            operations: operations(plan, network),
            since: Instant::now(),
            waited: Duration::ZERO,
            facts: facts(plan, network),
        })
    }

    /// Counts a step; `waited` is how long the feed has waited in all.
    pub fn step(&mut self, waited: Duration) {
        let done = StepDone {
            rows: self.rows,
            tokens: self.tokens,
            took: self.since.elapsed(),
            waited: waited.saturating_sub(self.waited),
        };
        self.meter.step(done);
        (self.since, self.waited) = (Instant::now(), waited);
    }

    /// Tells of the steps since the last line.
    pub async fn line(&mut self, step: u64, stepped: &Stepped, skipped: u64) -> Result<(), JobError> {
        let values = [
            (names::LOSS, stepped.loss),
            (names::HARD_LOSS, stepped.hard),
            (names::SOFT_LOSS, stepped.soft),
            (names::BITS_PER_TOKEN, bits(stepped.hard)),
            (names::LEARNING_RATE, stepped.learning_rate),
            (names::GRADIENT_NORM, stepped.gradient_norm),
            (names::SKIPPED_STEPS, skipped as f64),
        ];
        let mut reading = self.meter.read(step, &values);
        if let Some((_, pace)) = reading.scalars.iter().find(|(name, _)| *name == names::TOKENS_PER_S) {
            reading.scalars.push((names::TERAFLOPS, pace * self.operations / 1e12));
        }
        tracing::info!("{}; {}", reading.progress(), reading.speed());
        self.journal.scalars(step, &reading.scalars);
        self.journal.flush().await.map_err(JobError::failed)
    }

    /// Tells of a look at the validation rows.
    pub fn measured(&mut self, step: u64, measured: &Measured) {
        let Measured { loss, hard, soft, rows } = *measured;
        tracing::info!("step {step}: validation loss {loss:.4}, {:.4} bits/token over {rows} rows", bits(hard));
        let values = [
            (names::VALIDATION_LOSS, loss),
            (names::VALIDATION_HARD_LOSS, hard),
            (names::VALIDATION_SOFT_LOSS, soft),
            (names::VALIDATION_BITS_PER_TOKEN, bits(hard)),
        ];
        self.journal.scalars(step, &values);
    }

    /// Shows pictures, `columns` to a row.
    pub fn pictures(&mut self, step: u64, pictures: &[Rgb], columns: usize) -> Result<(), JobError> {
        let sheet = grid(pictures, columns);
        let png = encode_png(&sheet).map_err(JobError::failed)?;
        self.journal.image(step, "clean image, noised, one step drawn back", &png, sheet.width, sheet.height);
        Ok(())
    }

    /// Puts everything up to `step` where the report finds it. To be called before the checkpoint of `step` is written.
    pub async fn seal(&mut self, step: u64) -> Result<(), JobError> {
        self.journal.seal(step).await.map_err(JobError::failed)?;
        report::write(&self.folder, &self.facts, self.journal.history()).await.map_err(JobError::failed)
    }
}

/// Operations that training does for each token it predicts.
pub fn operations(plan: &TrainPlan, network: &ScaleConfig) -> f64 {
    let (tokens, config) = (plan.config.tokens() as i64, &plan.config);
    let of_a_row = network.network.training_flops(tokens, config.condition.shared_tokens() > 0);
    of_a_row as f64 / tokens.max(1) as f64
}

/// What the report says of a run beside its curves.
fn facts(plan: &TrainPlan, network: &ScaleConfig) -> ReportFacts {
    let (section, config) = (&plan.section, &plan.config);
    let codes = i64::from(config.codebook_size);
    let scales: Vec<String> = network.scales.iter().map(u32::to_string).collect();
    let parameters = network.network.parameters();
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let facts = vec![
        fact("Parameters", parameters.to_string()),
        fact("Network", format!("{:?}", network.network)),
        fact("Alpha (share of the soft loss)", network.alpha.to_string()),
        fact("Noise schedule (cumulative alphas)", format!("{:?}", plan.schedule.cumulatives())),
        fact("Token grid", format!("{} × {} tokens of {codes} codes", config.grid.0, config.grid.1)),
        fact("Tokenizer", plan.fingerprint.clone()),
        fact("Latents", format!("{} rows", plan.loader.rows())),
        fact("Validation", plan.validation.as_ref().map_or("none".to_owned(), |it| format!("{} rows", it.rows()))),
        fact("Batch", format!("{} rows, {} of them a step", section.batch_size, section.accumulate)),
        fact("Device", format!("{}, {}, {} threads", plan.device.line, dtype_name(plan.dtype), plan.threads)),
        fact("Seed", plan.seed.to_string()),
        fact("State of the training", ByteSize(parameters.unsigned_abs().saturating_mul(20)).to_string()),
        fact("Settings", toml::to_string(section).unwrap_or_default()),
    ];
    let floor = |scale: &u32| Bound {
        metric: "bits_per_token",
        name: format!("noise of scale {scale}"),
        value: bits(noise_floor(&plan.schedule, codes, *scale)),
    };
    let uniform = Bound { metric: "bits_per_token", name: "uniform".to_owned(), value: bits(uniform_bound(codes)) };
    ReportFacts {
        title: format!("Training of scale {}", scales.join(", ")),
        summary: format!("Scale {} of {} of {}", scales.join(", "), config.scales(), plan.model.display()),
        notes: Vec::new(),
        facts,
        bounds: std::iter::once(uniform).chain(network.scales.iter().map(floor)).collect(),
    }
}
