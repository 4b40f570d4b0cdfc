//! TensorBoard's event files: records of TFRecord framing, each an `Event` (`tensorboard/compat/proto/event.proto` and
//! `summary.proto`, the fields that are used here).

use crate::datasets::masked_crc;
use bytes::Bytes;
use prost::Message;

/// What the first record of every file says.
const FILE_VERSION: &str = "brain.Event:2";
/// RGB, in the terms of `Summary.Image`.
const RGB: i32 = 3;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "bytes", tag = "4")]
    encoded_image_string: Bytes,
}

/// A picture of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub step: u64,
    /// An image file; PNG in journals of ours.
    pub file: Bytes,
    pub width: u32,
    pub height: u32,
}

/// What one record tells.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    Scalar(String, f64),
    Picture(String, Picture),
}

/// The records that a file begins with.
pub(super) fn opening(wall_time: f64) -> Vec<u8> {
    let mut file = Vec::new();
    frame(&Event { wall_time, file_version: Some(FILE_VERSION.to_owned()), ..Event::default() }, &mut file);
    file
}

/// Appends a record of scalars.
pub(super) fn scalars(wall_time: f64, step: u64, values: &[(&str, f64)], file: &mut Vec<u8>) {
    let value = |&(tag, value): &(&str, f64)| Value {
        tag: tag.to_owned(),
        simple_value: Some(value as f32),
        ..Value::default()
    };
    let summary = Summary { value: values.iter().map(value).collect() };
    frame(&Event { wall_time, step: signed(step), summary: Some(summary), ..Event::default() }, file);
}

/// Appends a record of a picture.
pub(super) fn image(wall_time: f64, tag: &str, picture: &Picture, file: &mut Vec<u8>) {
    let side = |pixels| i32::try_from(pixels).unwrap_or(i32::MAX);
    let image = Image {
        height: side(picture.height),
        width: side(picture.width),
        colorspace: RGB,
        encoded_image_string: picture.file.clone(),
    };
    let value = Value { tag: tag.to_owned(), image: Some(image), ..Value::default() };
    let summary = Some(Summary { value: vec![value] });
    frame(&Event { wall_time, step: signed(picture.step), summary, ..Event::default() }, file);
}

fn signed(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}

/// Appends a record: its length, the length's checksum, the message, the message's checksum.
fn frame(event: &Event, file: &mut Vec<u8>) {
    let message = event.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    file.extend_from_slice(&length);
    file.extend_from_slice(&masked_crc(&length).to_le_bytes());
    file.extend_from_slice(&message);
    file.extend_from_slice(&masked_crc(&message).to_le_bytes());
}

/// One record of a file.
#[derive(Debug)]
pub(super) struct Record {
    pub step: u64,
    pub told: Vec<Told>,
    /// The record as it stands in the file, framing included.
    pub bytes: Bytes,
}

/// The records of a file, in order. After a broken one nothing more is read: where the next begins is not known.
pub(super) struct Records {
    left: Bytes,
    broken: bool,
}

impl Records {
    pub fn of(file: Bytes) -> Records {
        Records { left: file, broken: false }
    }

    /// Takes the next record off the file; `None` where it is not whole and sound.
    fn take(&mut self) -> Option<Record> {
        let (length, rest) = self.left.split_first_chunk::<8>()?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        if masked_crc(length) != u32::from_le_bytes(*sum) {
            return None;
        }
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (message, rest) = rest.split_at_checked(length)?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        if masked_crc(message) != u32::from_le_bytes(*sum) {
            return None;
        }
        // Decoded from `Bytes`, so that pictures are parts of the file, not copies.
        let event = Event::decode(self.left.slice(12..12 + length)).ok()?;
        let bytes = self.left.split_to(self.left.len() - rest.len());
        let step = u64::try_from(event.step).unwrap_or(0);
        let values = event.summary.unwrap_or_default().value;
        Some(Record { step, told: values.into_iter().filter_map(|value| told(value, step)).collect(), bytes })
    }
}

impl Iterator for Records {
    /// The next record, or where the file is broken.
    type Item = Result<Record, Broken>;

    fn next(&mut self) -> Option<Result<Record, Broken>> {
        if self.broken || self.left.is_empty() {
            return None;
        }
        let record = self.take();
        self.broken = record.is_none();
        Some(record.ok_or(Broken { left: self.left.len() }))
    }
}

/// The rest of a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Bytes that were not read.
    pub left: usize,
}

fn told(value: Value, step: u64) -> Option<Told> {
    let Value { tag, simple_value, image } = value;
    let side = |pixels| u32::try_from(pixels).unwrap_or(0);
    match (simple_value, image) {
        (Some(value), _) => Some(Told::Scalar(tag, f64::from(value))),
        (None, Some(Image { height, width, encoded_image_string: file, .. })) => {
            Some(Told::Picture(tag, Picture { step, file, width: side(width), height: side(height) }))
        }
        (None, None) => None,
    }
}
