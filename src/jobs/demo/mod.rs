//! `imagebart demo`: the whole way on a small data set of drawn shapes.

pub mod artist;
pub mod data;
mod decoder;
mod drawings;
mod encoder;
pub mod evaluate;
mod kmeans;
mod marks;
pub mod reader;
pub mod scenes;
pub mod shards;
mod shipped;
pub mod split;
pub mod tokenizer;
pub mod words;

pub use drawings::Drawings;
pub use marks::{Agreement, Marks};
pub use shipped::DemoModel;

use super::encode::{EncodeOptions, EncodeSummary, encode};
use super::gallery::{GalleryOptions, GallerySummary, gallery};
use super::verify::{VerifyReport, verify};
use super::{JobError, open_output};
use crate::chain::directory::TOKENIZER_FILE;
use crate::config::Pipeline;
use crate::imaging::ImageError;
use crate::launch::Rank;
use crate::progress::Display;
use crate::torch::device::DeviceChoice;
use crate::torch::weights::WeightsError;
use split::Split;
use std::fmt;
use std::path::{Path, PathBuf};
use tch::TchError;
use tokio_util::sync::CancellationToken;

/// Channels of the demo VQGAN's levels, finest first. The last GroupNorm's groups have 4 channels in the encoder and 2 in the
/// decoder, which the constructions there rest on.
const LEVEL_WIDTHS: [i64; 3] = [64, 64, 128];
/// Pictures of the data set, and of one shard.
const PICTURES: u64 = 256;
const PICTURES_PER_SHARD: u64 = 64;
/// The pipeline, as users find it in `pipelines/`; the demo puts its own folder into it.
const PIPELINE: &str = include_str!("../../../pipelines/demo.toml");

/// Why the data set or the tokenizer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The raster library refused a shape; never seen, but not ours to rule out.
    #[error("cannot draw a shape")]
    Drawing,
    /// A picture could not be encoded.
    #[error("cannot encode a picture: {0}")]
    Encode(#[from] ImageError),
    /// The tokenizer could not be written or loaded.
    #[error("cannot make the demo's tokenizer: {0}")]
    Weights(#[from] WeightsError),
    /// libtorch failed.
    #[error("cannot make the demo's tokenizer: {0}")]
    Torch(#[from] TchError),
    /// A picture to read is not one of the data set's.
    #[error("a picture of {width}x{height} pixels is not one of the demo's, which have 64x64")]
    Side { width: u32, height: u32 },
    /// The disk refused a file.
    #[error("cannot write {}: {source}; choose another folder with --out", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// What the demo is asked for.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The folder everything goes into: a new one, or that of an earlier demo, which is done anew.
    pub out: PathBuf,
    pub seed: u64,
    pub device: DeviceChoice,
    /// What encodes and draws.
    pub model: DemoModel,
}

/// What the demo made, and where.
#[derive(Clone, Debug)]
pub struct DemoSummary {
    pub out: PathBuf,
    pub shards: Vec<PathBuf>,
    pub encoded: EncodeSummary,
    pub verified: VerifyReport,
    pub gallery: GallerySummary,
    pub model: DemoModel,
    /// What the chain drew, where there is one.
    pub drawings: Option<Drawings>,
}

/// What [`demo`] would do, for `--dry-run`.
pub fn describe(options: &DemoOptions) -> Result<String, JobError> {
    let pipeline = pipeline(&options.out, options.seed)?;
    let model = match &options.model {
        DemoModel::Makeshift => {
            let parameters: i64 = tokenizer::config().tensors().iter().map(|tensor| tensor.numel()).sum();
            format!("make a tokenizer of {parameters} parameters, {}", pipeline.tokenizer.weights)
        }
        model => format!("write {} to {}", model.describe(), pipeline.chain.model),
    };
    let more = match options.model.has_chain() {
        true => format!(
            "\ndraw captions to {}, and complete halves of pictures to {}",
            options.out.join("samples").display(),
            options.out.join("completions.png").display()
        ),
        false => String::new(),
    };
    Ok(format!(
        "draw {PICTURES} pictures to {}\n{model}\nencode to {}, verify it, and make the gallery {}{more}",
        pipeline.dataset.url,
        options.out.join("latents").display(),
        options.out.join("gallery.html").display()
    ))
}

/// Draws the data set, encodes it, verifies, makes the gallery; and with a chain draws captions and completes halves.
///
/// # Errors
/// [`JobError::Usage`] when the folder holds something else; else what the steps report. Latents that do not verify are a failure.
pub async fn demo(
    options: &DemoOptions,
    display: &Display,
    cancel: CancellationToken,
) -> Result<DemoSummary, JobError> {
    let out = &options.out;
    let shapes = out.join("shapes");
    let pipeline = pipeline(out, options.seed)?;
    claim(out, &shapes)?;

    let shards = make(&shapes, &out.join("model"), options, &cancel).await?;
    // The folder is the demo's own: what an earlier one left there is replaced.
    let settings =
        EncodeOptions { device: options.device, rank: Rank::ALONE, overwrite: true, ..EncodeOptions::default() };
    let encoded = encode(&pipeline, &settings, display, cancel.clone()).await?;
    let dir = open_output(&pipeline.output.url, false).await?;
    let verified = verify(&dir).await.map_err(JobError::failed)?;
    if !verified.is_ok() {
        return Err(JobError::Failed(format!("the demo's latents do not verify:\n{verified}")));
    }
    let files = vec![out.join("gallery.html"), out.join("gallery.png")];
    let shown = GalleryOptions { device: options.device, ..GalleryOptions::new(&pipeline.output.url, files) };
    let gallery = gallery(&shown).await?;
    let drawings = match options.model.has_chain() {
        true => Some(drawings::draw(&pipeline, options, display, cancel).await?),
        false => None,
    };
    let model = options.model.clone();
    Ok(DemoSummary { out: out.clone(), shards, encoded, verified, gallery, model, drawings })
}

/// Draws the shards and puts the model into its folder, on a thread that may be kept busy.
async fn make(
    shapes: &Path,
    model: &Path,
    options: &DemoOptions,
    cancel: &CancellationToken,
) -> Result<Vec<PathBuf>, JobError> {
    let (shapes, model, options, cancel) = (shapes.to_owned(), model.to_owned(), options.clone(), cancel.clone());
    let making = tokio::task::spawn_blocking(move || {
        tracing::info!("drawing {PICTURES} pictures into {}", shapes.display());
        let shards = shards::write(&shapes, Split::Test, options.seed, PICTURES, PICTURES_PER_SHARD);
        let shards = shards.map_err(JobError::failed)?;
        options.model.install(&model)?;
        if options.model == DemoModel::Makeshift && !cancel.is_cancelled() {
            let weights = model.join(TOKENIZER_FILE);
            tracing::info!("making the tokenizer {}", weights.display());
            tokenizer::write(&weights, options.seed).map_err(JobError::failed)?;
        }
        Ok(shards)
    });
    making.await.map_err(JobError::failed)?
}

/// Makes sure that the folder is there, and empty or an earlier demo's.
fn claim(out: &Path, shapes: &Path) -> Result<(), JobError> {
    let failed = |error: std::io::Error| JobError::Usage(format!("--out {}: {error}", out.display()));
    std::fs::create_dir_all(out).map_err(failed)?;
    let empty = std::fs::read_dir(out).map_err(failed)?.next().is_none();
    if !empty && !shapes.is_dir() {
        let sentence = "is not empty and not the folder of an earlier demo: choose another one";
        return Err(JobError::Usage(format!("--out {} {sentence}", out.display())));
    }
    std::fs::create_dir_all(shapes).map_err(failed)
}

/// The demo's pipeline with everything under `out`.
fn pipeline(out: &Path, seed: u64) -> Result<Pipeline, JobError> {
    let mut pipeline = Pipeline::parse(PIPELINE, "pipelines/demo.toml", &[])?;
    let under = |name: &str| out.join(name).display().to_string();
    if out.display().to_string().contains(['{', '}', '*', '?']) {
        let sentence = "has braces or wildcards, which dataset URLs expand: choose another folder";
        return Err(JobError::Usage(format!("--out {} {sentence}", out.display())));
    }
    let last = PICTURES.div_ceil(PICTURES_PER_SHARD) - 1;
    pipeline.dataset.url = under(&format!("shapes/shapes-{{0000..{last:04}}}.tar"));
    pipeline.tokenizer.weights = under(&format!("model/{TOKENIZER_FILE}"));
    pipeline.chain.model = under("model");
    pipeline.output.url = out.display().to_string();
    pipeline.run.seed = seed;
    Ok(pipeline)
}

impl fmt::Display for DemoSummary {
    /// Where to look.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under = |name: &str| self.out.join(name).display().to_string();
        writeln!(f, "{PICTURES} pictures in {} shards  {}", self.shards.len(), under("shapes"))?;
        writeln!(f, "model                   {} ({})", under("model"), self.model.describe())?;
        writeln!(f, "{} rows of latents      {}", self.encoded.rows, under("latents"))?;
        writeln!(f, "verified                {}", self.verified.to_string().replace('\n', ", "))?;
        if let Some(psnr) = self.gallery.psnr {
            writeln!(f, "reconstructions         mean PSNR {psnr:.1} dB over {} pictures", self.gallery.with_original)?;
        }
        if let Some(Drawings { captions, upper, lower }) = &self.drawings {
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            writeln!(
                f,
                "drawn from captions     {} of the attributes right in {} pictures, {} of pictures altogether",
                percent(captions.attributes),
                captions.pictures,
                percent(captions.perfect)
            )?;
            writeln!(
                f,
                "halves drawn            upper ones agree with the lower in {}, lower ones with the upper in {}",
                percent(upper.shapes),
                percent(lower.shapes)
            )?;
            writeln!(f, "\nLook at {} and {}.", under("drawn.html"), under("completions.png"))?;
        }
        writeln!(f, "\nLook at {} (or gallery.png beside it).", under("gallery.html"))?;
        write!(
            f,
            "Read the tokens: python3 -c \"import pyarrow.parquet as p; print(p.read_table('{}'))\"",
            under("latents")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pipeline_file_is_what_the_demo_runs() {
        let written = Pipeline::parse(PIPELINE, "pipelines/demo.toml", &[]).unwrap();
        assert_eq!(pipeline(Path::new("out/demo"), 0).unwrap(), written);
        let elsewhere = pipeline(Path::new("/tmp/x"), 3).unwrap();
        assert_eq!(elsewhere.dataset.url, "/tmp/x/shapes/shapes-{0000..0003}.tar");
        assert_eq!((elsewhere.output.url.as_str(), elsewhere.run.seed), ("/tmp/x", 3));
        assert!(matches!(pipeline(Path::new("a{b"), 0), Err(JobError::Usage(_))));
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
        claim(&mine, &mine.join("shapes")).unwrap();
        claim(&mine, &mine.join("shapes")).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("thesis.txt"), "x").unwrap();
        let error = claim(&other, &other.join("shapes")).unwrap_err();
        assert!(matches!(&error, JobError::Usage(text) if text.contains("not empty")), "{error}");
        assert!(!other.join("shapes").exists());
    }
}
