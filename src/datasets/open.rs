//! From a pipeline's `[dataset]` section to a reader.

use super::folder::Folder;
use super::imagenet_split::Split;
use super::imagenet_synsets::CLASSES;
use super::imagenet_tar::ImageNetTar;
use super::lsun_lmdb::LsunLmdb;
use super::mds::Mds;
use super::parquet::{ParquetImages, Table};
use super::range_reader::ReadAhead;
use super::store::Location;
use super::stylegan_zip::StyleGanZip;
use super::tfrecord::{Records, TfRecord};
use super::webdataset::WebDataset;
use super::{DatasetError, Reader};
use std::str::FromStr;
use std::sync::Arc;

/// How a dataset lies on its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Image files in directories.
    Folder,
    /// ImageNet's own archives, of synsets' archives or of images.
    ImageNetTar,
    /// ImageNet's images in directories named by wnids, or beside a mapping.
    ImageNetFolder,
    /// Tar shards by WebDataset's naming rules.
    WebDataset,
    /// TFRecord files of raw pixels, as FFHQ's.
    FfhqTfRecord,
    /// img2dataset's TFRecord shards.
    Img2datasetTfRecord,
    /// MosaicML's streaming shards.
    Mds,
    /// Zip archives of StyleGAN2-ADA and EDM.
    StyleGanZip,
    /// Parquet files of Hugging Face `datasets`.
    HfParquet,
    /// img2dataset's Parquet shards.
    Img2datasetParquet,
    /// LMDB databases of encoded images, as LSUN's.
    LsunLmdb,
}

impl Format {
    /// All formats with the names that pipelines give them.
    pub const ALL: [(&'static str, Format); 11] = [
        ("folder", Format::Folder),
        ("imagenet-tar", Format::ImageNetTar),
        ("imagenet-folder", Format::ImageNetFolder),
        ("webdataset", Format::WebDataset),
        ("ffhq-tfrecord", Format::FfhqTfRecord),
        ("img2dataset-tfrecord", Format::Img2datasetTfRecord),
        ("mds", Format::Mds),
        ("stylegan-zip", Format::StyleGanZip),
        ("hf-parquet", Format::HfParquet),
        ("img2dataset-parquet", Format::Img2datasetParquet),
        ("lsun-lmdb", Format::LsunLmdb),
    ];
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
    /// What the format itself says: `cls` or the JSON's `label` in WebDataset, a column or field `label` or `cls` in tables,
    /// `dataset.json` in zip archives, synsets in ImageNet, nothing in folders and LMDBs.
    #[default]
    Auto,
    /// Folders: the rank of the first directory's name among all of them, in bytewise order. LMDBs: that of the database's
    /// name.
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
            _ => Err(DatasetError::Config(format!("dataset.labels {name:?} is not one of auto, directory, none"))),
        }
    }
}

/// Where captions come from. Zip archives and LMDBs have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Captions {
    /// WebDataset: `txt`, else the JSON's `caption`; folders: those of the `.txt` and `.json` files beside an image; tables: the
    /// column or field `txt`, `caption` or `text`.
    #[default]
    Auto,
    /// No captions, even where there are some.
    None,
    /// This key of the JSON field; in tables, which hold the same values as columns or fields, the column of this name.
    Json(String),
}

impl FromStr for Captions {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Captions, DatasetError> {
        match (name, name.strip_prefix("json.")) {
            ("auto", _) => Ok(Captions::Auto),
            ("none", _) => Ok(Captions::None),
            (_, Some(key)) if !key.is_empty() => Ok(Captions::Json(key.to_owned())),
            _ => Err(DatasetError::Config(format!("dataset.captions {name:?} is not one of auto, none, json.<key>"))),
        }
    }
}

/// What a reader needs to know besides format and URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetOptions {
    /// Folders (ImageNet's too), zip archives and LMDBs: a URL or path of a file with one name per line, or of FFHQ's metadata and
    /// a category of it (`ffhq-dataset-v2.json#training`); only these images are read.
    pub list: Option<String>,
    /// ImageNet: a URL or path of a file, or of several joined with `::`, that tells the classes of validation images: see
    /// [`Mapping`](super::Mapping).
    pub mapping: Option<String>,
    /// ImageNet: which images to read, where training and validation images lie side by side.
    pub split: Option<Split>,
    /// A URL or path of a directory for what took many requests to find out about large files: read by
    /// [`Reader::units`], written by [`Reader::keep`].
    pub index: Option<String>,
    /// Where classes come from.
    pub labels: Labels,
    /// The number of classes, where known: labels not below it are `bad_label`.
    pub classes: Option<u32>,
    /// Where captions come from.
    pub captions: Captions,
    /// Whether [`Sample::original`](super::Sample::original) is wanted, which takes reading JSON files and fields.
    pub original_sizes: bool,
    /// The largest encoded image, in bytes; larger ones are passed over and rejected as `too_large`. A page of a Parquet file,
    /// which holds many, may have 16 times as many.
    pub max_bytes: u64,
    /// How many images make a work unit, where a unit is a block of files or a slice of a file. Part of the dataset's
    /// selection: other units have other names.
    pub unit_rows: u64,
    /// Folders and LMDBs: how many images are asked for at a time, and how many bytes of them wait at most.
    pub parallel_files: usize,
    pub ahead_bytes: u64,
    /// All but folders: ranged GETs, their number and repetition.
    pub read_ahead: ReadAhead,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        DatasetOptions {
            list: None,
            mapping: None,
            split: None,
            index: None,
            labels: Labels::Auto,
            classes: None,
            captions: Captions::Auto,
            original_sizes: false,
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
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
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
        Format::ImageNetTar => Arc::new(ImageNetTar::new(location, options)),
        Format::ImageNetFolder => Arc::new(Folder::imagenet(location, options)),
        Format::WebDataset => Arc::new(WebDataset::new(location, options)),
        Format::FfhqTfRecord => Arc::new(TfRecord::new(location, Records::RawPixels, options)),
        Format::Img2datasetTfRecord => Arc::new(TfRecord::new(location, Records::Img2dataset, options)),
        Format::Mds => Arc::new(Mds::new(location, options)),
        Format::StyleGanZip => Arc::new(StyleGanZip::new(location, options)),
        Format::HfParquet => Arc::new(ParquetImages::new(location, Table::HuggingFace, options)),
        Format::Img2datasetParquet => Arc::new(ParquetImages::new(location, Table::Img2dataset, options)),
        Format::LsunLmdb => Arc::new(LsunLmdb::new(location, options)),
    })
}

fn check(format: Format, options: &DatasetOptions) -> Result<(), DatasetError> {
    let refuse = |sentence: &str| Err(DatasetError::Config(sentence.to_owned()));
    let imagenet = matches!(format, Format::ImageNetTar | Format::ImageNetFolder);
    let has_names = matches!(format, Format::Folder | Format::ImageNetFolder | Format::StyleGanZip | Format::LsunLmdb);
    if !has_names && options.list.is_some() {
        return refuse(
            "dataset.list works with format = \"folder\", \"imagenet-folder\", \"stylegan-zip\" and \"lsun-lmdb\" only: other \
             formats have no names to choose by",
        );
    }
    if !imagenet && (options.mapping.is_some() || options.split.is_some()) {
        return refuse("dataset.mapping and dataset.split work with \"imagenet-tar\" and \"imagenet-folder\" only");
    }
    if imagenet && options.labels != Labels::None && options.classes.is_some_and(|classes| classes < CLASSES) {
        return refuse("dataset.classes must be 1000: ImageNet's classes are ranks among all 1000 synsets");
    }
    if !matches!(format, Format::Folder | Format::LsunLmdb) && options.labels == Labels::Directory {
        return refuse("dataset.labels = \"directory\" works with format = \"folder\" and \"lsun-lmdb\" only");
    }
    if options.unit_rows == 0 {
        return refuse("dataset.unit_rows must be at least 1");
    }
    Ok(())
}
