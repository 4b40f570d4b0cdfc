//! Choosing among candidates, drawing one image again, and estimates, as their user sees them.

use crate::common::model::support::{classes, unconditional};
use crate::common::model::{pipeline, prompted, rows};
use crate::common::{imagebart, run, stderr, succeed, tables};
use crate::sample::{draw, refused};
use imagebart::tables::{Run, SampleRow, SamplesIdentity};
use std::fs;
use std::path::Path;
use tch::{CModule, Device, Kind, Tensor};
use tempfile::tempdir;

const LIKELIHOOD: &str = "choose.scorer=likelihood";

/// Writes a TorchScript module that does `what` with inputs like `inputs`.
fn module(path: &Path, inputs: &[Tensor], what: &mut dyn FnMut(&[Tensor]) -> Tensor) -> String {
    let mut closure = |inputs: &[Tensor]| vec![what(inputs)];
    let module = CModule::create_by_tracing("Scorer", "forward", inputs, &mut closure).unwrap();
    module.save(path).unwrap();
    format!("choose.scorer={}", path.display())
}

fn images() -> Tensor {
    Tensor::rand([2, 3, 32, 32], (Kind::Float, Device::Cpu))
}

/// Mean of an image's pixels, from 0 to 1.
fn brightness(row: &SampleRow) -> f32 {
    let pixels = image::load_from_memory(&row.image.bytes).unwrap().to_rgb8().into_raw();
    pixels.iter().map(|&value| f64::from(value) / 255.0).sum::<f64>() as f32 / pixels.len() as f32
}

#[test]
fn the_likeliest_of_each_row_is_kept() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let csv = root.path().join("p.csv");
    fs::write(&csv, "prompt,key,count\na red,a,1\nsquare,b,2\na blue,c,1\n").unwrap();
    let csv = format!("sample.prompts={}", csv.display());
    let (all, best) = (root.path().join("all"), root.path().join("best"));
    draw(&file, &all, &[&csv, LIKELIHOOD, "choose.draw=4", "choose.rejected=keep"]);
    let all = rows(&all);
    let keys: Vec<String> = ["a", "b", "c"].iter().flat_map(|key| (0..4).map(move |n| format!("{key}-{n}"))).collect();
    assert_eq!(all.iter().map(|row| row.key.clone()).collect::<Vec<_>>(), keys);
    for (group, keep) in all.chunks(4).zip([1, 2, 1]) {
        let mut ranked: Vec<&SampleRow> = group.iter().collect();
        ranked.sort_by_key(|row| row.rank.unwrap());
        assert_eq!(ranked.iter().map(|row| row.rank.unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(ranked.is_sorted_by(|a, b| a.score.unwrap() >= b.score.unwrap()), "{ranked:?}");
        assert!(ranked.iter().all(|row| row.score.unwrap() < 0.0 && row.accepted == (row.rank.unwrap() < keep)));
    }
    let log = draw(&file, &best, &[&csv, LIKELIHOOD, "choose.draw=4"]);
    assert!(log.contains("4 rows of 4 images in 3 units") && log.contains("8 more drawn and not accepted"), "{log}");
    let accepted: Vec<SampleRow> = all.into_iter().filter(|row| row.accepted).collect();
    assert_eq!(rows(&best), accepted);
    succeed(["verify", best.to_str().unwrap()]);
    let facts: serde_json::Value = serde_json::from_slice(&fs::read(best.join("run-samples.json")).unwrap()).unwrap();
    assert_eq!(facts["dropped"], 8);

    // Ranks together write the same.
    let shared = root.path().join("shared");
    let url = format!("output.url={}", shared.display());
    for rank in ["1", "0"] {
        let mut command = imagebart();
        command.args(["sample", &file, "--set", &url, "--rank", rank, "--world", "2"]);
        for setting in [csv.as_str(), LIKELIHOOD, "choose.draw=4"] {
            command.args(["--set", setting]);
        }
        assert!(command.status().unwrap().success());
    }
    assert_eq!(tables(&shared), tables(&best));
    // Another choice is another run.
    let other = run(["sample", &file, "--set", &url, "--set", &csv, "--set", LIKELIHOOD, "--set", "choose.draw=5"]);
    assert!(other.status.code() == Some(2) && stderr(&other).contains("choose.draw"), "{}", stderr(&other));

    // An image that was not accepted can still be drawn again.
    let to = root.path().join("again.png");
    let to = to.to_str().unwrap();
    let again = |key: &str| {
        let mut command = imagebart();
        command.args(["sample", &file, "--set", &format!("output.url={}", best.display()), "--key", key, "--to", to]);
        for setting in [csv.as_str(), LIKELIHOOD, "choose.draw=4"] {
            command.args(["--set", setting]);
        }
        command.output().unwrap()
    };
    let kept = &accepted[1];
    let output = again(&kept.key);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("the same tokens and bytes"), "{said} {}", stderr(&output));
    assert_eq!(fs::read(to).unwrap(), kept.image.bytes);
    let dropped = keys.iter().find(|key| accepted.iter().all(|row| row.key != **key)).unwrap();
    let output = again(dropped);
    assert!(String::from_utf8_lossy(&output.stdout).contains("not in the table"), "{}", stderr(&output));
    assert!(stderr(&again("b-4")).contains("there is no image called b-4"));
}

#[test]
fn rates_and_thresholds_accept_what_they_say() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), classes(3, true), "");
    let file = file.to_str().unwrap();
    let out = |name: &str| root.path().join(name);
    let keep = ["choose.rejected=keep", "choose.draw=4", LIKELIHOOD, "sample.count=3"];
    draw(file, &out("rate"), &[&keep[..], &["choose.rate=0.5"]].concat());
    let rate = rows(&out("rate"));
    assert_eq!((rate.len(), rate.iter().filter(|row| row.accepted).count()), (12, 6));
    assert_eq!(rate[4].key, "000000001-0");
    // All candidates of a row are of its class.
    assert_eq!(rate.iter().map(|row| row.label.unwrap()).collect::<Vec<_>>(), [[0; 4], [1; 4], [2; 4]].concat());
    let mut scores: Vec<f32> = rate.iter().map(|row| row.score.unwrap()).collect();
    scores.sort_by(f32::total_cmp);
    let least = format!("choose.threshold={}", scores[8]);
    draw(file, &out("least"), &[&keep[..], &["choose.rate=1", &least]].concat());
    assert_eq!(rows(&out("least")).iter().filter(|row| row.accepted).count(), 4);
    // Units may be left with nothing.
    let strict = [LIKELIHOOD, "choose.draw=4", "sample.count=3", "choose.threshold=1"];
    let log = draw(file, &out("nothing"), &strict);
    assert!(log.contains("0 rows of 0 images in 3 units") && log.contains("12 more drawn"), "{log}");
    succeed(["verify", out("nothing").to_str().unwrap()]);
}

#[test]
fn a_module_of_the_users_scores_images() {
    let root = tempdir().unwrap();
    let scorer = root.path().join("scorer.pt");
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    let mean =
        module(&scorer, &[images()], &mut |inputs| inputs[0].mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float));
    let out = root.path().join("bright");
    draw(file, &out, &[&mean, "sample.count=2", "choose.draw=4", "choose.rejected=keep"]);
    let drawn = rows(&out);
    assert_eq!(drawn.len(), 8);
    for row in &drawn {
        assert!((row.score.unwrap() - brightness(row)).abs() < 1e-4, "{:?} {}", row.score, brightness(row));
    }
    assert_eq!(drawn.iter().filter(|row| row.accepted).count(), 2);
    // Its bytes are part of the identity.
    let url = format!("output.url={}", out.display());
    module(&scorer, &[images()], &mut |inputs| inputs[0].amax([1i64, 2, 3].as_slice(), false));
    let settings = ["sample.count=2", "choose.draw=4", "choose.rejected=keep", mean.as_str(), url.as_str()];
    let mut command = imagebart();
    command.args(["sample", file]).args(settings.iter().flat_map(|setting| ["--set", setting]));
    let output = command.output().unwrap();
    assert!(output.status.code() == Some(2) && stderr(&output).contains("choose.scorer"), "{}", stderr(&output));

    let wrong = module(&scorer, &[images()], &mut |inputs| inputs[0].shallow_clone());
    refused(
        root.path(),
        file,
        &[&wrong],
        2,
        "must give one number an image; of two images it gives the shape [2, 3, 32, 32]",
    );
    fs::write(&scorer, "no module").unwrap();
    refused(root.path(), file, &[&wrong], 2, "is no TorchScript module");
    refused(root.path(), file, &["choose.scorer=nowhere.pt"], 2, "neither \"likelihood\" nor \"shapes\"");
    refused(root.path(), file, &["choose.scorer=shapes"], 2, "reads the demo's pictures: 64 × 64 pixels");
    refused(root.path(), file, &["choose.draw=4"], 2, "choose.draw needs choose.scorer");
}

#[test]
fn classifiers_and_similarities_see_what_was_asked_for() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), classes(3, true), "");
    let file = file.to_str().unwrap();
    // Logits: the means of the three colours, times ten.
    let scorer = root.path().join("classes.pt");
    let setting =
        module(&scorer, &[images()], &mut |inputs| inputs[0].mean_dim([2i64, 3].as_slice(), false, Kind::Float) * 10.0);
    let out = root.path().join("classes");
    draw(file, &out, &[&setting, "sample.count=6"]);
    for row in rows(&out) {
        let pixels = image::load_from_memory(&row.image.bytes).unwrap().to_rgb8();
        let mean = |channel: usize| {
            pixels.pixels().map(|pixel| f64::from(pixel[channel]) / 255.0).sum::<f64>() / f64::from(32 * 32)
        };
        let weights = [0, 1, 2].map(|channel| (10.0 * mean(channel)).exp());
        let expected = weights[row.label.unwrap() as usize] / weights.iter().sum::<f64>();
        assert!((f64::from(row.score.unwrap()) - expected).abs() < 1e-4, "{:?} {expected}", row.score);
        assert_eq!((row.rank, row.accepted), (Some(0), true));
    }
    refused(root.path(), file, &[&setting, "sample.labels=none"], 2, "the rows are drawn of none");
    let two = module(&scorer, &[images()], &mut |inputs| {
        inputs[0].narrow(1, 0, 2).mean_dim([2i64, 3].as_slice(), false, None)
    });
    refused(
        root.path(),
        file,
        &[&two],
        2,
        "must give logits of shape [batch, 3]; of two images it gives the shape [2, 2]",
    );

    let text = tempdir().unwrap();
    let file = prompted(text.path());
    let ids = Tensor::ones([2, 6], (Kind::Int64, Device::Cpu));
    let scorer = text.path().join("texts.pt");
    let setting = module(&scorer, &[images(), ids], &mut |inputs| {
        inputs[1].to_kind(Kind::Float).sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
            + inputs[0].sum(Kind::Float) * 0.0
    });
    let list = text.path().join("p.txt");
    fs::write(&list, "a red\nsquare\n").unwrap();
    let list = format!("sample.prompts={}", list.display());
    let out = text.path().join("drawn");
    draw(&file, &out, &[&setting, &list, "sample.count=2"]);
    let tokenizer = imagebart::text::TextTokenizer::open(text.path().join("model/text-tokenizer.json")).unwrap();
    for row in rows(&out) {
        let ids = tokenizer.encode(row.prompt.as_deref().unwrap(), 6).unwrap().ids;
        assert_eq!(row.score, Some(ids.iter().sum::<u32>() as f32));
    }
    let images_only = module(&scorer, &[images()], &mut |inputs| inputs[0].sum(Kind::Float));
    refused(text.path(), &file, &[&images_only, &list], 2, "its forward(images, ids [batch, 6]) must give one number");
}

#[test]
fn an_image_is_drawn_again_from_its_batch() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), classes(3, true), "guidance = 2\n");
    let file = file.to_str().unwrap();
    let nothing = run(["sample", file, "--key", "000000003"]);
    assert!(nothing.status.code() == Some(2) && !root.path().join("out").exists(), "{}", stderr(&nothing));
    succeed(["sample", file]);
    let before = tables(&root.path().join("out"));
    for row in rows(&root.path().join("out")) {
        let to = root.path().join("again.png");
        let output = succeed(["sample", file, "--key", &row.key, "--to", to.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(&row.key) && said.contains("the same tokens and bytes as recorded"), "{said}");
        assert_eq!(fs::read(&to).unwrap(), row.image.bytes);
    }
    let absent = run(["sample", file, "--key", "000000010"]);
    assert!(absent.status.code() == Some(2) && stderr(&absent).contains("no image called 000000010"));
    let other = run(["sample", file, "--key", "000000003", "--set", "sample.guidance=3"]);
    assert!(other.status.code() == Some(2) && stderr(&other).contains("settings.guidance"), "{}", stderr(&other));
    assert_eq!(tables(&root.path().join("out")), before);
}

/// A run of another class of device: its images are drawn here only when forced to, and then compared.
#[test]
fn a_run_of_another_device_is_drawn_again_by_force() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let file = file.to_str().unwrap();
    succeed(["sample", file]);
    let manifest = root.path().join("out/samples-manifest.json");
    let text = fs::read_to_string(&manifest).unwrap().replace("\"device\": \"cpu\"", "\"device\": \"cuda-sm_90\"");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let identity: SamplesIdentity = serde_json::from_value(value["identity"].clone()).unwrap();
    assert_eq!(identity.device, "cuda-sm_90");
    let recorded = value["identity_sha256"].as_str().unwrap();
    fs::write(&manifest, text.replace(recorded, &identity.sha256())).unwrap();

    let to = root.path().join("again.png");
    let key = ["sample", file, "--key", "000000003", "--to", to.to_str().unwrap()];
    let again = |more: &[&str]| imagebart().args(key).args(more).output().unwrap();
    let refused = again(&[]);
    let text = stderr(&refused);
    assert!(refused.status.code() == Some(2) && text.contains("cuda-sm_90"), "{text}");
    assert!(text.contains("--force draws on another class of device") && !to.exists(), "{text}");
    let forced = again(&["--force"]);
    assert!(forced.status.success(), "{}", stderr(&forced));
    assert!(String::from_utf8_lossy(&forced.stdout).contains("000000003: the same tokens and bytes as recorded"));
    assert!(to.exists());
    // What else differs is refused all the same.
    let other = again(&["--force", "--set", "sample.temperature=0.5"]);
    assert!(other.status.code() == Some(2) && stderr(&other).contains("settings.temperature"), "{}", stderr(&other));
}

#[test]
fn a_dry_run_estimates_what_a_run_will_take() {
    let root = tempdir().unwrap();
    let file = pipeline(root.path(), unconditional(), "");
    let settings = ["--set", "sample.count=1000", "--set", LIKELIHOOD, "--set", "choose.draw=2", "--dry-run"];
    let output = imagebart().args(["sample", file.to_str().unwrap()]).args(settings).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", stderr(&output));
    for expected in
        ["the best `count` of 2 candidates a row, by likelihood", "for 2000 images", "the 1000 images that may be kept"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    for word in ["tried", "time", "disk"] {
        assert!(text.lines().any(|line| line.starts_with(word)), "{word}: {text}");
    }
    assert!(!root.path().join("out").exists());
}

#[test]
fn scales_on_devices_of_their_own_write_the_same_bytes() {
    let root = tempdir().unwrap();
    let file = prompted(root.path());
    let csv = root.path().join("p.csv");
    fs::write(&csv, "prompt,key,count,guidance\na red,a,5,\nsquare,b,2,2.5\na blue,c,6,\n").unwrap();
    let csv = format!("sample.prompts={}", csv.display());
    let (one, each) = (root.path().join("one"), root.path().join("each"));
    let devices = "sample.devices=[\"cpu\", \"cpu\"]";
    for choose in [&[][..], &[LIKELIHOOD, "choose.draw=9", "choose.rejected=keep"]] {
        let settings = [&[csv.as_str(), "sample.unit_rows=8", "sample.batch_size=3"][..], choose].concat();
        draw(&file, &one, &settings);
        draw(&file, &each, &[&settings[..], &[devices]].concat());
        assert_eq!(tables(&one), tables(&each));
        let facts: serde_json::Value =
            serde_json::from_slice(&fs::read(each.join("run-samples.json")).unwrap()).unwrap();
        let stages: Vec<&str> =
            facts["stages"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
        assert!(stages.windows(2).any(|pair| pair == ["scale 2", "scale 1"]), "{stages:?}");
        for out in [&one, &each] {
            fs::remove_dir_all(out).unwrap();
        }
    }
    let text = succeed(["sample", &file, "--set", &csv, "--set", devices, "--dry-run"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("scale 1    on cpu: as asked\n") && text.contains("scale 2    on cpu"), "{text}");
    let cases = [
        ("sample.devices=[\"cpu\"]", "sample.devices has 1 devices, the chain 2 scales: give one for each"),
        ("sample.devices=[\"cpu\", \"gpu\"]", "sample.devices: unknown device \"gpu\""),
    ];
    for (devices, expected) in cases {
        refused(root.path(), &file, &[&csv, devices], 2, expected);
    }
}
