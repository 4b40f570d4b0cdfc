//! One chart of the report: curves as inline SVG, its labels as HTML, which keeps their size on any screen.

use super::curves::thin;
use super::history::Series;
use crate::html::{Page, escape};
use std::fmt::Write;

/// The plot's own units: a column for each point of a curve on a wide screen.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 200.0;
/// Parts of the plot that tell their values when they are pointed at.
const STRIPS: usize = 60;
/// Colours of curves; more curves begin anew.
const COLOURS: usize = 4;
/// Curves of at most so many points show each of them.
const DOTTED: usize = 60;
/// Lines across, about.
const TICKS: f64 = 4.0;
/// What a logarithmic axis is for: values that span more than this.
const SPAN_OF_LOG: f64 = 30.0;

/// Curves over the run's steps that share an axis.
#[derive(Debug)]
pub(super) struct Chart<'a> {
    pub title: String,
    pub curves: Vec<(&'a str, &'a Series)>,
    /// Known bounds: name and height of a dashed line.
    pub bounds: Vec<(&'a str, f64)>,
    pub scale: Scale,
    /// The last step of the run.
    pub steps: u64,
}

impl Chart<'_> {
    pub fn draw(&self, page: &mut Page) {
        let axis = self.axis();
        page.put(format_args!("<figure class=\"chart\"><figcaption>{}<div>", escape(&self.title)));
        self.legend(page);
        page.raw("</div></figcaption>\n<div class=\"plot\"><div class=\"y\">");
        let ticks = axis.ticks();
        for (tick, label) in ticks.iter().zip(labels(&ticks)) {
            page.put(format_args!("<span style=\"top:{:.2}%\">{label}</span>", axis.of(*tick) * 100.0));
        }
        let label = escape(&self.title);
        page.put(format_args!(
            "</div><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" "
        ));
        page.put(format_args!("aria-label=\"{label}\">"));
        for &tick in &ticks {
            page.put(format_args!("<path class=\"tick\" d=\"M0 {:.1}H{WIDTH}\"/>", axis.of(tick) * HEIGHT));
        }
        for (_, height) in &self.bounds {
            page.put(format_args!("<path class=\"bound\" d=\"M0 {:.1}H{WIDTH}\"/>", axis.of(*height) * HEIGHT));
        }
        for (i, (_, series)) in self.curves.iter().enumerate() {
            self.curve(page, &axis, i % COLOURS, series);
        }
        self.strips(page);
        page.raw("</svg><div class=\"x\">");
        let ticks = ticks_between(0.0, self.steps as f64);
        for (tick, label) in ticks.iter().zip(labels(&ticks)) {
            page.put(format_args!("<span style=\"left:{:.2}%\">{label}</span>", self.across(*tick) * 100.0));
        }
        page.raw("</div></div></figure>\n");
    }

    /// Where a step is, 0 to 1 from the left.
    fn across(&self, step: f64) -> f64 {
        step / self.steps.max(1) as f64
    }

    fn axis(&self) -> Axis {
        let of_curves = self.curves.iter().flat_map(|(_, series)| series.iter().map(|(_, value)| *value));
        let values = of_curves.chain(self.bounds.iter().map(|(_, height)| *height)).filter(|value| value.is_finite());
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        match self.scale {
            Scale::Logarithmic if low > 0.0 && high / low > SPAN_OF_LOG => {
                return Axis { low: low.log10() - 0.05, high: high.log10() + 0.05, logarithmic: true };
            }
            Scale::FromZero if low >= 0.0 && high > 0.0 => {
                return Axis { low: 0.0, high: high * 1.05, logarithmic: false };
            }
            _ => {}
        }
        // A curve that does not move lies in the middle.
        let margin = if high > low { (high - low) * 0.05 } else { high.abs().max(1e-9) * 0.5 };
        Axis { low: low - margin, high: high + margin, logarithmic: false }
    }

    /// Names of curves with their last values, and of bounds with theirs.
    fn legend(&self, page: &mut Page) {
        let last = |series: &Series| series.iter().rev().map(|(_, value)| *value).find(|value| value.is_finite());
        for (i, (name, series)) in self.curves.iter().enumerate() {
            let value = last(series).map_or("-".to_owned(), number);
            let (name, colour) = (escape(name), i % COLOURS);
            page.put(format_args!("<span class=\"key c{colour}\">{name} <b>{value}</b></span> "));
        }
        for (name, height) in &self.bounds {
            page.put(format_args!("<span class=\"key bound\">{} <b>{}</b></span> ", escape(name), number(*height)));
        }
    }

    fn curve(&self, page: &mut Page, axis: &Axis, colour: usize, series: &Series) {
        // What has no place on the axis (0 on a logarithmic one) is a gap, like what is no number.
        let points = series.iter().map(|(step, value)| (*step as f64, axis.of(*value)));
        let runs = thin(points, (0.0, self.steps as f64), WIDTH as usize);
        let dotted = series.len() <= DOTTED;
        let (mut line, mut dots) = (String::new(), String::new());
        for run in runs {
            for (i, (x, y)) in run.iter().enumerate() {
                let (x, y) = (self.across(*x) * WIDTH, y * HEIGHT);
                // Writing to a String cannot fail.
                let _ = write!(line, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
                if dotted || run.len() == 1 {
                    let _ = write!(dots, "M{x:.1} {y:.1}h0");
                }
            }
        }
        page.put(format_args!("<path class=\"c{colour}\" d=\"{line}\"/>"));
        if !dots.is_empty() {
            page.put(format_args!("<path class=\"c{colour} dots\" d=\"{dots}\"/>"));
        }
    }

    /// Invisible strips that tell the values of their steps.
    fn strips(&self, page: &mut Page) {
        let mut read: Vec<_> = self.curves.iter().map(|(name, series)| (*name, series.iter().peekable())).collect();
        for strip in 1..=STRIPS {
            let end = self.steps as f64 * strip as f64 / STRIPS as f64;
            let mut told = String::new();
            for (name, points) in &mut read {
                let mut last = None;
                while let Some(point) = points.next_if(|(step, _)| *step as f64 <= end) {
                    last = Some(point);
                }
                if let Some((step, value)) = last {
                    let _ = write!(told, "\n{name} at step {step}: {}", number(*value));
                }
            }
            if !told.is_empty() {
                let width = WIDTH / STRIPS as f64;
                page.put(format_args!("<rect x=\"{:.1}\" width=\"{width:.1}\"", (strip - 1) as f64 * width));
                page.put(format_args!(" height=\"{HEIGHT}\"><title>{}</title></rect>", escape(told.trim_start())));
            }
        }
    }
}

/// What the vertical axis is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From the lowest value to the highest.
    Fitted,
    /// From 0 on: for rates and shares, whose noise would fill the chart else.
    FromZero,
    /// Logarithmic, where the values are of several orders.
    Logarithmic,
}

/// The vertical axis.
struct Axis {
    /// Values at the bottom and the top; their logarithms to base 10 on a logarithmic axis.
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// Where a value is, 0 to 1 from the top; no number where it has no place.
    fn of(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.log10() } else { value };
        if value.is_finite() { (self.high - value) / (self.high - self.low) } else { f64::NAN }
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            return ticks_between(self.low, self.high);
        }
        let powers: Vec<i32> = (self.low.ceil() as i32..=self.high.floor() as i32).collect();
        let every = powers.len().div_ceil(TICKS as usize + 2).max(1);
        powers.into_iter().step_by(every).map(|power| 10f64.powi(power)).collect()
    }
}

/// Round numbers between two others, about as many as fit.
fn ticks_between(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low).max(f64::MIN_POSITIVE) / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= rough).unwrap_or(10.0 * power);
    let (first, last) = ((low / step).ceil(), (high / step).floor());
    let count = if last >= first { (last - first).min(20.0) as u32 } else { 0 };
    // From whole numbers, so that 0 is 0.
    (0..=count).map(|i| (first + f64::from(i)) * step).collect()
}

/// Ticks in as many digits as tell them apart.
fn labels(ticks: &[f64]) -> Vec<String> {
    let step = ticks.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(f64::INFINITY, f64::min);
    let largest = ticks.iter().fold(0.0f64, |largest, tick| largest.max(tick.abs()));
    let label = |&tick: &f64| {
        if !step.is_finite() || !(1e-3..1e7).contains(&largest) {
            return number(tick);
        }
        // Round steps begin with 1, 2 or 5, so that their first digit is their last.
        let decimals = (-(step * 1.001).log10().floor()).clamp(0.0, 9.0) as usize;
        let text = format!("{tick:.decimals$}");
        // Ticks of a logarithmic axis may be far below the step between the largest.
        if tick != 0.0 && text.bytes().all(|digit| matches!(digit, b'0' | b'.' | b'-')) {
            return number(tick);
        }
        if decimals == 0 { thousands(&text) } else { text }
    };
    ticks.iter().map(label).collect()
}

/// A value in few letters: `0.0123`, `3.142`, `1.2e-7`, `20 400`.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return value.to_string();
    }
    if size >= 1e7 || (size < 1e-3 && size > 0.0) {
        return trimmed(format!("{value:.2e}"));
    }
    let decimals = if size < 1.0 {
        4
    } else if size < 100.0 {
        3
    } else if size < 1000.0 {
        1
    } else {
        0
    };
    let text = format!("{value:.decimals$}");
    if size < 1000.0 { trimmed(text) } else { thousands(&text) }
}

/// Without zeros at the end of its decimals.
fn trimmed(text: String) -> String {
    let (mantissa, exponent) = text.find('e').map_or((text.as_str(), ""), |at| text.split_at(at));
    let mantissa = if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
    format!("{mantissa}{exponent}")
}

/// Groups of three digits.
fn thousands(text: &str) -> String {
    let digits = text.trim_start_matches('-');
    let mut grouped = text[..text.len() - digits.len()].to_owned();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.5, "0.5"),
            (0.01234, "0.0123"),
            (std::f64::consts::PI, "3.142"),
            (10.0, "10"),
            (123.456, "123.5"),
            (20_400.2, "20\u{202f}400"),
            (-1_234_567.0, "-1\u{202f}234\u{202f}567"),
            (1.25e-7, "1.25e-7"),
            (1e-4, "1e-4"),
            (2e10, "2e10"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks_between(0.0, 1000.0), [0.0, 500.0, 1000.0]);
        assert_eq!(labels(&ticks_between(0.12, 0.43)), ["0.2", "0.3", "0.4"]);
        assert_eq!(ticks_between(-0.05, 1.05), [0.0, 0.5, 1.0]);
        let axis = Axis { low: -8.0, high: -3.5, logarithmic: true };
        assert_eq!(axis.ticks().len(), 5);
        assert!(axis.of(0.0).is_nan() && axis.of(-1.0).is_nan());
        assert_eq!(axis.of(1e-8), 1.0);
        assert_eq!(labels(&[0.0032, 0.0033, 0.0034]), ["0.0032", "0.0033", "0.0034"]);
        assert_eq!(labels(&ticks_between(0.0, 25_000.0)), ["0", "10\u{202f}000", "20\u{202f}000"]);
        assert_eq!(labels(&[0.0, 5e-5, 1e-4]), ["0", "5e-5", "1e-4"]);
        assert_eq!(labels(&[1e-8, 1.0, 10.0]), ["1e-8", "1", "10"]);
    }
}
