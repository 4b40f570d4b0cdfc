//! `imagebart shrink`: the codes that are used become the tokenizer's, and the latents are in their terms.

use crate::common::{folder, imagebart, pipeline, stderr, tables, tokenizer};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use tempfile::{TempDir, tempdir};

/// A directory with images, their latents and a pipeline.
struct Place {
    root: TempDir,
    pipeline: String,
}

impl Place {
    fn new(images: u64) -> Place {
        let root = tempdir().unwrap();
        folder(&root.path().join("in"), images);
        let dataset = root.path().join("in").display().to_string();
        let file = pipeline(root.path(), "folder", &dataset, "max_reject_fraction = 1.0\n");
        // One that no decoder takes: rejects are remapped too.
        fs::write(root.path().join("in/zz.png"), "no image").unwrap();
        Place { pipeline: file.display().to_string(), root }
    }

    fn encoded(images: u64) -> Place {
        let place = Place::new(images);
        place.succeed("encode", &[]);
        place
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    fn run(&self, command: &str, settings: &[(&str, &str)]) -> Output {
        let both = [("dataset.unit_rows", "5"), ("image.flip", "both")];
        let sets = both.iter().chain(settings).flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]);
        let mut command_line = imagebart();
        command_line.args(command.split(' ')).arg(&self.pipeline).args(sets).output().unwrap()
    }

    fn succeed(&self, command: &str, settings: &[(&str, &str)]) -> String {
        let output = self.run(command, settings);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
    }

    /// What `shrink` says when it is refused.
    fn refused(&self, settings: &[(&str, &str)]) -> String {
        let output = self.run("shrink", settings);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    }

    /// The tables below `name`, without the report.
    fn tables(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let mut files = tables(&PathBuf::from(self.path(name)));
        files.remove("usage.json");
        files
    }
}

#[test]
fn remapped_latents_are_those_that_the_shrunk_tokenizer_gives() {
    let (place, validation) = (Place::encoded(12), Place::encoded(2));
    let before = place.tables("out");
    let (to, count) = (place.path("small"), validation.path("out"));
    let settings = [("shrink.to", to.as_str()), ("shrink.count", &count)];
    let planned = place.succeed("shrink --dry-run", &settings);
    assert!(planned.contains("3 files at"), "{planned}");
    assert!(!PathBuf::from(&to).exists());

    let said = place.succeed("shrink", &settings);
    assert!(said.contains("24 rows of 3 units"), "{said}");
    assert_eq!(before, place.tables("out"));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(place.path("small/usage.json")).unwrap()).unwrap();
    assert_eq!(report["counted"]["tokens"], 2 * 2 * 64);
    assert_eq!(report["counted"]["outlier_share"], 0.0);
    let outliers = report["remapped"]["outlier_share"].as_f64().unwrap();
    let kept = report["counted"]["kept"].as_u64().unwrap();
    assert!(outliers > 0.0 && outliers < 0.9 && (1..64).contains(&kept), "{report}");

    // `encode` with the smaller tokenizer writes the same bytes, and finds nothing to do where they are.
    let (small, encoded) = (place.path("tokenizer-shrunk.safetensors"), place.path("encoded"));
    let with_small = |out: &str| place.succeed("encode", &[("tokenizer.weights", &small), ("output.url", out)]);
    with_small(&encoded);
    assert_eq!(place.tables("encoded"), place.tables("small"));
    assert!(with_small(&to).contains("nothing to do"));
    let verified = imagebart().args(["verify", &to]).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));

    // What is missing is done, and nothing else.
    let whole = place.tables("small");
    let lost = whole.keys().find(|name| name.starts_with("latents/")).unwrap();
    fs::remove_file(PathBuf::from(&to).join(lost)).unwrap();
    assert!(place.succeed("shrink", &settings).contains("of 1 units"));
    assert_eq!(whole, place.tables("small"));
}

#[test]
fn a_shrunk_codebook_can_be_shrunk_again() {
    let place = Place::encoded(6);
    let all = place.path("all");
    place.succeed("shrink", &[("shrink.to", &all)]);
    let first = fs::read(place.path("all/usage.json")).unwrap();
    let first: serde_json::Value = serde_json::from_slice(&first).unwrap();
    assert_eq!(first["remapped"]["outlier_share"], 0.0);

    let (small, again) = (place.path("tokenizer-shrunk.safetensors"), place.path("again"));
    let settings =
        [("tokenizer.weights", small.as_str()), ("output.url", &all), ("shrink.to", &again), ("shrink.min_count", "9")];
    place.succeed("shrink", &settings);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(place.path("again/usage.json")).unwrap()).unwrap();
    assert_eq!(report["counted"]["codes"], first["counted"]["kept"]);
    assert!(report["counted"]["kept"].as_u64() < first["counted"]["kept"].as_u64(), "{report}");
    // Ids of the second codebook are the entries that stand nine times or more under the first.
    let often: Vec<u64> = first["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    let entries: Vec<i64> = (0..).zip(&often).filter(|(_, count)| **count >= 9).map(|(entry, _)| entry).collect();
    let path = place.path("tokenizer-shrunk-shrunk.safetensors");
    let mut file = imagebart::torch::weights::WeightsFile::open(path).unwrap();
    assert_eq!(Vec::<i64>::try_from(file.read("quantize.used").unwrap()).unwrap(), entries);
}

#[test]
fn what_a_retry_saved_is_remapped_too() {
    let place = Place::new(6);
    let images = place.tables("in").into_keys().filter(|name| name != "zz.png");
    let damaged = PathBuf::from(place.path("in")).join(images.min().unwrap());
    let intact = fs::read(&damaged).unwrap();
    fs::write(&damaged, vec![0; intact.len()]).unwrap();
    place.succeed("encode", &[]);
    fs::write(&damaged, intact).unwrap();
    // The last argument takes any number of values.
    let mut retry = imagebart();
    retry.args([
        "encode",
        &place.pipeline,
        "--set",
        "dataset.unit_rows=5",
        "--set",
        "image.flip=both",
        "--retry-rejects",
    ]);
    assert!(retry.output().unwrap().status.success());
    let to = place.path("small");
    assert!(place.succeed("shrink", &[("shrink.to", &to)]).contains("12 rows of 2 units"));
    assert!(place.tables("small").keys().any(|name| name.ends_with("!1.parquet")));
    let verified = imagebart().args(["verify", &to]).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn what_cannot_be_shrunk_is_refused_before_anything_is_written() {
    let place = Place::encoded(6);
    let to = place.path("small");
    assert!(place.refused(&[]).contains("shrink.to is missing"));
    assert!(place.refused(&[("shrink.to", &to), ("shrink.min_count", "100000")]).contains("lower shrink.min_count"));

    // Latents of another tokenizer, as those to count and as those to remap.
    let other = Place::new(2);
    let mut weights = imagebart::torch::weights::WeightsFile::open(other.path("tokenizer.safetensors")).unwrap();
    let metadata = weights.metadata().clone();
    let mut tensors = weights.load_all().unwrap().into_tensors();
    let codebook = tensors["quantize.embedding.weight"].f_mul_scalar(1.5).unwrap();
    tensors.insert("quantize.embedding.weight".to_owned(), codebook);
    let changed = other.path("other.safetensors");
    imagebart::torch::weights::write(std::path::Path::new(&changed), &tensors, &metadata).unwrap();
    other.succeed("encode", &[("tokenizer.weights", &changed)]);
    let count = other.path("out");
    assert!(place.refused(&[("shrink.to", &to), ("shrink.count", &count)]).contains("are of two tokenizers"));
    let said = place.refused(&[("shrink.to", &to), ("tokenizer.weights", &changed)]);
    assert!(said.contains("is not the tokenizer of"), "{said}");
    assert!(!PathBuf::from(&to).exists());

    // A file of another's in the tokenizer's place stays.
    let taken = place.path("tokenizer-shrunk.safetensors");
    tokenizer(std::path::Path::new(&taken));
    let before = fs::read(&taken).unwrap();
    assert!(place.refused(&[("shrink.to", &to)]).contains("pass --overwrite"));
    assert_eq!(before, fs::read(&taken).unwrap());
    place.succeed("shrink --overwrite", &[("shrink.to", &to)]);

    // Latents that are not finished.
    let unit = place.tables("out").into_keys().find(|name| name.starts_with("latents/")).unwrap();
    fs::remove_file(PathBuf::from(place.path("out")).join(unit)).unwrap();
    assert!(place.refused(&[("shrink.to", &to)]).contains("is not finished"));
}
