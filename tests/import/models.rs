//! `imagebart import` from outside: PyTorch checkpoints in, safetensors and a report out.

use crate::pytorch::{FORMATS, Format, Py, Storage, attacks, call, foreign, ordered_dict, save};
use half::{bf16, f16};
use imagebart::jobs::import::{ImportError, ImportOptions, ImportReport, Imported, import};
use imagebart::torch::weights::TensorSpec;
use imagebart::vqgan::VqganConfig;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A whole VQGAN, but small.
fn config() -> VqganConfig {
    let text = r#"{"ddconfig": {"z_channels": 8, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2],
        "num_res_blocks": 1, "attn_resolutions": [128]}, "embed_dim": 4, "n_embed": 16, "used": 5}"#;
    serde_json::from_str(text).unwrap()
}

/// Numbers that f16 and bf16 hold exactly, so that conversions can be compared.
fn values(spec: &TensorSpec) -> Vec<f32> {
    let seed = spec.name.len() as i64;
    (0..spec.numel()).map(|at| ((at * 7 + seed) % 200 - 100) as f32 / 64.0).collect()
}

type Change<'a> = &'a dyn Fn(&mut Vec<(String, Py)>, &mut Vec<Storage>);

/// A Lightning checkpoint of the network: names with `prefix`, numbers of `class`, foreign objects beside.
fn checkpoint(format: Format, prefix: &str, class: &'static str, change: Change) -> Vec<u8> {
    let (mut state, mut storages) = (Vec::new(), Vec::new());
    for spec in config().tensors() {
        let key = storages.len();
        let storage = if spec.is_integer() {
            Storage::longs(key, &[1, 3, 4, 9, 15])
        } else {
            let bytes = values(&spec).into_iter().flat_map(|value| match class {
                "HalfStorage" => f16::from_f32(value).to_le_bytes().to_vec(),
                "BFloat16Storage" => bf16::from_f32(value).to_le_bytes().to_vec(),
                "DoubleStorage" => f64::from(value).to_le_bytes().to_vec(),
                _ => value.to_le_bytes().to_vec(),
            });
            Storage { class, key: key.to_string(), elements: spec.numel(), bytes: bytes.collect() }
        };
        state.push((format!("{prefix}{}", spec.name), storage.whole(format, &spec.shape)));
        storages.push(storage);
    }
    let loss = Storage::floats(storages.len(), &[0.5; 6]);
    for name in ["loss.discriminator.main.0.weight", "loss.discriminator.main.2.weight", "loss.perceptual_loss.lin0"] {
        state.push((format!("{prefix}{name}"), loss.whole(format, &[6])));
    }
    storages.push(loss);
    change(&mut state, &mut storages);
    let state = ordered_dict(state.into_iter().map(|(key, value)| (Py::Str(key), value)).collect());
    let callback = foreign("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", vec![]);
    let object = Py::Dict(vec![
        ("epoch".into(), Py::Int(12)),
        ("state_dict".into(), state),
        ("callbacks".into(), Py::List(vec![callback])),
        ("hparams".into(), foreign("omegaconf.dictconfig", "DictConfig", vec![("_metadata".into(), Py::None)])),
    ]);
    save(format, &object, &storages)
}

fn unchanged(_: &mut Vec<(String, Py)>, _: &mut Vec<Storage>) {}

/// A folder with a checkpoint, to be imported into its folder `model`.
struct Case {
    folder: tempfile::TempDir,
    options: ImportOptions,
}

impl Case {
    fn new(bytes: &[u8]) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vqgan.ckpt");
        std::fs::write(&path, bytes).unwrap();
        let options = ImportOptions::new(vec![path], folder.path().join("model"));
        Case { folder, options }
    }

    fn import(&self) -> Result<ImportReport, ImportError> {
        import(&self.options).map(|imported| tokenizers(imported).remove(0))
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("model/tokenizer.safetensors")
    }

    /// The message of an import that fails and leaves nothing behind.
    fn refused(&self) -> String {
        let message = self.import().unwrap_err().to_string();
        let left = std::fs::read_dir(self.folder.path().join("model")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{message}");
        message
    }
}

/// The reports of VQGANs alone.
fn tokenizers(imported: Imported) -> Vec<ImportReport> {
    match imported {
        Imported::Tokenizers(reports) => reports,
        Imported::Chain(report) => panic!("{report}"),
    }
}

/// The file holds exactly the network's tensors, with these numbers, and its shape.
fn assert_whole(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for spec in config().tensors() {
        let tensor = file.tensor(&spec.name).unwrap();
        let shape: Vec<i64> = tensor.shape().iter().map(|&side| side as i64).collect();
        assert_eq!(shape, spec.shape, "{}", spec.name);
        let expected: Vec<u8> = if spec.is_integer() {
            [1i64, 3, 4, 9, 15].iter().flat_map(|id| id.to_le_bytes()).collect()
        } else {
            values(&spec).iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        assert_eq!(tensor.dtype(), if spec.is_integer() { Dtype::I64 } else { Dtype::F32 });
        assert_eq!(tensor.data(), expected, "{}", spec.name);
    }
    assert_eq!(file.len(), config().tensors().len());
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata: BTreeMap<String, String> = header.metadata().clone().unwrap().into_iter().collect();
    assert_eq!(VqganConfig::from_metadata(&metadata).unwrap(), Some(config()));
}

#[test]
fn a_lightning_file_of_either_format_becomes_the_same_safetensors() {
    let mut files = Vec::new();
    for format in FORMATS {
        for prefix in ["", "first_stage_model."] {
            let case = Case::new(&checkpoint(format, prefix, "FloatStorage", &unchanged));
            let report = case.import().unwrap();
            assert_whole(&case.target());
            assert_eq!(report.first_stage, !prefix.is_empty());
            assert_eq!(report.tensors, config().tensors().len());
            assert_eq!(report.bytes, std::fs::metadata(case.target()).unwrap().len());
            assert_eq!(report.dropped.len(), 3);
            assert_eq!(report.beside, ["epoch", "callbacks", "hparams"]);
            assert!(report.unused.is_empty() && report.outside.is_empty() && report.converted.is_empty());
            let text = report.to_string();
            assert!(!text.ends_with('\n') && text.lines().count() == 6, "{text}");
            assert!(text.contains("ch_mult [1, 2]") && text.contains("5 in use"), "{text}");
            assert!(text.contains(&format!("dropped, needed for training only (3): {prefix}loss")), "{text}");
            files.push(std::fs::read(case.target()).unwrap());
        }
    }
    assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn other_floating_point_numbers_become_float32_and_the_report_says_so() {
    let floats = config().tensors().len() - 1;
    for (class, name) in [("HalfStorage", "float16"), ("BFloat16Storage", "bfloat16"), ("DoubleStorage", "float64")] {
        let case = Case::new(&checkpoint(Format::Zip, "", class, &unchanged));
        let report = case.import().unwrap();
        assert_whole(&case.target());
        assert_eq!(report.converted, BTreeMap::from([(name.to_owned(), floats)]));
        let line = format!("{floats} tensors converted from {name} to float32");
        assert!(report.to_string().contains(&line), "{report}");
    }
}

#[test]
fn what_a_vqgan_does_not_have_is_named_and_left_out() {
    let mut case = Case::new(&checkpoint(Format::Zip, "first_stage_model.", "FloatStorage", &|state, storages| {
        let extra = Storage::floats("extra", &[1.0, 2.0]);
        for name in ["first_stage_model.colorize", "transformer.a.b.weight", "transformer.a.b.bias", "sos_token"] {
            state.push((name.to_owned(), extra.whole(Format::Zip, &[2])));
        }
        storages.push(extra);
    }));
    case.options.tokenizer_only = true;
    let report = case.import().unwrap();
    assert_whole(&case.target());
    assert_eq!(report.unused, ["colorize"]);
    assert_eq!(report.outside, ["sos_token", "transformer.a.b.bias", "transformer.a.b.weight"]);
    let text = report.to_string();
    assert!(text.contains("unused (1): colorize"), "{text}");
    assert!(text.contains("left out, of the larger model (3): sos_token, transformer.a.* (2)"), "{text}");
}

#[test]
fn missing_and_mismatched_tensors_are_named_and_nothing_is_written() {
    let case = Case::new(&checkpoint(Format::Zip, "", "FloatStorage", &|state, _| {
        state.retain(|(name, _)| name != "decoder.mid.attn_1.q.weight" && name != "encoder.norm_out.bias");
        let wrong = state.iter().find(|(name, _)| name == "decoder.conv_out.bias").unwrap().1.clone();
        state.iter_mut().find(|(name, _)| name == "encoder.mid.attn_1.k.bias").unwrap().1 = wrong;
        let floats = state.iter().find(|(name, _)| name == "quant_conv.bias").unwrap().1.clone();
        state.iter_mut().find(|(name, _)| name == "quantize.used").unwrap().1 = floats;
    }));
    let message = case.refused();
    assert!(message.contains("missing (2): decoder.mid.attn_1.q.weight, encoder.norm_out.bias"), "{message}");
    assert!(message.contains("mismatched (2): encoder.mid.attn_1.k.bias (is [3], must be [64])"), "{message}");
    assert!(message.contains("quantize.used (must hold integers)"), "{message}");
    assert!(message.contains("vqgan.ckpt"), "{message}");
}

#[test]
fn a_tensor_that_needs_an_unknown_callable_is_refused_by_both_names() {
    for name in ["decoder.conv_in.weight", "encoder.conv_in.weight", "quantize.embedding.weight"] {
        let case = Case::new(&checkpoint(Format::Zip, "", "FloatStorage", &|state, _| {
            let value = &mut state.iter_mut().find(|(key, _)| key == name).unwrap().1;
            *value = call("my.tensors", "rebuild", vec![value.clone()]);
        }));
        let message = case.refused();
        assert!(message.contains(&format!("tensor {name} of")) && message.contains("my.tensors.rebuild"), "{message}");
    }
    // Where it is not needed it does not matter.
    let case = Case::new(&checkpoint(Format::Zip, "", "FloatStorage", &|state, _| {
        state.push(("loss.extra".to_owned(), call("my.tensors", "rebuild", vec![])));
    }));
    assert_eq!(case.import().unwrap().dropped.len(), 4);
}

#[test]
fn attacks_and_other_networks_leave_nothing_behind() {
    for (name, attack) in attacks() {
        let case = Case::new(&checkpoint(Format::Zip, "", "FloatStorage", &|state, _| {
            state.push(("x".to_owned(), attack.clone()));
        }));
        let message = case.refused();
        assert!(message.contains("refused") && message.contains(name), "{message}");
    }
    let storage = Storage::floats(0, &[1.0]);
    let other = save(Format::Zip, &Py::Dict(vec![("fc.weight".into(), storage.whole(Format::Zip, &[1]))]), &[storage]);
    let message = Case::new(&other).refused();
    assert!(message.contains("holds no VQGAN") && message.contains("encoder.conv_in.weight"), "{message}");
}

#[test]
fn targets_are_checked_before_any_work() {
    let bytes = checkpoint(Format::Zip, "", "FloatStorage", &unchanged);
    let mut case = Case::new(&bytes);
    case.import().unwrap();
    let first = std::fs::read(case.target()).unwrap();
    std::fs::write(case.target(), b"mine").unwrap();
    let message = case.import().unwrap_err().to_string();
    assert!(case.import().unwrap_err().is_usage());
    assert!(message.contains("--overwrite") && message.contains("tokenizer.safetensors"), "{message}");
    assert_eq!(std::fs::read(case.target()).unwrap(), b"mine");
    case.options.overwrite = true;
    case.import().unwrap();
    assert_eq!(std::fs::read(case.target()).unwrap(), first);

    assert!(matches!(import(&ImportOptions::new(vec![], "x")), Err(ImportError::Nothing)));
    let url = import(&ImportOptions::new(vec!["a.ckpt".into()], "s3://bucket/model")).unwrap_err();
    assert!(matches!(url, ImportError::NotLocal(_)), "{url}");
    let mut options = ImportOptions::new(vec!["a/m.ckpt".into(), "b/m.ckpt".into()], "x");
    options.tokenizer_only = true;
    let twice = import(&options).unwrap_err();
    assert!(matches!(twice, ImportError::SameTarget { .. }), "{twice}");
}

#[test]
fn several_checkpoints_become_a_directory_each_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = ["ffhq.ckpt", "cats.ckpt"].iter().map(|name| folder.path().join(name)).collect();
    std::fs::write(&paths[0], checkpoint(Format::Zip, "", "FloatStorage", &unchanged)).unwrap();
    std::fs::write(&paths[1], b"no checkpoint").unwrap();
    let options = ImportOptions::new(paths.clone(), folder.path().join("models"));
    assert!(import(&options).unwrap_err().to_string().contains("cats.ckpt"));
    assert!(!folder.path().join("models").exists());
    std::fs::write(&paths[1], checkpoint(Format::Legacy, "", "HalfStorage", &unchanged)).unwrap();
    assert_eq!(tokenizers(import(&options).unwrap()).len(), 2);
    assert_whole(&folder.path().join("models/ffhq/tokenizer.safetensors"));
    assert_whole(&folder.path().join("models/cats/tokenizer.safetensors"));
}

#[test]
fn the_resolution_places_the_attention_and_nothing_else() {
    let bytes = checkpoint(Format::Zip, "", "FloatStorage", &unchanged);
    let mut case = Case::new(&bytes);
    case.options.resolution = Some(64);
    let report = case.import().unwrap();
    assert_eq!((report.config.resolution, report.config.attn_resolutions.as_slice()), (64, &[32][..]));
    assert_eq!(report.config.tensors(), config().tensors());
    let mut small = Case::new(&bytes);
    small.options.resolution = Some(1);
    assert!(small.refused().contains("resolution 1 is too small"));
}
