//! `imagebart edit` as its user sees it.

use crate::common::model::support::{classes, unconditional};
use crate::common::model::{SIDE, change_scale, pipeline, rows};
use crate::common::{imagebart, picture, run, stderr, succeed, tables};
use imagebart::chain::ModelDirectory;
use imagebart::config::ConditionSection;
use imagebart::random::RowKey;
use imagebart::tables::SampleRow;
use imagebart::vqgan::TokenizerOptions;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

/// Five images of 32 × 32 pixels and masks for them, a chain, and a pipeline file.
pub struct Edits {
    pub root: TempDir,
    pub file: PathBuf,
}

/// A mask that is white where `known` says so.
pub fn mask(path: &Path, (width, height): (u32, u32), known: impl Fn(u32, u32) -> bool) {
    let white = |x, y| image::Luma([if known(x, y) { 255 } else { 0 }]);
    image::GrayImage::from_fn(width, height, white).save(path).unwrap();
}

impl Edits {
    pub fn new(condition: ConditionSection, more: &str) -> Edits {
        let root = tempdir().unwrap();
        let (images, masks) = (root.path().join("images"), root.path().join("masks"));
        fs::create_dir_all(&images).unwrap();
        fs::create_dir_all(&masks).unwrap();
        for index in 0..5 {
            picture(index, SIDE, SIDE).save(images.join(format!("{index}.png"))).unwrap();
            // The left half stays.
            mask(&masks.join(format!("{index}.bmp")), (SIDE, SIDE), |x, _| x < SIDE / 2);
        }
        let edit = format!("[edit]\nimages = \"{}\"\nmasks = \"{}\"\n{more}", images.display(), masks.display());
        let file = pipeline(root.path(), condition, &edit);
        Edits { root, file }
    }

    pub fn image(&self, name: &str) -> PathBuf {
        self.root.path().join("images").join(name)
    }

    pub fn mask(&self, name: &str) -> PathBuf {
        self.root.path().join("masks").join(name)
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Edits to the output `name`, and expects it to go well.
    #[track_caller]
    pub fn draw(&self, name: &str, settings: &[&str]) -> Vec<SampleRow> {
        let output = self.run(name, settings);
        assert!(output.status.success(), "{settings:?}: {}", stderr(&output));
        rows(&self.out(name))
    }

    pub fn run(&self, name: &str, settings: &[&str]) -> std::process::Output {
        let mut command = imagebart();
        command.arg("edit").arg(&self.file).args(["--set", &format!("output.url={}", self.out(name).display())]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.output().unwrap()
    }

    /// Expects exit code 2, one sentence with `expected` in it, and nothing written.
    #[track_caller]
    pub fn refused(&self, settings: &[&str], expected: &str) {
        let output = self.run("refused", settings);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{settings:?}: {text}");
        assert!(text.contains(expected), "{settings:?}: {text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("error")).count(), 1, "{text}");
        assert!(!self.out("refused").join("samples").exists(), "{settings:?}");
    }

    /// What the tokenizer makes of the images, in the order of their names.
    pub fn encoded(&self) -> Vec<Vec<u16>> {
        imagebart::torch::device::set_threads(NonZeroUsize::MIN);
        let model = ModelDirectory::open(self.root.path().join("model")).unwrap();
        let tokenizer = model.load_tokenizer(TokenizerOptions::default()).unwrap();
        let encode = |index: u64| {
            let pixels = picture(index, SIDE, SIDE).into_raw();
            let key = RowKey::new(0, "not used by a tokenizer without outliers", 0, 0);
            tokenizer.encode(&[&pixels], (SIDE, SIDE), &[key]).unwrap().swap_remove(0)
        };
        (0..5).map(encode).collect()
    }
}

#[test]
fn known_tokens_stay_and_rows_tell_their_parents() {
    let edits = Edits::new(unconditional(), "");
    let drawn = edits.draw("out", &[]);
    let encoded = edits.encoded();
    assert_eq!(drawn.len(), 5);
    let mut changed = 0;
    for (number, (row, image)) in drawn.iter().zip(&encoded).enumerate() {
        assert_eq!(
            (row.key.as_str(), row.parent.as_deref()),
            (&*format!("{number}-0"), Some(&*format!("{number}.png")))
        );
        for (place, (drawn, image)) in row.tokens.iter().zip(image).enumerate() {
            match place % 8 < 4 {
                true => assert_eq!(drawn, image, "row {number}, token {place} is known"),
                false => changed += usize::from(drawn != image),
            }
        }
    }
    assert!(changed > 100, "only {changed} of 160 free tokens were drawn anew");
    let verified = succeed(["verify", edits.out("out").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("samples: 2 of 2 units done, 5 rows, 0 rejects"));

    // The authors' way keeps them too, and draws others.
    let theirs = edits.draw("theirs", &["edit.compat=authors"]);
    for (ours, (theirs, image)) in drawn.iter().zip(theirs.iter().zip(&encoded)) {
        assert!((0..64).filter(|place| place % 8 < 4).all(|place| theirs.tokens[place] == image[place]));
        assert_ne!(ours.tokens, theirs.tokens);
    }
    // From scale 1 on, the image's own tokens are where the free ones start from.
    let near = edits.draw("near", &["edit.start=1"]);
    assert!(near.iter().zip(&drawn).all(|(near, far)| near.tokens != far.tokens));
    let again = edits.draw("again", &["edit.repeats=[2, 1]"]);
    assert!(again.iter().zip(&drawn).all(|(again, once)| again.tokens != once.tokens));
}

#[test]
fn everything_known_is_the_image_and_white_may_mean_edit() {
    let edits = Edits::new(unconditional(), "");
    for index in 0..5 {
        mask(&edits.mask(&format!("{index}.bmp")), (SIDE, SIDE), |_, _| true);
    }
    let tokens = |rows: Vec<SampleRow>| rows.into_iter().map(|row| row.tokens).collect::<Vec<_>>();
    let encoded = edits.encoded();
    assert_eq!(tokens(edits.draw("kept", &[])), encoded);
    assert_eq!(tokens(edits.draw("authors", &["edit.compat=authors"])), encoded);
    let edited = tokens(edits.draw("edited", &["edit.white=edit"]));
    assert!(edited.iter().zip(&encoded).all(|(edited, image)| edited != image));

    // One black pixel frees its token and no other.
    for index in 0..5 {
        mask(&edits.mask(&format!("{index}.bmp")), (SIDE, SIDE), |x, y| (x, y) != (10, 31));
    }
    let one = tokens(edits.draw("one", &[]));
    let differing =
        |(one, image): (&Vec<u16>, &Vec<u16>)| (0..64).filter(|&at| one[at] != image[at]).collect::<Vec<_>>();
    let differing: Vec<usize> = one.iter().zip(&encoded).flat_map(differing).collect();
    assert!(!differing.is_empty() && differing.iter().all(|&place| place == 7 * 8 + 2), "{differing:?}");
}

#[test]
fn edits_do_not_depend_on_batches_ranks_or_neighbours() {
    let edits = Edits::new(classes(3, true), "label = 2\n");
    let drawn = edits.draw("one", &[]);
    assert!(drawn.iter().all(|row| row.label == Some(2)));
    let other = edits.draw("batches", &["sample.batch_size=1", "sample.unit_rows=2"]);
    let tokens = |rows: &[SampleRow]| rows.iter().map(|row| row.tokens.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&drawn), tokens(&other));
    let url = format!("output.url={}", edits.out("two").display());
    for rank in ["0", "1"] {
        succeed(["edit", edits.file.to_str().unwrap(), "--set", &url, "--rank", rank, "--world", "2"]);
    }
    assert_eq!(tables(&edits.out("one")), tables(&edits.out("two")));
    // An image less: the others are edited as before.
    fs::remove_file(edits.image("1.png")).unwrap();
    let fewer = edits.draw("fewer", &[]);
    assert_eq!(tokens(&fewer)[1..], tokens(&drawn)[2..]);
    // The first output is of other images now.
    let output = edits.run("one", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("rows.count: 4 here, 5 recorded"), "{}", stderr(&output));
}

#[test]
fn what_cannot_be_edited_is_rejected_with_its_reason() {
    let edits = Edits::new(unconditional(), "");
    mask(&edits.mask("1.bmp"), (SIDE, SIDE + 1), |_, _| true);
    fs::write(edits.image("2.png"), b"<html>404</html>").unwrap();
    fs::write(edits.mask("3.bmp"), b"no mask").unwrap();
    let output = edits.run("out", &["run.max_reject_fraction=0.6"]);
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("2 rows of 2 images") && text.contains("3 rejects"), "{text}");
    assert!(text.contains("1 mask_size") && text.contains("2 not_an_image"), "{text}");
    let parents: Vec<Option<String>> = rows(&edits.out("out")).into_iter().map(|row| row.parent).collect();
    assert_eq!(parents, ["0.png", "4.png"].map(|name| Some(name.to_owned())));
    let verified = succeed(["verify", edits.out("out").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("2 rows, 3 rejects"));
    let strict = run(["edit", edits.file.to_str().unwrap(), "--set", "run.max_reject_fraction=0"]);
    assert_eq!(strict.status.code(), Some(3), "{}", stderr(&strict));
}

#[test]
fn what_the_user_got_wrong_is_one_sentence() {
    let edits = Edits::new(classes(3, false), "label = 0\n");
    edits.refused(&["edit.label=3"], "edit.label = 3 is out of range; the chain has 3 classes: 0 to 2");
    edits.refused(&["edit.start=3"], "scale 3 is not one of the chain's, 1 to 2");
    edits.refused(&["edit.start=0"], "scale 0");
    edits.refused(&["edit.compat=authors", "edit.start=1"], "compat = \"authors\" starts at the last scale");
    edits.refused(&["edit.repeats=[1, 2, 3]"], "edit.repeats lists 3 values");
    edits.refused(&["edit.repeats=0"], "repeats = 0 at scale 1");
    edits.refused(&["edit.white=black"], "is not one of keep, edit");
    edits.refused(&["edit.mode=outpaintt", "edit.masks="], "did you mean `outpaint`?");
    edits.refused(&["edit.mode=upper-half"], "edit.mode = \"upper-half\" takes no masks");
    edits.refused(&["edit.masks=", "edit.mode=outpaint"], "edit.mode = \"outpaint\" need each other");
    let margins = "edit.margins=[0, 0, 6, 0]";
    edits.refused(&["edit.masks=", "edit.mode=outpaint", margins], "6 is not a multiple of 4");
    let margins = "edit.margins=[0, 0, 8, 0]";
    edits
        .refused(&["edit.masks=", "edit.mode=outpaint", margins, "edit.start=1"], "margins have nothing to start from");
    edits.refused(&[margins], "need each other");
    edits.refused(&["edit.count=0"], "edit.count must be 1 or more");
    edits.refused(&["edit.blend=false", "edit.feather=2"], "edit.feather needs edit.blend = true");
    edits.refused(&["edit.prompt=a fox"], "edit.prompt is given, but the chain is not conditioned on text");
    edits.refused(&["edit.candidates=[1, 2, 3]"], "edit.candidates lists 3 values");
    edits.refused(&["edit.candidates=0"], "candidates = 0 at scale 1: it must be 1 to 4096");
    edits.refused(&["image.size=64"], "chain.grid = [8, 8], but images of 64x64 pixels have 16x16 tokens");
    edits.refused(&["image.flip=both"], "edit takes one crop of an image");
    edits.refused(&["edit.masks=nowhere"], "nowhere");
    edits.refused(&["sample.temperature=-1"], "sample.temperature = -1");
    fs::remove_file(edits.mask("3.bmp")).unwrap();
    edits.refused(&[], "1 of the 5 images");
    edits.refused(&[], "have no mask of their name");
    edits.refused(&[], "3.png");
    mask(&edits.mask("3.png"), (SIDE, SIDE), |_, _| true);
    fs::copy(edits.image("3.png"), edits.image("3.jpg")).unwrap();
    edits.refused(&[], "have one name");
}

#[test]
fn weights_that_are_not_numbers_stop_the_unit() {
    let edits = Edits::new(unconditional(), "");
    change_scale(&edits.root.path().join("model"), 2, |tensors| {
        let tensor = tensors.get_mut("head.weight").unwrap();
        *tensor = &*tensor * f64::NAN;
    });
    let output = edits.run("out", &[]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("scale 2 gave NaN or infinity for row(s) 0-0, 1-0, 2-0"), "{text}");
    assert!(tables(&edits.out("out")).keys().all(|name| name == "samples-manifest.json"));
}

#[test]
fn a_dry_run_touches_nothing() {
    let edits = Edits::new(unconditional(), "");
    let output = succeed(["edit", edits.file.to_str().unwrap(), "--dry-run"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for expected in ["parameters", "5 of 32 × 32", "white says keep", "starting at scale 2", "2 for this process"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!edits.root.path().join("out").exists());
}
