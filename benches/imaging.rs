//! Decode, crop and resize to 256 x 256 of JPEGs of about 0.2 megapixels on one core, beside Pillow in the same run.
//!
//! `cargo bench --bench imaging`. The images are the real ones below `IMAGEBART_DATA_DIR` where that is set, else drawn here.
//! Rounds of ours and of Pillow's alternate on one pinned core; an image counts with its fastest round.

use imagebart::imaging::{CropMode, Flip, Limits, Preprocess, Resize, Rgb, Trim, decode, probe};
use imagebart::random::{Purpose, RowKey};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 25;

fn main() {
    let (images, origin) = images();
    let bytes: usize = images.iter().map(Vec::len).sum();
    let pixels: u64 = images.iter().map(|image| probe(image, &Limits::default()).unwrap().pixels()).sum();
    println!(
        "imaging: {} JPEGs ({origin}), on average {:.3} megapixels and {} bytes",
        images.len(),
        pixels as f64 / images.len() as f64 / 1e6,
        bytes / images.len()
    );
    let mut pillow = Pillow::start(&images);
    let center = |resize| Preprocess {
        size: 256,
        resize,
        crop: CropMode::Center,
        crops: 1,
        flip: Flip::None,
        trim: Trim::None,
        limits: Limits::default(),
    };
    let row = |crop| RowKey::new(0, "bench", 0, crop);
    let mut whole = Best::new(&images);
    let mut bicubic = Best::new(&images);
    let mut linear = Best::new(&images);
    for _ in 0..ROUNDS {
        whole.round(&images, |image| drop(black_box(decode(image, &Limits::default()).unwrap())));
        bicubic.round(&images, |image| drop(black_box(center(Resize::PillowBicubic).prepare(image, row).unwrap())));
        linear.round(&images, |image| drop(black_box(center(Resize::Cv2Linear).prepare(image, row).unwrap())));
        if let Some(pillow) = &mut pillow {
            pillow.round();
        }
    }
    println!("  ours    decode of the whole image      {:6.3} ms an image", whole.mean());
    println!("  ours    decode + crop + cv2-linear     {:6.3} ms", linear.mean());
    println!("  ours    decode + crop + pillow-bicubic {:6.3} ms", bicubic.mean());
    let Some(pillow) = pillow else { return };
    let (decode, resize) = (pillow.decode.mean(), pillow.resize.mean());
    println!("  Pillow  decode {decode:.3} ms, crop + resize {resize:.3} ms, total {:.3} ms", decode + resize);
    println!("  ratio   {:.2} (Pillow's total / ours, pillow-bicubic)", (decode + resize) / bicubic.mean());
    pillow.stop();
}

/// The fastest time of each image, in milliseconds.
struct Best(Vec<f64>);

impl Best {
    fn new(images: &[Vec<u8>]) -> Best {
        Best(vec![f64::INFINITY; images.len()])
    }

    fn round(&mut self, images: &[Vec<u8>], mut work: impl FnMut(&[u8])) {
        for (best, image) in self.0.iter_mut().zip(images) {
            let start = Instant::now();
            work(image);
            *best = best.min(start.elapsed().as_secs_f64() * 1e3);
        }
    }

    fn update(&mut self, times: &serde_json::Value) {
        for (best, time) in self.0.iter_mut().zip(times.as_array().unwrap()) {
            *best = best.min(time.as_f64().unwrap());
        }
    }

    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }
}

/// Pillow in a process of its own, which waits while it is not asked.
struct Pillow {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    decode: Best,
    resize: Best,
    _images: tempfile::TempDir,
}

impl Pillow {
    fn start(images: &[Vec<u8>]) -> Option<Pillow> {
        let directory = tempfile::tempdir().unwrap();
        for (index, image) in images.iter().enumerate() {
            std::fs::write(directory.path().join(format!("{index:04}.jpg")), image).unwrap();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/pillow.py");
        let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pillow-venv");
        let process = Command::new(std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into()))
            .args([script.as_path(), directory.path(), &venv])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut process) = process else {
            println!("skipped: the comparison with Pillow: no python3");
            return None;
        };
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut greeting = String::new();
        output.read_line(&mut greeting).unwrap();
        if greeting.is_empty() {
            println!("skipped: the comparison with Pillow: it is neither installed nor could it be");
            return None;
        }
        println!("  Pillow  {}", greeting.trim());
        Some(Pillow { process, output, decode: Best::new(images), resize: Best::new(images), _images: directory })
    }

    fn round(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let times: serde_json::Value = serde_json::from_str(&line).unwrap();
        self.decode.update(&times["decode"]);
        self.resize.update(&times["resize"]);
    }

    fn stop(mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

/// JPEGs of 0.15 to 0.3 megapixels, and where they are from.
fn images() -> (Vec<Vec<u8>>, &'static str) {
    let real: Vec<Vec<u8>> = std::env::var_os("IMAGEBART_DATA_DIR").map(PathBuf::from).map(real).unwrap_or_default();
    if real.is_empty() {
        ((0..24).map(drawn).collect(), "drawn, 4:4:4, quality 90; set IMAGEBART_DATA_DIR for real ones")
    } else {
        (real, "real photographs of IMAGEBART_DATA_DIR")
    }
}

fn real(root: PathBuf) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for directory in ["imagenet-mini/wds", "cc-mini/webdataset-noresize"] {
        let Ok(entries) = std::fs::read_dir(root.join(directory)) else { continue };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "tar")) {
            let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
            for entry in archive.entries().unwrap() {
                let mut bytes = Vec::new();
                entry.unwrap().read_to_end(&mut bytes).unwrap();
                let header = probe(&bytes, &Limits::default());
                if bytes.starts_with(b"\xff\xd8") && header.is_ok_and(|h| (150_000..300_000).contains(&h.pixels())) {
                    found.push(bytes);
                }
            }
        }
    }
    found
}

/// A seeded picture with the statistics of a photograph: soft gradients and shapes under a little noise, 500 x 400.
fn drawn(seed: u64) -> Vec<u8> {
    const WIDTH: u32 = 500;
    const HEIGHT: u32 = 400;
    let row = RowKey::new(seed, "drawn", 0, 0);
    let draw = |position| row.uniform(Purpose::Init, position);
    let mut pixels = Vec::with_capacity((WIDTH * HEIGHT * 3) as usize);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let (u, v) = (x as f32 / WIDTH as f32, y as f32 / HEIGHT as f32);
            let noise = draw(1000 + y * WIDTH + x) * 14.0;
            for channel in 0..3 {
                let mut value = 60.0 + 120.0 * (u * draw(channel) + v * draw(channel + 3));
                for shape in 0..12 {
                    let at = 10 + shape * 8;
                    let distance =
                        ((u - draw(at)).powi(2) + (v - draw(at + 1)).powi(2)).sqrt() / (0.05 + 0.2 * draw(at + 2));
                    value += (draw(at + 3 + channel) - 0.5) * 160.0 / (1.0 + distance.powi(8));
                    value += 6.0 * (distance * 40.0 * draw(at + 6)).sin();
                }
                pixels.push((value + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    imagebart::imaging::encode_jpeg(&Rgb { width: WIDTH, height: HEIGHT, pixels }, 90).unwrap()
}
