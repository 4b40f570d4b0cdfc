//! The stages of a run between its rows and its files.

use super::choose::{Choice, Chooser};
use super::draws::Draw;
use super::scorer::{Module, Scorer, shapes};
use super::subjects::Subject;
use crate::chain::{self, Chain};
use crate::datasets::Unit;
use crate::flow::{BoxError, Flow};
use crate::jobs::model::{Developer, Drawn, stopped};
use crate::reject::Reject;
use crate::torch;
use std::num::NonZeroUsize;

/// Of each row's images the best, where the run chooses.
pub fn chosen(flow: Flow<Unit, Drawn, Reject>, choice: Option<Choice>, workers: usize) -> Flow<Unit, Drawn, Reject> {
    let Some(choice) = choice else { return flow };
    let flow = match choice.scorer {
        Scorer::Shapes => flow.map("score", workers, |drawn| vec![Ok(shapes(drawn))]),
        Scorer::Likelihood | Scorer::Module(_) => flow,
    };
    let chooser = Chooser::new(&choice);
    // Alone, so that it sees the images in their order.
    flow.map("choose", 1, move |drawn| chooser.take(drawn))
}

/// What owns a device, on its own thread.
pub fn on_threads<T>(threads: NonZeroUsize, state: T) -> Result<T, BoxError> {
    torch::device::set_threads(threads);
    Ok(state)
}

/// Tokens that were drawn, on their way to an image.
pub struct Sketch {
    draw: Draw,
    tokens: Vec<u16>,
    score: Option<f32>,
}

/// A batch of rows to tokens.
pub fn draw(
    chain: &Chain,
    options: chain::SampleOptions<'static>,
    likelihood: bool,
    batch: Vec<Draw>,
) -> Result<Vec<Sketch>, BoxError> {
    let condition = chain.config().condition;
    let row = |draw: &Draw| chain::Row {
        key: draw.random,
        condition: draw.subject.condition(&condition),
        settings: draw.settings.scales.clone(),
    };
    let rows: Vec<chain::Row> = batch.iter().map(row).collect();
    let drawn = match likelihood {
        true => chain.sample_scored(&rows, options).map(|all| {
            all.into_iter().map(|(tokens, likelihood)| (tokens, Some(likelihood as f32))).collect::<Vec<_>>()
        }),
        false => chain.sample_as(&rows, options).map(|all| all.into_iter().map(|tokens| (tokens, None)).collect()),
    };
    let drawn = drawn.map_err(|error| {
        let unit = batch.first().map_or("", |draw| draw.unit.name.as_str());
        stopped(error, unit, &batch.iter().map(|draw| draw.key.as_str()).collect::<Vec<_>>())
    })?;
    Ok(batch.into_iter().zip(drawn).map(|(draw, (tokens, score))| Sketch { draw, tokens, score }).collect())
}

/// A batch of tokens to images.
pub fn develop(developer: &Developer, module: Option<&Module>, batch: Vec<Sketch>) -> Result<Vec<Drawn>, BoxError> {
    let grids: Vec<&[u16]> = batch.iter().map(|sketch| sketch.tokens.as_slice()).collect();
    let images = developer.decode(&grids)?;
    let scores = match module {
        Some(module) => {
            let subjects: Vec<&Subject> = batch.iter().map(|sketch| &sketch.draw.subject).collect();
            module.score(&images.iter().collect::<Vec<_>>(), &subjects)?
        }
        None => batch.iter().map(|sketch| sketch.score).collect(),
    };
    let drawn = batch.into_iter().zip(images).zip(scores).map(|((Sketch { draw, tokens, .. }, image), score)| Drawn {
        number: draw.number,
        unit: draw.unit.name.clone(),
        label: draw.subject.label(),
        prompt: draw.subject.prompt(),
        parent: None,
        seed: draw.seed,
        settings: draw.settings.recorded,
        key: draw.key,
        tokens,
        image,
        score,
        rank: None,
        accepted: true,
        candidate: draw.candidate,
    });
    Ok(drawn.collect())
}
