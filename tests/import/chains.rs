//! `imagebart import` of whole chains from outside: checkpoints and the authors' configs in, a model directory out.

use crate::chain_checkpoints::{CODES, Repository, SCALES, checkpoint, first_stage, network, state, values, yaml};
use crate::pytorch::{FORMATS, Format};
use imagebart::chain::{Condition, ModelDirectory};
use imagebart::config::ScheduleValue;
use imagebart::jobs::import::{ChainReport, ChosenWeights, ImportError, ImportOptions, Imported, import};
use imagebart::transformer::Variant;
use std::path::Path;

fn options(repository: &Repository) -> ImportOptions {
    ImportOptions { configs: repository.configs(), ..ImportOptions::new(repository.checkpoints(), repository.to()) }
}

fn chain(options: &ImportOptions) -> Result<ChainReport, ImportError> {
    match import(options)? {
        Imported::Chain(report) => Ok(*report),
        Imported::Tokenizers(reports) => panic!("{reports:?}"),
    }
}

/// Every scale's file has exactly the network's tensors with the numbers of the checkpoint.
fn assert_whole(directory: &Path, class: bool, averaged: bool) {
    let model = ModelDirectory::open(directory).unwrap();
    assert_eq!(model.config().networks.len(), SCALES as usize);
    for (index, scale) in (1..=SCALES).enumerate() {
        let weights = model.load_weights(&model.config().networks[index]).unwrap();
        let specs = network(scale, class).tensors();
        assert_eq!(weights.tensors().len(), specs.len());
        for spec in specs.iter().filter(|spec| spec.name != "log_scalors") {
            let tensor = weights.get(&spec.name).unwrap();
            assert_eq!(tensor.size(), spec.shape, "{}", spec.name);
            let found = Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap();
            assert_eq!(found, values(&spec.name, scale, averaged, spec.numel()), "scale {scale} {}", spec.name);
        }
    }
    model.load_tokenizer(Default::default()).unwrap();
}

#[test]
fn both_formats_become_the_same_model_with_averaged_weights() {
    let mut files = Vec::new();
    for format in FORMATS {
        let repository = Repository::new(format, false, &|_, _| {});
        let report = chain(&options(&repository)).unwrap();
        assert_whole(&repository.to(), false, true);
        let names = ["chain.toml", "scale-1.safetensors", "scale-2.safetensors", "scale-3.safetensors"];
        assert_eq!(repository.written(), [&names[..], &["tokenizer.safetensors"]].concat());
        let model = ModelDirectory::open(repository.to()).unwrap();
        assert_eq!(*model.config(), report.config);
        assert_eq!(report.config.schedule, ScheduleValue::Name("geometric".to_owned()));
        assert_eq!((report.config.codebook_size, report.config.grid), (CODES as u32, (4, 4)));
        assert_eq!(report.config.condition, Condition::None);
        let alphas: Vec<f64> = report.config.networks.iter().map(|network| network.alpha).collect();
        assert_eq!(alphas, [0.0, 1.0, 1.0]);
        // What only the config knows of the first stage, and what only the tensors know.
        assert!(report.tokenizer.tanh_out && report.tokenizer.used == Some(5) && report.tokenizer.resolution == 8);
        assert_eq!(report.tokenizer.tensors(), first_stage().tensors());
        for scale in &report.scales {
            let network = network(scale.scales[0], false);
            assert_eq!(scale.parameters as i64, network.parameters());
            assert_eq!((scale.updates, scale.rest.other_weights), (Some(1234), network.tensors().len()));
            assert!(scale.rest.unused.is_empty() && scale.converted.is_empty(), "{:?}", scale.rest);
            assert!(scale.rest.beside.contains(&"optimizer_states".to_owned()));
        }
        assert_eq!(report.scales[2].rest.buffers, 3 + 2 + 2, "schedule, averages' state, masks");
        let text = report.to_string();
        assert!(
            text.contains("a chain of 3 scales, schedule geometric, 4 x 4 tokens of 5 codes, unconditional"),
            "{text}"
        );
        assert!(text.contains("averaged weights over 1234 steps") && report.notes.is_empty(), "{text}");
        files.push(
            repository
                .written()
                .iter()
                .map(|name| std::fs::read(repository.to().join(name)).unwrap())
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(files[0], files[1]);
}

#[test]
fn raw_weights_on_request_and_no_averages_say_so() {
    let repository = Repository::new(Format::Zip, false, &|_, _| {});
    let raw = ImportOptions { weights: ChosenWeights::Raw, ..options(&repository) };
    let report = chain(&raw).unwrap();
    assert_whole(&repository.to(), false, false);
    assert!(report.scales[0].updates.is_none() && report.to_string().contains("weights of the last step"));

    let repository = Repository::new(Format::Zip, false, &|_, state| state.remove_under("transformer_ema."));
    let message = chain(&options(&repository)).unwrap_err().to_string();
    assert!(message.contains("scale1.ckpt has no averaged weights") && message.contains("--weights raw"), "{message}");
    assert!(repository.written().is_empty());
    chain(&ImportOptions { weights: ChosenWeights::Raw, ..options(&repository) }).unwrap();
    assert_whole(&repository.to(), false, false);
}

#[test]
fn without_configs_the_tensors_tell_nearly_all() {
    let repository = Repository::new(Format::Zip, true, &|_, _| {});
    let told = chain(&options(&repository)).unwrap();
    let mut bare = ImportOptions::new(repository.checkpoints(), repository.path("bare"));
    let message = import(&bare).unwrap_err().to_string();
    assert!(
        message.contains("scale1.ckpt") && message.contains("log_scalors") && message.contains("--variant"),
        "{message}"
    );
    bare.variant = Some(Variant::ResidualScaled);
    // 16 heads do not divide 8 channels: no tensor tells the heads of a GPT.
    let message = import(&bare).unwrap_err().to_string();
    assert!(
        message.contains("scale3.ckpt") && message.contains("heads = 16") && message.contains("--config"),
        "{message}"
    );
    (bare.heads, bare.resolution) = (Some(2), Some(8));
    let untold = chain(&bare).unwrap();
    assert_eq!(untold.config, told.config);
    assert_eq!(untold.config.condition, Condition::Class { classes: 7, null: false });
    assert!(untold.notes.iter().any(|note| note.contains("7 input ids for 5 codes")), "{:?}", untold.notes);
    assert!(untold.notes.iter().any(|note| note.contains("do not tell alpha")), "{:?}", untold.notes);
    assert_whole(&repository.path("bare"), true, true);

    bare.classes = Some(6);
    bare.overwrite = true;
    assert_eq!(chain(&bare).unwrap().config.condition, Condition::Class { classes: 6, null: false });
    bare.classes = Some(8);
    assert!(import(&bare).unwrap_err().to_string().contains("--classes 8 is more than the 7 ids"));
}

#[test]
fn the_authors_sampling_file_leads_to_everything() {
    let repository = Repository::new(Format::Zip, false, &|_, _| {});
    let sampling = repository.path("configs/sampling/all.yaml");
    let mut text = std::fs::read_to_string(&sampling).unwrap();
    text.push_str(">\n");
    std::fs::write(&sampling, text).unwrap();
    let mut options = ImportOptions::new(vec![], repository.to());
    options.configs = vec![sampling.clone()];
    let report = chain(&options).unwrap();
    assert_whole(&repository.to(), false, true);
    let [note] = &report.notes[..] else { panic!("{:?}", report.notes) };
    assert!(note.contains("all.yaml:10: a stray \">\""), "{note}");
    assert!(report.to_string().contains(note));

    repository.edit("configs/sampling/all.yaml", "models/scale2.ckpt", "models/none.ckpt");
    options.to = repository.path("other");
    let error = import(&options).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("models/none.ckpt"), "{error}");
    // Checkpoints that lie elsewhere are named.
    options.checkpoints = repository.checkpoints();
    chain(&options).unwrap();
}

#[test]
fn the_configs_say_which_scale_a_checkpoint_is() {
    let repository = Repository::new(Format::Zip, false, &|_, _| {});
    let mut options = options(&repository);
    options.checkpoints.reverse();
    options.configs.reverse();
    chain(&options).unwrap();
    assert_whole(&repository.to(), false, true);
}

#[test]
fn a_joint_model_serves_all_scales() {
    let repository = Repository::new(Format::Zip, false, &|_, _| {});
    let network = network(1, false);
    let mut joint = state(Format::Zip, 1, &network);
    joint.floats("transformer_ema.log_scalors", &[3], &[0.1, 0.2, 0.3]);
    repository.write("models/joint.ckpt", checkpoint(joint));
    repository.write("configs/joint.yaml", yaml(&network, None, false));
    let mut options = ImportOptions::new(vec![repository.path("models/joint.ckpt")], repository.to());
    options.variant = Some(Variant::ResidualScaled);
    let message = import(&options).unwrap_err().to_string();
    assert!(message.contains("one network of a chain of 3 scales") && message.contains("--config"), "{message}");
    options.configs = vec![repository.path("configs/joint.yaml")];
    let report = chain(&options).unwrap();
    assert_eq!(repository.written(), ["chain.toml", "scale-1.safetensors", "tokenizer.safetensors"]);
    assert_eq!(report.config.networks[0].scales, [1, 2, 3]);
    assert_eq!(report.config.networks[0].alpha, 1.0);
    assert!(report.to_string().contains("scales 1, 2, 3 from"), "{report}");
    ModelDirectory::open(repository.to()).unwrap();
}

#[test]
fn half_and_double_precision_become_float32() {
    for (class, name) in [("HalfStorage", "float16"), ("DoubleStorage", "float64")] {
        let repository = Repository::new(Format::Zip, false, &|scale, state| {
            for spec in network(scale, false).tensors() {
                let key = format!("transformer_ema.{}", spec.name.replace('.', ""));
                state.floats_as(class, &key, &spec.shape, &values(&spec.name, scale, true, spec.numel()));
            }
        });
        let report = chain(&options(&repository)).unwrap();
        assert_whole(&repository.to(), false, true);
        let tensors = network(1, false).tensors().len();
        assert_eq!(report.scales[0].converted.get(name), Some(&tensors));
        assert!(
            report.to_string().contains(&format!("{tensors} tensors converted from {name} to float32")),
            "{report}"
        );
    }
}
