//! A run's curves and pictures, in files that TensorBoard reads.
//!
//! Object stores cannot append, so a journal is a row of segments: an event file for every stretch between two checkpoints,
//! `events.out.tfevents.0000012000.imagebart` for the one that begins after step 12 000. TensorBoard reads the files of a folder
//! in the order of their names. The last segment is kept in memory and put as a whole, again and again, while it grows.
//!
//! **Exactness.** A run that goes on at a checkpoint of step s forgets what was told after s: [`Journal::open`] deletes the
//! segments that begin at s or later, and what an earlier one tells of later steps. What it then tells anew is what an
//! undisturbed run would have told, so nothing in the files but wall times shows that it was ever killed. This asks one thing of
//! the trainer: [`Journal::seal`] with a checkpoint's step *before* the checkpoint is committed. Killed between the two, the
//! run goes on at the checkpoint before, and the sealed segment is told anew.

use super::events::{self, Picture, Records, Told};
use super::history::History;
use crate::training::{FolderError, RunFolder};
use bytes::Bytes;
use std::time::SystemTime;

const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".imagebart";

/// Why a journal cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Steps of names have ten digits, so that their order is that of the numbers.
    #[error("the journal of a run cannot tell of step {0}: it counts to 9999999999")]
    TooLong(u64),
}

const MAX_STEP: u64 = 9_999_999_999;

/// The segment that begins after `step`.
fn segment_name(step: u64) -> Result<String, JournalError> {
    if step > MAX_STEP { Err(JournalError::TooLong(step)) } else { Ok(format!("{PREFIX}{step:010}{SUFFIX}")) }
}

/// The step after which the segment of this name begins; none for other files.
pub(super) fn segment_start(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    (digits.len() == 10 && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// What a run tells of itself, step by step. Nothing is written before [`flush`](Journal::flush) or [`seal`](Journal::seal).
#[derive(Debug)]
pub struct Journal {
    folder: RunFolder,
    segment: Segment,
    /// Everything that was told, in this process and before it.
    history: History,
}

/// The segment that is being told.
#[derive(Debug)]
struct Segment {
    /// The step after which it begins.
    start: u64,
    file: Vec<u8>,
    /// How much of the file is in the store.
    written: usize,
}

impl Segment {
    fn new(start: u64) -> Segment {
        Segment { start, file: Vec::new(), written: 0 }
    }
}

impl Journal {
    /// The journal in `folder` of a run that goes on after `step`; 0 for one that begins. What it told of later steps is
    /// deleted.
    ///
    /// # Errors
    /// A step beyond ten digits; what the store reports.
    pub async fn open(folder: RunFolder, step: u64) -> Result<Journal, JournalError> {
        segment_name(step)?;
        let names = folder.names().await?;
        let segments = names.iter().filter_map(|name| Some((segment_start(name)?, name)));
        let (kept, forgotten): (Vec<_>, Vec<_>) = segments.partition(|(start, _)| *start < step);
        // From the last back: killed in between, what is left is still a beginning of the run.
        for (_, name) in forgotten.into_iter().rev() {
            folder.delete(name).await?;
        }
        if let Some((_, name)) = kept.last() {
            cut(&folder, name, step).await?;
        }
        let history = History::read(&folder).await?;
        Ok(Journal { folder, segment: Segment::new(step), history })
    }

    /// Tells scalars of `step`, by name. They are kept as float32; NaN and infinities are told as such.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) {
        events::scalars(now(), step, values, self.file());
        for (name, value) in values {
            self.history.add(step, Told::Scalar((*name).to_owned(), f64::from(*value as f32)));
        }
    }

    /// Shows a picture under the name `tag`: a PNG file of `width` by `height` pixels.
    pub fn image(&mut self, step: u64, tag: &str, png: &[u8], width: u32, height: u32) {
        let picture = Picture { step, file: Bytes::copy_from_slice(png), width, height };
        events::image(now(), tag, &picture, self.file());
        self.history.add(step, Told::Picture(tag.to_owned(), picture));
    }

    /// Puts the open segment as it is. Without news nothing is written.
    ///
    /// # Errors
    /// What the store reports; nothing is lost from memory, and the next flush puts it all.
    pub async fn flush(&mut self) -> Result<(), JournalError> {
        let Segment { start, file, written } = &mut self.segment;
        if file.len() > *written {
            self.folder.put(&segment_name(*start)?, file.clone()).await?;
            *written = file.len();
        }
        Ok(())
    }

    /// Puts the open segment and begins the next one, after `step`. To be called once everything up to `step` is told, and
    /// before the checkpoint of `step` is committed.
    ///
    /// # Errors
    /// A step beyond ten digits; what the store reports.
    pub async fn seal(&mut self, step: u64) -> Result<(), JournalError> {
        segment_name(step)?;
        self.flush().await?;
        // Sealed twice at one step, it goes on with the segment that begins there.
        if step > self.segment.start {
            self.segment = Segment::new(step);
        }
        Ok(())
    }

    /// Everything that was told so far: what [`History::read`] would find once it is flushed.
    pub fn history(&self) -> &History {
        &self.history
    }

    fn file(&mut self) -> &mut Vec<u8> {
        if self.segment.file.is_empty() {
            self.segment.file = events::opening(now());
        }
        &mut self.segment.file
    }
}

/// Takes out of a segment what it tells of steps after `step`, and what cannot be read: from there on nobody could.
async fn cut(folder: &RunFolder, name: &str, step: u64) -> Result<(), JournalError> {
    let Some(file) = folder.get(name).await? else { return Ok(()) };
    let size = file.len();
    let records = Records::of(file).map_while(Result::ok);
    let kept: Vec<u8> = records.filter(|record| record.step <= step).flat_map(|record| record.bytes).collect();
    if kept.len() < size {
        folder.put(name, kept).await?;
    }
    Ok(())
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64())
}
