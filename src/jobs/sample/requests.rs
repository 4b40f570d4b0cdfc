//! From the rows of a prompt table to what is asked of one chain.

use super::choose::{Candidate, Share};
use super::draws::Draw;
use super::subjects::{Prompt, Subject};
use crate::chain::{Condition, SettingsLists};
use crate::config::{Pipeline, nearest};
use crate::datasets::prompts::{Class, Column, PromptError, PromptRow, PromptTable};
use crate::datasets::{Unit, imagenet_class, read_lines};
use crate::jobs::JobError;
use crate::jobs::model::Model;
use crate::jobs::row_settings::{RowDraw, RunSettings};
use crate::random::RowKey;
use crate::tables::row_key;
use crate::text::TextTokenizer;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// Longest file of class names.
const MAX_NAMES: u64 = 16 << 20;
/// Bits of the seeds that are made up. Programs that hold numbers as floating-point ones give these back as they are.
const SEED_BITS: u32 = 53;

/// A row of a table, and what is asked of the chain.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where it stands in the table, for messages.
    pub row: PromptRow,
    pub key: Arc<str>,
    /// Images that are drawn of it.
    pub draws: u64,
    /// How many of them may be kept: all, unless the run chooses.
    pub keep: u64,
    pub subject: Subject,
    pub settings: RowDraw,
    /// Whether the end of its text is lost.
    pub cut: bool,
    /// The run's seed.
    run_seed: u64,
    chosen: bool,
}

impl Request {
    /// Its image `index`, which is row `number` of the run.
    pub fn draw(&self, index: u64, number: u64, unit: Arc<Unit>) -> Draw {
        let seed = match self.row.seed {
            Some(seed) => seed.wrapping_add(index),
            None => made_up(self.run_seed, &self.key, index),
        };
        Draw {
            number,
            key: format!("{}-{index}", self.key),
            seed,
            random: RowKey::new(seed, "prompts", 0, 0),
            unit,
            subject: self.subject.clone(),
            settings: self.settings.clone(),
            candidate: self.chosen.then_some(Candidate { index, of: self.draws, keep: self.keep }),
        }
    }

    /// The last seed of its images, where it gives the first.
    pub fn seeds(&self) -> Option<(u64, Option<u64>)> {
        self.row.seed.map(|first| (first, first.checked_add(self.draws.saturating_sub(1))))
    }

    /// Adds to a digest everything that its images' bytes depend on.
    pub fn digest(&self, hash: &mut Sha256) {
        let mut text = |tag: u8, text: &str| {
            hash.update([tag]);
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        match &self.subject {
            Subject::Nothing => text(0, ""),
            Subject::Class(class) => text(1, &class.to_string()),
            Subject::Prompt(prompt) => text(2, &prompt.text),
        }
        text(3, &self.key);
        hash.update([u8::from(self.row.seed.is_some())]);
        hash.update(self.row.seed.unwrap_or(0).to_le_bytes());
        hash.update(self.draws.to_le_bytes());
        hash.update(self.keep.to_le_bytes());
        let settings = &self.settings.recorded;
        for list in [&settings.temperature, &settings.top_p, &settings.guidance] {
            list.iter().for_each(|number| hash.update(number.to_le_bytes()));
        }
        settings.top_k.iter().for_each(|number| hash.update(number.to_le_bytes()));
    }
}

/// The seed of image `index` of a row that gives none.
fn made_up(run_seed: u64, key: &str, index: u64) -> u64 {
    let mut hash = Sha256::new();
    hash.update(run_seed.to_le_bytes());
    hash.update((key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(index.to_le_bytes());
    let first = hash.finalize().into_iter().take(8).fold(0, |number, byte| number << 8 | u64::from(byte));
    first >> (u64::BITS - SEED_BITS)
}

/// Reads a table's rows as requests to one chain.
#[derive(Clone)]
pub struct Interpreter {
    pub table: PromptTable,
    what: What,
    run: RunSettings,
    usual: RowDraw,
    /// Images of rows that do not say.
    count: u64,
    /// How many images are drawn of a row, and how many of them may be kept, where the run chooses.
    share: Option<Share>,
    /// What rows are drawn of that say neither a text nor a class, where they may.
    otherwise: Option<Subject>,
    strict: bool,
    seed: u64,
    /// The settings of the last row that had some of its own: rows that follow one another are often alike.
    last: Option<(SettingsLists, RowDraw)>,
}

/// What the chain is conditioned on.
#[derive(Clone)]
enum What {
    Nothing,
    Classes(Arc<Classes>),
    Texts(Arc<TextTokenizer>, usize),
}

/// The chain's classes.
struct Classes {
    count: u32,
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Interpreter {
    /// Opens the table at `url` for `model`.
    ///
    /// # Errors
    /// [`JobError::Usage`]: no such table; class names or a text tokenizer that do not fit the chain.
    pub async fn open(
        pipeline: &Pipeline,
        url: &str,
        model: &Model,
        share: Option<Share>,
    ) -> Result<Interpreter, JobError> {
        let line = match model.directory.config().condition {
            Condition::Class { .. } => Column::Label,
            Condition::None | Condition::Text(_) => Column::Prompt,
        };
        let sample = &pipeline.sample;
        let table = PromptTable::open(url, &sample.ignore_columns, line).await.map_err(usage)?;
        Interpreter::of(table, pipeline, model, (sample.count.unwrap_or(1), share)).await
    }

    /// Reads the rows of `table`; of those that do not say, `count` images are wanted.
    ///
    /// # Errors
    /// [`JobError::Usage`]: class names or a text tokenizer that do not fit the chain.
    pub async fn of(
        table: PromptTable,
        pipeline: &Pipeline,
        model: &Model,
        (count, share): (u64, Option<Share>),
    ) -> Result<Interpreter, JobError> {
        let sample = &pipeline.sample;
        let condition = model.directory.config().condition;
        if sample.class_names.is_some() && !matches!(condition, Condition::Class { .. }) {
            return Err(usage("sample.class_names is given, but the chain has no classes"));
        }
        let what = match condition {
            Condition::None => What::Nothing,
            Condition::Class { classes, .. } => {
                let names = match &sample.class_names {
                    Some(file) => names(file, classes).await?,
                    None => Vec::new(),
                };
                What::Classes(Arc::new(Classes::new(classes, names)))
            }
            Condition::Text(text) => {
                let tokenizer = TextTokenizer::open(model.directory.text_tokenizer_file()).map_err(usage)?;
                if tokenizer.vocabulary() != text.vocabulary {
                    return Err(usage(format!(
                        "{} has {} ids, but the chain's text embedding {}: it is not the tokenizer the chain was trained \
                         with",
                        tokenizer.path().display(),
                        tokenizer.vocabulary(),
                        text.vocabulary
                    )));
                }
                What::Texts(Arc::new(tokenizer), usize::try_from(text.length).unwrap_or(0))
            }
        };
        Ok(Interpreter {
            table,
            what,
            run: model.run.clone(),
            usual: model.usual.clone(),
            count,
            share,
            otherwise: None,
            strict: sample.strict,
            seed: pipeline.run.seed,
            last: None,
        })
    }

    /// The same where rows that say neither a text nor a class are drawn of `subject`.
    pub fn otherwise(self, subject: Option<Subject>) -> Interpreter {
        Interpreter { otherwise: subject, ..self }
    }

    /// Images that are drawn of a row.
    pub fn draws(&self, row: &PromptRow) -> u64 {
        let count = row.count.unwrap_or(self.count);
        self.share.map_or(count, |share| share.draws(count))
    }

    /// What row `number` of the table, from 0, asks for.
    ///
    /// # Errors
    /// What is wrong with the row, in the table's words for its place.
    pub fn request(&mut self, number: u64, row: PromptRow) -> Result<Request, PromptError> {
        let (subject, cut) = self.subject(&row).map_err(|what| self.table.fault(&row, what))?;
        let settings = self.settings(&row).map_err(|what| self.table.fault(&row, what))?;
        let count = row.count.unwrap_or(self.count);
        let keep = self.share.map_or(Ok(count), |share| share.keep(count));
        let keep = keep.map_err(|what| self.table.fault(&row, format!("its {what}")))?;
        let key: Arc<str> = row.key.as_deref().map_or_else(|| row_key(number).into(), Arc::from);
        let (draws, chosen) = (self.draws(&row), self.share.is_some());
        Ok(Request { key, draws, keep, subject, settings, cut, row, run_seed: self.seed, chosen })
    }

    /// What the row is drawn of, and whether the end of its text is lost.
    ///
    /// # Errors
    /// What is wrong with it, as it follows "line 3: ".
    pub fn subject(&self, row: &PromptRow) -> Result<(Subject, bool), String> {
        if let (None, None, Some(subject)) = (&row.prompt, &row.label, &self.otherwise) {
            return Ok((subject.clone(), false));
        }
        match (&self.what, &row.prompt, &row.label) {
            (What::Texts(tokenizer, length), Some(text), None) => {
                let encoded = tokenizer.encode(text, *length).map_err(|error| error.to_string())?;
                if encoded.truncated && self.strict {
                    return Err(format!("its prompt has more than {length} tokens, and sample.strict = true"));
                }
                let prompt = Prompt { text: text.as_str().into(), ids: encoded.ids.into() };
                Ok((Subject::Prompt(prompt), encoded.truncated))
            }
            (What::Classes(classes), None, Some(label)) => Ok((Subject::Class(classes.find(label)?), false)),
            (What::Nothing, None, None) => Ok((Subject::Nothing, false)),
            (What::Texts(..), _, Some(_)) => Err("it has a label, but the chain is conditioned on text".to_owned()),
            (What::Texts(..), None, _) => Err("it has no prompt".to_owned()),
            (What::Classes(_), Some(_), _) => {
                Err("it has a prompt, but the chain is conditioned on classes: give a label".to_owned())
            }
            (What::Classes(_), _, None) => Err("it has no label".to_owned()),
            (What::Nothing, Some(_), _) => {
                Err("it has a prompt, but the chain is not conditioned on text, so it cannot draw prompts".to_owned())
            }
            (What::Nothing, ..) => Err("it has a label, but the chain has no classes".to_owned()),
        }
    }

    fn settings(&mut self, row: &PromptRow) -> Result<RowDraw, String> {
        let own = SettingsLists {
            temperature: row.temperature.clone(),
            top_k: row.top_k.clone(),
            top_p: row.top_p.clone(),
            guidance: row.guidance.clone(),
            greedy: false,
        };
        if own == SettingsLists::default() {
            return Ok(self.usual.clone());
        }
        if let Some((lists, settings)) = &self.last
            && *lists == own
        {
            return Ok(settings.clone());
        }
        let settings = self.run.row(&own).map_err(|error| format!("its {error}"))?;
        self.last = Some((own, settings.clone()));
        Ok(settings)
    }
}

impl Classes {
    fn new(count: u32, names: Vec<String>) -> Classes {
        // Of equal names the first: which of them is meant, nobody can tell.
        let numbered = names.iter().rev().zip((0..names.len() as u32).rev());
        let numbers = numbered.map(|(name, number)| (name.clone(), number)).collect();
        Classes { count, names, numbers }
    }

    /// The number of a class.
    fn find(&self, class: &Class) -> Result<u32, String> {
        let count = self.count;
        match class {
            Class::Id(id) => match u32::try_from(*id).ok().filter(|id| *id < count) {
                Some(id) => Ok(id),
                None => Err(format!("its class {id} is out of range; the chain has {count}: 0 to {}", count - 1)),
            },
            Class::Name(name) => {
                // The synsets of ImageNet have names that everybody uses.
                let synset = || if count == 1000 { u32::try_from(imagenet_class(name)?).ok() } else { None };
                self.numbers.get(name).copied().or_else(synset).ok_or_else(|| self.unknown(name))
            }
        }
    }

    fn unknown(&self, name: &str) -> String {
        if self.names.is_empty() {
            return format!(
                "its class \"{name}\" is not a number from 0 to {}; for names, list them in a file and set \
                 sample.class_names to it",
                self.count - 1
            );
        }
        let hint = nearest(name, self.names.iter().map(String::as_str));
        let hint = hint.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
        format!("its class \"{name}\" is not one of the {} in sample.class_names{hint}", self.names.len())
    }
}

/// The names in `file`, one a line, of as many classes as the chain has.
async fn names(file: &str, classes: u32) -> Result<Vec<String>, JobError> {
    let text = read_lines("sample.class_names", file, MAX_NAMES).await.map_err(usage)?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    if let Some(line) = names.iter().position(String::is_empty) {
        return Err(usage(format!("sample.class_names = {file}: line {} is empty", line + 1)));
    }
    if names.len() != classes as usize {
        return Err(usage(format!(
            "sample.class_names = {file} has {} lines, the chain {classes} classes",
            names.len()
        )));
    }
    Ok(names)
}

/// What the user is to mend.
pub fn usage(what: impl std::fmt::Display) -> JobError {
    JobError::Usage(what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_go_by_number_and_by_name() {
        let classes = Classes::new(3, ["red fox", "owl", "newt"].map(str::to_owned).to_vec());
        let name = |name: &str| classes.find(&Class::Name(name.to_owned()));
        assert_eq!((classes.find(&Class::Id(2)), name("owl")), (Ok(2), Ok(1)));
        assert!(classes.find(&Class::Id(3)).unwrap_err().contains("class 3 is out of range; the chain has 3: 0 to 2"));
        assert_eq!(
            name("red fix").unwrap_err(),
            "its class \"red fix\" is not one of the 3 in sample.class_names; did you mean \"red fox\"?"
        );
        let nameless = Classes::new(1000, Vec::new());
        assert_eq!(nameless.find(&Class::Name("n01440764".to_owned())), Ok(0));
        assert!(nameless.find(&Class::Name("tench".to_owned())).unwrap_err().contains("set sample.class_names"));
    }

    #[test]
    fn made_up_seeds_are_exact_numbers_everywhere_and_all_different() {
        let seeds: std::collections::BTreeSet<u64> = (0..1000)
            .flat_map(|index| ["a", "b"].map(|key| made_up(7, key, index)))
            .chain((0..1000).map(|seed| made_up(seed + 8, "a", 0)))
            .collect();
        assert_eq!(seeds.len(), 3000);
        assert!(seeds.iter().all(|&seed| (seed as f64) as u64 == seed));
    }
}
