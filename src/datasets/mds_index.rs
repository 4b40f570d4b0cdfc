//! MDS: `index.json`, and which columns of a shard are read (FORMATS §6).

use super::fields;
use super::open::DatasetOptions;
use super::samples::is_unsafe;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(super) struct Index {
    pub(super) version: u32,
    pub(super) shards: Vec<Shard>,
}

/// What the index says of a shard.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Shard {
    pub(super) format: String,
    pub(super) column_names: Vec<String>,
    pub(super) column_encodings: Vec<String>,
    /// `None`: each sample tells.
    pub(super) column_sizes: Vec<Option<u32>>,
    pub(super) compression: Option<String>,
    pub(super) samples: u64,
    pub(super) raw_data: FileInfo,
    pub(super) zip_data: Option<FileInfo>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct FileInfo {
    pub(super) basename: String,
}

/// How a column's bytes are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// An image file, or any other bytes.
    Bytes,
    /// Raw pixels behind width, height and mode, as Pillow holds them.
    Pil,
    Text,
    /// Decimal digits.
    Digits,
    Signed,
    Unsigned,
}

/// The columns that are read, by their place among all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) image: (usize, Encoding),
    pub(super) label: Option<(usize, Encoding)>,
    pub(super) caption: Option<usize>,
    pub(super) key: Option<usize>,
    pub(super) sizes: Vec<Option<u32>>,
}

/// An encoding without its parameters: `jpeg:90` is `jpeg`.
fn kind(encoding: &str) -> &str {
    encoding.split(':').next().unwrap_or_default()
}

fn image_encoding(encoding: &str) -> Option<Encoding> {
    match kind(encoding) {
        "bytes" | "jpeg" | "png" => Some(Encoding::Bytes),
        "pil" => Some(Encoding::Pil),
        _ => None,
    }
}

fn label_encoding(encoding: &str) -> Option<Encoding> {
    match kind(encoding) {
        "int" | "int8" | "int16" | "int32" | "int64" => Some(Encoding::Signed),
        "uint8" | "uint16" | "uint32" | "uint64" => Some(Encoding::Unsigned),
        "str" | "str_int" => Some(Encoding::Digits),
        _ => None,
    }
}

impl Shard {
    /// What is wrong with what the index says of this shard, as the end of a sentence.
    pub(super) fn check(&self) -> Result<(), String> {
        let columns = self.column_names.len();
        if self.format != "mds" {
            return Err(format!("it has shards of format {:?}; only \"mds\" is read", self.format));
        }
        if columns != self.column_encodings.len() || columns != self.column_sizes.len() {
            return Err("its lists of columns have several lengths".to_owned());
        }
        let files = [Some(&self.raw_data), self.zip_data.as_ref()];
        match files.into_iter().flatten().find(|file| is_unsafe(&file.basename) || file.basename.is_empty()) {
            Some(file) => Err(format!("it names the shard {:?}, which points elsewhere", file.basename)),
            None => Ok(()),
        }
    }

    /// The columns to read, or the end of a sentence that says what to do.
    pub(super) fn columns(&self, options: &DatasetOptions) -> Result<Columns, String> {
        let label = match self.named(fields::label_names(options)) {
            Some(at) => Some((at, self.encoding(at, label_encoding, "set dataset.labels = \"none\"")?)),
            None => None,
        };
        let text = |encoding: &str| (kind(encoding) == "str").then_some(Encoding::Text);
        let caption = self.named(&fields::caption_names(options));
        if let Some(at) = caption {
            self.encoding(at, text, "set dataset.captions = \"none\"")?;
        }
        let key = self.named(&fields::KEYS).filter(|at| kind(&self.column_encodings[*at]) == "str");
        Ok(Columns { image: self.image()?, label, caption, key, sizes: self.column_sizes.clone() })
    }

    /// The image: by name, else the only column that is encoded as one.
    fn image(&self) -> Result<(usize, Encoding), String> {
        if let Some(at) = self.named(&fields::IMAGES) {
            return Ok((at, self.encoding(at, image_encoding, "write images as bytes, jpeg or png")?));
        }
        let mut encoded = (0..self.column_names.len()).filter_map(|at| {
            let encoding = &self.column_encodings[at];
            image_encoding(encoding).filter(|_| kind(encoding) != "bytes").map(|encoding| (at, encoding))
        });
        let found = encoded.next().filter(|_| encoded.next().is_none());
        found.ok_or_else(|| {
            let columns: Vec<String> =
                self.column_names.iter().zip(&self.column_encodings).map(|(name, e)| format!("{name} ({e})")).collect();
            format!("none of its columns is called image, nor is exactly one an image: {}", columns.join(", "))
        })
    }

    fn named(&self, names: &[&str]) -> Option<usize> {
        names.iter().find_map(|name| self.column_names.iter().position(|column| column == name))
    }

    fn encoding(&self, at: usize, known: impl Fn(&str) -> Option<Encoding>, remedy: &str) -> Result<Encoding, String> {
        let (name, encoding) = (&self.column_names[at], &self.column_encodings[at]);
        known(encoding).ok_or_else(|| match kind(encoding) {
            "pkl" => format!("its column {name} is pickled, and a pickle can run any code: {remedy}"),
            _ => format!("its column {name} is encoded as {encoding}, which is not read for that: {remedy}"),
        })
    }
}
