//! Which parameters are decayed: the authors' parameter groups (code: minGPT's `configure_optimizers`, and AdamW's default).

use crate::torch::spec::TensorSpec;
use crate::transformer::NetworkConfig;

/// Weight decay of the decayed parameters, in every released model.
pub const WEIGHT_DECAY: f64 = 0.01;

/// Parameters that share a weight decay.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterGroup {
    pub weight_decay: f64,
    /// Names below `transformer.`, in the order in which the authors' optimizer holds them.
    pub names: Vec<String>,
}

/// The groups of a network.
///
/// A GPT decays the weights of its linear layers, not biases, norms, embeddings and positions; names are sorted within a group.
/// An encoder-decoder has one group and decays everything in it, in the order of the modules.
pub fn parameter_groups(config: &NetworkConfig) -> Vec<ParameterGroup> {
    let tensors = config.tensors();
    let names = |tensors: Vec<TensorSpec>| tensors.into_iter().map(|tensor| tensor.name).collect::<Vec<_>>();
    match config {
        NetworkConfig::Gpt(_) => {
            let (decayed, kept) = tensors.into_iter().partition(is_linear_weight);
            let group = |weight_decay, tensors| {
                let mut names = names(tensors);
                names.sort_unstable();
                ParameterGroup { weight_decay, names }
            };
            vec![group(WEIGHT_DECAY, decayed), group(0.0, kept)]
        }
        NetworkConfig::EncoderDecoder(_) => {
            let mut names = names(tensors);
            // A module's own parameters, which have no dot, come before those of its parts.
            names.sort_by_key(|name| name.contains('.'));
            vec![ParameterGroup { weight_decay: WEIGHT_DECAY, names }]
        }
    }
}

/// Whether a tensor is the matrix of a linear layer: two dimensions, and no embedding.
fn is_linear_weight(tensor: &TensorSpec) -> bool {
    let layer = tensor.name.strip_suffix(".weight");
    tensor.shape.len() == 2 && layer.is_some_and(|layer| !layer.ends_with("emb"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transformer::{EncoderDecoderConfig, GptConfig, TextConfig, Variant};

    const TEXT: Option<TextConfig> = Some(TextConfig { vocabulary: 9, length: 3 });

    #[test]
    fn a_gpt_decays_its_linear_layers_only() {
        let config = GptConfig {
            dim: 8,
            depth: 1,
            heads: 2,
            input_tokens: 7,
            output_tokens: 6,
            block: 5,
            unmasked: 4,
            text: TEXT,
        };
        let groups = parameter_groups(&NetworkConfig::Gpt(config));
        let layers = ["attn.key", "attn.proj", "attn.query", "attn.value", "mlp.0", "mlp.2"];
        let mut decayed: Vec<String> = layers.iter().map(|layer| format!("blocks.0.{layer}.weight")).collect();
        decayed.push("head.weight".to_owned());
        assert_eq!(groups[0], ParameterGroup { weight_decay: 0.01, names: decayed });
        assert_eq!(groups[1].weight_decay, 0.0);
        for name in ["text_emb.weight", "text_pos_emb", "tok_emb.weight", "pos_emb", "ln_f.weight"] {
            assert!(groups[1].names.iter().any(|kept| kept == name), "{name}");
        }
    }

    #[test]
    fn an_encoder_decoder_decays_everything() {
        let config = EncoderDecoderConfig {
            dim: 8,
            encoder_depth: 1,
            decoder_depth: 1,
            encoder_heads: 1,
            decoder_heads: 1,
            encoder_tokens: 6,
            encoder_length: 5,
            decoder_tokens: 6,
            decoder_length: 4,
            variant: Variant::ResidualScaled,
            scales: 2,
            text: TEXT,
        };
        let config = NetworkConfig::EncoderDecoder(config);
        let groups = parameter_groups(&config);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].names.len(), config.tensors().len());
        assert_eq!(groups[0].names[0], "log_scalors");
        assert_eq!(groups[0].names[1], "encoder.token_emb.weight");
    }
}
