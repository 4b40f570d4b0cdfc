//! What the demo draws with a trained chain: pictures of captions, and the missing halves of pictures.

use super::artist::{Artist, Completing, Given, Torn};
use super::data::test_captions;
use super::marks::{Agreement, Marks, is_torn};
use super::reader::{Score, read};
use super::scenes::{GROUND, Scene, Shape};
use super::split::Split;
use super::words::Caption;
use super::{DemoError, DemoOptions};
use crate::config::Pipeline;
use crate::imaging::{Limits, Rgb, decode, encode_png, grid};
use crate::jobs::gallery::{GalleryOptions, Table, gallery};
use crate::jobs::row_settings::lists;
use crate::jobs::sample::{SampleOptions, sample};
use crate::jobs::{JobError, open_output};
use crate::launch::Rank;
use crate::progress::Display;
use crate::tables::{SampleRow, SamplesIdentity, SamplesReader};
use futures::TryStreamExt;
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// Captions that are drawn.
const CAPTIONS: u64 = 64;
/// Pictures that are completed, from each half.
const COMPLETED: usize = 8;

/// Candidates of the last scale's pass, and completions of which the likeliest is shown.
const CANDIDATES: u32 = 64;
const DRAWS: u64 = 2;
/// Pictures side by side: whole, torn and completed, four times.
const COLUMNS: usize = 12;

/// What was drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawings {
    /// For the pictures of captions.
    pub captions: Marks,
    /// For upper halves given the lower ones, and the reverse.
    pub upper: Agreement,
    pub lower: Agreement,
}

/// Draws captions of the test with the model at `pipeline.chain.model`, to the samples table and `drawn.html`; and completes
/// halves of test pictures, to `completions.png`.
pub async fn draw(
    pipeline: &Pipeline,
    options: &DemoOptions,
    display: &Display,
    cancel: CancellationToken,
) -> Result<Drawings, JobError> {
    let list = options.out.join("captions.txt");
    let captions: String = test_captions(options.seed, CAPTIONS).iter().map(|caption| format!("{caption}\n")).collect();
    std::fs::write(&list, captions)
        .map_err(|source| JobError::failed(DemoError::Write { path: list.clone(), source }))?;
    let mut pipeline = pipeline.clone();
    pipeline.sample.prompts = Some(list.display().to_string());
    let settings = SampleOptions { device: options.device, rank: Rank::ALONE, overwrite: true };
    sample(&pipeline, &settings, display, cancel).await?;
    let shown = GalleryOptions {
        device: options.device,
        table: Some(Table::Samples),
        ..GalleryOptions::new(&pipeline.output.url, vec![options.out.join("drawn.html"), options.out.join("drawn.png")])
    };
    gallery(&shown).await?;
    let output = open_output(&pipeline.output.url, false).await?;
    let reader = SamplesReader::open(output.of::<SamplesIdentity>()).await.map_err(JobError::failed)?;
    let rows: Vec<SampleRow> = reader.rows().try_collect().await.map_err(JobError::failed)?;
    let captions = Marks::of(&rows.iter().map(score).collect::<Result<Vec<_>, _>>()?);

    let options = options.clone();
    let completing = tokio::task::spawn_blocking(move || complete(&pipeline, &options));
    let [upper, lower] = completing.await.map_err(JobError::failed)??;
    Ok(Drawings { captions, upper, lower })
}

/// What a drawn row has right of its prompt.
fn score(row: &SampleRow) -> Result<Score, JobError> {
    let picture = decode(&row.image.bytes, &Limits::default()).map_err(JobError::failed)?;
    let caption = row.prompt.as_deref().and_then(Caption::parse);
    let caption = caption.ok_or_else(|| JobError::Failed(format!("row {} has no caption of the demo", row.key)))?;
    Ok(read(&picture).map_err(JobError::failed)?.score(&caption))
}

/// Completes pictures from their lower and from their upper halves, and shows them.
fn complete(pipeline: &Pipeline, options: &DemoOptions) -> Result<[Agreement; 2], JobError> {
    let device = options.device.resolve().map_err(|error| JobError::Usage(error.to_string()))?;
    let settings = lists(&pipeline.sample);
    let artist = Artist::open(Path::new(&pipeline.chain.model), &device, &settings, options.seed)?;
    // The last scale draws the upper half without a look at the lower one: only among many does one fit.
    let scales = artist.chain().config().scales() as usize;
    let mut candidates = vec![1; scales];
    candidates.last_mut().into_iter().for_each(|last| *last = CANDIDATES);
    let how = Completing { repeats: vec![1; scales], candidates, draws: DRAWS };
    let mut torn: Vec<(Scene, Vec<Shape>)> = Vec::new();
    for scene in (0..512).map(|index| Scene::new(Split::Test, options.seed, index)) {
        let mut shapes = Vec::new();
        for shape in [scene.first, scene.second] {
            if is_torn(&shape).map_err(JobError::failed)? {
                shapes.push(shape);
            }
        }
        if !shapes.is_empty() && torn.len() < COMPLETED {
            torn.push((scene, shapes));
        }
    }
    let whole: Result<Vec<Rgb>, DemoError> = torn.iter().map(|(scene, _)| scene.draw()).collect();
    let whole = whole.map_err(JobError::failed)?;
    let rows: Vec<Torn> = artist
        .encode(&whole)?
        .into_iter()
        .zip(&torn)
        .map(|(tokens, (scene, _))| Torn { tokens, caption: Some(scene.caption()) })
        .collect();
    let mut sheet = Vec::new();
    let mut agreements = [Agreement::default(); 2];
    for (given, agreement) in [Given::Lower, Given::Upper].into_iter().zip(&mut agreements) {
        let completed = artist.complete(&rows, given, &how)?;
        let readings: Result<Vec<_>, DemoError> = completed.iter().map(read).collect();
        let shapes = torn.iter().map(|(_, shapes)| shapes.as_slice());
        *agreement = Agreement::of(&readings.map_err(JobError::failed)?, shapes);
        for (whole, completed) in whole.iter().zip(completed) {
            sheet.extend([whole.clone(), half(whole, given), completed]);
        }
    }
    let path = options.out.join("completions.png");
    let png = encode_png(&grid(&sheet, COLUMNS)).map_err(JobError::failed)?;
    std::fs::write(&path, png).map_err(|source| JobError::failed(DemoError::Write { path, source }))?;
    Ok(agreements)
}

/// The half that is given; the other one darkened.
fn half(picture: &Rgb, given: Given) -> Rgb {
    let tear = picture.pixels.len() / 2;
    let dark = GROUND.map(|value| value / 2);
    let pixels = picture.pixels.iter().enumerate().map(|(at, &value)| match (at < tear) == (given == Given::Upper) {
        true => value,
        false => dark.get(at % 3).copied().unwrap_or(0),
    });
    Rgb { pixels: pixels.collect(), ..*picture }
}
