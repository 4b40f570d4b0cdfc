//! `imagebart edit`: the masked parts of images drawn anew, to the `samples` table.

mod inputs;
mod mask;
mod plan;

pub use plan::EditPlan;

use super::JobError;
use super::facts::Recorder;
use super::model::{Drawn, Painter, stopped, to_row};
use super::row_settings::RowDraw;
use super::running::{Running, unless_cancelled};
use super::sample::{SampleOptions, SampleSummary, finish};
use super::sink::{Committed, Writer};
use crate::chain;
use crate::config::Pipeline;
use crate::datasets::Unit;
use crate::flow::{BoxError, Flow, Report};
use crate::imaging::{Crop, Preprocess, decode};
use crate::progress::Display;
use crate::random::RowKey;
use crate::reject::Reject;
use crate::tables::{SamplesIdentity, row_key};
use crate::torch;
use inputs::Pair;
use mask::White;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Edits the images of `pipeline`'s `[edit]`: every unit of this rank that is not done yet. `cancel` abandons the units in hand.
///
/// # Errors
/// See [`JobError`]. Units that were committed stay whatever happens.
pub async fn edit(
    pipeline: &Pipeline,
    options: &SampleOptions,
    display: &Display,
    cancel: CancellationToken,
) -> Result<SampleSummary, JobError> {
    let started = Instant::now();
    let plan = unless_cancelled(EditPlan::make(pipeline, options), &cancel).await?;
    tracing::info!("{}", plan.model.device.line);
    let (painter, work) = plan.load(pipeline)?;
    let output = work.open(options.rank, options.overwrite).await?;
    let pending = work.pending(&output, options.rank).await?;
    tracing::info!("{}", pending.line());

    let line = &plan.model.device.line;
    let recorder = Recorder::new("edit", pipeline, (&work, &pending), options.rank, line, plan.model.settings);
    let (committed, report) = if pending.units.is_empty() {
        (Committed::default(), None)
    } else {
        let writer = Writer::new(output.clone(), work.provenance.clone());
        let (committed, report) =
            run(&plan, painter, writer, pending.units.clone(), pipeline, (display, cancel)).await?;
        (committed, Some(report))
    };
    finish(recorder, &pending, &output, committed, report.as_ref(), (started, options.rank, pipeline)).await
}

/// The data's way, from top to bottom.
async fn run(
    plan: &EditPlan,
    painter: Painter,
    mut writer: Writer<SamplesIdentity>,
    units: Vec<Arc<Unit>>,
    pipeline: &Pipeline,
    (display, cancel): (&Display, CancellationToken),
) -> Result<(Committed, Report<Unit>), JobError> {
    let running = Running::start(pipeline, &units, (display, cancel));

    let model = &plan.model;
    let (settings, seed) = (model.settings, pipeline.run.seed);
    let (inputs, preprocess, shape) = (plan.inputs.clone(), plan.preprocess, plan.shape);
    let format = model.image;
    let editor = Editor {
        draw: model.usual.clone(),
        options: plan.options.clone(),
        condition: plan.condition.clone(),
        label: pipeline.edit.label.and_then(|label| i32::try_from(label).ok()),
        side: preprocess.size,
        seed,
    };
    let result = Flow::source(
        &running.engine,
        "read",
        move |pair: &Pair| pair.cost(&preprocess),
        move |out| inputs::read(inputs, units, out),
    )
    .map("decode", settings.image_workers, move |pair| prepare(pair, &preprocess, &shape, seed))
    .batch(settings.batch_size as usize)
    .device(
        "draw",
        move || {
            torch::device::set_threads(settings.threads);
            Ok(painter)
        },
        move |painter, batch| editor.draw(painter, batch),
    )
    .map("image", settings.image_workers, move |drawn| to_row(drawn, format))
    .sink("write", &mut writer)
    .await;
    running.end(result, &writer)
}

/// How a mask becomes known tokens.
#[derive(Clone, Copy, Debug)]
struct Shape {
    grid: (u32, u32),
    factor: u32,
    rule: chain::MaskRule,
    white: White,
}

/// An image and its known tokens, on the way to the chain.
struct Prepared {
    number: u64,
    unit: String,
    key: String,
    crop: Crop,
    known: Vec<bool>,
}

/// The random numbers of an edit: a function of the image's name, so that images may come and go beside it.
fn row_of(seed: u64, key: &str) -> RowKey {
    RowKey::new(seed, key, 0, 0)
}

/// Encoded image and mask to a crop and its known tokens, or a reject with its reason.
fn prepare(pair: Pair, preprocess: &Preprocess, shape: &Shape, seed: u64) -> Vec<Result<Prepared, Reject>> {
    let crops = match preprocess.prepare(&pair.sample.image, |_| row_of(seed, &pair.sample.key)) {
        Ok(crops) => crops,
        Err(error) => {
            let reason = error.reason();
            return vec![Err(pair.reject("decode", reason, error.to_string()))];
        }
    };
    let mask = match decode(&pair.mask, &preprocess.limits) {
        Ok(mask) => mask,
        Err(error) => {
            let (reason, name) = (error.reason(), &pair.mask_name);
            return vec![Err(pair.reject("mask", reason, format!("the mask {name}: {error}")))];
        }
    };
    let mut rows = Vec::with_capacity(crops.len());
    for crop in crops {
        rows.push(match mask::known(&mask, &crop, shape) {
            Ok(known) => Ok(Prepared {
                number: pair.number,
                unit: pair.unit.name.clone(),
                key: pair.sample.key.clone(),
                crop,
                known,
            }),
            Err(message) => {
                let message = format!("the mask {}: {message}", pair.mask_name);
                Err(pair.reject("mask", crate::reject::Reason::MaskSize, message))
            }
        });
    }
    rows
}

/// What the device does with a batch.
struct Editor {
    draw: RowDraw,
    options: chain::EditOptions,
    condition: chain::RowCondition,
    label: Option<i32>,
    side: u32,
    seed: u64,
}

impl Editor {
    fn draw(&self, painter: &mut Painter, batch: Vec<Prepared>) -> Result<Vec<Drawn>, BoxError> {
        let keys: Vec<RowKey> = batch.iter().map(|item| row_of(self.seed, &item.key)).collect();
        let images: Vec<&[u8]> = batch.iter().map(|item| item.crop.pixels.as_slice()).collect();
        let grids = painter.encode(&images, self.side, &keys)?;
        let rows: Vec<chain::EditRow> = batch
            .iter()
            .zip(keys)
            .zip(grids)
            .map(|((item, key), tokens)| chain::EditRow {
                row: chain::Row { key, condition: self.condition.clone(), settings: self.draw.scales.clone() },
                tokens,
                known: item.known.clone(),
            })
            .collect();
        let grids = painter.chain.edit(&rows, &self.options).map_err(|error| {
            let unit = batch.first().map_or("", |item| item.unit.as_str());
            stopped(error, unit, &batch.iter().map(|item| item.key.as_str()).collect::<Vec<_>>())
        })?;
        let images = painter.developer.decode(&grids.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let drawn = batch.into_iter().zip(grids).zip(images).map(|((item, tokens), image)| Drawn {
            number: item.number,
            key: row_key(item.number),
            seed: self.seed,
            settings: self.draw.recorded.clone(),
            unit: item.unit,
            prompt: None,
            label: self.label,
            parent: Some(item.key),
            tokens,
            image,
            score: None,
            rank: None,
            accepted: true,
            candidate: None,
        });
        Ok(drawn.collect())
    }
}
