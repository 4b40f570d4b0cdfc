//! Chains as their users see them: model directories, sampling, editing.

mod directory;
mod editing;
mod exact;
mod guidance;
mod large;
mod sampling;
mod statistics;
mod support;
