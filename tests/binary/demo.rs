//! The demo from end to end, and the gallery of what it leaves: with its originals, without them, with a wrong tokenizer.

use futures::TryStreamExt;
use imagebart::config::Pipeline;
use imagebart::jobs::JobError;
use imagebart::jobs::demo::{DemoModel, DemoOptions, DemoSummary, demo, tokenizer};
use imagebart::jobs::encode::{EncodeOptions, encode};
use imagebart::jobs::gallery::{GalleryOptions, describe, gallery};
use imagebart::progress::Display;
use imagebart::tables::{LatentsReader, OutputDir};
use imagebart::torch::device::DeviceChoice;
use std::path::Path;
use tokio_util::sync::CancellationToken;

async fn run(out: &Path) -> DemoSummary {
    let options = DemoOptions { out: out.to_owned(), seed: 0, device: DeviceChoice::Cpu, model: DemoModel::Makeshift };
    demo(&options, &Display::new(), CancellationToken::new()).await.unwrap()
}

fn options(out: &Path, file: &str) -> GalleryOptions {
    let to = vec![out.join(file)];
    GalleryOptions { device: DeviceChoice::Cpu, count: 6, ..GalleryOptions::new(out.display().to_string(), to) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_way_and_a_look_at_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let summary = run(&out).await;
    assert_eq!((summary.shards.len(), summary.encoded.rows, summary.encoded.rejects), (4, 256, 0));
    assert!(summary.verified.is_ok(), "{}", summary.verified);
    assert_eq!((summary.gallery.shown, summary.gallery.with_original), (64, 64));
    assert!(summary.gallery.psnr.unwrap() > 24.0, "{:?}", summary.gallery);
    assert!(summary.to_string().contains("gallery.html"), "{summary}");
    assert!(summary.gallery.to_string().contains("64 beside their originals"), "{}", summary.gallery);
    let planned = options(&out, "a.html");
    assert!(describe(&planned).await.unwrap().contains("6 rows of the 4 files"));
    assert!(!out.join("a.html").exists());

    rows_are_the_scenes(&out).await;
    the_page_shows_pairs(&out);
    mirrored_rows_find_their_originals(&out).await;
    a_second_demo_replaces_the_first(&out);
    a_wrong_tokenizer_is_refused(&out).await;
    without_the_data_set_reconstructions_remain(&out).await;
}

async fn rows_are_the_scenes(out: &Path) {
    use imagebart::jobs::demo::{scenes::Scene, split::Split};
    let latents = LatentsReader::open(OutputDir::local(out).unwrap()).await.unwrap();
    let rows: Vec<_> = latents.rows().try_collect().await.unwrap();
    for (index, row) in (0u64..).zip(&rows) {
        let scene = Scene::new(Split::Test, 0, index);
        let caption = scene.caption().to_string();
        assert_eq!((row.key.as_str(), row.caption.as_deref()), (&*format!("{index:06}"), Some(&*caption)));
        assert_eq!((row.label, row.width, row.tokens.len()), (Some(scene.label() as i32), 64, 256));
    }
    assert_eq!(rows.len(), 256);
}

fn the_page_shows_pairs(out: &Path) {
    let page = std::fs::read_to_string(out.join("gallery.html")).unwrap();
    assert_eq!(page.matches("<figure").count(), 64);
    assert_eq!(page.matches("data:image/png;base64,").count(), 128);
    assert!(page.contains("above a") && page.contains("shapes-0003.tar"));
    assert!(!page.contains("class=\"note\""), "nothing is missing");
    let sheet = image::open(out.join("gallery.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (8 * (64 + 1 + 64 + 6) + 6, 8 * (64 + 6) + 6));
}

/// A row and its mirror image come from one picture: beside the wrong one of the two the PSNR would be half of this.
async fn mirrored_rows_find_their_originals(out: &Path) {
    let run: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
    let mut pipeline: Pipeline = serde_json::from_value(run["pipeline"].clone()).unwrap();
    pipeline.image.flip = "both".to_owned();
    pipeline.output.url = out.join("mirrored").display().to_string();
    let settings = EncodeOptions { device: DeviceChoice::Cpu, ..EncodeOptions::default() };
    encode(&pipeline, &settings, &Display::new(), CancellationToken::new()).await.unwrap();
    let summary = gallery(&options(&out.join("mirrored"), "pairs.png")).await.unwrap();
    assert_eq!((summary.shown, summary.with_original), (6, 6));
    assert!(summary.psnr.unwrap() > 24.0, "{summary:?}");
}

fn a_second_demo_replaces_the_first(out: &Path) {
    let files = ["shapes/shapes-0002.tar", "latents/shapes-0002.tar.parquet", "manifest.json", "gallery.png"];
    let read = || files.map(|file| std::fs::read(out.join(file)).unwrap());
    // In processes of their own: tests beside this one set how many threads libtorch takes, for the whole process.
    let again = || crate::common::succeed(["demo", "--out", out.to_str().unwrap()]);
    again();
    let before = read();
    again();
    for ((file, before), after) in files.iter().zip(before).zip(read()) {
        assert!(before == after, "{file} differs");
    }
}

async fn a_wrong_tokenizer_is_refused(out: &Path) {
    let other = out.join("other.safetensors");
    tokenizer::write(&other, 1).unwrap();
    let options = GalleryOptions { tokenizer: Some(other), ..options(out, "refused.html") };
    let error = gallery(&options).await.unwrap_err();
    assert!(matches!(&error, JobError::Usage(text) if text.contains("fingerprint")), "{error}");
    assert!(!out.join("refused.html").exists());
    let error = gallery(&self::options(out, "gallery.gif")).await.unwrap_err();
    assert!(matches!(&error, JobError::Usage(text) if text.contains(".html or .png")), "{error}");
}

async fn without_the_data_set_reconstructions_remain(out: &Path) {
    std::fs::rename(out.join("shapes"), out.join("moved")).unwrap();
    let summary = gallery(&options(out, "alone.html")).await.unwrap();
    assert_eq!((summary.shown, summary.with_original, summary.psnr), (6, 0, None));
    assert!(!summary.problems.is_empty());
    assert!(summary.to_string().contains("6 reconstructions, without their originals"), "{summary}");
    let page = std::fs::read_to_string(out.join("alone.html")).unwrap();
    assert_eq!(page.matches("<div class=\"missing\">original not found</div>").count(), 6);
    assert!(page.contains("6 of 6 originals were not found."));

    std::fs::remove_file(out.join("run.json")).unwrap();
    let error = gallery(&options(out, "alone.png")).await.unwrap_err();
    assert!(matches!(&error, JobError::Usage(text) if text.contains("--tokenizer")), "{error}");
    let weights = Some(out.join("model/tokenizer.safetensors"));
    let summary = gallery(&GalleryOptions { tokenizer: weights, ..options(out, "alone.png") }).await.unwrap();
    assert_eq!((summary.shown, summary.with_original), (6, 0));
    assert!(summary.problems[0].contains("run.json"), "{:?}", summary.problems);
}
