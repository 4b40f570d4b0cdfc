//! Curves of metrics over several runs: SVG inside the page, without scripts.

use super::compare::{Verdict, beside};
use super::figure::{Figure, Report, short};
use crate::html::{Page, escape};
use std::fmt::Write;

/// Width and height of a chart, in the units of its coordinates.
const SIZE: (f64, f64) = (480.0, 240.0);
/// Room around the plot: left, right, above, below.
const MARGINS: [f64; 4] = [64.0, 24.0, 12.0, 28.0];
/// About as many lines across a chart.
const LINES: f64 = 4.0;
/// Width of a character of a label, about.
const CHARACTER: f64 = 6.5;

/// A metric of one run.
#[derive(Clone, Debug, PartialEq)]
struct Point<'a> {
    /// Along the axis: where the run stands, or its number.
    x: f64,
    /// Under the axis.
    label: String,
    figure: &'a Figure,
}

/// Adds a chart of every metric that at least two runs have.
pub fn charts(page: &mut Page, report: &Report) {
    let curves = curves(report);
    if curves.is_empty() {
        return;
    }
    page.put(format_args!("<h2>Curves over {} runs</h2>\n<main class=\"curves\">\n", report.runs.len()));
    for points in &curves {
        let Some(Figure { group, metric, unit, better, .. }) = points.first().map(|point| point.figure) else {
            continue;
        };
        let unit = if unit.is_empty() { String::new() } else { format!(", {}", escape(unit)) };
        let (group, metric) = (escape(group), escape(metric));
        page.put(format_args!("<figure>{}<figcaption>{group} <b>{metric}</b>{unit}; ", svg(points)));
        page.put(format_args!("better: {}<details><summary>changes</summary><dl>\n", better.name()));
        for (before, point) in std::iter::once(None).chain(points.iter().map(Some)).zip(points) {
            let change = before.map_or_else(String::new, |before| change(before.figure, point.figure));
            let (run, told) = (escape(&point.figure.run), escape(&point.figure.told()));
            page.put(format_args!("<dt>{run}</dt><dd>{told}{}</dd>\n", escape(&change)));
        }
        page.raw("</dl></details></figcaption></figure>\n");
    }
    page.raw("</main>\n");
}

/// The points of every metric, along the axis.
fn curves(report: &Report) -> Vec<Vec<Point<'_>>> {
    let mut curves: Vec<Vec<Point>> = Vec::new();
    for figure in report.figures.iter().filter(|figure| figure.value.is_finite()) {
        let Some(number) = report.runs.iter().position(|run| run.name == figure.run) else { continue };
        let at = report.runs.get(number).and_then(|run| run.at);
        let label = at.map_or_else(|| figure.run.clone(), |at| at.to_string());
        let point = Point { x: at.unwrap_or(number as f64), label, figure };
        let same = |curve: &&mut Vec<Point>| {
            let first = curve.first().map(|point| (&point.figure.group, &point.figure.metric));
            first == Some((&figure.group, &figure.metric))
        };
        match curves.iter_mut().find(same) {
            Some(curve) => curve.push(point),
            None => curves.push(vec![point]),
        }
    }
    curves.retain(|curve| curve.len() > 1);
    curves.iter_mut().for_each(|curve| curve.sort_by(|a, b| a.x.total_cmp(&b.x)));
    curves
}

/// What is to be said of a metric beside the run before.
fn change(before: &Figure, now: &Figure) -> String {
    let compared = beside(before, now);
    let verdict = match compared.verdict {
        Verdict::WithinNoise => "within noise".to_owned(),
        Verdict::Better => "better".to_owned(),
        Verdict::Worse => "worse".to_owned(),
        Verdict::Different => "different".to_owned(),
        Verdict::NoInterval => "no interval".to_owned(),
        Verdict::Incomparable(what) => return format!("; not comparable with the one before: {what}"),
    };
    let difference = short(now.value - before.value);
    match compared.interval {
        Some((low, high)) => format!("; changed by {difference} [{}, {}]: {verdict}", short(low), short(high)),
        None => format!("; changed by {difference}: {verdict}"),
    }
}

/// A chart: lines across at round values, the curve, the intervals of its points.
fn svg(points: &[Point]) -> String {
    let ends = |point: &Point| {
        let interval = point.figure.interval.map_or((point.figure.value, point.figure.value), |it| (it.low, it.high));
        [point.figure.value, interval.0, interval.1]
    };
    let (left, right) = range(points.iter().map(|point| point.x), 0.0);
    let (bottom, top) = range(points.iter().flat_map(ends), 0.06);
    let x = |value: f64| MARGINS[0] + (value - left) / (right - left) * (SIZE.0 - MARGINS[0] - MARGINS[1]);
    let y = |value: f64| SIZE.1 - MARGINS[3] - (value - bottom) / (top - bottom) * (SIZE.1 - MARGINS[2] - MARGINS[3]);
    let mut svg = format!("<svg viewBox=\"0 0 {} {}\" role=\"img\">\n", SIZE.0, SIZE.1);
    // Writing to a String cannot fail.
    for (value, text) in ticks(bottom, top) {
        let (at, end) = (y(value), SIZE.0 - MARGINS[1]);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{} {at:.1}H{end}\"/>", MARGINS[0]);
        let _ = writeln!(svg, "<text class=\"value\" x=\"{}\" y=\"{:.1}\">{text}</text>", MARGINS[0] - 6.0, at + 4.0);
    }
    for point in points {
        let [_, low, high] = ends(point);
        let _ = writeln!(svg, "<path class=\"range\" d=\"M{:.1} {:.1}V{:.1}\"/>", x(point.x), y(low), y(high));
    }
    let line: Vec<String> =
        points.iter().map(|point| format!("{:.1},{:.1}", x(point.x), y(point.figure.value))).collect();
    let _ = writeln!(svg, "<polyline points=\"{}\"/>", line.join(" "));
    let mut free = 0.0;
    for point in points {
        let (at, name, told) = (x(point.x), escape(&point.figure.run), escape(&point.figure.told()));
        let _ = write!(svg, "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4\">", y(point.figure.value));
        let _ = writeln!(svg, "<title>{name}: {told}</title></circle>");
        let half = point.label.chars().count() as f64 * CHARACTER / 2.0;
        // Labels that would run into the one before are left out.
        if at - half >= free {
            let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{}\">{}</text>", SIZE.1 - 8.0, escape(&point.label));
            free = at + half + CHARACTER;
        }
    }
    svg + "</svg>"
}

/// From the least to the largest value, wider by this share on both sides, and never empty.
fn range(values: impl Iterator<Item = f64>, wider: f64) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), it| (low.min(it), high.max(it)));
    let span = high - low;
    // Below the digits of the numbers themselves there is nothing to see.
    match span > high.abs().max(low.abs()) * 1e-12 {
        true => (low - wider * span, high + wider * span),
        false if low.is_finite() => (low - low.abs().max(1.0) / 2.0, high + high.abs().max(1.0) / 2.0),
        false => (0.0, 1.0),
    }
}

/// Round values between the two with their texts: multiples of 1, 2 or 5 times a power of ten.
fn ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let rough = (high - low) / LINES;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
    let plain = (1e-4..1e6).contains(&step);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    let text = |value: f64| if plain { format!("{value:.decimals$}") } else { format!("{value:.1e}") };
    (first..=last).map(|number| number as f64 * step).map(|value| (value, text(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figure::{Better, Group, Measured};
    use super::*;
    use crate::html::Opening;
    use std::collections::BTreeMap;

    /// Two metrics of three runs, one of them of two alone.
    fn report(at: [Option<f64>; 3]) -> Report {
        let group = Group {
            name: "generation",
            rows: 40,
            rows_id: "rows".to_owned(),
            settings: BTreeMap::new(),
            bootstrap: (50, 1),
        };
        let names = ["first", "second <b>", "third"];
        let measured = |(name, at): (&str, Option<f64>)| Measured { name: name.to_owned(), at, ..Measured::default() };
        let mut figures = Vec::new();
        for (number, name) in names.into_iter().enumerate() {
            let values = (0..40).map(|row| f64::from(row % 4) / 100.0 - 2.0 * number as f64).collect();
            let fid = group.mean("fid", values, ("", Better::Lower)).unwrap();
            figures.push(Figure { run: name.to_owned(), ..fid });
            if number != 1 {
                let score = group.plain("score", 2.5, ("bits", Better::Higher));
                figures.push(Figure { run: name.to_owned(), ..score });
            }
        }
        figures.push(Figure { run: "third".to_owned(), ..group.plain("alone", 1.0, ("", Better::Higher)) });
        let runs = names.into_iter().zip(at).map(measured).collect();
        Report { runs, figures, ..Report::default() }
    }

    #[test]
    fn metrics_of_several_runs_have_curves() {
        let report = report([Some(300.0), Some(100.0), Some(200.0)]);
        let curves = curves(&report);
        assert_eq!(curves.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
        let labels: Vec<&str> = curves[0].iter().map(|point| point.label.as_str()).collect();
        assert_eq!(labels, ["100", "200", "300"]);
        let named = self::report([None; 3]);
        let named = self::curves(&named);
        assert_eq!(named[0].iter().map(|point| point.x).collect::<Vec<_>>(), [0.0, 1.0, 2.0]);
    }

    #[test]
    fn the_page_tells_what_changed() {
        let report = report([None; 3]);
        let opening = Opening { title: "t", summary: "s", notes: &[], styles: "" };
        let mut page = Page::open(&opening);
        charts(&mut page, &report);
        let page = page.close();
        assert!(page.contains("Curves over 3 runs") && page.matches("<svg").count() == 2, "{page}");
        assert!(page.contains("changed by -2.000 [-2.000, -2.000]: better"), "{page}");
        assert!(page.contains("changed by 0.000: no interval"), "{page}");
        assert!(page.contains("second &lt;b&gt;") && !page.contains("second <b>"), "{page}");
        let circles: Vec<&str> = page.lines().filter(|line| line.contains("<circle")).collect();
        // Lower is further down: the curve of the first metric falls.
        let height =
            |line: &str| line.split("cy=\"").nth(1).unwrap().split('"').next().unwrap().parse::<f64>().unwrap();
        assert!(height(circles[0]) < height(circles[1]) && height(circles[1]) < height(circles[2]), "{circles:?}");
        assert!(height(circles[2]) < SIZE.1 - MARGINS[3] && height(circles[0]) > MARGINS[2], "{circles:?}");

        let mut plain = Page::open(&opening);
        charts(&mut plain, &Report { runs: Vec::new(), ..report });
        assert!(!plain.close().contains("Curves"));
    }

    #[test]
    fn axes_are_round() {
        let texts = |low, high| ticks(low, high).into_iter().map(|tick| tick.1).collect::<Vec<_>>();
        assert_eq!(texts(0.0, 10.0), ["0", "5", "10"]);
        assert_eq!(texts(-0.31, 0.52), ["0.0", "0.5"]);
        assert_eq!(texts(2.0e7, 3.0e7), ["2.0e7", "2.5e7", "3.0e7"]);
        assert_eq!(range([2.0, 2.0].into_iter(), 0.1), (1.0, 3.0));
        assert_eq!(range(std::iter::empty(), 0.1), (0.0, 1.0));
        assert_eq!(range([0.0, 10.0].into_iter(), 0.1), (-1.0, 11.0));
    }
}
