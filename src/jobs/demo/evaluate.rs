//! `imagebart demo-eval`: how well a chain draws the shapes, judged by the reader, on what it was never trained on.

use super::artist::{Artist, Completing, Given, Torn};
use super::data::test_captions;
use super::marks::{Agreement, Marks, is_torn};
use super::reader::{Reading, Score, read};
use super::scenes::{SIDE, Scene, Shape};
use super::split::Split;
use crate::chain::SettingsLists;
use crate::evaluate::Likelihood;
use crate::imaging::{Rgb, psnr};
use crate::jobs::JobError;
use crate::random::RowKey;
use crate::torch::device::{DeviceChoice, DeviceInUse, set_threads};
use crate::training::{Batch, Conditioning, Position};
use serde::Serialize;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// Rows whose losses are measured at once.
const ROWS: usize = 50;

/// What is judged, and how it draws.
#[derive(Clone, Debug)]
pub struct EvaluateOptions {
    /// A model directory.
    pub model: PathBuf,
    /// A folder for `evaluation.json` and `evaluation.md`.
    pub to: Option<PathBuf>,
    /// Captions, and pictures of the test.
    pub count: u64,
    pub seed: u64,
    pub device: DeviceChoice,
    pub settings: SettingsLists,
    pub completing: Completing,
    /// Of one tensor operation.
    pub threads: NonZeroUsize,
}

/// A completion's figures, with the caption told and without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Completions {
    pub with_caption: Agreement,
    pub without: Agreement,
}

/// The figures of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    pub model: PathBuf,
    pub scales: u32,
    /// Parameters of the chain's networks.
    pub parameters: i64,
    /// Of reconstructions, mean over test pictures, in dB.
    pub psnr: f64,
    /// The reader's marks for the drawings themselves and for their reconstructions.
    pub drawings: Marks,
    pub reconstructions: Marks,
    /// For pictures drawn from captions of the test.
    pub drawn: Marks,
    /// Of the test's tokens given their captions: exact for one scale, else an upper bound (the variational one).
    pub bits_per_token: f64,
    /// What each scale adds to it, from scale 1 up.
    pub bits_by_scale: Vec<f64>,
    /// The upper half given the lower, and the lower given the upper.
    pub upper: Completions,
    pub lower: Completions,
}

/// Judges a model.
///
/// # Errors
/// [`JobError::Usage`] for a model that does not draw shapes from captions; what libtorch and the disk report.
pub fn evaluate(options: &EvaluateOptions) -> Result<Evaluation, JobError> {
    let device = options.device.resolve().map_err(|error| JobError::Usage(error.to_string()))?;
    set_threads(options.threads);
    let artist = Artist::open(&options.model, &device, &options.settings, options.seed)?;
    let scenes: Vec<Scene> = (0..options.count).map(|index| Scene::new(Split::Test, options.seed, index)).collect();
    let drawings: Result<Vec<Rgb>, _> = scenes.iter().map(Scene::draw).collect();
    let drawings = drawings.map_err(JobError::failed)?;
    let grids = artist.encode(&drawings)?;
    let reconstructions = artist.decode(&grids)?;
    let captions: Vec<_> = scenes.iter().map(Scene::caption).collect();
    let marks = |pictures: &[Rgb], captions: &[_]| -> Result<Marks, JobError> {
        let scores: Result<Vec<Score>, JobError> =
            readings(pictures)?.iter().zip(captions).map(|(reading, caption)| Ok(reading.score(caption))).collect();
        Ok(Marks::of(&scores?))
    };
    let told = test_captions(options.seed, options.count);
    let bits_by_scale = bits(&artist, &device, (&grids, &scenes), options.seed)?;
    let evaluation = Evaluation {
        model: options.model.clone(),
        scales: artist.chain().config().scales(),
        parameters: artist.chain().config().networks.iter().map(|network| network.network.parameters()).sum(),
        psnr: drawings.iter().zip(&reconstructions).map(|(a, b)| psnr(a, b)).sum::<f64>() / scenes.len().max(1) as f64,
        drawings: marks(&drawings, &captions)?,
        reconstructions: marks(&reconstructions, &captions)?,
        drawn: marks(&artist.draw(&told)?, &told)?,
        bits_per_token: bits_by_scale.iter().sum(),
        bits_by_scale,
        upper: completions(&artist, (&grids, &scenes), Given::Lower, &options.completing)?,
        lower: completions(&artist, (&grids, &scenes), Given::Upper, &options.completing)?,
    };
    if let Some(to) = &options.to {
        let failed = |error: std::io::Error| JobError::Failed(format!("cannot write to {}: {error}", to.display()));
        std::fs::create_dir_all(to).map_err(failed)?;
        let json = serde_json::to_string_pretty(&evaluation).map_err(JobError::failed)?;
        std::fs::write(to.join("evaluation.json"), json).map_err(failed)?;
        std::fs::write(to.join("evaluation.md"), evaluation.to_string()).map_err(failed)?;
    }
    Ok(evaluation)
}

fn readings(pictures: &[Rgb]) -> Result<Vec<Reading>, JobError> {
    pictures.iter().map(|picture| read(picture).map_err(JobError::failed)).collect()
}

/// Bits per token that each scale adds to the bound on -log2 p(x_0 | caption). x_T of the
/// demo's schedule is uniform, so that the bound's start adds none.
fn bits(
    artist: &Artist,
    device: &DeviceInUse,
    (grids, scenes): (&[Vec<u16>], &[Scene]),
    seed: u64,
) -> Result<Vec<f64>, JobError> {
    let chain = artist.chain();
    let conditioning = Conditioning::new(&chain.config().condition, Some(artist.text().clone()));
    let conditioning = conditioning.ok_or_else(|| JobError::Failed("the chain has no text".to_owned()))?;
    let likelihood = Likelihood::new(chain, &conditioning).map_err(JobError::failed)?;
    let mut bits = vec![0.0; chain.config().scales() as usize];
    for (at, (grids, scenes)) in (0..).step_by(ROWS).zip(grids.chunks(ROWS).zip(scenes.chunks(ROWS))) {
        let terms = likelihood.terms(&batch(grids, scenes, at, seed)).map_err(JobError::failed)?;
        bits.iter_mut().zip(terms).for_each(|(sum, rows)| *sum += rows.iter().sum::<f64>());
    }
    let tokens: usize = grids.iter().map(Vec::len).sum();
    bits.iter_mut().for_each(|bits| *bits /= tokens.max(1) as f64);
    tracing::debug!("bits by scale on {}: {bits:?}", device.line);
    Ok(bits)
}

/// Test pictures from number `at` on, as a trainer takes them.
fn batch(grids: &[Vec<u16>], scenes: &[Scene], at: u64, seed: u64) -> Batch {
    Batch {
        position: Position::default(),
        tokens: grids.concat(),
        labels: vec![None; grids.len()],
        captions: scenes.iter().map(|scene| Some(Arc::from(scene.caption().to_string()))).collect(),
        rows: (at..).take(grids.len()).map(|number| RowKey::new(seed, "bits", number, 0)).collect(),
    }
}

/// Completes the test pictures that have a shape across the tear.
fn completions(
    artist: &Artist,
    (grids, scenes): (&[Vec<u16>], &[Scene]),
    given: Given,
    how: &Completing,
) -> Result<Completions, JobError> {
    let mut torn = Vec::new();
    for (grid, scene) in grids.iter().zip(scenes) {
        let mut shapes = Vec::new();
        for shape in [scene.first, scene.second] {
            if is_torn(&shape).map_err(JobError::failed)? {
                shapes.push(shape);
            }
        }
        if !shapes.is_empty() {
            torn.push((grid, scene, shapes));
        }
    }
    let judged = |told: bool| -> Result<Agreement, JobError> {
        let rows = |(grid, scene, _): &(&Vec<u16>, &Scene, Vec<Shape>)| Torn {
            tokens: (*grid).clone(),
            caption: told.then(|| scene.caption()),
        };
        let pictures = artist.complete(&torn.iter().map(rows).collect::<Vec<_>>(), given, how)?;
        let readings = readings(&pictures)?;
        let shapes = torn.iter().map(|(_, _, shapes)| shapes.as_slice());
        Ok(Agreement::of(&readings, shapes))
    };
    Ok(Completions { with_caption: judged(true)?, without: judged(false)? })
}

impl fmt::Display for Evaluation {
    /// A table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let marks =
            |marks: &Marks| format!("{} ({} of pictures perfect)", percent(marks.attributes), percent(marks.perfect));
        let agreement = |it: &Agreement| {
            format!("{} of {} pictures' torn shapes, {} clean", percent(it.shapes), it.pictures, percent(it.clean))
        };
        let by_scale: Vec<String> = self.bits_by_scale.iter().map(|bits| format!("{bits:.3}")).collect();
        let bound = if self.scales > 1 { "at most " } else { "" };
        let parts = format!(
            "sizes {}, colours {}, kinds {}, relations {}",
            percent(self.drawn.sizes),
            percent(self.drawn.colours),
            percent(self.drawn.kinds),
            percent(self.drawn.relations)
        );
        let rows = [
            ("scales", self.scales.to_string()),
            ("parameters of the chain", self.parameters.to_string()),
            ("reconstruction", format!("{:.1} dB", self.psnr)),
            ("attributes read right, drawings", marks(&self.drawings)),
            ("attributes read right, reconstructions", marks(&self.reconstructions)),
            ("attributes right, drawn from captions", marks(&self.drawn)),
            ("of which", parts),
            ("two shapes and nothing else", percent(self.drawn.clean)),
            ("bits per token", format!("{bound}{:.3} (by scale: {})", self.bits_per_token, by_scale.join(" + "))),
            ("upper half given the lower, caption told", agreement(&self.upper.with_caption)),
            ("upper half given the lower, no caption", agreement(&self.upper.without)),
            ("lower half given the upper, caption told", agreement(&self.lower.with_caption)),
            ("lower half given the upper, no caption", agreement(&self.lower.without)),
        ];
        writeln!(f, "| {SIDE}×{SIDE} shapes, {} test captions | |\n|---|---|", self.drawn.pictures)?;
        for (position, (name, value)) in rows.iter().enumerate() {
            let end = if position + 1 < rows.len() { "\n" } else { "" };
            write!(f, "| {name} | {value} |{end}")?;
        }
        Ok(())
    }
}
