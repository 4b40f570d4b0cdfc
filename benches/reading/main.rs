//! What reading costs, decoding excluded: every format from a local disk, against plain sequential reads of the same files.
//!
//! `cargo bench --bench reading`. Images are random bytes of ImageNet's mean size; a reader's work does not depend on what is in
//! them. Both sides are timed with the files in the page cache, which no disk is faster than, and, where this process may empty
//! that cache (`/proc/sys/vm/drop_caches`), with files that come from the disk. Runs alternate, so that both see the same machine.

mod datasets;

use datasets::{DATASETS, Dataset};
use futures::future::join;
use imagebart::datasets::{DatasetOptions, Entry, Output, open};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const IMAGES: usize = 4000;
const ROUNDS: usize = 5;
const MIB: f64 = (1 << 20) as f64;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let cold = drop_caches().is_ok();
    println!("{IMAGES} images of 110 KB a dataset, medians of {ROUNDS}; plain: one thread, read() of 1 MiB");
    println!(
        "format                 cache   MiB/s  images/s   plain MiB/s  reader/plain   peak of a tenth, of all (MiB)"
    );
    for dataset in DATASETS {
        let folder = tempfile::tempdir()?;
        let (all, tenth) = (folder.path().join("all"), folder.path().join("tenth"));
        write(dataset, &all, IMAGES)?;
        write(dataset, &tenth, IMAGES / 10)?;
        let peaks = [&tenth, &all].map(|root| peak(|| runtime.block_on(read(dataset, root)).map(drop)));
        let [small, large] =
            peaks.map(|peak| peak.map_or("?".to_owned(), |bytes| format!("{:.1}", bytes as f64 / MIB)));
        for (cache, is_cold) in [("warm", false), ("cold", true)] {
            if is_cold && !cold {
                continue;
            }
            let (mut reader, mut plain, mut bytes) = (Vec::new(), Vec::new(), 0);
            for _ in 0..ROUNDS {
                for side in 0..2 {
                    if is_cold {
                        drop_caches()?;
                    }
                    let start = Instant::now();
                    match side {
                        0 => {
                            let images = runtime.block_on(read(dataset, &all))?;
                            assert_eq!(images, IMAGES, "{}", dataset.format);
                            reader.push(start.elapsed());
                        }
                        _ => {
                            bytes = read_plainly(&all)?;
                            plain.push(start.elapsed());
                        }
                    }
                }
            }
            let rate = |time: Duration| bytes as f64 / MIB / time.as_secs_f64();
            let (reader, plain) = (median(reader), median(plain));
            println!(
                "{:<22} {cache}  {:>6.0}  {:>8.0}  {:>12.0}  {:>12.2}   {small}, {large}",
                dataset.format,
                rate(reader),
                IMAGES as f64 / reader.as_secs_f64(),
                rate(plain),
                plain.as_secs_f64() / reader.as_secs_f64(),
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

/// Every file below `root`, from its beginning to its end.
fn read_plainly(root: &Path) -> Result<u64, Failure> {
    let (mut open, mut files, mut total) = (vec![root.to_owned()], Vec::<PathBuf>::new(), 0);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut buffer = vec![0; 1 << 20];
    for file in files {
        let mut file = File::open(file)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => total += std::hint::black_box(&buffer[..read]).len() as u64,
            }
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

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
