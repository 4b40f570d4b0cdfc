//! A first look through a prompt table: that all of it can be drawn, and how it is cut into units.
//!
//! The table is read once here and once more as it is drawn, so that it need not fit into memory. What is kept meanwhile is eight
//! bytes of every row for its key, and sixteen where it gives a seed.

use super::ahead::Requests;
use super::requests::{Interpreter, Request, usage};
use super::units::Cutter;
use crate::datasets::Unit;
use crate::datasets::prompts::PromptError;
use crate::digest::hex;
use crate::jobs::JobError;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a table asks for.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Rows of the table.
    pub rows: u64,
    /// Images of the run.
    pub draws: u64,
    /// The most of them that are kept.
    pub keep: u64,
    /// Rows whose text is longer than the chain's condition, so that its end is lost.
    pub cut: u64,
    /// Hex SHA-256 over all rows, however the file writes them.
    pub digest: String,
    pub units: Vec<Arc<Unit>>,
}

/// Looks through the table of `interpreter`. Unless `shared_seeds`, no two images may have the same given seed.
///
/// # Errors
/// The first row that cannot be drawn; a key or a seed that is there twice; too many units; no rows.
pub async fn survey(interpreter: &Interpreter, mut cutter: Cutter, shared_seeds: bool) -> Result<Survey, JobError> {
    let mut hash = Sha256::new();
    let (mut keys, mut seeds) = (Vec::new(), Vec::new());
    let (mut rows, mut cut, mut keep) = (0, 0, 0_u64);
    let mut requests = Requests::new(interpreter.clone());
    while let Some(request) = requests.next().await.map_err(usage)? {
        request.digest(&mut hash);
        keys.push(short(&request.key));
        match request.seeds() {
            Some((first, Some(last))) => seeds.push((first, last)),
            Some((first, None)) => {
                let what = format!("its seed {first} leaves no room for the seeds of {} images", request.draws);
                return Err(usage(interpreter.table.fault(&request.row, what)));
            }
            None => {}
        }
        cut += u64::from(request.cut);
        keep = keep.saturating_add(request.keep);
        cutter.add(request.draws)?;
        rows += 1;
    }
    if rows == 0 {
        return Err(usage(interpreter.table.broken("there are no rows in it")));
    }
    if let Some(twice) = repeated(keys) {
        refuse_keys(interpreter, &twice).await.map_err(usage)?;
    }
    if let Some(seed) = overlap(seeds).filter(|_| !shared_seeds) {
        return Err(usage(name_seed(interpreter, seed).await));
    }
    if cut > 0 {
        tracing::warn!("{cut} of {rows} prompts are longer than the chain's text and are cut");
    }
    let units = cutter.finish()?;
    let draws = units.last().and_then(|unit| unit.range.clone()).map_or(0, |range| range.end);
    Ok(Survey { rows, draws, keep, cut, digest: hex(&hash.finalize()), units })
}

/// Eight bytes that stand for a key.
fn short(key: &str) -> u64 {
    Sha256::digest(key).into_iter().take(8).fold(0, |number, byte| number << 8 | u64::from(byte))
}

/// The numbers that are there more than once, if any.
fn repeated(mut numbers: Vec<u64>) -> Option<HashSet<u64>> {
    numbers.sort_unstable();
    let twice: HashSet<u64> =
        numbers.windows(2).filter(|pair| pair[0] == pair[1]).filter_map(|pair| pair.first().copied()).collect();
    Some(twice).filter(|twice| !twice.is_empty())
}

/// A number that lies in two of the ranges, ends included.
fn overlap(mut ranges: Vec<(u64, u64)>) -> Option<u64> {
    ranges.sort_unstable();
    let mut end: Option<u64> = None;
    for (first, last) in ranges {
        if end.is_some_and(|end| first <= end) {
            return Some(first);
        }
        end = Some(last);
    }
    None
}

/// Looks again at the keys of which short forms are there `twice`: they may differ after all.
async fn refuse_keys(interpreter: &Interpreter, twice: &HashSet<u64>) -> Result<(), PromptError> {
    let mut seen: HashMap<Arc<str>, u64> = HashMap::new();
    let mut requests = Requests::new(interpreter.clone());
    while let Some(request) = requests.next().await? {
        if !twice.contains(&short(&request.key)) {
            continue;
        }
        if let Some(first) = seen.insert(request.key.clone(), request.row.at) {
            let what = format!(
                "its key \"{}\" is that of {} {first}, too: samples are named after it",
                request.key,
                interpreter.table.noun()
            );
            return Err(interpreter.table.fault(&request.row, what));
        }
    }
    Ok(())
}

/// Says which two rows have images with this seed.
async fn name_seed(interpreter: &Interpreter, seed: u64) -> PromptError {
    let has = |request: &Request| {
        request.seeds().is_some_and(|(first, last)| (first..=last.unwrap_or(u64::MAX)).contains(&seed))
    };
    let mut first = None;
    let mut requests = Requests::new(interpreter.clone());
    while let Ok(Some(request)) = requests.next().await {
        match (has(&request), first) {
            (true, None) => first = Some(request.row.at),
            (true, Some(first)) => {
                let what = format!(
                    "the seed {seed} is that of an image of {} {first}, too: both would be drawn from the same random \
                     numbers; give other seeds (a row of n images takes n), or set sample.shared_seeds = true",
                    interpreter.table.noun()
                );
                return interpreter.table.fault(&request.row, what);
            }
            (false, _) => {}
        }
    }
    interpreter.table.broken(format!("the seed {seed} is there twice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_twice_is_found() {
        assert_eq!(repeated(vec![3, 1, 2]), None);
        assert_eq!(repeated(vec![3, 1, 3, 2, 1, 3]), Some(HashSet::from([1, 3])));
        assert_eq!(overlap(vec![(5, 8), (0, 4), (9, 9)]), None);
        assert_eq!(overlap(vec![(5, 8), (0, 5)]), Some(5));
        assert_eq!(overlap(vec![(7, 7), (0, u64::MAX)]), Some(7));
        assert_ne!(short("a"), short("b"));
    }
}
