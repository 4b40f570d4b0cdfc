//! What the authors' YAML files say: a model's config, and the sampling file that lists checkpoints and configs.

use super::ImportError;
use super::yaml::{self, Yaml};
use crate::config::ScheduleValue;
use crate::transformer::NetworkConfig;
use crate::vqgan::VqganConfig;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// `model:` of a config file: one network of a chain.
#[derive(Debug)]
pub(super) struct ModelConfig {
    pub path: PathBuf,
    pub note: Option<String>,
    pub network: NetworkConfig,
    /// Scales T of the chain.
    pub scales: u32,
    /// The scale it was trained for; none when it was trained for all of them jointly.
    pub single_scale: Option<u32>,
    pub schedule: ScheduleValue,
    /// Share of the soft loss.
    pub alpha: f64,
    /// Whether it is conditioned on a class.
    pub class: bool,
    /// The VQGAN; the number of entries in use is not known here.
    pub first_stage: Option<VqganConfig>,
}

/// A `--config` file.
#[derive(Debug)]
pub(super) enum Config {
    Model(Box<ModelConfig>),
    Sampling(Sampling),
}

/// `checkpoints:` and `configs:`, one each per scale.
#[derive(Debug)]
pub(super) struct Sampling {
    pub path: PathBuf,
    pub note: Option<String>,
    pub checkpoints: Vec<PathBuf>,
    pub configs: Vec<PathBuf>,
}

/// Reads either kind.
pub(super) fn read(path: &Path) -> Result<Config, ImportError> {
    let yaml = yaml::read(path)?;
    if yaml.value.get("checkpoints").is_some() || yaml.value.get("configs").is_some() {
        return Sampling::new(yaml).map(Config::Sampling);
    }
    ModelConfig::new(yaml).map(|config| Config::Model(Box::new(config)))
}

/// Reads a config that describes a model.
pub(super) fn read_model(path: &Path) -> Result<ModelConfig, ImportError> {
    match read(path)? {
        Config::Model(config) => Ok(*config),
        Config::Sampling(sampling) => Err(wrong(&sampling.path, "lists configs where one model's is needed")),
    }
}

fn wrong(path: &Path, detail: impl Into<String>) -> ImportError {
    ImportError::Yaml { path: path.to_owned(), detail: detail.into() }
}

/// A sentence without the file's name.
type Detail = String;

impl Sampling {
    fn new(yaml: Yaml) -> Result<Sampling, ImportError> {
        let list = |key: &str| -> Result<Vec<PathBuf>, ImportError> {
            let no_list = || wrong(&yaml.path, format!("{key} must be a list of paths"));
            let items = yaml.value.get(key).and_then(Value::as_array).ok_or_else(no_list)?;
            items.iter().map(|item| item.as_str().map(PathBuf::from).ok_or_else(no_list)).collect()
        };
        let (checkpoints, configs) = (list("checkpoints")?, list("configs")?);
        if configs.is_empty() || checkpoints.len() != configs.len() {
            let detail = format!("lists {} checkpoints and {} configs", checkpoints.len(), configs.len());
            return Err(wrong(&yaml.path, detail));
        }
        Ok(Sampling { path: yaml.path, note: yaml.note, checkpoints, configs })
    }
}

impl ModelConfig {
    fn new(yaml: Yaml) -> Result<ModelConfig, ImportError> {
        let Yaml { path, value, note } = yaml;
        ModelConfig::parse(&path, note, &value).map_err(|detail| wrong(&path, detail))
    }

    fn parse(path: &Path, note: Option<String>, value: &Value) -> Result<ModelConfig, Detail> {
        let params = value.pointer("/model/params").ok_or("model.params is missing: this is no config of a model")?;
        let scales = scale_number(params, "n_scales")?.ok_or("model.params.n_scales is missing")?;
        let transformer = params.get("transformer_config").ok_or("model.params.transformer_config is missing")?;
        let network = NetworkConfig::from_released(transformer, scales.into())
            .map_err(|error| format!("model.params.transformer_config: {error}"))?;
        let single_scale = scale_number(params, "single_scale")?;
        if let Some(scale) = single_scale.filter(|&scale| scale > scales) {
            return Err(format!("model.params.single_scale = {scale} is beyond n_scales = {scales}"));
        }
        refuse_settings(params)?;
        Ok(ModelConfig {
            path: path.to_owned(),
            note,
            network,
            scales,
            single_scale,
            schedule: schedule(params)?,
            alpha: alpha(params)?,
            class: class(params)?,
            first_stage: first_stage(params)?,
        })
    }
}

/// What the released code has, no released model uses, and is not carried over.
fn refuse_settings(params: &Value) -> Result<(), Detail> {
    match params.get("sos_token").unwrap_or(&Value::Null) {
        Value::Null => {}
        token if token.as_i64() == Some(0) => {}
        token => return Err(format!("model.params.sos_token = {token} is not supported: decoders start from code 0")),
    }
    if params.get("rescale_transformer_logits").and_then(Value::as_bool) == Some(true) {
        return Err("model.params.rescale_transformer_logits = true is not supported".to_owned());
    }
    Ok(())
}

/// A number of scales, 1 or more.
fn scale_number(params: &Value, key: &str) -> Result<Option<u32>, Detail> {
    match params.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number @ 1..=0xffff) => Ok(Some(number)),
            _ => Err(format!("model.params.{key} = {value} must be a whole number from 1 to 65535")),
        },
    }
}

fn schedule(params: &Value) -> Result<ScheduleValue, Detail> {
    match params.get("redraw_prob") {
        Some(Value::String(name)) => Ok(ScheduleValue::Name(name.clone())),
        Some(Value::Number(beta)) => Ok(ScheduleValue::Number(beta.as_f64().unwrap_or(f64::NAN))),
        None | Some(Value::Null) => Err("model.params.redraw_prob, the noise schedule, is missing".to_owned()),
        Some(other) => Err(format!("model.params.redraw_prob = {other} is neither a name nor a number")),
    }
}

fn alpha(params: &Value) -> Result<f64, Detail> {
    if params.get("soft_only").and_then(Value::as_bool) == Some(true) {
        return Ok(1.0);
    }
    match params.get("alpha") {
        None | Some(Value::Null) => Ok(0.0),
        Some(value) => value
            .as_f64()
            .filter(|alpha| (0.0..=1.0).contains(alpha))
            .ok_or_else(|| format!("model.params.alpha = {value} must be a number between 0 and 1")),
    }
}

/// Whether there is a class condition, the only one that was released.
fn class(params: &Value) -> Result<bool, Detail> {
    let config = match params.get("conditioner_config") {
        None | Some(Value::Null) => return Ok(false),
        Some(config) => config,
    };
    let target = config.get("target").and_then(Value::as_str).unwrap_or_default();
    if target.rsplit('.').next() == Some("ClassProvider") {
        return Ok(true);
    }
    Err(format!("model.params.conditioner_config = {config} is not supported: only imagebart.util.ClassProvider is"))
}

fn first_stage(params: &Value) -> Result<Option<VqganConfig>, Detail> {
    let config = match params.get("first_stage_config") {
        None | Some(Value::Null) => return Ok(None),
        Some(config) => config,
    };
    let target = config.get("target").and_then(Value::as_str).unwrap_or_default();
    let params = config.get("params").ok_or("model.params.first_stage_config.params is missing")?;
    let config = VqganConfig::from_released(target, params);
    config.map(Some).map_err(|error| format!("model.params.first_stage_config: {error}"))
}

/// Finds `wanted`, which `file` names: beside that file, in a folder above it (the authors' paths start at the root of their
/// repository), or from the working directory.
///
/// # Errors
/// The file that names it, and where it was looked for.
pub(super) fn find(file: &Path, wanted: &Path) -> Result<PathBuf, ImportError> {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folders = absolute.ancestors().skip(1).map(|folder| folder.join(wanted));
    let found = folders.chain([wanted.to_owned()]).find(|path| path.exists());
    found.ok_or_else(|| ImportError::NotFound { file: file.to_owned(), wanted: wanted.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transformer::Variant;
    use serde_json::json;

    fn model(change: impl FnOnce(&mut Value)) -> Result<ModelConfig, Detail> {
        let ddconfig = json!({"double_z": false, "z_channels": 8, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.0, "tanh_out": true});
        let mut value = json!({"model": {"target": "imagebart.models.diffusion.DenoisingXTransformer", "params": {
            "n_scales": 4, "single_scale": 2, "alpha": 1.0, "redraw_prob": "geometric", "top_k": 16,
            "conditioner_config": {"target": "imagebart.util.ClassProvider", "params": {"key": "class_label"}},
            "transformer_config": {"target": "a.ResidualScaledXTransformer", "params": {"dim": 8, "n_scales": 4,
                "enc_num_tokens": 20, "enc_depth": 1, "enc_heads": 1, "enc_max_seq_len": 66, "dec_num_tokens": 16,
                "dec_depth": 1, "dec_heads": 1, "dec_max_seq_len": 64}},
            "first_stage_config": {"target": "imagebart.models.vqgan.VQGANWrapper", "params": {"ckpt_path": "x.ckpt",
                "remap": "x.npy", "sane_index_shape": true, "embed_dim": 4, "n_embed": 16, "ddconfig": ddconfig}}}},
            "data": {"target": "main.DataModuleFromConfig"}});
        change(&mut value["model"]["params"]);
        ModelConfig::parse(Path::new("m.yaml"), None, &value)
    }

    #[test]
    fn a_released_config_is_read() {
        let config = model(|_| {}).unwrap();
        assert_eq!((config.scales, config.single_scale, config.alpha, config.class), (4, Some(2), 1.0, true));
        assert_eq!(config.schedule, ScheduleValue::Name("geometric".to_owned()));
        let NetworkConfig::EncoderDecoder(network) = config.network else { panic!() };
        assert_eq!((network.variant, network.encoder_tokens), (Variant::ResidualScaled, 20));
        assert_eq!(config.first_stage.unwrap().resolution, 16);
        let joint = model(|params| {
            params["single_scale"] = Value::Null;
            params["redraw_prob"] = json!(0.25);
            params["soft_only"] = json!(true);
            params["alpha"] = json!(0.5);
            params["conditioner_config"] = Value::Null;
        })
        .unwrap();
        assert_eq!((joint.single_scale, joint.alpha, joint.class), (None, 1.0, false));
        assert_eq!(joint.schedule, ScheduleValue::Number(0.25));
    }

    #[test]
    fn mistakes_are_named_by_key() {
        let fault = |key: &str, value: Value| model(|params| params[key] = value).unwrap_err();
        assert_eq!(fault("n_scales", Value::Null), "model.params.n_scales is missing");
        assert_eq!(fault("single_scale", json!(5)), "model.params.single_scale = 5 is beyond n_scales = 4");
        assert!(fault("n_scales", json!(0)).contains("n_scales = 0 must be a whole number"));
        assert!(fault("redraw_prob", Value::Null).contains("redraw_prob, the noise schedule, is missing"));
        assert!(fault("redraw_prob", json!([1])).contains("redraw_prob = [1] is neither"));
        assert!(fault("alpha", json!(1.5)).contains("alpha = 1.5 must be"));
        assert!(fault("sos_token", json!(3)).contains("sos_token = 3 is not supported"));
        assert!(fault("rescale_transformer_logits", json!(true)).contains("rescale_transformer_logits"));
        assert!(fault("conditioner_config", json!("__is_first_stage__")).contains("only imagebart.util.ClassProvider"));
        assert!(fault("transformer_config", json!({"target": "a.Vit", "params": {}})).contains("a.Vit"));
        assert!(fault("first_stage_config", json!({"target": "x"})).contains("first_stage_config.params is missing"));
        let none = ModelConfig::parse(Path::new("m.yaml"), None, &json!({"data": 1})).unwrap_err();
        assert!(none.contains("no config of a model"));
    }

    #[test]
    fn sampling_files_pair_checkpoints_and_configs() {
        let sampling = |value| Sampling::new(Yaml { path: "s.yaml".into(), value, note: None });
        let read = sampling(json!({"checkpoints": ["a.ckpt"], "configs": ["a.yaml"]})).unwrap();
        assert_eq!((read.checkpoints, read.configs), (vec!["a.ckpt".into()], vec!["a.yaml".into()]));
        let fault = |value| sampling(value).unwrap_err().to_string();
        assert!(fault(json!({"checkpoints": ["a.ckpt"]})).contains("configs must be a list of paths"));
        assert!(fault(json!({"checkpoints": [1], "configs": []})).contains("checkpoints must be a list of paths"));
        assert!(
            fault(json!({"checkpoints": ["a.ckpt"], "configs": ["a", "b"]})).contains("1 checkpoints and 2 configs")
        );
    }

    #[test]
    fn files_are_looked_for_upwards() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("configs/sampling/ffhq");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::create_dir_all(folder.path().join("models")).unwrap();
        for name in ["models/a.ckpt", "configs/sampling/ffhq/b.yaml"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let file = deep.join("s.yaml");
        assert_eq!(find(&file, Path::new("models/a.ckpt")).unwrap(), folder.path().join("models/a.ckpt"));
        assert_eq!(find(&file, Path::new("b.yaml")).unwrap(), deep.join("b.yaml"));
        let message = find(&file, Path::new("models/none.ckpt")).unwrap_err().to_string();
        assert!(message.contains("s.yaml") && message.contains("models/none.ckpt"), "{message}");
    }
}
