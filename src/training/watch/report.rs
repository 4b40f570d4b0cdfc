//! A run as one HTML page, `report.html` in its folder: curves, facts, pictures. Nothing in it runs or is fetched.

use super::chart::{Chart, Scale, number};
use super::events::Picture;
use super::history::{History, Pictures};
use super::names;
use crate::html::{Opening, Page, escape};
use crate::training::{FolderError, RunFolder};
use std::collections::BTreeSet;

const NAME: &str = "report.html";

/// What the report says of a run beside its history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportFacts {
    pub title: String,
    /// One sentence under the title.
    pub summary: String,
    /// What the reader must know, a sentence each.
    pub notes: Vec<String>,
    /// Parameters, settings, device, data, ...: name and value.
    pub facts: Vec<(String, String)>,
    /// Known bounds of the curves.
    pub bounds: Vec<Bound>,
}

/// A bound that is known for a metric: a dashed line.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// The metric: the last part of the curves' names, such as `bits_per_token`.
    pub metric: &'static str,
    pub name: String,
    pub value: f64,
}

/// The page. Every text of the facts and every name of the history is escaped.
pub fn render(facts: &ReportFacts, history: &History) -> String {
    let ReportFacts { title, summary, notes, .. } = facts;
    let notes: Vec<String> = notes.iter().chain(&history.problems).cloned().collect();
    let mut page = Page::open(&Opening { title, summary, notes: &notes, styles: include_str!("report.css") });
    let all: Vec<(String, String)> = told(history).into_iter().chain(facts.facts.iter().cloned()).collect();
    page.facts("The run", &all);
    page.raw("<h2>Curves</h2>\n<main>\n");
    for chart in charts(facts, history) {
        chart.draw(&mut page);
    }
    page.raw("</main>\n");
    if !history.pictures.is_empty() {
        page.raw("<h2>Pictures</h2>\n<main>\n");
        for (name, pictures) in &history.pictures {
            show(&mut page, name, pictures);
        }
        page.raw("</main>\n");
    }
    page.close()
}

/// Writes the page into the run's folder.
///
/// # Errors
/// What the store reports.
pub async fn write(folder: &RunFolder, facts: &ReportFacts, history: &History) -> Result<(), FolderError> {
    folder.put(NAME, render(facts, history)).await
}

/// What the history itself tells: steps, last and best losses.
fn told(history: &History) -> Vec<(String, String)> {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let mut told: Vec<_> =
        history.last_step().map(|step| fact("Steps told", number(step as f64))).into_iter().collect();
    for (name, metric) in [("Loss", names::LOSS), ("Validation loss", names::VALIDATION_LOSS)] {
        let Some((step, last)) = history.series(metric).last() else { continue };
        let mut value = format!("{} at step {}", number(*last), number(*step as f64));
        if let Some((step, best)) = history.smallest(metric) {
            value += &format!(", lowest {} at step {}", number(best), number(step as f64));
        }
        told.push(fact(name, value));
    }
    told
}

/// A chart for every metric: the known ones first, then the others by name. Curves of one metric (`train/loss`,
/// `validation/loss`) share a chart.
fn charts<'a>(facts: &'a ReportFacts, history: &'a History) -> Vec<Chart<'a>> {
    let steps = history.last_step().unwrap_or(0);
    let known = names::METRICS.iter().map(|metric| metric.name);
    let found: BTreeSet<&str> = history.series.keys().map(|name| split(name).1).collect();
    let others = found.iter().copied().filter(|name| names::metric(name).is_none());
    let chart = |name: &'a str| {
        let curves = history.series.iter().filter(|(curve, _)| split(curve).1 == name);
        let curves: Vec<_> = curves.map(|(curve, series)| (split(curve).0, series)).collect();
        let bounds = facts.bounds.iter().filter(|bound| bound.metric == name && bound.value.is_finite());
        let metric = names::metric(name);
        (!curves.is_empty()).then(|| Chart {
            title: metric.map_or_else(|| name.replace('_', " "), |metric| metric.title.to_owned()),
            curves,
            bounds: bounds.map(|bound| (bound.name.as_str(), bound.value)).collect(),
            scale: metric.map_or(Scale::Fitted, |metric| metric.scale),
            steps,
        })
    };
    known.chain(others).filter_map(chart).collect()
}

/// Whose curve it is, and of what: `train/loss` is the loss in training.
fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("", name))
}

fn show(page: &mut Page, name: &str, pictures: &Pictures) {
    let caption = |picture: &Picture| format!("{}, step {}", escape(name), number(picture.step as f64));
    page.raw("<figure class=\"shown\">");
    image(page, &caption(&pictures.last), &pictures.last);
    page.put(format_args!("<figcaption>{}</figcaption>", caption(&pictures.last)));
    if pictures.first.step != pictures.last.step {
        page.put(format_args!("<details><summary>{}</summary>", caption(&pictures.first)));
        image(page, &caption(&pictures.first), &pictures.first);
        page.raw("</details>");
    }
    page.raw("</figure>\n");
}

/// `caption` is escaped.
fn image(page: &mut Page, caption: &str, picture: &Picture) {
    let (width, height) = (picture.width, picture.height);
    page.put(format_args!("<img alt=\"{caption}\" width=\"{width}\" height=\"{height}\" "));
    page.source("png", &picture.file);
    page.raw(">");
}
