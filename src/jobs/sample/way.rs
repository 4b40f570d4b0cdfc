//! The way that images of a run took from noise: drawn once more, scale by scale.

use super::SampleOptions;
use super::again::check;
use super::draws::Draw;
use super::plan::SamplePlan;
use super::scales::{Drawer, How};
use super::stages::on_threads;
use crate::config::Pipeline;
use crate::flow::BoxError;
use crate::imaging::Rgb;
use crate::jobs::{JobError, open_output};
use crate::tables::SamplesIdentity;
use crate::torch::device::DeviceChoice;
use std::collections::HashMap;

/// Images of a run: the tokens that the table has of them, by work unit and key.
pub type Wanted = HashMap<String, HashMap<String, Vec<u16>>>;

/// Draws the batches once more that hold what is `wanted` of the run of `pipeline`, and shows each image's way, the images that
/// the tokenizer makes of x_T, x_{T-1}, …, x_0, to `look`. Gives what it makes of them, by key; an image that does not come out with
/// the tokens of the table is left out.
///
/// # Errors
/// As of [`draw_again`](super::draw_again).
pub async fn ways<T: Send + 'static>(
    pipeline: &Pipeline,
    device: DeviceChoice,
    wanted: Wanted,
    look: impl Fn(&[Rgb]) -> T + Send + 'static,
) -> Result<HashMap<String, T>, JobError> {
    let plan = SamplePlan::make(pipeline, &SampleOptions { device, ..SampleOptions::default() }).await?;
    let (drawer, developer, work) = plan.load(pipeline)?;
    let output = open_output(&pipeline.output.url, false).await?.of::<SamplesIdentity>();
    check(&output, &work.provenance, &pipeline.output.url, false).await?;
    let batches = batches(&plan, &wanted).await.map_err(|error| JobError::Failed(error.to_string()))?;
    let how = plan.how();
    let drawing = tokio::task::spawn_blocking(move || {
        let (drawer, developer) = on_threads(how.threads, (drawer, developer))?;
        let mut found = HashMap::new();
        for batch in batches {
            walk(&drawer, how, &batch, |draw, way| {
                let kept = wanted.get(&draw.unit.name).and_then(|unit| unit.get(&draw.key));
                if kept.is_some_and(|tokens| way.last() == Some(&tokens.as_slice())) {
                    found.insert(draw.key.clone(), look(&developer.decode(way)?));
                }
                Ok(())
            })?;
        }
        Ok::<_, BoxError>(found)
    });
    drawing.await.map_err(JobError::failed)?.map_err(|error| JobError::Failed(error.to_string()))
}

/// The batches of the run, as it drew them, that hold anything that is wanted.
async fn batches(plan: &SamplePlan, wanted: &Wanted) -> Result<Vec<Vec<Draw>>, BoxError> {
    let (mut stream, mut batches) = (plan.draws.clone().start(), Vec::new());
    let size = plan.model.settings.batch_size as usize;
    for unit in &plan.units {
        let Some(keys) = wanted.get(&unit.name) else { continue };
        let range = unit.range.clone().unwrap_or_default();
        let mut batch: Vec<Draw> = Vec::new();
        for number in range.clone() {
            batch.push(stream.draw(number, unit.clone()).await?);
            if batch.len() == size || number + 1 == range.end {
                let full = std::mem::take(&mut batch);
                if full.iter().any(|draw| keys.contains_key(&draw.key)) {
                    batches.push(full);
                }
            }
        }
    }
    Ok(batches)
}

/// Draws a batch, and shows of each image x_T, x_{T-1}, …, x_0.
fn walk(
    drawer: &Drawer,
    how: How,
    batch: &[Draw],
    mut each: impl FnMut(&Draw, &[&[u16]]) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    let steps = drawer.steps(how, batch)?;
    for (row, draw) in batch.iter().enumerate() {
        let noise = steps.first().and_then(|step| step.x_t.get(row));
        let drawn = steps.iter().filter_map(|step| step.tokens.get(row));
        let way: Vec<&[u16]> = noise.into_iter().chain(drawn).map(Vec::as_slice).collect();
        each(draw, &way)?;
    }
    Ok(())
}
