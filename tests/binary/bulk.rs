//! Captions in bulk on the trained chain that comes with the program: killed, shared and undisturbed runs write the same
//! bytes, and others read what came out.

use crate::common::{Kills, imagebart, skip, stderr, succeed, tables};
use crate::python;
use imagebart::jobs::demo::data::test_captions;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tempfile::{TempDir, tempdir};

/// Captions of the demo's test, drawn by the shipped model and scored by the rule reader.
struct Bulk {
    root: TempDir,
    file: PathBuf,
    captions: u64,
}

impl Bulk {
    fn new(captions: u64, unit_rows: u64) -> Bulk {
        let root = tempdir().unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shapes/model");
        // There are fewer different ones.
        let list = test_captions(0, captions);
        let list: String = list.iter().cycle().take(captions as usize).map(|caption| format!("{caption}\n")).collect();
        let prompts = root.path().join("captions.txt");
        fs::write(&prompts, list).unwrap();
        let text = format!(
            "[chain]\nmodel = \"{}\"\n[sample]\nguidance = 1.5\nprompts = \"{}\"\nunit_rows = {unit_rows}\n[choose]\n\
             scorer = \"shapes\"\n[run]\nthreads = 1\n",
            model.display(),
            prompts.display()
        );
        let file = root.path().join("pipeline.toml");
        fs::write(&file, text).unwrap();
        Bulk { root, file, captions }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The command that draws to `name`, as rank `rank` of `world`.
    fn command(&self, name: &str, (rank, world): (u32, u32)) -> Command {
        let mut command = imagebart();
        command.arg("sample").arg(&self.file).args(["--set", &format!("output.url={}", self.out(name).display())]);
        command.args(["--rank", &rank.to_string(), "--world", &world.to_string()]);
        command
    }

    /// Draws once undisturbed, once killed `kills` times, and once by three processes at a time.
    fn run(&self, kills: u32) -> BTreeMap<String, Vec<u8>> {
        let started = Instant::now();
        let output = self.command("once", (0, 1)).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let (time, undisturbed) = (started.elapsed(), tables(&self.out("once")));
        println!("{} captions in {time:.1?}", self.captions);

        let place = self.out("killed");
        Kills { count: kills, undisturbed: (time, &undisturbed), place: &place, completions: 100 }.inflict(|| {
            let mut command = self.command("killed", (0, 1));
            command.stderr(Stdio::null());
            command
        });
        assert!(self.command("killed", (0, 1)).status().unwrap().success());
        assert!(tables(&place) == undisturbed, "killed {kills} times");
        println!("killed {kills} times: {} files, the same bytes", undisturbed.len());

        let ranks: Vec<_> = (0..3).map(|rank| self.command("shared", (rank, 3)).spawn().unwrap()).collect();
        for mut rank in ranks {
            assert!(rank.wait().unwrap().success());
        }
        assert!(tables(&self.out("shared")) == undisturbed, "shared by three");
        println!("shared by three processes: the same bytes");
        undisturbed
    }

    /// What others read: `datasets`, DuckDB, and the webdataset library what is exported.
    fn is_read(&self) -> Result<(), String> {
        let (out, export) = (self.out("once"), self.out("export"));
        let script = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name);
        let python = python::environment("interop-venv", "python/requirements.txt")?;
        let read = |command: &mut Command| -> Value {
            let output = command.env("HF_HUB_OFFLINE", "1").output().unwrap();
            assert!(output.status.success(), "{}", python::complaint(&output));
            let text = String::from_utf8(output.stdout).unwrap();
            serde_json::from_str(text.lines().last().unwrap()).unwrap()
        };
        let found = read(Command::new(python).arg(script("read_samples.py")).arg(&out).arg("%red circle%"));
        let rows = crate::common::model::rows(&out);
        let expected: Vec<Value> =
            rows.iter().map(|row| serde_json::json!([row.key, row.prompt, [64, 64], "RGB"])).collect();
        assert_eq!((found["shown"].as_array().unwrap(), rows.len() as u64), (&expected, self.captions));
        let mut like: Vec<_> =
            rows.iter().filter(|row| row.prompt.as_ref().is_some_and(|prompt| prompt.contains("red circle"))).collect();
        like.sort_by(|a, b| b.score.unwrap().total_cmp(&a.score.unwrap()).then_with(|| a.key.cmp(&b.key)));
        let best: Vec<&str> = found["best"].as_array().unwrap().iter().map(|row| row[0].as_str().unwrap()).collect();
        assert_eq!(best, like.iter().take(10).map(|row| row.key.as_str()).collect::<Vec<_>>());
        println!("datasets shows {} images with captions; DuckDB's best {:?}", rows.len(), found["best"][0]);

        succeed(["export", out.to_str().unwrap(), "--format", "webdataset", "--to", export.to_str().unwrap()]);
        let python = python::environment("webdataset-venv", "python/webdataset-requirements.txt")?;
        let found = read(Command::new(python).arg(script("read_webdataset.py")).arg(&export));
        let expected: Vec<Value> = rows
            .iter()
            .filter(|row| row.accepted)
            .map(|row| serde_json::json!([row.key, row.prompt, row.image.bytes.len()]))
            .collect();
        assert_eq!(found.as_array().unwrap(), &expected);
        println!("webdataset reads {} exported images", expected.len());
        Ok(())
    }
}

fn bulk(captions: u64, unit_rows: u64, kills: u32) {
    let bulk = Bulk::new(captions, unit_rows);
    bulk.run(kills);
    succeed(["verify", bulk.out("shared").to_str().unwrap()]);
    if let Err(why) = bulk.is_read() {
        skip::skipped(format_args!("reading {captions} captions' samples: {why}"));
    }
}

#[test]
fn captions_in_bulk_are_the_same_however_they_are_drawn() {
    bulk(48, 8, 2);
}

/// The same with a thousand: `cargo test --release --test binary -- --ignored --nocapture a_thousand`, a few minutes.
#[test]
#[ignore = "takes minutes; the test beside it does the same with fewer captions"]
fn a_thousand_captions_are_the_same_however_they_are_drawn() {
    bulk(1000, 64, 5);
}
