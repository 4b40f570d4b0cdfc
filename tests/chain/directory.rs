//! Model directories: written, read back, and refused with a sentence.

use crate::support::{classes, config, encoder_decoder, gpt, row, text, three_scales, unconditional, weights};
use imagebart::chain::directory::{CONFIG_FILE, SCALE_PREFIX};
use imagebart::chain::{Chain, ChainConfig, ModelDirectory, Row, RowCondition, SampleOptions, ScaleSettings, Start};
use imagebart::torch::weights::{Weights, WeightsFile, write};
use imagebart::transformer::Placement;
use imagebart::vqgan::{TokenizerOptions, VqganConfig};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Kind, Tensor};

fn vqgan(codes: i64) -> VqganConfig {
    serde_json::from_value(serde_json::json!({
        "ddconfig": {"z_channels": 8, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1],
                     "num_res_blocks": 1, "attn_resolutions": []},
        "embed_dim": 4, "n_embed": codes}))
    .unwrap()
}

/// A whole model directory.
fn written(config: &ChainConfig) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let codes = vqgan(config.codebook_size.into());
    let tokenizer = Weights::init(&codes.tensors(), 1).unwrap();
    write(root.join("tokenizer.safetensors"), tokenizer.tensors(), &codes.to_metadata()).unwrap();
    ModelDirectory::write_config(root, config, tokenizer.fingerprint()).unwrap();
    for network in &config.networks {
        let weights = weights(network).unwrap();
        ModelDirectory::write_scale(root, network.scales[0], &network.network, weights.tensors()).unwrap();
    }
    folder
}

fn fault(root: &Path) -> String {
    ModelDirectory::open(root).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read_back_and_draws_the_same() {
    let config = three_scales(classes(4, true));
    let folder = written(&config);
    let directory = ModelDirectory::open(folder.path()).unwrap();
    assert_eq!(directory.config(), &config);
    let chain = directory.load(Placement::cpu()).unwrap();
    let in_memory = Chain::new(config, Placement::cpu(), weights).unwrap();
    let rows = [crate::support::row(chain.config(), 0, imagebart::chain::RowCondition::Class(1), Default::default())];
    assert_eq!(chain.sample(&rows).unwrap(), in_memory.sample(&rows).unwrap());
    assert_eq!(chain.fingerprint(), directory.fingerprint().unwrap());
    let tokenizer = directory.load_tokenizer(TokenizerOptions::default()).unwrap();
    assert_eq!(tokenizer.fingerprint(), directory.tokenizer_fingerprint());
    let file = WeightsFile::open(directory.scale_file(2).unwrap()).unwrap();
    assert!(file.names().all(|name| name.starts_with(SCALE_PREFIX)), "the released names");
    assert!(directory.scale_file(4).unwrap_err().to_string().contains("no scale 4 in a chain of 3"));
}

/// Scale by scale, a batch has the tokens and the likelihood that it has on one device.
#[test]
fn parts_of_a_chain_draw_what_the_whole_draws() {
    let mut section = encoder_decoder("residual-scaled");
    section.scales = Some(vec![1, 2]);
    let joint = config(9, [3, 2], vec![section, gpt()], classes(4, true));
    for config in [three_scales(classes(4, true)), joint] {
        let folder = written(&config);
        let directory = ModelDirectory::open(folder.path()).unwrap();
        let whole = directory.load(Placement::cpu()).unwrap();
        let parts = directory.load_apart(|_| Placement::cpu()).unwrap();
        assert_eq!(parts.len(), 3);
        let odd = ScaleSettings { temperature: 0.7, top_k: Some(3), guidance: 2.5, ..ScaleSettings::default() };
        let rows: Vec<Row> = [ScaleSettings::default(), odd, odd]
            .into_iter()
            .enumerate()
            .map(|(index, settings)| row(&config, index, RowCondition::Class(index as u32), settings))
            .collect();
        let mut drawn: Vec<(Vec<u16>, f64)> = Vec::new();
        for (scale, part) in [1, 2, 3].into_iter().zip(&parts).rev() {
            let grids: Vec<&[u16]> = drawn.iter().map(|(tokens, _)| tokens.as_slice()).collect();
            let start = (scale < 3).then_some(Start { scale, grids: &grids });
            let options = SampleOptions { start, end: Some(scale), ..SampleOptions::default() };
            let below = part.sample_scored(&rows, options).unwrap();
            let add = |(index, (tokens, more)): (usize, (Vec<u16>, f64))| {
                (tokens, drawn.get(index).map_or(more, |(_, sum)| sum + more))
            };
            drawn = below.into_iter().enumerate().map(add).collect();
        }
        assert_eq!(drawn, whole.sample_scored(&rows, SampleOptions::default()).unwrap());
        assert!(parts.iter().all(|part| part.fingerprint() == whole.fingerprint()));
        let error = parts[0].sample(&rows).unwrap_err().to_string();
        assert!(error.ends_with("is not in this part of the chain"), "{error}");
        let end = SampleOptions { end: Some(4), ..SampleOptions::default() };
        let error = whole.sample_as(&rows, end).unwrap_err().to_string();
        assert_eq!(error, "the scale to end with, 4, must be 1 to 3, the one to start with");
    }
}

#[test]
fn a_joint_network_is_one_file_named_after_its_first_scale() {
    let mut section = crate::support::encoder_decoder("residual-scaled");
    section.scales = Some(vec![1, 2, 3]);
    let config = crate::support::config(5, [2, 2], vec![section], unconditional());
    let folder = written(&config);
    let directory = ModelDirectory::open(folder.path()).unwrap();
    assert_eq!(directory.config(), &config);
    assert_eq!(directory.scale_file(3).unwrap(), folder.path().join("scale-1.safetensors"));
    let chain = directory.load(Placement::cpu()).unwrap();
    assert_eq!(chain.sample_steps(&crate::support::plain_rows(&config, 2), Default::default()).unwrap().len(), 3);
}

#[test]
fn fingerprints_tell_weights_and_description_but_not_what_only_training_reads() {
    let config = three_scales(unconditional());
    let fingerprint =
        |config: &ChainConfig| ModelDirectory::open(written(config).path()).unwrap().fingerprint().unwrap();
    let base = fingerprint(&config);
    let mut alpha = config.clone();
    alpha.networks[1].alpha = 1.0;
    assert_eq!(fingerprint(&alpha), base);
    let mut schedule = config.clone();
    schedule.schedule = imagebart::config::ScheduleValue::Number(0.5);
    assert_ne!(fingerprint(&schedule), base);
    let folder = written(&config);
    let network = &config.networks[2];
    let other = Weights::init(&network.network.tensors(), 99).unwrap();
    ModelDirectory::write_scale(folder.path(), 3, &network.network, other.tensors()).unwrap();
    assert_ne!(ModelDirectory::open(folder.path()).unwrap().fingerprint().unwrap(), base);
}

/// Rewrites `scale-2.safetensors` with other tensors.
fn change_scale(root: &Path, change: impl Fn(&mut BTreeMap<String, Tensor>)) {
    let path = root.join("scale-2.safetensors");
    let mut tensors = WeightsFile::open(&path).unwrap().load_all().unwrap().into_tensors();
    change(&mut tensors);
    write(&path, &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn tensors_that_do_not_fit_are_named_with_their_file() {
    let folder = written(&three_scales(unconditional()));
    let root = folder.path();
    change_scale(root, |tensors| {
        tensors.remove("transformer.decoder.norm.bias");
        tensors.insert("transformer.decoder.extra".to_owned(), Tensor::zeros([2], (Kind::Float, tch::Device::Cpu)));
        tensors.insert("transformer.log_scalors".to_owned(), Tensor::zeros([4], (Kind::Float, tch::Device::Cpu)));
    });
    let fault = fault(root);
    for part in [
        "scale-2.safetensors",
        "missing (1): transformer.decoder.norm.bias",
        "mismatched (1): transformer.log_scalors (is [4], must be [3])",
        "unused (1): transformer.decoder.extra",
    ] {
        assert!(fault.contains(part), "{fault}");
    }
    std::fs::remove_file(root.join("scale-2.safetensors")).unwrap();
    assert!(self::fault(root).contains("scale-2.safetensors"), "a missing file");
    assert!(ModelDirectory::describe(root).is_ok(), "the description alone needs no weights");
    let error =
        ModelDirectory::write_scale(root, 2, &three_scales(unconditional()).networks[1].network, &BTreeMap::new());
    assert!(error.unwrap_err().to_string().contains("missing ("));
}

#[test]
fn a_tokenizer_that_is_not_the_chains_is_refused() {
    let folder = written(&three_scales(unconditional()));
    let root = folder.path();
    let directory = ModelDirectory::open(root).unwrap();
    assert!(directory.check_image_size((6, 4)).is_ok());
    let error = directory.check_image_size((16, 16)).unwrap_err().to_string();
    assert!(error.contains("chain.grid = [3, 2], but images of 16x16 pixels have 8x8 tokens"), "{error}");

    let write_tokenizer = |codes, seed| {
        let config = vqgan(codes);
        let weights = Weights::init(&config.tensors(), seed).unwrap();
        write(root.join("tokenizer.safetensors"), weights.tensors(), &config.to_metadata()).unwrap();
    };
    write_tokenizer(9, 2);
    let error = directory.load_tokenizer(TokenizerOptions::default()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.safetensors: its weights have the fingerprint"), "{error}");
    write_tokenizer(12, 1);
    let error = fault(root);
    let expected = "tokenizer.safetensors: quantize.embedding.weight gives 12 codes, but chain.codebook_size is 9 in";
    assert!(error.contains(expected), "{error}");
    std::fs::remove_file(root.join("tokenizer.safetensors")).unwrap();
    assert!(fault(root).contains("tokenizer.safetensors"));
}

/// `chain.toml` with one text replaced by another.
fn edited(root: &Path, from: &str, to: &str) -> String {
    let path = root.join(CONFIG_FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    let fault = fault(root);
    std::fs::write(&path, text).unwrap();
    fault
}

#[test]
fn mistakes_in_the_description_name_file_and_key() {
    let folder = written(&three_scales(unconditional()));
    let root = folder.path();
    let cases = [
        ("\"geometric\"", "\"alphacum:1,0.5,0\"", "chain.toml: chain.schedule: the schedule lists 3 cumulative alphas"),
        ("\"geometric\"", "\"geometrical\"", "chain.toml: chain.schedule: unknown schedule \"geometrical\""),
        ("codebook_size = 9", "codebook_size = 0", "chain.toml: chain.codebook_size: is not given"),
        ("codebook_size = 9", "codebook_size = 8", "scale-1.safetensors"),
        ("format = 1", "format = 2", "chain.toml: format = 2; this version reads format 1"),
        ("grid = [", "gird = [", "chain.toml:7: unknown key `gird` in [chain]; did you mean `grid`?"),
        ("dim = 16", "dim = -1", "chain.toml:"),
        ("network = \"gpt\"", "network = \"gpt2\"", "chain.scale number 3: network: \"gpt2\" is not one of"),
        ("[chain]", "[chain", "chain.toml:"),
    ];
    for (from, to, expected) in cases {
        let fault = edited(root, from, to);
        assert!(fault.contains(expected), "{fault}");
    }
    std::fs::remove_file(root.join(CONFIG_FILE)).unwrap();
    assert!(fault(root).starts_with("cannot read "), "{}", fault(root));
}

#[test]
fn a_text_chain_needs_its_text_tokenizer() {
    let folder = written(&three_scales(text(20, 4)));
    let error = fault(folder.path());
    assert!(error.contains("text-tokenizer.json is missing: condition.kind = \"text\" in"), "{error}");
    std::fs::write(folder.path().join("text-tokenizer.json"), "{}").unwrap();
    let directory = ModelDirectory::open(folder.path()).unwrap();
    let before = directory.fingerprint().unwrap();
    std::fs::write(folder.path().join("text-tokenizer.json"), "{ }").unwrap();
    assert_ne!(directory.fingerprint().unwrap(), before, "the same weights mean other texts");
}

#[test]
fn a_description_that_would_be_read_otherwise_is_not_written() {
    let mut config = three_scales(unconditional());
    let folder = tempfile::tempdir().unwrap();
    if let imagebart::transformer::NetworkConfig::EncoderDecoder(network) = &mut config.networks[1].network {
        network.scales = 7;
    }
    let error = ModelDirectory::write_config(folder.path(), &config, "x").unwrap_err().to_string();
    assert!(error.contains("chain.scale number 2"), "{error}");
    assert!(!folder.path().join(CONFIG_FILE).exists());
}
