//! `tf.train.Example`: the few fields that are wanted of a record (FORMATS §2).
//!
//! The messages are decoded by `prost`. The list of features is walked entry by entry and what nobody asked for is dropped at
//! once, so that a record takes no more memory than its own bytes: decoded as a whole, a hostile list of empty features would
//! take many times as much.

use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};

/// The longest list of integers that is decoded, in bytes: shapes and classes are short.
const MAX_INTEGERS: usize = 1024;

#[derive(Clone, PartialEq, Message)]
struct Example {
    #[prost(bytes = "bytes", tag = "1")]
    features: Bytes,
}

/// An entry of the map from names to features.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(message, optional, tag = "2")]
    feature: Option<Feature>,
}

/// A feature's lists, still encoded; it has one of them.
#[derive(Clone, PartialEq, Message)]
struct Feature {
    #[prost(bytes = "bytes", optional, tag = "1")]
    bytes: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    integers: Option<Bytes>,
}

/// A list of byte strings that has one element.
#[derive(Clone, PartialEq, Message)]
struct OneBytes {
    #[prost(bytes = "bytes", optional, tag = "1")]
    value: Option<Bytes>,
}

/// Packed or not: prost takes both.
#[derive(Clone, PartialEq, Message)]
struct Integers {
    #[prost(int64, repeated, tag = "1")]
    value: Vec<i64>,
}

/// A feature that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bytes(Bytes),
    Integers(Vec<i64>),
    /// Of another kind, or without elements.
    Other,
}

/// Why a record is no Example.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExampleError {
    #[error(transparent)]
    Message(#[from] DecodeError),
    #[error("a feature is longer than the record")]
    Length,
}

/// The features of `names`, in their order. A name that comes twice has its last value, as in every protobuf map.
pub(super) fn features(record: Bytes, names: &[&str]) -> Result<Vec<Option<Value>>, ExampleError> {
    let mut list = Example::decode(record)?.features;
    let mut found = vec![None; names.len()];
    while list.has_remaining() {
        let (tag, wire) = decode_key(&mut list)?;
        if (tag, wire) != (1, WireType::LengthDelimited) {
            skip_field(wire, tag, &mut list, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut list)?).ok().filter(|length| *length <= list.len());
        let entry = Entry::decode(list.split_to(length.ok_or(ExampleError::Length)?))?;
        if let Some(at) = names.iter().position(|name| name.as_bytes() == entry.name) {
            found[at] = Some(value(entry.feature.unwrap_or_default())?);
        }
    }
    Ok(found)
}

fn value(feature: Feature) -> Result<Value, ExampleError> {
    if let Some(list) = feature.bytes {
        return Ok(OneBytes::decode(list)?.value.map_or(Value::Other, Value::Bytes));
    }
    match feature.integers {
        Some(list) if list.len() <= MAX_INTEGERS => Ok(Value::Integers(Integers::decode(list)?.value)),
        _ => Ok(Value::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_read_in_any_order_packed_or_not() {
        // shape = [3, 2, 1] packed, then unpacked; data = "abc".
        let packed = b"\x0a\x10\x0a\x05shape\x12\x07\x1a\x05\x0a\x03\x03\x02\x01";
        let unpacked = b"\x0a\x13\x0a\x05shape\x12\x0a\x1a\x08\x08\x03\x08\x02\x08\x01\x08\x00";
        let data = b"\x0a\x0f\x0a\x04data\x12\x07\x0a\x05\x0a\x03abc";
        let record = |entries: &[&[u8]]| {
            let list = entries.concat();
            Bytes::from([&[0x0a, list.len() as u8][..], &list].concat())
        };
        let shape = Some(Value::Integers(vec![3, 2, 1]));
        let bytes = Some(Value::Bytes(Bytes::from_static(b"abc")));
        for list in [[&packed[..], &data[..]], [&data[..], &packed[..]]] {
            assert_eq!(features(record(&list), &["data", "shape"]).unwrap(), [bytes.clone(), shape.clone()]);
        }
        let longer = Some(Value::Integers(vec![3, 2, 1, 0]));
        assert_eq!(features(record(&[unpacked]), &["shape", "none"]).unwrap(), [longer, None]);
        assert_eq!(features(Bytes::new(), &["data"]).unwrap(), [None]);
        let cut = record(&[&data[..10]]);
        assert!(matches!(features(cut, &["data"]), Err(ExampleError::Length)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = features(bytes.clone().into(), &["shape", "data"]);
            let wrapped = [&[0x0a, bytes.len() as u8, ][..], &bytes].concat();
            let _ = features(wrapped.into(), &["", "data"]);
        }
    }
}
