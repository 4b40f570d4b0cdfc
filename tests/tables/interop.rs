//! Other people's readers see the rows we wrote: pyarrow, DuckDB, Polars and Hugging Face `datasets`.
//!
//! They are installed from PyPI, pinned in `tests/python/requirements.txt`, into a virtual environment below `target/`
//! that later runs use again. Without Python or network the test is skipped, and says so.

use crate::{python, skip};

use crate::support::{provenance, reject, rows, write_unit};
use imagebart::reject::Reject;
use imagebart::tables::{LatentRow, Layout, OutputDir, Provenance, SampleRow, SamplesIdentity};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const READERS: [&str; 4] = ["pyarrow", "duckdb", "polars", "datasets"];

#[tokio::test]
async fn every_reader_sees_the_same_rows() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = match python::environment("interop-venv", "python/requirements.txt") {
        Ok(python) => python,
        Err(why) => {
            skip::skipped(format_args!("interop: {why}"));
            return Ok(());
        }
    };
    let folder = tempfile::tempdir()?;
    let dir = OutputDir::local(folder.path())?;
    // Both layouts of the token column, a unit without rows, and names that need escaping.
    let split = Arc::new(Provenance { grid: (2, 8), ..provenance(16384) });
    let dictionary = Arc::new(provenance(16));
    assert_eq!(Layout::choose(16384, 16, 400), Layout::ByteStreamSplit);
    assert_eq!(Layout::choose(16, 16, 400), Layout::Dictionary);
    let units =
        [(&split, "split.tar", 200), (&dictionary, "dict ü#.tar@000000000-000000200", 200), (&dictionary, "empty", 0)];
    let (mut latents, mut rejects) = (Vec::new(), Vec::new());
    let (mut latent_files, mut reject_files) = (Vec::new(), Vec::new());
    for (provenance, unit, samples) in units {
        write_unit(&dir, provenance, unit, samples).await?;
        latents.extend(rows(provenance, samples).iter().map(latent_json));
        rejects.extend((samples..samples + 2).map(|index| reject_json(&reject(unit, index))));
        latent_files.push(folder.path().join(dir.latents(unit)?.as_ref()));
        reject_files.push(folder.path().join(dir.rejects(&unit.into())?.as_ref()));
    }
    let drawn = Arc::new(crate::support::samples::provenance(973));
    let samples = dir.of::<SamplesIdentity>();
    let (mut sample_rows, mut sample_files) = (Vec::new(), Vec::new());
    for numbers in [0..5, 5..9] {
        crate::support::samples::write_unit(&samples, &drawn, numbers.clone()).await?;
        sample_rows.extend(crate::support::samples::rows(&drawn, numbers.clone()).iter().map(sample_json));
        let path = samples.table(&crate::support::samples::name(numbers).as_str().into())?;
        sample_files.push(folder.path().join(path.as_ref()));
    }
    for reader in READERS {
        compare(reader, &read(root, &python, reader, &sample_files)?, &sample_rows);
        compare(reader, &read(root, &python, reader, &latent_files)?, &latents);
        compare(reader, &read(root, &python, reader, &reject_files)?, &rejects);
        let (latents, rejects, samples) = (latents.len(), rejects.len(), sample_rows.len());
        eprintln!("{reader}: {latents} latents, {rejects} rejects and {samples} samples as written");
    }
    Ok(())
}

fn compare(reader: &str, read: &[Value], written: &[Value]) {
    assert_eq!(read.len(), written.len(), "{reader} sees another number of rows");
    for (read, written) in read.iter().zip(written) {
        assert_eq!(read, written, "{reader}");
    }
}

/// The rows that one of the readers finds in `files`.
fn read(root: &Path, python: &Path, reader: &str, files: &[PathBuf]) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
    let script = root.join("tests/python/read.py");
    let output = Command::new(python).arg(script).arg(reader).args(files).env("HF_HUB_OFFLINE", "1").output()?;
    assert!(output.status.success(), "{reader}: {}", python::complaint(&output));
    let stdout = String::from_utf8(output.stdout)?;
    let last = stdout.lines().last().ok_or("the script printed nothing")?;
    let found: Value = serde_json::from_str(last)?;
    found["rows"].as_array().cloned().ok_or_else(|| format!("{reader} printed {last}").into())
}

fn latent_json(row: &LatentRow) -> Value {
    json!({
        "key": row.key,
        "source": row.source,
        "index": row.index,
        "label": row.label,
        "caption": row.caption,
        "width": row.width,
        "height": row.height,
        "crop": { "x": row.crop.x, "y": row.crop.y, "size": row.crop.size },
        "flipped": row.flipped,
        "tokens": row.tokens,
    })
}

/// As the script prints a row of samples: the image decoded, by `datasets` itself where it is the reader.
fn sample_json(row: &SampleRow) -> Value {
    let image = imagebart::imaging::decode(&row.image.bytes, &imagebart::imaging::Limits::default());
    let image = image.expect("our own image");
    json!({
        "key": row.key,
        "prompt": row.prompt,
        "label": row.label,
        "seed": row.seed,
        "tokens": row.tokens,
        "image": { "width": image.width, "height": image.height, "pixels": image.pixels },
        "score": row.score,
        "rank": row.rank,
        "accepted": row.accepted,
        "parent": row.parent,
        "temperature": rounded(&row.settings.temperature),
        "top_k": row.settings.top_k,
        "top_p": rounded(&row.settings.top_p),
        "guidance": rounded(&row.settings.guidance),
    })
}

/// As Python prints them: the readers widen to float64.
fn rounded(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| (f64::from(value) * 1e6).round() / 1e6).collect()
}

fn reject_json(row: &Reject) -> Value {
    json!({
        "source": row.source,
        "key": row.key,
        "index": row.index,
        "unit": row.unit,
        "stage": row.stage,
        "reason": row.reason.code(),
        "message": row.message,
    })
}
