//! What reading costs, decoding excluded: every format from a local disk, against plain sequential reads of the same files.
//!
//! `cargo bench --bench reading [-- FORMAT...]`. Images are random bytes of ImageNet's mean size; a reader's work does not depend
//! on what is in them. Two programs that only read are the measure:
//!
//! - **plain** reads every file from its beginning to its end into one buffer of 1 MiB, over and over: that stays in the
//!   processor's cache, and nothing is kept. No reader can do as little, since whoever gets an image keeps it for a while.
//! - **kept** reads the same into sixteen such buffers in turn: a program that keeps its last 16 MiB, in memory that it uses
//!   again. That is as much as the readers hold, and what is written to goes through the processor's cache to memory.
//!
//! The sides are timed in turn, so that all see the same machine, and a share is the median of the rounds' shares. They are
//! timed with the files in the page cache, which no disk is faster than, and, where this process may empty that cache
//! (`/proc/sys/vm/drop_caches`), with files that come from the disk. Before the first, the files are read back from the disk
//! once: how fast pages are read from the cache depends on who brought them there, and small writes bring them in small pieces.

mod datasets;
#[path = "../../tests/readers/lmdb_writer.rs"]
#[allow(dead_code)]
mod lmdb_writer;

use datasets::{DATASETS, Dataset};
use futures::future::join;
use imagebart::datasets::{DatasetOptions, Entry, Output, open};
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

const IMAGES: usize = 4000;
const ROUNDS: [(&str, usize); 2] = [("warm", 15), ("cold", 7)];
/// Buffers of the program that keeps what it reads for a while.
const KEPT: usize = 16;
const MIB: f64 = (1 << 20) as f64;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    // As the binary does: else the heap's fragments grow with what was read.
    imagebart::torch::steady_heap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let cold = drop_caches().is_ok();
    println!("{IMAGES} images of 110 KB a dataset; medians of {} rounds warm, {} cold", ROUNDS[0].1, ROUNDS[1].1);
    println!(
        "format                cache   MiB/s  images/s    plain     kept  of plain  of kept   peak of a tenth, of all (MiB)"
    );
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for dataset in DATASETS.iter().filter(|d| chosen.is_empty() || chosen.iter().any(|name| name == d.format)) {
        let folder = tempfile::tempdir()?;
        let (all, tenth) = (folder.path().join("all"), folder.path().join("tenth"));
        write(dataset, &all, IMAGES)?;
        write(dataset, &tenth, IMAGES / 10)?;
        let peaks = [&tenth, &all].map(|root| peak(|| runtime.block_on(read(dataset, root)).map(drop)));
        let [small, large] =
            peaks.map(|peak| peak.map_or("?".to_owned(), |bytes| format!("{:.1}", bytes as f64 / MIB)));
        let files = files(&all)?;
        if cold {
            drop_caches()?;
        }
        let mut buffers = vec![vec![1; 1 << 20]; KEPT];
        let bytes = read_into(&mut buffers, &files)?;
        for (cache, rounds) in ROUNDS.into_iter().filter(|(cache, _)| cold || *cache == "warm") {
            let mut times: [Vec<f64>; 3] = Default::default();
            for _ in 0..rounds {
                for (side, times) in times.iter_mut().enumerate() {
                    if cache == "cold" {
                        drop_caches()?;
                    }
                    let start = Instant::now();
                    match side {
                        0 => assert_eq!(runtime.block_on(read(dataset, &all))?, IMAGES, "{}", dataset.format),
                        1 => assert_eq!(read_into(&mut buffers[..1], &files)?, bytes),
                        _ => assert_eq!(read_into(&mut buffers, &files)?, bytes),
                    }
                    times.push(start.elapsed().as_secs_f64());
                }
            }
            let [reader, plain, kept] = &times;
            let share = |of: &[f64]| median(of.iter().zip(reader).map(|(of, reader)| of / reader).collect());
            let rate = |times: &[f64]| bytes as f64 / MIB / median(times.to_vec());
            println!(
                "{:<21} {cache}  {:>6.0}  {:>8.0}  {:>7.0}  {:>7.0}  {:>8.2}  {:>7.2}   {small}, {large}",
                dataset.format,
                rate(reader),
                IMAGES as f64 / median(reader.clone()),
                rate(plain),
                rate(kept),
                share(plain),
                share(kept),
            );
        }
    }
    if !cold {
        println!("cold: not measured, this process may not empty the page cache");
    }
    Ok(())
}

fn write(dataset: &Dataset, root: &Path, images: usize) -> Result<(), Failure> {
    std::fs::create_dir_all(root)?;
    (dataset.write)(root, images)
}

/// Reads the whole dataset, one unit after the other as `encode` does, and counts its images.
async fn read(dataset: &Dataset, root: &Path) -> Result<usize, Failure> {
    let options = DatasetOptions { unit_rows: 500, ..DatasetOptions::default() };
    let url = root.join(dataset.url).display().to_string();
    let reader = open(dataset.format.parse()?, &url, options).await?;
    let mut images = 0;
    for unit in reader.units().await? {
        // As far ahead as `encode` lets a reader be.
        let (out, entries) = Output::channel(2);
        let reading = async {
            let result = reader.read(&unit, &out).await;
            drop(out);
            result
        };
        let counting = async {
            let mut count = 0;
            while let Ok(entry) = entries.recv().await {
                match entry {
                    Entry::Sample(_) => count += 1,
                    Entry::Reject(reject) => panic!("{}: {}", reject.key, reject.message),
                }
            }
            count
        };
        let (result, count) = join(reading, counting).await;
        result?;
        images += count;
    }
    Ok(images)
}

/// Every file below `root`, sorted.
fn files(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let (mut open, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

/// Every file from its beginning to its end, into these buffers of 1 MiB in turn.
fn read_into(buffers: &mut [Vec<u8>], files: &[PathBuf]) -> Result<u64, Failure> {
    let (mut next, mut total) = (0, 0);
    for file in files {
        let mut file = File::open(file)?;
        loop {
            let buffer = &mut buffers[next];
            match file.read(buffer)? {
                0 => break,
                read => total += black_box(&buffer[..read]).len() as u64,
            }
            next = (next + 1) % buffers.len();
        }
    }
    Ok(total)
}

/// Empties the page cache, after what is still to be written.
fn drop_caches() -> Result<(), Failure> {
    std::process::Command::new("sync").status()?;
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "1")?)
}

/// How much the process' memory grew at most during `work`, where the system tells.
fn peak(work: impl FnOnce() -> Result<(), Failure>) -> Option<u64> {
    let field = |name: &str| -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line =
            status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok();
        line.map(|kib: u64| kib << 10)
    };
    // The peak so far is forgotten.
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    let before = field("VmRSS:")?;
    work().ok()?;
    Some(field("VmHWM:")?.saturating_sub(before))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
