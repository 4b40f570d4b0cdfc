//! The Parquet tables: schemas, writers and readers, commit protocol, identity and provenance.
//!
//! An output directory holds, for every work unit that is done, two files and nothing half-written. An `encode` writes
//!
//! ```text
//! manifest.json                   the run's identity in clear, and every unit with its sources' sizes
//! rejects/<unit name>.parquet     samples that were not encoded; committed first
//! latents/<unit name>.parquet     token grids; once this file is there, the unit is done
//! ```
//!
//! and a `sample` or an `edit` likewise, in the same directory or another: `samples-manifest.json`, `samples-rejects/`,
//! `samples/`. The two share no file: see [`Run`]. Beside them lie the facts of the last run, what `filter` decided about samples,
//! and once all of these are there `README.md`, their data-set card.
//!
//! - [`TableSchema`] reads the columns from `schemas/*.json`: nothing else defines one.
//! - [`Identity`] and [`SamplesIdentity`] are the closed lists of what may change an output's bytes; [`Manifest`] records
//!   them.
//! - [`OutputDir`] knows which units are done, and refuses a directory of another identity.
//! - [`UnitWriter`] writes one unit and commits it; [`LatentsReader`] and [`SamplesReader`] read a whole directory back,
//!   [`LatentsFile`] and [`SamplesFile`] a single file.
//!
//! Every file carries its [`Provenance`] in the Parquet key-value metadata, and a seal: the SHA-256 of all its bytes, so
//! that a single flipped bit anywhere is found by `imagebart verify`.

mod check;
mod decisions;
mod decode;
mod error;
mod identity;
mod latents;
mod layout;
mod manifest;
mod names;
mod output;
mod provenance;
mod read;
mod rejects;
mod repeating;
mod rows;
mod run;
mod samples;
mod sampling;
mod schema;
mod seal;
mod unit;
mod writer;

pub use crate::imaging::CropRect;
pub use check::RowCheck;
pub use decisions::{DecisionRow, Decisions};
pub use decode::TokenColumn;
pub use error::TableError;
pub use identity::{Difference, FORMAT_VERSION, Identity, Preprocessing, Selection};
pub use latents::LatentsWriter;
pub use layout::{Layout, ROW_GROUP_TOKENS};
pub use manifest::{Manifest, ManifestUnit, SourceFile};
pub use names::{UnitFile, file_of_path, path_of_file};
pub use output::OutputDir;
pub use provenance::{FileInfo, Provenance};
pub use read::{
    LatentsFile, LatentsReader, RejectsFile, RowsFile, SamplesFile, SamplesReader, TableReader, read_latents,
    read_rejects, read_rejects_of, read_samples, read_table,
};
pub use rejects::RejectsWriter;
pub use rows::RowChecksum;
pub use run::{RowsWriter, Run, TableRow};
pub use samples::SamplesWriter;
pub use sampling::{
    ChooseSelection, EditSelection, ImageFile, LargeSelection, RowSelection, RowSettings, SampleRow, SamplesIdentity,
    TileSelection, row_key,
};
pub use schema::{Column, TableSchema};
pub use seal::check_seal;
pub use unit::{UnitSummary, UnitWriter};

/// One row of the `latents` table: the token grid of one crop of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatentRow {
    /// The sample's name within its source.
    pub key: String,
    /// The shard or file it came from, relative to the dataset's root.
    pub source: String,
    /// Position of the sample in its work unit; crops and flips of one image share it.
    pub index: u64,
    /// Class, where the dataset has one.
    pub label: Option<i32>,
    /// Caption, where the dataset has one.
    pub caption: Option<String>,
    /// Width of the original image, in pixels.
    pub width: u32,
    /// Height of the original image, in pixels.
    pub height: u32,
    /// What was cut out of the original.
    pub crop: CropRect,
    /// Whether the crop was mirrored left to right.
    pub flipped: bool,
    /// Codebook indices, `[h * w]` row-major, each below the codebook size.
    pub tokens: Vec<u16>,
}

impl TableRow for LatentRow {
    fn key(&self) -> &str {
        &self.key
    }

    fn index(&self, _position: u64) -> u64 {
        self.index
    }

    fn tokens(&self) -> &[u16] {
        &self.tokens
    }
}
