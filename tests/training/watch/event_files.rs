//! A reader of event files that shares nothing with the writer: TFRecord's framing and TensorBoard's messages by their
//! specifications.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 4, 5")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(bytes, tag = "4")]
    GraphDef(Vec<u8>),
    #[prost(message, tag = "5")]
    Summary(Summary),
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
    #[prost(oneof = "Content", tags = "2, 4")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// What a value tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Scalar(f32),
    /// File, width, height.
    Picture(Vec<u8>, i32, i32),
}

/// CRC-32C bit by bit, masked as TFRecord masks it.
fn masked(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Step, name and content of every value of a file.
///
/// # Panics
/// Bytes that are not a whole event file.
pub fn read(mut file: &[u8]) -> Vec<(i64, String, Told)> {
    let mut take = |count: usize| {
        let (head, rest) = file.split_at_checked(count)?;
        file = rest;
        Some(head)
    };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let (mut told, mut events) = (Vec::new(), 0);
    while let Some(length) = take(8) {
        assert_eq!(number(take(4).unwrap()), u64::from(masked(length)));
        let message = take(number(length) as usize).unwrap();
        assert_eq!(number(take(4).unwrap()), u64::from(masked(message)));
        let event = Event::decode(message).unwrap();
        assert!(event.wall_time > 1.7e9 && event.wall_time < 1e11, "seconds since 1970: {}", event.wall_time);
        match event.what.unwrap() {
            What::FileVersion(version) => assert_eq!((events, version.as_str()), (0, "brain.Event:2")),
            What::Summary(summary) => {
                assert_ne!(events, 0, "the first event tells the version");
                told.extend(summary.value.into_iter().map(|Value { tag, content }| match content.unwrap() {
                    Content::SimpleValue(value) => (event.step, tag, Told::Scalar(value)),
                    Content::Image(Image { height, width, colorspace, encoded_image_string }) => {
                        assert_eq!(colorspace, 3);
                        (event.step, tag, Told::Picture(encoded_image_string, width, height))
                    }
                }));
            }
            What::GraphDef(_) => panic!("a graph"),
        }
        events += 1;
    }
    assert!(file.is_empty(), "{} bytes after the last record", file.len());
    told
}
