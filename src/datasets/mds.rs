//! The reader of MosaicML's streaming datasets. Its rules are told at [`Mds`].

use super::bitmap::{Order, bitmap};
use super::fields::{self, Problem, readable};
use super::listing::{Files, PARALLEL_HEADS, Wanted, head};
use super::mds_index::{Columns, Encoding, Index, Shard};
use super::open::DatasetOptions;
use super::plain::{Plain, PlainError};
use super::range_reader::{Object, RangeReader};
use super::store::Location;
use super::{DatasetError, Output, Reader, Sample, Source, Unit};
use crate::reject::Reason;
use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::OnceCell;

const INDEX: Wanted = Wanted { what: "MDS datasets (index.json)", extensions: &[".json"] };
const MAX_INDEX: u64 = 256 << 20;
/// How many samples a shard may have: their offsets are held.
const MAX_SAMPLES: u64 = 1 << 24;
/// What a sample may have beside its image.
const FIELDS: u64 = 4 << 20;

/// MosaicML's streaming format, MDS (FORMATS §6). Made by [`open()`](super::open()), or with [`Mds::new`] over a store of one's
/// own.
///
/// - The shards are those of every `index.json` under the location, in the order of the paths and of the index. A shard is a
///   work unit, named by its path relative to the root, and streamed: in memory are the offsets of its samples, the ranges
///   that are read ahead, and one sample.
/// - Shards may be compressed with zstd. Where both files are there, the compressed one is read.
/// - The image is the column `image`, else one named after its encoding, else the only one encoded as `jpeg`, `png` or `pil`;
///   the class is `label` or `cls`, the caption `txt`, `caption` or `text`, the key `key`, `__key__` or `name`, else the
///   sample's number in its shard. A `pkl` column is never decoded: where one of these is pickled, the dataset is refused.
/// - Every sample's place is in the shard's header, so that one that is damaged costs no other.
#[derive(Debug)]
pub struct Mds {
    files: Files,
    options: DatasetOptions,
    shards: OnceCell<Shards>,
}

#[derive(Debug)]
struct Shards {
    /// In the dataset's order.
    sources: Vec<Source>,
    by_path: HashMap<String, ShardFile>,
}

/// How to read a shard's file.
#[derive(Clone, Debug)]
struct ShardFile {
    zstd: bool,
    samples: u64,
    columns: Arc<Columns>,
}

impl Mds {
    /// A reader of the datasets at `location`; of `options` it uses labels, classes, captions, limits and read-ahead.
    pub fn new(location: Location, options: DatasetOptions) -> Mds {
        Mds { files: Files::new(location, INDEX), options, shards: OnceCell::new() }
    }

    async fn shards(&self) -> Result<&Shards, DatasetError> {
        self.shards.get_or_try_init(|| self.find()).await
    }

    async fn find(&self) -> Result<Shards, DatasetError> {
        let listing = self.files.listing().await?;
        let is_index = |file: &&Source| file.path.rsplit('/').next() == Some("index.json");
        let mut found = Shards { sources: Vec::new(), by_path: HashMap::new() };
        for file in listing.objects.iter().filter(is_index) {
            self.dataset(file, &mut found).await?;
        }
        if found.sources.is_empty() {
            let url = &self.files.location().url;
            return Err(DatasetError::Config(format!("no MDS shards at {url}: there is no index.json that names any")));
        }
        Ok(found)
    }

    /// Adds the shards of one index.
    async fn dataset(&self, file: &Source, found: &mut Shards) -> Result<(), DatasetError> {
        let wrong = |what: String| DatasetError::Config(format!("{} cannot be read: {what}", file.path));
        if file.size > MAX_INDEX {
            return Err(wrong(format!("it has {} bytes, more than {MAX_INDEX}", file.size)));
        }
        let bytes = self.files.open(file, &self.options.read_ahead).await?.get(0..file.size).await?;
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|error| wrong(format!("it is no MDS index ({error})")))?;
        if index.version != 2 {
            return Err(wrong(format!("it has version {}; only 2 is read", index.version)));
        }
        let directory = file.path.rsplit_once('/').map_or(String::new(), |(directory, _)| format!("{directory}/"));
        let mut shards = Vec::with_capacity(index.shards.len());
        for shard in &index.shards {
            shard.check().map_err(wrong)?;
            shards.push(Arc::new(shard.columns(&self.options).map_err(wrong)?));
        }
        let mut asked = Vec::with_capacity(shards.len());
        for shard in &index.shards {
            asked.push(self.file_of(shard, &directory));
        }
        let files: Vec<Result<(Source, bool), String>> =
            futures::stream::iter(asked).buffered(PARALLEL_HEADS).try_collect().await?;
        for ((file, shard), columns) in files.into_iter().zip(&index.shards).zip(shards) {
            let (source, zstd) = file.map_err(wrong)?;
            let how = ShardFile { zstd, samples: shard.samples, columns };
            if found.by_path.insert(source.path.clone(), how).is_some() {
                return Err(wrong(format!("the shard {} is named twice", source.path)));
            }
            found.sources.push(source);
        }
        Ok(())
    }

    /// The file to read of a shard, and whether it is compressed; else what is wrong.
    async fn file_of(&self, shard: &Shard, directory: &str) -> Result<Result<(Source, bool), String>, DatasetError> {
        let listing = self.files.listing().await?;
        let location = self.files.location();
        let zstd = shard.compression.as_deref().is_some_and(|name| name.split(':').next() == Some("zstd"));
        let packed = shard.zip_data.as_ref().filter(|_| zstd).map(|file| (&file.basename, true));
        for (name, zstd) in packed.into_iter().chain([(&shard.raw_data.basename, false)]) {
            let path = format!("{directory}{name}");
            let full = listing.location(&path)?.to_string();
            if let Some(meta) = head(Arc::new(location.clone()), full).await? {
                return Ok(Ok((Source { path, size: meta.size, etag: location.etag(&meta) }, zstd)));
            }
        }
        let raw = &shard.raw_data.basename;
        Ok(Err(match &shard.compression {
            Some(other) if !zstd => {
                format!("its shards are compressed with {other}; only zstd and uncompressed ones are read")
            }
            _ => format!("the shard {raw} that it names does not exist"),
        }))
    }

    async fn list_units(&self) -> Result<Vec<Unit>, DatasetError> {
        let unit = |source: &Source| Unit { name: source.path.clone(), sources: vec![source.clone()], range: None };
        Ok(self.shards().await?.sources.iter().map(unit).collect())
    }

    async fn read_shard(&self, unit: &Unit, out: &Output) -> Result<(), DatasetError> {
        let object = self.files.object(unit, &self.options.read_ahead).await?;
        let url = &self.files.location().url;
        let file = self.shards().await?.by_path.get(&unit.name);
        let file = file.ok_or_else(|| DatasetError::Config(format!("{} is no unit of {url}", unit.name)))?;
        let mut reading = Reading { unit, out, options: &self.options, file, index: 0 };
        match reading.read(object).await {
            Ok(()) => Ok(()),
            Err(PlainError::Dataset(error)) => Err(error),
            Err(error) => reading.broken(&error).await,
        }
    }
}

impl Reader for Mds {
    fn units(&self) -> BoxFuture<'_, Result<Vec<Unit>, DatasetError>> {
        Box::pin(self.list_units())
    }

    fn read<'a>(&'a self, unit: &'a Unit, out: &'a Output) -> BoxFuture<'a, Result<(), DatasetError>> {
        Box::pin(out.while_wanted(self.read_shard(unit, out)))
    }
}

/// One shard being read.
struct Reading<'a> {
    unit: &'a Unit,
    out: &'a Output,
    options: &'a DatasetOptions,
    file: &'a ShardFile,
    index: u64,
}

impl Reading<'_> {
    async fn read(&mut self, object: Object) -> Result<(), PlainError> {
        let size = object.size();
        if size == 0 {
            return Err(PlainError::Truncated);
        }
        let reader = RangeReader::new(object);
        let mut data = if self.file.zstd { Plain::zstd(reader)? } else { Plain::new(reader) };
        let offsets = self.offsets(&mut data).await?;
        for bounds in offsets.windows(2) {
            let (start, end) = (u64::from(bounds[0]), u64::from(bounds[1]));
            data.skip(start - data.position()).await?;
            let limit = self.options.max_bytes.saturating_add(FIELDS);
            let (key, result) = if end - start > limit {
                data.skip(end - start).await?;
                let message = format!("the sample has {} bytes, more than the limit of {limit}", end - start);
                (None, Err((Reason::TooLarge, message)))
            } else {
                self.sample(data.take(end - start).await?)
            };
            let (index, source) = (self.index, &self.unit.name);
            let key = key.unwrap_or_else(|| index.to_string());
            self.index += 1;
            match result {
                Ok(sample) => self.out.sample(Sample { key, index, source: source.clone(), ..sample }).await?,
                Err((reason, message)) => {
                    self.out.reject(self.unit, source, &key, index, reason, message).await?;
                }
            }
        }
        Ok(())
    }

    /// Where the samples start, and where the last one ends: ascending, and behind the header.
    async fn offsets(&self, data: &mut Plain) -> Result<Vec<u32>, PlainError> {
        let count = u64::from(data.take(4).await?.get_u32_le());
        if count != self.file.samples || count > MAX_SAMPLES {
            let listed = self.file.samples;
            let message = format!("its header says {count} samples, its index.json {listed} (at most {MAX_SAMPLES})");
            return Err(PlainError::Corrupt(message));
        }
        let mut bytes = data.take(4 * (count + 1)).await?;
        let mut offsets = Vec::with_capacity(bytes.len() / 4);
        while let Ok(offset) = bytes.try_get_u32_le() {
            offsets.push(offset);
        }
        let behind = offsets.first().is_some_and(|first| u64::from(*first) >= data.position());
        if !behind || !offsets.is_sorted() {
            return Err(PlainError::Corrupt("the places of its samples are not in order".to_owned()));
        }
        Ok(offsets)
    }

    /// Ends a shard that breaks here.
    async fn broken(&self, error: &PlainError) -> Result<(), DatasetError> {
        let source = &self.unit.name;
        let empty = self.unit.sources.iter().all(|source| source.size == 0);
        let (reason, message) = match error {
            _ if empty => (Reason::Empty, "the shard has no bytes".to_owned()),
            PlainError::Truncated => (Reason::Truncated, format!("{error}; what followed is lost")),
            _ => (Reason::CorruptContainer, format!("{error}; what follows cannot be trusted")),
        };
        tracing::warn!(shard = source, %error, "a broken shard");
        self.out.reject(self.unit, source, "", self.index, reason, message).await
    }

    /// The key, where there is one, and the sample or what is wrong with it.
    fn sample(&self, bytes: Bytes) -> (Option<String>, Result<Sample, Problem>) {
        let wanted = &self.file.columns;
        let Some(columns) = split(bytes, &wanted.sizes) else {
            let message = "the sizes of its columns do not add up to its own".to_owned();
            return (None, Err((Reason::DecodeError, message)));
        };
        let key = wanted.key.map(|at| readable(&columns[at]));
        let result = || {
            let image = self.image(&columns[wanted.image.0], wanted.image.1)?;
            let label = wanted.label.map(|(at, encoding)| self.label(&columns[at], encoding)).transpose()?;
            let caption = wanted.caption.map(|at| fields::caption(&columns[at], "caption")).transpose()?;
            Ok(Sample { source: String::new(), key: String::new(), index: 0, label, caption, image, original: None })
        };
        (key, result())
    }

    fn image(&self, column: &Bytes, encoding: Encoding) -> Result<Bytes, Problem> {
        fields::check_image(column.len() as u64, self.options)?;
        if encoding != Encoding::Pil {
            return Ok(column.clone());
        }
        let mut rest = column.clone();
        let mut number =
            || rest.try_get_u32_le().map_err(|_| (Reason::BadShape, "its pixels lack a header".to_owned()));
        let (width, height, length) = (number()?, number()?, number()? as usize);
        let mode = rest.split_to(length.min(rest.len()));
        let channels = match &mode[..] {
            b"RGB" => 3,
            b"L" => 1,
            other => {
                let message = format!(
                    "its pixels are of Pillow's mode {}; RGB and L are read",
                    readable(&other[..other.len().min(9)])
                );
                return Err((Reason::UnsupportedFormat, message));
            }
        };
        bitmap([channels, height.into(), width.into()], Order::Pixels, &rest, self.options.max_bytes)
    }

    fn label(&self, column: &Bytes, encoding: Encoding) -> Result<i32, Problem> {
        let number = match encoding {
            Encoding::Signed | Encoding::Unsigned => {
                let negative = encoding == Encoding::Signed && column.last().is_some_and(|byte| *byte >= 0x80);
                let mut bytes = [if negative { 0xff } else { 0 }; 16];
                let number = bytes.get_mut(..column.len()).map(|low| low.copy_from_slice(column));
                number.and_then(|()| i64::try_from(i128::from_le_bytes(bytes)).ok())
            }
            _ => std::str::from_utf8(column).ok().and_then(|text| text.trim().parse().ok()),
        };
        let number = number.ok_or_else(|| (Reason::BadLabel, "its label is not an integer".to_owned()))?;
        fields::label(number, self.options)
    }
}

/// A sample's columns; `None` when their sizes do not add up to its own.
fn split(mut sample: Bytes, sizes: &[Option<u32>]) -> Option<Vec<Bytes>> {
    let mut lengths = Vec::with_capacity(sizes.len());
    for size in sizes {
        lengths.push(match size {
            Some(size) => *size,
            None => sample.try_get_u32_le().ok()?,
        });
    }
    let total: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    (total == sample.len() as u64).then(|| lengths.into_iter().map(|length| sample.split_to(length as usize)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_follow_their_sizes() {
        let sample = Bytes::from_static(b"\x02\0\0\0\x01\0\0\0abXYZc");
        let columns = split(sample.clone(), &[None, Some(3), None]).unwrap();
        assert_eq!(columns, ["ab", "XYZ", "c"].map(Bytes::from));
        assert_eq!(split(sample.clone(), &[None, Some(2), None]), None);
        assert_eq!(split(sample.slice(..6), &[None, Some(2), None]), None);
        assert_eq!(split(Bytes::new(), &[]), Some(vec![]));
    }

    proptest! {
        #[test]
        fn no_sample_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = split(bytes.into(), &[None, Some(8), None]);
        }
    }
}
