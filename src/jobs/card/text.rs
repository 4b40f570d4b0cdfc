//! What the card says.

use super::Counts;
use crate::config::{CardSection, Pipeline};
use crate::tables::{ChooseSelection, EditSelection, Provenance, RowSettings, Run, SamplesIdentity, TableSchema};
use std::fmt;

/// What the images of a data set lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The tables of the run itself.
    Run,
    /// Shards that `imagebart export` wrote, and folders, with so many images.
    Webdataset(u64),
    Folder(u64),
}

/// A data-set card: Markdown with YAML at its head, as the Hugging Face hub reads it.
#[derive(Clone, Copy, Debug)]
pub struct Card<'a> {
    pub form: Form,
    pub provenance: &'a Provenance<SamplesIdentity>,
    pub counts: &'a Counts,
    pub section: &'a CardSection,
    /// The run's pipeline, where it is known.
    pub pipeline: Option<&'a Pipeline>,
}

const TITLE: &str = "Synthetic images drawn by imagebart";

impl fmt::Display for Card<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        writeln!(f, "# {}\n", self.section.title.as_deref().unwrap_or(TITLE))?;
        if let Some(about) = &self.section.about {
            writeln!(f, "{}\n", about.trim())?;
        }
        match &self.provenance.identity.edit {
            None => writeln!(f, "Every image was drawn by a model; none is a photograph.")?,
            Some(_) => writeln!(
                f,
                "Every image is an edit: parts were drawn by a model, the others are of the image that `parent` names."
            )?,
        }
        match &self.section.licence {
            Some(licence) => writeln!(f, "Licence: {licence}.")?,
            None => writeln!(
                f,
                "Nobody has said under which licence they may be used: say so (`card.licence` in the pipeline file, or above) \
                 before you share them."
            )?,
        }
        writeln!(f, "\n{}\n", self.files())?;
        self.counts(f)?;
        self.drawing(f)?;
        if self.form == Form::Run {
            columns(f)?;
        }
        Ok(())
    }
}

impl Card<'_> {
    /// The hub's metadata.
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "---")?;
        if let Some(title) = &self.section.title {
            writeln!(f, "pretty_name: {}", quoted(title))?;
        }
        match &self.section.licence {
            None => writeln!(f, "license: unknown")?,
            Some(licence) if is_id(licence) => writeln!(f, "license: {licence}")?,
            Some(licence) => writeln!(f, "license: other\nlicense_name: {}", quoted(licence))?,
        }
        let identity = &self.provenance.identity;
        let task = match () {
            () if identity.edit.is_some() => Some("image-to-image"),
            () if self.counts.prompts => Some("text-to-image"),
            () if identity.rows.labels == "none" => Some("unconditional-image-generation"),
            () => None,
        };
        if let Some(task) = task {
            writeln!(f, "task_categories:\n- {task}")?;
        }
        writeln!(f, "size_categories:\n- {}\ntags:\n- synthetic\n- imagebart", size_category(self.images()))?;
        match self.form {
            Form::Run => {
                // Without this the hub would take every table below for rows of one data set.
                writeln!(f, "configs:\n- config_name: samples\n  data_files: samples/**/*.parquet\n  default: true")?;
                if self.counts.rules.is_some() {
                    writeln!(f, "- config_name: decisions\n  data_files: decisions/*.parquet")?;
                }
            }
            Form::Webdataset(_) => writeln!(f, "configs:\n- config_name: default\n  data_files: \"*.tar\"")?,
            Form::Folder(_) => {}
        }
        writeln!(f, "---\n")
    }

    /// Rows of the data set.
    fn images(&self) -> u64 {
        match self.form {
            Form::Run => self.counts.accepted + self.counts.not_accepted,
            Form::Webdataset(images) | Form::Folder(images) => images,
        }
    }

    fn files(&self) -> &'static str {
        match self.form {
            Form::Run => {
                "`samples/` has the images as Parquet tables: `datasets.load_dataset(\"parquet\", data_files=\"samples/**/*.parquet\")` \
                 shows them, and DuckDB, Polars and pyarrow read them. Rows with `accepted` = false are there to compare with."
            }
            Form::Webdataset(_) => {
                "`samples-<number>.tar` are WebDataset shards: of each image the file, `.json` with all that is known of it, \
                 and where there is one the prompt (`.txt`) or class (`.cls`)."
            }
            Form::Folder(_) => {
                "Images lie in numbered folders; `metadata.jsonl` has a line for each, which Hugging Face `datasets` reads \
                 with `load_dataset(\"imagefolder\", …)`."
            }
        }
    }

    /// What became of the images.
    fn counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { drawn, accepted, not_accepted, dropped, rejected, rules, .. } = self.counts;
        writeln!(f, "## Counts\n\n| | images |\n|---|---|\n| drawn | {drawn} |\n| accepted by the run | {accepted} |")?;
        let mut others = vec![("not accepted, in the table all the same".to_owned(), *not_accepted)];
        others.push(("not accepted, and not kept in the table".to_owned(), *dropped));
        others.extend(rejected.iter().map(|(reason, count)| (format!("not made: `{reason}`"), *count)));
        for (what, count) in others.iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "| {what} | {count} |")?;
        }
        match rules {
            None => writeln!(f, "| kept by `imagebart filter` | not run |")?,
            Some(rules) => {
                writeln!(f, "| kept by `imagebart filter` | {} |", self.counts.kept())?;
                let others = rules.iter().filter(|(rule, _)| !["kept", "not-accepted"].contains(&rule.as_str()));
                for (rule, count) in others {
                    writeln!(f, "| not kept: `{rule}` | {count} |")?;
                }
            }
        }
        match self.form {
            Form::Run => writeln!(f),
            Form::Webdataset(images) | Form::Folder(images) => writeln!(f, "| in this data set | {images} |\n"),
        }
    }

    /// Provenance: what drew the images, and how.
    fn drawing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SamplesIdentity { rows, settings, .. } = &self.provenance.identity;
        let identity = &self.provenance.identity;
        let ((height, width), codes) = (self.provenance.grid, self.provenance.codebook_size);
        let name = |of: fn(&Pipeline) -> Option<&str>| self.pipeline.and_then(of).map(base);
        let model = name(|pipeline| Some(pipeline.chain.model.as_str()));
        let prompts = name(|pipeline| pipeline.sample.prompts.as_deref()).filter(|_| identity.edit.is_none());
        let digest = rows.prompts.as_ref().map(|digest| format!("rows with SHA-256 `{digest}`"));
        let of = [prompts.map(|name| format!("`{name}`")), digest].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let mut facts = vec![
            ("run", format!("SHA-256 of its settings `{}`", identity.sha256())),
            ("model", model.map_or("not recorded".to_owned(), |name| format!("`{name}`"))),
            ("chain", format!("weights and description with SHA-256 `{}`", identity.chain)),
            (
                "tokenizer",
                format!("weights with SHA-256 `{}`, {height} × {width} tokens of {codes} codes", identity.tokenizer),
            ),
            ("drawn of", if rows.prompts.is_some() { format!("prompts: {of}") } else { rows.labels.clone() }),
            ("seed", identity.seed.to_string()),
            ("noise schedule", numbers(&identity.schedule)),
            ("images", identity.image.clone()),
            ("device", format!("{}, {}, batches of {}", identity.device, identity.dtype, identity.batch_size)),
        ];
        facts.extend(identity.choose.as_ref().map(|choose| ("chosen", chosen(choose))));
        facts.extend(identity.edit.as_ref().map(|edit| ("edited", edited(edit))));
        writeln!(f, "## How they were drawn\n\n| | |\n|---|---|")?;
        for (name, value) in facts {
            writeln!(f, "| {name} | {} |", value.replace('|', "\\|"))?;
        }
        writeln!(
            f,
            "\nUnless a row says otherwise (scale 1 makes the tokens of the image, the last one starts from noise):\n"
        )?;
        by_scale(f, settings)?;
        writeln!(f, "\nSeed, score and settings of each image are beside it.")?;
        match (self.form, &identity.edit) {
            (Form::Run, None) => {
                writeln!(f, "`imagebart sample <this folder> --key <key>` draws one of them again, to the bit.\n")
            }
            _ => writeln!(f),
        }
    }
}

fn chosen(choose: &ChooseSelection) -> String {
    let ChooseSelection { scorer, draw, rate, threshold, .. } = choose;
    let of = draw.map_or("as many candidates as a row wants".to_owned(), |draw| format!("{draw} candidates a row"));
    let best = rate.map_or(String::new(), |rate| format!(", the best {} %", rate * 100.0));
    let least = threshold.map_or(String::new(), |least| format!(", none below {least}"));
    format!("by `{scorer}`, of {of}{best}{least}")
}

fn edited(edit: &EditSelection) -> String {
    let EditSelection { mode, inputs, start, blend, .. } = edit;
    let kept = if *blend { "known pixels put back" } else { "known pixels as the tokenizer makes them" };
    format!("{mode}, from scale {start}, {kept}; images and masks with SHA-256 `{inputs}`")
}

/// Settings as a table, a line a scale.
fn by_scale(f: &mut fmt::Formatter<'_>, settings: &RowSettings) -> fmt::Result {
    let RowSettings { temperature, top_k, top_p, guidance } = settings;
    writeln!(f, "| scale | temperature | top-k | top-p | guidance |\n|---|---|---|---|---|")?;
    let lines = temperature.iter().zip(top_k).zip(top_p).zip(guidance);
    for (scale, (((temperature, top_k), top_p), guidance)) in (1..).zip(lines) {
        writeln!(f, "| {scale} | {temperature} | {top_k} | {top_p} | {guidance} |")?;
    }
    Ok(())
}

/// The columns of the table, in the words of its schema.
fn columns(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Ok(table) = TableSchema::samples() else { return Ok(()) };
    writeln!(f, "## Columns of `samples`\n\n| column | |\n|---|---|")?;
    for column in &table.columns {
        writeln!(f, "| `{}` | {} |", column.name, column.doc.replace('|', "\\|"))?;
    }
    writeln!(f)
}

fn numbers(values: &[f32]) -> String {
    values.iter().map(f32::to_string).collect::<Vec<_>>().join(", ")
}

/// The last part of a path or URL: a card is for others, whom the rest does not concern.
fn base(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// Text as YAML takes it, whatever it holds: JSON's quotes are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether a licence is named as the hub names licences.
fn is_id(licence: &str) -> bool {
    licence.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
}

/// The hub's name for a number of rows.
fn size_category(rows: u64) -> &'static str {
    let below = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")];
    let more = [(10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B")];
    let found = below.into_iter().chain(more).find(|(limit, _)| rows < *limit);
    found.map_or("1B<n<10B", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_others() {
        assert_eq!((base("/home/me/captions.txt"), base("s3://b/p/x.csv"), base("m/")), ("captions.txt", "x.csv", "m"));
        assert_eq!(quoted("a: \"b\""), "\"a: \\\"b\\\"\"");
        assert!(is_id("cc-by-4.0") && !is_id("My own licence") && !is_id("MIT"));
        let sizes = [0, 999, 1_000, 99_999, 1_000_000, u64::MAX].map(size_category);
        assert_eq!(sizes, ["n<1K", "n<1K", "1K<n<10K", "10K<n<100K", "1M<n<10M", "1B<n<10B"]);
    }
}
