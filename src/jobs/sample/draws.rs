//! The images of a run, one by one, in their order.

use super::ahead::Requests;
use super::choose::Candidate;
use super::requests::Interpreter;
use super::subjects::{Labels, Subject};
use crate::datasets::Unit;
use crate::datasets::prompts::PromptError;
use crate::flow::{BoxError, Emitter};
use crate::jobs::row_settings::RowDraw;
use crate::random::RowKey;
use crate::reject::Reject;
use crate::tables::row_key;
use std::sync::Arc;

/// An image to draw.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Its place in the run.
    pub number: u64,
    /// Its name in the table of samples.
    pub key: String,
    /// As the table of samples has it.
    pub seed: u64,
    /// Where its random numbers come from.
    pub random: RowKey,
    pub unit: Arc<Unit>,
    pub subject: Subject,
    pub settings: RowDraw,
    /// Its place among the images of its row, where the run chooses.
    pub candidate: Option<Candidate>,
}

impl Draw {
    /// The random numbers of part `number` of it, from 0, where it is drawn in parts: of the first its own.
    pub fn part(&self, number: u32) -> RowKey {
        if number == 0 { self.random } else { RowKey::new(self.seed, "parts", 0, number) }
    }
}

/// Where the images of a run come from.
#[derive(Clone)]
pub enum Draws {
    /// So many of the classes in turn, or of nothing.
    Counted(Counted),
    /// Those that a table asks for.
    Table(Box<Interpreter>),
}

/// The images of a run without a table.
#[derive(Clone, Debug)]
pub struct Counted {
    pub labels: Labels,
    pub settings: RowDraw,
    pub seed: u64,
    /// How many images are drawn of a row, and how many of them may be kept, where the run chooses.
    pub candidates: Option<(u64, u64)>,
}

impl Counted {
    /// Image `number`. Its random numbers do not depend on how the rows are cut into units.
    fn draw(&self, number: u64, unit: Arc<Unit>) -> Draw {
        let (row, key, candidate) = match self.candidates {
            None => (number, row_key(number), None),
            Some((of, keep)) => {
                let (row, index) = (number / of.max(1), number % of.max(1));
                (row, format!("{}-{index}", row_key(row)), Some(Candidate { index, of, keep }))
            }
        };
        Draw {
            number,
            key,
            candidate,
            seed: self.seed,
            random: RowKey::new(self.seed, "rows", number, 0),
            unit,
            subject: self.labels.of(row).map_or(Subject::Nothing, Subject::Class),
            settings: self.settings.clone(),
        }
    }
}

impl Draws {
    /// The images of `units`, which are in their order, one after the other.
    pub async fn emit(self, units: Vec<Arc<Unit>>, mut out: Emitter<Unit, Draw, Reject>) -> Result<(), BoxError> {
        let mut draws = self.start();
        for unit in units {
            out.begin(unit.clone()).await?;
            for number in unit.range.clone().unwrap_or_default() {
                out.row(draws.draw(number, unit.clone()).await?).await?;
            }
            out.end().await?;
        }
        Ok(())
    }

    /// The place of the image called `key`, if there is one.
    ///
    /// # Errors
    /// A table that cannot be read.
    pub async fn find(&self, key: &str) -> Result<Option<u64>, PromptError> {
        // A row's number as keys have it, and the place of an image in its row.
        let place = |row: &str, index: &str| {
            let (number, place) = (row.parse::<u64>().ok()?, index.parse::<u64>().ok()?);
            (row_key(number) == row && place.to_string() == index).then_some((number, place))
        };
        match self {
            Draws::Counted(Counted { candidates: None, .. }) => Ok(place(key, "0").map(|(row, _)| row)),
            Draws::Counted(Counted { candidates: Some((of, _)), .. }) => {
                let found = key.rsplit_once('-').and_then(|(row, index)| place(row, index));
                Ok(found
                    .filter(|(_, index)| index < of)
                    .and_then(|(row, index)| row.checked_mul(*of)?.checked_add(index)))
            }
            Draws::Table(interpreter) => {
                let Some((wanted, index)) = key.rsplit_once('-') else { return Ok(None) };
                let Ok(index) = index.parse::<u64>() else { return Ok(None) };
                let (mut rows, mut number, mut start) = (interpreter.table.rows(), 0, 0_u64);
                while let Some(row) = rows.next().await? {
                    let draws = interpreter.draws(&row);
                    let own = match &row.key {
                        Some(key) => key == wanted,
                        None => row_key(number) == wanted,
                    };
                    if own {
                        return Ok((index < draws).then(|| start.saturating_add(index)));
                    }
                    start = start.saturating_add(draws);
                    number += 1;
                }
                Ok(None)
            }
        }
    }

    /// Begins with the first image.
    pub fn start(self) -> DrawStream {
        match self {
            Draws::Counted(counted) => DrawStream::Counted(counted),
            Draws::Table(interpreter) => DrawStream::Table(Box::new(Requests::new(*interpreter))),
        }
    }
}

/// The images of a run, on their way.
pub enum DrawStream {
    Counted(Counted),
    Table(Box<Requests>),
}

impl DrawStream {
    /// Image `number` of the run, not before the last one that was asked for.
    ///
    /// # Errors
    /// A table that is not what it was when it was first looked through.
    pub async fn draw(&mut self, number: u64, unit: Arc<Unit>) -> Result<Draw, BoxError> {
        match self {
            DrawStream::Counted(counted) => Ok(counted.draw(number, unit)),
            DrawStream::Table(requests) => match requests.holding(number).await? {
                Some((start, request)) => Ok(request.draw(number.saturating_sub(start), number, unit)),
                None => Err("the table of prompts has become shorter".into()),
            },
        }
    }
}
