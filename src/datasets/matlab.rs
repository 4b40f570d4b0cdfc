//! As much of MATLAB's level 5 files as the devkit's `meta.mat` needs: the struct array `synsets`, of whose fields one is a
//! number and one a text.
//!
//! The format, as in MathWorks' "MAT-File Format": a header of 128 bytes, then data elements: a tag of type and length (both
//! 32 bits; or 16 bits each, and up to four bytes of data in the tag itself), data, padding to 8 bytes. An array (type 14) is
//! an element of elements: flags, dimensions, name, data; a compressed one (type 15) is a zlib stream of an array. Nothing here
//! is believed beyond the bytes that are there.

use flate2::read::ZlibDecoder;
use std::collections::HashMap;
use std::io::Read;

const HEADER: usize = 128;
/// The most that a compressed array may unpack to; the real one has less than 2 MB.
const MAX_UNPACKED: u64 = 64 << 20;

// Types of elements.
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const SINGLE: u32 = 7;
const DOUBLE: u32 = 9;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const UTF8: u32 = 16;
/// The class of struct arrays.
const STRUCT: u8 = 2;

/// Whether the bytes begin like such a file.
pub(super) fn is_matlab(bytes: &[u8]) -> bool {
    bytes.starts_with(b"MATLAB 5.0")
}

/// The wnids of `synsets` by `ILSVRC2012_ID`, or why they cannot be read, as the end of a sentence.
pub(super) fn synsets(file: &[u8]) -> Result<HashMap<u64, String>, String> {
    if file.get(126..HEADER) != Some(b"IM") {
        return Err("it is no little-endian MATLAB 5 file".to_owned());
    }
    for element in Elements(file.get(HEADER..).unwrap_or_default()) {
        let element = element?;
        let unpacked;
        let array = match element.kind {
            COMPRESSED => {
                unpacked = unpack(element.body)?;
                match Elements(&unpacked).next() {
                    Some(array) => array?,
                    None => continue,
                }
            }
            _ => element,
        };
        if let Some(found) = struct_array(&array, b"synsets")? {
            return found.records("ILSVRC2012_ID", "WNID");
        }
    }
    Err("it has no struct array called synsets".to_owned())
}

fn unpack(body: &[u8]) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    let read = ZlibDecoder::new(body).take(MAX_UNPACKED).read_to_end(&mut unpacked);
    read.map_err(|error| format!("its compressed data is damaged ({error})"))?;
    Ok(unpacked)
}

/// A data element.
#[derive(Clone, Copy)]
struct Element<'a> {
    kind: u32,
    body: &'a [u8],
}

/// The elements that lie one after the other; an error ends them.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let element = self.element();
        if element.is_none() {
            self.0 = &[];
        }
        Some(element.ok_or_else(|| "it ends within an element".to_owned()))
    }
}

impl<'a> Elements<'a> {
    fn element(&mut self) -> Option<Element<'a>> {
        let tag = number(self.0.get(..4)?)?;
        let (kind, length, start) = match tag >> 16 {
            0 => (tag, number(self.0.get(4..8)?)?, 8usize),
            short => (tag & 0xffff, short, 4),
        };
        let length = usize::try_from(length).ok()?;
        let end = start.checked_add(length)?;
        let body = self.0.get(start..end)?;
        // Compressed elements are not padded; the padding of the last one may be missing.
        let next = if kind == u64::from(COMPRESSED) { end } else { end.next_multiple_of(8) };
        self.0 = self.0.get(next..).unwrap_or_default();
        Some(Element { kind: u32::try_from(kind).ok()?, body })
    }
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A struct array: the names of its fields, and the values of all its elements in turn, field by field.
struct Structs<'a> {
    fields: Vec<&'a [u8]>,
    values: Elements<'a>,
}

/// The struct array called `name`; `None` if this is something else.
fn struct_array<'a>(array: &Element<'a>, name: &[u8]) -> Result<Option<Structs<'a>>, String> {
    if array.kind != MATRIX {
        return Ok(None);
    }
    let mut parts = Elements(array.body);
    let mut part = || parts.next().unwrap_or_else(|| Err("an array of it is cut".to_owned()));
    let (flags, _dimensions, called) = (part()?, part()?, part()?);
    if flags.body.first() != Some(&STRUCT) || called.body != name {
        return Ok(None);
    }
    let (length, names) = (part()?, part()?);
    let length = number(length.body).and_then(|length| usize::try_from(length).ok()).filter(|length| *length > 0);
    let length = length.ok_or("the names of its fields have no length")?;
    let until_nul = |name: &'a [u8]| name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Some(Structs { fields: names.body.chunks(length).map(until_nul).collect(), values: parts }))
}

impl Structs<'_> {
    /// Of each element the text in one field by the number in another. Elements where either is something else are left out.
    fn records(mut self, number: &str, text: &str) -> Result<HashMap<u64, String>, String> {
        let place = |name: &str| self.fields.iter().position(|field| *field == name.as_bytes());
        let missing = |name: &str| format!("its synsets have no field {name}");
        let number = place(number).ok_or_else(|| missing(number))?;
        let text = place(text).ok_or_else(|| missing(text))?;
        let mut found = HashMap::new();
        loop {
            let mut record = (None, None);
            for field in 0..self.fields.len() {
                let Some(value) = self.values.next() else { return Ok(found) };
                let value = value?;
                if field == number {
                    record.0 = data(&value).and_then(|data| scalar(&data));
                } else if field == text {
                    record.1 = data(&value).and_then(|data| characters(&data));
                }
            }
            if let (Some(number), Some(text)) = record {
                found.insert(number, text);
            }
        }
    }
}

/// The data of an array of numbers or characters.
fn data<'a>(array: &Element<'a>) -> Option<Element<'a>> {
    Elements(array.body).nth(3)?.ok().filter(|_| array.kind == MATRIX)
}

/// The only number of an array, where it is a natural one.
fn scalar(data: &Element<'_>) -> Option<u64> {
    let natural =
        |value: f64| (value >= 0.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0).then_some(value as u64);
    match data.kind {
        DOUBLE => natural(f64::from_le_bytes(data.body.try_into().ok()?)),
        SINGLE => natural(f32::from_le_bytes(data.body.try_into().ok()?).into()),
        // Negative ones come out larger than any id.
        INT8 | UINT8 | INT16 | UINT16 | INT32 | UINT32 if !data.body.is_empty() => number(data.body),
        _ => None,
    }
}

/// A text of ASCII characters, of one or two bytes each.
fn characters(data: &Element<'_>) -> Option<String> {
    let ascii = match data.kind {
        UINT16 => data.body.chunks(2).map(|pair| u8::try_from(number(pair)?).ok()).collect::<Option<Vec<u8>>>()?,
        INT8 | UINT8 | UTF8 => data.body.to_vec(),
        _ => return None,
    };
    String::from_utf8(ascii).ok().filter(|text| text.is_ascii())
}

#[cfg(test)]
#[path = "matlab_tests.rs"]
mod tests;
