//! `imagebart gallery`: look at what was made, as a PNG contact sheet or a self-contained HTML page.
//!
//! Rows are read from the latents, decoded by the tokenizer they were made with, and set beside the pictures they were made
//! of, which are read again from the dataset by the pipeline that `run.json` records. A dataset that is out of reach costs the
//! originals, not the gallery.

mod facts;
mod originals;
pub mod page;
mod rows;
pub mod sheet;

use super::encode::tokenizer_of;
use super::{JobError, open_output, refusal};
use crate::config::{DType, Pipeline};
use crate::imaging::{ImageError, Rgb, encode_png};
use crate::tables::{LatentsReader, Provenance};
use crate::torch::device::DeviceChoice;
use crate::vqgan::{Tokenizer, TokenizerError};
use originals::Originals;
use rows::{Choice, Chosen};
use std::fmt;
use std::path::{Path, PathBuf};

/// Rows decoded at a time.
const BATCH: usize = 8;

/// What to show, and where.
#[derive(Clone, Debug)]
pub struct GalleryOptions {
    /// Where the tables are: the pipeline's `output.url`.
    pub url: String,
    /// Files to write, ending in `.html` or `.png`.
    pub to: Vec<PathBuf>,
    /// How many rows to show.
    pub count: usize,
    /// Pairs in a row of the contact sheet; by default as many as make it about 4:3.
    pub columns: Option<u32>,
    /// The tokenizer's weights, if they are not where the recorded pipeline says.
    pub tokenizer: Option<PathBuf>,
    pub device: DeviceChoice,
}

impl GalleryOptions {
    /// 64 rows of the tables at `url` in the files `to`.
    pub fn new(url: impl Into<String>, to: Vec<PathBuf>) -> GalleryOptions {
        GalleryOptions { url: url.into(), to, count: 64, columns: None, tokenizer: None, device: DeviceChoice::Auto }
    }
}

/// One sample of a gallery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The prepared crop the tokens were made of; none when it cannot be reached any more.
    pub original: Option<Rgb>,
    /// What the tokenizer makes of the tokens.
    pub reconstruction: Rgb,
    /// Key of the sample within its source.
    pub key: String,
    /// The shard or file it came from, relative to the dataset's root.
    pub source: String,
    pub label: Option<i32>,
    pub caption: Option<String>,
}

/// Why tiles could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum GalleryError {
    /// More pixels than a PNG of reasonable size holds.
    #[error(
        "the contact sheet of {tiles} pairs would have {pixels} pixels, more than {}: show fewer with --count",
        sheet::MAX_PIXELS
    )]
    TooLarge { tiles: usize, pixels: u64 },
    /// An image could not be encoded.
    #[error("cannot encode the gallery's images: {0}")]
    Encode(#[from] ImageError),
}

/// What a gallery shows.
#[derive(Clone, Debug, PartialEq)]
pub struct GallerySummary {
    /// The files written.
    pub files: Vec<PathBuf>,
    /// Pairs or lone reconstructions shown.
    pub shown: usize,
    /// How many of them have their original.
    pub with_original: usize,
    /// Mean PSNR of the pairs, in dB.
    pub psnr: Option<f64>,
    /// Why originals are missing.
    pub problems: Vec<String>,
}

impl fmt::Display for GallerySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        write!(f, "{}: {} reconstructions", files.join(", "), self.shown)?;
        match self.psnr {
            Some(psnr) => write!(f, ", {} beside their originals, mean PSNR {psnr:.1} dB", self.with_original)?,
            None => f.write_str(", without their originals")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

/// What [`gallery`] would do, for `--dry-run`.
pub async fn describe(options: &GalleryOptions) -> Result<String, JobError> {
    options.to.iter().try_for_each(|path| kind_of(path).map(drop))?;
    let latents = LatentsReader::open(open_output(&options.url, false).await?).await.map_err(refusal)?;
    let files: Vec<String> = options.to.iter().map(|file| file.display().to_string()).collect();
    let (units, files) = (latents.units().len(), files.join(", "));
    Ok(format!("up to {} rows of the {units} units at {} to {files}", options.count, options.url))
}

/// Makes the gallery.
///
/// # Errors
/// [`JobError::Usage`], before any work, when nothing is there, the file's ending is unknown, or the tokenizer is not the one
/// the latents were made with.
pub async fn gallery(options: &GalleryOptions) -> Result<GallerySummary, JobError> {
    let kinds = options.to.iter().map(|path| kind_of(path)).collect::<Result<Vec<Kind>, JobError>>()?;
    let dir = open_output(&options.url, false).await?;
    let recorded = facts::recorded_pipeline(&dir).await;
    let latents = LatentsReader::open(dir).await.map_err(refusal)?;
    let tokenizer = open_tokenizer(options, recorded.as_ref(), latents.provenance())?;

    let choice = rows::choose(&latents, options.count).await.map_err(refusal)?;
    let originals = match &recorded {
        Some(pipeline) => originals::find(pipeline, latents.provenance().identity.seed, &choice.rows).await,
        None => Originals {
            pictures: vec![None; choice.rows.len()],
            problems: vec!["The originals cannot be read: run.json, which says where they are, is missing.".to_owned()],
        },
    };
    let reconstructions = decode(tokenizer, latents.provenance().grid, &choice.rows).await?;
    let mut header = facts::header(options, latents.provenance(), recorded.as_ref(), &choice, &originals);
    let problems = header.notes.clone();
    let tiles = tiles(choice, originals, reconstructions);
    let psnr = facts::mean_psnr(&tiles);
    header.facts.extend(psnr.map(|psnr| ("Mean PSNR".to_owned(), format!("{psnr:.1} dB"))));
    for (path, kind) in options.to.iter().zip(kinds) {
        let bytes = match kind {
            Kind::Html => page::render(&header, &tiles).map(String::into_bytes),
            Kind::Png => contact_sheet(&tiles, options.columns),
        };
        write(path, &bytes.map_err(JobError::failed)?)?;
    }
    Ok(GallerySummary {
        files: options.to.clone(),
        shown: tiles.len(),
        with_original: tiles.iter().filter(|tile| tile.original.is_some()).count(),
        psnr,
        problems,
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Html,
    Png,
}

fn kind_of(path: &Path) -> Result<Kind, JobError> {
    match path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("html" | "htm") => Ok(Kind::Html),
        Some("png") => Ok(Kind::Png),
        _ => Err(JobError::Usage(format!("--to {}: the name must end in .html or .png", path.display()))),
    }
}

/// The tokenizer, refused unless it is the one the latents were made with.
fn open_tokenizer(
    options: &GalleryOptions,
    recorded: Option<&Pipeline>,
    provenance: &Provenance,
) -> Result<Tokenizer, JobError> {
    let mut pipeline = recorded.cloned().unwrap_or_default();
    if let Some(path) = &options.tokenizer {
        pipeline.tokenizer.weights = path.display().to_string();
    }
    if pipeline.tokenizer.weights.is_empty() {
        let sentence = "nothing records where the tokenizer's weights are: name them with --tokenizer";
        return Err(JobError::Usage(format!("{}: {sentence}", options.url)));
    }
    let device = options.device.resolve().map_err(|error| JobError::Usage(error.to_string()))?;
    let tokenizer = tokenizer_of(&pipeline, &device, DType::Fp32)?;
    let (found, expected) = (tokenizer.fingerprint(), provenance.identity.tokenizer.as_str());
    if found != expected {
        return Err(JobError::Usage(format!(
            "{} has the fingerprint {found}, the latents of {} were made with {expected}: give that tokenizer with \
             --tokenizer",
            pipeline.tokenizer.weights, options.url
        )));
    }
    Ok(tokenizer)
}

/// The pictures of the rows' tokens, decoded on a thread that may be kept busy.
async fn decode(tokenizer: Tokenizer, grid: (u32, u32), rows: &[Chosen]) -> Result<Vec<Rgb>, JobError> {
    let grids: Vec<Vec<u16>> = rows.iter().map(|chosen| chosen.row.tokens.clone()).collect();
    let decoding = tokio::task::spawn_blocking(move || {
        let mut pictures = Vec::with_capacity(grids.len());
        for batch in grids.chunks(BATCH) {
            let batch: Vec<&[u16]> = batch.iter().map(Vec::as_slice).collect();
            pictures.extend(tokenizer.decode(&batch, grid)?);
        }
        Ok::<_, TokenizerError>(pictures)
    });
    decoding.await.map_err(JobError::failed)?.map_err(JobError::failed)
}

fn tiles(choice: Choice, originals: Originals, reconstructions: Vec<Rgb>) -> Vec<Tile> {
    let pictures = originals.pictures.into_iter().zip(reconstructions);
    let tile = |(chosen, (original, reconstruction)): (Chosen, (Option<Rgb>, Rgb))| Tile {
        original,
        reconstruction,
        key: chosen.row.key,
        source: chosen.row.source,
        label: chosen.row.label,
        caption: chosen.row.caption,
    };
    choice.rows.into_iter().zip(pictures).map(tile).collect()
}

/// The contact sheet as PNG. `columns`: see [`GalleryOptions::columns`].
fn contact_sheet(tiles: &[Tile], columns: Option<u32>) -> Result<Vec<u8>, GalleryError> {
    let side = |side: fn(&Rgb) -> u32| tiles.first().map_or(0, |tile| side(&tile.reconstruction));
    let fitting = || sheet::columns_for(tiles.len(), side(|picture| picture.width), side(|picture| picture.height));
    Ok(encode_png(&sheet::compose(tiles, columns.unwrap_or_else(fitting))?)?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), JobError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(path, bytes))
        .map_err(|error| JobError::Failed(format!("cannot write {}: {error}", path.display())))
}
