//! The authors' chains, written as their checkpoints and configs, imported, and sampled: the tokens are theirs.

use crate::skip;

use crate::pytorch::{Format, Py, Storage, lightning, save};
use imagebart::chain::{Compat, ModelDirectory, Row, RowCondition, SampleOptions, ScaleSettings, Start};
use imagebart::jobs::import::{ImportOptions, import};
use imagebart::random::RowKey;
use imagebart::torch::weights::WeightsFile;
use imagebart::transformer::Placement;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// The fixtures of whole chains, if there are any.
fn fixtures() -> Vec<PathBuf> {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let folder = std::env::var_os("IMAGEBART_PARITY_DIR").map_or_else(here, PathBuf::from);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_chain = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("chain_greedy") && name.ends_with(".safetensors")
    };
    entries.filter(is_chain).collect()
}

/// A scale's tensors as the checkpoint they are from.
fn checkpoint(file: &mut WeightsFile, scale: usize) -> Vec<u8> {
    let prefix = format!("w.scale{scale}.");
    let names: Vec<String> = file.names().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect();
    let (mut state, mut storages) = (Vec::new(), Vec::new());
    for name in names {
        let tensor = file.read(&format!("{prefix}{name}")).unwrap();
        let class = match tensor.kind() {
            Kind::Float => "FloatStorage",
            Kind::Int64 => "LongStorage",
            Kind::Int => "IntStorage",
            other => panic!("{name} is {other:?}"),
        };
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        let storage = Storage { class, key: storages.len().to_string(), elements: tensor.numel() as i64, bytes };
        state.push((name, storage.whole(Format::Zip, &tensor.size())));
        storages.push(storage);
    }
    save(Format::Zip, &lightning(state, &Py::None), &storages)
}

/// Writes checkpoints and configs (JSON is YAML) and imports them to `<folder>/model`.
fn imported(file: &mut WeightsFile, config: &Value, folder: &Path) -> ModelDirectory {
    let models = config["models"].as_array().unwrap();
    let mut options = ImportOptions::new(vec![], folder.join("model"));
    for (model, scale) in models.iter().zip(1..) {
        let (weights, yaml) = (folder.join(format!("s{scale}.ckpt")), folder.join(format!("s{scale}.yaml")));
        let mut params = model.clone();
        params["first_stage_config"] = config["first_stage_config"].clone();
        std::fs::write(&weights, checkpoint(file, scale)).unwrap();
        std::fs::write(&yaml, json!({"model": {"params": params}}).to_string()).unwrap();
        options.checkpoints.push(weights);
        options.configs.push(yaml);
    }
    import(&options).unwrap();
    ModelDirectory::open(folder.join("model")).unwrap()
}

fn grids(tensor: &Tensor) -> Vec<Vec<u16>> {
    let rows = Vec::<Vec<i64>>::try_from(tensor).unwrap();
    rows.into_iter().map(|row| row.into_iter().map(|id| id as u16).collect()).collect()
}

#[test]
fn imported_chains_draw_the_authors_tokens() {
    let fixtures = fixtures();
    if fixtures.is_empty() {
        skip::skipped(format_args!("imported chains against the authors' tokens: no chain_greedy* fixture is at hand"));
    }
    for path in fixtures {
        let mut file = WeightsFile::open(&path).unwrap();
        let config: Value = serde_json::from_str(&file.metadata()["config"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let model = imported(&mut file, &config, folder.path());
        model.load_tokenizer(Default::default()).unwrap();
        let chain = model.load(Placement::cpu()).unwrap();
        let numbers = |key: &str| config[key].as_array().unwrap().iter().map(|number| number.as_f64().unwrap());
        let settings: Vec<ScaleSettings> = numbers("top_k")
            .zip(numbers("temperature"))
            .map(|(k, temperature)| ScaleSettings {
                temperature: temperature as f32,
                top_k: Some(k as u32),
                greedy: true,
                ..ScaleSettings::default()
            })
            .collect();
        let start = grids(&file.read("in.start").unwrap());
        let classes = file.read("in.cond").ok();
        let row = |index: usize| Row {
            key: RowKey::new(0, "import", index as u64, 0),
            condition: match &classes {
                Some(classes) => RowCondition::Class(classes.int64_value(&[index as i64, 0]) as u32),
                None => RowCondition::None,
            },
            settings: settings.clone().into(),
        };
        let rows: Vec<Row> = (0..start.len()).map(row).collect();
        let slices: Vec<&[u16]> = start.iter().map(Vec::as_slice).collect();
        let start = Some(Start { scale: chain.config().scales(), grids: &slices });
        let steps = chain
            .sample_steps(&rows, SampleOptions { compat: Compat::Authors, start, ..SampleOptions::default() })
            .unwrap();
        assert_eq!(steps.len(), chain.config().scales() as usize);
        for step in steps {
            let expected = grids(&file.read(&format!("out.tokens.scale{}", step.scale)).unwrap());
            assert_eq!(step.tokens, expected, "{} scale {}", path.display(), step.scale);
        }
    }
}
