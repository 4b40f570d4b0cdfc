//! Pictures larger than those the chain was trained for, from `sample` to the gallery.

use crate::common::model::support::{classes, unconditional};
use crate::common::model::{SIDE, pipeline, rows, tokens};
use crate::common::{imagebart, run, stderr, succeed, tables};
use crate::edit::Edits;
use crate::sample::{draw, refused};
use imagebart::imaging::{Limits, Rgb, decode};
use imagebart::tables::SampleRow;
use std::fs;
use std::path::Path;
use tempfile::tempdir;

/// Three times as wide as the chain's.
const WIDE: &str = "sample.size=[32, 96]";

fn picture(row: &SampleRow) -> Rgb {
    decode(&row.image.bytes, &Limits::default()).unwrap()
}

/// Standard output of a `--dry-run`.
fn plan(command: &str, file: &str, settings: &[&str]) -> String {
    let mut dry = imagebart();
    dry.args([command, file, "--dry-run"]).args(settings.iter().flat_map(|setting| ["--set", setting]));
    let output = dry.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_shipped_chain_draws_wide_pictures() {
    let root = tempdir().unwrap();
    let (file, out) = (root.path().join("wide.toml"), root.path().join("out"));
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shapes/model");
    let text = format!(
        "[chain]\nmodel = \"{}\"\n\n[sample]\nsize = [64, 192]\nguidance = 1.5\n\n[run]\nthreads = 1\n\n[output]\nurl = \"{}\"\n",
        model.display(),
        out.display()
    );
    fs::write(&file, text).unwrap();
    let prompts = root.path().join("prompts.txt");
    fs::write(&prompts, "a large red circle\na small blue square to the left of a large green triangle\n").unwrap();
    let (file, prompts) = (file.to_str().unwrap(), prompts.to_str().unwrap());
    succeed(["sample", file, "--prompts", prompts]);
    let drawn = rows(&out);
    assert_eq!(drawn.len(), 2);
    for row in &drawn {
        let picture = picture(row);
        assert_eq!((row.tokens.len(), picture.width, picture.height), (8 * 24, 192, 64));
        let colours: std::collections::BTreeSet<_> = picture.pixels.chunks(3).map(|pixel| pixel[0] / 32).collect();
        assert!(colours.len() > 2, "a picture shows something");
    }
    let verified = succeed(["verify", out.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("samples: 1 of 1 units done, 2 rows, 0 rejects"));
    for page in ["page.html", "page.png"] {
        let page = root.path().join(page);
        succeed(["gallery", out.to_str().unwrap(), "--to", page.to_str().unwrap()]);
        assert!(fs::metadata(page).unwrap().len() > 1000);
    }
    // Any of them once more.
    let again = root.path().join("again.png");
    let told = succeed(["sample", file, "--prompts", prompts, "--key", "000000001-0", "--to", again.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).into_owned();
    assert!(told.contains("the same tokens and bytes as recorded"), "{told}");
    assert_eq!(fs::read(again).unwrap(), drawn[1].image.bytes);
}

#[test]
fn large_grids_are_runs_like_others() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), classes(3, true), "guidance = 2.0\n");
    let file = file.to_str().unwrap();
    let out = |name: &str| root.path().join(name);
    draw(file, &out("wide"), &[WIDE]);
    let drawn = rows(&out("wide"));
    assert_eq!(drawn.len(), 10);
    assert!(drawn.iter().all(|row| row.tokens.len() == 8 * 24 && picture(row).width == 3 * SIDE));
    assert_eq!(
        drawn.iter().map(|row| row.label).collect::<Vec<_>>(),
        (0..10).map(|row| Some(row % 3)).collect::<Vec<_>>()
    );

    // Resumed, and batched otherwise: the same; under other windows, or of another size: another run.
    let before = tables(&out("wide"));
    let resumed = draw(file, &out("wide"), &[WIDE]);
    assert!(resumed.contains("nothing to do"), "{resumed}");
    assert_eq!(before, tables(&out("wide")));
    draw(file, &out("single"), &[WIDE, "sample.batch_size=1", "sample.unit_rows=3"]);
    assert_eq!(tokens(&out("single")), tokens(&out("wide")));
    let url = format!("output.url={}", out("wide").display());
    for (settings, expected) in [
        (&[WIDE, "sample.stride=2"][..], "large.stride: 2 here, 4 recorded"),
        (&["sample.size=[64, 96]"], "large.grid: [16,24] here, [8,24] recorded"),
        (&[], "grid: 8x8 here, 8x24 recorded"),
    ] {
        let mut command = imagebart();
        command.args(["sample", file, "--set", &url]).args(settings.iter().flat_map(|setting| ["--set", setting]));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{settings:?}");
        assert!(stderr(&output).contains(expected), "{settings:?}: {}", stderr(&output));
    }

    // The chain's own size is no other run than that without one.
    draw(file, &out("usual"), &[]);
    let own = draw(file, &out("usual"), &["sample.size=[32, 32]", "sample.stride=3"]);
    assert!(own.contains("nothing to do"), "{own}");

    let text = plan("sample", file, &[WIDE, "output.url=nowhere"]);
    assert!(text.contains("32 × 96 pixels, 8 × 24 tokens drawn in 1 × 5 windows at most 4 apart"), "{text}");
    assert!(text.contains("a second"), "{text}");
}

#[test]
fn large_pictures_are_chosen_filtered_and_exported() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    let out = root.path().join("out");
    let choose = ["choose.scorer=likelihood", "choose.draw=3", "choose.rejected=keep"];
    draw(file, &out, &[&choose[..], &[WIDE, "sample.count=2"]].concat());
    let drawn = rows(&out);
    for row in drawn.chunks(3) {
        let best = row.iter().max_by(|a, b| a.score.unwrap().total_cmp(&b.score.unwrap())).unwrap();
        assert!(best.accepted && best.rank == Some(0) && best.score < Some(0.0), "{:?}", best.score);
        assert_eq!(row.iter().filter(|row| row.accepted).count(), 1);
    }
    succeed(["filter", file, "--set", "filter.duplicate_tokens=0.1", "--set", "filter.duplicate_image=0"]);
    let exported = root.path().join("exported");
    succeed(["export", out.to_str().unwrap(), "--format", "folder", "--to", exported.to_str().unwrap()]);
    let exported: Vec<Vec<u8>> =
        tables(&exported).into_iter().filter(|(name, _)| name.ends_with(".png")).map(|(_, bytes)| bytes).collect();
    assert_eq!(exported.len(), 2);
    let picture = decode(&exported[0], &Limits::default()).unwrap();
    assert_eq!((picture.width, picture.height), (96, 32));
    succeed(["verify", out.to_str().unwrap()]);
}

#[test]
fn sizes_that_cannot_be_are_sentences() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let (file, root) = (file.to_str().unwrap(), root.path());
    for (settings, expected) in [
        (
            &["sample.size=[32, 30]"][..],
            "30 is not a multiple of 4, the pixels of a token's side; the nearest are 28 and 32",
        ),
        (
            &["sample.size=[28, 96]"],
            "the chain was trained for [32, 32], and only larger pictures than that can be drawn",
        ),
        (&[WIDE, "sample.stride=9"], "a stride of 9 tokens must be 1 to 8"),
        (&[WIDE, "sample.stride=0"], "a stride of 0 tokens must be 1 to 8"),
        (&["sample.stride=4"], "set sample.size too"),
        (
            &[WIDE, "tokenizer.decode_memory=1000"],
            "tokenizer.decode_memory = 1000 B is too little: the smallest tile takes",
        ),
    ] {
        refused(root, file, settings, 2, expected);
    }
}

/// The share of bytes that differ by more than `most`.
fn differing(a: &[SampleRow], b: &[SampleRow], most: u8) -> f64 {
    let bytes = |rows: &[SampleRow]| rows.iter().flat_map(|row| picture(row).pixels).collect::<Vec<u8>>();
    let (a, b) = (bytes(a), bytes(b));
    assert_eq!(a.len(), b.len());
    a.iter().zip(&b).filter(|(a, b)| a.abs_diff(**b) > most).count() as f64 / a.len() as f64
}

#[test]
fn pictures_too_large_for_the_memory_are_decoded_in_tiles() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    let out = |name: &str| root.path().join(name);
    let large = ["sample.size=[64, 96]", "sample.count=3"];
    // A tile of 14 × 14 tokens: its finest level has 56 × 56 places of 32 numbers, four times.
    let tiled = [&large[..], &["tokenizer.decode_memory=1605632"]].concat();
    draw(file, &out("whole"), &large);
    draw(file, &out("tiles"), &tiled);
    let (whole, tiles) = (rows(&out("whole")), rows(&out("tiles")));
    assert!(whole.iter().zip(&tiles).all(|(whole, tiles)| whole.tokens == tiles.tokens));
    // Its norms see a tile only, so that most bytes differ, but hardly.
    assert!(differing(&whole, &tiles, 24) < 0.4, "{}", differing(&whole, &tiles, 24));
    assert!(differing(&whole, &tiles, 0) > 0.0);
    succeed(["verify", out("tiles").to_str().unwrap()]);
    let url = format!("output.url={}", out("tiles").display());
    let other = run(["sample", file, "--set", large[0], "--set", large[1], "--set", &url]);
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("tiles.overlap: nothing here, 3 recorded"), "{}", stderr(&other));
    let text = plan("sample", file, &tiled);
    assert!(text.contains("decodes    in tiles of 10 × 14 tokens that overlap by 3"), "{text}");

    let edits = Edits::new(unconditional(), "");
    let canvas = ["edit.masks=", "edit.mode=outpaint", "edit.margins=[0, 0, 128, 0]"];
    let whole = edits.draw("whole", &canvas);
    let tiled = [&canvas[..], &["tokenizer.decode_memory=1605632"]].concat();
    let tiles = edits.draw("tiles", &tiled);
    assert!(whole.iter().zip(&tiles).all(|(whole, tiles)| whole.tokens == tiles.tokens));
    assert!(differing(&whole, &tiles, 24) < 0.4 && differing(&whole, &tiles, 0) > 0.0);
    let text = plan("edit", edits.file.to_str().unwrap(), &tiled);
    assert!(text.contains("decodes    in tiles"), "{text}");
}
