//! The report: a whole page, whatever the run and its names.

use super::folder;
use imagebart::imaging::{Rgb, encode_png, grid};
use imagebart::training::watch::{Bound, History, Journal, ReportFacts, names, report};

/// Opens and closes every element of a page.
///
/// # Panics
/// Elements that are not closed in their order, attributes without quotes.
fn elements(page: &str) -> Vec<String> {
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    let body = page.strip_prefix("<!doctype html>\n").expect("a doctype");
    let (styles_from, styles_to) = (body.find("<style>").unwrap() + "<style>".len(), body.find("</style>").unwrap());
    let without_styles = format!("{}{}", &body[..styles_from], &body[styles_to..]);
    for part in without_styles.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(!text.contains('>'), "a bare > in {text}");
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of {tag}");
        let tag = tag.trim_end_matches('/');
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop().as_deref(), Some(name), "closed in order"),
            None => {
                let name = tag.split([' ', '\n']).next().unwrap().to_owned();
                let void = ["meta", "img"].contains(&name.as_str()) || part.split_once('>').unwrap().0.ends_with('/');
                seen.push(name.clone());
                if !void {
                    open.push(name);
                }
            }
        }
    }
    assert_eq!(open, [""; 0], "all closed");
    seen
}

async fn run(steps: u64, names: &[&str], pictures: u64) -> History {
    let folder = folder();
    let mut journal = Journal::open(folder.clone(), 0).await.unwrap();
    for step in 1..=steps {
        let value = if step % 100 == 50 { f64::NAN } else { 3.0 + (step as f64 * 0.1).sin() };
        let values: Vec<(&str, f64)> = names.iter().map(|name| (*name, value)).collect();
        journal.scalars(step, &values);
    }
    for step in 0..pictures {
        let tile = Rgb::new(4, 4, vec![step as u8; 48]).unwrap();
        let picture = grid(&[tile.clone(), tile], 2);
        journal.image(step, names[0], &encode_png(&picture).unwrap(), picture.width, picture.height);
    }
    journal.flush().await.unwrap();
    History::read(&folder).await.unwrap()
}

fn facts(text: &str) -> ReportFacts {
    ReportFacts {
        title: text.into(),
        summary: text.into(),
        notes: vec![text.into()],
        facts: vec![(text.into(), text.into())],
        bounds: vec![Bound { metric: "bits_per_token", name: text.into(), value: 10.0 }],
    }
}

#[tokio::test]
async fn hostile_text_stays_text() {
    let evil = "</title><script>alert(\"1\")</script>' onload='x' & \u{0} <img src=x onerror=alert(1)>";
    let plain = report::render(&facts("a"), &run(300, &["a", names::BITS_PER_TOKEN], 2).await);
    let page = report::render(&facts(evil), &run(300, &[evil, names::BITS_PER_TOKEN], 2).await);
    assert_eq!(elements(&page), elements(&plain), "texts add no elements");
    assert!(!page.contains("<script") && page.contains("default-src 'none'"));
}

#[tokio::test]
async fn curves_of_one_metric_share_a_chart_with_its_bounds() {
    let all = [names::LOSS, names::VALIDATION_LOSS, names::BITS_PER_TOKEN, names::LEARNING_RATE, "train/other"];
    let page = report::render(&facts("floor"), &run(200, &all, 0).await);
    let charts: Vec<&str> = page.split("<figure class=\"chart\">").skip(1).collect();
    let title = |chart: &&str| chart.split_once("<figcaption>").unwrap().1.split('<').next().unwrap().to_owned();
    let titles: Vec<String> = charts.iter().map(title).collect();
    assert_eq!(titles, ["Loss", "Bits per token", "Learning rate", "other"]);
    assert_eq!(charts.iter().map(|chart| chart.matches("class=\"bound\"").count()).collect::<Vec<_>>(), [0, 1, 0, 0]);
    assert!(charts[0].contains(">train <b>") && charts[0].contains(">validation <b>"));
    // Two values of 200 are no numbers: the curve has three parts.
    let curve = charts[3].split("<path class=\"c0\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(curve.matches('M').count(), 3);
    assert!(page.contains("<dt>Validation loss</dt>") && page.contains("lowest 2"));
}

#[tokio::test]
async fn long_curves_make_no_long_page() {
    let page = report::render(&facts("x"), &run(100_000, &[names::LOSS], 0).await);
    assert!(page.len() < 100_000, "{} bytes", page.len());
    elements(&page);
}

#[tokio::test]
async fn a_run_that_has_told_nothing_has_a_report() {
    let folder = folder();
    let history = History::read(&folder).await.unwrap();
    report::write(&folder, &facts("nothing yet"), &history).await.unwrap();
    let page = String::from_utf8(folder.get("report.html").await.unwrap().unwrap().to_vec()).unwrap();
    assert!(!elements(&page).contains(&"figure".to_owned()));
}

#[tokio::test]
async fn pictures_and_problems_are_shown() {
    let mut history = run(3, &["samples"], 3).await;
    history.problems.push("a segment is <broken>".into());
    let page = report::render(&ReportFacts::default(), &history);
    assert_eq!(page.matches("src=\"data:image/png;base64,iVBOR").count(), 2);
    assert!(page.contains("samples, step 2") && page.contains("samples, step 0"));
    assert!(page.contains("<p class=\"note\">a segment is &lt;broken&gt;</p>"));
    elements(&page);
}
