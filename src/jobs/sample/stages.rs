//! The stages of a run between its rows and its files.

use super::choose::{Choice, Chooser};
use super::draws::Draw;
use super::scorer::{Module, Scorer, shapes};
use super::subjects::Subject;
use crate::datasets::Unit;
use crate::flow::{BoxError, Flow, FlowError, Report};
use crate::imaging::{FileFormat, Kept};
use crate::jobs::developer::{Developer, Drawn, to_row};
use crate::jobs::model::Settings;
use crate::jobs::sink::Writer;
use crate::reject::Reject;
use crate::tables::SamplesIdentity;
use crate::torch;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Of each row's images the best, where the run chooses.
fn chosen(flow: Flow<Unit, Drawn, Reject>, choice: Option<Choice>, workers: usize) -> Flow<Unit, Drawn, Reject> {
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
    pub draw: Draw,
    /// Of the last scale that was drawn; none at first.
    pub tokens: Vec<u16>,
    pub score: Option<f64>,
    /// What an edit was drawn over.
    pub source: Option<SketchSource>,
}

impl From<Draw> for Sketch {
    fn from(draw: Draw) -> Sketch {
        Sketch { draw, tokens: Vec::new(), score: None, source: None }
    }
}

/// The image that an edit was drawn over.
#[derive(Clone)]
pub struct SketchSource {
    /// As the table has it.
    pub parent: Arc<str>,
    /// What stays of its pixels.
    pub kept: Option<Arc<Kept>>,
}

/// What makes rows of the table of sketches.
pub struct Finishing {
    pub developer: Developer,
    pub module: Option<Module>,
    pub choice: Option<Choice>,
    pub settings: Settings,
    pub format: FileFormat,
}

impl Finishing {
    /// The second half of every run: sketches become images beside the drawing of the next ones, then files, then rows of units
    /// that are committed.
    pub async fn write(
        self,
        flow: Flow<Unit, Sketch, Reject>,
        writer: &mut Writer<SamplesIdentity>,
    ) -> Result<Report<Unit>, FlowError> {
        let Finishing { developer, module, choice, settings, format } = self;
        // The batches that were drawn: while one becomes images, the next is drawn.
        let flow = flow.batch(settings.batch_size as usize).device(
            "decode",
            move || {
                Module::on_thread()?;
                on_threads(settings.threads, (developer, module))
            },
            |(developer, module), batch| develop(developer, module.as_ref(), batch),
        );
        chosen(flow, choice, settings.image_workers)
            .map("image", settings.image_workers, move |drawn| to_row(drawn, format))
            .sink("write", writer)
            .await
    }
}

/// A batch of tokens to images.
pub fn develop(developer: &Developer, module: Option<&Module>, batch: Vec<Sketch>) -> Result<Vec<Drawn>, BoxError> {
    let grids: Vec<&[u16]> = batch.iter().map(|sketch| sketch.tokens.as_slice()).collect();
    let mut images = developer.decode(&grids)?;
    for (sketch, image) in batch.iter().zip(&mut images) {
        if let Some(kept) = sketch.source.as_ref().and_then(|source| source.kept.as_ref()) {
            kept.over(image);
        }
    }
    let scores = match module {
        Some(module) => {
            let subjects: Vec<&Subject> = batch.iter().map(|sketch| &sketch.draw.subject).collect();
            module.score(&images.iter().collect::<Vec<_>>(), &subjects)?
        }
        None => batch.iter().map(|sketch| sketch.score.map(|score| score as f32)).collect(),
    };
    let drawn =
        batch.into_iter().zip(images).zip(scores).map(|((Sketch { draw, tokens, source, .. }, image), score)| Drawn {
            number: draw.number,
            unit: draw.unit.name.clone(),
            label: draw.subject.label(),
            prompt: draw.subject.prompt(),
            parent: source.map(|source| source.parent.to_string()),
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
