//! Numeric parity with the authors' code: every fixture of a directory is found, dispatched on its kind and compared.
//!
//! A fixture is a `.safetensors` file with weights (`w.*`), inputs (`in.*`), outputs (`out.*`) and its config as metadata. Its
//! kind is the longest known kind its name begins with, so that `vqgan_remap-B.safetensors` needs no code. The directories are
//! `tests/fixtures/parity` and `$IMAGEBART_PARITY_DIR`. `cargo test --release --test parity -- --nocapture` prints the table.

mod skip;

#[path = "parity/chain.rs"]
mod chain;
#[path = "parity/commitment.rs"]
mod commitment;
#[path = "parity/diffusion.rs"]
mod diffusion;
#[path = "parity/fixture.rs"]
mod fixture;
#[path = "parity/gumbel.rs"]
mod gumbel;
#[path = "parity/losses.rs"]
mod losses;
#[path = "parity/preprocessing.rs"]
mod preprocessing;
#[path = "parity/schedules.rs"]
mod schedules;
#[path = "parity/training.rs"]
mod training;
#[path = "parity/transformer.rs"]
mod transformer;
#[path = "parity/vqgan.rs"]
mod vqgan;

use fixture::Fixture;
use std::path::{Path, PathBuf};

/// Compares every output of a fixture; returns an error where the fixture cannot be understood.
type Check = fn(&mut Fixture) -> fixture::Outcome;

const KINDS: &[(&str, Check)] = &[
    ("chain_greedy", chain::greedy),
    ("chain_greedy_cond", chain::greedy),
    ("compute_loss", diffusion::compute_loss),
    ("ema", training::ema),
    ("forward_posterior", diffusion::forward_posterior),
    ("gpt", transformer::gpt),
    ("grad_", training::gradients),
    ("gumbelvq", gumbel::check),
    ("gumbelvq_remap", gumbel::check),
    ("inpaint_greedy", chain::inpaint),
    ("lpips_formula_weights", losses::lpips),
    ("lr_schedule", training::learning_rate),
    ("noise_schedules", schedules::check),
    ("optimizer_groups", training::groups),
    ("preprocessing", pixels),
    ("sampling_probs", chain::probabilities),
    ("vq_commitment", commitment::check),
    ("vqgan_encode_decode", vqgan::encode_decode),
    ("vqgan_losses", losses::check),
    ("vqgan_remap", vqgan::remap),
    ("vqgan_tanh_out", vqgan::tanh_out),
    ("xtransformer", transformer::encoder_decoder),
];

/// The kind of a file: the longest known one that its name begins with.
fn kind(stem: &str) -> Option<(&'static str, Check)> {
    KINDS.iter().filter(|(kind, _)| stem.starts_with(kind)).max_by_key(|(kind, _)| kind.len()).copied()
}

/// All fixtures under a directory, sorted.
fn fixtures(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            found.extend(fixtures(&path));
        } else if path.extension().is_some_and(|extension| extension == "safetensors") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn every_fixture_agrees() {
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")];
    match std::env::var_os("IMAGEBART_PARITY_DIR") {
        Some(directory) => directories.push(directory.into()),
        None => skip::skipped(format_args!("the large fixtures: IMAGEBART_PARITY_DIR is not set")),
    }
    let mut failures = Vec::new();
    for path in directories.iter().flat_map(|directory| fixtures(directory)) {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = file.trim_end_matches(".safetensors");
        match kind(stem) {
            None => failures.push(format!("{}: no known kind of fixture begins like this", path.display())),
            Some((_, check)) => match compare(&path, check) {
                Ok(line) => eprintln!("{stem:28} {line}"),
                Err(error) => failures.push(format!("{}: {error}", path.display())),
            },
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// One step of 8 bits, allowed where the authors' OpenCV differs from ours.
const STEP: f32 = 1.0;

fn pixels(fixture: &mut Fixture) -> fixture::Outcome {
    let bytes = std::fs::read(fixture.path())?;
    let error = preprocessing::check(&safetensors::SafeTensors::deserialize(&bytes)?, &fixture.config)?;
    fixture.measured(f64::from(error), f64::from(STEP));
    Ok(())
}

fn compare(path: &Path, check: fn(&mut Fixture) -> fixture::Outcome) -> Result<String, String> {
    let mut fixture = Fixture::open(path).map_err(|error| error.to_string())?;
    check(&mut fixture).map_err(|error| error.to_string())?;
    fixture.finish()
}

#[test]
fn the_longest_kind_wins() {
    let name = |stem: &str| kind(stem).map(|(kind, _)| kind);
    assert_eq!(name("gumbelvq_remap-B"), Some("gumbelvq_remap"));
    assert_eq!(name("chain_greedy_cond-7"), Some("chain_greedy_cond"));
    assert_eq!(name("unheard_of"), None);
}
