//! Prompt tables as text: plain lines, lines of JSON, and separated values.

use super::fields::{Column, PromptRow, Value, columns};
use super::{Outlet, PromptError, Rules};
use serde_json::Value as Json;
use std::io::{self, BufRead, BufReader, Read};

/// Longest line or record: a file that has a longer one is no table of prompts.
const MAX_LINE: u64 = 1 << 20;

/// A row cannot be read. The line, and what is wrong with it.
type Fault = (u64, String);

/// Lines of text, with their numbers.
struct Lines<R> {
    reader: BufReader<R>,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: Read> Lines<R> {
    fn new(reader: R) -> Lines<R> {
        Lines { reader: BufReader::with_capacity(1 << 16, reader), buffer: Vec::new(), number: 0 }
    }

    /// The next line without its end, and its number from 1; `None` at the end.
    fn next(&mut self) -> Result<Option<(&str, u64)>, Fault> {
        self.buffer.clear();
        self.number += 1;
        let number = self.number;
        let mut limited = (&mut self.reader).take(MAX_LINE + 1);
        let read = limited.read_until(b'\n', &mut self.buffer).map_err(|error| (number, unreadable(&error)))?;
        if read == 0 {
            return Ok(None);
        }
        if read as u64 > MAX_LINE {
            return Err((number, format!("it has more than {MAX_LINE} bytes")));
        }
        let line = std::str::from_utf8(&self.buffer).map_err(|error| (number, format!("it is not UTF-8 ({error})")))?;
        let line = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
        Ok(Some((if number == 1 { line.trim_start_matches('\u{feff}') } else { line }, number)))
    }
}

fn unreadable(error: &io::Error) -> String {
    format!("it cannot be read: {error}")
}

/// Reads `reader` to its end, a prompt or a class (`column`) a line. Ends early where nobody listens.
pub(super) fn plain(reader: impl Read, rules: &Rules, out: &mut Outlet) -> Result<(), PromptError> {
    let mut lines = Lines::new(reader);
    while let Some((line, at)) = lines.next().map_err(|fault| rules.fault(fault))? {
        let mut row = PromptRow::at(at);
        row.set(rules.line, Value::Text(line)).map_err(|what| rules.fault((at, what)))?;
        if !out.push(row) {
            break;
        }
    }
    Ok(())
}

/// Reads `reader` to its end, a JSON object a line.
pub(super) fn json(reader: impl Read, rules: &Rules, out: &mut Outlet) -> Result<(), PromptError> {
    let mut lines = Lines::new(reader);
    while let Some((line, at)) = lines.next().map_err(|fault| rules.fault(fault))? {
        let row = object(line, at, &rules.ignored).map_err(|what| rules.fault((at, what)))?;
        if !out.push(row) {
            break;
        }
    }
    Ok(())
}

fn object(line: &str, at: u64, ignored: &[String]) -> Result<PromptRow, String> {
    let fields: serde_json::Map<String, Json> =
        serde_json::from_str(line).map_err(|error| format!("it is no JSON object: {error}"))?;
    let mut row = PromptRow::at(at);
    for (name, value) in &fields {
        if let Some(column) = Column::find(name, ignored, &[])? {
            let value = json_value(value).ok_or_else(|| format!("its {name} is neither text nor a number"))?;
            row.set(column, value)?;
        }
    }
    Ok(row)
}

fn json_value(value: &Json) -> Option<Value<'_>> {
    Some(match value {
        Json::Null => Value::Nothing,
        Json::String(text) => Value::Text(text),
        Json::Number(number) => match number.as_i128() {
            Some(whole) => Value::Whole(whole),
            None => Value::Number(number.as_f64()?),
        },
        Json::Array(items) => Value::List(items.iter().map(Json::as_f64).collect::<Option<_>>()?),
        Json::Bool(_) | Json::Object(_) => return None,
    })
}

/// Reads `reader` to its end: names of columns, then a record a row, as RFC 4180 has them, separated by `separator`.
pub(super) fn separated(reader: impl Read, separator: u8, rules: &Rules, out: &mut Outlet) -> Result<(), PromptError> {
    let source = Metered { reader, left: MAX_LINE };
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).from_reader(source);
    let header = |what: String| rules.broken(format!("its first line: {what}"));
    let names = reader.headers().map_err(|error| header(broken(&error)))?.clone();
    let columns = columns(names.iter().map(str::trim), &rules.ignored, &[]).map_err(header)?;
    let mut record = csv::StringRecord::new();
    // Rows, not lines: values may have lines of their own.
    for at in 1.. {
        reader.get_mut().left = MAX_LINE;
        if !reader.read_record(&mut record).map_err(|error| rules.fault((at, broken(&error))))? {
            break;
        }
        let mut row = PromptRow::at(at);
        for (value, column) in record.iter().zip(&columns) {
            if let Some(column) = column.filter(|_| !value.is_empty()) {
                row.set(column, Value::Text(value)).map_err(|what| rules.fault((at, what)))?;
            }
        }
        if !out.push(row) {
            break;
        }
    }
    Ok(())
}

/// What is wrong with a record.
fn broken(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} values, the first line names {expected_len} columns")
        }
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8".to_owned(),
        csv::ErrorKind::Io(error) => unreadable(error),
        _ => format!("it cannot be read: {error}"),
    }
}

/// A reader that ends a record without end: a quote that is never closed takes the rest of the file for one.
struct Metered<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let message = format!("a record has more than {MAX_LINE} bytes; is a quote not closed?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let read = self.reader.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}
