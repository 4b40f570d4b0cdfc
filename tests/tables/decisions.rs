//! What `filter` decides about samples, and what `export` makes of it.

use crate::support::samples::{name, provenance, rows, units};
use crate::{python, skip};
use futures::TryStreamExt;
use imagebart::config::{FilterSection, Pipeline};
use imagebart::jobs::JobError;
use imagebart::jobs::export::{ExportFormat, ExportOptions, describe, export};
use imagebart::jobs::filter::{FilterOptions, filter};
use imagebart::jobs::verify::verify;
use imagebart::tables::{
    Decisions, LatentRow, Manifest, OutputDir, Provenance, SampleRow, SamplesIdentity, SamplesReader, UnitWriter,
};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Twelve rows of three prompts: 5 is nearly 2, 7 looks like 1, 3 was not accepted.
fn drawn(provenance: &Provenance<SamplesIdentity>) -> Vec<SampleRow> {
    let mut all = rows(provenance, 0..12);
    for (number, row) in all.iter_mut().enumerate() {
        row.prompt = Some(format!("prompt {}", number % 3));
        row.label = None;
        row.score = Some(number as f32 / 10.0);
        row.accepted = number != 3;
    }
    all[5].tokens = all[2].tokens.clone();
    all[5].tokens[9] ^= 1;
    all[7].image.bytes = all[1].image.bytes.clone();
    all
}

async fn write(dir: &OutputDir<SamplesIdentity>, provenance: &Arc<Provenance<SamplesIdentity>>, rows: &[SampleRow]) {
    dir.begin(&Manifest::new(provenance, units(12, 8))).await.unwrap();
    for (start, rows) in (0..).step_by(8).zip(rows.chunks(8)) {
        let unit = name(start..start + rows.len() as u64);
        let mut writer = UnitWriter::create(dir, provenance, unit.as_str()).unwrap();
        for row in rows {
            writer.row(row.clone()).await.unwrap();
        }
        writer.commit().await.unwrap();
    }
}

/// A folder with those samples, and what was written.
async fn output() -> (tempfile::TempDir, OutputDir<SamplesIdentity>, Vec<SampleRow>) {
    let folder = tempfile::tempdir().unwrap();
    let dir = OutputDir::local(folder.path()).unwrap().of();
    let provenance = Arc::new(provenance(973));
    let rows = drawn(&provenance);
    write(&dir, &provenance, &rows).await;
    (folder, dir, rows)
}

fn pipeline(folder: &Path, filter: FilterSection) -> Pipeline {
    let mut pipeline = Pipeline { filter, ..Pipeline::default() };
    pipeline.output.url = folder.display().to_string();
    pipeline
}

/// Latents of the samples' tokenizer, one of them nearly row 9.
async fn latents(folder: &Path, rows: &[SampleRow]) {
    let mut encoded = crate::support::provenance(973);
    encoded.grid = (4, 4);
    let encoded = Arc::new(encoded);
    let dir = OutputDir::local(folder).unwrap();
    dir.begin(&Manifest::new(&encoded, crate::support::dataset(&["a.tar"]))).await.unwrap();
    let mut writer = UnitWriter::create(&dir, &encoded, "a.tar").unwrap();
    let mut made: Vec<LatentRow> = crate::support::rows(&encoded, 3);
    made[2].tokens = rows[9].tokens.clone();
    made[2].tokens[0] ^= 1;
    for row in made {
        writer.row(row).await.unwrap();
    }
    writer.commit().await.unwrap();
}

async fn decided(dir: &OutputDir<SamplesIdentity>) -> Vec<(String, Option<String>)> {
    let decisions = Decisions::read(dir).await.unwrap().unwrap();
    decisions.rows.into_iter().map(|row| (row.rule, row.neighbour)).collect()
}

#[tokio::test]
async fn rules_that_need_the_whole_run_decide() -> Outcome {
    let (folder, dir, rows) = output().await;
    let trained = tempfile::tempdir()?;
    latents(trained.path(), &rows).await;
    let section = FilterSection {
        min_score: Some(0.05),
        duplicate_tokens: Some(0.1),
        duplicate_image: Some(0),
        against: vec![trained.path().display().to_string()],
        copy_tokens: 0.1,
        per_prompt: Some(2),
        rate: None,
    };
    let pipeline = pipeline(folder.path(), section);
    let summary = filter(&pipeline, &FilterOptions::default()).await?;
    let found = decided(&dir).await;
    let names: Vec<&str> = found.iter().map(|(rule, _)| rule.as_str()).collect();
    // From the best down: prompt 2 keeps 11 and 8, prompt 1 keeps 10 and 7, prompt 0 keeps 6 alone.
    let expected = [
        "min-score",
        "duplicate-image",
        "per-prompt",
        "not-accepted",
        "per-prompt",
        "per-prompt",
        "kept",
        "kept",
        "kept",
        "training-copy",
        "kept",
        "kept",
    ];
    assert_eq!(names, expected);
    assert_eq!(found[1].1.as_deref(), Some("000000007"));
    assert_eq!((summary.rows, summary.by_rule["kept"], summary.by_rule["per-prompt"]), (12, 5, 3));
    let copied = crate::support::rows(&crate::support::provenance(973), 3)[2].key.clone();
    assert_eq!(found[9].1, Some(copied));

    assert!(filter(&pipeline, &FilterOptions::default()).await?.there, "a second run finds them");
    let mut other = pipeline.clone();
    other.filter = FilterSection { duplicate_tokens: Some(0.1), ..FilterSection::default() };
    let error = filter(&other, &FilterOptions::default()).await.unwrap_err();
    assert!(matches!(&error, JobError::Usage(text) if text.contains("--overwrite")), "{error}");
    filter(&other, &FilterOptions { overwrite: true }).await?;
    let found = decided(&dir).await;
    assert_eq!((found[2].0.as_str(), found[2].1.as_deref()), ("duplicate-tokens", Some("000000005")));
    // The samples are as they were.
    let read: Vec<SampleRow> = SamplesReader::open(dir).await?.rows().try_collect().await?;
    assert_eq!(read, rows);
    Ok(())
}

#[tokio::test]
async fn a_rate_keeps_the_best_and_needs_scores() -> Outcome {
    let (folder, dir, _) = output().await;
    let rate = FilterSection { rate: Some(0.25), ..FilterSection::default() };
    filter(&pipeline(folder.path(), rate.clone()), &FilterOptions::default()).await?;
    let kept: Vec<usize> =
        decided(&dir).await.iter().enumerate().filter(|(_, row)| row.0 == "kept").map(|(at, _)| at).collect();
    assert_eq!(kept, [9, 10, 11]);

    let folder = tempfile::tempdir()?;
    let provenance = Arc::new(provenance(973));
    let mut unscored = drawn(&provenance);
    unscored[4].score = None;
    write(&OutputDir::local(folder.path())?.of(), &provenance, &unscored).await;
    let error = filter(&pipeline(folder.path(), rate), &FilterOptions::default()).await.unwrap_err();
    assert!(matches!(&error, JobError::Usage(text) if text.contains("row 000000004 has none")), "{error}");
    Ok(())
}

#[tokio::test]
async fn unfinished_runs_and_other_tokenizers_are_refused() -> Outcome {
    let (folder, dir, rows) = output().await;
    let trained = tempfile::tempdir()?;
    latents(trained.path(), &rows).await;
    let against = FilterSection { against: vec![trained.path().display().to_string()], ..FilterSection::default() };
    let mut other = (*Arc::new(provenance(973))).clone();
    other.identity.tokenizer = "beef".repeat(16);
    let elsewhere = tempfile::tempdir()?;
    write(&OutputDir::local(elsewhere.path())?.of(), &Arc::new(other), &rows).await;
    let error = filter(&pipeline(elsewhere.path(), against), &FilterOptions::default()).await.unwrap_err();
    assert!(matches!(&error, JobError::Usage(text) if text.contains("beefbeef")), "{error}");

    std::fs::remove_file(folder.path().join(dir.table(&name(8..12).as_str().into())?.as_ref()))?;
    let rule = FilterSection { per_prompt: Some(1), ..FilterSection::default() };
    let error = filter(&pipeline(folder.path(), rule), &FilterOptions::default()).await.unwrap_err();
    assert!(matches!(&error, JobError::Usage(text) if text.contains("not finished")), "{error}");
    Ok(())
}

/// What may be wrong with decisions.
type Change = Box<dyn Fn(&mut Decisions)>;

#[tokio::test]
async fn decisions_are_verified_against_their_samples() -> Outcome {
    let (folder, dir, _) = output().await;
    let any = OutputDir::local(folder.path())?;
    let rule = FilterSection { per_prompt: Some(1), ..FilterSection::default() };
    filter(&pipeline(folder.path(), rule), &FilterOptions::default()).await?;
    let report = verify(&any).await?;
    assert!(report.is_ok() && report.decisions == Some(12), "{report}");
    assert!(report.to_string().contains("decisions: 12 rows"), "{report}");

    let decisions = Decisions::read(&dir).await?.ok_or("no decisions")?;
    let row = decisions.rows[0].clone();
    let changes: [(&str, Change); 5] = [
        ("not those of the unit rows@000000000-000000008", Box::new(|decisions| decisions.rows.swap(1, 2))),
        ("not those of the unit rows@000000008-000000012", Box::new(|decisions| drop(decisions.rows.pop()))),
        ("1 rows more than there are samples", Box::new(move |decisions| decisions.rows.push(row.clone()))),
        ("not those of the unit rows@000000008-000000012", Box::new(|decisions| decisions.rows[8].key.push('x'))),
        ("about other samples", Box::new(|decisions| decisions.samples = "0".repeat(64))),
    ];
    for (expected, change) in changes {
        let mut changed = decisions.clone();
        change(&mut changed);
        changed.write(&dir).await?;
        let report = verify(&any).await?;
        let [problem] = &report.problems[..] else { panic!("{expected}: {report}") };
        assert!(problem.file.ends_with("decisions/decisions.parquet"), "{report}");
        assert!(
            problem.detail.contains(expected) && problem.detail.contains("imagebart filter --overwrite"),
            "{report}"
        );
    }
    let file = folder.path().join("decisions/decisions.parquet");
    let mut bytes = std::fs::read(&file)?;
    bytes[30] ^= 1;
    std::fs::write(&file, bytes)?;
    let report = verify(&any).await?;
    assert!(report.problems.len() == 1 && report.problems[0].file.ends_with("decisions.parquet"), "{report}");
    Ok(())
}

fn options(folder: &Path, format: ExportFormat, to: &Path) -> ExportOptions {
    ExportOptions {
        url: folder.display().to_string(),
        format,
        to: to.display().to_string(),
        per_shard: 4,
        licence: Some("cc0-1.0".to_owned()),
        overwrite: false,
    }
}

/// Every file of all shards, by name.
fn unpacked(to: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for number in 0.. {
        let Ok(file) = std::fs::File::open(to.join(format!("samples-{number:06}.tar"))) else { break };
        for entry in tar::Archive::new(file).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            found.insert(entry.path().unwrap().display().to_string(), bytes);
        }
    }
    found
}

#[tokio::test]
async fn what_is_accepted_and_kept_is_exported() -> Outcome {
    let (folder, _, rows) = output().await;
    let (shards, images) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let all = export(&options(folder.path(), ExportFormat::Webdataset, shards.path())).await?;
    assert_eq!((all.rows, all.exported, all.not_accepted, all.not_kept, all.parts), (12, 11, 1, None, 3));
    let found = unpacked(shards.path());
    assert_eq!(found.len(), 33);
    assert_eq!(found["000000005.png"], rows[5].image.bytes);
    assert_eq!(found["000000005.txt"], b"prompt 2");
    let json: serde_json::Value = serde_json::from_slice(&found["000000005.json"])?;
    assert_eq!(
        (&json["key"], &json["seed"], &json["top_k"][1]),
        (&"000000005".into(), &rows[5].seed.into(), &50.into())
    );
    let card = std::fs::read_to_string(shards.path().join("README.md"))?;
    assert!(card.contains("license: cc0-1.0") && card.contains("| in this data set | 11 |"), "{card}");
    let error = export(&options(folder.path(), ExportFormat::Webdataset, shards.path())).await.unwrap_err();
    assert!(matches!(&error, JobError::Usage(text) if text.contains("not empty")), "{error}");

    let rule = FilterSection { per_prompt: Some(1), ..FilterSection::default() };
    filter(&pipeline(folder.path(), rule), &FilterOptions::default()).await?;
    let asked = options(folder.path(), ExportFormat::Folder, images.path());
    assert!(describe(&asked).await?.contains("3 of 12 rows are kept"));
    assert!(std::fs::read_dir(images.path())?.next().is_none(), "a dry run writes nothing");
    let kept = export(&asked).await?;
    assert_eq!((kept.exported, kept.not_accepted, kept.not_kept, kept.parts), (3, 1, Some(8), 1));
    let lines = std::fs::read_to_string(images.path().join("metadata.jsonl"))?;
    let lines: Vec<serde_json::Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(lines.len(), 3);
    for (line, row) in lines.iter().zip(&rows[9..]) {
        let file = images.path().join(line["file_name"].as_str().unwrap());
        assert_eq!((std::fs::read(file)?, &line["key"]), (row.image.bytes.to_vec(), &row.key.as_str().into()));
    }
    Ok(())
}

/// The library that most trainings read shards with finds what was written.
#[tokio::test]
async fn webdataset_reads_the_shards() -> Outcome {
    let python = match python::environment("webdataset-venv", "python/webdataset-requirements.txt") {
        Ok(python) => python,
        Err(why) => {
            skip::skipped(format_args!("webdataset: {why}"));
            return Ok(());
        }
    };
    let (folder, _, rows) = output().await;
    let shards = tempfile::tempdir()?;
    export(&options(folder.path(), ExportFormat::Webdataset, shards.path())).await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_webdataset.py");
    let output = Command::new(python).arg(script).arg(shards.path()).output()?;
    assert!(output.status.success(), "{}", python::complaint(&output));
    let found: Vec<(String, String, usize)> = serde_json::from_slice(&output.stdout)?;
    let expected: Vec<(String, String, usize)> = rows
        .iter()
        .filter(|row| row.accepted)
        .map(|row| (row.key.clone(), row.prompt.clone().unwrap(), row.image.bytes.len()))
        .collect();
    assert_eq!(found, expected);
    Ok(())
}
