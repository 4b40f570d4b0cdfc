//! Samples as one HTML file that stays quick with ten thousand of them: searched, sorted and filtered by a script of its own.
//!
//! What is known of the images stands in the page as JSON, column by column; the images as base64 in blocks of text, which the
//! browser keeps as text until one of them comes into view. Only the cards in sight are elements. Texts come from prompts and are
//! not to be trusted: the script puts them into the page as text, and the page's policy lets no other script run.

use super::page::Header;
use crate::html::{Opening, Page, escape};
use crate::tables::{DecisionRow, RowSettings};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

const SCRIPT: &str = include_str!("browse.js");
/// Images of a block of text.
const SMALL_BLOCK: usize = 64;
const FULL_BLOCK: usize = 16;
/// Images up to this side are enlarged with hard pixel edges.
const PIXELATED: u32 = 128;

/// An image of the page, and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shot {
    pub key: String,
    pub prompt: Option<String>,
    pub label: Option<i32>,
    pub seed: u64,
    pub score: Option<f32>,
    pub rank: Option<u32>,
    pub accepted: bool,
    pub parent: Option<String>,
    /// What `imagebart filter` decided about it.
    pub decision: Option<DecisionRow>,
    pub settings: Arc<RowSettings>,
    /// Width and height, in pixels.
    pub size: (u32, u32),
    /// As it is shown among the others.
    pub small: File,
    /// As it is shown alone; where there is none, as among the others.
    pub full: Option<File>,
    /// Its way from noise, scale by scale, side by side.
    pub way: Option<File>,
}

/// An image file of a kind that browsers show, as in `image/png`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    pub kind: &'static str,
    pub bytes: Vec<u8>,
}

/// What the script reads: a value for each image. Columns without any value are left out.
#[derive(Serialize)]
struct Columns<'a> {
    key: Vec<&'a str>,
    #[serde(skip_serializing_if = "empty")]
    prompt: Vec<Option<&'a str>>,
    #[serde(skip_serializing_if = "empty")]
    label: Vec<Option<i32>>,
    /// As text: JavaScript's numbers hold 53 bits.
    seed: Vec<String>,
    #[serde(skip_serializing_if = "empty")]
    score: Vec<Option<f32>>,
    #[serde(skip_serializing_if = "empty")]
    rank: Vec<Option<u32>>,
    accepted: Vec<bool>,
    #[serde(skip_serializing_if = "empty")]
    parent: Vec<Option<&'a str>>,
    #[serde(skip_serializing_if = "empty")]
    rule: Vec<Option<&'a str>>,
    #[serde(skip_serializing_if = "empty")]
    value: Vec<Option<f32>>,
    #[serde(skip_serializing_if = "empty")]
    neighbour: Vec<Option<&'a str>>,
    width: Vec<u32>,
    height: Vec<u32>,
    /// The place of its settings in `settings`, where each stands once.
    setting: Vec<usize>,
    settings: Vec<&'a RowSettings>,
    /// The output whose record `imagebart sample` draws them again by.
    output: Option<&'a str>,
    blocks: Blocks,
    pixelated: u32,
}

/// Images of a block of each kind.
#[derive(Serialize)]
struct Blocks {
    small: usize,
    full: usize,
    way: usize,
}

fn empty<T>(column: &[Option<T>]) -> bool {
    column.iter().all(Option::is_none)
}

/// Writes the page. By the record in `output`, if it is given, `imagebart sample` can draw each of the images again.
pub fn render(header: &Header, shots: &[Shot], output: Option<&str>) -> String {
    let Header { title, summary, notes, facts } = header;
    let styles = include_str!("browse.css");
    let mut page = Page::open_for(SCRIPT, &Opening { title, summary, notes, styles });
    page.folded_facts("Provenance", facts);
    page.raw(include_str!("browse.html"));
    page.put(format_args!("<script type=\"application/json\" id=\"data\">{}</script>\n", data(shots, output)));
    blocks(&mut page, "small", SMALL_BLOCK, shots.iter().map(|shot| Some(&shot.small)));
    // What stands before the script is there when it runs; full sizes are wanted later.
    page.put(format_args!("<script>{SCRIPT}</script>\n"));
    for (name, file) in
        [("full", (|shot| shot.full.as_ref()) as fn(&Shot) -> Option<&File>), ("way", |shot| shot.way.as_ref())]
    {
        if shots.iter().any(|shot| file(shot).is_some()) {
            blocks(&mut page, name, FULL_BLOCK, shots.iter().map(file));
        }
    }
    page.close()
}

/// The columns as JSON that ends no script, whatever a prompt holds.
fn data(shots: &[Shot], output: Option<&str>) -> String {
    let (mut settings, mut known): (Vec<&RowSettings>, HashMap<String, usize>) = (Vec::new(), HashMap::new());
    let setting = shots.iter().map(|shot| {
        let next = settings.len();
        let text = serde_json::to_string(shot.settings.as_ref()).unwrap_or_default();
        *known.entry(text).or_insert_with(|| {
            settings.push(&shot.settings);
            next
        })
    });
    let setting = setting.collect();
    let decision = |of: fn(&DecisionRow) -> Option<&str>| -> Vec<Option<&str>> {
        shots.iter().map(|shot| shot.decision.as_ref().and_then(of)).collect()
    };
    let columns = Columns {
        key: shots.iter().map(|shot| shot.key.as_str()).collect(),
        prompt: shots.iter().map(|shot| shot.prompt.as_deref()).collect(),
        label: shots.iter().map(|shot| shot.label).collect(),
        seed: shots.iter().map(|shot| shot.seed.to_string()).collect(),
        score: shots.iter().map(|shot| shot.score.filter(|score| score.is_finite())).collect(),
        rank: shots.iter().map(|shot| shot.rank).collect(),
        accepted: shots.iter().map(|shot| shot.accepted).collect(),
        parent: shots.iter().map(|shot| shot.parent.as_deref()).collect(),
        rule: decision(|decision| Some(&decision.rule)),
        value: shots.iter().map(|shot| shot.decision.as_ref()?.value.filter(|value| value.is_finite())).collect(),
        neighbour: decision(|decision| decision.neighbour.as_deref()),
        width: shots.iter().map(|shot| shot.size.0).collect(),
        height: shots.iter().map(|shot| shot.size.1).collect(),
        setting,
        settings,
        output,
        blocks: Blocks { small: SMALL_BLOCK, full: FULL_BLOCK, way: FULL_BLOCK },
        pixelated: PIXELATED,
    };
    let json = serde_json::to_string(&columns).expect("numbers, strings and lists of them are JSON");
    json.replace('<', "\\u003c")
}

/// Images as text that the browser does not look at: `each` to a block, a line each, as what follows `data:image/`.
fn blocks<'a>(page: &mut Page, name: &str, each: usize, files: impl Iterator<Item = Option<&'a File>>) {
    let (mut text, mut lines, mut number) = (String::new(), 0, 0);
    let mut files = files.peekable();
    while let Some(file) = files.next() {
        if let Some(File { kind, bytes }) = file {
            text.push_str(kind);
            text.push_str(";base64,");
            STANDARD.encode_string(bytes, &mut text);
        }
        lines += 1;
        if lines == each || files.peek().is_none() {
            page.put(format_args!("<script type=\"text/plain\" id=\"{}-{number}\">{text}</script>\n", escape(name)));
            (lines, number) = (0, number + 1);
            text.clear();
        } else {
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn shot(number: u64) -> Shot {
        Shot {
            key: format!("k-{number}"),
            prompt: None,
            label: None,
            seed: u64::MAX - number,
            score: None,
            rank: None,
            accepted: true,
            parent: None,
            decision: None,
            settings: Arc::new(RowSettings { temperature: vec![0.9], ..RowSettings::default() }),
            size: (8, 8),
            small: File { kind: "png", bytes: vec![number as u8; 3] },
            full: None,
            way: None,
        }
    }

    /// The text between two marks.
    fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
        page.split_once(start).unwrap().1.split_once(end).unwrap().0
    }

    #[test]
    fn prompts_stay_data() {
        let evil = "</script><script>alert('1')</script><!-- \u{2028} \" \\ \u{0}";
        let hostile = Shot { prompt: Some(evil.into()), key: evil.into(), parent: Some(evil.into()), ..shot(0) };
        let header = Header { title: evil.into(), summary: evil.into(), notes: vec![evil.into()], facts: Vec::new() };
        let page = render(&header, &[hostile], Some(evil));
        let plain = render(&Header { notes: vec![String::new()], ..Header::default() }, &[shot(0)], None);
        assert_eq!(page.matches("<script").count(), plain.matches("<script").count());
        assert_eq!(page.matches("</script").count(), plain.matches("</script").count());
        let data: serde_json::Value = serde_json::from_str(between(&page, "id=\"data\">", "</script>")).unwrap();
        for found in [&data["prompt"][0], &data["key"][0], &data["parent"][0], &data["output"]] {
            assert_eq!(found, evil);
        }
        // The one script that may run is the page's own.
        let own = between(&page, "<script>", "</script>");
        let digest = STANDARD.encode(Sha256::digest(own));
        assert!(page.contains(&format!(
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
        )));
    }

    #[test]
    fn images_lie_in_blocks_of_lines() {
        let mut shots: Vec<Shot> = (0..130).map(shot).collect();
        shots[17].full = Some(File { kind: "jpeg", bytes: vec![1, 2, 3] });
        let page = render(&Header::default(), &shots, None);
        let lines = |id: &str| between(&page, &format!("id=\"{id}\">"), "</script>").split('\n').collect::<Vec<_>>();
        assert_eq!(["small-0", "small-1", "small-2"].map(|id| lines(id).len()), [64, 64, 2]);
        assert!(!page.contains("id=\"small-3\"") && page.contains("id=\"full-8\"") && !page.contains("id=\"full-9\""));
        assert_eq!(lines("small-1")[2], format!("png;base64,{}", STANDARD.encode([66; 3])));
        let full = lines("full-1");
        assert_eq!((full.len(), full[0], full[1]), (16, "", "jpeg;base64,AQID"));
        assert_eq!(lines("full-8"), ["", ""]);
    }

    #[test]
    fn columns_without_values_are_left_out() {
        let scored = Shot { score: Some(f32::NAN), rank: Some(3), ..shot(1) };
        let decision = DecisionRow { key: "k-2".into(), kept: true, rule: "kept".into(), value: None, neighbour: None };
        let decided = Shot { decision: Some(decision), ..shot(2) };
        let page = render(&Header::default(), &[shot(0), scored, decided], Some("out"));
        let data = between(&page, "id=\"data\">", "</script>");
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        for absent in ["prompt", "label", "score", "parent", "value", "neighbour"] {
            assert!(data.get(absent).is_none(), "{absent}");
        }
        assert_eq!(data["rank"], serde_json::json!([null, 3, null]));
        assert_eq!(data["rule"], serde_json::json!([null, null, "kept"]));
        assert_eq!((&data["seed"][0], &data["settings"].as_array().unwrap().len()), (&u64::MAX.to_string().into(), &1));
    }
}
