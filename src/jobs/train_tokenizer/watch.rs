//! What a training shows of itself: lines, curves, pictures, the report.

use super::plan::TokenizerPlan;
use super::validate::Validation;
use crate::imaging::{Rgb, encode_png, grid};
use crate::jobs::JobError;
use crate::training::RunFolder;
use crate::training::tokenizer::Figures;
use crate::training::watch::{Bound, Journal, Meter, ReportFacts, StepDone, names, report};
use std::time::{Duration, Instant};

/// Pictures side by side, each beside its reconstruction.
const PAIRS_IN_A_ROW: usize = 4;

/// The watch over a run.
pub struct Watch {
    folder: RunFolder,
    journal: Journal,
    meter: Meter,
    /// Images of a step.
    images: u64,
    /// When the last step ended, and how long the feed had waited then.
    since: Instant,
    waited: Duration,
    facts: ReportFacts,
}

impl Watch {
    /// The watch of a run that goes on after `step`.
    pub async fn open(folder: RunFolder, plan: &TokenizerPlan, step: u64) -> Result<Watch, JobError> {
        let section = &plan.section;
        Ok(Watch {
            journal: Journal::open(folder.clone(), step).await.map_err(JobError::failed)?,
            folder,
            meter: Meter::new(section.steps),
            images: u64::from(section.batch_size) * u64::from(section.accumulate),
            since: Instant::now(),
            waited: Duration::ZERO,
            facts: facts(plan),
        })
    }

    /// Counts a step; `waited` is how long the feed has waited in all.
    pub fn step(&mut self, waited: Duration) {
        let done = StepDone {
            rows: self.images,
            tokens: 0,
            took: self.since.elapsed(),
            waited: waited.saturating_sub(self.waited),
        };
        self.meter.step(done);
        (self.since, self.waited) = (Instant::now(), waited);
    }

    /// Tells of the steps since the last line.
    pub async fn line(&mut self, step: u64, figures: &Figures, skipped: u64, rejected: u64) -> Result<(), JobError> {
        let mut values = vec![
            (names::LOSS, figures.nll),
            (names::CODEBOOK_LOSS, figures.quantizer),
            (names::CODES, figures.codes),
            (names::PERPLEXITY, figures.perplexity),
            (names::RESTARTED, figures.restarted),
            (names::LEARNING_RATE, figures.rate),
            (names::GRADIENT_NORM, figures.gradient),
            (names::SKIPPED_STEPS, skipped as f64),
            (names::REJECTED, rejected as f64),
        ];
        let mut line = format!("{:.0} codes (perplexity {:.1})", figures.codes, figures.perplexity);
        if figures.perceptual != 0.0 {
            values.push((names::PERCEPTUAL, figures.perceptual));
            line += &format!(", perceptual {:.4}", figures.perceptual);
        }
        if figures.judged {
            let Figures { adversarial, weight, discriminator, .. } = *figures;
            values.extend([
                (names::ADVERSARIAL, adversarial),
                (names::ADAPTIVE_WEIGHT, weight),
                (names::DISCRIMINATOR_LOSS, discriminator),
            ]);
            line += &format!(", adversarial {adversarial:.3} × {weight:.3}, discriminator {discriminator:.4}");
        }
        let reading = self.meter.read(step, &values);
        tracing::info!("{}; {line}; {}", reading.progress(), reading.speed());
        self.journal.scalars(step, &reading.scalars);
        self.journal.flush().await.map_err(JobError::failed)
    }

    /// Tells of a look at the held-out images.
    pub fn validated(&mut self, step: u64, validation: &Validation, loss: f64) {
        tracing::info!("step {step}: validation on {validation}");
        let mut values = vec![
            (names::VALIDATION_LOSS, loss),
            (names::VALIDATION_L1, validation.l1),
            (names::VALIDATION_PSNR, validation.psnr),
            (names::VALIDATION_CODES, validation.codes as f64),
            (names::VALIDATION_PERPLEXITY, validation.perplexity),
        ];
        values.extend(validation.perceptual.map(|distance| (names::VALIDATION_PERCEPTUAL, distance)));
        self.journal.scalars(step, &values);
    }

    /// Shows pictures and reconstructions, one after the other.
    pub fn pictures(&mut self, step: u64, pictures: &[Rgb]) -> Result<(), JobError> {
        let sheet = grid(pictures, 2 * PAIRS_IN_A_ROW);
        let png = encode_png(&sheet).map_err(JobError::failed)?;
        self.journal.image(step, "image, reconstruction", &png, sheet.width, sheet.height);
        Ok(())
    }

    /// Puts everything up to `step` where the report finds it. To be called before the checkpoint of `step` is written.
    pub async fn seal(&mut self, step: u64) -> Result<(), JobError> {
        self.journal.seal(step).await.map_err(JobError::failed)?;
        report::write(&self.folder, &self.facts, self.journal.history()).await.map_err(JobError::failed)
    }
}

/// What the report says of a run beside its curves.
fn facts(plan: &TokenizerPlan) -> ReportFacts {
    let (section, network) = (&plan.section, &plan.trainer.network);
    let parameters: i64 = network.tensors().iter().map(|tensor| tensor.numel()).sum();
    let side = i64::from(plan.side) / network.downsampling();
    let codes = network.n_embed;
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let shape = network.to_metadata().remove("ddconfig").unwrap_or_default();
    let perceptual = section.lpips.clone().unwrap_or_else(|| "off".to_owned());
    let facts = vec![
        fact("Parameters", parameters.to_string()),
        fact("Network", shape),
        fact("Tokens", format!("{side} × {side} of {codes} codes, {} numbers each", network.embed_dim)),
        fact("Perceptual loss", perceptual),
        fact("Batch", format!("{} images, {} of them a step", section.batch_size, section.accumulate)),
        fact("Device", format!("{}, {} threads", plan.device.line, plan.threads)),
        fact("Seed", plan.trainer.seed.to_string()),
        fact("Settings", toml::to_string(section).unwrap_or_default()),
    ];
    ReportFacts {
        title: "Training of a tokenizer".to_owned(),
        summary: format!("{} × {} pixels, to {}", plan.side, plan.side, plan.weights.display()),
        notes: Vec::new(),
        facts,
        bounds: vec![Bound { metric: "codes", name: "the codebook".to_owned(), value: codes as f64 }],
    }
}
