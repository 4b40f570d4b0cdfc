//! `imagebart train`: from latents to a model directory, as its user sees it.

use crate::common::{folder, imagebart, pipeline, stderr, tables, tokenizer};
use imagebart::random::{Purpose, RowKey};
use imagebart::tables::OutputDir;
use imagebart::training::RunFolder;
use imagebart::training::watch::{History, names};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::{TempDir, tempdir};

const KILLS: u32 = 20;

/// Two networks over grids of 8 × 8 of 64 codes, as small as they can be.
const CHAIN: &str = r#"
[chain]
grid = [8, 8]

[[chain.scale]]
network = "encoder-decoder"
dim = 16
encoder_depth = 1
decoder_depth = 1
heads = 1

[[chain.scale]]
network = "gpt"
dim = 16
depth = 1
heads = 1
alpha = 1.0

[condition]
kind = "class"
classes = 2
null = true

[train]
steps = 12
batch_size = 4
accumulate = 2
lr = 1e-3
warm_up_steps = 3
clip = 1.0
ema = 0.9
condition_dropout = 0.2
window_rows = 8
log_every = 1
checkpoint_every = 2
validate_every = 6
keep = 2
"#;

/// A directory with latents, and a pipeline that trains on them.
struct Place {
    root: TempDir,
    pipeline: String,
}

impl Place {
    fn new(images: u64) -> Place {
        let root = tempdir().unwrap();
        folder(&root.path().join("in"), images);
        let dataset = root.path().join("in").display().to_string();
        let file = pipeline(root.path(), "folder", &dataset, CHAIN);
        let place = Place { pipeline: file.display().to_string(), root };
        place.succeed("encode", &[("dataset.labels", "directory"), ("dataset.unit_rows", "5")]);
        place
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    fn command(&self, command: &str, settings: &[(&str, &str)]) -> std::process::Command {
        let model = self.path("model");
        let all = [("chain.model", model.as_str())].into_iter().chain(settings.iter().copied());
        // Later ones win.
        let sets: Vec<String> = all.flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]).collect();
        let mut command_line = imagebart();
        command_line.args(command.split(' ')).arg(&self.pipeline).args(sets);
        command_line
    }

    fn run(&self, command: &str, settings: &[(&str, &str)]) -> Output {
        self.command(command, settings).output().unwrap()
    }

    #[track_caller]
    fn succeed(&self, command: &str, settings: &[(&str, &str)]) -> String {
        let output = self.run(command, settings);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
    }

    /// What a command says when it ends with `code`.
    #[track_caller]
    fn refused(&self, code: i32, command: &str, settings: &[(&str, &str)]) -> String {
        let output = self.run(command, settings);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        stderr(&output)
    }
}

/// Everything that a run leaves but times: checkpoints by a digest of their bytes, and every loss of every step.
fn left(train: &str, model: &str) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut left = BTreeMap::new();
    for (place, files) in [("train", train), ("model", model)] {
        // A process that is killed while it copies a file leaves the part of a copy.
        let told = |name: &String| !["report.html", ".partial"].iter().any(|end| name.ends_with(end));
        let found = tables(&PathBuf::from(files)).into_iter();
        let found = found.filter(|(name, _)| told(name) && !name.contains("tfevents"));
        left.extend(found.map(|(name, bytes)| (format!("{place}/{name}"), format!("{:?}", Sha256::digest(&bytes)))));
    }
    for scale in ["scale-1", "scale-2"] {
        let folder = RunFolder::of(&OutputDir::local(train).unwrap()).below(scale);
        let history = runtime.block_on(History::read(&folder)).unwrap();
        assert!(history.problems.is_empty(), "{:?}", history.problems);
        for name in [names::LOSS, names::HARD_LOSS, names::SOFT_LOSS, names::GRADIENT_NORM, names::VALIDATION_LOSS] {
            let series: Vec<String> =
                history.series(name).iter().map(|(step, value)| format!("{step} {:x}", value.to_bits())).collect();
            left.insert(format!("{scale} {name}"), series.join("\n"));
        }
    }
    left
}

#[test]
fn latents_become_a_chain_that_draws() {
    let place = Place::new(24);
    let out = place.path("out");
    let planned = place.succeed("train --dry-run", &[]);
    assert!(planned.contains("24 rows, 64 tokens each") && planned.contains("scales [2]: gpt"), "{planned}");
    assert!(!PathBuf::from(place.path("model")).exists() && !PathBuf::from(place.path("out/train")).exists());

    // A scale by itself, then the other: the first is done already.
    let validated = [("train.validation", out.as_str()), ("train.sample_every", "6")];
    let said = place.succeed("train --scale 2", &validated);
    assert!(said.contains("scale 2: 12 steps, loss") && said.contains("best validation"), "{said}");
    assert!(!PathBuf::from(place.path("model/scale-1.safetensors")).exists());
    let said = place.succeed("train", &validated);
    assert!(said.contains("scales [2]: going on after step 12") && said.contains("scale 1: 12 steps, loss"), "{said}");
    let report = fs::read_to_string(place.path("out/train/scale-1/report.html")).unwrap();
    assert!(report.contains("data:image/png") && report.contains("noise of scale 1"));

    let samples = place.path("drawn");
    place.succeed("sample --count 3", &[("output.url", &samples)]);
    crate::common::succeed(["verify", samples.as_str()]);
}

#[test]
fn twenty_kills_leave_no_trace() {
    let place = Place::new(20);
    let out = place.path("out");
    let settings = |to: &'static str, model: &'static str| (place.path(to), place.path(model));
    let run = |(to, model): &(String, String)| {
        let all = [("train.to", to.as_str()), ("chain.model", model), ("train.validation", &out)];
        place.command("train", &all)
    };
    let straight = settings("straight", "straight-model");
    let start = Instant::now();
    let output = run(&straight).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let took = start.elapsed();
    let expected = left(&straight.0, &straight.1);
    assert_eq!(expected["scale-1 train/loss"].lines().count(), 12, "a loss for every step");

    let disturbed = settings("disturbed", "disturbed-model");
    let moments = RowKey::new(17, "kill", 0, 0);
    let (mut kills, mut attempt) = (0, 0);
    while kills < KILLS {
        let mut child = run(&disturbed).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The delay is the moment of the kill, not a wait for something to happen.
        let share = moments.uniform(Purpose::Init, attempt);
        attempt += 1;
        std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * f64::from(share)));
        if child.try_wait().unwrap().is_some() {
            assert_eq!(expected, left(&disturbed.0, &disturbed.1));
            fs::remove_dir_all(&disturbed.0).unwrap();
            fs::remove_dir_all(&disturbed.1).unwrap();
            assert!(attempt < 200, "the kills never hit a running training");
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    let output = run(&disturbed).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(expected, left(&disturbed.0, &disturbed.1));
}

/// A disk that is full fails the run with one sentence; the checkpoint before is there, and the run goes on from it.
#[test]
fn a_full_disk_leaves_the_checkpoint_before() {
    let place = Place::new(20);
    place.succeed("train --scale 2", &[("train.steps", "4"), ("train.decay_steps", "12")]);
    let largest =
        fs::read_dir(place.path("out/train/scale-2")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    // Files may grow to half of a checkpoint, in blocks of 1024 bytes, and no signal is sent for it.
    let blocks = largest.max().unwrap() / 2 / 1024;
    let mut limited = std::process::Command::new("bash");
    let train = place.command("train --scale 2", &[("train.decay_steps", "12")]);
    limited.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"")).arg("bash");
    let output = limited.arg(train.get_program()).args(train.get_args()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("cannot write the checkpoint") && said.contains("step-0000000006"), "{said}");
    let said = place.succeed("train --scale 2", &[("train.decay_steps", "12")]);
    assert!(said.contains("going on after step 4"), "{said}");
}

#[test]
fn losses_that_are_no_numbers_end_the_run() {
    let place = Place::new(20);
    place.succeed("train --scale 1", &[("train.steps", "2")]);
    // Weights so large that the loss of every step is infinite.
    let broken = place.refused(
        1,
        "train --scale 1",
        &[
            ("train.to", &place.path("wild")),
            ("train.lr", "1e30"),
            ("train.lr_start", "1e30"),
            ("train.clip", "1e30"),
            ("train.steps", "40"),
            ("train.max_bad_steps", "3"),
        ],
    );
    assert!(broken.contains("is skipped: its loss is"), "{broken}");
    assert!(broken.contains("the loss of 3 steps in a row") && broken.contains("no number"), "{broken}");
}

#[test]
fn what_does_not_fit_is_one_sentence() {
    let place = Place::new(12);
    let refused = |settings: &[(&str, &str)], words: &[&str]| {
        let said = place.refused(2, "train", settings);
        let last = said.lines().next_back().unwrap_or_default();
        assert!(words.iter().all(|word| last.contains(word)), "{said}");
    };
    assert!(place.refused(2, "train --scale 3", &[]).contains("--scale 3: the chain has the scales 1 to 2"));
    refused(&[("train.batch_size", "13")], &["12 rows of latents make no batch of 13", "lower train.batch_size"]);
    refused(&[("train.validation", &place.path("nothing"))], &["nothing is not a directory"]);
    refused(&[("chain.grid", "[4, 4]")], &["chain.grid is 4 × 4", "8 × 8 tokens"]);
    refused(&[("chain.codebook_size", "65")], &["chain.codebook_size is 65", "64 codes"]);
    refused(&[("condition.kind", "none"), ("train.condition_dropout", "0.1")], &["needs a condition to leave out"]);
    refused(&[("train.ema", "1.5")], &["train.ema = 1.5 must be between 0 and 1"]);
    refused(&[("train.export", "bset")], &["did you mean `best`?"]);
    refused(&[("condition.kind", "text")], &["condition.tokenizer is missing"]);

    // Latents of two tokenizers, and of another one than the pipeline's.
    let other = place.path("other.safetensors");
    tokenizer(&PathBuf::from(&other));
    let mut bytes = fs::read(&other).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(&other, bytes).unwrap();
    refused(&[("tokenizer.weights", &other)], &["were made by the tokenizer", "the chain is trained for"]);
    let theirs = place.path("theirs");
    place.succeed("encode", &[("tokenizer.weights", &other), ("output.url", &theirs)]);
    let both = format!("[\"{}\", \"{theirs}\"]", place.path("out"));
    refused(&[("train.latents", &both)], &[theirs.as_str(), "were made by the tokenizer"]);

    // An empty split.
    let empty = place.path("empty-in");
    fs::create_dir_all(format!("{empty}/cats")).unwrap();
    fs::write(format!("{empty}/cats/x.png"), "no image").unwrap();
    let split = place.path("empty");
    place.succeed("encode", &[("dataset.url", &empty), ("output.url", &split), ("run.max_reject_fraction", "1.0")]);
    refused(&[("train.validation", &split)], &["0 rows of latents make no batch of 1"]);

    // A checkpoint of another architecture, and a model directory of another chain.
    place.succeed("train --scale 1", &[("train.steps", "2"), ("train.decay_steps", "2")]);
    refused(
        &[("train.steps", "2"), ("train.lr", "2e-3")],
        &["of another training run", "train.lr: 0.002 here, 0.001 recorded"],
    );
    refused(&[("chain.schedule", "alphacum:1,0.5,0")], &["describes another chain", "--overwrite"]);
    let elsewhere = place.path("elsewhere");
    refused(
        &[("chain.schedule", "alphacum:1,0.4,0"), ("chain.model", &elsewhere), ("train.steps", "2")],
        &["of another training run", "schedule"],
    );

    // The newest checkpoint, half-written: the one before it is gone on with.
    place.succeed("train --scale 1", &[("train.steps", "4"), ("train.decay_steps", "2")]);
    let newest = place.path("out/train/scale-1/step-0000000004.safetensors");
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let said = place.succeed("train --scale 1", &[("train.steps", "4"), ("train.decay_steps", "2")]);
    assert!(said.contains("is damaged") && said.contains("going on after step 2"), "{said}");
    assert_eq!(fs::read(&newest).unwrap(), bytes);
}

/// A long run in small: the process takes no more memory at their end than near their
/// beginning.
#[test]
fn twenty_thousand_steps_take_no_more_memory_than_five_thousand() {
    let place = Place::new(20);
    place.succeed(
        "train --scale 2",
        &[
            ("train.steps", "20000"),
            ("train.batch_size", "2"),
            ("train.accumulate", "1"),
            ("train.log_every", "1000"),
            ("train.checkpoint_every", "4000"),
            ("train.validate_every", "20000"),
            ("train.validation", &place.path("out")),
        ],
    );
    let folder = RunFolder::of(&OutputDir::local(place.path("out/train")).unwrap()).below("scale-2");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let history = runtime.block_on(History::read(&folder)).unwrap();
    let peaks = history.series(names::PEAK_MEMORY);
    let at = |wanted: u64| peaks.iter().find(|(step, _)| *step == wanted).map(|(_, gib)| *gib);
    let (Some(early), Some(late)) = (at(5000), at(20000)) else {
        crate::common::skip::skipped(format_args!("memory of training: this system does not tell"));
        return;
    };
    println!("peak memory {early:.4} GiB after 5000 steps, {late:.4} GiB after 20000");
    // A kilobyte left behind by each step would be 15 MiB.
    assert!(late - early < 12.0 / 1024.0, "{early} GiB, then {late} GiB");
}
