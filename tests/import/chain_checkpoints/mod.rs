//! Checkpoints and configs of a whole chain, as the authors' code saves them, but small.
#![allow(dead_code)] // Each test file uses its own part.

use crate::pytorch::{Format, Py, Storage, lightning, save};
use imagebart::transformer::{EncoderDecoderConfig, GptConfig, NetworkConfig, Variant};
use imagebart::vqgan::VqganConfig;
use std::path::{Path, PathBuf};

/// Codes K: entries in use of the codebook's 16.
pub const CODES: i64 = 5;
/// Tokens of a grid.
pub const TOKENS: i64 = 16;
/// Scales T.
pub const SCALES: u32 = 3;

/// The first stage: 8x8 pixels to 4x4 tokens.
pub fn first_stage() -> VqganConfig {
    let text = r#"{"ddconfig": {"z_channels": 8, "resolution": 8, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2],
        "num_res_blocks": 1, "attn_resolutions": [4]}, "embed_dim": 4, "n_embed": 16, "used": 5}"#;
    serde_json::from_str(text).unwrap()
}

/// The network of scale `scale`: encoder-decoders, a GPT for the last; with a class there is one more token in front.
pub fn network(scale: u32, class: bool) -> NetworkConfig {
    let (more, ids) = if class { (1, 7) } else { (0, CODES) };
    if scale == SCALES {
        return NetworkConfig::Gpt(GptConfig {
            dim: 8,
            depth: 2,
            heads: 2,
            input_tokens: ids,
            output_tokens: CODES,
            block: TOKENS + more,
            unmasked: 2 * more,
            text: None,
        });
    }
    NetworkConfig::EncoderDecoder(EncoderDecoderConfig {
        dim: 12,
        encoder_depth: 2,
        decoder_depth: 1,
        encoder_heads: 2,
        decoder_heads: 1,
        encoder_tokens: ids,
        encoder_length: 1 + more + TOKENS,
        decoder_tokens: CODES,
        decoder_length: TOKENS,
        variant: Variant::ResidualScaled,
        scales: SCALES.into(),
        text: None,
    })
}

/// Numbers that f16 holds exactly, others for every tensor and scale, raw and averaged.
pub fn values(name: &str, scale: u32, averaged: bool, count: i64) -> Vec<f32> {
    let start = name.bytes().map(i64::from).sum::<i64>() + i64::from(scale) * 31 + i64::from(averaged) * 17;
    (0..count).map(|at| ((at * 7 + start) % 200 - 100) as f32 / 64.0).collect()
}

/// What a state dict is made of, to be changed by a test.
pub struct State {
    pub format: Format,
    pub entries: Vec<(String, Py)>,
    pub storages: Vec<Storage>,
}

impl State {
    pub fn floats(&mut self, name: &str, shape: &[i64], values: &[f32]) {
        let storage = Storage::floats(self.storages.len(), values);
        self.set(name, shape, storage);
    }

    /// Numbers of another precision.
    pub fn floats_as(&mut self, class: &'static str, name: &str, shape: &[i64], values: &[f32]) {
        let bytes = values.iter().flat_map(|&value| match class {
            "HalfStorage" => half::f16::from_f32(value).to_le_bytes().to_vec(),
            _ => f64::from(value).to_le_bytes().to_vec(),
        });
        let (bytes, elements) = (bytes.collect(), values.len() as i64);
        self.set(name, shape, Storage { class, key: self.storages.len().to_string(), elements, bytes });
    }

    pub fn longs(&mut self, name: &str, shape: &[i64], values: &[i64]) {
        let storage = Storage::longs(self.storages.len(), values);
        self.set(name, shape, storage);
    }

    pub fn ints(&mut self, name: &str, shape: &[i64], values: &[i32]) {
        let storage = Storage::ints(self.storages.len(), values);
        self.set(name, shape, storage);
    }

    fn set(&mut self, name: &str, shape: &[i64], storage: Storage) {
        self.remove(name);
        self.entries.push((name.to_owned(), storage.whole(self.format, shape)));
        self.storages.push(storage);
    }

    pub fn remove(&mut self, name: &str) {
        self.entries.retain(|(key, _)| key != name);
    }

    pub fn remove_under(&mut self, prefix: &str) {
        self.entries.retain(|(key, _)| !key.starts_with(prefix));
    }
}

/// Cumulative alphas of the geometric schedule.
pub const GEOMETRIC: [f32; 4] = [1.0, 0.666_666_6, 0.333_333_3, 0.0];

/// The state dict of a network that serves one scale.
pub fn state(format: Format, scale: u32, network: &NetworkConfig) -> State {
    let mut state = State { format, entries: Vec::new(), storages: Vec::new() };
    state.longs("sos_token", &[1], &[0]);
    state.floats("alphats", &[4], &[1.0, 0.666_666_6, 0.5, 0.0]);
    state.floats("alphacum", &[4], &GEOMETRIC);
    for spec in network.tensors() {
        for averaged in [false, true] {
            let name = match averaged {
                true => format!("transformer_ema.{}", spec.name.replace('.', "")),
                false => format!("transformer.{}", spec.name),
            };
            let mut numbers = values(&spec.name, scale, averaged, spec.numel());
            if spec.name == "log_scalors" {
                numbers = (1..=SCALES).map(|t| if t == scale { 0.25 } else { 0.0 }).collect();
            }
            state.floats(&name, &spec.shape, &numbers);
        }
    }
    for (name, shape) in network.buffers() {
        let NetworkConfig::Gpt(gpt) = network else { panic!("only a GPT has masks") };
        let sees = |row: i64, column: i64| column <= row || row.max(column) < gpt.unmasked;
        let mask = (0..gpt.block).flat_map(|row| (0..gpt.block).map(move |column| (row, column)));
        let mask: Vec<f32> = mask.map(|(row, column)| f32::from(u8::from(sees(row, column)))).collect();
        state.floats(&format!("transformer.{name}"), &shape, &mask);
    }
    state.floats("transformer_ema.decay", &[], &[0.9999]);
    state.ints("transformer_ema.num_updates", &[], &[1234]);
    for spec in first_stage().tensors() {
        let name = format!("first_stage_model.{}", spec.name);
        match spec.is_integer() {
            true => state.longs(&name, &spec.shape, &[1, 3, 4, 9, 15]),
            false => state.floats(&name, &spec.shape, &values(&spec.name, 0, false, spec.numel())),
        }
    }
    state
}

/// The checkpoint file of a state dict.
pub fn checkpoint(mut state: State) -> Vec<u8> {
    let moments = Storage::floats("moments", &[0.5; 64]);
    let object = lightning(state.entries, &moments.whole(state.format, &[8, 8]));
    state.storages.push(moments);
    save(state.format, &object, &state.storages)
}

/// The authors' YAML of a network. `single_scale` none is joint training.
pub fn yaml(network: &NetworkConfig, single_scale: Option<u32>, class: bool) -> String {
    let transformer = match network {
        NetworkConfig::Gpt(gpt) => format!(
            "      target: imagebart.modules.transformer.mingpt.GPT
      params:
        vocab_size: {}
        input_vocab_size: {}
        block_size: {}
        n_layer: {}
        n_head: {}
        n_embd: {}
        n_unmasked: {}\n",
            gpt.output_tokens, gpt.input_tokens, gpt.block, gpt.depth, gpt.heads, gpt.dim, gpt.unmasked
        ),
        NetworkConfig::EncoderDecoder(network) => format!(
            "      target: imagebart.modules.xtransformers.x_transformer.ResidualScaledXTransformer
      params:
        wrap_decoder: False
        dim: {}
        enc_num_tokens: {}
        enc_depth: {}
        enc_heads: {}
        enc_max_seq_len: {}
        dec_num_tokens: {}
        dec_depth: {}
        dec_heads: {}
        tie_token_emb: false
        dec_max_seq_len: {}
        scale_pos: 0
        n_scales: {SCALES}
        xt_start: {}
        xt_size: {TOKENS}   # predict x_(t-1)\n",
            network.dim,
            network.encoder_tokens,
            network.encoder_depth,
            network.encoder_heads,
            network.encoder_length,
            network.decoder_tokens,
            network.decoder_depth,
            network.decoder_heads,
            network.decoder_length,
            1 + u32::from(class)
        ),
    };
    let single = single_scale.map_or_else(String::new, |scale| format!("    single_scale: {scale}\n"));
    let alpha = if single_scale == Some(1) { "0.0" } else { "1.0" };
    let conditioner = match class {
        true => {
            "    conditioner_config:\n      target: imagebart.util.ClassProvider\n      params:\n        key: class_label\n"
        }
        false => "",
    };
    format!(
        "model:
  base_learning_rate: 0.0625
  target: imagebart.models.diffusion.DenoisingXTransformer
  params:
    first_stage_key: image
    n_scales: {SCALES}
{single}    top_k: {CODES}
    alpha: {alpha}
    redraw_prob: geometric
    use_ema: True
{conditioner}    transformer_config:
{transformer}    first_stage_config:
      target: imagebart.models.vqgan.VQGANWrapper
      params:
        ckpt_path: vqgan/vqgan.ckpt
        remap: data/vqgan_indices/indices.npy
        sane_index_shape: true
        embed_dim: 4
        n_embed: 16
        ddconfig:
          double_z: false
          z_channels: 8
          resolution: 8
          in_channels: 3
          out_ch: 3
          ch: 32
          ch_mult: [ 1,2 ]  # num_down = len(ch_mult)-1
          num_res_blocks: 1
          attn_resolutions:
          - 4
          dropout: 0.0
          tanh_out: true
        lossconfig:
          target: taming.modules.losses.vqperceptual.DummyLoss
data:
  target: main.DataModuleFromConfig
  params:
    batch_size: 16
"
    )
}

/// A repository of the authors' layout: `models/scale<t>.ckpt`, `configs/scale<t>.yaml`, `configs/sampling/all.yaml`.
pub struct Repository(pub tempfile::TempDir);

impl Repository {
    /// All scales; `change` sees each state dict before it is written.
    pub fn new(format: Format, class: bool, change: &dyn Fn(u32, &mut State)) -> Repository {
        let repository = Repository(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(repository.path("models")).unwrap();
        std::fs::create_dir_all(repository.path("configs/sampling")).unwrap();
        for scale in 1..=SCALES {
            let network = network(scale, class);
            let mut state = state(format, scale, &network);
            change(scale, &mut state);
            repository.write(&format!("models/scale{scale}.ckpt"), checkpoint(state));
            repository.write(&format!("configs/scale{scale}.yaml"), yaml(&network, Some(scale), class));
        }
        let list = |kind: &str, ending: &str| {
            (1..=SCALES).map(|scale| format!("  - \"{kind}/scale{scale}.{ending}\"\n")).collect::<String>()
        };
        let text = format!("checkpoints:\n{}\nconfigs:\n{}", list("models", "ckpt"), list("configs", "yaml"));
        repository.write("configs/sampling/all.yaml", text);
        repository
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{text}");
        self.write(name, text.replace(from, to));
    }

    pub fn checkpoints(&self) -> Vec<PathBuf> {
        (1..=SCALES).map(|scale| self.path(&format!("models/scale{scale}.ckpt"))).collect()
    }

    pub fn configs(&self) -> Vec<PathBuf> {
        (1..=SCALES).map(|scale| self.path(&format!("configs/scale{scale}.yaml"))).collect()
    }

    pub fn to(&self) -> PathBuf {
        self.path("model")
    }

    /// Names in the model directory.
    pub fn written(&self) -> Vec<String> {
        names(&self.to())
    }
}

/// Names in a folder, sorted; none where there is no folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
