//! From a pipeline's `[dataset]` section to a reader.

use super::folder::Folder;
use super::range_reader::ReadAhead;
use super::store::Location;
use super::webdataset::WebDataset;
use super::{DatasetError, Reader};
use std::str::FromStr;
use std::sync::Arc;

/// How a dataset lies on its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Image files in directories.
    Folder,
    /// Tar shards by WebDataset's naming rules.
    WebDataset,
}

impl Format {
    /// All formats with the names that pipelines give them.
    pub const ALL: [(&'static str, Format); 2] = [("folder", Format::Folder), ("webdataset", Format::WebDataset)];
}

impl FromStr for Format {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Format, DatasetError> {
        let known = Format::ALL.iter().find(|(known, _)| *known == name);
        let names = Format::ALL.map(|(known, _)| known).join(", ");
        known
            .map(|(_, format)| *format)
            .ok_or_else(|| DatasetError::Config(format!("dataset.format {name:?} is not known: use one of {names}")))
    }
}

/// Where classes come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Labels {
    /// What the format itself says: `cls` or the JSON's `label` in WebDataset, nothing in folders.
    #[default]
    Auto,
    /// Folders: the rank of the first directory's name among all of them, in bytewise order.
    Directory,
    /// No classes, even where there are some.
    None,
}

impl FromStr for Labels {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Labels, DatasetError> {
        match name {
            "auto" => Ok(Labels::Auto),
            "directory" => Ok(Labels::Directory),
            "none" => Ok(Labels::None),
            _ => Err(DatasetError::Config(format!("dataset.label {name:?} is not one of auto, directory, none"))),
        }
    }
}

/// Where captions come from. Folders have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Captions {
    /// WebDataset: `txt`, else the JSON's `caption`.
    #[default]
    Auto,
    /// No captions, even where there are some.
    None,
    /// This key of the JSON field.
    Json(String),
}

impl FromStr for Captions {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Captions, DatasetError> {
        match (name, name.strip_prefix("json.")) {
            ("auto", _) => Ok(Captions::Auto),
            ("none", _) => Ok(Captions::None),
            (_, Some(key)) if !key.is_empty() => Ok(Captions::Json(key.to_owned())),
            _ => Err(DatasetError::Config(format!("dataset.caption {name:?} is not one of auto, none, json.<key>"))),
        }
    }
}

/// What a reader needs to know besides format and URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetOptions {
    /// Folders: a URL or path of a file with one name per line; only these images are read.
    pub list: Option<String>,
    /// Where classes come from.
    pub labels: Labels,
    /// The number of classes, where known: labels not below it are `bad_label`.
    pub classes: Option<u32>,
    /// Where captions come from.
    pub captions: Captions,
    /// The largest encoded image, in bytes; larger ones are passed over and rejected as `too_large`.
    pub max_bytes: u64,
    /// Folders: how many images make a work unit. Part of the dataset's selection: other units have other names.
    pub unit_rows: u64,
    /// Folders: how many files are asked for at a time, and how many bytes of them wait at most.
    pub parallel_files: usize,
    pub ahead_bytes: u64,
    /// Archives: ranged GETs, their number and repetition.
    pub read_ahead: ReadAhead,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        DatasetOptions {
            list: None,
            labels: Labels::Auto,
            classes: None,
            captions: Captions::Auto,
            max_bytes: 64 << 20,
            unit_rows: 5000,
            parallel_files: 16,
            ahead_bytes: 32 << 20,
            read_ahead: ReadAhead::default(),
        }
    }
}

/// Opens a dataset. Fails before any work when the URL, the options or the credentials are wrong; whether anything lies there
/// is found by [`Reader::units`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use imagebart::datasets::{DatasetOptions, Format, open};
/// let reader = open(Format::WebDataset, "/data/shard-{0000..0003}.tar", DatasetOptions::default()).await?;
/// match reader.units().await {
///     Ok(units) => println!("{} shards", units.len()),
///     Err(error) => println!("{error}"), // 4 of the 4 objects that ... names do not exist: ...
/// }
/// # Ok::<(), imagebart::datasets::DatasetError>(()) }).unwrap();
/// ```
pub async fn open(format: Format, url: &str, options: DatasetOptions) -> Result<Arc<dyn Reader>, DatasetError> {
    check(format, &options)?;
    let location = Location::open(url).await?;
    Ok(match format {
        Format::Folder => Arc::new(Folder::new(location, options)),
        Format::WebDataset => Arc::new(WebDataset::new(location, options)),
    })
}

fn check(format: Format, options: &DatasetOptions) -> Result<(), DatasetError> {
    let refuse = |sentence: &str| Err(DatasetError::Config(sentence.to_owned()));
    match format {
        Format::WebDataset if options.list.is_some() => refuse("dataset.list works with format = \"folder\" only"),
        Format::WebDataset if options.labels == Labels::Directory => {
            refuse("dataset.label = \"directory\" works with format = \"folder\" only")
        }
        Format::Folder if options.unit_rows == 0 => refuse("dataset.unit_rows must be at least 1"),
        _ => Ok(()),
    }
}
