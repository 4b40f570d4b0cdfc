//! What a run will take, told by a few of its batches.

use super::plan::SamplePlan;
use super::stages::{develop, on_threads};
use crate::config::{ByteSize, Pipeline};
use crate::datasets::Unit;
use crate::jobs::JobError;
use crate::jobs::developer::to_row;
use crate::jobs::sample::draws::Draw;
use crate::jobs::sample::scorer::{Module, Scorer, shapes};
use crate::jobs::work::processors;
use crate::progress::peak_memory;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Batches that are drawn and timed, behind a first one that is not: it fills caches and takes memory.
const TIMED: u64 = 2;
/// Bytes of a row besides its image and its tokens.
const ROW: u64 = 64;
/// What the writing of a table holds in memory.
const WRITING: u64 = 64 << 20;

/// What the units that are left will take.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// Images that are left to draw, and the most that are kept of them.
    draws: u64,
    kept: u64,
    /// Images that were drawn to find out.
    tried: u64,
    /// Of one image: in the token loop, to decode and score, and to write as a file on one thread.
    stages: [Duration; 3],
    /// For one image, all stages together as they run.
    image: Duration,
    /// On disk, of one image.
    bytes: u64,
    memory: Option<u64>,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    images: u64,
    /// How many batches a run draws at once.
    at_once: u32,
    drawing: Duration,
    decoding: Duration,
    writing: Duration,
    bytes: u64,
}

impl Estimate {
    /// Draws a few batches of `units`, what is left of a run; none where nothing is.
    ///
    /// # Errors
    /// What would stop the run, too.
    pub async fn of(plan: &SamplePlan, pipeline: &Pipeline, units: &[Arc<Unit>]) -> Result<Option<Estimate>, JobError> {
        let batch = u64::from(plan.model.settings.batch_size);
        let draws: u64 = units.iter().filter_map(|unit| unit.range.as_ref()).map(|range| range.end - range.start).sum();
        let Some(unit) = units.first() else { return Ok(None) };
        tracing::info!("drawing a few batches for the estimate");
        let range = unit.range.clone().unwrap_or_default();
        let mut stream = plan.draws.clone().start();
        let mut batches: Vec<Vec<Draw>> = Vec::new();
        for number in range.clone().take((batch * (TIMED + 1)) as usize) {
            let draw = stream.draw(number, unit.clone()).await.map_err(|error| JobError::Failed(error.to_string()))?;
            match batches.last_mut().filter(|last| (last.len() as u64) < batch) {
                Some(last) => last.push(draw),
                None => batches.push(vec![draw]),
            }
        }
        let measured = measure(plan, pipeline, batches).await?;
        Ok(Some(Estimate::from(plan, pipeline, draws, measured)))
    }

    fn from(plan: &SamplePlan, pipeline: &Pipeline, draws: u64, measured: Measured) -> Estimate {
        let settings = plan.model.settings;
        let images = measured.images.max(1) as u32;
        let stages = [measured.drawing, measured.decoding, measured.writing].map(|stage| stage / images);
        let [drawing, decoding, writing] = stages;
        let workers = settings.image_workers as u32;
        // Scales on devices of their own are taken to need as long as each other.
        let at_once = measured.at_once.max(1);
        let slowest = (drawing / at_once).max(decoding).max(writing / workers.max(1));
        // Stages that run at once share the processors, or a GPU.
        let shared = match plan.model.device.class.as_str() {
            "cpu" => {
                let threads = settings.threads.get() as u32;
                ((drawing + decoding) * threads + writing) / processors().max(1)
            }
            _ => drawing / at_once + decoding,
        };
        let all = plan.selection.count.max(1);
        let kept = match pipeline.choose.rejected.as_str() {
            "keep" => draws,
            _ => (u128::from(plan.keep()) * u128::from(draws) / u128::from(all)) as u64,
        };
        let config = plan.model.directory.config();
        let bits = u64::from(u32::BITS - config.codebook_size.saturating_sub(1).leading_zeros());
        let bytes = measured.bytes / u64::from(images) + plan.tokens() as u64 * bits / 8 + ROW;
        // Rows in flight: two batches before each device, and two behind the last scale and the tokenizer.
        let batches = 6 + 2 * u64::from(at_once);
        let flight = u64::from(settings.batch_size).saturating_mul(batches).saturating_mul(plan.pixels);
        let flight = flight.min(pipeline.run.memory_budget.0);
        let memory = peak_memory().map(|peak| peak.saturating_add(flight).saturating_add(WRITING));
        Estimate { draws, kept, tried: measured.images, stages, image: slowest.max(shared), bytes, memory }
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64((self.image.as_secs_f64() * self.draws as f64).min(1e12))
    }
}

/// Draws the batches, and times all but the first, unless it is the only one.
async fn measure(plan: &SamplePlan, pipeline: &Pipeline, batches: Vec<Vec<Draw>>) -> Result<Measured, JobError> {
    let (drawer, developer, _) = plan.load(pipeline)?;
    let module = plan.load_scorer()?;
    let (how, format, scorer) = (plan.how(), plan.model.image, plan.scorer.clone());
    let measuring = tokio::task::spawn_blocking(move || {
        Module::on_thread()?;
        let (drawer, developer) = on_threads(how.threads, (drawer, developer))?;
        let mut measured = Measured { at_once: drawer.parts() as u32, ..Measured::default() };
        let alone = batches.len() == 1;
        for (number, batch) in batches.into_iter().enumerate() {
            let start = Instant::now();
            let sketches = drawer.draw(how, batch)?;
            let drawn_at = Instant::now();
            let drawn = develop(&developer, module.as_ref(), sketches)?;
            let decoded_at = Instant::now();
            let images = drawn.len() as u64;
            let scored = drawn.into_iter().map(|drawn| match scorer {
                Some(Scorer::Shapes) => shapes(drawn),
                _ => drawn,
            });
            let rows = scored.flat_map(|drawn| to_row(drawn, format)).filter_map(Result::ok);
            let bytes: u64 = rows.map(|row| row.image.bytes.len() as u64).sum();
            if number > 0 || alone {
                measured.images += images;
                measured.drawing += drawn_at - start;
                measured.decoding += decoded_at - drawn_at;
                measured.writing += decoded_at.elapsed();
                measured.bytes += bytes;
            }
        }
        Ok::<_, crate::flow::BoxError>(measured)
    });
    measuring.await.map_err(JobError::failed)?.map_err(|error| JobError::Failed(error.to_string()))
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [drawing, decoding, writing] = self.stages.map(|stage| stage.as_secs_f64() * 1e3);
        writeln!(
            f,
            "tried      {} images: of each {drawing:.1} ms in the token loop, {decoding:.1} ms to decode, {writing:.1} ms to \
             write as a file",
            self.tried
        )?;
        let rate = 1.0 / self.image.as_secs_f64().max(1e-9);
        writeln!(f, "time       about {} for {} images, {rate:.1} a second", hours(self.time()), self.draws)?;
        let disk = ByteSize(self.bytes.saturating_mul(self.kept));
        writeln!(
            f,
            "disk       about {disk} for the {} images that may be kept, {} each",
            self.kept,
            ByteSize(self.bytes)
        )?;
        match self.memory {
            Some(memory) => writeln!(f, "resident   about {}", ByteSize(memory)),
            None => Ok(()),
        }
    }
}

/// A duration as people say it.
fn hours(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..7200 => format!("{:.1} min", time.as_secs_f64() / 60.0),
        7200..172_800 => format!("{:.1} h", time.as_secs_f64() / 3600.0),
        _ => format!("{:.1} days", time.as_secs_f64() / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_units_that_fit() {
        let told = [0.25, 90.0, 10_800.0, 864_000.0].map(|seconds| hours(Duration::from_secs_f64(seconds)));
        assert_eq!(told, ["0.2 s", "1.5 min", "3.0 h", "10.0 days"]);
    }
}
