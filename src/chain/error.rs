//! Why images could not be drawn or edited.

use super::edit::MAX_CANDIDATES;
use super::settings::SettingsError;
use crate::transformer::TransformerError;
use tch::TchError;

/// Why images could not be drawn or edited. Rows count from 0 within the batch.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    #[error("row {row}: {source}")]
    Settings { row: usize, source: SettingsError },
    #[error("row {row}: {given} is asked for, but the chain is {condition}")]
    Condition { row: usize, given: &'static str, condition: &'static str },
    #[error("row {row}: class {class} is not below {classes}, the number of classes")]
    Class { row: usize, class: u32, classes: u32 },
    #[error("row {row}: its text has {found} tokens, the chain takes {length}")]
    TextLength { row: usize, found: usize, length: i64 },
    #[error("row {row}: text token {id} is not below {vocabulary}, the text tokenizer's vocabulary")]
    TextId { row: usize, id: u32, vocabulary: i64 },
    #[error("{rows} rows came with {grids} token grids to start from")]
    Rows { rows: usize, grids: usize },
    #[error("row {row}: {what} has {found} tokens, the grid has {expected}")]
    Grid { row: usize, what: &'static str, found: usize, expected: usize },
    #[error("row {row}: token {token} is not below {codes}, the number of codes")]
    Token { row: usize, token: u16, codes: u32 },
    #[error("scale {scale} is not one of the chain's, 1 to {scales}")]
    Scale { scale: u32, scales: u32 },
    #[error("the scale to end with, {end}, must be 1 to {start}, the one to start with")]
    End { end: u32, start: u32 },
    #[error("the network of scale {scale} is not in this part of the chain")]
    Elsewhere { scale: u32 },
    #[error(
        "a grid of {} × {} tokens is smaller than {} × {}, the one the chain was trained for: only larger ones can be drawn",
        grid.0, grid.1, trained.0, trained.1
    )]
    Smaller { grid: (u32, u32), trained: (u32, u32) },
    #[error("a grid of {} × {} tokens has more than {most}, the most that can be drawn", grid.0, grid.1)]
    TooLarge { grid: (u32, u32), most: u64 },
    #[error("a stride of {stride} tokens must be 1 to {most}, the shorter side of the grid the chain was trained for")]
    Stride { stride: u32, most: u32 },
    #[error("repeats lists {found} values; give one for each scale, {scales}, from scale 1 up")]
    Repeats { found: usize, scales: u32 },
    #[error("repeats = {value} at scale {scale}: it must be 1 to {}", u16::MAX)]
    Repeat { scale: u32, value: u32 },
    #[error("candidates lists {found} values; give one for each scale, {scales}, from scale 1 up")]
    Candidates { found: usize, scales: u32 },
    #[error("candidates = {value} at scale {scale}: it must be 1 to {MAX_CANDIDATES}")]
    Candidate { scale: u32, value: u32 },
    #[error("compat = \"authors\" starts at the last scale, {scales}, not at {scale}")]
    Strength { scale: u32, scales: u32 },
    #[error(
        "the network of scale {scale} gave NaN or infinity for row(s) {} of the batch; check its weights, or use fp32",
        list(rows)
    )]
    NotFinite { scale: u32, rows: Vec<usize> },
    #[error("scale {scale}: {source}")]
    Network { scale: u32, source: Box<TransformerError> },
    #[error("sampling failed in libtorch: {0}")]
    Torch(#[from] TchError),
}

fn list(rows: &[usize]) -> String {
    rows.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
