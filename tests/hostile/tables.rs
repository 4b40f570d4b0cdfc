//! Tables of captions and URLs: every line is what the manifest says, and whoever takes the table for a dataset, or the
//! directory it lies in, is told to run img2dataset, whatever the format.

use imagebart::datasets::{CaptionTable, DatasetError, DatasetOptions, Format, TableLine, open};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The manifest's word for a line.
fn word(line: TableLine) -> &'static str {
    match line {
        TableLine::Row => "good",
        TableLine::Header => "header",
        TableLine::Blank => "blank",
        TableLine::Bad => "bad_line",
        TableLine::EmptyCaption => "empty_caption",
        TableLine::BadUtf8Caption => "bad_utf8_caption",
    }
}

pub async fn complaints(item: &Value, path: &Path) -> Vec<String> {
    let mut complaints = Vec::new();
    match CaptionTable::sniff(&std::fs::read(path).unwrap()) {
        None => complaints.push("it is not recognised".to_owned()),
        Some(table) => complaints.extend(lines(item, &table)),
    }
    let directory = path.parent().unwrap_or(path);
    for (name, format) in Format::ALL {
        for url in [path, directory] {
            let options = DatasetOptions::default();
            let opened = async { open(format, &url.display().to_string(), options).await?.units().await };
            match opened.await {
                Err(DatasetError::Config(message)) if message.contains("img2dataset --url_list /") => {}
                other => complaints.push(format!("{} as {name} gave {other:?}", url.display())),
            }
        }
    }
    complaints
}

fn lines(item: &Value, table: &CaptionTable) -> Option<String> {
    let good = item["good_lines"].as_array().into_iter().flatten();
    let good = good.map(|line| (line.to_string(), "good".to_owned()));
    let bad = item["bad_lines"].as_object().into_iter().flatten();
    let bad = bad.map(|(line, word)| (line.clone(), word.as_str().unwrap_or_default().to_owned()));
    let expected: BTreeMap<String, String> = good.chain(bad).collect();
    let found = table.lines.iter().enumerate();
    let found: BTreeMap<String, String> =
        found.map(|(number, line)| ((number + 1).to_string(), word(*line).to_owned())).collect();
    (found != expected).then(|| format!("its lines are {found:?}, not {expected:?}"))
}
