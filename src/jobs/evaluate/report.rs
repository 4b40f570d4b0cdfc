//! The files of an evaluation: JSON, Parquet, and a page for a browser.

use super::Shown;
use super::curves::charts;
use super::figure::{Figure, Report, short};
use super::neighbours::Neighbourhood;
use super::reconstruction::Pair;
use crate::html::{Opening, Page, escape};
use crate::imaging::{Rgb, encode_jpeg, encode_png};
use crate::jobs::JobError;
use crate::tables::TableSchema;
use arrow::array::{ArrayRef, Float64Array, StringArray, UInt64Array};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const JSON: &str = "evaluation.json";
const PARQUET: &str = "evaluation.parquet";
const HTML: &str = "evaluation.html";
/// Images with a longer side are shown as JPEG.
const LARGEST_PNG: u32 = 128;
const JPEG_QUALITY: u8 = 92;

/// Writes all three into the folder `to`, each under its name only when it is whole.
///
/// # Errors
/// Failures to write.
pub fn write(to: &Path, report: &Report, shown: &[Shown]) -> Result<Vec<PathBuf>, JobError> {
    let json = serde_json::to_vec_pretty(report).map_err(JobError::failed)?;
    let files = [(JSON, json), (PARQUET, parquet(report)?), (HTML, page(report, shown)?.into_bytes())];
    let failed = |error: std::io::Error| JobError::Failed(format!("cannot write to {}: {error}", to.display()));
    std::fs::create_dir_all(to).map_err(failed)?;
    for (name, bytes) in &files {
        let partial = to.join(format!("{name}.partial"));
        std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, to.join(name))).map_err(failed)?;
    }
    Ok(files.iter().map(|(name, _)| to.join(name)).collect())
}

/// The `metrics` table: a row a figure.
fn parquet(report: &Report) -> Result<Vec<u8>, JobError> {
    let table = TableSchema::metrics().map_err(JobError::failed)?;
    let schema = table.arrow(0).map_err(JobError::failed)?;
    let figures = &report.figures;
    let text = |of: &dyn Fn(&Figure) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(figures.iter().map(of)))
    };
    let end = |of: &dyn Fn(&crate::evaluate::Interval) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter(figures.iter().map(|figure| figure.interval.as_ref().map(of))))
    };
    let json = |map: &BTreeMap<String, String>| serde_json::to_string(map).unwrap_or_default();
    let column = |name: &str| -> Option<ArrayRef> {
        Some(match name {
            "run" => {
                let runs = figures.iter().map(|figure| report.run(&figure.run));
                Arc::new(StringArray::from_iter(runs.map(|run| run.map(|run| &run.name))))
            }
            "at" => Arc::new(Float64Array::from_iter(
                figures.iter().map(|figure| report.run(&figure.run).and_then(|run| run.at)),
            )),
            "group" => text(&|figure| figure.group.clone()),
            "metric" => text(&|figure| figure.metric.clone()),
            "value" => Arc::new(Float64Array::from_iter_values(figures.iter().map(|figure| figure.value))),
            "unit" => text(&|figure| figure.unit.clone()),
            "better" => text(&|figure| figure.better.name().to_owned()),
            "rows" => Arc::new(UInt64Array::from_iter_values(figures.iter().map(|figure| figure.rows))),
            "low" => end(&|interval| interval.low),
            "high" => end(&|interval| interval.high),
            "error" => end(&|interval| interval.error),
            "settings" => text(&|figure| json(&figure.settings)),
            "subject" => text(&|figure| json(&report.subject_of(figure))),
            "rows_id" => text(&|figure| figure.rows_id.clone()),
            _ => return None,
        })
    };
    let unknown = |name: &str| JobError::Failed(format!("schemas/metrics.json has the unknown column {name}"));
    let columns: Result<Vec<ArrayRef>, JobError> =
        table.columns.iter().map(|it| column(&it.name).ok_or_else(|| unknown(&it.name))).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns?).map_err(JobError::failed)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_key_value_metadata(Some(vec![KeyValue::new("imagebart.table".to_owned(), table.id())]))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(JobError::failed)?;
    writer.write(&batch).map_err(JobError::failed)?;
    writer.into_inner().map_err(JobError::failed)
}

fn page(report: &Report, shown: &[Shown]) -> Result<String, JobError> {
    let rows = report.figures.iter().map(|figure| figure.rows).max().unwrap_or(0);
    let summary =
        format!("{} figures on up to {rows} rows; brackets hold 95 % bootstrap intervals.", report.figures.len());
    let styles = include_str!("report.css");
    let mut page = Page::open(&Opening { title: "Evaluation", summary: &summary, notes: &report.notes, styles });
    facts(&mut page, "What was measured", &report.subject);
    for run in report.runs.iter().filter(|run| !run.subject.is_empty()) {
        facts(&mut page, &run.name, &run.subject);
    }
    charts(&mut page, report);
    page.raw("<table>\n<tr><th>metric</th><th>value</th><th>95 % interval</th><th>better</th><th>rows</th>");
    page.raw("<th>how</th></tr>\n");
    for figure in &report.figures {
        row(&mut page, figure);
    }
    page.raw("</table>\n");
    for Shown { run, extremes, neighbours } in shown {
        let heading = |text: &str| if run.is_empty() { text.to_owned() } else { format!("{text}, {run}") };
        if let Some(neighbours) = neighbours {
            let text = "Generated images nearest to the reference, each beside the reference images nearest to it";
            beside(&mut page, &heading(text), neighbours.median, &neighbours.closest)?;
            let text = "The first generated images, each beside the reference images nearest to it";
            beside(&mut page, &heading(text), neighbours.median, &neighbours.first)?;
        }
        if let Some(extremes) = extremes {
            pairs(&mut page, &heading("Worst reconstructions"), &extremes.worst)?;
            pairs(&mut page, &heading("Best reconstructions"), &extremes.best)?;
        }
    }
    Ok(page.close())
}

fn facts(page: &mut Page, heading: &str, facts: &BTreeMap<String, String>) {
    let facts: Vec<(&String, String)> = facts.iter().map(|(name, value)| (name, value.clone())).collect();
    page.facts(heading, &facts);
}

fn row(page: &mut Page, figure: &Figure) {
    let interval = figure.interval.map_or_else(String::new, |it| format!("{} to {}", short(it.low), short(it.high)));
    page.put(format_args!(
        "<tr><td>{}{} <b>{}</b></td><td>{} {}</td><td>{interval}</td><td>{}</td><td>{}</td><td><details><summary>settings\
         </summary><dl>",
        escape(&if figure.run.is_empty() { String::new() } else { format!("{}: ", figure.run) }),
        escape(&figure.group),
        escape(&figure.metric),
        short(figure.value),
        escape(&figure.unit),
        figure.better.name(),
        figure.rows,
    ));
    for (name, value) in &figure.settings {
        page.put(format_args!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value)));
    }
    page.raw("</dl></details></td></tr>\n");
}

/// Generated images, each with its neighbours in the reference set and their distances. `median`: what is usual.
fn beside(page: &mut Page, heading: &str, median: f64, all: &[Neighbourhood]) -> Result<(), JobError> {
    page.put(format_args!("<h2>{}</h2>\n<p>Distances of features; half of all generated images ", escape(heading)));
    page.put(format_args!("have their nearest neighbour within {}.</p>\n<main>\n", short(median)));
    for Neighbourhood { number, image: made, nearest } in all {
        page.raw("<figure><div class=\"beside\">");
        image(page, made, "generated")?;
        for (_, neighbour) in nearest {
            image(page, neighbour, "reference")?;
        }
        let distances: Vec<String> = nearest.iter().map(|(distance, _)| short(*distance)).collect();
        page.put(format_args!("</div><figcaption>image {number}: {}</figcaption></figure>\n", distances.join(", ")));
    }
    page.raw("</main>\n");
    Ok(())
}

/// Originals with their reconstructions.
fn pairs(page: &mut Page, heading: &str, pairs: &[Pair]) -> Result<(), JobError> {
    page.put(format_args!("<h2>{}</h2>\n<main>\n", escape(heading)));
    for pair in pairs {
        page.raw("<figure><div class=\"pair\">");
        for (picture, name) in [(&pair.original, "original"), (&pair.decoded, "reconstruction")] {
            image(page, picture, name)?;
        }
        page.put(format_args!("</div><figcaption>{:.2} dB</figcaption></figure>\n", pair.psnr));
    }
    page.raw("</main>\n");
    Ok(())
}

fn image(page: &mut Page, picture: &Rgb, name: &str) -> Result<(), JobError> {
    let small = picture.width.max(picture.height) <= LARGEST_PNG;
    let (kind, file) = match small {
        true => ("png", encode_png(picture).map_err(JobError::failed)?),
        false => ("jpeg", encode_jpeg(picture, JPEG_QUALITY).map_err(JobError::failed)?),
    };
    page.put(format_args!("<img alt=\"{name}\" width=\"{}\" height=\"{}\" ", picture.width, picture.height));
    page.source(kind, &file);
    page.raw(">");
    Ok(())
}
