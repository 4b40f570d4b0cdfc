//! Reading and checking a pipeline file.

use super::check::check;
use super::sections::Pipeline;
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

/// What a command needs to know of a pipeline file: keys that only the user can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A dataset, a tokenizer and an output.
    Encode,
    /// Latents, their tokenizer, and where the smaller ones go.
    Shrink,
    /// Latents, their tokenizer, a chain and where it goes.
    Train,
    /// A dataset, where the tokenizer goes, and an output.
    TrainTokenizer,
    /// A chain, an output, and how many images.
    Sample,
    /// A chain, an output, images and masks.
    Edit,
    /// An output, or a folder for the report; the rest depends on what is there.
    Evaluate,
    /// An output with samples, and a rule.
    Filter,
}

impl Pipeline {
    /// Reads the pipeline file at `path` for `encode` and applies `overrides` (`section.key=value`), the last one of a key
    /// winning.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Pipeline, ConfigError> {
        Pipeline::load_for(Needs::Encode, path, overrides)
    }

    /// Like [`Pipeline::load`], for a command that `needs` other keys.
    pub fn load_for(needs: Needs, path: &Path, overrides: &[String]) -> Result<Pipeline, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
        Pipeline::parse_for(needs, &text, &name, overrides)
    }

    /// Like [`Pipeline::load`], from text; `name` stands for the file in messages.
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Pipeline, ConfigError> {
        Pipeline::parse_for(Needs::Encode, text, name, overrides)
    }

    /// Like [`Pipeline::load_for`], from text.
    pub fn parse_for(needs: Needs, text: &str, name: &str, overrides: &[String]) -> Result<Pipeline, ConfigError> {
        // The file alone first: its errors have lines, those of a merged table have none.
        toml::from_str::<Pipeline>(text).map_err(|error| file_error(text, name, &error))?;
        let mut table: toml::Table = toml::from_str(text).map_err(|error| file_error(text, name, &error))?;
        for text in overrides {
            apply_override(&mut table, text)?;
        }
        let pipeline = Pipeline::deserialize(table)
            .map_err(|error| ConfigError::Invalid { at: name.to_owned(), message: describe(error.message(), None) })?;
        check(&pipeline, needs)
            .map_err(|(key, message)| ConfigError::Invalid { at: place(text, name, key), message })?;
        Ok(pipeline)
    }
}

/// The known name a typist most likely meant, if any is close.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
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

/// Reads a TOML file of the program's own; `name` stands for the file in messages.
pub(crate) fn parse_toml<T: serde::de::DeserializeOwned>(text: &str, name: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| file_error(text, name, &error))
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
    fn each_command_needs_its_own_keys() {
        let fault = |needs, text: &str| Pipeline::parse_for(needs, text, "p.toml", &[]).unwrap_err().to_string();
        let chain = "[chain]\nmodel = \"m\"\n[output]\nurl = \"o\"\n";
        let meaning = "sample.count is missing; set it to how many images to draw, or give --count or --prompts";
        assert_eq!(fault(Needs::Sample, chain), format!("p.toml: {meaning}"));
        let drawn = format!("{chain}[sample]\ncount = 3\ntemperature = [1, 0.9]\nlabels = \"all\"\n");
        let pipeline = Pipeline::parse_for(Needs::Sample, &drawn, "p.toml", &[]).unwrap();
        assert_eq!((pipeline.sample.count, pipeline.sample.temperature.0), (Some(3), vec![1.0, 0.9]));
        assert!(fault(Needs::Sample, GOOD).contains("chain.model is missing"));
        assert!(fault(Needs::Encode, &drawn).contains("dataset.format is missing"));
        let edited = format!("{chain}[edit]\nimages = \"i\"\n");
        assert!(fault(Needs::Edit, &edited).starts_with("p.toml:5: edit.masks is missing"));
        let wrong = format!("{drawn}compat = \"author\"\n");
        assert!(fault(Needs::Sample, &wrong).starts_with("p.toml:9: sample.compat = \"author\" is not one of"));
        assert!(
            fault(Needs::Sample, &format!("{drawn}unit_rows = 0\n")).contains("sample.unit_rows must be 1 or more")
        );
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
