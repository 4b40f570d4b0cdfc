//! `imagebart gallery`: look at what was made, as a PNG contact sheet or a self-contained HTML page.
//!
//! Latents are decoded by the tokenizer they were made with, and set beside the pictures they were made of, which are read
//! again from the dataset by the pipeline that `run.json` records. A dataset that is out of reach costs the originals, not the
//! gallery. Samples hold their images; nothing else is needed for them. Their page is searched, sorted and filtered in the
//! browser.

mod browse;
mod facts;
mod latents;
mod originals;
pub mod page;
mod rows;
mod samples;
pub mod sheet;

use super::{JobError, open_output, output_error, refusal};
use crate::imaging::{ImageError, Rgb, encode_png};
use crate::tables::{LatentsReader, OutputDir, SamplesIdentity, SamplesReader};
use crate::torch::device::DeviceChoice;
use std::fmt;
use std::path::{Path, PathBuf};

/// What to show, and where.
#[derive(Clone, Debug)]
pub struct GalleryOptions {
    /// Where the tables are: the pipeline's `output.url`.
    pub url: String,
    /// Files to write, ending in `.html` or `.png`.
    pub to: Vec<PathBuf>,
    /// How many rows to show.
    pub count: usize,
    /// Pairs or samples in a row of the contact sheet; by default as many as make it about 4:3.
    pub columns: Option<u32>,
    /// The tokenizer's weights, if they are not where the recorded pipeline says.
    pub tokenizer: Option<PathBuf>,
    pub device: DeviceChoice,
    /// Which table to show; by default the latents where there are any, else the samples.
    pub table: Option<Table>,
    /// Draws samples once more, by their run's own record, to show their way from noise on the page.
    pub steps: bool,
}

/// What there may be to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Latents,
    Samples,
}

impl GalleryOptions {
    /// 64 rows of the tables at `url` in the files `to`.
    pub fn new(url: impl Into<String>, to: Vec<PathBuf>) -> GalleryOptions {
        let (count, device) = (64, DeviceChoice::Auto);
        GalleryOptions { url: url.into(), to, count, columns: None, tokenizer: None, device, table: None, steps: false }
    }
}

/// One picture of a gallery, or a pair of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    pub original: Original,
    /// What the tokenizer makes of the tokens.
    pub picture: Rgb,
}

/// The picture that tokens were made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Original {
    /// The prepared crop.
    Found(Rgb),
    /// It cannot be reached any more.
    Missing,
    /// There never was one: a sample.
    None,
}

impl Original {
    /// The picture, where it was found.
    pub fn found(&self) -> Option<&Rgb> {
        match self {
            Original::Found(picture) => Some(picture),
            Original::Missing | Original::None => None,
        }
    }
}

impl Tile {
    /// Whether it has a place for an original.
    pub fn is_pair(&self) -> bool {
        self.original != Original::None
    }
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
    /// More bytes than browsers open.
    #[error(
        "the images of {images} rows alone would make a page of more than {megabytes} MiB: show fewer with --count"
    )]
    TooMany { images: usize, megabytes: usize },
    /// An image could not be encoded.
    #[error("cannot encode the gallery's images: {0}")]
    Encode(#[from] ImageError),
}

/// What a gallery shows.
#[derive(Clone, Debug, PartialEq)]
pub struct GallerySummary {
    /// Of which table.
    pub table: Table,
    /// The files written.
    pub files: Vec<PathBuf>,
    /// Pairs or samples shown.
    pub shown: usize,
    /// How many of them have their original.
    pub with_original: usize,
    /// Mean PSNR of the pairs, in dB.
    pub psnr: Option<f64>,
    /// Why originals are missing, or what else is not shown.
    pub problems: Vec<String>,
}

impl fmt::Display for GallerySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        let (files, shown) = (files.join(", "), self.shown);
        match (self.table, self.psnr) {
            (Table::Samples, _) => write!(f, "{files}: {shown} samples")?,
            (Table::Latents, Some(psnr)) => write!(
                f,
                "{files}: {shown} reconstructions, {} beside their originals, mean PSNR {psnr:.1} dB",
                self.with_original
            )?,
            (Table::Latents, None) => write!(f, "{files}: {shown} reconstructions, without their originals")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

/// What [`gallery`] would do, for `--dry-run`.
pub async fn describe(options: &GalleryOptions) -> Result<String, JobError> {
    options.to.iter().try_for_each(|path| kind_of(path).map(drop))?;
    let dir = open_output(&options.url, false).await?;
    let files = match which(&dir, options).await? {
        Table::Latents => LatentsReader::open(dir).await.map_err(refusal)?.files().len(),
        Table::Samples => SamplesReader::open(dir.of()).await.map_err(refusal)?.files().len(),
    };
    let to: Vec<String> = options.to.iter().map(|file| file.display().to_string()).collect();
    Ok(format!("up to {} rows of the {files} files at {} to {}", options.count, options.url, to.join(", ")))
}

/// Makes the gallery.
///
/// # Errors
/// [`JobError::Usage`], before any work, when nothing is there, the file's ending is unknown, or the tokenizer is not the one
/// the latents were made with.
pub async fn gallery(options: &GalleryOptions) -> Result<GallerySummary, JobError> {
    let kinds = options.to.iter().map(|path| kind_of(path)).collect::<Result<Vec<Kind>, JobError>>()?;
    let dir = open_output(&options.url, false).await?;
    let table = which(&dir, options).await?;
    if options.steps && (table == Table::Latents || !kinds.contains(&Kind::Html)) {
        return Err(JobError::Usage(
            "--steps is shown on an .html page of samples: --table samples --to FILE.html".to_owned(),
        ));
    }
    match table {
        Table::Latents => latents_gallery(dir, options, &kinds).await,
        Table::Samples => samples_gallery(dir.of(), options, &kinds).await,
    }
}

async fn latents_gallery(dir: OutputDir, options: &GalleryOptions, kinds: &[Kind]) -> Result<GallerySummary, JobError> {
    let (header, pairs) = latents::show(dir, options).await?;
    let tiles: Vec<&Tile> = pairs.iter().map(|pair| &pair.tile).collect();
    write_all(options, kinds, &tiles, || page::render(&header, &pairs))?;
    Ok(GallerySummary {
        table: Table::Latents,
        files: options.to.clone(),
        shown: pairs.len(),
        with_original: tiles.iter().filter(|tile| tile.original.found().is_some()).count(),
        psnr: facts::mean_psnr(tiles.iter().copied()),
        problems: header.notes,
    })
}

async fn samples_gallery(
    dir: OutputDir<SamplesIdentity>,
    options: &GalleryOptions,
    kinds: &[Kind],
) -> Result<GallerySummary, JobError> {
    let wanted = samples::Targets { page: kinds.contains(&Kind::Html), sheet: kinds.contains(&Kind::Png) };
    let samples::Shown { header, shots, tiles, again } = samples::show(dir, options, wanted).await?;
    let output = again.then_some(options.url.as_str());
    write_all(options, kinds, &tiles.iter().collect::<Vec<_>>(), || Ok(browse::render(&header, &shots, output)))?;
    Ok(GallerySummary {
        table: Table::Samples,
        files: options.to.clone(),
        shown: shots.len(),
        with_original: 0,
        psnr: None,
        problems: header.notes,
    })
}

/// Writes the files that are asked for: `page`s, and sheets of the tiles.
fn write_all(
    options: &GalleryOptions,
    kinds: &[Kind],
    tiles: &[&Tile],
    page: impl Fn() -> Result<String, GalleryError>,
) -> Result<(), JobError> {
    for (path, kind) in options.to.iter().zip(kinds) {
        let bytes = match kind {
            Kind::Html => page().map(String::into_bytes),
            Kind::Png => contact_sheet(tiles, options.columns),
        };
        write(path, &bytes.map_err(JobError::failed)?)?;
    }
    Ok(())
}

/// The table to show.
async fn which(dir: &OutputDir, options: &GalleryOptions) -> Result<Table, JobError> {
    if let Some(table) = options.table {
        return Ok(table);
    }
    let unusable = |error| output_error(&options.url, error);
    let latents = !dir.done().await.map_err(unusable)?.is_empty();
    let samples = !dir.of::<SamplesIdentity>().done().await.map_err(unusable)?.is_empty();
    // Where there is nothing, the refusal speaks of latents.
    Ok(if samples && !latents { Table::Samples } else { Table::Latents })
}

#[derive(Clone, Copy, PartialEq, Eq)]
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

/// The contact sheet as PNG. `columns`: see [`GalleryOptions::columns`].
fn contact_sheet(tiles: &[&Tile], columns: Option<u32>) -> Result<Vec<u8>, GalleryError> {
    let columns = columns.unwrap_or_else(|| sheet::columns_for(tiles));
    Ok(encode_png(&sheet::compose(tiles, columns)?)?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), JobError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(path, bytes))
        .map_err(|error| JobError::Failed(format!("cannot write {}: {error}", path.display())))
}
