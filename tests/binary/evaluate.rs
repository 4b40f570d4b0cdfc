//! `imagebart evaluate` as its user sees it: what it measures, refuses and compares.

use crate::common::model::support::unconditional;
use crate::common::model::{CODES, SIDE, model};
use crate::common::{folder, run, stderr, succeed};
use crate::script::{module, twice};
use imagebart::torch::weights::WeightsFile;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use tempfile::tempdir;

/// A module that gives six features, which are its logits, too.
fn network(path: &Path) {
    module(path, 16, |images| {
        let flat = images.flatten(2, -1);
        Tensor::cat(&[flat.mean_dim([2i64].as_slice(), false, Kind::Float), flat.amax([2i64].as_slice(), false)], 1)
    });
    twice(path);
}

/// A data set, a chain, its latents and samples, and a pipeline that evaluates them.
fn everything(root: &Path) -> PathBuf {
    folder(&root.join("images"), 24);
    model(&root.join("model"), unconditional());
    network(&root.join("features.pt"));
    let place = |name: &str| root.join(name).display().to_string();
    let text = format!(
        "[dataset]\nformat = \"folder\"\nurl = \"{}\"\n\n[image]\nsize = {SIDE}\n\n[tokenizer]\nweights = \"{}\"\n\n[chain]\n\
         model = \"{}\"\n\n[sample]\ncount = 20\n\n[evaluate]\nnetwork = \"{}\"\nnetwork_size = 16\nsplits = 2\nkid_size = 10\n\
         kid_subsets = 5\nbootstrap = 50\n\n[output]\nurl = \"{}\"\n\n[run]\nseed = 7\nthreads = 1\n",
        place("images"),
        place("model/tokenizer.safetensors"),
        place("model"),
        place("features.pt"),
        place("out"),
    );
    let pipeline = root.join("pipeline.toml");
    fs::write(&pipeline, text).unwrap();
    pipeline
}

pub fn report(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("evaluation.json")).unwrap()).unwrap()
}

/// The value of a metric.
pub fn value(report: &Value, metric: &str) -> f64 {
    let figures = report["figures"].as_array().unwrap();
    let figure = figures.iter().find(|figure| figure["metric"] == metric);
    figure.unwrap_or_else(|| panic!("no {metric}: {figures:?}"))["value"].as_f64().unwrap()
}

/// Runs the binary and expects exit code 2 with this in its sentence.
#[track_caller]
pub fn refused<const N: usize>(arguments: [&str; N], message: &str) {
    let output = run(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(message), "{text}");
    assert_eq!(text.trim_end().lines().filter(|line| line.starts_with("error: ")).count(), 1, "{text}");
}

#[test]
fn everything_is_measured_and_compared() {
    let root = tempdir().unwrap();
    let root = root.path();
    let pipeline = everything(root);
    let file = pipeline.to_str().unwrap();
    succeed(["encode", file]);
    succeed(["sample", file]);
    let plan = String::from_utf8(succeed(["evaluate", file, "--force", "--dry-run"]).stdout).unwrap();
    assert!(plan.contains("likelihood of 24 rows") && plan.contains("6 dimensions, 6 logits, clean"), "{plan}");
    let reconstruction = "evaluate.metrics=[\"reconstruction\"]";
    refused(["evaluate", file, "--set", reconstruction], "rFID of 24 rows is refused: below 2048");
    let generation = "evaluate.metrics=[\"generation\"]";
    refused(["evaluate", file, "--set", generation], "FID of 20 rows is refused: below 2048");
    assert!(!root.join("out/evaluate").exists());

    let told = String::from_utf8(succeed(["evaluate", file, "--force"]).stdout).unwrap();
    assert!(told.contains("generation fid") && told.contains("evaluation.html"), "{told}");
    let folder = root.join("out/evaluate");
    let found = report(&folder);
    let names = ["psnr", "ssim", "l1", "rfid", "code_perplexity", "fid", "kid", "precision", "recall", "density"];
    for name in names.into_iter().chain(["coverage", "inception_score", "bits_per_token_scale_2"]) {
        assert!(value(&found, name).is_finite(), "{name}");
    }
    assert!(value(&found, "codes_used") <= f64::from(CODES) && value(&found, "l1") > 0.0);
    let parts: f64 =
        ["scale_1", "scale_2", "start"].map(|part| value(&found, &format!("bits_per_token_{part}"))).iter().sum();
    let bits = value(&found, "bits_per_token");
    assert!((parts - bits).abs() < 1e-9 && bits > 1.0, "{parts}, {bits}");
    assert!((value(&found, "bits_per_dimension") - bits * 64.0 / f64::from(SIDE * SIDE * 3)).abs() < 1e-9);
    let fid = found["figures"].as_array().unwrap().iter().find(|figure| figure["metric"] == "fid").unwrap();
    assert!(fid["settings"]["network input"].as_str().unwrap().starts_with("clean"), "{fid}");
    assert_eq!((&fid["rows"], &fid["settings"]["reference rows"]), (&20.into(), &"24".into()));
    let table = fs::File::open(folder.join("evaluation.parquet")).unwrap();
    let table = ParquetRecordBatchReaderBuilder::try_new(table).unwrap();
    assert_eq!(table.metadata().file_metadata().num_rows() as usize, found["figures"].as_array().unwrap().len());
    let page = fs::read_to_string(folder.join("evaluation.html")).unwrap();
    for heading in ["Generated images nearest to the reference", "The first generated images"] {
        assert!(page.contains(heading), "{heading}");
    }
    assert!(page.matches("alt=\"reference\"").count() == 2 * 6 * 3 && !page.contains("Curves over"));
    assert!(page.contains("Worst reconstructions") && page.contains("data:image/png") && !page.contains("<script"));

    // The same again, resized in another way.
    let legacy = root.join("legacy");
    let to = format!("evaluate.to={}", legacy.display());
    succeed(["evaluate", file, "--force", "--set", &to, "--set", "evaluate.network_resize=legacy"]);
    let (first, second) = (folder.to_str().unwrap(), legacy.to_str().unwrap());
    let compared = String::from_utf8(succeed(["evaluate", "--compare", first, second]).stdout).unwrap();
    let line = |name: &str| compared.lines().find(|line| line.contains(&format!(" {name} |"))).unwrap().to_owned();
    assert!(line("psnr").contains("within noise") && line("psnr").contains("in pairs"), "{compared}");
    assert!(line("fid").contains("not comparable: network input is clean"), "{compared}");
    assert!(line("codes_used").contains("no interval"), "{compared}");
    refused(["evaluate", "--compare", first, file], "not an evaluation of imagebart");
}

#[test]
fn references_are_kept_and_refused() {
    let root = tempdir().unwrap();
    let root = root.path();
    let pipeline = everything(root);
    let file = pipeline.to_str().unwrap();
    succeed(["sample", file]);
    let kept = root.join("reference.safetensors");
    let reference = format!("evaluate.reference={}", kept.display());
    let only = "evaluate.metrics=[\"generation\"]";
    let measure = ["evaluate", file, "--force", "--set", &reference, "--set", only];
    succeed(measure);
    let first = report(&root.join("out/evaluate"));
    let before = fs::read(&kept).unwrap();
    succeed(measure);
    let second = report(&root.join("out/evaluate"));
    assert_eq!((&first, &before), (&second, &fs::read(&kept).unwrap()));
    let other = ["evaluate", file, "--force", "--set", &reference, "--set", "evaluate.network_resize=legacy"];
    refused(other, "do not go with this evaluation: network input is clean");
    let original = fs::read(root.join("features.pt")).unwrap();
    module(&root.join("features.pt"), 16, |images| images.flatten(2, -1).amax([2i64].as_slice(), false));
    refused(measure, "do not go with this evaluation: network is");

    // Those of others: the mean and covariance of the kept ones.
    let mut tensors = WeightsFile::open(&kept).unwrap();
    let (mean, covariance) = (tensors.read("mean").unwrap(), tensors.read("covariance").unwrap());
    let published = root.join("published.npz");
    Tensor::write_npz(&[("mu", &mean), ("sigma", &covariance)], &published).unwrap();
    let reference = format!("evaluate.reference={}", published.display());
    let measure = ["evaluate", file, "--force", "--set", &reference, "--set", only];
    refused(measure, "is of features of 6 dimensions, evaluate.network gives 3: it is of another network or layer");
    fs::write(root.join("features.pt"), original).unwrap();
    succeed(measure);
    let third = report(&root.join("out/evaluate"));
    assert!((value(&third, "fid") - value(&first, "fid")).abs() < 1e-9 * value(&first, "fid"));
    assert!(third["notes"].to_string().contains("taken on trust"), "{third}");
}

#[test]
fn wrong_inputs_are_named() {
    let root = tempdir().unwrap();
    let root = root.path();
    let pipeline = everything(root);
    let file = pipeline.to_str().unwrap();
    fs::create_dir(root.join("out")).unwrap();
    let only = |metric: &str| format!("evaluate.metrics=[\"{metric}\"]");
    refused(["evaluate", file, "--set", &only("likelihood")], "there are no latents");
    refused(["evaluate", file, "--set", &only("generation")], "there are no samples");
    refused(["evaluate", file, "--set", "evaluate.metrics=[\"generetion\"]"], "did you mean `generation`?");
    refused(["evaluate", file, "--set", "evaluate.count=100"], "rFID of 100 rows is refused");
    module(&root.join("features.pt"), 16, |images| images.sum(Kind::Float));
    refused(["evaluate", file], "must take a batch of images and give features [batch, dims]");
    module(&root.join("features.pt"), 16, |images| {
        (images.flatten(2, -1).amax([2i64].as_slice(), false) - 100.0).sqrt()
    });
    refused(["evaluate", file, "--force"], "row 0 of the features has a value that is not finite");
    assert!(!root.join("out/evaluate").exists());
    fs::write(root.join("features.pt"), "no module").unwrap();
    refused(["evaluate", file], "is not a TorchScript module");
    fs::write(root.join("nothing.toml"), format!("[output]\nurl = \"{}\"\n", root.join("none").display())).unwrap();
    refused(["evaluate", root.join("nothing.toml").to_str().unwrap()], "there is nothing to evaluate");
}
