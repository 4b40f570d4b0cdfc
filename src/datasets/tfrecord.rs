//! TFRecord files of `tf.train.Example`: FFHQ's, and those that img2dataset writes. Their rules are told at [`TfRecord`].

use super::bitmap::{Order, bitmap};
use super::example::{Value, features};
use super::fields::{self, Problem, readable};
use super::finished::{self, Shards};
use super::lend::Chunk;
use super::listing::{Files, Wanted};
use super::open::DatasetOptions;
use super::range_reader::{Object, RangeReader};
use super::store::Location;
use super::{DatasetError, Output, Reader, Sample, Source, Unit};
use crate::reject::Reason;
use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::OnceCell;

const FILES: Wanted = Wanted { what: "TFRecord files", extensions: &[".tfrecords", ".tfrecord"] };
/// Length and its checksum; a checksum of the payload follows it.
const HEADER: u64 = 12;
const FRAMING: u64 = HEADER + 4;
/// What a record may have beside its image.
const FIELDS: u64 = 4 << 20;
/// How many files are looked into at a time when units are listed.
const PARALLEL_FILES: usize = 16;

/// What the records of a TFRecord file hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// `shape` and `data`: raw pixels `[channels, height, width]` of 8 bits, 1 or 3 channels, as in FFHQ's `ffhq-rNN.tfrecords`.
    RawPixels,
    /// An encoded image named after its encoding, `key`, `txt`, ..., as img2dataset writes them.
    Img2dataset,
}

/// TFRecord files (FORMATS §2, §5). Made by [`open()`](super::open()), or with [`TfRecord::new`] over a store of one's own.
///
/// - A file is a work unit. Where all its records have one size, as in FFHQ, and there are more than `unit_rows`, a unit is a
///   block of that many: `ffhq-r08.tfrecords@000005000-000010000`. That they have is told by the first header and one header
///   per block, 12 bytes each: each must lie where it would, with a good checksum. Files of records of several sizes are
///   never walked for their boundaries, which would take a request per record: they are units as a whole.
/// - Both checksums of each record are checked. A record whose data is damaged is rejected and the next one read; where a
///   length is damaged, or more than is left of the file, one reject stands for the rest.
/// - A sample's key is `key`, else the number of the record in its file. Raw pixels become a BMP, gray ones with three equal
///   channels, since a sample's image is a file.
/// - Of img2dataset's shards, those without a `_stats.json` beside them are unfinished and passed over. They hold no failed
///   rows.
#[derive(Debug)]
pub struct TfRecord {
    files: Files,
    shards: OnceCell<Shards>,
    records: Records,
    options: DatasetOptions,
}

impl TfRecord {
    /// A reader of the files at `location`; of `options` it uses labels, classes, captions, limits, unit rows and read-ahead.
    pub fn new(location: Location, records: Records, options: DatasetOptions) -> TfRecord {
        TfRecord { files: Files::with(location, FILES, finished::BESIDE), shards: OnceCell::new(), records, options }
    }

    async fn shards(&self) -> Result<&Shards, DatasetError> {
        let find = || async {
            match self.records {
                Records::RawPixels => {
                    Ok(Shards { finished: self.files.listing().await?.objects.clone(), unfinished: Vec::new() })
                }
                Records::Img2dataset => finished::required(&self.files).await,
            }
        };
        self.shards.get_or_try_init(find).await
    }

    async fn list_units(&self) -> Result<Vec<Unit>, DatasetError> {
        let units = self.shards().await?.finished.clone().into_iter().map(|file| self.units_of(file));
        let units: Vec<Vec<Unit>> = futures::stream::iter(units).buffered(PARALLEL_FILES).try_collect().await?;
        Ok(units.concat())
    }

    async fn units_of(&self, file: Source) -> Result<Vec<Unit>, DatasetError> {
        let object = self.files.open(&file, &self.options.read_ahead).await?;
        let rows = self.options.unit_rows.max(1);
        let whole = |file: Source| Unit { name: file.path.clone(), sources: vec![file], range: None };
        let Some(blocks) = self.blocks(&object, rows).await? else { return Ok(vec![whole(file)]) };
        let mut units = Vec::new();
        for start in (0..blocks).step_by(usize::try_from(rows).unwrap_or(usize::MAX)) {
            let end = start.saturating_add(rows).min(blocks);
            let name = format!("{}@{start:09}-{end:09}", file.path);
            units.push(Unit { name, sources: vec![file.clone()], range: Some(start..end) });
        }
        Ok(units)
    }

    /// The number of records, where all have one size and make more than one unit.
    async fn blocks(&self, object: &Object, rows: u64) -> Result<Option<u64>, DatasetError> {
        // img2dataset's records have their images' sizes, and its shards are small.
        if self.records == Records::Img2dataset {
            return Ok(None);
        }
        let Some(stride) = stride(object, 0).await? else { return Ok(None) };
        // A record that is cut off at the end belongs to the last block.
        let count = object.size().div_ceil(stride);
        if count <= rows {
            return Ok(None);
        }
        for record in (rows..count).step_by(usize::try_from(rows).unwrap_or(usize::MAX)) {
            let here = record * stride;
            if here + HEADER <= object.size() && self::stride(object, here).await? != Some(stride) {
                return Ok(None);
            }
        }
        Ok(Some(count))
    }

    async fn read_unit(&self, unit: &Unit, out: &Output) -> Result<(), DatasetError> {
        let object = self.files.object(unit, &self.options.read_ahead).await?;
        let size = object.size();
        let (mut part, mut first, mut last) = (0..size, 0, true);
        if let Some(records) = &unit.range {
            let detail = || DatasetError::Config(format!("{} is no unit of {}", unit.name, self.files.location().url));
            let stride = stride(&object, 0).await?.ok_or_else(detail)?;
            let end = records.end.checked_mul(stride).ok_or_else(detail)?;
            (part, first, last) = (records.start * stride..end.min(size), records.start, end >= size);
        }
        let source = unit.sources.first().map_or(unit.name.as_str(), |source| source.path.as_str());
        let reader = RangeReader::within(object, part.clone());
        let (position, end, buffer) = (part.start, part.end, Chunk::default());
        let frames = Frames { reader, buffer, position, end };
        File { frames, reader: self, unit, source, out, first, last, index: 0 }.read().await
    }
}

impl Reader for TfRecord {
    fn units(&self) -> BoxFuture<'_, Result<Vec<Unit>, DatasetError>> {
        Box::pin(self.list_units())
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<String>, DatasetError>> {
        Box::pin(async { Ok(self.shards().await?.unfinished.clone()) })
    }

    fn read<'a>(&'a self, unit: &'a Unit, out: &'a Output) -> BoxFuture<'a, Result<(), DatasetError>> {
        Box::pin(out.while_wanted(self.read_unit(unit, out)))
    }
}

/// The checksum as TFRecord stores it.
pub(crate) fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The length that a header tells, if its checksum fits.
fn length(mut header: &[u8]) -> Option<u64> {
    let sum = masked_crc(header.get(..8)?);
    let length = header.get_u64_le();
    (header.try_get_u32_le() == Ok(sum)).then_some(length)
}

/// How many bytes the record at `position` takes, framing included; `None` when there is no good header.
async fn stride(object: &Object, position: u64) -> Result<Option<u64>, DatasetError> {
    if position.saturating_add(HEADER) > object.size() {
        return Ok(None);
    }
    let header = object.get(position..position + HEADER).await?;
    Ok(length(&header).and_then(|length| length.checked_add(FRAMING)))
}

/// What comes next in a file.
enum Frame {
    /// A record's payload.
    Record(Bytes),
    /// A record that cannot be used; the next one can be read.
    Bad(Reason, String),
    /// Nothing can be read from here on.
    Lost(Reason, String),
    End,
}

/// The framing of a file, or of a part of one.
struct Frames {
    reader: RangeReader,
    /// Bytes that were fetched but not read yet.
    buffer: Chunk,
    position: u64,
    end: u64,
}

impl Frames {
    async fn next(&mut self, max_bytes: u64) -> Result<Frame, DatasetError> {
        let left = self.end - self.position;
        if left == 0 {
            return Ok(Frame::End);
        }
        if left < HEADER {
            let message = format!("the file ends within a record's header, {left} bytes after its start");
            return Ok(Frame::Lost(Reason::Truncated, message));
        }
        let at = self.position;
        let header = self.take(HEADER).await?;
        let Some(length) = length(&header) else {
            return Ok(match &header[..] {
                [0x1f, 0x8b, ..] if at == 0 => {
                    let message = "it is compressed with gzip; unpack it first".to_owned();
                    Frame::Lost(Reason::UnsupportedFormat, message)
                }
                _ => Frame::Lost(Reason::CrcMismatch, format!("the checksum of the length at byte {at} does not fit")),
            });
        };
        let left = self.end - self.position;
        if length.checked_add(4).is_none_or(|needed| needed > left) {
            let message = format!("the record at byte {at} has {length} bytes, but the file ends before");
            return Ok(Frame::Lost(Reason::Truncated, message));
        }
        if length > max_bytes {
            self.skip(length + 4);
            let message = format!("the record has {length} bytes, more than the limit of {max_bytes}");
            return Ok(Frame::Bad(Reason::TooLarge, message));
        }
        let mut payload = self.take(length + 4).await?;
        let mut sum = payload.split_off(payload.len() - 4);
        if masked_crc(&payload) != sum.get_u32_le() {
            return Ok(Frame::Bad(
                Reason::CrcMismatch,
                format!("the checksum of the record at byte {at} does not fit"),
            ));
        }
        Ok(Frame::Record(payload))
    }

    /// The next `count` bytes, which must be there.
    async fn take(&mut self, count: u64) -> Result<Bytes, DatasetError> {
        self.position += count;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if self.buffer.rest().is_empty() {
            self.fill().await?;
        }
        if self.buffer.rest().len() >= count {
            return Ok(self.buffer.take(count, self.reader.lender()));
        }
        // In reach, as the caller has checked.
        let mut taken = Vec::with_capacity(count);
        loop {
            let rest = self.buffer.rest();
            let n = rest.len().min(count - taken.len());
            taken.extend_from_slice(&rest[..n]);
            self.buffer.skip(n);
            if taken.len() == count {
                return Ok(taken.into());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), DatasetError> {
        let chunk = self.reader.chunk().await?;
        // The object's size is checked with each answer: it does not happen that there is none.
        let chunk = chunk.ok_or_else(|| DatasetError::Config("a file ended before its size".to_owned()))?;
        self.buffer = Chunk::new(chunk);
        Ok(())
    }

    fn skip(&mut self, count: u64) {
        self.position += count;
        let held = self.buffer.skip(usize::try_from(count).unwrap_or(usize::MAX));
        self.reader.skip(count - held as u64);
    }
}

/// One file, or block of records, being read.
struct File<'a> {
    frames: Frames,
    reader: &'a TfRecord,
    unit: &'a Unit,
    source: &'a str,
    out: &'a Output,
    /// The number of the unit's first record in its file.
    first: u64,
    /// Whether the unit holds the file's end.
    last: bool,
    index: u64,
}

impl File<'_> {
    async fn read(&mut self) -> Result<(), DatasetError> {
        if self.frames.end == 0 {
            return self.lost(Reason::Empty, "the file has no bytes".to_owned()).await;
        }
        let limit = self.reader.options.max_bytes.saturating_add(FIELDS);
        loop {
            let number = (self.first + self.index).to_string();
            let (key, result) = match self.frames.next(limit).await? {
                Frame::End => return Ok(()),
                Frame::Lost(reason, message) if self.last || reason != Reason::Truncated => {
                    return self.lost(reason, message).await;
                }
                // A block whose last record reaches into the next one: its file's records do not have one size after all.
                Frame::Lost(_, message) => return self.lost(Reason::CorruptContainer, message).await,
                Frame::Bad(reason, message) => (number, Err((reason, message))),
                Frame::Record(payload) => self.sample(payload, number),
            };
            let index = self.index;
            self.index += 1;
            match result {
                Ok(sample) => self.out.sample(Sample { key, index, ..sample }).await?,
                Err((reason, message)) => {
                    self.out.reject(self.unit, self.source, &key, index, reason, message).await?;
                }
            }
        }
    }

    async fn lost(&self, reason: Reason, message: String) -> Result<(), DatasetError> {
        tracing::warn!(file = self.source, unit = self.unit.name, %reason, message, "a broken TFRecord file");
        self.out.reject(self.unit, self.source, "", self.index, reason, message).await
    }

    /// The key of a record, and its sample or what is wrong with it.
    fn sample(&self, payload: Bytes, number: String) -> (String, Result<Sample, Problem>) {
        let options = &self.reader.options;
        let (captions, labels) = (fields::caption_names(options), fields::label_names(options));
        let images = &fields::IMAGES[..];
        let raw = ["shape", "data"];
        let sizes = if options.original_sizes { &fields::ORIGINAL[..] } else { &[] };
        let wanted: Vec<&str> = [&raw[..], images, &fields::KEYS, labels, &captions, sizes].concat();
        let mut found = match features(payload, &wanted) {
            Ok(found) => found.into_iter(),
            Err(error) => {
                let message = format!("the record is no tf.train.Example ({error})");
                return (number, Err((Reason::DecodeError, message)));
            }
        };
        let mut take = |n: usize| found.by_ref().take(n).collect::<Vec<_>>();
        let (raw, images) = (take(2), take(images.len()));
        let (keys, labels, captions) = (take(fields::KEYS.len()), take(labels.len()), take(captions.len()));
        let mut sizes = take(sizes.len()).into_iter().map(integer);
        let key = keys.into_iter().find_map(bytes).map_or(number, |key| readable(&key));
        let result = || {
            let image = match self.reader.records {
                Records::RawPixels => self.pixels(raw)?,
                Records::Img2dataset => self.encoded(images)?,
            };
            let label = labels.into_iter().flatten().next().map(|value| self.label(value)).transpose()?.flatten();
            let caption = captions.into_iter().find_map(bytes);
            let caption = caption.map(|text| fields::caption(&text, "caption")).transpose()?;
            let original = fields::size(sizes.next().flatten(), sizes.next().flatten());
            Ok(Sample { source: self.source.to_owned(), key: String::new(), index: 0, label, caption, image, original })
        };
        (key, result())
    }

    fn pixels(&self, raw: Vec<Option<Value>>) -> Result<Bytes, Problem> {
        let mut raw = raw.into_iter();
        let (shape, data) = (raw.next().flatten(), raw.next().flatten());
        let missing = |field: &str| (Reason::MissingField, format!("it has no {field}"));
        let Some(Value::Bytes(data)) = data else { return Err(missing("data")) };
        let Some(Value::Integers(shape)) = shape else { return Err(missing("shape")) };
        let shape: [i64; 3] = shape.try_into().map_err(|shape: Vec<i64>| {
            (Reason::BadShape, format!("its shape has {} numbers, not channels, height and width", shape.len()))
        })?;
        bitmap(shape, Order::Planes, &data, self.reader.options.max_bytes)
    }

    fn encoded(&self, images: Vec<Option<Value>>) -> Result<Bytes, Problem> {
        let image = images.into_iter().find_map(bytes);
        let image = image.ok_or_else(|| (Reason::MissingField, "it has no image (jpg, png, webp, ...)".to_owned()))?;
        fields::check_image(image.len() as u64, &self.reader.options)?;
        Ok(image)
    }

    /// A class as an integer, or as decimal digits; img2dataset writes an empty string where there is none.
    fn label(&self, value: Value) -> Result<Option<i32>, Problem> {
        let number = match &value {
            Value::Integers(list) => list.first().copied().filter(|_| list.len() == 1),
            Value::Bytes(text) if text.is_empty() => return Ok(None),
            Value::Bytes(text) => std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()),
            Value::Other => None,
        };
        let number = number.ok_or_else(|| (Reason::BadLabel, "its label is not one integer".to_owned()))?;
        fields::label(number, &self.reader.options).map(Some)
    }
}

fn integer(value: Option<Value>) -> Option<i64> {
    match value {
        Some(Value::Integers(list)) => list.first().copied().filter(|_| list.len() == 1),
        _ => None,
    }
}

fn bytes(value: Option<Value>) -> Option<Bytes> {
    match value {
        Some(Value::Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}
