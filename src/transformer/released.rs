//! Shapes from the authors' configs: `transformer_config` of their YAML files.

use super::config::{EncoderDecoderConfig, GptConfig, NetworkConfig, NetworkError, Variant};
use serde_json::Value;

impl NetworkConfig {
    /// The network that a released `transformer_config` (`target` and `params`) describes, in a chain of `scales` scales.
    ///
    /// # Errors
    /// An unknown target, a missing or wrong parameter, or a setting that the released code has and no released model uses.
    pub fn from_released(config: &Value, scales: i64) -> Result<NetworkConfig, NetworkError> {
        let target = config.get("target").and_then(Value::as_str).unwrap_or_default();
        let params = config.get("params").ok_or_else(|| wrong("transformer_config has no params"))?;
        let class = target.rsplit('.').next().unwrap_or_default();
        let variant = match class {
            "GPT" => return gpt(params),
            "XTransformer" => Variant::Plain,
            "ScaledXTransformer" => Variant::Scaled,
            "ResidualXTransformer" => Variant::Residual,
            "ResidualScaledXTransformer" => Variant::ResidualScaled,
            _ => return Err(wrong(format!("transformer_config.target = {target:?} is not a network of ImageBART"))),
        };
        encoder_decoder(params, variant, scales)
    }
}

fn encoder_decoder(params: &Value, variant: Variant, scales: i64) -> Result<NetworkConfig, NetworkError> {
    for (key, unused) in [("tie_token_emb", true), ("wrap_decoder", true)] {
        if params.get(key).and_then(Value::as_bool) == Some(unused) {
            return Err(wrong(format!("transformer_config.params.{key} = true is not supported")));
        }
    }
    let config = NetworkConfig::EncoderDecoder(EncoderDecoderConfig {
        dim: number(params, "dim")?,
        encoder_depth: number(params, "enc_depth")?,
        decoder_depth: number(params, "dec_depth")?,
        encoder_heads: number(params, "enc_heads")?,
        decoder_heads: number(params, "dec_heads")?,
        encoder_tokens: number(params, "enc_num_tokens")?,
        encoder_length: number(params, "enc_max_seq_len")?,
        decoder_tokens: number(params, "dec_num_tokens")?,
        decoder_length: number(params, "dec_max_seq_len")?,
        variant,
        scales: if variant.has_scalors() { number(params, "n_scales")? } else { scales },
        text: None,
    });
    config.validate()?;
    Ok(config)
}

fn gpt(params: &Value) -> Result<NetworkConfig, NetworkError> {
    let output_tokens = number(params, "vocab_size")?;
    let config = NetworkConfig::Gpt(GptConfig {
        dim: number(params, "n_embd")?,
        depth: number(params, "n_layer")?,
        heads: number(params, "n_head")?,
        input_tokens: optional(params, "input_vocab_size")?.unwrap_or(output_tokens),
        output_tokens,
        block: number(params, "block_size")?,
        unmasked: optional(params, "n_unmasked")?.unwrap_or(0),
        text: None,
    });
    config.validate()?;
    Ok(config)
}

fn optional(params: &Value, key: &str) -> Result<Option<i64>, NetworkError> {
    match params.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_i64()
            .map(Some)
            .ok_or_else(|| wrong(format!("transformer_config.params.{key} = {value} is not a whole number"))),
    }
}

fn number(params: &Value, key: &str) -> Result<i64, NetworkError> {
    optional(params, key)?.ok_or_else(|| wrong(format!("transformer_config.params.{key} is missing")))
}

fn wrong(message: impl Into<String>) -> NetworkError {
    NetworkError::Released(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn released_configs_are_read() {
        let config = json!({"target": "imagebart.modules.xtransformers.x_transformer.ResidualScaledXTransformer",
            "params": {"scale_pos": 0, "n_scales": 4, "xt_start": 1, "xt_size": 256, "wrap_decoder": false, "dim": 752,
            "enc_num_tokens": 548, "enc_depth": 18, "enc_heads": 16, "enc_max_seq_len": 257, "dec_num_tokens": 548,
            "dec_depth": 6, "dec_heads": 16, "tie_token_emb": false, "dec_max_seq_len": 256}});
        let NetworkConfig::EncoderDecoder(network) = NetworkConfig::from_released(&config, 4).unwrap() else {
            panic!()
        };
        assert_eq!((network.dim, network.encoder_depth, network.variant), (752, 18, Variant::ResidualScaled));

        let config = json!({"target": "imagebart.modules.transformer.mingpt.GPT", "params": {"vocab_size": 973,
            "input_vocab_size": 1000, "block_size": 258, "n_layer": 36, "n_head": 16, "n_embd": 1216, "n_unmasked": 2}});
        let NetworkConfig::Gpt(network) = NetworkConfig::from_released(&config, 4).unwrap() else { panic!() };
        assert_eq!((network.input_tokens, network.output_tokens, network.unmasked), (1000, 973, 2));
    }

    #[test]
    fn mistakes_are_named() {
        let fault = |config| NetworkConfig::from_released(&config, 4).unwrap_err().to_string();
        assert!(fault(json!({"target": "a.Vit", "params": {}})).contains("\"a.Vit\" is not a network"));
        assert!(fault(json!({"target": "a.GPT", "params": {}})).contains("vocab_size is missing"));
        let config = json!({"target": "a.GPT", "params": {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 3,
            "n_embd": 16}});
        assert_eq!(fault(config), "dim = 16 must be a multiple of heads = 3");
    }
}
