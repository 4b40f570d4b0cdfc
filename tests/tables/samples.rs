//! The samples table from outside: what is written is read back, beside latents in one directory, and damage is found.

use crate::support::samples::{provenance, rows, units, write_unit};
use arrow::datatypes::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::TryStreamExt;
use imagebart::imaging::{Limits, decode};
use imagebart::jobs::gallery::{GalleryOptions, Table, describe, gallery};
use imagebart::jobs::verify::verify;
use imagebart::tables::{
    Identity, Manifest, OutputDir, Provenance, RowsWriter, SampleRow, SamplesIdentity, SamplesReader, SamplesWriter,
    TableError, UnitWriter, read_samples, read_table,
};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use std::sync::Arc;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn memory() -> OutputDir<SamplesIdentity> {
    OutputDir::new(Arc::new(InMemory::new()), Path::from("bucket/out"), None).of()
}

/// A directory with 10 rows in units of 4.
async fn complete(dir: &OutputDir<SamplesIdentity>) -> Result<Arc<Provenance<SamplesIdentity>>, TableError> {
    let provenance = Arc::new(provenance(973));
    dir.begin(&Manifest::new(&provenance, units(10, 4))).await?;
    for (start, end) in [(0, 4), (4, 8), (8, 10)] {
        write_unit(dir, &provenance, start..end).await?;
    }
    Ok(provenance)
}

#[tokio::test]
async fn rows_are_read_back_as_written() -> Outcome {
    let dir = memory();
    let provenance = complete(&dir).await?;
    let reader = SamplesReader::open(dir.clone()).await?;
    let read: Vec<SampleRow> = reader.rows().try_collect().await?;
    assert_eq!(read, rows(&provenance, 0..10));
    let file = read_samples(dir.store().clone(), &dir.table(&"rows@000000004-000000008".into())?).await?;
    assert_eq!((file.info().rows, file.info().samples, file.info().rejects), (4, 4, 0));
    assert_eq!(file.info().provenance, *provenance);
    let image = decode(&read[3].image.bytes, &Limits::default())?;
    assert_eq!((image.width, image.height), (8, 8));
    // A file of samples is never taken for one of latents.
    let error =
        read_table::<Identity>(dir.store().clone(), &dir.table(&"rows@000000000-000000004".into())?).await.err();
    assert!(error.is_some_and(|error| error.to_string().contains("of the table samples/1, not of latents/1")));
    Ok(())
}

#[tokio::test]
async fn row_groups_are_bounded_by_the_bytes_of_their_images() -> Outcome {
    let dir = memory();
    let provenance = Arc::new(Provenance { grid: (16, 16), ..provenance(973) });
    let path = dir.table(&"rows@000000000-000000100".into())?;
    let mut files = Vec::new();
    for _ in 0..2 {
        let mut unit = UnitWriter::create(&dir, &provenance, "rows@000000000-000000100")?;
        for mut row in rows(&provenance, 0..100) {
            // Incompressible, as PNG is; with the prompt a little less than 1 MiB.
            let mut state = 1u32 + row.seed as u32;
            let noise = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            });
            row.image.bytes = Bytes::from_iter(noise.take((1 << 20) - 1024));
            unit.row(row).await?;
        }
        unit.commit().await?;
        files.push(dir.store().get(&path).await?.bytes().await?);
    }
    assert!(files[0] == files[1], "the same rows gave other bytes");
    let metadata = parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&files[0])?;
    let groups: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [32, 32, 32, 4]);
    let column = |name: &str| {
        let columns = metadata.row_group(0).columns();
        columns.iter().find(|column| column.column_path().string() == name).expect("a column").clone()
    };
    let image = column("image.bytes");
    assert!(image.statistics().is_none() && column("tokens.list.element").statistics().is_none());
    assert_eq!(image.compression(), parquet::basic::Compression::UNCOMPRESSED);
    assert_eq!(image.dictionary_page_offset(), None);
    Ok(())
}

#[tokio::test]
async fn a_writer_refuses_rows_that_do_not_belong() -> Outcome {
    let dir = memory();
    let provenance = Arc::new(provenance(100));
    let path = dir.table(&"rows@000000000-000000002".into())?;
    let mut writer =
        SamplesWriter::create(dir.store().clone(), path, &"rows@000000000-000000002".into(), provenance.clone())?;
    let good = rows(&provenance, 0..2);
    let mut wrong = good[0].clone();
    wrong.tokens[3] = 100;
    let error = writer.push(wrong).await.unwrap_err().to_string();
    assert!(error.contains("token 100 is not below the codebook size 100"), "{error}");
    let mut wrong = good[0].clone();
    wrong.image.bytes = Bytes::new();
    assert!(writer.push(wrong).await.unwrap_err().to_string().contains("has no image"));
    writer.push(good[0].clone()).await?;
    Ok(())
}

/// Latents and samples under one URL: neither run sees the other's files, and overwriting one leaves the other.
#[tokio::test]
async fn samples_and_latents_share_a_directory() -> Outcome {
    let latents = OutputDir::new(Arc::new(InMemory::new()), Path::from("bucket/out"), None);
    let samples: OutputDir<SamplesIdentity> = latents.of();
    let encoded = Arc::new(crate::support::provenance(1024));
    latents.begin(&Manifest::new(&encoded, crate::support::dataset(&["a.tar"]))).await?;
    crate::support::write_unit(&latents, &encoded, "a.tar", 3).await?;
    let drawn = complete(&samples).await?;

    let report = verify(&latents).await?;
    assert!(report.is_ok(), "{report}");
    let text = report.to_string();
    assert!(text.contains("latents: 1 of 1 units done, 6 rows, 2 rejects"), "{text}");
    assert!(text.contains("samples: 3 of 3 units done, 10 rows, 0 rejects"), "{text}");

    latents.overwrite(&Manifest::new(&encoded, crate::support::dataset(&["b.tar"])), &["b.tar"], true).await?;
    let report = verify(&latents).await?;
    assert_eq!(report.gaps, ["b.tar"], "{report}");
    assert_eq!(samples.done().await?.len(), 3);
    let mut other = (*drawn).clone();
    other.identity.settings.temperature[1] = 0.5;
    let error = samples.begin(&Manifest::new(&other, units(10, 4))).await.unwrap_err().to_string();
    assert!(error.contains("samples-manifest.json"), "{error}");
    assert!(error.contains("settings.temperature: [1.0,0.5] here, [1.0,0.9] recorded"), "{error}");
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_samples_is_found() -> Outcome {
    let dir = memory();
    let provenance = complete(&dir).await?;
    let latents: OutputDir = dir.of();
    let store = dir.store().clone();
    let path = dir.table(&"rows@000000004-000000008".into())?;
    let sound = store.get(&path).await?.bytes().await?;

    let mut flipped = sound.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    store.put(&path, flipped.into()).await?;
    let report = verify(&latents).await?;
    assert!(report.problems.iter().any(|problem| problem.file == path.to_string()), "{report}");

    // Too few rows for its name, though all else is right.
    let mut unit = UnitWriter::create(&dir, &provenance, "rows@000000004-000000008")?;
    for row in rows(&provenance, 4..7) {
        unit.row(row).await?;
    }
    unit.commit().await?;
    let report = verify(&latents).await?;
    let [problem] = report.problems.as_slice() else { panic!("{report}") };
    assert_eq!(problem.detail, "has 3 rows with its rejects, its unit 4");

    store.delete(&path).await?;
    let report = verify(&latents).await?;
    assert_eq!(report.gaps, ["rows@000000004-000000008"], "{report}");
    store.put(&path, sound.into()).await?;
    store.delete(&dir.rejects(&"rows@000000004-000000008".into())?).await?;
    let report = verify(&latents).await?;
    assert!(report.to_string().contains("the unit has no rejects file"), "{report}");
    Ok(())
}

#[tokio::test]
async fn a_gallery_shows_samples() -> Outcome {
    let folder = tempfile::tempdir()?;
    complete(&OutputDir::local(folder.path())?.of()).await?;
    let files = ["page.html", "sheet.png"].map(|file| folder.path().join(file));
    let options = GalleryOptions::new(folder.path().display().to_string(), files.to_vec());
    assert!(describe(&options).await?.contains("of the 3 files"));
    let summary = gallery(&options).await?;
    assert_eq!((summary.table, summary.shown, summary.with_original, summary.psnr), (Table::Samples, 10, 0, None));
    assert!(summary.to_string().ends_with("sheet.png: 10 samples"), "{summary}");
    let page = std::fs::read_to_string(&files[0])?;
    let data = page.split_once("id=\"data\">").and_then(|(_, rest)| rest.split_once("</script>")).ok_or("no data")?.0;
    let data: serde_json::Value = serde_json::from_str(data)?;
    let written = rows(&provenance(973), 0..10);
    assert_eq!(data["key"].as_array().map(Vec::len), Some(10));
    for (at, row) in written.iter().enumerate() {
        let (seed, score) = (row.seed.to_string(), row.score.map(f64::from));
        assert_eq!((&data["key"][at], &data["seed"][at]), (&row.key.as_str().into(), &seed.as_str().into()));
        assert_eq!(
            (data["prompt"][at].as_str(), data["parent"][at].as_str()),
            (row.prompt.as_deref(), row.parent.as_deref())
        );
        assert_eq!((data["label"][at].as_i64(), data["score"][at].as_f64()), (row.label.map(i64::from), score));
        assert_eq!((data["rank"][at].as_u64(), &data["accepted"][at]), (row.rank.map(u64::from), &row.accepted.into()));
    }
    // Small files go into the page as they are, and settings that rows share stand there once.
    let first = STANDARD.encode(&written[0].image.bytes);
    assert!(page.contains(&format!("id=\"small-0\">png;base64,{first}\n")) && !page.contains("id=\"full-0\""));
    assert_eq!((data["settings"].as_array().map(Vec::len), &data["settings"][0]["top_k"][1]), (Some(1), &50.into()));
    for said in ["10 samples.", "1, 0.63605, 0"] {
        assert!(page.contains(said), "{said}");
    }
    // Five columns, two rows: pictures of 8 pixels, gaps of 6.
    let sheet = decode(&std::fs::read(&files[1])?, &Limits::default())?;
    assert_eq!((sheet.width, sheet.height), (6 + 5 * 14, 6 + 2 * 14));
    let few = gallery(&GalleryOptions { count: 4, ..options.clone() }).await?;
    assert_eq!(few.shown, 4);
    let page = std::fs::read_to_string(&files[0])?;
    assert!(page.contains("4 samples, spread evenly over the 10 that are there; --count shows more."), "{page}");
    assert!(page.contains("\"key\":[\"000000001\",\"000000003\",\"000000006\",\"000000008\"]"), "{page}");
    let error = gallery(&GalleryOptions { table: Some(Table::Latents), ..options }).await.unwrap_err().to_string();
    assert!(error.contains("there are no latents here"), "{error}");
    Ok(())
}

/// The columns as other readers see them.
#[tokio::test]
async fn files_say_that_images_are_images() -> Outcome {
    let dir = memory();
    complete(&dir).await?;
    let bytes = dir.store().get(&dir.table(&"rows@000000000-000000004".into())?).await?.bytes().await?;
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let entries = reader.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let hint = entries.iter().find(|entry| entry.key == "huggingface").and_then(|entry| entry.value.clone());
    let hint: serde_json::Value = serde_json::from_str(&hint.ok_or("no huggingface entry")?)?;
    assert_eq!(hint["info"]["features"]["image"]["_type"], "Image");
    let DataType::Struct(parts) = reader.schema().field_with_name("image")?.data_type().clone() else {
        return Err("image is no struct".into());
    };
    let parts: Vec<(&str, &DataType)> = parts.iter().map(|part| (part.name().as_str(), part.data_type())).collect();
    assert_eq!(parts, [("bytes", &DataType::Binary), ("path", &DataType::Utf8)]);
    Ok(())
}
