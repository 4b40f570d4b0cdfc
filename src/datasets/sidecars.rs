//! Files that lie beside an image and describe it: `000000012.txt` and `.json` beside `000000012.jpg`, as img2dataset writes
//! them (FORMATS §5).

use super::Source;
use super::fields::{self, Problem};
use super::open::{Captions, DatasetOptions};
use super::samples::MAX_TEXT;
use crate::reject::Reason;
use bytes::Bytes;
use serde_json::Value;
use std::collections::HashMap;

const TEXT: &str = ".txt";
const JSON: &str = ".json";

/// The endings of the files that `options` want to know of.
pub(super) fn endings(options: &DatasetOptions) -> &'static [&'static str] {
    match &options.captions {
        Captions::Auto => &[TEXT, JSON],
        // The JSON files in any case: img2dataset's `_stats.json` tell which shards are finished.
        Captions::None | Captions::Json(_) => &[JSON],
    }
}

/// What lies beside one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sidecars {
    text: Option<Source>,
    json: Option<Source>,
}

/// Caption and original size.
pub(super) type Description = (Option<String>, Option<(u32, u32)>);

/// The files beside images, by path.
pub(super) struct Beside<'a>(HashMap<&'a str, &'a Source>);

impl<'a> Beside<'a> {
    pub(super) fn new(files: &'a [Source]) -> Beside<'a> {
        Beside(files.iter().map(|file| (file.path.as_str(), file)).collect())
    }

    /// Those of an image that are needed: `txt` for its caption, else the JSON.
    pub(super) fn of(&self, image: &str, options: &DatasetOptions) -> Sidecars {
        if self.0.is_empty() {
            return Sidecars::default();
        }
        let stem = image.rsplit_once('.').map_or(image, |(stem, _)| stem);
        let find = |ending: &str| self.0.get(format!("{stem}{ending}").as_str()).map(|file| (*file).clone());
        let text = if options.captions == Captions::Auto { find(TEXT) } else { None };
        let for_caption = match &options.captions {
            Captions::None => false,
            Captions::Auto => text.is_none(),
            Captions::Json(_) => true,
        };
        let json = if for_caption || options.original_sizes { find(JSON) } else { None };
        Sidecars { text, json }
    }
}

impl Sidecars {
    /// The files, in the order that [`Sidecars::describe`] wants their bytes.
    pub(super) fn files(&self) -> impl Iterator<Item = &Source> {
        [&self.text, &self.json].into_iter().flatten()
    }

    /// Refuses files that are too large for a description.
    pub(super) fn check(&self) -> Result<(), Problem> {
        match self.files().find(|file| file.size > MAX_TEXT) {
            Some(file) => Err((
                Reason::TooLarge,
                format!(
                    "{} has {} bytes, more than {MAX_TEXT}; dataset.captions = \"none\" ignores it",
                    file.path, file.size
                ),
            )),
            None => Ok(()),
        }
    }

    /// Caption and original size from the files' bytes.
    pub(super) fn describe(&self, bytes: &[Bytes], options: &DatasetOptions) -> Result<Description, Problem> {
        let mut bytes = bytes.iter();
        let text = self.text.as_ref().and_then(|_| bytes.next());
        let json = self.json.as_ref().and_then(|_| bytes.next()).map(|json| parse(json));
        let original = match &json {
            Some(Ok(json)) if options.original_sizes => fields::original_size(json),
            _ => None,
        };
        let key = match (&options.captions, text) {
            (Captions::None, _) => return Ok((None, original)),
            (Captions::Auto, Some(text)) => return Ok((Some(fields::caption(text, "txt")?), original)),
            (Captions::Auto, None) => "caption",
            (Captions::Json(key), _) => key,
        };
        let caption = json.transpose()?.and_then(|json| json.get(key)?.as_str().map(str::to_owned));
        Ok((caption, original))
    }
}

fn parse(json: &[u8]) -> Result<Value, Problem> {
    let text = std::str::from_utf8(json)
        .map_err(|error| (Reason::BadUtf8Caption, format!("its json is not UTF-8 ({error})")))?;
    serde_json::from_str(text).map_err(|error| (Reason::DecodeError, format!("its json is not valid JSON ({error})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> Source {
        Source { path: path.to_owned(), size, etag: None }
    }

    fn options(captions: Captions, original_sizes: bool) -> DatasetOptions {
        DatasetOptions { captions, original_sizes, ..DatasetOptions::default() }
    }

    #[test]
    fn only_what_is_needed_is_fetched() {
        let files = [file("0/a.txt", 1), file("0/a.json", 2), file("0/b.json", MAX_TEXT + 1)];
        let beside = Beside::new(&files);
        let names = |image: &str, options: &DatasetOptions| -> Vec<String> {
            beside.of(image, options).files().map(|file| file.path.clone()).collect()
        };
        let auto = options(Captions::Auto, false);
        assert_eq!(names("0/a.jpg", &auto), ["0/a.txt"]);
        assert_eq!(names("0/b.jpg", &auto), ["0/b.json"]);
        assert!(names("0/c.jpg", &auto).is_empty() && names("a.jpg", &auto).is_empty());
        assert_eq!(names("0/a.jpg", &options(Captions::Auto, true)), ["0/a.txt", "0/a.json"]);
        assert_eq!(names("0/a.jpg", &options(Captions::Json("url".into()), false)), ["0/a.json"]);
        assert!(names("0/a.jpg", &options(Captions::None, false)).is_empty());
        assert_eq!(beside.of("0/b.png", &auto).check().unwrap_err().0, Reason::TooLarge);
    }

    #[test]
    fn captions_and_sizes_are_read() {
        let both = Sidecars { text: Some(file("a.txt", 1)), json: Some(file("a.json", 1)) };
        let json = br#"{"caption": "from json", "url": "u", "original_width": 640, "original_height": 480}"#;
        let bytes = [Bytes::from_static(b"a cat\n"), Bytes::from_static(json)];
        let described = |captions, sizes| both.describe(&bytes, &options(captions, sizes)).unwrap();
        assert_eq!(described(Captions::Auto, true), (Some("a cat".to_owned()), Some((640, 480))));
        assert_eq!(described(Captions::Json("url".into()), false), (Some("u".to_owned()), None));
        assert_eq!(described(Captions::None, true), (None, Some((640, 480))));
        let only = Sidecars { text: None, ..both.clone() };
        let auto = options(Captions::Auto, false);
        assert_eq!(only.describe(&bytes[1..], &auto).unwrap().0.as_deref(), Some("from json"));
        assert_eq!(only.describe(&[Bytes::from_static(b"{\"caption\": null}")], &auto).unwrap().0, None);
        assert_eq!(only.describe(&[Bytes::from_static(b"{")], &auto).unwrap_err().0, Reason::DecodeError);
        assert_eq!(
            both.describe(&[Bytes::from_static(b"\xff"), bytes[1].clone()], &auto).unwrap_err().0,
            Reason::BadUtf8Caption
        );
    }
}
