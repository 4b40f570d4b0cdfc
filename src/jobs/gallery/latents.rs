//! A gallery of latents: reconstructions beside their originals.

use super::originals::{self, Originals};
use super::page::Pair;
use super::rows::{self, Chosen};
use super::{GalleryOptions, Original, Tile, facts, page};
use crate::config::{DType, Pipeline};
use crate::imaging::Rgb;
use crate::jobs::encode::tokenizer_of;
use crate::jobs::facts::recorded_pipeline;
use crate::jobs::{JobError, refusal};
use crate::tables::{LatentRow, LatentsReader, OutputDir, Provenance};
use crate::vqgan::{Tokenizer, TokenizerError};
use futures::TryStreamExt;

/// Rows decoded at a time.
const BATCH: usize = 8;

/// The latents of `dir` that the gallery shows, and what its page says of them.
pub async fn show(dir: OutputDir, options: &GalleryOptions) -> Result<(page::Header, Vec<Pair>), JobError> {
    let recorded = recorded_pipeline(&dir).await;
    let latents = LatentsReader::open(dir).await.map_err(refusal)?;
    let tokenizer = open_tokenizer(options, recorded.as_ref(), latents.provenance())?;

    let choice = rows::choose(&latents, options.count).await.map_err(refusal)?;
    let rows: Vec<Chosen<LatentRow>> = choice.rows(&latents).try_collect().await.map_err(refusal)?;
    let originals = match &recorded {
        Some(pipeline) => originals::find(pipeline, latents.provenance().identity.seed, &rows).await,
        None => Originals {
            pictures: vec![None; rows.len()],
            problems: vec!["The originals cannot be read: run.json, which says where they are, is missing.".to_owned()],
        },
    };
    let reconstructions = decode(tokenizer, latents.provenance().grid, &rows).await?;
    let mut header = facts::header(options, latents.provenance(), recorded.as_ref(), &choice, &originals);
    let pairs = pairs(rows, originals, reconstructions);
    let psnr = facts::mean_psnr(pairs.iter().map(|pair| &pair.tile));
    header.facts.extend(psnr.map(|psnr| ("Mean PSNR".to_owned(), format!("{psnr:.1} dB"))));
    Ok((header, pairs))
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
async fn decode(tokenizer: Tokenizer, grid: (u32, u32), rows: &[Chosen<LatentRow>]) -> Result<Vec<Rgb>, JobError> {
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

fn pairs(rows: Vec<Chosen<LatentRow>>, originals: Originals, reconstructions: Vec<Rgb>) -> Vec<Pair> {
    let pictures = originals.pictures.into_iter().zip(reconstructions);
    let pair = |(chosen, (original, picture)): (Chosen<LatentRow>, (Option<Rgb>, Rgb))| Pair {
        tile: Tile { original: original.map_or(Original::Missing, Original::Found), picture },
        key: chosen.row.key,
        source: chosen.row.source,
        label: chosen.row.label,
        caption: chosen.row.caption,
    };
    rows.into_iter().zip(pictures).map(pair).collect()
}
