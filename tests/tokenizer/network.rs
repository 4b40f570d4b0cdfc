//! The tokenizer from outside: its configuration, its errors, and what its tokens may depend on.

use imagebart::random::RowKey;
use imagebart::torch::weights::{Weights, write};
use imagebart::vqgan::ops::Layout;
use imagebart::vqgan::tokenizer::normalise;
use imagebart::vqgan::{Tokenizer, TokenizerError, TokenizerOptions, VqganConfig};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// A small network; the JSON is the authors' ddconfig.
fn config(changes: &[(&str, serde_json::Value)]) -> Result<VqganConfig, serde_json::Error> {
    let mut json = serde_json::json!({
        "ddconfig": {"double_z": false, "z_channels": 8, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "dropout": 0.0},
        "embed_dim": 8, "n_embed": 32,
    });
    for (pointer, value) in changes {
        *json.pointer_mut(pointer).unwrap() = value.clone();
    }
    serde_json::from_value(json)
}

fn remapped() -> VqganConfig {
    VqganConfig { used: Some(5), ..config(&[]).unwrap() }
}

/// Random weights, the codebook as wide as the features, so that many entries are used.
fn tokenizer(config: VqganConfig, options: TokenizerOptions) -> Tokenizer {
    let mut tensors = Weights::init(&config.tensors(), 3).unwrap().into_tensors();
    if let Some(codebook) = tensors.get_mut("quantize.embedding.weight") {
        *codebook *= 20.0;
    }
    let weights = Weights::from_tensors("random", tensors).unwrap();
    Tokenizer::new(config, &weights, options).unwrap()
}

fn picture(seed: u64, bytes: usize) -> Vec<u8> {
    let row = RowKey::new(seed, "picture", 0, 0);
    (0..bytes as u32).map(|at| row.below(imagebart::random::Purpose::Init, at, 256) as u8).collect()
}

fn row(index: u64) -> RowKey {
    RowKey::new(1, "unit", index, 0)
}

#[test]
fn pixels_are_normalised_as_the_authors_do_bit_for_bit() {
    let bytes: Vec<u8> = (0..=255).flat_map(|value| [value; 3]).collect();
    let pixels = Tensor::from_data_size(&bytes, &[1, 16, 16, 3], Kind::Uint8);
    let ours = Vec::<f32>::try_from(normalise(&pixels).unwrap().permute([0, 2, 3, 1]).flatten(0, -1)).unwrap();
    for (byte, ours) in bytes.iter().zip(ours) {
        let authors = (f64::from(*byte) / 127.5 - 1.0) as f32;
        assert_eq!(ours.to_bits(), authors.to_bits(), "pixel {byte}");
        // CUDA divides by a scalar as a product with its reciprocal: the same float32 for all 256 values.
        let product = (f64::from(*byte) * (1.0 / 127.5) - 1.0) as f32;
        assert_eq!(product.to_bits(), authors.to_bits(), "pixel {byte}");
    }
}

#[test]
fn a_batch_gives_each_image_the_tokens_it_has_alone() {
    let tokenizer = tokenizer(remapped(), TokenizerOptions::default());
    assert_eq!(tokenizer.codebook_size(), 5);
    assert_eq!(tokenizer.grid(16, 24).unwrap(), (4, 6));
    let pictures: Vec<Vec<u8>> = (0..3).map(|seed| picture(seed, 16 * 24 * 3)).collect();
    let images: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
    let rows: Vec<RowKey> = (0..3).map(row).collect();
    let batch = tokenizer.encode(&images, (16, 24), &rows).unwrap();
    for index in 0..3 {
        let alone = tokenizer.encode(&images[index..=index], (16, 24), &rows[index..=index]).unwrap();
        assert_eq!(alone[0], batch[index]);
        assert_eq!(batch[index].len(), 24);
        assert!(batch[index].iter().all(|&token| token < 5));
    }
    assert!(tokenizer.encode(&[], (16, 24), &[]).unwrap().is_empty());
}

#[test]
fn outliers_are_drawn_by_row_and_other_tokens_are_not() {
    let full = tokenizer(config(&[]).unwrap(), TokenizerOptions::default());
    let remapped = tokenizer(remapped(), TokenizerOptions::default());
    let picture = picture(9, 64 * 64 * 3);
    let tokens = |tokenizer: &Tokenizer, row| tokenizer.encode(&[&picture], (64, 64), &[row]).unwrap().remove(0);
    // `used` is 0, 1, 2, 3, 4 here: an index below 5 keeps its number, any other is an outlier.
    let (indices, first, second) = (tokens(&full, row(0)), tokens(&remapped, row(0)), tokens(&remapped, row(1)));
    let outliers: Vec<usize> = (0..indices.len()).filter(|&at| indices[at] >= 5).collect();
    assert!(outliers.len() > 20 && outliers.len() < indices.len(), "{} outliers", outliers.len());
    for at in 0..indices.len() {
        if indices[at] < 5 {
            assert_eq!((first[at], second[at]), (indices[at], indices[at]));
        }
    }
    assert!(outliers.iter().any(|&at| first[at] != second[at]));
    assert_eq!(first, tokens(&remapped, row(0)));
}

#[test]
fn both_memory_layouts_give_the_same_tokens() {
    let options = TokenizerOptions { layout: Layout::Contiguous, ..TokenizerOptions::default() };
    let picture = picture(4, 32 * 32 * 3);
    let [plain, last] = [options, TokenizerOptions::default()]
        .map(|options| tokenizer(remapped(), options).encode(&[&picture], (32, 32), &[row(0)]).unwrap());
    assert_eq!(plain, last);
}

#[test]
fn groups_are_tamings_unless_the_shape_has_others() {
    let shape = config(&[]).unwrap();
    assert_eq!(shape.norm_groups, 32);
    assert!(!shape.to_metadata()["ddconfig"].contains("norm_groups"), "taming refuses keys that it does not know");
    let grouped = |norm_groups| VqganConfig { norm_groups, ..shape.clone() };
    let written = grouped(8).to_metadata();
    assert_eq!(VqganConfig::from_metadata(&written).unwrap(), Some(grouped(8)));
    assert_eq!(grouped(8).tensors(), shape.tensors());
    let decoded = |config: VqganConfig, layout| {
        let options = TokenizerOptions { layout, ..TokenizerOptions::default() };
        tokenizer(config, options).decode(&[&[0, 1, 2, 3]], (2, 2)).unwrap()
    };
    for groups in [8, 0] {
        let [plain, last] = [Layout::Contiguous, Layout::ChannelsLast].map(|layout| decoded(grouped(groups), layout));
        let off = plain[0].pixels.iter().zip(&last[0].pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(off <= Some(1), "of {groups} groups, libtorch's norm and the kernels' are {off:?} levels apart");
        assert_ne!(last, decoded(grouped(32), Layout::ChannelsLast), "{groups} groups");
    }
}

#[test]
fn tokens_decode_to_pictures_and_are_checked() {
    let tokenizer = tokenizer(remapped(), TokenizerOptions::default());
    let pictures = tokenizer.decode(&[&[0, 1, 2, 3, 4, 0], &[4; 6]], (2, 3)).unwrap();
    assert_eq!((pictures.len(), pictures[0].width, pictures[0].height), (2, 12, 8));
    assert_eq!(pictures[0].pixels.len(), 12 * 8 * 3);
    assert_ne!(pictures[0], pictures[1]);
    let error = tokenizer.decode(&[&[0, 1, 2, 3, 4, 5]], (2, 3)).unwrap_err();
    assert!(matches!(error, TokenizerError::Token { grid: 0, token: 5, ids: 5 }), "{error}");
    let error = tokenizer.decode(&[&[0; 5]], (2, 3)).unwrap_err();
    assert!(matches!(error, TokenizerError::Grid { found: 5, expected: 6, .. }), "{error}");
    assert!(tokenizer.decode(&[&[]], (0, 3)).is_err());
}

#[test]
fn a_gumbel_tokenizer_draws_by_row() {
    let config = VqganConfig { gumbel: true, ..config(&[]).unwrap() };
    let noisy = tokenizer(config.clone(), TokenizerOptions::default());
    let quiet = tokenizer(config, TokenizerOptions { gumbel_noise: false, ..TokenizerOptions::default() });
    let picture = picture(2, 16 * 16 * 3);
    let tokens = |tokenizer: &Tokenizer, index| tokenizer.encode(&[&picture], (16, 16), &[row(index)]).unwrap();
    assert_eq!(tokens(&noisy, 0), tokens(&noisy, 0));
    assert_ne!(tokens(&noisy, 0), tokens(&noisy, 1));
    assert_eq!(tokens(&quiet, 0), tokens(&quiet, 1));
}

#[test]
fn bf16_runs_behind_the_same_interface() {
    let options = TokenizerOptions { dtype: imagebart::config::DType::Bf16, ..TokenizerOptions::default() };
    let tokenizer = tokenizer(remapped(), options);
    let tokens = tokenizer.encode(&[&picture(4, 32 * 32 * 3)], (32, 32), &[row(0)]).unwrap();
    assert_eq!(tokens[0].len(), 64);
    assert_eq!(tokenizer.decode(&[&tokens[0]], (8, 8)).unwrap()[0].pixels.len(), 32 * 32 * 3);
}

#[test]
fn numbers_that_are_not_finite_are_an_error_that_names_the_images() {
    let config = remapped();
    let mut tensors = Weights::init(&config.tensors(), 3).unwrap().into_tensors();
    tensors.insert("quant_conv.bias".to_owned(), Tensor::from_slice(&[f32::NAN; 8]));
    let weights = Weights::from_tensors("broken", tensors).unwrap();
    let tokenizer = Tokenizer::new(config, &weights, TokenizerOptions::default()).unwrap();
    let picture = picture(1, 16 * 16 * 3);
    let error = tokenizer.encode(&[&picture, &picture], (16, 16), &[row(0), row(1)]).unwrap_err();
    assert!(matches!(&error, TokenizerError::NotFinite(images) if images == &[0, 1]), "{error}");
}

#[test]
fn wrong_batches_are_refused() {
    let tokenizer = tokenizer(remapped(), TokenizerOptions::default());
    let picture = picture(1, 16 * 16 * 3);
    let error = tokenizer.encode(&[&picture], (16, 18), &[row(0)]).unwrap_err();
    assert!(matches!(error, TokenizerError::Size { width: 18, height: 16, factor: 4 }), "{error}");
    let error = tokenizer.encode(&[&picture[1..]], (16, 16), &[row(0)]).unwrap_err();
    assert!(matches!(error, TokenizerError::Bytes { image: 0, found: 767, expected: 768, .. }), "{error}");
    let error = tokenizer.encode(&[&picture], (16, 16), &[]).unwrap_err();
    assert!(matches!(error, TokenizerError::Rows { images: 1, rows: 0 }), "{error}");
    assert!(tokenizer.grid(0, 16).is_err());
}

#[test]
fn the_shape_comes_from_the_file_else_from_the_user_else_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let config = remapped();
    let weights = Weights::init(&config.tensors(), 3).unwrap();
    let [bare, described] = ["bare", "described"].map(|name| folder.path().join(name));
    write(&bare, weights.tensors(), &BTreeMap::new()).unwrap();
    write(&described, weights.tensors(), &config.to_metadata()).unwrap();
    let options = TokenizerOptions::default();
    let from_file = Tokenizer::load(&described, None, options).unwrap();
    // A released config does not say how many entries are in use; the tensor does.
    let from_user = Tokenizer::load(&bare, Some(VqganConfig { used: None, ..config.clone() }), options).unwrap();
    for tokenizer in [&from_file, &from_user] {
        assert_eq!(tokenizer.config(), &config);
        assert_eq!(tokenizer.fingerprint(), weights.fingerprint());
    }
    let message = Tokenizer::load(&bare, None, options).unwrap_err().to_string();
    assert!(message.contains("bare") && message.contains("metadata") && message.contains("pipeline"), "{message}");
    let other = VqganConfig { n_embed: 64, ..config };
    let message = Tokenizer::load(&bare, Some(other), options).unwrap_err().to_string();
    assert!(message.contains("quantize.embedding.weight (is [32, 8], must be [64, 8])"), "{message}");
}

#[test]
fn impossible_shapes_are_refused_with_the_key() {
    let cases = [
        ("/ddconfig/ch", serde_json::json!(20), "ch_mult"),
        ("/ddconfig/ch", serde_json::json!(i64::MAX), "ch"),
        ("/ddconfig/dropout", serde_json::json!(1.5), "dropout"),
        ("/ddconfig/ch_mult", serde_json::json!([]), "ch_mult"),
        ("/ddconfig/ch_mult", serde_json::json!([1, -1]), "ch_mult"),
        ("/ddconfig/double_z", serde_json::json!(true), "double_z"),
        ("/ddconfig/in_channels", serde_json::json!(1), "in_channels"),
        ("/ddconfig/num_res_blocks", serde_json::json!(0), "num_res_blocks"),
        ("/n_embed", serde_json::json!(100_000), "n_embed"),
        ("/embed_dim", serde_json::json!("8"), "8"),
    ];
    for (pointer, value, key) in cases {
        let error = config(&[(pointer, value)]).unwrap_err().to_string();
        assert!(error.contains(key), "{pointer}: {error}");
    }
    for groups in [-1, 24, i64::MAX] {
        let mut json = serde_json::json!(config(&[]).unwrap());
        json["ddconfig"]["norm_groups"] = groups.into();
        assert!(serde_json::from_value::<VqganConfig>(json).is_err(), "{groups}");
    }
    let mut json = serde_json::json!(config(&[]).unwrap());
    json["ddconfig"]["chanels"] = 3.into();
    let error = serde_json::from_value::<VqganConfig>(json).unwrap_err().to_string();
    assert!(error.contains("chanels"), "{error}");
}

#[test]
fn shapes_survive_metadata() {
    for gumbel in [false, true] {
        let config = VqganConfig { gumbel, tanh_out: true, ..remapped() };
        assert_eq!(VqganConfig::from_metadata(&config.to_metadata()).unwrap(), Some(config));
    }
    assert_eq!(VqganConfig::from_metadata(&BTreeMap::new()).unwrap(), None);
    let half = BTreeMap::from([("ddconfig".to_owned(), "{}".to_owned())]);
    assert!(VqganConfig::from_metadata(&half).is_err());
}
