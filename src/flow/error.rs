//! What can go wrong with a run.

use std::any::Any;

/// Any error of the user's functions.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a run ended early. Causes are in [`std::error::Error::source`].
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// [`Engine::cancel`](super::Engine::cancel) was called.
    #[error("the run was cancelled")]
    Cancelled,
    /// A stage's function returned an error.
    #[error("stage `{stage}` failed")]
    Failed {
        stage: &'static str,
        #[source]
        source: BoxError,
    },
    /// A device stage could not be set up; no unit was begun.
    #[error("stage `{stage}` could not start")]
    Init {
        stage: &'static str,
        #[source]
        source: BoxError,
    },
    /// A stage's function panicked.
    #[error("stage `{stage}` panicked: {message}")]
    Panicked { stage: &'static str, message: String },
    /// The system gave no thread to a stage.
    #[error("stage `{stage}` got no thread from the system; give it fewer workers, or raise the process limit")]
    Thread {
        stage: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// A stage broke the flow's rules: a programming error in the stage.
    #[error("stage `{stage}` broke the flow's rules: {message}")]
    Protocol { stage: &'static str, message: String },
}

impl FlowError {
    pub(super) fn protocol(stage: &'static str, message: impl Into<String>) -> FlowError {
        FlowError::Protocol { stage, message: message.into() }
    }

    /// The error for a panic's payload.
    pub(super) fn panicked(stage: &'static str, payload: &(dyn Any + Send)) -> FlowError {
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        FlowError::Panicked { stage, message: text.unwrap_or("(no message)").to_owned() }
    }
}

/// The run is over, by an error or a cancellation: a source that gets this from its emitter returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run was stopped")]
pub struct Stopped;
