//! `imagebart sample` as its user sees it: what it writes, resumes, refuses and says.

use crate::common::model::support::{classes, unconditional};
use crate::common::model::{CODES, SIDE, TOKENS, change_scale, load, pipeline, prompted, rows, tokens};
use crate::common::{Kills, imagebart, run, stderr, succeed, tables, without_card};
use imagebart::chain::ModelDirectory;
use imagebart::config::ConditionSection;
use imagebart::vqgan::TokenizerOptions;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;
use tempfile::tempdir;

/// Draws with `settings` of `--set` to `out`, and expects it to go well.
#[track_caller]
pub fn draw(file: &str, out: &Path, settings: &[&str]) -> String {
    let url = format!("output.url={}", out.display());
    let mut command = imagebart();
    command.args(["sample", file, "--set", &url]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{settings:?}: {}", stderr(&output));
    stderr(&output)
}

/// The pixels of an encoded image.
fn pixels(bytes: &[u8]) -> image::RgbImage {
    assert_eq!(image::guess_format(bytes).unwrap(), image::ImageFormat::Png);
    image::load_from_memory(bytes).unwrap().to_rgb8()
}

#[test]
fn rows_hold_what_was_drawn() {
    let root = tempdir().unwrap();
    let more = "temperature = [0.5, 1]\ntop_k = 9\ntop_p = [0.5, 0.75]\n";
    let file = pipeline(root.path(), unconditional(), more);
    let output = succeed(["sample", file.to_str().unwrap()]);
    assert!(stderr(&output).contains("10 rows of 10 images in 3 units"), "{}", stderr(&output));
    let out = root.path().join("out");
    let files: Vec<String> = tables(&out).into_keys().filter(|name| name.starts_with("samples/")).collect();
    assert_eq!(files.len(), 3, "{files:?}");

    imagebart::torch::device::set_threads(NonZeroUsize::MIN);
    let model = ModelDirectory::open(root.path().join("model")).unwrap();
    let tokenizer = model.load_tokenizer(TokenizerOptions::default()).unwrap();
    let rows = rows(&out);
    assert_eq!(rows.len(), 10);
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row.key, format!("{number:09}"));
        assert_eq!((row.seed, row.label, row.accepted), (7, None, true));
        assert_eq!((&row.prompt, &row.parent, row.score, row.rank), (&None, &None, None, None));
        assert_eq!(row.tokens.len(), TOKENS);
        assert!(row.tokens.iter().all(|&token| u32::from(token) < CODES), "{:?}", row.tokens);
        assert_eq!(row.image.path, format!("{number:09}.png"));
        let image = pixels(&row.image.bytes);
        assert_eq!(image.dimensions(), (SIDE, SIDE));
        let decoded = tokenizer.decode(&[&row.tokens], (8, 8)).unwrap();
        assert_eq!(image.as_raw(), &decoded[0].pixels, "row {number}");
        let settings = &row.settings;
        assert_eq!((&settings.temperature[..], &settings.top_k[..]), (&[0.5, 1.0][..], &[9, 9][..]));
        assert_eq!((&settings.top_p[..], &settings.guidance[..]), (&[0.5, 0.75][..], &[1.0, 1.0][..]));
    }
    assert!(rows.windows(2).all(|pair| pair[0].tokens != pair[1].tokens), "rows are drawn on their own");
    let facts: serde_json::Value = serde_json::from_slice(&fs::read(out.join("run-samples.json")).unwrap()).unwrap();
    assert_eq!((&facts["command"], &facts["rows"]), (&"sample".into(), &10.into()));
    let verified = succeed(["verify", out.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("OK"));
}

#[test]
fn images_are_written_as_asked_and_the_format_is_part_of_the_identity() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    let out = |name: &str| root.path().join(name);
    draw(file, &out("png"), &["sample.count=4"]);
    draw(file, &out("webp"), &["sample.count=4", "sample.image=webp"]);
    draw(file, &out("jpeg"), &["sample.count=4", "sample.image=jpeg", "sample.quality=95"]);
    let [png, webp, jpeg] = ["png", "webp", "jpeg"].map(|name| rows(&out(name)));
    for ((png, webp), jpeg) in png.iter().zip(&webp).zip(&jpeg) {
        let pixels = |row: &imagebart::tables::SampleRow| image::load_from_memory(&row.image.bytes).unwrap().to_rgb8();
        assert_eq!(pixels(png), pixels(webp));
        assert_eq!((&png.tokens, &png.tokens), (&webp.tokens, &jpeg.tokens));
        assert!(webp.image.path.ends_with(".webp") && jpeg.image.path.ends_with(".jpg"));
        assert_eq!(image::guess_format(&jpeg.image.bytes).unwrap(), image::ImageFormat::Jpeg);
    }
    succeed(["verify", out("webp").to_str().unwrap()]);
    let url = format!("output.url={}", out("jpeg").display());
    let other = run(["sample", file, "--set", &url, "--set", "sample.count=4", "--set", "sample.image=jpeg"]);
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("image: \"jpeg-90\" here, \"jpeg-95\" recorded"), "{}", stderr(&other));
}

#[test]
fn classes_are_taken_in_turn() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), classes(3, true), "guidance = 2.5\n");
    let file = file.to_str().unwrap();
    let out = |name: &str| root.path().join(name);
    let labels = |name: &str| rows(&out(name)).iter().map(|row| row.label).collect::<Vec<_>>();
    draw(file, &out("all"), &[]);
    assert_eq!(labels("all"), (0..10).map(|row| Some(row % 3)).collect::<Vec<_>>());
    assert!(rows(&out("all")).iter().all(|row| row.settings.guidance == [2.5, 2.5]));
    draw(file, &out("two"), &["sample.labels=[2, 0]", "sample.count=5"]);
    assert_eq!(labels("two"), [2, 0, 2, 0, 2].map(Some));
    draw(file, &out("none"), &["sample.labels=none", "sample.count=2"]);
    assert_eq!(labels("none"), [None, None]);
    // Row 0 is of class 0, 2 and none: the class must matter, and nothing else differs.
    let first = |name: &str| tokens(&out(name)).swap_remove(0);
    assert_ne!(first("all"), first("two"));
    assert_ne!(first("all"), first("none"));
}

#[test]
fn prompts_are_drawn_in_their_order() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let long = "red red red red red red red red";
    let texts = ["a red", "red", long, "a red", "square"];
    let list = root.path().join("prompts.txt");
    fs::write(&list, texts.join("\n")).unwrap();
    let (out, list) = (root.path().join("out"), list.to_str().unwrap());
    let output = succeed(["sample", &file, "--set", "sample.count=2", "--prompts", list]);
    assert!(stderr(&output).contains("1 of 5 prompts are longer"), "{}", stderr(&output));
    assert!(stderr(&output).contains("; 1 prompts cut"), "{}", stderr(&output));
    let drawn = rows(&out);
    let expected: Vec<Option<String>> =
        texts.iter().flat_map(|text| [Some((*text).to_owned()), Some((*text).to_owned())]).collect();
    assert_eq!(drawn.iter().map(|row| row.prompt.clone()).collect::<Vec<_>>(), expected);
    assert!(drawn.iter().all(|row| row.label.is_none()));
    let keys: Vec<String> = (0..10).map(|draw| format!("{:09}-{}", draw / 2, draw % 2)).collect();
    assert_eq!(drawn.iter().map(|row| row.key.clone()).collect::<Vec<_>>(), keys);
    let facts: serde_json::Value = serde_json::from_slice(&fs::read(out.join("run-samples.json")).unwrap()).unwrap();
    assert_eq!(facts["prompts_cut"], 1);
    succeed(["verify", out.to_str().unwrap()]);

    // The same texts as JSON are the same run; other texts are another one.
    let json = root.path().join("prompts.jsonl");
    let lines: Vec<String> = texts.iter().map(|text| serde_json::json!({ "prompt": text }).to_string()).collect();
    fs::write(&json, lines.join("\n")).unwrap();
    let before = without_card(tables(&out));
    let again = succeed(["sample", &file, "--set", "sample.count=2", "--prompts", json.to_str().unwrap()]);
    assert!(stderr(&again).contains("nothing to do"), "{}", stderr(&again));
    fs::write(&json, lines[1..].join("\n")).unwrap();
    let other = run(["sample", &file, "--set", "sample.count=2", "--prompts", json.to_str().unwrap()]);
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("rows.prompts"), "{}", stderr(&other));
    assert_eq!(before, without_card(tables(&out)));

    // The text must matter: row 1 drawn of another text, nothing else changed.
    fs::write(&json, lines.join("\n").replace("\"a red\"", "\"a blue\"")).unwrap();
    let elsewhere = root.path().join("elsewhere");
    let url = format!("output.url={}", elsewhere.display());
    succeed(["sample", &file, "--set", "sample.count=2", "--set", &url, "--prompts", json.to_str().unwrap()]);
    let changed = tokens(&elsewhere);
    assert_ne!(changed[1], drawn[1].tokens);
    assert_eq!(changed[2], drawn[2].tokens);

    let plan = succeed(["sample", &file, "--set", "sample.count=2", "--prompts", list, "--dry-run"]);
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.contains("5 from") && plan.contains("1 of them cut") && plan.contains("10 in 3 units"), "{plan}");
}

#[test]
fn prompts_that_cannot_be_are_sentences() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let list = root.path().join("prompts.txt");
    let setting = format!("sample.prompts={}", list.display());
    refused(root.path(), &file, &[&setting], 2, "prompts.txt");
    for (text, expected) in [("", "there are no rows in it"), ("red\n\nred", "line 2: its prompt is empty")] {
        fs::write(&list, text).unwrap();
        refused(root.path(), &file, &[&setting], 2, expected);
    }
    fs::write(&list, "red").unwrap();
    refused(root.path(), &file, &[&setting, "sample.labels=none"], 2, "exclude each other");
    let other = tempdir().unwrap();
    let plain = pipeline(other.path(), unconditional(), "");
    refused(other.path(), plain.to_str().unwrap(), &[&setting], 2, "not conditioned on text");
}

#[test]
fn a_rows_tokens_do_not_depend_on_units_or_batches() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    let mut drawn = Vec::new();
    for (name, settings) in [
        ("a", ["sample.unit_rows=4", "sample.batch_size=3", "sample.count=10"]),
        ("b", ["sample.unit_rows=100", "sample.batch_size=7", "sample.count=11"]),
        ("c", ["sample.unit_rows=3", "sample.batch_size=1", "sample.count=10"]),
    ] {
        let out = root.path().join(name);
        draw(file, &out, &settings);
        drawn.push(tokens(&out));
    }
    assert_eq!(drawn[0], drawn[1][..10]);
    assert_eq!(drawn[0], drawn[2]);
}

#[test]
fn ranks_together_write_what_one_process_writes() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    draw(file, &root.path().join("one"), &[]);
    let again = draw(file, &root.path().join("one"), &[]);
    assert!(again.contains("nothing to do: all 3 units are done"), "{again}");
    draw(file, &root.path().join("same"), &["sample.batch_size=3"]);
    let two = root.path().join("two");
    let url = format!("output.url={}", two.display());
    let children = ["0", "1"]
        .map(|rank| imagebart().args(["sample", file, "--set", &url, "--rank", rank, "--world", "2"]).spawn().unwrap());
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let one = tables(&root.path().join("one"));
    assert_eq!(one, tables(&root.path().join("same")));
    assert_eq!(one, tables(&two));
    succeed(["verify", two.to_str().unwrap()]);
}

#[test]
fn another_identity_is_refused_with_both_sides() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    succeed(["sample", file]);
    let out = root.path().join("out");
    let before = tables(&out);
    for (setting, expected) in [
        ("sample.batch_size=5", "batch_size: 5 here, 3 recorded"),
        ("sample.temperature=0.5", "settings.temperature: [0.5,0.5] here, [1.0,1.0] recorded"),
        ("sample.count=11", "rows.count: 11 here, 10 recorded"),
        ("run.seed=8", "seed: 8 here, 7 recorded"),
    ] {
        let output = run(["sample", file, "--set", setting]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{setting}: {text}");
        assert!(text.contains(expected), "{setting}: {text}");
        assert_eq!(before, tables(&out));
    }
    // What is left on auto takes the recorded value.
    succeed(["sample", file, "--set", "sample.batch_size=auto", "--set", "tokenizer.batch_size=auto"]);
    assert_eq!(before, tables(&out));
    succeed(["sample", file, "--set", "sample.temperature=0.5", "--overwrite"]);
    assert_ne!(before, tables(&out));
    assert!(rows(&out).iter().all(|row| row.settings.temperature == [0.5, 0.5]));
    succeed(["verify", out.to_str().unwrap()]);
}

#[test]
fn a_dry_run_touches_nothing() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    let output = succeed(["sample", file, "--dry-run"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let config = crate::common::model::chain(unconditional());
    let counts = config.networks.iter().map(|network| format!("{} parameters", network.network.parameters()));
    for expected in
        ["2 scales, 8 × 8 tokens of 64", "10 in 3 units of 4", "memory"].map(str::to_owned).into_iter().chain(counts)
    {
        assert!(text.contains(&expected), "{expected}: {text}");
    }
    assert!(!root.path().join("out").exists());

    // The pipeline file alone tells as much of the networks.
    let described = "[chain]\nmodel = \"absent\"\ngrid = [16, 16]\ncodebook_size = 548\n\
                     [[chain.scale]]\nnetwork = \"encoder-decoder\"\nvariant = \"scaled\"\ndim = 1152\n\
                     encoder_depth = 32\ndecoder_depth = 6\n[sample]\ncount = 3\n[output]\nurl = \"nowhere\"\n";
    let file = root.path().join("described.toml");
    fs::write(&file, described).unwrap();
    let output = imagebart().current_dir(&root).args(["sample", "described.toml", "--dry-run"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(text.contains("absent is not there yet") && text.contains("parameters"), "{text}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3, "the model and two pipeline files");
}

/// Runs `sample` and expects it to refuse with `code` and one sentence that contains `expected`, and to write nothing.
#[track_caller]
pub fn refused(root: &Path, file: &str, settings: &[&str], code: i32, expected: &str) {
    let mut command = imagebart();
    command.args(["sample", file]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command.output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{settings:?}: {text}");
    assert!(text.contains(expected), "{settings:?}: {text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("error")).count(), 1, "{settings:?}: {text}");
    for table in ["samples", "samples-rejects"] {
        let left = fs::read_dir(root.join("out").join(table)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{settings:?} left files of {table}");
    }
}

#[test]
fn settings_that_cannot_be_are_sentences() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), classes(3, false), "");
    let (file, root) = (file.to_str().unwrap(), root.path());
    let absent = format!("chain.model={}", root.join("absent").display());
    let cases = [
        ("sample.labels=[1, 3]", "sample.labels: class 3 is out of range; the chain has 3: 0 to 2"),
        ("sample.labels=none", "null class"),
        ("sample.temperature=0", "sample.temperature = 0 at scale 1: it must be above 0"),
        ("sample.temperature=[1, -2]", "sample.temperature = -2 at scale 2"),
        ("sample.temperature=[1, 1, 1]", "sample.temperature lists 3 values; give one for all scales, or 2"),
        ("sample.top_k=65", "sample.top_k = 65 at scale 1: it must be 1 to 64"),
        ("sample.top_k=0", "sample.top_k = 0"),
        ("sample.top_p=1.5", "sample.top_p = 1.5"),
        ("sample.guidance=3", "guidance = 3 needs a null condition"),
        ("sample.batch_size=0", "sample.batch_size"),
        ("sample.count=0", "sample.count"),
        ("sample.unit_rows=0", "sample.unit_rows"),
        ("sample.compat=theirs", "is not one of default, authors"),
        ("sample.image=jpg", "sample.image = \"jpg\" is not one of png, jpeg, webp"),
        ("sample.quality=80", "sample.quality is jpeg's alone; png is lossless"),
        ("chain.model=s3://bucket/model", "is a URL: model directories are local"),
        (absent.as_str(), "absent\" is not a directory: make one with `imagebart import`"),
    ];
    for (setting, expected) in cases {
        refused(root, file, &[setting], 2, expected);
    }
    assert!(!root.join("out").exists());
}

/// `pipeline` of a fresh model that `change` damaged, refused with `expected`.
#[track_caller]
fn damaged(change: impl FnOnce(&Path), code: i32, expected: &[&str]) {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    change(&root.path().join("model"));
    for expected in expected {
        refused(root.path(), file.to_str().unwrap(), &[], code, expected);
    }
}

/// Replaces text in the model's `chain.toml`.
fn edit_toml(model: &Path, from: &str, to: &str) {
    let path = model.join("chain.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn damaged_models_are_named_by_file_and_tensor() {
    let missing = |model: &Path| change_scale(model, 1, |tensors| drop(tensors.remove("decoder.norm.bias")));
    damaged(missing, 2, &["scale-1.safetensors", "missing (1): transformer.decoder.norm.bias"]);
    let reshaped = |model: &Path| {
        change_scale(model, 1, |tensors| {
            let zeros = tch::Tensor::zeros([3], (tch::Kind::Float, tch::Device::Cpu));
            tensors.insert("decoder.norm.bias".to_owned(), zeros);
        });
    };
    damaged(reshaped, 2, &["mismatched (1): transformer.decoder.norm.bias (is [3], must be [16])"]);
    let cut = |model: &Path| {
        let path = model.join("scale-2.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    damaged(cut, 2, &["scale-2.safetensors"]);
    damaged(|model| fs::remove_file(model.join("chain.toml")).unwrap(), 2, &["chain.toml"]);
    let schedule = |model: &Path| edit_toml(model, "\"geometric\"", "\"alphacum:1,0.5,0.2,0\"");
    damaged(schedule, 2, &["chain.toml: chain.schedule: the schedule lists 4 cumulative alphas"]);
    let codes = |model: &Path| {
        let path = model.join("tokenizer.safetensors");
        let (weights, mut metadata) = load(&path);
        metadata.insert("n_embed".to_owned(), "32".to_owned());
        let mut tensors = weights.into_tensors();
        let codebook = tensors.get_mut("quantize.embedding.weight").unwrap();
        *codebook = codebook.narrow(0, 0, 32).contiguous();
        imagebart::torch::weights::write(&path, &tensors, &metadata).unwrap();
    };
    damaged(
        codes,
        2,
        &["tokenizer.safetensors: quantize.embedding.weight gives 32 codes, but chain.codebook_size is 64"],
    );
    let other = |model: &Path| {
        let path = model.join("tokenizer.safetensors");
        let (weights, metadata) = load(&path);
        let mut tensors = weights.into_tensors();
        tensors.values_mut().for_each(|tensor| *tensor = &*tensor * 1.5);
        imagebart::torch::weights::write(&path, &tensors, &metadata).unwrap();
    };
    damaged(other, 2, &["tokenizer.safetensors: its weights have the fingerprint"]);
}

#[test]
fn weights_that_are_not_numbers_stop_the_unit() {
    let spoil = |model: &Path| {
        change_scale(model, 1, |tensors| {
            let tensor = tensors.get_mut("decoder.norm.bias").unwrap();
            *tensor = &*tensor * f64::NAN;
        });
    };
    damaged(spoil, 1, &["scale 1", "NaN or infinity", "000000000"]);
}

#[test]
fn a_pipeline_that_describes_another_chain_is_refused() {
    let root = tempdir().unwrap();
    let scales = "[[chain.scale]]\nnetwork = \"encoder-decoder\"\nvariant = \"residual-scaled\"\ndim = 16\n\
                  encoder_depth = 1\ndecoder_depth = 1\nheads = 1\n\
                  [[chain.scale]]\nnetwork = \"gpt\"\ndim = 16\ndepth = 1\nheads = 2\n";
    let file = pipeline(root.path(), ConditionSection::default(), scales);
    let (root, file) = (root.path(), file.to_str().unwrap());
    refused(root, file, &[], 2, "chain.grid is (16, 16) here, (8, 8) there");
    refused(root, file, &["chain.grid=[8, 8]", "chain.schedule=0.5"], 2, "chain.schedule");
    refused(root, file, &["chain.grid=[8, 8]", "condition.kind=class", "condition.classes=3"], 2, "condition");
    let text = fs::read_to_string(file).unwrap().replace("depth = 1\nheads = 2", "depth = 2\nheads = 2");
    fs::write(file, text).unwrap();
    refused(root, file, &["chain.grid=[8, 8]"], 2, "the network of scale 2");
}

/// Killed at any moment and run again, `sample` writes the bytes of an undisturbed run.
#[test]
fn kills_leave_no_trace() {
    const KILLS: u32 = 12;
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    let settings = ["--set", "sample.count=17", "--set", "sample.unit_rows=2", "--set", "sample.batch_size=2"];
    let start = Instant::now();
    draw(file, &root.path().join("undisturbed"), &["sample.count=17", "sample.unit_rows=2", "sample.batch_size=2"]);
    let undisturbed_time = start.elapsed();
    let undisturbed = tables(&root.path().join("undisturbed"));

    let disturbed = root.path().join("disturbed");
    let url = format!("output.url={}", disturbed.display());
    let again = || {
        let mut command = imagebart();
        command.args(["sample", file, "--set", &url]).args(settings).stderr(Stdio::null());
        command
    };
    let undisturbed = (undisturbed_time, &undisturbed);
    Kills { count: KILLS, undisturbed, place: &disturbed, completions: 100 }.inflict(again);
    assert!(again().status().unwrap().success());
    assert_eq!(*undisturbed.1, tables(&disturbed));
    succeed(["verify", disturbed.to_str().unwrap()]);
}

/// What `command` prints.
#[track_caller]
fn printed<const N: usize>(arguments: [&str; N]) -> String {
    String::from_utf8(succeed(arguments).stdout).unwrap()
}

#[test]
fn latents_and_samples_share_a_directory() {
    let root = tempdir().unwrap();
    crate::common::folder(&root.path().join("in"), 4);
    fs::create_dir_all(root.path().join("encode")).unwrap();
    let dataset = root.path().join("in").display().to_string();
    let encode = crate::common::pipeline(&root.path().join("encode"), "folder", &dataset, "");
    let out = root.path().join("out");
    let (out, url) = (out.to_str().unwrap(), format!("output.url={}", out.display()));
    let file = pipeline(root.path(), classes(3, true), "");
    succeed(["sample", file.to_str().unwrap()]);
    let sheet = root.path().join("sheet.png");
    let page = root.path().join("page.html");
    let (to_sheet, to_page) = (sheet.to_str().unwrap(), page.to_str().unwrap());

    // Alone, samples are what there is to look at.
    let text = printed(["gallery", out, "--to", to_sheet, "--to", to_page, "--columns", "5"]);
    assert!(text.contains("10 samples"), "{text}");
    let picture = image::open(&sheet).unwrap().to_rgb8();
    assert_eq!(picture.dimensions(), (6 + 5 * (SIDE + 6), 6 + 2 * (SIDE + 6)));
    let rows = rows(root.path().join("out").as_path());
    let third = image::imageops::crop_imm(&picture, 6 + 2 * (SIDE + 6), 6, SIDE, SIDE).to_image();
    assert_eq!(third, pixels(&rows[2].image.bytes));
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("\"label\":[0,1,2,0,1,2,0,1,2,0]") && html.contains("Classes</dt><dd>all"), "{html}");
    let text = stderr(&run(["gallery", out, "--to", to_sheet, "--table", "latents"]));
    assert!(text.contains("there are no latents here"), "{text}");

    succeed(["encode", encode.to_str().unwrap(), "--set", &url]);
    let text = printed(["verify", out]);
    assert!(text.contains("latents: 1 of 1 units done, 4 rows, 0 rejects"), "{text}");
    assert!(text.contains("samples: 3 of 3 units done, 10 rows, 0 rejects\nOK"), "{text}");
    assert!(printed(["gallery", out, "--to", to_sheet]).contains("4 reconstructions"));
    assert!(printed(["gallery", out, "--to", to_sheet, "--table", "samples"]).contains("10 samples"));
    let planned = printed(["gallery", out, "--to", to_sheet, "--table", "samples", "--dry-run"]);
    assert!(planned.contains("rows of the 3 files"), "{planned}");
}

#[test]
fn verify_finds_what_is_wrong_with_samples() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    succeed(["sample", file.to_str().unwrap()]);
    let out = root.path().join("out");
    let found = || {
        let output = run(["verify", out.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).unwrap()
    };
    let unit = |start: u32, end: u32| format!("samples/rows@{start:09}-{end:09}.parquet");
    let path = out.join(unit(0, 4));
    let bytes = fs::read(&path).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 3] ^= 4;
    fs::write(&path, damaged).unwrap();
    fs::remove_file(out.join(unit(8, 10))).unwrap();
    fs::write(out.join("samples/notes.txt"), "x").unwrap();
    fs::write(out.join("samples/rows@000000004-000000008.parquet#1"), "x").unwrap();
    let text = found();
    for expected in [
        "samples: 2 of 3 units done",
        "rows@000000000-000000004.parquet: the seal is broken",
        "missing: unit rows@000000008-000000010",
        "notes.txt: a stray file",
        "left by a killed run",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    fs::remove_file(out.join("samples/notes.txt")).unwrap();
    // A file that is sound, but another's.
    fs::copy(out.join(unit(4, 8)), &path).unwrap();
    assert!(found().contains("it was moved or renamed"));
    fs::write(&path, bytes).unwrap();
    succeed(["sample", file.to_str().unwrap()]);
    assert!(printed(["verify", out.to_str().unwrap()]).ends_with("OK\n"));
}
