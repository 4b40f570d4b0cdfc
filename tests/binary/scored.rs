//! Text metrics, and reports of several runs, as the user of `imagebart evaluate` sees them.

use crate::common::succeed;
use crate::evaluate::{refused, report, value};
use crate::tables_support::samples;
use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use bytes::Bytes;
use imagebart::imaging::{Rgb, encode_png};
use imagebart::jobs::demo::scenes::Scene;
use imagebart::jobs::demo::split::Split;
use imagebart::tables::{ImageFile, OutputDir, SampleRow, SamplesIdentity, UnitWriter};
use imagebart::text::{TextTokenizer, WordCounts, train};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tch::{CModule, Device, Kind, Tensor};
use tempfile::tempdir;

/// Pictures of the demo with their captions.
fn drawn(count: u64) -> Vec<(Option<String>, Rgb)> {
    let scene = |index| Scene::new(Split::Test, 0, index);
    (0..count).map(scene).map(|scene| (Some(scene.caption().to_string()), scene.draw().unwrap())).collect()
}

/// Writes a table of accepted samples with these texts and images.
fn table(out: &Path, rows: Vec<(Option<String>, Rgb)>) {
    let provenance = Arc::new(samples::provenance(64));
    let count = rows.len() as u64;
    let plain = samples::rows(&provenance, 0..count);
    let named = plain.into_iter().zip(rows).map(|(row, (prompt, image))| SampleRow {
        image: ImageFile { bytes: Bytes::from(encode_png(&image).unwrap()), path: format!("{}.png", row.key) },
        prompt,
        accepted: true,
        ..row
    });
    let dir = OutputDir::local(out).unwrap().of::<SamplesIdentity>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut writer = UnitWriter::create(&dir, &provenance, samples::name(0..count).as_str()).unwrap();
        for row in named {
            writer.row(row).await.unwrap();
        }
        writer.commit().await.unwrap();
    });
}

/// A pipeline that scores the samples in `root`/out.
fn pipeline(root: &Path, more: &str) -> String {
    let file = root.join("pipeline.toml");
    let out = root.join("out");
    fs::create_dir_all(&out).unwrap();
    let text =
        format!("[evaluate]\nbootstrap = 100\n{more}\n[output]\nurl = \"{}\"\n[run]\nthreads = 1\n", out.display());
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Images of every other row are those of the next one.
fn mixed(rows: Vec<(Option<String>, Rgb)>) -> Vec<(Option<String>, Rgb)> {
    let next = rows.iter().skip(1).chain(rows.first()).map(|(_, image)| image.clone()).collect::<Vec<_>>();
    let pairs = rows.into_iter().zip(next).enumerate();
    pairs.map(|(row, ((text, own), next))| (text, if row % 2 == 0 { own } else { next })).collect()
}

#[test]
fn the_reader_judges_samples_of_the_demo() {
    let root = tempdir().unwrap();
    let root = root.path();
    let file = pipeline(root, "scorer = \"shapes\"");
    let (right, wrong) = (root.join("out"), root.join("wrong"));
    let refusal = "evaluate.metrics=[\"text\"]";
    refused(["evaluate", &file, "--set", refusal], "there are no samples at");
    table(&right, drawn(40));
    fs::create_dir(&wrong).unwrap();
    table(&wrong, mixed(drawn(40)));

    let told = String::from_utf8(succeed(["evaluate", &file, "--dry-run"]).stdout).unwrap();
    assert!(told.contains("the rule reader of the demo's shapes"), "{told}");
    let told = String::from_utf8(succeed(["evaluate", &file]).stdout).unwrap();
    assert!(told.contains("text attributes") && told.contains("1.000 [1.000, 1.000]"), "{told}");
    let first = report(&right.join("evaluate"));
    for name in ["attributes", "sizes", "colours", "kinds", "relations", "clean", "perfect"] {
        assert_eq!(value(&first, name), 1.0, "{name}");
    }
    let url = format!("output.url={}", wrong.display());
    succeed(["evaluate", &file, "--set", &url]);
    let second = report(&wrong.join("evaluate"));
    let (attributes, perfect) = (value(&second, "attributes"), value(&second, "perfect"));
    assert!((0.5..0.9).contains(&attributes) && (0.4..=0.6).contains(&perfect), "{attributes}, {perfect}");
    assert_eq!(value(&second, "clean"), 1.0);
    let folders = [&right, &wrong].map(|out| out.join("evaluate").display().to_string());
    let compared = succeed(["evaluate", "--compare", &folders[0], &folders[1]]);
    let compared = String::from_utf8(compared.stdout).unwrap();
    let line = compared.lines().find(|line| line.contains("text attributes")).unwrap();
    assert!(line.contains("in pairs") && line.contains("the second is worse"), "{compared}");

    // What the reader cannot read.
    for (rows, sentence) in [
        (vec![(Some("a dog".to_owned()), drawn(1)[0].1.clone())], "\"a dog\" of the image 000000000 is none of them"),
        (vec![(None, drawn(1)[0].1.clone())], "none of the images has a text"),
        (vec![(None, Rgb::new(8, 8, vec![0; 192]).unwrap())], "64 × 64 pixels, and these have 8 × 8"),
    ] {
        let out = tempdir().unwrap();
        table(out.path(), rows);
        let url = format!("output.url={}", out.path().display());
        refused(["evaluate", &file, "--set", &url], sentence);
        assert!(!out.path().join("evaluate").exists());
    }
}

/// Saves a scorer of images of 64 pixels and six ids.
fn scorer(path: &Path, ids: bool, forward: fn(&[Tensor]) -> Tensor) {
    let images = Tensor::rand([2, 3, 64, 64], (Kind::Float, Device::Cpu));
    let all = [images, Tensor::ones([2, 6], (Kind::Int64, Device::Cpu))];
    let inputs = if ids { &all[..] } else { &all[..1] };
    let mut closure = |inputs: &[Tensor]| vec![forward(inputs)];
    CModule::create_by_tracing("Scorer", "forward", inputs, &mut closure).unwrap().save(path).unwrap();
}

fn brightness(inputs: &[Tensor]) -> Tensor {
    let ids = inputs[1].sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    inputs[0].mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float) + ids / 1000.0
}

#[test]
fn a_module_scores_images_beside_their_texts() {
    let root = tempdir().unwrap();
    let root = root.path();
    let (module, words) = (root.join("clip.pt"), root.join("words.json"));
    let mut counts = WordCounts::new().unwrap();
    counts.add("a large red circle above a small blue square").unwrap();
    fs::write(&words, train(counts, 330, &words).unwrap().bytes()).unwrap();
    let key = |name: &str, path: &Path| format!("{name} = \"{}\"\n", path.display());
    let alone = key("scorer", &module);
    let all = alone.clone() + &key("scorer_tokenizer", &words) + "scorer_length = 6\n";
    let file = pipeline(root, &all);
    let rows = drawn(5);
    let out = root.join("out");
    table(&out, rows.iter().cloned().chain([(None, rows[0].1.clone())]).collect());
    refused(["evaluate", &file], "is not \"shapes\", and no file that can be read");

    scorer(&module, true, brightness);
    succeed(["evaluate", &file]);
    let found = report(&out.join("evaluate"));
    let tokenizer = TextTokenizer::open(&words).unwrap();
    let expected: Vec<f64> = rows
        .iter()
        .map(|(text, image)| {
            let ids = tokenizer.encode(text.as_deref().unwrap(), 6).unwrap().ids;
            let pixels = image.pixels.iter().map(|value| f64::from(*value) / 255.0).sum::<f64>();
            pixels / image.pixels.len() as f64 + ids.iter().map(|id| f64::from(*id)).sum::<f64>() / 1000.0
        })
        .collect();
    let expected = expected.iter().sum::<f64>() / 5.0;
    assert!((value(&found, "clip_score") - expected).abs() < 1e-4, "{found}, expected {expected}");
    let settings = &found["figures"][0]["settings"];
    assert!(settings["scorer"].as_str().unwrap().contains(tokenizer.fingerprint()), "{settings}");
    assert!(found["notes"].to_string().contains("1 images without a text"), "{found}");
    fs::remove_dir_all(out.join("evaluate")).unwrap();

    let signature = "its forward(images, ids [batch, 6]) must give one number an image";
    scorer(&module, true, |inputs| brightness(inputs).unsqueeze(1).repeat([1, 3]));
    refused(["evaluate", &file], signature);
    scorer(&module, false, |inputs| inputs[0].mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float));
    refused(["evaluate", &file], signature);
    // The root of a negative number is none.
    scorer(&module, true, |inputs| (brightness(inputs) - 100.0).sqrt());
    refused(["evaluate", &file], "evaluate.scorer gives NaN for the image 000000000");
    fs::write(&module, "no module").unwrap();
    refused(["evaluate", &file], "it is no TorchScript module");
    let file = pipeline(root, &alone);
    refused(["evaluate", &file], "give evaluate.scorer_tokenizer and evaluate.scorer_length, or chain.model");
    assert!(!out.join("evaluate").exists());
}

#[test]
fn several_runs_make_one_report_with_curves() {
    let root = tempdir().unwrap();
    let root = root.path();
    let file = pipeline(root, "scorer = \"shapes\"");
    let run = |name: &str, at: u32| {
        format!("[[evaluate.run]]\nname = \"{name}\"\nat = {at}\noutput = \"{}\"\n", root.join(name).display())
    };
    let text = fs::read_to_string(&file).unwrap() + &run("early", 1000) + &run("late", 20000);
    fs::write(&file, &text).unwrap();
    for (name, rows) in [("early", mixed(drawn(30))), ("late", drawn(30))] {
        fs::create_dir(root.join(name)).unwrap();
        table(&root.join(name), rows);
    }
    let told = String::from_utf8(succeed(["evaluate", &file, "--dry-run"]).stdout).unwrap();
    assert!(told.contains("run        early") && told.contains("run        late"), "{told}");
    // What is wrong with the last run is said before the first is measured.
    let broken = root.join("broken");
    fs::create_dir(&broken).unwrap();
    table(&broken, vec![(None, Rgb::new(8, 8, vec![0; 192]).unwrap())]);
    fs::write(&file, text.clone() + &run("broken", 30000)).unwrap();
    refused(["evaluate", &file], "evaluate.run \"broken\": evaluate.scorer = \"shapes\" reads");
    let folder = root.join("out/evaluate");
    assert!(!folder.exists());

    fs::write(&file, text).unwrap();
    let told = String::from_utf8(succeed(["evaluate", &file]).stdout).unwrap();
    assert!(told.contains("early: text attributes") && told.contains("late: text attributes"), "{told}");
    let found = report(&folder);
    let figures = found["figures"].as_array().unwrap();
    assert_eq!(
        (figures.len(), &found["runs"][1]["name"], &found["runs"][1]["at"]),
        (14, &"late".into(), &20000.0.into())
    );
    let page = fs::read_to_string(folder.join("evaluation.html")).unwrap();
    assert!(page.contains("Curves over 2 runs") && page.matches("<svg").count() == 7, "{page}");
    assert!(page.contains(">20000</text>") && page.contains(": better</dd>") && !page.contains("<script"), "{page}");
    let table = fs::File::open(folder.join("evaluation.parquet")).unwrap();
    let table = ParquetRecordBatchReaderBuilder::try_new(table).unwrap().build().unwrap();
    let batches: Vec<_> = table.collect::<Result<_, _>>().unwrap();
    let at: Vec<f64> = batches
        .iter()
        .flat_map(|batch| batch.column_by_name("at").unwrap().as_primitive::<Float64Type>().values().to_vec())
        .collect();
    assert_eq!(at, [[1000.0; 7], [20000.0; 7]].concat());
    // A report of runs beside itself: run by run.
    let folder = folder.to_str().unwrap();
    let compared = String::from_utf8(succeed(["evaluate", "--compare", folder, folder]).stdout).unwrap();
    assert!(compared.contains("| late: text kinds |") && compared.matches("within noise").count() == 14, "{compared}");
}
