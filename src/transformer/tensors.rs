//! Each network as a list of tensors: names, shapes, fresh values. Nothing is allocated.
//!
//! Names are those of the released checkpoints, below `transformer.`. Fresh values are the authors' (code: minGPT's
//! `_init_weights`; x-transformers: normal embeddings, PyTorch's default for linear layers).

use super::config::{EncoderDecoderConfig, GptConfig, HEAD_WIDTH, NetworkConfig, TextConfig};
use crate::torch::spec::{Init, TensorSpec};

/// Standard deviation of fresh embeddings, and of all weights of a fresh GPT.
const DEVIATION: f64 = 0.02;
/// Width of a feed-forward layer in units of `dim`.
pub(super) const EXPANSION: i64 = 4;

impl NetworkConfig {
    /// Every tensor of the network, `encoder.to_logits` included, which no logits come from and the checkpoints have.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        match self {
            NetworkConfig::EncoderDecoder(config) => encoder_decoder(config),
            NetworkConfig::Gpt(config) => gpt(config),
        }
    }

    /// Number of trained parameters: the elements of all [`tensors`](NetworkConfig::tensors).
    pub fn parameters(&self) -> i64 {
        self.tensors().iter().map(TensorSpec::numel).sum()
    }

    /// Those of the [`tensors`](NetworkConfig::tensors) that the logits do not depend on: they never get a gradient.
    pub fn unused_tensors(&self) -> Vec<TensorSpec> {
        self.tensors().into_iter().filter(|tensor| tensor.name.starts_with("encoder.to_logits.")).collect()
    }

    /// Names and shapes of what the released checkpoints hold beside the parameters: the GPT's attention masks, which follow
    /// from the shape and are not in our files.
    pub fn buffers(&self) -> Vec<(String, Vec<i64>)> {
        match self {
            NetworkConfig::EncoderDecoder(_) => Vec::new(),
            NetworkConfig::Gpt(config) => {
                let mask = |layer| (format!("blocks.{layer}.attn.mask"), vec![1, 1, config.block, config.block]);
                (0..config.depth).map(mask).collect()
            }
        }
    }
}

/// A list under construction.
struct List(Vec<TensorSpec>);

impl List {
    fn add(&mut self, name: String, shape: &[i64], init: Init) {
        self.0.push(TensorSpec::new(name, shape, init));
    }

    fn embedding(&mut self, name: &str, rows: i64, dim: i64) {
        self.add(format!("{name}.weight"), &[rows, dim], Init::Normal(DEVIATION));
    }

    fn norm(&mut self, name: &str, dim: i64) {
        self.add(format!("{name}.weight"), &[dim], Init::Constant(1.0));
        self.add(format!("{name}.bias"), &[dim], Init::Constant(0.0));
    }

    /// A linear layer at PyTorch's default: uniform within 1 / sqrt(inputs).
    fn linear(&mut self, name: &str, input: i64, output: i64, bias: bool) {
        let init = Init::Uniform((input as f64).powf(-0.5));
        self.add(format!("{name}.weight"), &[output, input], init);
        if bias {
            self.add(format!("{name}.bias"), &[output], init);
        }
    }

    /// A linear layer of the GPT.
    fn gpt_linear(&mut self, name: &str, input: i64, output: i64) {
        self.add(format!("{name}.weight"), &[output, input], Init::Normal(DEVIATION));
        self.add(format!("{name}.bias"), &[output], Init::Constant(0.0));
    }

    fn attention(&mut self, name: &str, dim: i64, heads: i64) {
        let inner = heads * HEAD_WIDTH;
        for projection in ["to_q", "to_k", "to_v"] {
            self.linear(&format!("{name}.{projection}"), dim, inner, false);
        }
        self.linear(&format!("{name}.to_out"), inner, dim, true);
    }

    fn feed_forward(&mut self, name: &str, dim: i64) {
        self.linear(&format!("{name}.net.0.0"), dim, EXPANSION * dim, true);
        self.linear(&format!("{name}.net.2"), EXPANSION * dim, dim, true);
    }

    /// One side of an encoder-decoder.
    fn side(&mut self, side: &str, shape: &Side) {
        let dim = shape.dim;
        self.embedding(&format!("{side}.token_emb"), shape.tokens, dim);
        self.embedding(&format!("{side}.pos_emb.emb"), shape.length, dim);
        if let Some(text) = shape.text {
            self.embedding(&format!("{side}.text_emb"), text.rows(), dim);
            self.embedding(&format!("{side}.text_pos_emb.emb"), text.length, dim);
        }
        let attentions = if shape.cross { 2 } else { 1 };
        for layer in 0..shape.depth * (attentions + 1) {
            let name = format!("{side}.attn_layers.layers.{layer}");
            self.norm(&format!("{name}.0"), dim);
            match layer % (attentions + 1) < attentions {
                true => self.attention(&format!("{name}.1"), dim, shape.heads),
                false => self.feed_forward(&format!("{name}.1"), dim),
            }
        }
        self.norm(&format!("{side}.norm"), dim);
        self.linear(&format!("{side}.to_logits"), dim, shape.tokens, true);
    }
}

/// Shape of one side of an encoder-decoder.
struct Side {
    dim: i64,
    tokens: i64,
    length: i64,
    depth: i64,
    heads: i64,
    /// Whether it attends to the other side.
    cross: bool,
    text: Option<TextConfig>,
}

fn encoder_decoder(config: &EncoderDecoderConfig) -> Vec<TensorSpec> {
    let mut list = List(Vec::new());
    let encoder = Side {
        dim: config.dim,
        tokens: config.encoder_tokens,
        length: config.encoder_length,
        depth: config.encoder_depth,
        heads: config.encoder_heads,
        cross: false,
        text: config.text,
    };
    let decoder = Side {
        tokens: config.decoder_tokens,
        length: config.decoder_length,
        depth: config.decoder_depth,
        heads: config.decoder_heads,
        cross: true,
        text: None,
        ..encoder
    };
    list.side("encoder", &encoder);
    list.side("decoder", &decoder);
    if config.variant.has_scalors() {
        list.add("log_scalors".to_owned(), &[config.scales], Init::Constant(0.0));
    }
    list.0
}

fn gpt(config: &GptConfig) -> Vec<TensorSpec> {
    let (mut list, dim) = (List(Vec::new()), config.dim);
    list.embedding("tok_emb", config.input_tokens, dim);
    list.add("pos_emb".to_owned(), &[1, config.block, dim], Init::Constant(0.0));
    if let Some(text) = config.text {
        list.embedding("text_emb", text.rows(), dim);
        list.add("text_pos_emb".to_owned(), &[1, text.length, dim], Init::Constant(0.0));
    }
    for layer in 0..config.depth {
        let name = |part: &str| format!("blocks.{layer}.{part}");
        list.norm(&name("ln1"), dim);
        list.norm(&name("ln2"), dim);
        for projection in ["attn.key", "attn.query", "attn.value", "attn.proj"] {
            list.gpt_linear(&name(projection), dim, dim);
        }
        list.gpt_linear(&name("mlp.0"), dim, EXPANSION * dim);
        list.gpt_linear(&name("mlp.2"), EXPANSION * dim, dim);
    }
    list.norm("ln_f", dim);
    list.add("head.weight".to_owned(), &[config.output_tokens, dim], Init::Normal(DEVIATION));
    list.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transformer::Variant;

    fn encoder_decoder(dim: i64, depth: i64, tokens: [i64; 2], length: i64, variant: Variant) -> NetworkConfig {
        let scales = 4;
        NetworkConfig::EncoderDecoder(EncoderDecoderConfig {
            dim,
            encoder_depth: depth,
            decoder_depth: 6,
            encoder_heads: 16,
            decoder_heads: 16,
            encoder_tokens: tokens[0],
            encoder_length: length,
            decoder_tokens: tokens[1],
            decoder_length: 256,
            variant,
            scales,
            text: None,
        })
    }

    fn gpt(dim: i64, depth: i64, tokens: [i64; 2], block: i64) -> NetworkConfig {
        NetworkConfig::Gpt(GptConfig {
            dim,
            depth,
            heads: 16,
            input_tokens: tokens[0],
            output_tokens: tokens[1],
            block,
            unmasked: 0,
            text: None,
        })
    }

    /// The counts of the authors' code on PyTorch's meta device.
    #[test]
    fn released_networks_have_their_counts() {
        let plain = |tokens, length| encoder_decoder(1152, 32, tokens, length, Variant::Plain);
        let residual =
            |dim, depth, tokens, length| encoder_decoder(dim, depth, tokens, length, Variant::ResidualScaled);
        let large = |tokens, block| gpt(1216, 36, tokens, block);
        let released = [
            ("FFHQ-2 scale 1", plain([548, 548], 257), 614_638_024, 631_844, 548),
            ("FFHQ-2 scale 2", large([548, 548], 256), 640_994_944, 0, 581),
            ("FFHQ-4 scales 1-3, joint", residual(752, 18, [548, 548], 257), 203_214_812, 412_644, 367),
            ("FFHQ-4 scale 4", gpt(800, 26, [548, 548], 256), 201_033_600, 0, 421),
            ("bedrooms scales 1-2", plain([1017, 1017], 257), 616_800_114, 1_172_601, 548),
            ("bedrooms scale 3", large([1017, 1017], 256), 642_135_552, 0, 581),
            ("cats scales 1-2", plain([1014, 1014], 257), 616_786_284, 1_169_142, 548),
            ("cats scale 3", large([1014, 1014], 256), 642_128_256, 0, 581),
            ("churches scales 1-2", plain([1022, 1022], 258), 616_824_316, 1_178_366, 548),
            ("churches scale 3", large([1022, 1022], 256), 642_147_712, 0, 581),
            ("ImageNet-4 scales 1-3", residual(1152, 32, [1000, 973], 258), 616_660_665, 1_153_000, 549),
            ("ImageNet-4 scale 4", large([1000, 973], 258), 642_063_808, 0, 581),
            ("ImageNet-5 scales 1-4", plain([1000, 973], 258), 616_660_661, 1_153_000, 548),
            ("ImageNet-5 scale 5", large([1000, 973], 258), 642_063_808, 0, 581),
        ];
        for (name, network, parameters, unused, tensors) in released {
            assert_eq!(network.validate(), Ok(()), "{name}");
            let found_unused: i64 = network.unused_tensors().iter().map(TensorSpec::numel).sum();
            assert_eq!((network.parameters(), found_unused), (parameters, unused), "{name}");
            assert_eq!(network.tensors().len(), tensors, "{name}");
        }
    }

    #[test]
    fn names_are_distinct_and_stay_so_without_dots() {
        let text = Some(TextConfig { vocabulary: 100, length: 8 });
        let mut networks = vec![gpt(800, 26, [548, 548], 256), encoder_decoder(64, 2, [9, 9], 257, Variant::Scaled)];
        match &mut networks[..] {
            [NetworkConfig::Gpt(gpt), NetworkConfig::EncoderDecoder(network)] => {
                (gpt.text, network.text) = (text, text)
            }
            _ => unreachable!(),
        }
        for network in networks {
            let names: Vec<String> = network.tensors().into_iter().map(|tensor| tensor.name.replace('.', "")).collect();
            let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
            assert_eq!(distinct.len(), names.len());
        }
    }

    #[test]
    fn buffers_are_the_masks_of_the_gpt() {
        let buffers = gpt(32, 2, [24, 18], 18).buffers();
        assert_eq!(buffers[1], ("blocks.1.attn.mask".to_owned(), vec![1, 1, 18, 18]));
        assert_eq!(buffers.len(), 2);
        assert!(encoder_decoder(64, 2, [9, 9], 257, Variant::Plain).buffers().is_empty());
    }
}
