//! The stages of an edit between its images and its tokens.

use super::canvas::Canvas;
use super::prepare::{Prepared, Ready};
use crate::chain::{Chain, EditOptions, EditRow, Row};
use crate::flow::BoxError;
use crate::jobs::developer::Developer;
use crate::jobs::model::stopped;
use crate::jobs::sample::{Draw, Sketch};
use crate::random::RowKey;
use std::sync::Arc;

/// An image to draw over another, whose tokens are known.
pub(super) struct Encoded {
    draw: Draw,
    ready: Arc<Ready>,
    tokens: Arc<[u16]>,
}

/// A batch of images of `side` × `side` pixels to tokens. One that several edits share is encoded once.
pub(super) fn encode(developer: &Developer, side: u32, batch: Vec<Prepared>) -> Result<Vec<Encoded>, BoxError> {
    // Those that share one follow one another.
    let mut sources: Vec<Arc<Ready>> = batch.iter().map(|item| item.ready.clone()).collect();
    sources.dedup_by(|a, b| Arc::ptr_eq(a, b));
    let images: Vec<&[u8]> = sources.iter().map(|source| source.pixels.as_slice()).collect();
    let keys: Vec<_> = sources.iter().map(|source| source.key).collect();
    let grids = developer.encode(&images, side, &keys)?;
    let mut encoded = sources.iter().zip(grids).map(|(source, grid)| (source, Arc::<[u16]>::from(grid)));
    let mut last: Option<(&Arc<Ready>, Arc<[u16]>)> = None;
    let tokens = batch.into_iter().map(|Prepared { draw, ready }| {
        if last.as_ref().is_none_or(|(source, _)| !Arc::ptr_eq(source, &ready)) {
            last = encoded.next();
        }
        let tokens = last.as_ref().map(|(_, tokens)| tokens.clone()).ok_or("an image was not encoded")?;
        Ok(Encoded { draw, ready, tokens })
    });
    tokens.collect()
}

/// A canvas that is being filled.
struct Board {
    tokens: Vec<u16>,
    known: Vec<bool>,
}

/// A batch of images to what is drawn over them, window by window of the canvas. With `likelihood` they are scored by minus the
/// [bound](Chain::bound) of the windows in which anything was drawn, all edits of an image noised alike.
pub(super) fn draw(
    chain: &Chain,
    canvas: &Canvas,
    (options, likelihood): (&EditOptions, bool),
    batch: Vec<Encoded>,
) -> Result<Vec<Sketch>, BoxError> {
    let board = |item: &Encoded| Board {
        tokens: canvas.place(&item.tokens, 1, 0),
        known: canvas.place(&item.ready.known, 1, false),
    };
    let mut boards: Vec<Board> = batch.iter().map(board).collect();
    let mut scores = vec![0.0f64; batch.len()];
    let condition = chain.config().condition;
    for (number, window) in (0u32..).zip(canvas.windows()) {
        let row = |(Encoded { draw, .. }, board): (&Encoded, &Board)| EditRow {
            row: Row {
                key: draw.part(number),
                condition: draw.subject.condition(&condition),
                settings: draw.settings.scales.clone(),
            },
            tokens: canvas.cut(&board.tokens, window),
            known: canvas.cut(&board.known, window),
        };
        let rows: Vec<EditRow> = batch.iter().zip(&boards).map(row).collect();
        if rows.iter().all(|row| row.known.iter().all(|&known| known)) {
            continue;
        }
        let failed = |error| {
            let unit = batch.first().map_or("", |item| item.draw.unit.name.as_str());
            stopped(error, unit, &batch.iter().map(|item| item.draw.key.as_str()).collect::<Vec<_>>())
        };
        let drawn = chain.edit(&rows, options).map_err(failed)?;
        if likelihood {
            let paths: Vec<RowKey> = batch.iter().map(|item| item.ready.key).collect();
            let rows: Vec<Row> = rows.into_iter().map(|edit| edit.row).collect();
            let grids: Vec<&[u16]> = drawn.iter().map(Vec::as_slice).collect();
            let bounds = chain.bound(&rows, &grids, &paths).map_err(failed)?;
            scores.iter_mut().zip(bounds).for_each(|(score, bound)| *score -= bound);
        }
        for (board, drawn) in boards.iter_mut().zip(drawn) {
            canvas.put(&mut board.known, window, &vec![true; drawn.len()], 1);
            canvas.put(&mut board.tokens, window, &drawn, 1);
        }
    }
    let sketches = batch.into_iter().zip(boards).zip(scores).map(|((item, board), score)| Sketch {
        draw: item.draw,
        tokens: board.tokens,
        score: likelihood.then_some(score),
        source: Some(item.ready.source.clone()),
    });
    Ok(sketches.collect())
}
