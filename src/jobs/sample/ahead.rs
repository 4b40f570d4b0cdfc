//! The requests of a table in their order, several of them worked out at once: most of that is splitting texts into tokens.

use super::requests::{Interpreter, Request};
use crate::datasets::prompts::{PromptError, PromptRow, PromptRows};
use crate::jobs::work::processors;
use futures::future::join_all;
use std::collections::VecDeque;

/// Rows that one thread works out.
const PART: usize = 256;

/// A row of the table: its number from 0, the number of its first image, and what it says.
type Numbered = (u64, u64, PromptRow);

/// The requests of a table, on their way.
pub struct Requests {
    interpreter: Interpreter,
    rows: PromptRows,
    /// Rows that were read, and images of theirs.
    read: u64,
    images: u64,
    /// What was worked out, each with the number of its first image.
    ready: VecDeque<(u64, Request)>,
    /// What is wrong with the table behind it.
    failed: Option<PromptError>,
}

impl Requests {
    /// Starts with the first row. Must be called inside a tokio runtime.
    pub fn new(interpreter: Interpreter) -> Requests {
        let rows = interpreter.table.rows();
        Requests { interpreter, rows, read: 0, images: 0, ready: VecDeque::new(), failed: None }
    }

    /// The next request; `None` behind the last row.
    ///
    /// # Errors
    /// The first row that cannot be read or drawn.
    pub async fn next(&mut self) -> Result<Option<Request>, PromptError> {
        if self.ready.is_empty() {
            self.fill(0).await?;
        }
        Ok(self.ready.pop_front().map(|(_, request)| request))
    }

    /// The request that image `number` is of, with the number of its first image; `None` where the table has no such image. Rows
    /// before it are passed over as they are written.
    ///
    /// # Errors
    /// As of [`Requests::next`].
    pub async fn holding(&mut self, number: u64) -> Result<Option<(u64, &Request)>, PromptError> {
        let before = |(start, request): &(u64, Request)| start.saturating_add(request.draws) <= number;
        while self.ready.front().is_none_or(before) {
            if self.ready.pop_front().is_none() && !self.fill(number).await? {
                return Ok(None);
            }
        }
        Ok(self.ready.front().map(|(start, request)| (*start, request)))
    }

    /// Reads on, and works out what it reads, but for rows whose images all come before image `number`. False at the end.
    async fn fill(&mut self, number: u64) -> Result<bool, PromptError> {
        let mut parts: Vec<Vec<Numbered>> = Vec::new();
        let room = processors() as usize * PART;
        let mut held = 0;
        while held < room && self.failed.is_none() {
            match self.rows.next().await {
                Ok(Some(row)) => {
                    let (at, start) = (self.read, self.images);
                    self.read += 1;
                    self.images = start.saturating_add(self.interpreter.draws(&row));
                    if self.images <= number {
                        continue;
                    }
                    match parts.last_mut().filter(|part| part.len() < PART) {
                        Some(part) => part.push((at, start, row)),
                        None => parts.push(vec![(at, start, row)]),
                    }
                    held += 1;
                }
                Ok(None) => break,
                Err(error) => self.failed = Some(error),
            }
        }
        if parts.is_empty() {
            return self.failed.take().map_or(Ok(false), Err);
        }
        let work = |part: Vec<Numbered>| {
            let mut interpreter = self.interpreter.clone();
            tokio::task::spawn_blocking(move || {
                let request = |(at, start, row)| Ok((start, interpreter.request(at, row)?));
                part.into_iter().map(request).collect::<Result<Vec<_>, PromptError>>()
            })
        };
        for done in join_all(parts.into_iter().map(work)).await {
            let done = done.unwrap_or_else(|error| Err(self.interpreter.table.broken(error.to_string())));
            self.ready.extend(done?);
        }
        Ok(true)
    }
}
