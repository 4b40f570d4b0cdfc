//! The user's commands, each read top to bottom as the data flows.

mod archive;
mod card;
pub mod demo;
mod developer;
pub mod edit;
pub mod encode;
pub mod evaluate;
pub mod export;
pub mod facts;
pub mod filter;
pub mod gallery;
pub mod half;
pub mod import;
mod model;
mod outline;
mod places;
mod reading;
mod row_settings;
mod running;
pub mod sample;
pub mod shrink;
mod sink;
pub mod text_tokenizer;
pub mod train;
pub mod train_tokenizer;
pub mod verify;
mod work;

pub use places::{open_output, output_error};

use crate::config::ConfigError;
use crate::tables::TableError;

/// How a job can end other than well. The text is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// What the user asked cannot be done as asked; nothing was touched.
    #[error("{0}")]
    Usage(String),
    /// The pipeline file is wrong; nothing was touched.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The work failed; what was committed is kept.
    #[error("{0}")]
    Failed(String),
    /// The work is done, but too much of the input was unusable. The data is kept.
    #[error(
        "{rejected} of {samples} samples were rejected, more than run.max_reject_fraction = {limit} allows; \
         what was made is kept, and the rejects beside it tell the reasons"
    )]
    TooManyRejects { rejected: u64, samples: u64, limit: f64 },
    /// The user, or the scheduler, stopped it.
    #[error("interrupted: finished units are kept, and the same command goes on from there")]
    Interrupted,
}

impl JobError {
    /// The process's exit code, as the README lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            JobError::Failed(_) => 1,
            JobError::Usage(_) | JobError::Config(_) => 2,
            JobError::TooManyRejects { .. } => 3,
            JobError::Interrupted => 130,
        }
    }

    /// A failure with the error that caused it, and what it was about.
    pub fn failed(error: impl std::error::Error) -> JobError {
        JobError::Failed(with_causes(&error))
    }
}

/// An error's text followed by those of its causes that say something new.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// What the directory lacks, mixes or refuses is the user's to resolve; a failing store is not.
pub(crate) fn refusal(error: TableError) -> JobError {
    match error {
        TableError::Identity { .. }
        | TableError::Dataset { .. }
        | TableError::Format { .. }
        | TableError::Mixed { .. } => JobError::Usage(error.to_string()),
        error => JobError::failed(error),
    }
}
