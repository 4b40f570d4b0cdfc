//! What the tests of the binary share: small datasets, a small tokenizer, and running `imagebart`.
#![allow(dead_code)]

pub mod model;

#[path = "../../skip/mod.rs"]
pub mod skip;

use imagebart::random::{Purpose, RowKey};
use imagebart::torch::weights::{self, Weights};
use imagebart::vqgan::VqganConfig;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A photograph-like picture: smooth colours with some noise, different for every `index`.
pub fn picture(index: u64, width: u32, height: u32) -> image::RgbImage {
    let row = RowKey::new(1, "test picture", index, 0);
    let shade = |channel: u32| row.uniform(Purpose::Init, channel) * 200.0;
    image::RgbImage::from_fn(width, height, |x, y| {
        let noise = row.below(Purpose::Init, 16 + y * width + x, 30) as f32;
        let slope = (x as f32 / width as f32) * 40.0 - (y as f32 / height as f32) * 20.0;
        image::Rgb([0, 1, 2].map(|channel| (shade(channel) + slope + noise).clamp(0.0, 255.0) as u8))
    })
}

/// The picture as a PNG file's bytes.
pub fn png(index: u64, width: u32, height: u32) -> Vec<u8> {
    png_of(&picture(index, width, height))
}

/// An image as a PNG file's bytes.
pub fn png_of<P>(image: &image::ImageBuffer<P, Vec<u8>>) -> Vec<u8>
where
    P: image::PixelWithColorType<Subpixel = u8>,
{
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("PNG encodes");
    bytes.into_inner()
}

/// A folder of `count` PNGs in two class directories.
pub fn folder(root: &Path, count: u64) {
    for class in ["cats", "dogs"] {
        std::fs::create_dir_all(root.join(class)).expect("folder");
    }
    for index in 0..count {
        let class = if index % 2 == 0 { "cats" } else { "dogs" };
        let path = root.join(class).join(format!("{index:05}.png"));
        std::fs::write(path, png(index, 40 + (index % 7) as u32, 36)).expect("picture");
    }
}

/// A tar of `(member name, bytes)`.
pub fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).expect("member");
    }
    builder.into_inner().expect("tar")
}

/// WebDataset shards `shard-0000.tar` … with `.cls`, `.png` and `.txt`.
pub fn webdataset(root: &Path, shards: u64, per_shard: u64) {
    std::fs::create_dir_all(root).expect("folder");
    for shard in 0..shards {
        let mut members = Vec::new();
        for index in shard * per_shard..(shard + 1) * per_shard {
            members.push((format!("{index:06}.cls"), format!("{}\n", index % 10).into_bytes()));
            members.push((format!("{index:06}.png"), png(index, 33, 41 + (index % 5) as u32)));
            members.push((format!("{index:06}.txt"), format!("picture number {index}").into_bytes()));
        }
        std::fs::write(root.join(format!("shard-{shard:04}.tar")), tar(&members)).expect("shard");
    }
}

/// A small VQGAN with seeded random weights: 32 × 32 pixels to 8 × 8 tokens of 64.
pub fn tokenizer(path: &Path) {
    let config: VqganConfig = serde_json::from_value(serde_json::json!({
        "ddconfig": {"double_z": false, "z_channels": 8, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
                     "ch_mult": [1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.0},
        "embed_dim": 8, "n_embed": 64,
    }))
    .expect("config");
    let weights = Weights::init(&config.tensors(), 5).expect("weights");
    let mut tensors: BTreeMap<_, _> = weights.into_tensors();
    // Fresh codebooks are tiny (±1/K), so that all pixels would choose among near ties; these entries are apart.
    let spread = tensors["quantize.embedding.weight"].f_mul_scalar(64.0).expect("codebook");
    tensors.insert("quantize.embedding.weight".to_owned(), spread);
    weights::write(path, &tensors, &config.to_metadata()).expect("tokenizer file");
}

/// A pipeline file over `dataset` with 32 × 32 crops.
pub fn pipeline(root: &Path, format: &str, dataset: &str, more: &str) -> PathBuf {
    let weights = root.join("tokenizer.safetensors");
    if !weights.exists() {
        tokenizer(&weights);
    }
    let text = format!(
        "[dataset]\nformat = \"{format}\"\nurl = \"{dataset}\"\n\n[image]\nsize = 32\n\n[tokenizer]\nweights = \"{}\"\n\
         batch_size = 4\n\n[output]\nurl = \"{}\"\n\n[run]\nseed = 7\nthreads = 1\n{more}",
        weights.display(),
        root.join("out").display(),
    );
    let path = root.join("pipeline.toml");
    std::fs::write(&path, text).expect("pipeline");
    path
}

/// The binary, with an environment that tells it no rank.
pub fn imagebart() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imagebart"));
    for name in ["RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "JOB_COMPLETION_INDEX", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.args(["--device", "cpu"]).stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run<const N: usize>(arguments: [&str; N]) -> Output {
    imagebart().args(arguments).output().expect("the binary starts")
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the binary and expects exit code 0.
#[track_caller]
pub fn succeed<const N: usize>(arguments: [&str; N]) -> Output {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?} ended with {}:\n{}", output.status, stderr(&output));
    output
}

/// Every file under `root` but the facts of runs, by relative path: what must be the same however often a run was disturbed.
pub fn tables(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(root).expect("below").display().to_string();
            if !name.starts_with("run") {
                found.insert(name, std::fs::read(&path).expect("file"));
            }
        }
    }
    found
}

/// The same without the data-set card, which names the file of prompts besides their digest.
pub fn without_card(mut tables: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    tables.remove("README.md").expect("a finished run has a card");
    tables
}

/// A run that is killed again and again.
pub struct Kills<'a> {
    pub count: u32,
    /// How long it takes undisturbed, and the tables it then leaves.
    pub undisturbed: (Duration, &'a BTreeMap<String, Vec<u8>>),
    /// Where its tables go.
    pub place: &'a Path,
    /// So many runs in all may be faster than their kill.
    pub completions: u32,
}

impl Kills<'_> {
    /// Starts what `again` gives and kills it, until that has hit it `count` times. A run that was faster must have left the tables
    /// of an undisturbed one, and the next begins from nothing.
    pub fn inflict(&self, again: impl Fn() -> Command) {
        let moments = RowKey::new(11, "kill", 0, 0);
        let (time, tables_of_it) = self.undisturbed;
        let (mut kills, mut completions) = (0, 0);
        for attempt in 0.. {
            let mut child = again().spawn().expect("it starts");
            // The delay is the moment of the kill, not a wait for something to happen.
            std::thread::sleep(time.mul_f32(moments.uniform(Purpose::Init, attempt)));
            if child.try_wait().unwrap().is_some() {
                assert_eq!(*tables_of_it, tables(self.place));
                std::fs::remove_dir_all(self.place).unwrap();
                completions += 1;
                assert!(completions < self.completions, "the kills never hit a running program");
                continue;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            if kills == self.count {
                break;
            }
        }
    }
}

/// The folder named by the environment variable, or a visible line that says the test is skipped.
pub fn corpus(variable: &str, test: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        skip::skipped(format_args!("{test}: {variable} is not set"));
    }
    found
}
