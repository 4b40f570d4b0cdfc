//! Batches for training, streamed from tables of latents on any store.
//!
//! The rows of an epoch come in an order that depends on seed, epoch and the latents alone, never on timing: row groups of all files are shuffled,
//! consecutive ones make a window that is read into memory, and the window's rows leave it shuffled again. So a run that stopped
//! in the middle of an epoch goes on with the batch it would have had next ([`Position`]), and reads only the windows that are
//! left. While a window is used up the next ones are read: at most [`LoaderOptions::ahead`] + 2 windows are in memory.

mod feed;
mod order;

pub use feed::Feed;
pub(super) use order::permutation;

use crate::digest::hex;
use crate::random::RowKey;
use crate::tables::{Difference, LatentsReader, Provenance, Run, TableError, UnitFile};
use futures::{StreamExt, TryStreamExt};
use order::Window;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Footers read at a time.
const FOOTERS_IN_FLIGHT: usize = 16;

/// Why latents cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(
        "the latents at {path} were made by the tokenizer {found}, the chain is trained for {expected}: encode the dataset with \
         that tokenizer, or train for the other"
    )]
    OtherTokenizer { path: String, found: String, expected: String },
    #[error("the latents at {second} do not go with those at {first}: {}", list(differences))]
    Mixed { first: String, second: String, differences: Vec<Difference> },
    #[error("there are no latents to train on")]
    NoSource,
    #[error("{rows} rows of latents make no batch of {batch}: lower train.batch_size, or give more data")]
    TooFew { rows: u64, batch: usize },
    #[error("the loader stopped: {0}")]
    Stopped(String),
}

fn list(differences: &[Difference]) -> String {
    differences.iter().map(Difference::to_string).collect::<Vec<_>>().join("; ")
}

/// How rows become batches.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Of the order, and of the rows' random numbers.
    pub seed: u64,
    /// Rows of a batch.
    pub batch: usize,
    /// Rows that are shuffled together; a window ends with the row group that reaches them.
    pub window_rows: u64,
    /// Windows that are read ahead.
    pub ahead: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        LoaderOptions { seed: 0, batch: 1, window_rows: 1 << 16, ahead: 1 }
    }
}

/// A place in the sequence of batches: what a checkpoint keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub epoch: u64,
    /// Batches of the epoch before it.
    pub step: u64,
}

/// The rows of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub position: Position,
    /// Codebook indices, `[rows, tokens]` row-major.
    pub tokens: Vec<u16>,
    pub labels: Vec<Option<i32>>,
    pub captions: Vec<Option<Arc<str>>>,
    /// The random numbers of each row in this epoch: for its noise.
    pub rows: Vec<RowKey>,
}

impl Batch {
    fn new(position: Position) -> Batch {
        Batch { position, tokens: Vec::new(), labels: Vec::new(), captions: Vec::new(), rows: Vec::new() }
    }

    /// Its first `rows` rows.
    pub fn first(&self, rows: usize) -> Batch {
        let tokens = self.tokens.len() / self.len().max(1);
        Batch {
            position: self.position,
            tokens: self.tokens.iter().take(rows * tokens).copied().collect(),
            labels: self.labels.iter().take(rows).copied().collect(),
            captions: self.captions.iter().take(rows).cloned().collect(),
            rows: self.rows.iter().take(rows).copied().collect(),
        }
    }

    /// Rows in it.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// One row group of one file.
#[derive(Clone, Debug)]
struct Part {
    source: usize,
    file: UnitFile,
    group: usize,
}

/// All latents of a training run.
pub struct Loader {
    sources: Vec<LatentsReader>,
    parts: Vec<Part>,
    sizes: Vec<u64>,
    provenance: Provenance,
    options: LoaderOptions,
}

impl Loader {
    /// Opens the latents of all `sources`, which must be of the tokenizer with this fingerprint. Reads every file's footer.
    ///
    /// # Errors
    /// Latents of another tokenizer, or that do not fit one another; fewer rows than a batch; what the stores report.
    pub async fn open(
        sources: Vec<LatentsReader>,
        tokenizer: &str,
        options: LoaderOptions,
    ) -> Result<Loader, LoaderError> {
        let Some(first) = sources.first() else { return Err(LoaderError::NoSource) };
        for source in &sources {
            let found = &source.provenance().identity.tokenizer;
            if found != tokenizer {
                let (found, expected) = (found.clone(), tokenizer.to_owned());
                return Err(LoaderError::OtherTokenizer { path: source.place(), found, expected });
            }
            let differences = source.provenance().grid_difference(first.provenance());
            if !differences.is_empty() {
                let (first, second) = (first.place(), source.place());
                return Err(LoaderError::Mixed { first, second, differences });
            }
        }
        let (parts, sizes): (Vec<Part>, Vec<u64>) = parts(&sources).await?.into_iter().unzip();
        let provenance = first.provenance().clone();
        let loader = Loader { sources, parts, sizes, provenance, options };
        if loader.steps() == 0 {
            return Err(LoaderError::TooFew { rows: loader.rows(), batch: loader.options.batch });
        }
        Ok(loader)
    }

    /// The same latents in batches of `rows`.
    pub fn with_batch(mut self, rows: usize) -> Loader {
        self.options.batch = rows.max(1);
        self
    }

    /// Rows of all latents.
    pub fn rows(&self) -> u64 {
        self.sizes.iter().sum()
    }

    /// Whole batches of an epoch. The rows that are left over are others in every epoch.
    pub fn steps(&self) -> u64 {
        self.rows() / self.options.batch.max(1) as u64
    }

    /// What the order of rows and the rows themselves depend on: the identities of the latents and the sizes of their row
    /// groups. Hex SHA-256; where the latents lie is not in it.
    pub fn identity(&self) -> String {
        let mut hash = Sha256::new();
        for source in &self.sources {
            hash.update(source.provenance().identity.sha256());
        }
        self.sizes.iter().for_each(|size| hash.update(size.to_le_bytes()));
        hex(&hash.finalize())
    }

    /// What the first latents say of themselves. Grid and codebook are those of all.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Batches from `position` on, without end. Must be called on a tokio runtime, where the reading goes on.
    pub fn train(self: &Arc<Loader>, position: Position) -> Feed {
        Feed::start(self.clone(), position, Some(self.options.seed))
    }

    /// All rows once, in their own order, the last batch smaller where it must be: for validation.
    pub fn once(self: &Arc<Loader>) -> Feed {
        Feed::start(self.clone(), Position::default(), None)
    }

    fn windows(&self, seed: Option<u64>, epoch: u64) -> Vec<Window> {
        order::windows(&self.sizes, seed, epoch, self.options.window_rows)
    }

    /// Reads the rows of a window.
    async fn read(&self, window: &Window) -> Result<Rows, LoaderError> {
        let mut rows = Rows::default();
        for part in window.parts.iter().filter_map(|part| self.parts.get(*part)) {
            let Some(source) = self.sources.get(part.source) else { continue };
            let mut stream = source.file(&part.file).await?.rows_of_group(part.group)?;
            while let Some(row) = stream.try_next().await? {
                rows.tokens.extend_from_slice(&row.tokens);
                rows.labels.push(row.label);
                rows.captions.push(row.caption.map(Arc::from));
            }
        }
        Ok(rows)
    }
}

/// The rows of a window, in the order of its parts.
#[derive(Default)]
struct Rows {
    tokens: Vec<u16>,
    labels: Vec<Option<i32>>,
    captions: Vec<Option<Arc<str>>>,
}

/// Every row group of every file, in the order of sources, files and groups, with its size.
async fn parts(sources: &[LatentsReader]) -> Result<Vec<(Part, u64)>, LoaderError> {
    let of_source = |(at, source)| {
        let source: &LatentsReader = source;
        source.files().iter().map(move |file| parts_of(at, source, file))
    };
    let files: Vec<_> = sources.iter().enumerate().flat_map(of_source).collect();
    let all: Vec<Vec<(Part, u64)>> = futures::stream::iter(files).buffered(FOOTERS_IN_FLIGHT).try_collect().await?;
    Ok(all.into_iter().flatten().collect())
}

async fn parts_of(source: usize, reader: &LatentsReader, file: &UnitFile) -> Result<Vec<(Part, u64)>, LoaderError> {
    let groups = reader.file(file).await?.groups().into_iter().enumerate();
    Ok(groups.map(|(group, rows)| (Part { source, file: file.clone(), group }, rows)).collect())
}
