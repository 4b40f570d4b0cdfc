//! Text tokenizers from outside: learned from the captions of latents, and a user's own.

use crate::tables_support::{dataset, provenance, rows};
use imagebart::jobs::JobError;
use imagebart::jobs::text_tokenizer::{TextTokenizerOptions, TextTokenizerSummary, describe, train_text_tokenizer};
use imagebart::tables::{LatentRow, Manifest, OutputDir, UnitWriter};
use imagebart::text::{TextTokenizer, WordCounts, train};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tokenizers::Tokenizer;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Captions as the web has them.
fn captions(count: u64) -> Vec<String> {
    let what = ["dog", "Cat", "red bus", "woman", "café table", "house", "lighthouse", "bicycle"];
    let place = ["on a beach", "in the street", "near the river", "under a tree", "at  night", "in Tōkyō"];
    let how = ["running", "sleeping", "in the rain", "with flowers", "seen from above", "blurred"];
    let syllables = ["ka", "ri", "mon", "tel", "u", "vash", "or", "ne", "lis", "ba", "dro", "qui", "enth"];
    let pick = |list: &[&'static str], n: u64| list[(n % list.len() as u64) as usize];
    (0..count)
        .map(|n| {
            let name = [n, n * 7, n * 5 / 3].map(|part| pick(&syllables, part)).concat();
            let caption = format!("A {} {} {} {name}", pick(&what, n), pick(&place, n / 3), pick(&how, n / 7));
            if n.is_multiple_of(5) { format!("{caption}, no. {n}!") } else { caption }
        })
        .collect()
}

/// An output directory with these captions, two rows (a picture and its mirror) for each; `None` is a picture without.
async fn latents(folder: &Path, captions: &[Option<String>]) {
    let provenance = Arc::new(provenance(64));
    let dir = OutputDir::local(folder).unwrap();
    let half = captions.len() / 2;
    let parts = [("a.tar", &captions[..half]), ("b.tar", &captions[half..])];
    let manifest = Manifest::new(&provenance, dataset(&parts.map(|(name, _)| name)));
    dir.begin(&manifest).await.unwrap();
    for (unit, captions) in parts {
        let mut writer = UnitWriter::create(&dir, &provenance, unit).unwrap();
        for row in rows(&provenance, captions.len() as u64) {
            let caption = captions[row.index as usize].clone();
            writer.row(LatentRow { caption, ..row }).await.unwrap();
        }
        writer.commit().await.unwrap();
    }
}

fn learned(captions: &[String], vocabulary: u32) -> TextTokenizer {
    let mut words = WordCounts::new().unwrap();
    captions.iter().for_each(|caption| words.add(caption).unwrap());
    train(words, vocabulary, Path::new("text-tokenizer.json")).unwrap()
}

fn options(folder: &Path) -> TextTokenizerOptions {
    let url = folder.join("out").display().to_string();
    TextTokenizerOptions { url, to: folder.join("text-tokenizer.json"), vocabulary: 400, overwrite: false }
}

/// A folder whose `out` has the latents of these captions.
async fn folder(captions: &[Option<String>]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("out")).unwrap();
    latents(&folder.path().join("out"), captions).await;
    folder
}

#[tokio::test]
async fn captions_of_latents_become_a_tokenizer() {
    let mut captions: Vec<Option<String>> = captions(200).into_iter().map(Some).collect();
    captions[3] = None;
    captions[150] = Some("  ".to_owned());
    let folder = folder(&captions).await;
    let options = options(folder.path());
    assert!(describe(&options).await.unwrap().contains("2 files"));
    assert!(!options.to.exists());
    let summary: TextTokenizerSummary = train_text_tokenizer(&options).await.unwrap();
    // A picture and its mirror have one caption.
    assert_eq!((summary.captions, summary.without, summary.vocabulary, summary.forgotten), (198, 2, 400, 0));
    let tokenizer = TextTokenizer::open(&options.to).unwrap();
    assert_eq!((tokenizer.vocabulary(), tokenizer.fingerprint()), (400, summary.fingerprint.as_str()));
    let given: Vec<String> = captions.into_iter().flatten().filter(|caption| caption != "  ").collect();
    assert_eq!(tokenizer.bytes(), learned(&given, 400).bytes());
    let lengths: Vec<usize> = given.iter().map(|caption| tokenizer.length(caption).unwrap()).collect();
    assert_eq!(summary.lengths[2], lengths.into_iter().max().unwrap());
    assert!(summary.lengths[0] <= summary.lengths[1] && summary.to_string().contains("condition.length"), "{summary}");

    let error = train_text_tokenizer(&options).await.unwrap_err();
    assert!(matches!(error, JobError::Usage(_)) && error.to_string().contains("--overwrite"), "{error}");
    train_text_tokenizer(&TextTokenizerOptions { overwrite: true, ..options.clone() }).await.unwrap();
    for (wrong, word) in [
        (TextTokenizerOptions { vocabulary: 256, overwrite: true, ..options.clone() }, "256 is too small"),
        (TextTokenizerOptions { to: "s3://bucket/t.json".into(), ..options.clone() }, "is a URL"),
        (TextTokenizerOptions { url: "nowhere".to_owned(), overwrite: true, ..options }, "nowhere"),
    ] {
        let error = train_text_tokenizer(&wrong).await.unwrap_err();
        assert!(matches!(error, JobError::Usage(_)) && error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn latents_without_captions_say_so() {
    let folder = folder(&vec![None; 6]).await;
    let error = train_text_tokenizer(&options(folder.path())).await.unwrap_err();
    assert!(error.to_string().contains("have no captions (6 images)"), "{error}");
    assert!(!options(folder.path()).to.exists());
}

#[tokio::test]
async fn the_command_writes_the_same_file_every_time() {
    let folder = folder(&captions(100).into_iter().map(Some).collect::<Vec<_>>()).await;
    let mut files = Vec::new();
    for name in ["a.json", "b.json"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imagebart"));
        command.current_dir(folder.path()).args(["train-text-tokenizer", "out", "--vocabulary", "300", "--to", name]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("300 ids, from 100 captions"));
        files.push(std::fs::read(folder.path().join(name)).unwrap());
    }
    assert_eq!(files[0], files[1]);
}

/// The library's own trainer learns the same merges, where it learns any in a fixed order.
#[test]
fn merges_are_those_of_the_tokenizers_library() {
    let captions = captions(500);
    let ours = learned(&captions, 600);
    let mut reference = Tokenizer::from_bytes(ours.bytes()).unwrap();
    reference.with_model(BPE::default());
    let trainer = BpeTrainer::builder()
        .vocab_size(600)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .build();
    reference.train(&mut TrainerWrapper::from(trainer), captions.iter()).unwrap();
    let model = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap()["model"].clone();
    let (ours, reference) = (model(ours.bytes()), model(reference.to_string(false).unwrap().as_bytes()));
    assert!(ours["merges"].as_array().unwrap().len() > 200);
    assert_eq!(ours["merges"], reference["merges"]);
    assert_eq!(ours["vocab"], reference["vocab"]);
}

#[test]
fn equal_captions_give_equal_files_and_few_words_a_small_vocabulary() {
    let captions = captions(50);
    assert_eq!(learned(&captions, 320).bytes(), learned(&captions, 320).bytes());
    let few = learned(&["aaaa aaaa".to_owned()], 8192);
    assert!((257..270).contains(&few.vocabulary()), "{}", few.vocabulary());
    // Nothing occurs twice: bytes alone.
    assert_eq!(learned(&["xyz".to_owned()], 300).vocabulary(), 256);
}

#[test]
fn no_character_is_unknown_and_text_comes_back() {
    let tokenizer = learned(&captions(300), 500);
    for text in ["a dog on a beach", "漢字 и ещё 🦀🦀 \u{7} \u{10ffff}", "naïve café — “quoted”", "x"]
    {
        let encoded = tokenizer.encode(text, 200).unwrap();
        assert!(!encoded.truncated && encoded.ids.len() == 200);
        assert_eq!(tokenizer.decode(&encoded.ids).unwrap().trim_start(), text);
    }
    // Upper case and spaces are the tokenizer's to decide.
    let ids = |text: &str| tokenizer.encode(text, 32).unwrap().ids;
    assert_eq!(ids("A  Dog\n"), ids("a dog"));
    assert_eq!(ids("cafe\u{301}"), ids("café"));
}

#[test]
fn ids_have_one_length_padding_at_the_end_and_cuts_are_told() {
    let tokenizer = learned(&captions(300), 500);
    let padding = tokenizer.vocabulary() as u32;
    assert_eq!(tokenizer.encode("", 4).unwrap().ids, [padding; 4]);
    let (caption, length) = ("a red bus in the street", tokenizer.length("a red bus in the street").unwrap());
    let whole = tokenizer.encode(caption, length).unwrap();
    assert!(!whole.truncated && !whole.ids.contains(&padding));
    let longer = tokenizer.encode(caption, length + 3).unwrap();
    assert_eq!(longer.ids, [&whole.ids[..], &[padding; 3]].concat());
    let cut = tokenizer.encode(caption, length - 1).unwrap();
    assert_eq!((cut.ids.as_slice(), cut.truncated), (&whole.ids[..length - 1], true));
    let endless = tokenizer.encode(&"word ".repeat(1 << 16), 8).unwrap();
    assert!(endless.truncated && endless.ids.len() == 8);
}

/// A user's tokenizer, with a beginning and an end as CLIP's has.
fn with_special_tokens() -> Value {
    let mut value: Value = serde_json::from_slice(learned(&captions(100), 300).bytes()).unwrap();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    value["added_tokens"] = json!([special(300, "<start>"), special(301, "<end>")]);
    value["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<start>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<end>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<start>": {"id": "<start>", "ids": [300], "tokens": ["<start>"]},
            "<end>": {"id": "<end>", "ids": [301], "tokens": ["<end>"]}}});
    value["truncation"] = json!({"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0});
    value["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "!"});
    value
}

fn from_value(value: &Value) -> Result<TextTokenizer, String> {
    TextTokenizer::from_bytes("mine.json", value.to_string().into_bytes()).map_err(|error| error.to_string())
}

#[test]
fn a_users_special_tokens_survive_a_cut() {
    let tokenizer = from_value(&with_special_tokens()).unwrap();
    assert_eq!(tokenizer.vocabulary(), 302);
    let whole = tokenizer.encode("a dog in the rain", 40).unwrap();
    let end = whole.ids.iter().position(|&id| id == 301).unwrap();
    assert!(whole.ids[0] == 300 && end > 6 && whole.ids[end + 1..].iter().all(|&id| id == 302), "{:?}", whole.ids);
    let cut = tokenizer.encode("a dog in the rain", 6).unwrap();
    assert!(cut.truncated && cut.ids[..5] == whole.ids[..5] && cut.ids[5] == 301, "{:?}", cut.ids);
    let message = tokenizer.encode("a dog", 2).unwrap_err().to_string();
    assert!(message.contains("mine.json") && message.contains("2 special tokens"), "{message}");
}

#[test]
fn the_fingerprint_is_of_the_content() {
    let value = with_special_tokens();
    let fingerprint = from_value(&value).unwrap().fingerprint().to_owned();
    let pretty = serde_json::to_vec_pretty(&value).unwrap();
    assert_eq!(TextTokenizer::from_bytes("x.json", pretty).unwrap().fingerprint(), fingerprint);
    let mut other = value.clone();
    (other["padding"], other["truncation"]) = (Value::Null, Value::Null);
    assert_eq!(from_value(&other).unwrap().fingerprint(), fingerprint);
    other["normalizer"] = Value::Null;
    assert_ne!(from_value(&other).unwrap().fingerprint(), fingerprint);
}

#[test]
fn files_that_are_no_use_are_refused_with_their_name() {
    let fault = |bytes: &[u8]| {
        let message = TextTokenizer::from_bytes("mine.json", bytes.to_vec()).unwrap_err().to_string();
        assert!(message.contains("mine.json"), "{message}");
        message
    };
    assert!(fault(b"").contains("no JSON"));
    assert!(fault(b"{\"vocab\": 1}").contains("no \"model\""));
    fault(b"{\"model\": {\"type\": \"Unheard\"}}");
    let mut value = with_special_tokens();
    value["model"]["dropout"] = json!(0.1);
    assert!(fault(value.to_string().as_bytes()).contains("dropout"));
    let mut value = with_special_tokens();
    value["model"]["vocab"]["huge"] = json!(4_000_000_000u32);
    assert!(fault(value.to_string().as_bytes()).contains("can be used"));
    let mut value = with_special_tokens();
    value["model"]["continuing_subword_prefix"] = json!("longer than any merge");
    fault(value.to_string().as_bytes());
    let whole = with_special_tokens().to_string();
    (0..20).for_each(|part| drop(fault(&whole.as_bytes()[..whole.len() * part / 20])));
    assert!(TextTokenizer::open("nowhere.json").unwrap_err().to_string().contains("nowhere.json"));
}
