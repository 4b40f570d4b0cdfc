//! What every file says of itself, in the Parquet key-value metadata.

use super::identity::{Difference, Identity, differences};
use super::run::Run;
use super::{TableError, TableSchema, UnitFile};
use object_store::path::Path;
use parquet::file::metadata::KeyValue;
use std::collections::BTreeMap;
use std::str::FromStr;

const TABLE: &str = "imagebart.table";
const IDENTITY: &str = "imagebart.identity";
const IDENTITY_FIELDS: &str = "imagebart.identity.fields";
const TOKENIZER: &str = "imagebart.tokenizer";
const GRID: &str = "imagebart.grid";
const CODEBOOK_SIZE: &str = "imagebart.codebook_size";
const ROWS_PER_IMAGE: &str = "imagebart.rows_per_image";
const UNIT: &str = "imagebart.unit";
const RETRY: &str = "imagebart.retry";
const ROWS: &str = "imagebart.rows";
const SAMPLES: &str = "imagebart.samples";
const REJECTS: &str = "imagebart.rejects";
const CHECKSUM: &str = "imagebart.checksum";

/// What all files of one run have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance<I = Identity> {
    pub identity: I,
    /// Height and width of the token grid.
    pub grid: (u32, u32),
    /// K: every token is below it. At most 65536.
    pub codebook_size: u32,
    /// Crops times flips: the rows an image becomes. 1 in samples.
    pub rows_per_image: u32,
}

impl<I: Run> Provenance<I> {
    /// Tokens of a row: height times width of the grid.
    pub fn tokens(&self) -> usize {
        (self.grid.0 as usize).saturating_mul(self.grid.1 as usize)
    }

    /// Refuses a grid whose tokens the file at `path` cannot hold as u16.
    pub(crate) fn check_grid(&self, path: &Path) -> Result<(), TableError> {
        if self.tokens() > 0 && (1..=1 << 16).contains(&self.codebook_size) {
            return Ok(());
        }
        let ((height, width), codes) = (self.grid, self.codebook_size);
        Err(TableError::format(path, format!("a {height}x{width} grid over {codes} codes cannot be stored as u16")))
    }

    /// Every field in which `self` differs from `recorded`.
    pub fn difference(&self, recorded: &Provenance<I>) -> Vec<Difference> {
        let mut all = self.identity.difference(&recorded.identity);
        all.extend(differences(&self.facts(), &recorded.facts()));
        all
    }

    /// Every field of grid and codebook in which `self` differs from `recorded`: what must agree for the tokens of both to mean
    /// the same to one network.
    pub fn grid_difference(&self, recorded: &Provenance<I>) -> Vec<Difference> {
        let mut facts = [self.facts(), recorded.facts()];
        facts.iter_mut().for_each(|facts| drop(facts.remove("rows_per_image")));
        differences(&facts[0], &facts[1])
    }

    fn facts(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("grid".to_owned(), format!("{}x{}", self.grid.0, self.grid.1)),
            ("codebook_size".to_owned(), self.codebook_size.to_string()),
            ("rows_per_image".to_owned(), self.rows_per_image.to_string()),
        ])
    }

    /// What a file's metadata holds from its first byte on.
    pub(crate) fn to_metadata(&self, schema: &TableSchema, file: &UnitFile) -> Vec<KeyValue> {
        let mut all = [
            (TABLE, schema.id()),
            (IDENTITY, self.identity.sha256()),
            (IDENTITY_FIELDS, self.identity.canonical()),
            (TOKENIZER, self.identity.tokenizer().to_owned()),
            (GRID, format!("{}x{}", self.grid.0, self.grid.1)),
            (CODEBOOK_SIZE, self.codebook_size.to_string()),
            (ROWS_PER_IMAGE, self.rows_per_image.to_string()),
            (UNIT, file.unit.clone()),
        ]
        .map(|(key, value)| KeyValue::new(key.to_owned(), value))
        .to_vec();
        if file.retry > 0 {
            all.push(KeyValue::new(RETRY.to_owned(), file.retry.to_string()));
        }
        all
    }
}

/// Everything one file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo<I = Identity> {
    pub provenance: Provenance<I>,
    /// Which file of its work unit it is.
    pub file: UnitFile,
    /// Rows of this file.
    pub rows: u64,
    /// Samples that gave rows: distinct indexes of the file's latents, every row of samples.
    pub samples: u64,
    /// Rows of the rejects file beside it: what is left of the unit's rejects once this file's rows are taken.
    pub rejects: u64,
    /// SHA-256 hex over key, index and tokens of every row in order; see [`RowChecksum`](super::RowChecksum).
    /// None in files of the `rejects` table.
    pub checksum: Option<String>,
}

impl<I: Run> FileInfo<I> {
    /// What is known of a file only once its rows are written.
    pub(crate) fn totals(&self) -> Vec<KeyValue> {
        let counts = [(ROWS, self.rows), (SAMPLES, self.samples), (REJECTS, self.rejects)];
        let mut all: Vec<KeyValue> =
            counts.iter().map(|(key, count)| KeyValue::new((*key).to_owned(), count.to_string())).collect();
        all.extend(self.checksum.iter().map(|sum| KeyValue::new(CHECKSUM.to_owned(), sum.clone())));
        all
    }

    /// Reads what the file at `path` says of itself, and checks that it does not contradict itself.
    pub(crate) fn from_metadata(
        path: &Path,
        schema: &TableSchema,
        metadata: Option<&Vec<KeyValue>>,
    ) -> Result<FileInfo<I>, TableError> {
        let mut values = BTreeMap::new();
        for pair in metadata.into_iter().flatten() {
            if values.insert(pair.key.as_str(), pair.value.as_deref().unwrap_or_default()).is_some() {
                return Err(TableError::format(path, format!("the metadata has {} twice", pair.key)));
            }
        }
        let fields = Fields { path, values };
        let table = fields.text(TABLE)?;
        if table != schema.id() {
            let detail = format!("this is a file of the table {table}, not of {}", schema.id());
            return Err(TableError::format(path, detail));
        }
        let identity = fields.identity()?;
        let (height, width) = fields
            .text(GRID)?
            .split_once('x')
            .and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)))
            .ok_or_else(|| TableError::format(path, format!("{GRID} is not height x width")))?;
        let provenance = Provenance {
            identity,
            grid: (height, width),
            codebook_size: fields.number(CODEBOOK_SIZE)?,
            rows_per_image: fields.number(ROWS_PER_IMAGE)?,
        };
        Ok(FileInfo {
            provenance,
            file: UnitFile { unit: fields.text(UNIT)?.to_owned(), retry: fields.retry()? },
            rows: fields.number(ROWS)?,
            samples: fields.number(SAMPLES)?,
            rejects: fields.number(REJECTS)?,
            checksum: fields.values.get(CHECKSUM).map(|&sum| sum.to_owned()),
        })
    }
}

/// A file's key-value metadata.
struct Fields<'a> {
    path: &'a Path,
    values: BTreeMap<&'a str, &'a str>,
}

impl<'a> Fields<'a> {
    fn text(&self, key: &str) -> Result<&'a str, TableError> {
        let missing = || TableError::format(self.path, format!("the metadata lacks {key}: not a file of imagebart"));
        self.values.get(key).copied().ok_or_else(missing)
    }

    fn number<N: FromStr>(&self, key: &str) -> Result<N, TableError> {
        let text = self.text(key)?;
        text.parse().map_err(|_| TableError::format(self.path, format!("{key} is \"{text}\", not a number")))
    }

    /// Files of retries say which.
    fn retry(&self) -> Result<u32, TableError> {
        if self.values.contains_key(RETRY) { self.number(RETRY) } else { Ok(0) }
    }

    /// The identity in clear, which must agree with its hash and with the tokenizer's fingerprint beside it.
    fn identity<I: Run>(&self) -> Result<I, TableError> {
        let wrong = |detail: String| TableError::format(self.path, detail);
        let identity: I = serde_json::from_str(self.text(IDENTITY_FIELDS)?)
            .map_err(|error| wrong(format!("{IDENTITY_FIELDS} is not an identity of this version: {error}")))?;
        if identity.sha256() != self.text(IDENTITY)? {
            return Err(wrong(format!("{IDENTITY} is not the hash of {IDENTITY_FIELDS}")));
        }
        if identity.tokenizer() != self.text(TOKENIZER)? {
            return Err(wrong(format!("{TOKENIZER} is not the fingerprint in {IDENTITY_FIELDS}")));
        }
        Ok(identity)
    }
}
