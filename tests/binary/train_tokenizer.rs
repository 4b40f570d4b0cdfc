//! `imagebart train-tokenizer`: from images to a tokenizer that `encode` takes, as its user sees it.

use crate::common::{folder, imagebart, run, stderr, tables};
use imagebart::random::{Purpose, RowKey};
use imagebart::tables::OutputDir;
use imagebart::torch::weights::{self, WeightsFile};
use imagebart::training::RunFolder;
use imagebart::training::watch::{History, names};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::{TempDir, tempdir};

const KILLS: u32 = 20;

/// Everything that a run may have, as small as it can be: 16 × 16 pixels to 8 × 8 tokens of 16.
const PIPELINE: &str = r#"
[image]
size = 16
crop = "random"
flip = "both"

[tokenizer]
embed_dim = 4
n_embed = 16

[tokenizer.ddconfig]
ch = 32
ch_mult = [1, 1]
num_res_blocks = 1
attn_resolutions = []
resolution = 16
in_channels = 3
out_ch = 3
z_channels = 8

[train_tokenizer]
steps = 12
batch_size = 4
accumulate = 2
lr = 1e-3
warm_up_steps = 2
ema = 0.9
codebook_ema = 0.9
restart_after = 3
disc_start = 4
disc_layers = 1
disc_ndf = 8
window_images = 7
log_every = 1
checkpoint_every = 2
validate_every = 6
validation_images = 5
keep = 2

[run]
seed = 7
threads = 1
decode_workers = 2
"#;

/// A directory with images, and a pipeline that trains on them.
struct Place {
    root: TempDir,
    pipeline: String,
}

impl Place {
    fn new(images: u64) -> Place {
        let root = tempdir().unwrap();
        folder(&root.path().join("in"), images);
        folder(&root.path().join("held-out"), 8);
        let file = root.path().join("pipeline.toml");
        fs::write(&file, PIPELINE).unwrap();
        Place { pipeline: file.display().to_string(), root }
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    fn command(&self, command: &str, settings: &[(&str, &str)]) -> Command {
        let (dataset, held_out) = (self.path("in"), self.path("held-out"));
        let (weights, out) = (self.path("tokenizer.safetensors"), self.path("out"));
        let all = [
            ("dataset.format", "folder"),
            ("dataset.url", dataset.as_str()),
            ("dataset.unit_rows", "5"),
            ("train_tokenizer.validation", held_out.as_str()),
            ("tokenizer.weights", weights.as_str()),
            ("output.url", out.as_str()),
        ];
        // Later ones win.
        let all = all.into_iter().chain(settings.iter().copied());
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
    fn refused(&self, code: i32, settings: &[(&str, &str)]) -> String {
        let output = self.run("train-tokenizer", settings);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        stderr(&output)
    }
}

fn history(folder: &str) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = RunFolder::of(&OutputDir::local(folder).unwrap());
    let history = runtime.block_on(History::read(&folder)).unwrap();
    assert!(history.problems.is_empty(), "{:?}", history.problems);
    history
}

/// Everything that a run leaves but times: checkpoints and tokenizer by their bytes, and every figure of every step.
fn left(folder: &str, tokenizer: &str) -> BTreeMap<String, Vec<u8>> {
    let told = |name: &str| name.contains("tfevents") || name.ends_with("report.html");
    let mut left: BTreeMap<String, Vec<u8>> =
        tables(Path::new(folder)).into_iter().filter(|(name, _)| !told(name)).collect();
    left.insert("tokenizer".to_owned(), fs::read(tokenizer).unwrap());
    let history = history(folder);
    let known = [
        names::LOSS,
        names::CODEBOOK_LOSS,
        names::GRADIENT_NORM,
        names::DISCRIMINATOR_LOSS,
        names::ADAPTIVE_WEIGHT,
        names::RESTARTED,
        names::VALIDATION_PSNR,
    ];
    for name in known {
        let series: Vec<String> =
            history.series(name).iter().map(|(step, value)| format!("{step} {:x}", value.to_bits())).collect();
        left.insert(name.to_owned(), series.join("\n").into_bytes());
    }
    left
}

#[test]
fn images_become_a_tokenizer_that_encodes() {
    let place = Place::new(24);
    let planned = place.succeed("train-tokenizer --dry-run", &[]);
    for expected in ["5 units", "16 × 16 to 8 × 8 tokens of 16", "parameters", "12 of 2 × 4 images", "memory"] {
        assert!(planned.contains(expected), "{expected}: {planned}");
    }
    assert!(!PathBuf::from(place.path("out")).exists());

    let longer = [
        ("train_tokenizer.steps", "50"),
        ("train_tokenizer.lr", "3e-3"),
        ("train_tokenizer.disc_start", "40"),
        ("train_tokenizer.shrink", "true"),
        ("train_tokenizer.sample_every", "25"),
    ];
    let said = place.succeed("train-tokenizer", &longer);
    assert!(said.contains("no perceptual loss") && said.contains("trained    50 steps"), "{said}");
    let history = history(&place.path("out/train-tokenizer"));
    let losses = history.series(names::LOSS);
    let mean = |steps: &[(u64, f64)]| steps.iter().map(|(_, loss)| loss).sum::<f64>() / steps.len() as f64;
    assert!(mean(&losses[30..40]) < 0.8 * mean(&losses[..5]), "{losses:?}");
    assert_eq!(history.series(names::DISCRIMINATOR_LOSS).len(), 10);
    let report = fs::read_to_string(place.path("out/train-tokenizer/report.html")).unwrap();
    assert!(report.contains("data:image/png") && report.contains("PSNR"));

    let tokenizer = place.path("tokenizer.safetensors");
    let used = WeightsFile::open(&tokenizer).unwrap().shape("quantize.used").expect("the remap");
    assert!((1..=16).contains(&used[0]), "{used:?}");
    place.succeed("encode", &[("output.url", &place.path("latents")), ("image.crop", "center")]);

    // The same command has nothing to do; a tokenizer of somebody else is not replaced.
    let before = fs::read(&tokenizer).unwrap();
    let said = place.succeed("train-tokenizer", &longer);
    assert!(said.contains("nothing to train: all 50 steps are done"), "{said}");
    assert_eq!(before, fs::read(&tokenizer).unwrap());
    let said = place.refused(2, &[("train_tokenizer.lr", "1e-4"), ("train_tokenizer.to", &place.path("other"))]);
    assert!(said.contains("is there already") && said.contains("--overwrite"), "{said}");
    let said =
        place.refused(2, &[("train_tokenizer.disc_ndf", "16"), ("tokenizer.weights", &place.path("b.safetensors"))]);
    assert!(said.contains("are of another training run") && said.contains("train_tokenizer.disc_ndf"), "{said}");
    let anew = [longer[1], longer[2], ("train_tokenizer.steps", "2"), ("run.seed", "8")];
    let said = place.succeed("train-tokenizer --overwrite", &anew);
    assert!(said.contains("trained    2 steps"), "{said}");
}

#[test]
fn twenty_kills_leave_no_trace() {
    let place = Place::new(20);
    // An image that cannot be read is passed over in every epoch alike.
    fs::write(place.path("in/cats/broken.png"), b"<html>404</html>").unwrap();
    let run = |name: &str| {
        let (to, weights) = (place.path(name), place.path(&format!("{name}.safetensors")));
        place.command("train-tokenizer", &[("train_tokenizer.to", &to), ("tokenizer.weights", &weights)])
    };
    let of = |name: &str| left(&place.path(name), &place.path(&format!("{name}.safetensors")));
    let start = Instant::now();
    let output = run("straight").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let took = start.elapsed();
    let expected = of("straight");
    assert_eq!(String::from_utf8_lossy(&expected[names::LOSS]).lines().count(), 12, "a loss for every step");

    // Other workers and another budget change nothing.
    let mut other = run("other");
    other.args(["--set", "run.decode_workers=4", "--set", "run.memory_budget=\"64 MiB\""]);
    assert!(other.output().unwrap().status.success());
    assert_eq!(expected, of("other"));

    let moments = RowKey::new(23, "kill", 0, 0);
    let (mut kills, mut attempt) = (0, 0);
    while kills < KILLS {
        let mut child = run("disturbed").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The delay is the moment of the kill, not a wait for something to happen.
        let share = moments.uniform(Purpose::Init, attempt);
        attempt += 1;
        std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * f64::from(share)));
        if child.try_wait().unwrap().is_some() {
            assert_eq!(expected, of("disturbed"));
            fs::remove_dir_all(place.path("disturbed")).unwrap();
            fs::remove_file(place.path("disturbed.safetensors")).unwrap();
            assert!(attempt < 200, "the kills never hit a running training");
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(run("disturbed").output().unwrap().status.success());
    assert_eq!(expected, of("disturbed"));
}

/// Ctrl-C ends the run with 130 and a checkpoint, and the next run goes on from there.
#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_was_trained() {
    use std::io::{BufRead, BufReader};

    let place = Place::new(20);
    let settings = [("train_tokenizer.steps", "100000"), ("train_tokenizer.checkpoint_every", "100000")];
    let mut child = place.command("train-tokenizer", &settings).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("step 2/")));
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    let steps: u64 = history(&place.path("out/train-tokenizer")).series(names::LOSS).last().unwrap().0;
    let settings = [("train_tokenizer.steps", (steps + 1).to_string())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let said = place.succeed("train-tokenizer", &settings);
    assert!(said.contains(&format!("{steps} of {} steps are done", steps + 1)), "{said}");
}

#[test]
fn losses_that_are_no_numbers_end_the_run() {
    let place = Place::new(20);
    let wild = [
        ("train_tokenizer.lr", "1e30"),
        ("train_tokenizer.warm_up_steps", "0"),
        ("train_tokenizer.max_bad_steps", "3"),
        ("train_tokenizer.checkpoint_every", "1"),
    ];
    let said = place.refused(1, &wild);
    assert!(said.contains("is skipped: its loss or its gradient is no number (3 in a row)"), "{said}");
    assert!(said.contains("the loss of 3 steps in a row") && said.contains("the last good checkpoint is"), "{said}");
    assert!(!PathBuf::from(place.path("tokenizer.safetensors")).exists());
}

#[test]
fn too_many_rejects_end_with_three_and_keep_the_tokenizer() {
    let place = Place::new(8);
    for name in ["a", "b"] {
        fs::write(place.path(&format!("in/cats/{name}.png")), b"<html>404</html>").unwrap();
    }
    let said = place.refused(3, &[("train_tokenizer.steps", "2")]);
    assert!(said.contains("not_an_image") && said.contains("samples were rejected"), "{said}");
    assert!(PathBuf::from(place.path("tokenizer.safetensors")).exists());
}

#[test]
fn what_does_not_fit_is_one_sentence() {
    let place = Place::new(12);
    let refused = |settings: &[(&str, &str)], words: &[&str]| {
        let said = place.refused(2, settings);
        let last = said.lines().next_back().unwrap_or_default();
        assert!(words.iter().all(|word| last.contains(word)), "{settings:?}: {said}");
        assert!(!PathBuf::from(place.path("tokenizer.safetensors")).exists());
    };
    let (absent, other) = (place.path("absent.safetensors"), place.path("other.safetensors"));
    crate::common::tokenizer(Path::new(&other));
    refused(&[("train_tokenizer.lpips", &absent)], &["train_tokenizer.lpips: cannot open", "absent.safetensors"]);
    refused(&[("train_tokenizer.lpips", &other)], &["train_tokenizer.lpips:", "do not fit", "net.slice1.0.weight"]);
    refused(&[("train_tokenizer.lpips", &place.pipeline)], &["neither", "nor a TorchScript module"]);
    fs::create_dir(place.path("empty")).unwrap();
    refused(&[("dataset.url", &place.path("empty"))], &["empty"]);
    refused(&[("train_tokenizer.validation", &place.path("empty"))], &["empty"]);
    refused(&[("train_tokenizer.batch_size", "13")], &["12 readable images make no batch of 13"]);
    refused(&[("image.size", "17")], &["image.size = 17 does not divide into tokens of 2 pixels"]);
    refused(&[("train_tokenizer.ema", "1.5")], &["train_tokenizer.ema = 1.5 must be between 0 and 1"]);
    refused(&[("train_tokenizer.export", "bset")], &["did you mean `best`?"]);
    refused(&[("run.memory_budget", "\"4 KiB\"")], &["more than half of run.memory_budget"]);
    refused(&[("tokenizer.embed_dim", "0")], &["embed_dim"]);

    let without = run(["train-tokenizer", &place.pipeline]);
    assert_eq!(without.status.code(), Some(2));
    assert!(stderr(&without).contains("dataset.format is missing"), "{}", stderr(&without));
}

/// Weights of LPIPS in the layout that the documentation states are taken, and the distance is shown.
#[test]
fn lpips_weights_are_taken() {
    let place = Place::new(12);
    let specs = imagebart::vqgan::lpips::Lpips::tensors();
    let mut tensors = weights::Weights::init(&specs, 1).unwrap().into_tensors();
    tensors.insert("scaling_layer.scale".to_owned(), tch::Tensor::from_slice(&[0.5f32; 3]).view([1, 3, 1, 1]));
    let path = place.path("lpips.safetensors");
    weights::write(&path, &tensors, &BTreeMap::new()).unwrap();
    let settings =
        [("train_tokenizer.lpips", path.as_str()), ("train_tokenizer.steps", "2"), ("train_tokenizer.export", "best")];
    let said = place.succeed("train-tokenizer", &settings);
    assert!(said.contains("LPIPS") && !said.contains("no perceptual loss"), "{said}");
    assert_eq!(history(&place.path("out/train-tokenizer")).series(names::PERCEPTUAL).len(), 2);
}
