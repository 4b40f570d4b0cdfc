//! `imagebart edit` of the rows of a Parquet table, and of many images over one.

use crate::common::model::support::{classes, unconditional};
use crate::common::model::{SIDE, pipeline, rows};
use crate::common::{Kills, imagebart, picture, png, png_of, stderr, succeed, tables};
use crate::edit::{Edits, mask};
use arrow::array::{
    ArrayRef, BinaryArray, Float32Array, Int64Array, LargeBinaryArray, StringArray, StructArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field};
use arrow::record_batch::RecordBatch;
use imagebart::tables::SampleRow;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Instant;
use tempfile::{TempDir, tempdir};

/// The mask of [`Edits`]: the left half stays.
fn left() -> Vec<u8> {
    png_of(&image::GrayImage::from_fn(SIDE, SIDE, |x, _| image::Luma([if x < SIDE / 2 { 255 } else { 0 }])))
}

fn bytes(files: &[Option<Vec<u8>>]) -> BinaryArray {
    files.iter().map(Option::as_deref).collect()
}

/// Files as `datasets` has them: structs of bytes and paths.
fn structs(files: &[Option<Vec<u8>>]) -> ArrayRef {
    let paths: StringArray = files.iter().map(|_| None::<&str>).collect();
    Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), Arc::new(bytes(files)) as ArrayRef),
        (Arc::new(Field::new("path", DataType::Utf8, true)), Arc::new(paths) as ArrayRef),
    ]))
}

fn texts<const N: usize>(values: [Option<&str>; N]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(3)).build();
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// The pictures of [`Edits`].
fn pictures() -> Vec<Option<Vec<u8>>> {
    (0..5).map(|index| Some(png(index, SIDE, SIDE))).collect()
}

/// A chain, and a table to edit with it.
struct Table {
    root: TempDir,
    file: PathBuf,
}

impl Table {
    fn new(condition: imagebart::config::ConditionSection) -> Table {
        let root = tempdir().unwrap();
        let images = root.path().join("pairs.parquet");
        let file = pipeline(root.path(), condition, &format!("[edit]\nimages = \"{}\"\n", images.display()));
        Table { root, file }
    }

    fn write(&self, columns: Vec<(&str, ArrayRef)>) {
        write(&self.root.path().join("pairs.parquet"), columns);
    }

    fn out(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn run(&self, name: &str, settings: &[&str]) -> Output {
        let mut command = imagebart();
        command.arg("edit").arg(&self.file).args(["--set", &format!("output.url={}", self.out(name).display())]);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        command.output().unwrap()
    }

    #[track_caller]
    fn draw(&self, name: &str, settings: &[&str]) -> Vec<SampleRow> {
        let output = self.run(name, settings);
        assert!(output.status.success(), "{settings:?}: {}", stderr(&output));
        succeed(["verify", self.out(name).to_str().unwrap()]);
        rows(&self.out(name))
    }

    #[track_caller]
    fn refused(&self, settings: &[&str], expected: &str) {
        let output = self.run("refused", settings);
        let text = stderr(&output);
        assert!(output.status.code() == Some(2) && text.contains(expected), "{settings:?}: {text}");
        assert!(!self.out("refused").exists(), "{settings:?}");
    }
}

fn keys(rows: &[SampleRow]) -> Vec<&str> {
    rows.iter().map(|row| row.key.as_str()).collect()
}

#[test]
fn a_table_is_edited_as_two_folders_are() {
    let folders = Edits::new(unconditional(), "");
    let of_folders = folders.draw("out", &["edit.count=2"]);
    let table = Table::new(unconditional());
    let names = texts(["0", "1", "2", "3", "4"].map(Some));
    let masks: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values((0..5).map(|_| left())));
    table.write(vec![("key", names.clone()), ("mask", masks), ("image", structs(&pictures()))]);
    let of_table = table.draw("out", &["edit.count=2"]);
    assert_eq!(of_table.len(), 10);
    for (ours, theirs) in of_table.iter().zip(&of_folders) {
        assert_eq!((&ours.key, ours.seed, &ours.tokens), (&theirs.key, theirs.seed, &theirs.tokens));
        assert_eq!(ours.image, theirs.image);
        assert_eq!(ours.parent.as_ref().map(|parent| format!("{parent}.png")), theirs.parent);
    }
    // The other way round, and without keys: rows are named by their numbers.
    table.write(vec![("image", Arc::new(bytes(&pictures()))), ("mask", structs(&vec![Some(left()); 5]))]);
    let numbered = table.draw("numbered", &[]);
    let expected: Vec<String> = (0..5).map(|number| format!("{number:09}-0")).collect();
    assert_eq!(keys(&numbered), expected);
    assert_eq!(numbered[3].parent.as_deref(), Some("000000003"));
    assert!(numbered.iter().zip(of_table.chunks(2)).all(|(one, other)| one.tokens[0] == other[0].tokens[0]));
    // The table is another now.
    let output = table.run("out", &["edit.count=2"]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("rows.prompts"), "{}", stderr(&output));
}

#[test]
fn rows_have_counts_seeds_classes_and_settings_of_their_own() {
    let table = Table::new(classes(3, true));
    let names = table.root.path().join("names.txt");
    fs::write(&names, "red fox\nowl\nnewt\n").unwrap();
    let named = format!("sample.class_names={}", names.display());
    let columns = || {
        vec![
            ("image", structs(&pictures())),
            ("mask", Arc::new(bytes(&vec![Some(left()); 5])) as ArrayRef),
            ("key", texts(["a", "b", "c", "d", "e"].map(Some))),
            ("label", texts([Some("owl"), None, Some("2"), Some("red fox"), None])),
            ("count", Arc::new(Int64Array::from(vec![None, Some(3), None, None, None])) as ArrayRef),
            ("seed", Arc::new(UInt64Array::from(vec![None, Some(40), None, None, Some(7)])) as ArrayRef),
            ("temperature", Arc::new(Float32Array::from(vec![Some(0.5), None, None, None, None])) as ArrayRef),
        ]
    };
    table.write(columns());
    let drawn = table.draw("out", &[&named, "edit.label=1", "edit.count=2"]);
    assert_eq!(keys(&drawn), ["a-0", "a-1", "b-0", "b-1", "b-2", "c-0", "c-1", "d-0", "d-1", "e-0", "e-1"]);
    let labels: Vec<i32> = drawn.iter().map(|row| row.label.unwrap()).collect();
    assert_eq!(labels, [1, 1, 1, 1, 1, 2, 2, 0, 0, 1, 1]);
    assert_eq!(drawn[2..5].iter().map(|row| row.seed).collect::<Vec<_>>(), [40, 41, 42]);
    assert_eq!(drawn[9..].iter().map(|row| row.seed).collect::<Vec<_>>(), [7, 8]);
    assert_eq!((&drawn[0].settings.temperature, &drawn[2].settings.temperature), (&vec![0.5; 2], &vec![1.0; 2]));
    let parents: Vec<&str> = drawn.iter().map(|row| row.parent.as_deref().unwrap()).collect();
    assert_eq!(parents, ["a", "a", "b", "b", "b", "c", "c", "d", "d", "e", "e"]);
    for (one, other) in drawn.iter().zip(&drawn[1..]).filter(|(one, other)| one.parent == other.parent) {
        assert_ne!(one.tokens, other.tokens);
        assert!((0..64).filter(|place| place % 8 < 4).all(|place| one.tokens[place] == other.tokens[place]));
    }

    // A row that says nothing takes the null class; where that was not learned, it must say.
    let null = table.draw("null", &[&named]);
    assert_eq!(null.iter().map(|row| row.label).collect::<Vec<_>>()[1..4], [None; 3]);
    table.refused(&[], "row 1: its class \"owl\" is not a number from 0 to 2; for names");
    let mut wrong = columns();
    wrong[3].1 = texts([Some("owk"), None, None, None, None]);
    table.write(wrong);
    table.refused(&[&named], "row 1: its class \"owk\" is not one of the 3");
    table.refused(&[&named], "did you mean \"owl\"?");
    let mut twice = columns();
    twice[2].1 = texts(["a", "b", "c", "a", "e"].map(Some));
    table.write(twice);
    table.refused(&[&named], "row 4: its key \"a\" is that of row 1, too");
    let mut shared = columns();
    shared[5].1 = Arc::new(UInt64Array::from(vec![None, Some(5), None, Some(6), None]));
    table.write(shared);
    table.refused(&[&named], "the seed 6 is that of an image of row 2, too");
    let mut unknown = columns();
    unknown[6].0 = "temprature";
    table.write(unknown);
    table.refused(&[&named], "pairs.parquet: unknown column `temprature`: did you mean `temperature`?");
    let mut masked = columns();
    masked[1].0 = "masc";
    table.write(masked);
    table.refused(&[&named], "pairs.parquet: it has no column `mask` among image, masc, key");
    table.refused(&[&named], "is it `masc`?");
    let mut maskless = columns();
    maskless.remove(1);
    table.write(maskless);
    table.refused(&[&named], "it has no column `mask` among image, key, label");
    table.refused(&["edit.masks=somewhere"], "edit.images is a table, whose column `mask` has them");
}

#[test]
fn rows_that_cannot_be_edited_are_rejected_one_by_one() {
    let table = Table::new(unconditional());
    let mut images = pictures();
    images[0] = None;
    images[1] = Some(b"no image".to_vec());
    let mut masks = vec![Some(left()); 5];
    masks[2] = None;
    masks[3] = Some(png(0, SIDE + 1, SIDE));
    table.write(vec![("image", structs(&images)), ("mask", Arc::new(bytes(&masks)))]);
    let output = table.run("out", &["run.max_reject_fraction=0.9", "edit.count=2"]);
    let text = stderr(&output);
    assert!(output.status.success() && text.contains("8 rejects"), "{text}");
    assert!(
        text.contains("2 mask_size") && text.contains("4 missing_field") && text.contains("2 not_an_image"),
        "{text}"
    );
    assert_eq!(keys(&rows(&table.out("out"))), ["000000004-0", "000000004-1"]);
    let verified = succeed(["verify", table.out("out").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("2 rows, 8 rejects"));
    // Without masks their faults do not count.
    let text = stderr(&table.run("half", &["run.max_reject_fraction=0.9", "edit.mode=lower-half"]));
    assert!(text.contains("3 rows of 3 images") && text.contains("2 rejects"), "{text}");
}

#[test]
fn variants_do_not_depend_on_batches_ranks_or_interruptions() {
    let edits = Edits::new(unconditional(), "count = 3\n");
    let drawn = edits.draw("one", &[]);
    assert_eq!(keys(&drawn)[..4], ["0-0", "0-1", "0-2", "1-0"]);
    let other = edits.draw("batches", &["sample.batch_size=1", "sample.unit_rows=2"]);
    let tokens = |rows: &[SampleRow]| rows.iter().map(|row| row.tokens.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&drawn), tokens(&other));
    let url = format!("output.url={}", edits.out("two").display());
    for rank in ["1", "2", "0"] {
        succeed(["edit", edits.file.to_str().unwrap(), "--set", &url, "--rank", rank, "--world", "3"]);
    }
    let one = tables(&edits.out("one"));
    assert_eq!(one, tables(&edits.out("two")));
    // A unit in the middle alone.
    fs::remove_file(edits.out("two").join("samples/rows@000000008-000000012.parquet")).unwrap();
    edits.draw("two", &[]);
    assert_eq!(one, tables(&edits.out("two")));
}

/// Killed at any moment and run again, `edit` writes the bytes of an undisturbed run.
#[test]
fn kills_leave_no_trace() {
    const KILLS: u32 = 6;
    let table = Table::new(unconditional());
    let mut images = pictures();
    images[2] = Some(b"no image".to_vec());
    table.write(vec![("image", structs(&images)), ("mask", Arc::new(bytes(&vec![Some(left()); 5])))]);
    let settings = ["edit.count=3", "sample.unit_rows=2", "sample.batch_size=2", "run.max_reject_fraction=0.5"];
    let start = Instant::now();
    table.draw("undisturbed", &settings);
    let (undisturbed_time, undisturbed) = (start.elapsed(), tables(&table.out("undisturbed")));

    let disturbed = table.out("disturbed");
    let url = format!("output.url={}", disturbed.display());
    let again = || {
        let mut command = imagebart();
        command.arg("edit").arg(&table.file).args(["--set", &url]).stderr(Stdio::null());
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        command
    };
    let undisturbed = (undisturbed_time, &undisturbed);
    Kills { count: KILLS, undisturbed, place: &disturbed, completions: 60 }.inflict(again);
    table.draw("disturbed", &settings);
    assert_eq!(*undisturbed.1, tables(&disturbed));
}

/// The best of several edits of an image are kept.
#[test]
fn edits_are_chosen_among() {
    let edits = Edits::new(unconditional(), "");
    mask(&edits.mask("3.bmp"), (SIDE, SIDE + 1), |_, _| true);
    let scorer = edits.root.path().join("scorer.pt");
    let images = tch::Tensor::rand([2, 3, 32, 32], (tch::Kind::Float, tch::Device::Cpu));
    let mut mean = |inputs: &[tch::Tensor]| vec![inputs[0].mean_dim([1i64, 2, 3].as_slice(), false, tch::Kind::Float)];
    tch::CModule::create_by_tracing("Scorer", "forward", &[images], &mut mean).unwrap().save(&scorer).unwrap();
    let scorer = format!("choose.scorer={}", scorer.display());
    let settings = [scorer.as_str(), "choose.draw=3", "run.max_reject_fraction=0.5"];
    let best = edits.draw("best", &settings);
    let all = edits.draw("all", &[&settings[..], &["choose.rejected=keep"]].concat());
    assert_eq!((best.len(), all.len()), (4, 12));
    for (best, all) in best.iter().zip(all.chunks(3)) {
        let highest = all.iter().map(|row| row.score.unwrap()).fold(f32::MIN, f32::max);
        assert_eq!((best.score, best.rank, best.accepted), (Some(highest), Some(0), true));
        // What is scored is what is written: the known half is the image's own.
        let pixels = image::load_from_memory(&best.image.bytes).unwrap().to_rgb8();
        let index = best.parent.as_ref().unwrap().trim_end_matches(".png").parse().unwrap();
        assert_eq!(pixels.get_pixel(3, 3), picture(index, SIDE, SIDE).get_pixel(3, 3));
        let brightness = pixels.as_raw().iter().map(|&value| f64::from(value) / 255.0).sum::<f64>() as f32
            / pixels.as_raw().len() as f32;
        assert!((brightness - highest).abs() < 1e-4, "{brightness} {highest}");
    }
}

/// Without a module: by how likely the chain takes the finished images; each pass keeps one of several candidates.
#[test]
fn edits_are_chosen_by_likelihood_from_several_candidates() {
    let edits = Edits::new(unconditional(), "");
    mask(&edits.mask("3.bmp"), (SIDE, SIDE + 1), |_, _| true);
    let settings = ["choose.scorer=likelihood", "choose.draw=3", "run.max_reject_fraction=0.5"];
    let best = edits.draw("best", &settings);
    let all = edits.draw("all", &[&settings[..], &["choose.rejected=keep"]].concat());
    assert_eq!((best.len(), all.len()), (4, 12));
    for (best, all) in best.iter().zip(all.chunks(3)) {
        let highest = all.iter().map(|row| row.score.unwrap()).fold(f32::MIN, f32::max);
        assert!(highest < 0.0, "a log-likelihood of many tokens");
        assert_eq!((best.score, best.rank, best.accepted), (Some(highest), Some(0), true));
        assert_eq!(&best.tokens, &all.iter().find(|row| row.score == best.score).unwrap().tokens);
    }
    let several = edits.draw("several", &[&settings[..], &["edit.candidates=[1, 5]"]].concat());
    assert_ne!(several[0].tokens, best[0].tokens);
    let identity = fs::read_to_string(edits.root.path().join("several/samples-manifest.json")).unwrap();
    assert!(identity.contains("candidates"), "{identity}");
}
