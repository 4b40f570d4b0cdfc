//! Prompt tables as their user sees them: what rows may say, and what is drawn of them.

use crate::common::model::support::{classes, unconditional};
use crate::common::model::{pipeline, prompted, rows};
use crate::common::{imagebart, stderr, succeed, tables, without_card};
use crate::sample::{draw, refused};
use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use imagebart::tables::SampleRow;
use parquet::arrow::ArrowWriter;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::tempdir;

/// Writes a table of prompts at `root`, and tells the setting that names it.
fn table(root: &Path, name: &str, text: &str) -> String {
    let path = root.join(name);
    fs::write(&path, text).unwrap();
    format!("sample.prompts={}", path.display())
}

fn by_key(out: &Path) -> BTreeMap<String, SampleRow> {
    rows(out).into_iter().map(|row| (row.key.clone(), row)).collect()
}

#[test]
fn rows_have_keys_seeds_counts_and_settings_of_their_own() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let csv = table(
        root.path(),
        "p.csv",
        "prompt,key,seed,count,temperature,top_k,guidance,note\n\
         a red,one,5,2,0.5,,,x\n\
         square,,,,,9,\"[1, 3]\",y\n\
         a blue,three,,3,,,,z\n",
    );
    let out = root.path().join("out");
    let log = draw(&file, &out, &[&csv, "sample.ignore_columns=[\"note\"]", "sample.count=1", "sample.top_p=0.9"]);
    assert!(log.contains("6 rows of 6 images in 2 units"), "{log}");
    let drawn = rows(&out);
    let keys: Vec<&str> = drawn.iter().map(|row| row.key.as_str()).collect();
    assert_eq!(keys, ["one-0", "one-1", "000000001-0", "three-0", "three-1", "three-2"]);
    assert_eq!((drawn[0].seed, drawn[1].seed, drawn[0].image.path.as_str()), (5, 6, "one-0.png"));
    let settings = |row: usize| (*drawn[row].settings).clone();
    assert_eq!((settings(0).temperature, settings(0).top_p), (vec![0.5; 2], vec![0.9; 2]));
    assert_eq!((settings(2).temperature, settings(2).top_k), (vec![1.0; 2], vec![9; 2]));
    assert_eq!((settings(2).guidance, settings(3).guidance), (vec![1.0, 3.0], vec![1.0; 2]));
    succeed(["verify", out.to_str().unwrap()]);

    // A row alone, with its seed, in another order, with other neighbours: the same image.
    let json = table(
        root.path(),
        "p.jsonl",
        &format!(
            "{}\n{}\n{}\n",
            serde_json::json!({"prompt": "a blue", "seed": drawn[4].seed, "key": "again"}),
            serde_json::json!({"prompt": "square", "seed": drawn[2].seed, "top_k": 9, "guidance": [1, 3]}),
            serde_json::json!({"prompt": "a red", "seed": 6, "temperature": 0.5}),
        ),
    );
    let again = root.path().join("again");
    draw(&file, &again, &[&json, "sample.count=1", "sample.top_p=0.9"]);
    let again: Vec<Vec<u16>> = rows(&again).into_iter().map(|row| row.tokens).collect();
    assert_eq!(again, [4, 2, 1].map(|row| drawn[row].tokens.clone()));
}

#[test]
fn a_table_is_one_run_however_it_is_written() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let out = root.path().join("out");
    let csv = table(root.path(), "p.csv", "prompt,seed,count\na red,5,2\nsquare,,3\n");
    draw(&file, &out, &[&csv]);
    let before = without_card(tables(&out));
    let json = table(
        root.path(),
        "p.jsonl",
        "{\"count\": 2, \"prompt\": \"a red\", \"seed\": 5}\n{\"prompt\": \"square\", \"count\": 3.0}\n",
    );
    let parquet = root.path().join("p.parquet");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("seed", Arc::new(Int64Array::from(vec![Some(5), None]))),
        ("prompt", Arc::new(StringArray::from(vec!["a red", "square"]))),
        ("count", Arc::new(Int64Array::from(vec![2, 3]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(&parquet).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    for same in [json, format!("sample.prompts={}", parquet.display())] {
        let log = draw(&file, &out, &[&same]);
        assert!(log.contains("nothing to do"), "{log}");
    }
    assert_eq!(without_card(tables(&out)), before);
    for other in ["a red,6,2\nsquare,,3", "a red,5,3\nsquare,,2", "a red,5,2\nsquare,7,3", "square,,3\na red,5,2"] {
        let other = table(root.path(), "p.csv", &format!("prompt,seed,count\n{other}\n"));
        let url = format!("output.url={}", out.display());
        let output = imagebart().args(["sample", &file, "--set", &url, "--set", &other]).output().unwrap();
        assert!(output.status.code() == Some(2) && stderr(&output).contains("rows.prompts"), "{}", stderr(&output));
    }
    assert_eq!(without_card(tables(&out)), before);
}

#[test]
fn classes_go_by_number_or_name() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), classes(3, true), "");
    let file = file.to_str().unwrap();
    let names = root.path().join("names.txt");
    fs::write(&names, "red fox\nowl\nnewt\n").unwrap();
    let named = format!("sample.class_names={}", names.display());
    let out = root.path().join("named");
    let csv = table(root.path(), "p.csv", "label,key\nowl,a\n2,b\nred fox,c\n");
    draw(file, &out, &[&csv, &named, "sample.count=1"]);
    assert_eq!(rows(&out).iter().map(|row| row.label).collect::<Vec<_>>(), [1, 2, 0].map(Some));
    // Plain text is a class a line.
    let text = table(root.path(), "p.txt", "1\n2\n0\n");
    draw(file, &root.path().join("text"), &[&text, "sample.count=1"]);
    assert_eq!(rows(&root.path().join("text")).iter().map(|row| row.label).collect::<Vec<_>>(), [1, 2, 0].map(Some));

    let wrong = table(root.path(), "p.csv", "label\nred fix\n");
    refused(root.path(), file, &[&wrong, &named], 2, "row 1: its class \"red fix\" is not one of the 3");
    refused(root.path(), file, &[&wrong, &named], 2, "did you mean \"red fox\"?");
    refused(root.path(), file, &[&wrong], 2, "set sample.class_names to it");
    let wrong = table(root.path(), "p.csv", "label\n3\n");
    refused(root.path(), file, &[&wrong], 2, "row 1: its class 3 is out of range; the chain has 3: 0 to 2");
    let wrong = table(root.path(), "p.csv", "prompt\nan owl\n");
    refused(root.path(), file, &[&wrong], 2, "the chain is conditioned on classes: give a label");
    fs::write(&names, "red fox\nowl\n").unwrap();
    refused(root.path(), file, &[&text, &named], 2, "has 2 lines, the chain 3 classes");
}

/// Rows of an unconditional chain have nothing but names, numbers and settings.
#[test]
fn a_table_may_say_no_more_than_how() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    let out = root.path().join("out");
    let csv = table(root.path(), "p.csv", "key,seed,temperature\nhot,1,2\ncold,2,0.5\n");
    draw(file, &out, &[&csv, "sample.count=1"]);
    let drawn = by_key(&out);
    assert_eq!(drawn.keys().collect::<Vec<_>>(), ["cold-0", "hot-0"]);
    assert_ne!(drawn["cold-0"].tokens, drawn["hot-0"].tokens);
}

/// Each row by its own settings: the same tokens as in runs where all rows have them.
#[test]
fn mixed_settings_share_a_batch() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let all = [(1.0, 1.0), (3.0, 1.0), (1.0, 0.5), (2.0, 0.8)];
    let line = |number: usize, (guidance, temperature): (f64, f64)| {
        format!("a red circle,k{number},{number},{guidance},{temperature}\n")
    };
    let header = "prompt,key,seed,guidance,temperature\n";
    let mixed: String = (0..8).map(|number| line(number, all[number % 4])).collect();
    let settings = ["sample.count=1", "sample.batch_size=8", "sample.unit_rows=8"];
    let draw = |name: &str, text: &str| {
        let csv = table(root.path(), &format!("{name}.csv"), &format!("{header}{text}"));
        let out = root.path().join(name);
        draw(&file, &out, &[&[csv.as_str()], &settings[..]].concat());
        rows(&out)
    };
    let mixed = draw("mixed", &mixed);
    for (index, own) in all.into_iter().enumerate() {
        let alike = draw(&format!("all-{index}"), &(0..8).map(|number| line(number, own)).collect::<String>());
        for number in (index..8).step_by(4) {
            assert_eq!(mixed[number].tokens, alike[number].tokens, "row {number}, {own:?}");
            assert_eq!(mixed[number].settings, alike[number].settings);
        }
    }
}

#[test]
fn what_is_there_twice_or_too_long_is_refused() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let faults = [
        ("prompt,key\nred,a\nblue,b\nred,a\n", "row 3: its key \"a\" is that of row 1, too"),
        ("prompt,key\nred,\nblue,000000000\n", "row 2: its key \"000000000\" is that of row 1, too"),
        ("prompt,seed\nred,5\nblue,5\n", "row 2: the seed 5 is that of an image of row 1, too"),
        ("prompt,seed,count\nred,5,3\nblue,7,1\n", "row 2: the seed 7 is that of an image of row 1, too"),
        ("prompt,seed,count\nred,18446744073709551615,2\n", "row 1: its seed 18446744073709551615 leaves no room"),
        ("prompt,guidance\nred,-1\n", "row 1: its guidance = -1 at scale 1"),
        ("prompt,temperature\nred,\"[1, 1, 1]\"\n", "row 1: its temperature lists 3 values"),
        ("prompt,label\nred,1\n", "row 1: it has a label, but the chain is conditioned on text"),
        ("key\na\n", "row 1: it has no prompt"),
        ("promt\nred\n", "its first line: unknown column `promt`: did you mean `prompt`?"),
    ];
    for (text, expected) in faults {
        let csv = table(root.path(), "p.csv", text);
        refused(root.path(), &file, &[&csv, "sample.count=1"], 2, expected);
    }
    let long = table(root.path(), "long.txt", "red\nred red red red red red red red\n");
    refused(root.path(), &file, &[&long, "sample.strict=true"], 2, "line 2: its prompt has more than 6 tokens");
    assert!(!root.path().join("out").exists());

    let shared = table(root.path(), "p.csv", "prompt,seed\nred,5\nblue,5\n");
    let out = root.path().join("shared");
    draw(&file, &out, &[&shared, "sample.count=1", "sample.shared_seeds=true"]);
    assert_eq!(rows(&out).iter().map(|row| row.seed).collect::<Vec<_>>(), [5, 5]);
}

#[test]
fn ranks_and_interruptions_do_not_show() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let text: String = (0..13).map(|number| format!("a red {number},{}\n", number % 3 + 1)).collect();
    let csv = table(root.path(), "p.csv", &format!("prompt,count\n{text}"));
    let (one, many) = (root.path().join("one"), root.path().join("many"));
    draw(&file, &one, &[&csv]);
    let url = format!("output.url={}", many.display());
    for rank in ["2", "0", "1"] {
        let ranks = ["--rank", rank, "--world", "3", "--set", &url, "--set", &csv];
        assert!(imagebart().args(["sample", &file]).args(ranks).status().unwrap().success());
    }
    assert_eq!(tables(&one), tables(&many));
    // A unit in the middle alone.
    let unit = fs::read_dir(many.join("samples")).unwrap().map(|file| file.unwrap().path()).nth(2).unwrap();
    fs::remove_file(unit).unwrap();
    draw(&file, &many, &[&csv]);
    assert_eq!(tables(&one), tables(&many));
    succeed(["verify", many.to_str().unwrap()]);
}
