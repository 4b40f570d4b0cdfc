//! Reading and checking a pipeline file.

use super::sections::Pipeline;
use crate::datasets::Format;
use serde::Deserialize;
use std::path::Path;
use toml::de::DeTable;

/// What is wrong with a pipeline file or its overrides; the text says where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the pipeline file {path}: {source}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{at}: {message}")]
    Invalid { at: String, message: String },
    #[error("--set {text}: {message}")]
    Override { text: String, message: String },
}

impl Pipeline {
    /// Reads the pipeline file at `path` and applies `overrides` (`section.key=value`), the last one of a key winning.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Pipeline, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
        Pipeline::parse(&text, &name, overrides)
    }

    /// Like [`Pipeline::load`], from text; `name` stands for the file in messages.
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Pipeline, ConfigError> {
        // The file alone first: its errors have lines, those of a merged table have none.
        toml::from_str::<Pipeline>(text).map_err(|error| file_error(text, name, &error))?;
        let mut table: toml::Table = toml::from_str(text).map_err(|error| file_error(text, name, &error))?;
        for text in overrides {
            apply_override(&mut table, text)?;
        }
        let pipeline = Pipeline::deserialize(table)
            .map_err(|error| ConfigError::Invalid { at: name.to_owned(), message: describe(error.message(), None) })?;
        pipeline.check().map_err(|(key, message)| ConfigError::Invalid { at: place(text, name, key), message })?;
        Ok(pipeline)
    }

    /// What serde cannot see. Returns the key at fault and what to do about it.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let required = [
            ("dataset.format", self.dataset.format.is_empty(), "\"folder\" or \"webdataset\""),
            ("dataset.url", self.dataset.url.is_empty(), "where the images are: a local path or a URL"),
            ("tokenizer.weights", self.tokenizer.weights.is_empty(), "the VQGAN's .safetensors file"),
            ("output.url", self.output.url.is_empty(), "where the tables go: a local path or a URL"),
        ];
        for (key, missing, meaning) in required {
            if missing {
                return Err((key, format!("{key} is missing; set it to {meaning}")));
            }
        }
        let image = &self.image;
        let positive = [
            ("image.size", u64::from(image.size)),
            ("image.crops", u64::from(image.crops)),
            ("image.max_pixels", image.max_pixels),
            ("image.max_bytes", image.max_bytes.0),
            ("dataset.unit_rows", self.dataset.unit_rows),
            ("run.memory_budget", self.run.memory_budget.0),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err((key, format!("{key} must be 1 or more")));
            }
        }
        one_of("dataset.format", &self.dataset.format, &Format::ALL.map(|(name, _)| name))?;
        one_of("dataset.labels", &self.dataset.labels, &["auto", "directory", "none"])?;
        if !self.dataset.captions.starts_with("json.") {
            one_of("dataset.captions", &self.dataset.captions, &["auto", "none", "json.<key>"])?;
        }
        one_of("image.crop", &image.crop, &["center", "random"])?;
        one_of("image.flip", &image.flip, &["none", "both"])?;
        one_of(
            "image.resize",
            &image.resize,
            &["pillow-bicubic", "pillow-lanczos", "pillow-bilinear", "pillow-box", "cv2-linear"],
        )?;
        if image.crops > 1 && image.crop == "center" {
            let message = format!("image.crops = {} needs image.crop = \"random\"", image.crops);
            return Err(("image.crops", message));
        }
        if !(0.0..=1.0).contains(&self.run.max_reject_fraction) {
            return Err(("run.max_reject_fraction", "run.max_reject_fraction must be between 0 and 1".to_owned()));
        }
        Ok(())
    }
}

/// `value` must be one of `known`; the message offers the nearest.
fn one_of(key: &'static str, value: &str, known: &[&str]) -> Result<(), (&'static str, String)> {
    if known.contains(&value) {
        return Ok(());
    }
    let hint = nearest(value, known.iter().copied()).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    Err((key, format!("{key} = \"{value}\" is not one of {}{hint}", known.join(", "))))
}

/// The known name a typist most likely meant, if any is close.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Sets `section.key` in the table; a value that is not TOML is taken as text.
fn apply_override(table: &mut toml::Table, text: &str) -> Result<(), ConfigError> {
    let wrong = |message: &str| ConfigError::Override { text: text.to_owned(), message: message.to_owned() };
    let (path, value) = text.split_once('=').ok_or_else(|| wrong("write it as section.key=value"))?;
    let (section, key) =
        path.trim().split_once('.').ok_or_else(|| wrong("name the section too, as in image.size=256"))?;
    let value = match toml::from_str::<toml::Table>(&format!("value = {value}")) {
        Ok(mut parsed) => parsed.remove("value").ok_or_else(|| wrong("the value is empty"))?,
        Err(_) => toml::Value::String(value.to_owned()),
    };
    // A table of this override alone: serde's complaint about it is then about this override.
    let entry: toml::Table = [(key.to_owned(), value.clone())].into_iter().collect();
    let alone: toml::Table = [(section.to_owned(), toml::Value::Table(entry))].into_iter().collect();
    Pipeline::deserialize(alone).map_err(|error| wrong(&describe(error.message(), None)))?;
    match table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new())) {
        toml::Value::Table(entries) => {
            entries.insert(key.to_owned(), value);
            Ok(())
        }
        _ => Err(wrong("the section is not a table in the pipeline file")),
    }
}

/// A TOML or serde error with file, line, and the nearest key.
fn file_error(text: &str, name: &str, error: &toml::de::Error) -> ConfigError {
    let Some(span) = error.span() else {
        return ConfigError::Invalid { at: name.to_owned(), message: describe(error.message(), None) };
    };
    let before = text.get(..span.start).unwrap_or("");
    let (above, line) = before.rsplit_once('\n').unwrap_or(("", before));
    // A wrong section name stands in its own header; a wrong key stands below one.
    let section = match line.trim_start().starts_with('[') {
        true => None,
        false => above.lines().rev().find_map(|line| line.trim().strip_prefix('[')?.split(']').next()),
    };
    ConfigError::Invalid {
        at: format!("{name}:{}", before.matches('\n').count() + 1),
        message: describe(error.message(), section),
    }
}

/// Serde's message, turned into one that offers the nearest key.
fn describe(message: &str, section: Option<&str>) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return message.trim_end().replace('\n', " ");
    };
    let mut names = rest.split('`').step_by(2);
    let unknown = names.next().unwrap_or_default();
    let known: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let place = section.map_or(String::new(), |section| format!(" in [{section}]"));
    match nearest(unknown, known.iter().copied()) {
        Some(near) => format!("unknown key `{unknown}`{place}; did you mean `{near}`?"),
        None => format!("unknown key `{unknown}`{place}; known here: {}", known.join(", ")),
    }
}

/// `file:line` of a key, or of its section, or the file alone.
fn place(text: &str, name: &str, key: &str) -> String {
    let line = || {
        let table = DeTable::parse(text).ok()?;
        let (section, key) = key.split_once('.')?;
        let (section, entries) = table.get_ref().get_key_value(section)?;
        let start = match entries.get_ref().as_table().and_then(|entries| entries.get_key_value(key)) {
            Some((key, _)) => key.span().start,
            None => section.span().start,
        };
        Some(text.get(..start)?.matches('\n').count() + 1)
    };
    line().map_or(name.to_owned(), |line| format!("{name}:{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Auto, ByteSize};

    const GOOD: &str =
        "[dataset]\nformat = \"folder\"\nurl = \"in\"\n[tokenizer]\nweights = \"w\"\n[output]\nurl = \"o\"\n";

    fn fault(text: &str, overrides: &[&str]) -> String {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        Pipeline::parse(text, "p.toml", &overrides).unwrap_err().to_string()
    }

    #[test]
    fn defaults_and_overrides() {
        let overrides = ["image.size=64", "run.memory_budget=2 GiB", "tokenizer.batch_size=4", "output.url=s3://b/x"];
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        let pipeline = Pipeline::parse(GOOD, "p.toml", &overrides).unwrap();
        assert_eq!(pipeline.dataset.format, "folder");
        assert_eq!(pipeline.image.size, 64);
        assert_eq!(pipeline.run.memory_budget, ByteSize(2 << 30));
        assert_eq!(pipeline.tokenizer.batch_size, Auto::Value(4));
        assert_eq!(pipeline.output.url, "s3://b/x");
    }

    #[test]
    fn unknown_keys_name_line_section_and_nearest_key() {
        let text = format!("{GOOD}[image]\nsize = 256\nflipp = \"none\"\n");
        assert_eq!(fault(&text, &[]), "p.toml:10: unknown key `flipp` in [image]; did you mean `flip`?");
        assert!(fault("[imgae]\nsize = 3\n", &[]).contains("p.toml:1: unknown key `imgae`; did you mean `image`?"));
        let fault = fault(&format!("{GOOD}zzzzzzz = 1\n"), &[]);
        assert!(fault.contains("p.toml:8: unknown key `zzzzzzz` in [output]; known here: url"), "{fault}");
    }

    #[test]
    fn values_of_the_wrong_kind_name_their_line() {
        let fault = fault(&format!("{GOOD}[image]\nsize = \"big\"\n"), &[]);
        assert!(fault.starts_with("p.toml:9: invalid type: string \"big\", expected u32"), "{fault}");
    }

    #[test]
    fn missing_and_impossible_values_name_the_key() {
        assert_eq!(
            fault("[dataset]\nformat = \"folder\"\n", &[]),
            "p.toml:1: dataset.url is missing; set it to where the images are: a local path or a URL"
        );
        let text = format!("{GOOD}[image]\n\ncrop = \"centre\"\n");
        let message = "p.toml:10: image.crop = \"centre\" is not one of center, random; did you mean `center`?";
        assert_eq!(fault(&text, &[]), message);
        assert!(fault(GOOD, &["image.crops=2"]).contains("image.crops = 2 needs image.crop"));
        assert!(fault(GOOD, &["run.max_reject_fraction=1.5"]).contains("between 0 and 1"));
    }

    #[test]
    fn wrong_overrides_are_named() {
        assert!(fault(GOOD, &["image.size"]).starts_with("--set image.size: write it as"));
        assert!(fault(GOOD, &["size=3"]).contains("name the section too"));
        assert!(fault(GOOD, &["image.siez=3"]).contains("did you mean `size`?"));
        assert!(fault(GOOD, &["image.size=big"]).starts_with("--set image.size=big: invalid type"));
    }

    #[test]
    fn broken_toml_names_its_line() {
        assert!(fault("[dataset]\nurl = \n", &[]).starts_with("p.toml:2: "));
    }
}
