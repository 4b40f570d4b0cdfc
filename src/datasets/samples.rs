//! From an archive's members to samples: WebDataset's naming rules (FORMATS §6) and what may be wrong with a sample.

use super::fields::{self, readable};
use super::open::{Captions, DatasetOptions, Labels};
use super::tar::Kind;
use crate::reject::Reason;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Image fields in order of preference, should a sample have several. The bytes decide about the format, not the name.
const IMAGES: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];
const CLS: u16 = 1 << 6;
const TXT: u16 = 1 << 7;
const JSON: u16 = 1 << 8;
const ANY_IMAGE: u16 = (1 << 6) - 1;
/// A longer `cls`, `txt` or `json` is not read.
pub(super) const MAX_TEXT: u64 = 4 << 20;

/// Splits a member's name into key and lower-case field: directories and base name to its first dot, and the rest. `None` for
/// names without a dot and those whose base name starts with one: such members belong to no sample.
pub(super) fn split_name(name: &[u8]) -> Option<(String, String)> {
    let base = name.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].iter().position(|b| *b == b'.')?;
    (dot > base).then(|| (readable(&name[..dot]), readable(&name[dot + 1..]).to_lowercase()))
}

/// Whether a name points outside the archive when used as a path, or cannot be one.
pub(super) fn is_unsafe(key: &str) -> bool {
    key.starts_with('/') || key.contains(['\\', '\0']) || key.split('/').any(|part| part == "..")
}

/// The bit of a field that is read here; `None` for the others, which are passed over.
fn bit(field: &str) -> Option<u16> {
    match field {
        "cls" => Some(CLS),
        "txt" => Some(TXT),
        "json" => Some(JSON),
        _ => IMAGES.iter().position(|image| *image == field).map(|at| 1 << at),
    }
}

/// A sample that can be encoded, or why it cannot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Good { image: Bytes, label: Option<i32>, caption: Option<String>, original: Option<(u32, u32)> },
    Bad { reason: Reason, message: String },
}

/// What to do with a member's body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Want {
    Body,
    Nothing,
}

/// The members of one key that were read so far.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: String,
    /// Which known fields it has.
    pub(super) fields: u16,
    /// The preferred image so far; `Err` holds the size of one that is too large.
    image: Option<(u16, Result<Bytes, u64>)>,
    texts: HashMap<u16, Bytes>,
    problem: Option<(Reason, String)>,
}

impl Group {
    pub(super) fn new(key: String) -> Group {
        let problem = is_unsafe(&key).then(|| (Reason::UnsafePath, "its name points outside the archive".to_owned()));
        Group { key, fields: 0, image: None, texts: HashMap::new(), problem }
    }

    /// Notes a member and says whether its body is needed.
    pub(super) fn member(&mut self, field: &str, kind: Kind, size: u64, max_bytes: u64) -> Want {
        let Some(bit) = bit(field) else { return Want::Nothing };
        if self.fields & bit != 0 {
            self.fail(Reason::DuplicateMember, format!("it has two members {field}"));
        }
        self.fields |= bit;
        if let Kind::Other(what) = kind {
            self.fail(Reason::NotARegularFile, format!("its {field} is a {what}"));
        }
        if self.problem.is_some() {
            return Want::Nothing;
        }
        if bit & ANY_IMAGE == 0 {
            if size > MAX_TEXT {
                self.fail(Reason::TooLarge, format!("its {field} has {size} bytes, more than {MAX_TEXT}"));
                return Want::Nothing;
            }
            return Want::Body;
        }
        match &self.image {
            Some((better, _)) if *better < bit => Want::Nothing,
            _ if size > max_bytes => {
                self.image = Some((bit, Err(size)));
                Want::Nothing
            }
            _ => Want::Body,
        }
    }

    /// Takes the body that [`Group::member`] asked for.
    pub(super) fn body(&mut self, field: &str, body: Bytes) {
        match bit(field) {
            Some(bit) if bit & ANY_IMAGE != 0 => self.image = Some((bit, Ok(body))),
            Some(bit) => drop(self.texts.insert(bit, body)),
            None => {}
        }
    }

    /// Marks the sample as bad; the first reason stands.
    pub(super) fn fail(&mut self, reason: Reason, message: String) {
        self.problem.get_or_insert((reason, message));
        self.image = None;
        self.texts.clear();
    }

    /// What became of it.
    pub(super) fn finish(mut self, options: &DatasetOptions) -> Outcome {
        let result = match self.problem.take() {
            Some(problem) => Err(problem),
            None => self.check(options),
        };
        result.unwrap_or_else(|(reason, message)| Outcome::Bad { reason, message })
    }

    fn check(&mut self, options: &DatasetOptions) -> Result<Outcome, (Reason, String)> {
        let image = match self.image.take() {
            None => return Err((Reason::MissingField, format!("it has no image ({})", IMAGES.join(", ")))),
            Some((_, Err(size))) => {
                let message = format!("its image has {size} bytes, more than the limit of {}", options.max_bytes);
                return Err((Reason::TooLarge, message));
            }
            Some((_, Ok(image))) if image.is_empty() => {
                return Err((Reason::Empty, "its image has no bytes".to_owned()));
            }
            Some((_, Ok(image))) => image,
        };
        let mut json = None;
        let label = self.label(options, &mut json)?;
        let caption = self.caption(options, &mut json)?;
        let json = if options.original_sizes { self.json(&mut json).ok().flatten() } else { None };
        Ok(Outcome::Good { image, label, caption, original: json.and_then(fields::original_size) })
    }

    /// The class: `cls`, else the JSON's `label`.
    fn label(&self, options: &DatasetOptions, json: &mut Json) -> Result<Option<i32>, (Reason, String)> {
        if options.labels == Labels::None {
            return Ok(None);
        }
        let text = match self.texts.get(&CLS) {
            Some(cls) => String::from_utf8_lossy(cls).trim().to_owned(),
            None => match self.json(json)?.and_then(|json| json.get("label")) {
                None | Some(serde_json::Value::Null) => return Ok(None),
                Some(value) => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            },
        };
        let shown: String = text.chars().take(40).collect();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let label: i32 = Some(text)
            .filter(|_| digits)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| (Reason::BadLabel, format!("its label {shown:?} is not a number from 0 to {}", i32::MAX)))?;
        match options.classes {
            Some(classes) if label.cast_unsigned() >= classes => {
                Err((Reason::BadLabel, format!("its label {label} is not below {classes}, the number of classes")))
            }
            _ => Ok(Some(label)),
        }
    }

    /// The caption: `txt`, else the JSON's `caption`; or the JSON key that was asked for. Line ends at its end are dropped.
    fn caption(&self, options: &DatasetOptions, json: &mut Json) -> Result<Option<String>, (Reason, String)> {
        let key = match &options.captions {
            Captions::None => return Ok(None),
            Captions::Json(key) => key.as_str(),
            Captions::Auto => match self.texts.get(&TXT) {
                None => "caption",
                Some(text) => {
                    let text = std::str::from_utf8(text)
                        .map_err(|e| (Reason::BadUtf8Caption, format!("its txt is not UTF-8 ({e})")))?;
                    return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
                }
            },
        };
        Ok(self.json(json)?.and_then(|json| json.get(key)?.as_str()).map(str::to_owned))
    }

    /// The JSON field, parsed when first asked for: samples whose class and caption lie in `cls` and `txt` never need it.
    fn json<'a>(&self, parsed: &'a mut Json) -> Result<Option<&'a serde_json::Value>, (Reason, String)> {
        if parsed.is_none() {
            let value = match self.texts.get(&JSON) {
                None => serde_json::Value::Null,
                Some(text) => match std::str::from_utf8(text) {
                    Err(e) => return Err((Reason::BadUtf8Caption, format!("its json is not UTF-8 ({e})"))),
                    Ok(text) => serde_json::from_str(text)
                        .map_err(|e| (Reason::DecodeError, format!("its json is not valid JSON ({e})")))?,
                },
            };
            *parsed = Some(value);
        }
        Ok(parsed.as_ref())
    }
}

type Json = Option<serde_json::Value>;

/// How many samples, and how many bytes of them, wait for a member of theirs that lies apart.
const WAITING: usize = 16;
const WAITING_BYTES: usize = 8 << 20;
/// Of how many samples of a shard the fields are remembered.
const REMEMBERED: usize = 1 << 17;

/// Finds samples whose members do not lie together.
///
/// Only neighbouring members form a sample. When a key comes back later with *other* fields, the two are parts of one sample
/// that was torn apart, and neither is whole: both are rejected as `incomplete_sample`. (With a field in common they are two
/// samples of one name, and both stand.) So that the first part can still be rejected, the last [`WAITING`] samples, or
/// [`WAITING_BYTES`] of them, wait here. A part that comes back later than that is rejected, but the first one is gone: the
/// message says so. These limits are constants, so that what is rejected depends on the shard alone.
#[derive(Debug, Default)]
pub(super) struct Window {
    waiting: VecDeque<(Group, u64)>,
    bytes: usize,
    seen: HashMap<u64, u16>,
    next_index: u64,
}

impl Window {
    /// Takes a complete group and returns those that need wait no longer, with their indices.
    pub(super) fn push(&mut self, mut group: Group) -> Vec<(Group, u64)> {
        if group.fields == 0 {
            // Nothing that is read here: not a sample of images at all.
            return Vec::new();
        }
        let mut hasher = DefaultHasher::new();
        group.key.hash(&mut hasher);
        let known = self.seen.len() < REMEMBERED;
        let entry = self.seen.get_mut(&hasher.finish());
        let torn = entry.as_ref().is_some_and(|fields| **fields & group.fields == 0);
        match entry {
            Some(fields) => *fields |= group.fields,
            None if known => drop(self.seen.insert(hasher.finish(), group.fields)),
            None => {}
        }
        if torn {
            let mut first_part_waits = false;
            for (other, _) in self.waiting.iter_mut().filter(|(other, _)| other.key == group.key) {
                self.bytes -= other.held();
                other.fail(Reason::IncompleteSample, TORN.to_owned());
                first_part_waits = true;
            }
            let gone = if first_part_waits { "" } else { "; the first of them was treated as a sample of its own" };
            group.fail(Reason::IncompleteSample, format!("{TORN}{gone}"));
        }
        self.bytes += group.held();
        self.waiting.push_back((group, self.next_index));
        self.next_index += 1;
        let mut ready = Vec::new();
        while self.waiting.len() > WAITING || self.bytes > WAITING_BYTES {
            let Some((group, index)) = self.waiting.pop_front() else { break };
            self.bytes -= group.held();
            ready.push((group, index));
        }
        ready
    }

    /// Everything that still waits: the shard is over.
    pub(super) fn flush(&mut self) -> impl Iterator<Item = (Group, u64)> {
        self.bytes = 0;
        self.waiting.drain(..)
    }

    /// The index that the next sample would have.
    pub(super) fn next_index(&self) -> u64 {
        self.next_index
    }
}

const TORN: &str = "its members do not lie together: other members of this key are elsewhere in the shard";

impl Group {
    fn held(&self) -> usize {
        let image = self.image.as_ref().and_then(|(_, image)| image.as_ref().ok()).map_or(0, Bytes::len);
        image + self.texts.values().map(Bytes::len).sum::<usize>()
    }
}

#[cfg(test)]
#[path = "samples_tests.rs"]
mod tests;
