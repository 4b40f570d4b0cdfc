//! The pipeline files that come with the program: each loads, and describes the networks of the released models.

use crate::common::{corpus, imagebart, stderr, tokenizer};
use imagebart::chain::ChainConfig;
use imagebart::config::{Needs, Pipeline};
use imagebart::diffusion::Schedule;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A pipeline, and what the authors' code and configs say of its model.
struct Expected {
    file: &'static str,
    codes: u32,
    /// Parameters of each network, from scale 1 up.
    parameters: &'static [i64],
    /// Cumulative alphas, 0 to T.
    cumulative: &'static [f32],
    /// The share of the soft loss of each network.
    alphas: &'static [f64],
}

const GEOMETRIC: &[f32] = &[1.0, 0.75, 0.5, 0.25, 0.0];
const LSUN: &[f32] = &[1.0, 0.84827, 0.65263, 0.0];
const FIVE: &[f32] = &[1.0, 0.90989, 0.81510, 0.70163, 0.51498, 0.0];

const RELEASED: [Expected; 8] = [
    Expected {
        file: "ffhq.toml",
        codes: 548,
        parameters: &[203_214_812, 203_214_812, 203_214_812, 201_033_600],
        cumulative: GEOMETRIC,
        alphas: &[0.0, 0.0, 0.0, 1.0],
    },
    Expected {
        file: "ffhq-2.toml",
        codes: 548,
        parameters: &[614_638_024, 640_994_944],
        cumulative: &[1.0, 0.63605, 0.0],
        alphas: &[0.0, 1.0],
    },
    Expected { file: "ffhq-joint.toml", codes: 548, parameters: &[203_214_812], cumulative: GEOMETRIC, alphas: &[1.0] },
    Expected {
        file: "lsun-bedrooms.toml",
        codes: 1017,
        parameters: &[616_800_114, 616_800_114, 642_135_552],
        cumulative: LSUN,
        alphas: &[0.0, 1.0, 1.0],
    },
    Expected {
        file: "lsun-cats.toml",
        codes: 1014,
        parameters: &[616_786_284, 616_786_284, 642_128_256],
        cumulative: LSUN,
        alphas: &[0.0, 1.0, 1.0],
    },
    Expected {
        file: "lsun-churches.toml",
        codes: 1022,
        parameters: &[616_824_316, 616_824_316, 642_147_712],
        cumulative: LSUN,
        alphas: &[0.0, 1.0, 1.0],
    },
    Expected {
        file: "imagenet.toml",
        codes: 973,
        parameters: &[616_660_665, 616_660_665, 616_660_665, 642_063_808],
        cumulative: GEOMETRIC,
        alphas: &[0.0, 1.0, 1.0, 1.0],
    },
    Expected {
        file: "imagenet-5.toml",
        codes: 973,
        parameters: &[616_660_661, 616_660_661, 616_660_661, 616_660_661, 642_063_808],
        cumulative: FIVE,
        alphas: &[0.0, 1.0, 1.0, 1.0, 1.0],
    },
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")
}

/// What a file leaves to a tokenizer that is still to be trained.
fn still_open(file: &str) -> &'static [&'static str] {
    if file == "shapes.toml" { &["chain.codebook_size=22"] } else { &[] }
}

fn load(file: &str) -> (Pipeline, ChainConfig) {
    let set: Vec<String> = ["sample.count=1000"].iter().chain(still_open(file)).map(|&key| key.to_owned()).collect();
    let pipeline = Pipeline::load_for(Needs::Sample, &folder().join(file), &set).expect(file);
    let chain = ChainConfig::from_sections(&pipeline.chain, &pipeline.condition, None).expect(file);
    (pipeline, chain)
}

#[test]
fn released_models_have_their_shapes_and_schedules() {
    for expected in &RELEASED {
        let (_, chain) = load(expected.file);
        let parameters: Vec<i64> = chain.networks.iter().map(|network| network.network.parameters()).collect();
        let alphas: Vec<f64> = chain.networks.iter().map(|network| network.alpha).collect();
        assert_eq!(parameters, expected.parameters, "{}", expected.file);
        assert_eq!(alphas, expected.alphas, "{}", expected.file);
        assert_eq!((chain.codebook_size, chain.grid), (expected.codes, (16, 16)), "{}", expected.file);
        let schedule = Schedule::new(&chain.schedule, chain.scales()).expect(expected.file);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert_eq!(schedule.cumulatives().len(), expected.cumulative.len(), "{}", expected.file);
        assert!(schedule.cumulatives().iter().zip(expected.cumulative).all(near), "{}", expected.file);
    }
}

/// Every file loads for every command that its sections serve; those of a chain tell its parameters before there is a model.
#[test]
fn every_pipeline_loads_and_dry_runs() {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut chains = BTreeSet::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let pipeline = Pipeline::load(&path, &[]).expect(&file);
        if pipeline.chain.scale.is_empty() {
            continue;
        }
        let (_, chain) = load(&file);
        let inputs = ["edit.images=a", "edit.masks=b"].map(str::to_owned);
        Pipeline::load_for(Needs::Edit, &path, &inputs).expect(&file);
        let output = Command::new(env!("CARGO_BIN_EXE_imagebart"))
            .args(["--device", "cpu", "--dry-run", "sample", path.to_str().unwrap(), "--count", "1000"])
            .args(still_open(&file).iter().flat_map(|&key| ["--set", key]))
            .current_dir(elsewhere.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{file}: {errors}");
        for network in &chain.networks {
            let parameters = format!("{} parameters", network.network.parameters());
            assert!(text.contains(&parameters), "{file}: {parameters} is not in\n{text}");
        }
        chains.insert(file);
    }
    let released = RELEASED.iter().map(|expected| expected.file);
    let all: BTreeSet<String> =
        released.chain(["conceptual-captions.toml", "shapes.toml"]).map(str::to_owned).collect();
    assert_eq!(chains, all);
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0, "a dry run wrote something");
}

/// A chain whose codebook is still to be trained says so, rather than that 0 is no size.
#[test]
fn a_codebook_that_nothing_tells_is_asked_for() {
    let elsewhere = tempfile::tempdir().unwrap();
    let file = folder().join("shapes.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_imagebart"))
        .args(["--device", "cpu", "--dry-run", "sample", file.to_str().unwrap(), "--count", "10"])
        .current_dir(elsewhere.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = stderr(&output);
    assert!(errors.contains("chain.codebook_size: is not given"), "{errors}");
}

/// The corpora, and an empty directory with a tokenizer to plan work in.
struct DryRuns {
    data: PathBuf,
    root: tempfile::TempDir,
}

impl DryRuns {
    /// `None`, with a visible line, where the corpora are not there.
    fn new(test: &str) -> Option<DryRuns> {
        let data = corpus("IMAGEBART_DATA_DIR", test)?;
        let root = tempfile::tempdir().unwrap();
        tokenizer(&root.path().join("tokenizer.safetensors"));
        Some(DryRuns { data, root })
    }

    /// A path of the corpora.
    fn at(&self, path: &str) -> String {
        self.data.join(path).display().to_string()
    }

    /// What `encode --dry-run` of a pipeline says, with these settings.
    fn encode(&self, file: &str, settings: &[String]) -> String {
        let weights = format!("tokenizer.weights={}", self.root.path().join("tokenizer.safetensors").display());
        let output = imagebart()
            .args(["--dry-run", "encode", folder().join(file).to_str().unwrap(), "--set", &weights])
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .current_dir(self.root.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{file} {settings:?}: {}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Nothing is there but the tokenizer.
    fn wrote_nothing(&self) {
        assert_eq!(std::fs::read_dir(self.root.path()).unwrap().count(), 1, "a dry run wrote something");
    }
}

/// The LSUN pipelines as someone starts who has the databases, or the images as files: `--dry-run`, with their place alone.
#[test]
fn lsun_pipelines_dry_run_on_the_corpus() {
    let Some(runs) = DryRuns::new("lsun_pipelines_dry_run_on_the_corpus") else { return };
    let place = |name: &str| runs.at(&format!("lsun-mini/{name}"));
    for (file, name) in [
        ("lsun-bedrooms.toml", "bedroom_train_lmdb"),
        ("lsun-cats.toml", "cat"),
        ("lsun-churches.toml", "church_outdoor_train_lmdb"),
    ] {
        let url = format!("dataset.url={}", place(name));
        let text = runs.encode(file, std::slice::from_ref(&url));
        assert!(
            text.contains("1 units of lsun-lmdb") && text.contains("256 × 256 by pillow-bicubic, 2 row(s)"),
            "{text}"
        );
        let text = runs.encode(file, &[url, "dataset.unit_rows=10".to_owned()]);
        assert!(text.contains(&format!("{name}@000000000-000000010")), "{text}");
    }
    let churches = |format: &str, name: &str| {
        let list = format!("dataset.list={}", place("church_outdoor_train.txt"));
        let (format, url) = (format!("dataset.format={format}"), format!("dataset.url={}", place(name)));
        runs.encode("lsun-churches.toml", &[format, url, list, "dataset.unit_rows=10".into()])
    };
    // 49 names, as the list has them.
    let text = churches("folder", "churches/");
    assert!(text.contains("5 units of folder") && text.contains("files@000000040-000000049"), "{text}");
    let text = churches("lsun-lmdb", "church_outdoor_train_lmdb");
    assert!(text.contains("5 units of lsun-lmdb") && text.contains("_lmdb@000000040-000000049"), "{text}");
    runs.wrote_nothing();
}

/// The pipelines of FFHQ and Conceptual Captions plan their work on small copies of the data, in every form of it.
#[test]
fn encode_dry_runs_on_ffhq_and_conceptual_captions() {
    let Some(runs) = DryRuns::new("encode_dry_runs_on_ffhq_and_conceptual_captions") else { return };
    let at = |path: &str| format!("dataset.url={}", runs.at(path));
    let list = |path: &str| format!("dataset.list={}", runs.at(path));
    let form = |format: &str| format!("dataset.format={format}");
    let flat = vec![at("ffhq-mini/flat256/"), list("ffhq-mini/ffhqtrain.txt")];
    let nested = vec![at("ffhq-mini/thumbnails128x128/"), list("ffhq-mini/ffhq-dataset-v2.json#training")];
    let mut cases = vec![("conceptual-captions.toml", vec![at("cc-mini/webdataset/")])];
    for file in ["ffhq.toml", "ffhq-2.toml", "ffhq-joint.toml"] {
        cases.extend([(file, flat.clone()), (file, nested.clone())]);
    }
    for (format, path) in
        [("img2dataset-parquet", "parquet"), ("img2dataset-tfrecord", "tfrecord"), ("folder", "files")]
    {
        cases.push(("conceptual-captions.toml", vec![form(format), at(&format!("cc-mini/{path}"))]));
    }
    for (file, settings) in cases {
        let text = runs.encode(file, &settings);
        assert!(text.contains("256 × 256") && text.contains("units of"), "{file}: {text}");
    }
    runs.wrote_nothing();
}

/// The ImageNet pipelines over the small data set, in the forms and with the settings that docs/datasets/imagenet.md names.
#[test]
fn imagenet_pipelines_find_the_small_data_set() {
    let Some(runs) = DryRuns::new("imagenet_pipelines_find_the_small_data_set") else { return };
    let at = |place: &str| runs.at(&format!("imagenet-mini/{place}"));
    let mapping = |file: &str| format!("dataset.mapping={}", at(file));
    let tar = "dataset.format=imagenet-tar".to_owned();
    let val = "dataset.split=val".to_owned();
    let val_of = |file: &str| vec![tar.clone(), val.clone(), mapping(file)];
    let forms = [
        (at("kaggle"), vec![], "1 units of imagenet-folder"),
        (at("kaggle/ILSVRC"), vec![val.clone(), mapping("ilsvrc/LOC_val_solution.csv")], "1 units of imagenet-folder"),
        (at("ilsvrc/ILSVRC2012_img_train.tar"), vec![tar.clone()], "200 units of imagenet-tar"),
        (at("ilsvrc"), val_of("ilsvrc/ILSVRC2012_devkit_t12.tar.gz"), "1 units of imagenet-tar"),
        (at("ilsvrc/ILSVRC2012_img_val.tar"), val_of("ilsvrc/validation_synset.txt"), "1 units of imagenet-tar"),
    ];
    for file in ["imagenet.toml", "imagenet-5.toml"] {
        let mut identities = Vec::new();
        for (url, more, expected) in &forms {
            let settings = [vec![format!("dataset.url={url}")], more.clone()].concat();
            let text = runs.encode(file, &settings);
            assert!(text.contains(expected), "{file}, {url}: {text}");
            runs.wrote_nothing();
            identities.push(text.lines().find(|line| line.starts_with("identity")).unwrap().to_owned());
        }
        // Two mappings that say the same are one selection; everything else is told apart.
        assert_eq!(identities[3], identities[4]);
        assert_eq!(identities.iter().collect::<BTreeSet<_>>().len(), 4);
    }
}
