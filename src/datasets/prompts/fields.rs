//! The columns of a prompt table, and what their values may be, whatever the file's format.

use crate::config::nearest;

/// Longest key, in bytes: keys become names of files.
const MAX_KEY: usize = 256;
/// Whole numbers up to here are exact as floating-point numbers, which is what some programs make of a column with gaps.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A column of a prompt table: see `schemas/prompts.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Prompt,
    Label,
    Key,
    Seed,
    Count,
    Temperature,
    TopK,
    TopP,
    Guidance,
}

impl Column {
    /// All of them, in the schema's order.
    pub const ALL: [Column; 9] = [
        Column::Prompt,
        Column::Label,
        Column::Key,
        Column::Seed,
        Column::Count,
        Column::Temperature,
        Column::TopK,
        Column::TopP,
        Column::Guidance,
    ];

    /// Its name in a file.
    pub fn name(self) -> &'static str {
        match self {
            Column::Prompt => "prompt",
            Column::Label => "label",
            Column::Key => "key",
            Column::Seed => "seed",
            Column::Count => "count",
            Column::Temperature => "temperature",
            Column::TopK => "top_k",
            Column::TopP => "top_p",
            Column::Guidance => "guidance",
        }
    }

    fn named(name: &str) -> Option<Column> {
        Column::ALL.into_iter().find(|column| column.name() == name)
    }

    /// The column called `name`; none where its values are passed over.
    ///
    /// # Errors
    /// A name that is neither a column's nor among `ignored` and `beside`, with the nearest that is.
    pub(super) fn find(name: &str, ignored: &[String], beside: &[&'static str]) -> Result<Option<Column>, String> {
        if beside.contains(&name) || ignored.iter().any(|ignored| ignored == name) {
            return Ok(None);
        }
        let unknown = || {
            let known = [beside, &Column::ALL.map(Column::name)].concat();
            let hint = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the columns are {}", known.join(", ")),
            };
            format!(
                "unknown column `{name}`: {hint} A column of your own can be named in sample.ignore_columns; the samples \
                 lead back to it by their key"
            )
        };
        Column::named(name).map(Some).ok_or_else(unknown)
    }
}

/// What becomes of the columns with these names, in the file's order.
///
/// # Errors
/// An unknown name, or one that is there twice.
pub(super) fn columns<'a>(
    names: impl Iterator<Item = &'a str>,
    ignored: &[String],
    beside: &[&'static str],
) -> Result<Vec<Option<Column>>, String> {
    let mut found: Vec<Option<Column>> = Vec::new();
    for name in names {
        let column = Column::find(name, ignored, beside)?;
        if column.is_some() && found.contains(&column) {
            return Err(format!("the column `{name}` is there twice"));
        }
        found.push(column);
    }
    Ok(found)
}

/// A class, as a table names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// Its number.
    Id(u64),
    Name(String),
}

/// A row of a prompt table, as it is written. What a list holds is the numbers from scale 1 up, or one for all scales; an empty
/// one was left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptRow {
    /// Where it stands, from 1: the line of plain text or JSON, the row of other tables.
    pub at: u64,
    pub prompt: Option<String>,
    pub label: Option<Class>,
    pub key: Option<String>,
    pub seed: Option<u64>,
    pub count: Option<u64>,
    pub temperature: Vec<f32>,
    pub top_k: Vec<u32>,
    pub top_p: Vec<f32>,
    pub guidance: Vec<f32>,
}

/// A value, as its format holds it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// Left out.
    Nothing,
    Text(&'a str),
    Whole(i128),
    Number(f64),
    List(Vec<f64>),
}

impl PromptRow {
    /// A row that stands at `at`, without values.
    pub(super) fn at(at: u64) -> PromptRow {
        PromptRow { at, ..PromptRow::default() }
    }

    /// Takes the value of a column.
    ///
    /// # Errors
    /// What is wrong with it, as it follows "line 3: ".
    pub(super) fn set(&mut self, column: Column, value: Value) -> Result<(), String> {
        if value == Value::Nothing {
            return Ok(());
        }
        let wrong = |what: &str| format!("its {} {what}", column.name());
        match column {
            Column::Prompt => self.prompt = Some(text(&value).map_err(|what| wrong(&what))?.to_owned()),
            Column::Label => self.label = Some(class(&value).map_err(|what| wrong(&what))?),
            Column::Key => self.key = Some(key(&value).map_err(|what| wrong(&what))?),
            Column::Seed => self.seed = Some(whole(&value).map_err(|what| wrong(&what))?),
            Column::Count => match whole(&value).map_err(|what| wrong(&what))? {
                0 => return Err("its count is 0: leave the row out".to_owned()),
                count => self.count = Some(count),
            },
            Column::Temperature => self.temperature = floats(&value).map_err(|what| wrong(&what))?,
            Column::TopP => self.top_p = floats(&value).map_err(|what| wrong(&what))?,
            Column::Guidance => self.guidance = floats(&value).map_err(|what| wrong(&what))?,
            Column::TopK => {
                let small = |number: f64| u32::try_from(integer(number)?).map_err(|_| "is too large".to_owned());
                let numbers = numbers(&value).map_err(|what| wrong(&what))?;
                let list: Result<Vec<u32>, String> = numbers.into_iter().map(small).collect();
                self.top_k = list.map_err(|what| wrong(&what))?;
            }
        }
        Ok(())
    }
}

fn text<'a>(value: &Value<'a>) -> Result<&'a str, String> {
    match value {
        Value::Text(text) if text.trim().is_empty() => Err("is empty".to_owned()),
        Value::Text(text) => Ok(text.trim()),
        _ => Err("is a number, not a text".to_owned()),
    }
}

fn class(value: &Value) -> Result<Class, String> {
    if let Value::Text(_) = value {
        let name = text(value)?;
        let digits = name.bytes().all(|byte| byte.is_ascii_digit());
        let id = if digits { name.parse().ok() } else { None };
        return Ok(id.map_or_else(|| Class::Name(name.to_owned()), Class::Id));
    }
    whole(value).map(Class::Id)
}

fn key(value: &Value) -> Result<String, String> {
    let key = match value {
        Value::Text(_) => text(value)?.to_owned(),
        _ => whole(value)?.to_string(),
    };
    match () {
        () if key.len() > MAX_KEY => Err(format!("has {} bytes; at most {MAX_KEY} are taken", key.len())),
        () if key.chars().any(char::is_control) => Err("has control characters".to_owned()),
        () => Ok(key),
    }
}

/// A whole number, 0 or more.
fn whole(value: &Value) -> Result<u64, String> {
    match value {
        Value::Whole(number) => {
            u64::try_from(*number).map_err(|_| format!("is {number}: it must be 0 to {}", u64::MAX))
        }
        Value::Number(number) => integer(*number),
        Value::Text(text) => {
            text.trim().parse().map_err(|_| format!("is \"{}\", not a whole number, 0 or more", text.trim()))
        }
        Value::List(_) | Value::Nothing => Err("is a list, not a whole number".to_owned()),
    }
}

/// A floating-point number that is a whole one.
fn integer(number: f64) -> Result<u64, String> {
    match number.fract() == 0.0 && (0.0..EXACT).contains(&number) {
        true => Ok(number as u64),
        false => Err(format!("is {number}, not a whole number, 0 or more")),
    }
}

fn floats(value: &Value) -> Result<Vec<f32>, String> {
    Ok(numbers(value)?.into_iter().map(|number| number as f32).collect())
}

/// A number or several: as text, `0.9` or `[1, 0.9]`.
fn numbers(value: &Value) -> Result<Vec<f64>, String> {
    match value {
        Value::Whole(number) => Ok(vec![*number as f64]),
        Value::Number(number) => Ok(vec![*number]),
        Value::List(list) if list.is_empty() => Err("is an empty list".to_owned()),
        Value::List(list) => Ok(list.clone()),
        Value::Nothing => Ok(Vec::new()),
        Value::Text(text) => {
            let inside = text.trim();
            let inside = inside.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(inside);
            let number = |part: &str| part.trim().parse::<f64>().ok();
            let list: Option<Vec<f64>> = inside.split(',').map(number).collect();
            list.ok_or_else(|| format!("is \"{}\", neither a number nor a list of them", text.trim()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_those_of_the_schema() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../../../schemas/prompts.json")).unwrap();
        let names: Vec<&str> =
            schema["columns"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect();
        assert_eq!(names, Column::ALL.map(Column::name));
    }

    #[test]
    fn unknown_columns_name_the_nearest() {
        let find = |names: &[&str]| columns(names.iter().copied(), &["url".to_owned()], &["image"]);
        assert_eq!(find(&["url", "prompt", "top_k"]), Ok(vec![None, Some(Column::Prompt), Some(Column::TopK)]));
        let fault = find(&["promt"]).unwrap_err();
        assert!(fault.starts_with("unknown column `promt`: did you mean `prompt`?"), "{fault}");
        assert!(fault.contains("sample.ignore_columns"), "{fault}");
        assert!(find(&["hash_of_image"]).unwrap_err().contains("the columns are image, prompt, label, key"));
        assert_eq!(find(&["image", "key"]), Ok(vec![None, Some(Column::Key)]));
        assert!(find(&["imgae"]).unwrap_err().contains("did you mean `image`?"));
        assert!(find(&["seed", "seed"]).unwrap_err().contains("`seed` is there twice"));
    }

    #[test]
    fn values_are_read_however_they_are_written() {
        let read = |column, value| {
            let mut row = PromptRow::at(1);
            row.set(column, value).map(|()| row)
        };
        let expected = |change: &dyn Fn(&mut PromptRow)| {
            let mut row = PromptRow::at(1);
            change(&mut row);
            Ok(row)
        };
        for value in [Value::Whole(7), Value::Number(7.0), Value::Text(" 7 ")] {
            assert_eq!(read(Column::Seed, value.clone()), expected(&|row| row.seed = Some(7)));
            assert_eq!(read(Column::Label, value.clone()), expected(&|row| row.label = Some(Class::Id(7))));
            assert_eq!(read(Column::Key, value.clone()), expected(&|row| row.key = Some("7".to_owned())));
            assert_eq!(read(Column::TopK, value), expected(&|row| row.top_k = vec![7]));
        }
        let name = Class::Name("red fox".to_owned());
        assert_eq!(read(Column::Label, Value::Text("red fox")), expected(&|row| row.label = Some(name.clone())));
        for value in [Value::List(vec![1.0, 0.5]), Value::Text("[1, 0.5]"), Value::Text("1,0.5")] {
            assert_eq!(read(Column::Temperature, value), expected(&|row| row.temperature = vec![1.0, 0.5]));
        }
        assert_eq!(read(Column::Seed, Value::Whole(u64::MAX.into())), expected(&|row| row.seed = Some(u64::MAX)));
        assert_eq!(read(Column::Prompt, Value::Nothing), expected(&|_| ()));
        assert_eq!(read(Column::Prompt, Value::Text(" a b\n")), expected(&|row| row.prompt = Some("a b".to_owned())));
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        let long = "k".repeat(257);
        let fault = |column, value| PromptRow::at(1).set(column, value).unwrap_err();
        assert_eq!(fault(Column::Prompt, Value::Text(" ")), "its prompt is empty");
        assert_eq!(fault(Column::Prompt, Value::Whole(3)), "its prompt is a number, not a text");
        assert!(fault(Column::Seed, Value::Whole(-1)).starts_with("its seed is -1: it must be 0 to"));
        assert!(fault(Column::Seed, Value::Number(1.5)).starts_with("its seed is 1.5, not a whole number"));
        assert!(fault(Column::Seed, Value::Text("x")).starts_with("its seed is \"x\", not a whole number"));
        assert!(fault(Column::Count, Value::Whole(0)).starts_with("its count is 0"));
        assert!(fault(Column::Key, Value::Text("a\tb")).contains("control characters"));
        assert!(fault(Column::Key, Value::Text(&long)).contains("at most 256"));
        assert!(fault(Column::TopP, Value::Text("high")).contains("neither a number nor a list"));
        assert!(fault(Column::TopK, Value::Number(1e12)).contains("too large"));
        assert!(fault(Column::Guidance, Value::List(Vec::new())).contains("empty list"));
    }
}
