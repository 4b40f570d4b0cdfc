//! The data-set card beside samples: what it says, when it is written, and that an edited one is left alone.

use crate::common::model::prompted;
use crate::common::model::support::unconditional;
use crate::common::model::{SIDE, pipeline, rows};
use crate::common::{imagebart, run, stderr, succeed, tables};
use crate::sample::draw;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use imagebart::tables::SampleRow;
use std::fs;
use std::path::Path;
use tempfile::tempdir;

fn card(out: &Path) -> String {
    fs::read_to_string(out.join("README.md")).unwrap()
}

#[test]
fn a_finished_run_has_a_card() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let out = root.path().join("out");
    let prompts = root.path().join("words.csv");
    fs::write(&prompts, "prompt,count\na red circle,3\nsquare,2\n").unwrap();
    let prompts = format!("sample.prompts={}", prompts.display());
    let settings = [
        &prompts,
        "choose.scorer=likelihood",
        "choose.draw=4",
        "choose.rejected=keep",
        "card.title=Circles: \"red\" ones",
        "card.licence=cc-by-4.0",
        "card.about=Made for *tests*.",
    ];
    draw(&file, &out, &settings);
    let text = card(&out);
    let head = "---\npretty_name: \"Circles: \\\"red\\\" ones\"\nlicense: cc-by-4.0\ntask_categories:\n- text-to-image\n\
                size_categories:\n- n<1K\ntags:\n- synthetic\n- imagebart\nconfigs:\n- config_name: samples\n  \
                data_files: samples/**/*.parquet\n  default: true\n---\n\n# Circles: \"red\" ones\n\nMade for *tests*.\n";
    assert!(text.starts_with(head), "{text}");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("samples-manifest.json")).unwrap()).unwrap();
    let identity = &manifest["identity"];
    let digests =
        [&manifest["identity_sha256"], &identity["chain"], &identity["tokenizer"], &identity["rows"]["prompts"]];
    for digest in digests {
        assert!(text.contains(digest.as_str().unwrap()), "{digest}: {text}");
    }
    for expected in [
        "| drawn | 8 |\n| accepted by the run | 5 |\n| not accepted, in the table all the same | 3 |\n",
        "| kept by `imagebart filter` | not run |\n",
        "| model | `model` |",
        "| drawn of | prompts: `words.csv`, rows with SHA-256",
        "| seed | 7 |",
        "| chosen | by `likelihood`, of 4 candidates a row |",
        "| scale | temperature | top-k | top-p | guidance |\n|---|---|---|---|---|\n| 1 | 1 | 64 | 1 | 1 |\n| 2 |",
        "| `score` | How well the image fits its condition",
        "`imagebart sample <this folder> --key <key>`",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains(root.path().to_str().unwrap()), "what lies on this machine is nobody's business: {text}");

    // What is decided later is told, too; the output stands for the pipeline file of its run.
    let url = format!("output.url={}", out.display());
    succeed(["filter", &file, "--set", &url, "--set", "filter.per_prompt=1"]);
    let text = card(&out);
    assert!(text.contains("| kept by `imagebart filter` | 2 |\n| not kept: `per-prompt` | 3 |\n"), "{text}");
    assert!(text.contains("- config_name: decisions\n  data_files: decisions/*.parquet\n"), "{text}");
    let export = root.path().join("export");
    succeed(["export", out.to_str().unwrap(), "--format", "folder", "--to", export.to_str().unwrap()]);
    let text = card(&export);
    for expected in ["license: cc-by-4.0", "| in this data set | 2 |", "| drawn | 8 |", "`metadata.jsonl`", "# Circles"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    succeed(["verify", out.to_str().unwrap()]);
}

#[test]
fn a_card_is_written_when_all_is_there_and_never_over_an_edited_one() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    let (alone, shared) = (root.path().join("alone"), root.path().join("shared"));
    draw(file, &alone, &[]);
    let undisturbed = card(&alone);
    assert!(undisturbed.contains("license: unknown") && undisturbed.contains("Nobody has said"), "{undisturbed}");
    assert!(undisturbed.contains("task_categories:\n- unconditional-image-generation\n"), "{undisturbed}");

    // The last of several processes writes it, the others do not.
    let url = format!("output.url={}", shared.display());
    for rank in ["1", "2", "0"] {
        assert!(!shared.join("README.md").exists());
        let mut command = imagebart();
        command.args(["sample", file, "--set", &url, "--rank", rank, "--world", "3"]);
        assert!(command.status().unwrap().success());
    }
    assert_eq!(tables(&shared), tables(&alone));

    // One that is gone, or that another licence asks for, is written again; traces of a killed run go.
    fs::remove_file(alone.join("README.md")).unwrap();
    fs::write(alone.join("README.md#1"), "half a ca").unwrap();
    fs::write(alone.join("run-samples.json#1"), "{").unwrap();
    let log = draw(file, &alone, &[]);
    assert!(log.contains("nothing to do") && card(&alone) == undisturbed, "{log}");
    assert!(!alone.join("README.md#1").exists() && !alone.join("run-samples.json#1").exists());
    draw(file, &alone, &["card.licence=My own"]);
    assert!(card(&alone).contains("license: other\nlicense_name: \"My own\"\n"));

    // What the user wrote stays, and the run says so.
    let own = card(&alone).replace("# Synthetic", "# My synthetic");
    fs::write(alone.join("README.md"), &own).unwrap();
    let log = draw(file, &alone, &[]);
    assert!(log.contains("README.md was edited, or never was a card of imagebart, and is left as it is"), "{log}");
    assert_eq!(card(&alone), own);

    // A run that begins anew takes its card away first, but not the user's.
    let anew = |out: &Path, count: &str| {
        let url = format!("output.url={}", out.display());
        succeed(["sample", file, "--set", &url, "--count", count, "--rank", "0", "--world", "2", "--overwrite"]);
    };
    anew(&alone, "5");
    assert_eq!(card(&alone), own);
    anew(&shared, "5");
    assert!(!shared.join("README.md").exists());

    for (setting, expected) in
        [("card.licence=", "card.licence must be one line"), ("card.licens=x", "did you mean `licence`")]
    {
        let refused = run(["sample", file, "--set", setting]);
        assert!(refused.status.code() == Some(2) && stderr(&refused).contains(expected), "{}", stderr(&refused));
    }
}

/// The strips of a page: from noise on one image a scale, the last of them the image itself.
fn ways_are_those_of_their_images(page: &str, rows: &[SampleRow]) {
    let lines = page.split_once("id=\"way-0\">").unwrap().1.split_once("</script>").unwrap().0;
    let lines: Vec<&str> = lines.split('\n').collect();
    assert_eq!(lines.len(), rows.len());
    for (line, row) in lines.iter().zip(rows) {
        let file = STANDARD.decode(line.strip_prefix("jpeg;base64,").unwrap()).unwrap();
        let strip = image::load_from_memory(&file).unwrap().to_rgb8();
        let whole = image::load_from_memory(&row.image.bytes).unwrap().to_rgb8();
        // x_2, x_1, x_0, and two pixels between them.
        assert_eq!(strip.dimensions(), (3 * SIDE + 4, SIDE));
        let unlike = |place: u32| {
            let pixels = whole.enumerate_pixels().map(|(x, y, pixel)| {
                let other = strip.get_pixel(place * (SIDE + 2) + x, y);
                pixel.0.iter().zip(other.0).map(|(a, b)| u64::from(a.abs_diff(b))).sum::<u64>()
            });
            pixels.sum::<u64>() as f64 / f64::from(3 * SIDE * SIDE)
        };
        assert!(unlike(2) < 6.0 && unlike(0) > 2.0 * unlike(2), "{} {} {}", unlike(0), unlike(1), unlike(2));
    }
}

/// The command that a gallery's page gives for an image: the output alone, wherever it lies now.
#[test]
fn an_output_stands_for_the_pipeline_file_of_its_run() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let prompts = root.path().join("p.txt");
    fs::write(&prompts, "a red circle\nsquare\na blue\n").unwrap();
    let out = root.path().join("first");
    draw(&file, &out, &[&format!("sample.prompts={}", prompts.display()), "sample.count=2", "run.seed=3"]);
    let moved = root.path().join("moved here");
    fs::rename(&out, &moved).unwrap();
    let (moved_to, to) = (moved.to_str().unwrap(), root.path().join("again.png"));
    let again = succeed(["sample", moved_to, "--key", "000000001-1", "--to", to.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("the same tokens and bytes as recorded"));
    let row = rows(&moved).into_iter().find(|row| row.key == "000000001-1").unwrap();
    assert_eq!(fs::read(&to).unwrap(), row.image.bytes);

    let page = root.path().join("page.html");
    let shown = succeed(["gallery", moved_to, "--to", page.to_str().unwrap(), "--steps"]);
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(said.contains("6 samples") && !said.contains("is not shown"), "{said}");
    let page = fs::read_to_string(page).unwrap();
    ways_are_those_of_their_images(&page, &rows(&moved));
    let data = page.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!((&data["output"], &data["key"][3]), (&moved_to.into(), &"000000001-1".into()));

    let other = run(["sample", moved_to, "--key", "000000001-1", "--seed", "4"]);
    assert!(other.status.code() == Some(2) && stderr(&other).contains("leave out --set"), "{}", stderr(&other));
    let sheet = root.path().join("sheet.png");
    let sheet = run(["gallery", moved_to, "--to", sheet.to_str().unwrap(), "--steps"]);
    assert!(sheet.status.code() == Some(2) && stderr(&sheet).contains("--to FILE.html"), "{}", stderr(&sheet));
    let plain = run(["sample", moved_to]);
    assert_eq!(plain.status.code(), Some(2), "only one image of it is drawn again: {}", stderr(&plain));
    fs::remove_file(moved.join("run-samples.json")).unwrap();
    let unknown = run(["sample", moved_to, "--key", "000000001-1"]);
    assert!(
        unknown.status.code() == Some(2) && stderr(&unknown).contains("no run-samples.json"),
        "{}",
        stderr(&unknown)
    );
}
