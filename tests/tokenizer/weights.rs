//! Weights files: what is written is read back, and what is wrong is named.

use imagebart::torch::weights::{Init, TensorSpec, Weights, WeightsError, WeightsFile, write};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use tch::{Kind, Tensor};

fn specs() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("conv.weight", &[4, 3, 2, 2], Init::Uniform(0.5)),
        TensorSpec::new("conv.bias", &[4], Init::Normal(0.02)),
        TensorSpec::new("norm.weight", &[3], Init::Constant(1.0)),
        TensorSpec::new("used", &[5], Init::Range),
    ]
}

/// A fresh file of `specs()` in a folder of its own.
fn written() -> (tempfile::TempDir, PathBuf, Weights) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let weights = Weights::init(&specs(), 7).unwrap();
    let metadata = BTreeMap::from([("n_embed".to_owned(), "5".to_owned())]);
    write(&path, weights.tensors(), &metadata).unwrap();
    (folder, path, weights)
}

#[test]
fn what_is_written_is_read_back() {
    let (_folder, path, weights) = written();
    let mut file = WeightsFile::open(&path).unwrap();
    assert_eq!(file.metadata()["n_embed"], "5");
    assert_eq!(file.shape("conv.weight"), Some(vec![4, 3, 2, 2]));
    let read = file.load(&specs()).unwrap();
    for (name, tensor) in weights.tensors() {
        assert!(read.get(name).unwrap().equal(tensor), "{name}");
    }
    assert_eq!(read.fingerprint(), weights.fingerprint());
    assert_eq!(read.metadata()["n_embed"], "5");
    // Any other reader of the format takes it too.
    let bytes = fs::read(&path).unwrap();
    assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().len(), 4);
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    let (_a, first, _) = written();
    let (_b, second, _) = written();
    assert_eq!(fs::read(first).unwrap(), fs::read(second).unwrap());
}

#[test]
fn the_fingerprint_is_of_names_shapes_types_and_values() {
    let base = BTreeMap::from([("a".to_owned(), Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]))]);
    let fingerprint = |tensors: &BTreeMap<String, Tensor>| {
        let copy = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        Weights::from_tensors("test", copy).unwrap().fingerprint().to_owned()
    };
    assert_eq!(fingerprint(&base).len(), 64);
    let variants = [
        BTreeMap::from([("b".to_owned(), base["a"].shallow_clone())]),
        BTreeMap::from([("a".to_owned(), base["a"].view([2, 2]))]),
        BTreeMap::from([("a".to_owned(), base["a"].to_kind(Kind::Double))]),
        BTreeMap::from([("a".to_owned(), &base["a"] + 1.0)]),
    ];
    for variant in &variants {
        assert_ne!(fingerprint(&base), fingerprint(variant));
    }
}

#[test]
fn every_difference_is_named() {
    let (_folder, path, _) = written();
    let mut other = specs();
    other[0].shape = vec![4, 3, 3, 3];
    other[1].name = "conv.offset".to_owned();
    other[3].init = Init::Constant(0.0);
    let error = WeightsFile::open(&path).unwrap().load(&other).unwrap_err();
    let WeightsError::Mismatch { ref differences, .. } = error else { panic!("{error}") };
    assert_eq!(differences.missing, ["conv.offset"]);
    assert_eq!(differences.unused, ["conv.bias"]);
    assert_eq!(differences.mismatched.len(), 2);
    let message = error.to_string();
    for part in
        ["w.safetensors", "conv.offset", "conv.bias", "conv.weight (is [4, 3, 2, 2], must be [4, 3, 3, 3])", "used"]
    {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn half_precision_weights_become_float32() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.safetensors");
    let tensors = BTreeMap::from([("a".to_owned(), Tensor::from_slice(&[0.5f32, -2.0]).to_kind(Kind::BFloat16))]);
    write(&path, &tensors, &BTreeMap::new()).unwrap();
    let weights = WeightsFile::open(&path).unwrap().load(&[TensorSpec::new("a", &[2], Init::Constant(0.0))]).unwrap();
    assert_eq!(weights.get("a").unwrap().kind(), Kind::Float);
    assert_eq!(Vec::<f32>::try_from(weights.get("a").unwrap()).unwrap(), [0.5, -2.0]);
}

#[test]
fn damaged_files_are_refused_by_name() {
    let (folder, path, _) = written();
    let whole = fs::read(&path).unwrap();
    let huge_header = [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat();
    let overlong_header = [&(1u64 << 26).to_le_bytes()[..], &whole[8..]].concat();
    // A tensor that claims more elements than there are bytes.
    let lying = String::from_utf8_lossy(&whole).replace("[4,3,2,2]", "[9,9,9,9]");
    let damaged: [(&str, &[u8]); 7] = [
        ("empty", b""),
        ("short", &whole[..5]),
        ("cut", &whole[..whole.len() - 1]),
        ("huge", &huge_header),
        ("overlong", &overlong_header),
        ("lying", lying.as_bytes()),
        ("text", b"not a safetensors file at all"),
    ];
    for (name, bytes) in damaged {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = WeightsFile::open(&path).unwrap_err();
        assert!(matches!(error, WeightsError::NotSafetensors { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(matches!(WeightsFile::open(folder.path().join("none")), Err(WeightsError::Open { .. })));
}

#[test]
fn a_missing_tensor_is_named_with_its_file() {
    let (_folder, path, _) = written();
    let error = WeightsFile::open(&path).unwrap().read("nowhere").unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("w.safetensors"), "{error}");
}

#[test]
fn fresh_weights_depend_on_name_and_seed_and_keep_their_bounds() {
    let spec = TensorSpec::new("a", &[20_000], Init::Uniform(0.25));
    let values = |seed, spec: &TensorSpec| Vec::<f32>::try_from(spec.fill(seed).unwrap()).unwrap();
    let first = values(1, &spec);
    assert_eq!(first, values(1, &spec));
    assert_ne!(first, values(2, &spec));
    assert_ne!(first, values(1, &TensorSpec { name: "b".to_owned(), ..spec.clone() }));
    assert!(first.iter().all(|value| value.abs() <= 0.25));
    let normal = TensorSpec { init: Init::Normal(2.0), ..spec }.fill(1).unwrap();
    let (mean, deviation) = (normal.mean(Kind::Double).double_value(&[]), normal.std(true).double_value(&[]));
    assert!(mean.abs() < 0.05 && (deviation - 2.0).abs() < 0.05, "mean {mean}, standard deviation {deviation}");
}
