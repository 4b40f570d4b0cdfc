//! A gallery of samples: the images as they are in the table.

use super::browse::{File, Shot};
use super::rows::{self, Chosen};
use super::{GalleryError, GalleryOptions, Original, Tile, facts, page, sheet};
use crate::imaging::{Format, ImageError, Limits, Rgb, decode, encode_jpeg, grid, probe, reduce};
use crate::jobs::facts::recorded_pipeline;
use crate::jobs::sample::{Wanted, recorded_run, ways};
use crate::jobs::work::processors;
use crate::jobs::{JobError, refusal};
use crate::tables::{DecisionRow, Decisions, OutputDir, SampleRow, SamplesIdentity, SamplesReader};
use futures::{StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The longer side of images as they are shown among the others, in pixels.
const SMALL: u32 = 128;
/// Quality of JPEGs made of images that are larger.
const SMALL_QUALITY: u8 = 80;
const FULL_QUALITY: u8 = 92;
/// Bytes of full sizes that a page may hold: with more of them browsers open it slowly.
const MAX_FULL: usize = 64 << 20;
/// Bytes of a page's images: with more of them browsers do not open it at all.
const MAX_SMALL: usize = 256 << 20;

/// What a gallery is made of.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// Images for a page.
    pub page: bool,
    /// Pictures for a contact sheet.
    pub sheet: bool,
}

/// What a gallery of samples shows.
pub struct Shown {
    pub header: page::Header,
    pub shots: Vec<Shot>,
    /// Empty unless they are wanted.
    pub tiles: Vec<Tile>,
    /// Whether [`draw_again`](crate::jobs::sample::draw_again) can draw them by the run's own record.
    pub again: bool,
}

/// The samples of `dir` that the gallery shows. Images are looked at one by one; what is kept of each is what is wanted.
pub async fn show(
    dir: OutputDir<SamplesIdentity>,
    options: &GalleryOptions,
    wanted: Targets,
) -> Result<Shown, JobError> {
    let samples = SamplesReader::open(dir.clone()).await.map_err(refusal)?;
    let choice = rows::choose(&samples, options.count).await.map_err(refusal)?;
    let full = Arc::new(AtomicBool::new(true));
    let look = |chosen: Chosen<SampleRow>| {
        let full = full.clone();
        let looking = tokio::task::spawn_blocking(move || look(chosen, wanted, full.load(Relaxed)));
        async move { looking.await.map_err(JobError::failed)? }
    };
    let mut wanted_ways = Wanted::new();
    let note = |chosen: &Chosen<SampleRow>| {
        if options.steps {
            let Chosen { unit, row } = chosen;
            wanted_ways.entry(unit.clone()).or_default().insert(row.key.clone(), row.tokens.clone());
        }
    };
    let rows = choice.rows(&samples).map_err(refusal).inspect_ok(note);
    let mut looks = rows.map_ok(look).try_buffered(processors() as usize).boxed();
    let mut kept = Kept::default();
    while let Some((shot, picture)) = looks.try_next().await? {
        kept.add(shot, picture, &full).map_err(JobError::failed)?;
    }
    drop(looks);

    let mut header = facts::samples_header(&options.url, samples.provenance(), kept.shots.len(), &choice);
    if wanted.page && !full.load(Relaxed) {
        header.notes.push(format!(
            "Full sizes would take more than {} MiB and are left out: images open at {SMALL} pixels. Show fewer with --count.",
            MAX_FULL >> 20
        ));
    }
    match decisions(&dir, &samples).await {
        Ok(mut decisions) => kept.shots.iter_mut().for_each(|shot| shot.decision = decisions.remove(&shot.key)),
        Err(why) => header.notes.push(format!("What `imagebart filter` decided is not shown: {why}")),
    }
    if options.steps {
        let unlike = add_ways(&samples, options, wanted_ways, &mut kept).await?;
        if unlike > 0 {
            header.notes.push(format!("The way of {unlike} images is not shown: drawn again, they have other tokens."));
        }
    }
    let again = samples.provenance().identity.edit.is_none() && recorded_pipeline(&dir).await.is_some();
    Ok(Shown { header, shots: kept.shots, tiles: kept.tiles, again })
}

/// Adds the ways that the images took from noise. Returns how many came out otherwise, and so have none.
async fn add_ways(
    samples: &SamplesReader,
    options: &GalleryOptions,
    wanted: Wanted,
    kept: &mut Kept,
) -> Result<usize, JobError> {
    if samples.provenance().identity.edit.is_some() {
        return Err(JobError::Usage("--steps: these samples are edits, which start from an image".to_owned()));
    }
    let pipeline = recorded_run(&options.url).await?;
    let strip = |way: &[Rgb]| {
        let steps: Vec<Rgb> = way.iter().map(|step| reduce(step.clone(), SMALL)).collect();
        jpeg(&grid(&steps, steps.len()), FULL_QUALITY)
    };
    let mut ways = ways(&pipeline, options.device, wanted, strip).await?;
    for shot in &mut kept.shots {
        shot.way = ways.remove(&shot.key).transpose().map_err(JobError::failed)?;
        kept.small += shot.way.as_ref().map_or(0, |file| file.bytes.len());
    }
    kept.check().map_err(JobError::failed)?;
    Ok(kept.shots.iter().filter(|shot| shot.way.is_none()).count())
}

/// What was decided about the samples, by key; empty where nothing was. Else a sentence.
async fn decisions(
    dir: &OutputDir<SamplesIdentity>,
    samples: &SamplesReader,
) -> Result<HashMap<String, DecisionRow>, String> {
    let Some(decisions) = Decisions::read(dir).await.map_err(|error| error.to_string())? else {
        return Ok(HashMap::new());
    };
    decisions.check(dir, &samples.provenance().identity).map_err(|error| error.to_string())?;
    Ok(decisions.rows.into_iter().map(|row| (row.key.clone(), row)).collect())
}

/// What was looked at so far.
#[derive(Default)]
struct Kept {
    shots: Vec<Shot>,
    tiles: Vec<Tile>,
    /// Bytes of the images and of their full sizes, and pixels of the sheet's pictures.
    small: usize,
    full: usize,
    pixels: u64,
}

impl Kept {
    /// Adds an image, and its picture where there is to be a sheet. Full sizes that become too many go, all of them: then
    /// `full` is no more.
    fn add(&mut self, mut shot: Shot, picture: Option<Rgb>, full: &AtomicBool) -> Result<(), GalleryError> {
        if !full.load(Relaxed) {
            // It was on its way already.
            shot.full = None;
        }
        self.small += shot.small.bytes.len();
        self.full += shot.full.as_ref().map_or(0, |file| file.bytes.len());
        self.shots.push(shot);
        self.check()?;
        if self.full > MAX_FULL {
            full.store(false, Relaxed);
            self.full = 0;
            self.shots.iter_mut().for_each(|shot| shot.full = None);
        }
        if let Some(picture) = picture {
            self.pixels += u64::from(picture.width) * u64::from(picture.height);
            if self.pixels > sheet::MAX_PIXELS {
                return Err(GalleryError::TooLarge { tiles: self.shots.len(), pixels: self.pixels });
            }
            self.tiles.push(Tile { original: Original::None, picture });
        }
        Ok(())
    }

    /// Refuses more than a browser opens.
    fn check(&self) -> Result<(), GalleryError> {
        match self.small > MAX_SMALL {
            true => Err(GalleryError::TooMany { images: self.shots.len(), megabytes: MAX_SMALL >> 20 }),
            false => Ok(()),
        }
    }
}

/// What is wanted of a row. Its full size only while `full` says so.
fn look(chosen: Chosen<SampleRow>, wanted: Targets, full: bool) -> Result<(Shot, Option<Rgb>), JobError> {
    let Chosen { unit, row } = chosen;
    let failed = |error| JobError::Failed(format!("the image of row {} in unit {unit}: {error}", row.key));
    let bytes = &row.image.bytes;
    let header = probe(bytes, &Limits::default()).map_err(failed)?;
    let large = header.width.max(header.height) > SMALL;
    let picture = match wanted.sheet || large {
        true => Some(decode(bytes, &Limits::default()).map_err(failed)?),
        false => None,
    };
    let (small, full) = match &picture {
        _ if !wanted.page => (File::default(), None),
        Some(picture) if large => {
            let full = if full { Some(full_size(bytes, header.format, picture).map_err(failed)?) } else { None };
            (jpeg(&reduce(picture.clone(), SMALL), SMALL_QUALITY).map_err(failed)?, full)
        }
        _ => (as_it_is(bytes, header.format), None),
    };
    let shot = Shot {
        prompt: row.prompt,
        label: row.label,
        seed: row.seed,
        score: row.score,
        rank: row.rank,
        accepted: row.accepted,
        parent: row.parent,
        decision: None,
        settings: row.settings,
        size: (header.width, header.height),
        small,
        full,
        way: None,
        key: row.key,
    };
    Ok((shot, picture.filter(|_| wanted.sheet)))
}

/// The image as it is shown alone: lossless ones as JPEG, which takes a fraction of the bytes.
fn full_size(bytes: &[u8], format: Format, picture: &Rgb) -> Result<File, ImageError> {
    match format {
        Format::Jpeg => Ok(as_it_is(bytes, format)),
        _ => jpeg(picture, FULL_QUALITY),
    }
}

fn jpeg(picture: &Rgb, quality: u8) -> Result<File, ImageError> {
    Ok(File { kind: "jpeg", bytes: encode_jpeg(picture, quality)? })
}

fn as_it_is(bytes: &[u8], format: Format) -> File {
    let kind = match format {
        Format::Jpeg => "jpeg",
        Format::WebP => "webp",
        Format::Gif => "gif",
        Format::Bmp => "bmp",
        Format::Png => "png",
    };
    File { kind, bytes: bytes.to_vec() }
}
