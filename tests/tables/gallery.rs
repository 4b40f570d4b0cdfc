//! The page of samples as its reader sees it, in headless Chromium: it loads without complaint, search and sort and filters
//! work, and there is something to see.
//!
//! Chromium is the system's; `playwright`, which drives it, is installed from PyPI below `target/`. Without either the tests are
//! skipped, and say so.

use crate::support::samples::{name, provenance, rows, units};
use crate::{python, skip};
use bytes::Bytes;
use imagebart::config::{FilterSection, Pipeline};
use imagebart::imaging::{Rgb, encode_png};
use imagebart::jobs::filter::{FilterOptions, filter};
use imagebart::jobs::gallery::{GalleryOptions, gallery};
use imagebart::tables::{DecisionRow, Decisions, Manifest, OutputDir, SampleRow, SamplesIdentity, UnitWriter};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const COLOURS: [(&str, [u8; 3]); 5] = [
    ("red", [208, 46, 46]),
    ("green", [48, 160, 80]),
    ("blue", [52, 96, 200]),
    ("white", [250; 3]),
    ("black", [20; 3]),
];
const SHAPES: [&str; 3] = ["circle", "square", "cross"];
/// A prompt that would be more than text, in a page that took it for markup.
const EVIL: &str = "</script><img src=x onerror=\"alert(1)\"><script>alert(2)</script> & 'quotes'";

/// What there is to browse with, or why there is nothing.
fn browser() -> Result<(PathBuf, PathBuf), String> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
    let folders: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    let found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let chromium = found.into_iter().find(|path| path.is_file()).ok_or("there is no Chromium on the PATH")?;
    Ok((chromium, python::environment("browser-venv", "python/browser-requirements.txt")?))
}

/// A picture of `side` pixels: a disc of one colour on a ground of another.
fn picture(side: u32, colour: [u8; 3], ground: [u8; 3]) -> Vec<u8> {
    let inside = |x: u32, y: u32| (2 * x).abs_diff(side).pow(2) + (2 * y).abs_diff(side).pow(2) < side * side / 2;
    let pixels = (0..side * side).flat_map(|at| if inside(at % side, at / side) { colour } else { ground });
    encode_png(&Rgb { width: side, height: side, pixels: pixels.collect() }).unwrap()
}

/// Writes `count` rows in units of 50 to `folder`: `<colour> <shape>` in turn, four candidates of each, one in ten not accepted.
async fn write(folder: &Path, count: u64, side: u32) -> OutputDir<SamplesIdentity> {
    let dir: OutputDir<SamplesIdentity> = OutputDir::local(folder).unwrap().of();
    let provenance = Arc::new(provenance(973));
    dir.begin(&Manifest::new(&provenance, units(count, 50))).await.unwrap();
    for start in (0..count).step_by(50) {
        let numbers = start..(start + 50).min(count);
        let mut writer = UnitWriter::create(&dir, &provenance, name(numbers.clone()).as_str()).unwrap();
        for (number, row) in numbers.clone().zip(rows(&provenance, numbers)) {
            writer.row(dressed(row, number, side)).await.unwrap();
        }
        writer.commit().await.unwrap();
    }
    dir
}

fn dressed(row: SampleRow, number: u64, side: u32) -> SampleRow {
    let (colour, pixels) = COLOURS[(number / 4) as usize % COLOURS.len()];
    let prompt = format!("a {colour} {} number {number}", SHAPES[(number / 20) as usize % SHAPES.len()]);
    let mut row = SampleRow {
        prompt: Some(if number == 7 { EVIL.to_owned() } else { prompt }),
        label: None,
        parent: None,
        score: (number != 9).then_some((number * 7919 % 1000) as f32 / 1000.0),
        rank: Some(number as u32 % 4),
        accepted: !number.is_multiple_of(10),
        ..row
    };
    row.image.bytes = Bytes::from(picture(side, pixels, [225, 222, 214 - (number % 64) as u8]));
    row
}

/// The page of `count` rows of `folder`.
async fn page(folder: &Path, count: usize) -> PathBuf {
    let page = folder.join("page.html");
    let options = GalleryOptions::new(folder.display().to_string(), vec![page.clone()]);
    gallery(&GalleryOptions { count, ..options }).await.unwrap();
    page
}

/// What the browser tells after each of `actions`, the loading before them; it must not complain of anything.
fn browse((chromium, python): &(PathBuf, PathBuf), page: &Path, actions: &[&str]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/browse.py");
    let mut command = Command::new(python);
    command.arg(script).arg(chromium).arg(page).arg(page.parent().unwrap()).args(actions);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["complaints"], serde_json::json!([]));
    let told = found["told"].as_array().unwrap().clone();
    assert_eq!(told.len(), actions.len() + 1);
    for told in &told {
        assert_eq!((&told["drawn"], &told["overflow"]), (&true.into(), &0.into()), "{told}");
    }
    told
}

/// A screenshot that shows something: many colours, none of them nearly everywhere.
fn shows_something(path: &Path) {
    let picture = image::open(path).unwrap().to_rgb8();
    let mut colours = std::collections::HashMap::new();
    picture.pixels().for_each(|pixel| *colours.entry(pixel.0).or_insert(0u32) += 1);
    let most = colours.values().max().copied().unwrap_or(0);
    assert!(colours.len() > 50, "{} colours", colours.len());
    assert!(f64::from(most) < 0.8 * f64::from(picture.width() * picture.height()), "{most} pixels of one colour");
}

/// The numbers at the end of the prompts of the first cards.
fn numbers(told: &Value) -> Vec<u64> {
    let first = told["first"].as_array().unwrap().iter();
    first.filter_map(|title| title.as_str()?.rsplit_once(' ')?.1.parse().ok()).collect()
}

#[tokio::test]
async fn samples_are_searched_sorted_and_filtered_in_a_browser() {
    let browser = match browser() {
        Ok(browser) => browser,
        Err(why) => return skip::skipped(format_args!("samples in a browser: {why}")),
    };
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 300, 8).await;
    let mut pipeline = Pipeline::default();
    pipeline.output.url = folder.path().display().to_string();
    pipeline.filter = FilterSection { min_score: Some(0.2), ..FilterSection::default() };
    // A row without a score would be refused.
    let error = filter(&pipeline, &FilterOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("row 000000009 has none"), "{error}");
    pipeline.filter = FilterSection { per_prompt: Some(1), duplicate_image: Some(0), ..FilterSection::default() };
    filter(&pipeline, &FilterOptions::default()).await.unwrap();

    let page = page(folder.path(), 300).await;
    let actions = [
        "find:RED circle",
        "sort:best",
        "sort:worst",
        "show:rejected",
        "show:accepted",
        "rule:duplicate-image",
        "shot:light",
        "open:0",
        "press:ArrowRight",
        "press:Escape",
        "visit:q=number+9&sort=worst&size=large",
        "visit:key=000000007",
        "close",
        "find:nothing like that",
        "clear",
        "dark",
        "narrow",
        "shot:narrow",
        "wide",
        "scroll:1",
        "shot:dark",
    ];
    let told = browse(&browser, &page, &actions);
    let after = |action: &str| {
        let at = actions.iter().position(|found| *found == action).unwrap();
        &told[at + 1]
    };
    assert_eq!(told[0]["count"], "300 images");
    assert_eq!(numbers(&told[0])[..4], [0, 1, 2, 3]);
    assert!(told[0]["cards"].as_u64().unwrap() < 100, "only the cards in sight are elements");

    // Twenty numbers of one shape, four of one colour: a circle in sixty is red four times.
    let found = after("find:RED circle");
    assert_eq!(
        (&found["count"], numbers(found)),
        (&"20 of 300 images".into(), [0, 1, 2, 3, 60, 61, 62, 63, 120, 121, 122, 123].to_vec())
    );
    let score = |number: u64| number * 7919 % 1000;
    let mut reds: Vec<u64> = (0..300).filter(|number| number / 4 % 5 == 0 && number / 20 % 3 == 0).collect();
    reds.sort_by_key(|&number| std::cmp::Reverse(score(number)));
    assert_eq!(numbers(after("sort:best")), reds[..12]);
    reds.reverse();
    assert_eq!(numbers(after("sort:worst")), reds[..12]);
    reds.retain(|number| number.is_multiple_of(10));
    assert_eq!(numbers(after("show:rejected")), reds);
    assert!(after("show:rejected")["texts"][0].as_str().unwrap().contains("not accepted"));
    assert_eq!(after("show:accepted")["count"], "15 of 300 images");

    let decided: Vec<DecisionRow> =
        Decisions::read(&OutputDir::local(folder.path()).unwrap().of()).await.unwrap().unwrap().rows;
    let copies = |row: &&DecisionRow| row.rule == "duplicate-image";
    let copy = after("rule:duplicate-image");
    let red =
        |row: &&DecisionRow| row.key.parse::<u64>().is_ok_and(|number| number / 4 % 5 == 0 && number / 20 % 3 == 0);
    let expected = decided.iter().filter(copies).filter(red).count();
    assert!(expected > 0 && copy["count"] == format!("{expected} of 300 images").as_str(), "{expected}: {copy}");
    assert_eq!(copy["fragment"], "#q=RED+circle&sort=worst&show=accepted&rule=duplicate-image");
    shows_something(&folder.path().join("light.png"));

    let one = &after("open:0")["open"];
    let first = numbers(copy)[0];
    for expected in [format!("key{first:09}"), format!("seed{}", u64::MAX - first), "filterduplicate-image".to_owned()]
    {
        assert!(one["known"].as_str().unwrap().contains(&expected), "{expected}: {one}");
    }
    assert!(
        one["known"].as_str().unwrap().contains("temperature1, 0.9top-k973, 50top-p1, 0.95guidance1, 2.5"),
        "{one}"
    );
    assert_eq!((&one["width"], &one["said"]), (&8.into(), &copy["first"][0]));
    // No record of a pipeline, no command.
    assert_eq!(one["command"], "");
    assert_eq!(after("press:ArrowRight")["open"]["said"], copy["first"][1]);
    assert_eq!(after("press:Escape")["open"], Value::Null);

    let linked = &told[actions.iter().position(|action| action.starts_with("visit:q=")).unwrap() + 1];
    let nines = (0..300).filter(|number: &u64| number.to_string().contains('9')).count();
    assert_eq!(linked["count"], format!("{nines} of 300 images").as_str());
    let evil = after("visit:key=000000007");
    assert_eq!((&evil["open"]["said"], &evil["marks"]), (&EVIL.into(), &told[0]["marks"]), "a prompt stays text");
    assert_eq!(after("close")["fragment"], "");
    let nothing = after("find:nothing like that");
    assert_eq!((&nothing["count"], &nothing["cards"]), (&"0 of 300 images".into(), &0.into()));
    assert_eq!(after("clear")["count"], "300 images");
    assert!(after("scroll:1")["last"].as_str().unwrap().ends_with("number 299"));
    shows_something(&folder.path().join("narrow.png"));
    shows_something(&folder.path().join("dark.png"));
}

/// Images that are too large for thumbnails of their own open at their full size.
#[tokio::test]
async fn large_images_are_reduced_and_open_at_their_size() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 20, 200).await;
    let page = page(folder.path(), 20).await;
    let html = std::fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("jpeg;base64,").count(), 40);
    let browser = match browser() {
        Ok(browser) => browser,
        Err(why) => return skip::skipped(format_args!("large samples in a browser: {why}")),
    };
    let told = browse(&browser, &page, &["open:2", "press:ArrowLeft", "narrow", "shot:one"]);
    assert_eq!((&told[1]["open"]["width"], &told[2]["open"]["width"]), (&200.into(), &200.into()));
    shows_something(&folder.path().join("one.png"));
}

/// Figures for BENCHMARKS.md: `cargo test --release --test tables -- --ignored --nocapture ten_thousand`.
#[tokio::test]
#[ignore = "takes a minute, and prints figures"]
async fn ten_thousand_samples_stay_quick() {
    let browser = browser().unwrap();
    for side in [64, 256] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 10_000, side).await;
        let started = std::time::Instant::now();
        let page = page(folder.path(), 10_000).await;
        let (making, bytes) = (started.elapsed(), std::fs::metadata(&page).unwrap().len());
        println!("10 000 images of {side} × {side}: {:.1} MB, made in {making:.1?}", bytes as f64 / 1e6);
        let actions = [
            "find:r",
            "find:red",
            "find:red circle",
            "clear",
            "sort:best",
            "sort:key",
            "show:accepted",
            "scroll:0.5",
            "open:3",
        ];
        for told in browse(&browser, &page, &actions) {
            println!("  {}: {} ms, {}", told["action"], told["milliseconds"], told["count"]);
        }
    }
}
