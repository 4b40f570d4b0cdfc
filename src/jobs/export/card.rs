//! The data-set card: what the images are, how they came to be, and what was left out.

use super::{ExportFormat, ExportOptions, ExportSummary};
use crate::tables::{Run, SamplesIdentity};
use std::fmt;

pub(super) struct Card<'a> {
    pub options: &'a ExportOptions,
    pub summary: &'a ExportSummary,
    pub identity: &'a SamplesIdentity,
}

impl fmt::Display for Card<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Card { options, summary, identity } = self;
        let licence = options.licence.as_deref().unwrap_or("unknown");
        writeln!(f, "---\nlicense: {licence}\ntags:\n- synthetic\n- imagebart\n---\n")?;
        writeln!(f, "# Synthetic images drawn by imagebart\n")?;
        writeln!(f, "Every image was drawn by a model; none is a photograph. Licence: {licence}.")?;
        if options.licence.is_none() {
            writeln!(f, "Nobody has said under which licence they may be used: say so above before you share them.")?;
        }
        let files = match options.format {
            ExportFormat::Webdataset => {
                "`samples-<number>.tar` are WebDataset shards: of each image the file, `.json` with all that is known of it, \
                 and where there is one the prompt (`.txt`) or class (`.cls`)."
            }
            ExportFormat::Folder => {
                "Images lie in numbered folders; `metadata.jsonl` has a line for each, which Hugging Face `datasets` reads \
                 with `load_dataset(\"imagefolder\", …)`."
            }
        };
        writeln!(f, "\n{files}\n\n## Counts\n\n| | rows |\n|---|---|")?;
        writeln!(f, "| drawn | {} |\n| not accepted while drawing | {} |", summary.rows, summary.not_accepted)?;
        match summary.not_kept {
            Some(count) => writeln!(f, "| not kept by `imagebart filter` | {count} |")?,
            None => writeln!(f, "| not kept by `imagebart filter` | not run |")?,
        }
        writeln!(f, "| in this data set | {} |", summary.exported)?;
        writeln!(f, "\n## How they were drawn\n\n| | |\n|---|---|")?;
        let settings = serde_json::json!(identity.settings).to_string();
        let facts = [
            ("run (SHA-256 of its settings)", identity.sha256()),
            ("chain", identity.chain.clone()),
            ("tokenizer", identity.tokenizer.clone()),
            ("rows", identity.rows.labels.clone()),
            ("prompts (SHA-256)", identity.rows.prompts.clone().unwrap_or_else(|| "none".to_owned())),
            ("settings by scale, from 1 up", format!("`{settings}`")),
            ("seed", identity.seed.to_string()),
            ("device", format!("{}, {}", identity.device, identity.dtype)),
        ];
        for (name, value) in facts {
            writeln!(f, "| {name} | {value} |")?;
        }
        let edited = if identity.edit.is_some() { " Images are edits: `parent` is the key of the source." } else { "" };
        writeln!(f, "\nSeed, score and settings of each image are beside it.{edited}")
    }
}
