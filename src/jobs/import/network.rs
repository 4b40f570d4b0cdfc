//! The shape of a chain's network from the names and shapes of its tensors, for checkpoints that come without their config.

use crate::transformer::{EncoderDecoderConfig, GptConfig, HEAD_WIDTH, NetworkConfig, Variant};
use std::collections::BTreeMap;

/// What the tensors do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Untold {
    /// Heads of a GPT.
    pub heads: i64,
    /// What `log_scalors` are used for.
    pub variant: Option<Variant>,
    /// Scales T.
    pub scales: u32,
    /// Leading tokens of a GPT that see one another, from its mask.
    pub unmasked: i64,
}

/// Shapes by released name, without `transformer.`.
pub(super) type Shapes = BTreeMap<String, Vec<i64>>;

/// The network whose tensors these are.
///
/// # Errors
/// A sentence's end: what cannot be told, and which tensor would tell it.
pub(super) fn infer(shapes: &Shapes, untold: Untold) -> Result<NetworkConfig, String> {
    let tensors = Tensors(shapes);
    let network = if shapes.contains_key("tok_emb.weight") {
        gpt(&tensors, untold)
    } else if shapes.contains_key("encoder.token_emb.weight") {
        encoder_decoder(&tensors, untold)
    } else {
        Err("neither tok_emb.weight nor encoder.token_emb.weight is there: it is no network of ImageBART".to_owned())
    }?;
    network.validate().map_err(|error| error.to_string())?;
    Ok(network)
}

fn gpt(tensors: &Tensors, untold: Untold) -> Result<NetworkConfig, String> {
    Ok(NetworkConfig::Gpt(GptConfig {
        dim: tensors.size("tok_emb.weight", 1)?,
        depth: tensors.count("blocks.")?,
        heads: untold.heads,
        input_tokens: tensors.size("tok_emb.weight", 0)?,
        output_tokens: tensors.size("head.weight", 0)?,
        block: tensors.size("pos_emb", 1)?,
        unmasked: untold.unmasked,
        text: None,
    }))
}

fn encoder_decoder(tensors: &Tensors, untold: Untold) -> Result<NetworkConfig, String> {
    let scalors = tensors.0.contains_key("log_scalors");
    let variant = match untold.variant {
        None if scalors => {
            return Err(
                "log_scalors is there, and what it is used for no tensor tells: give the model's --config, or \
                        --variant (residual-scaled in all released models that have it)"
                    .to_owned(),
            );
        }
        None => Variant::Plain,
        Some(variant) => variant,
    };
    let dim = tensors.size("encoder.token_emb.weight", 1)?;
    Ok(NetworkConfig::EncoderDecoder(EncoderDecoderConfig {
        dim,
        encoder_depth: tensors.layers("encoder", 2)?,
        decoder_depth: tensors.layers("decoder", 3)?,
        encoder_heads: tensors.heads("encoder")?,
        decoder_heads: tensors.heads("decoder")?,
        encoder_tokens: tensors.size("encoder.token_emb.weight", 0)?,
        encoder_length: tensors.size("encoder.pos_emb.emb.weight", 0)?,
        decoder_tokens: tensors.size("decoder.token_emb.weight", 0)?,
        decoder_length: tensors.size("decoder.pos_emb.emb.weight", 0)?,
        variant,
        scales: untold.scales.into(),
        text: None,
    }))
}

struct Tensors<'a>(&'a Shapes);

impl Tensors<'_> {
    fn size(&self, name: &str, axis: usize) -> Result<i64, String> {
        let shape = self.0.get(name).ok_or_else(|| format!("{name}, which tells a size, is missing"))?;
        shape.get(axis).copied().ok_or_else(|| format!("{name} is {shape:?}, which has no axis {axis}"))
    }

    /// One more than the largest number that follows `prefix`.
    fn count(&self, prefix: &str) -> Result<i64, String> {
        let rests = self.0.keys().filter_map(|name| name.strip_prefix(prefix));
        let numbers = rests.filter_map(|rest| rest.split('.').next()?.parse::<u16>().ok());
        numbers.max().map(|last| i64::from(last) + 1).ok_or_else(|| format!("no tensor {prefix}0.* tells the depth"))
    }

    /// Layers of one side, each of `parts` numbered sub-layers.
    fn layers(&self, side: &str, parts: i64) -> Result<i64, String> {
        let count = self.count(&format!("{side}.attn_layers.layers."))?;
        if count % parts != 0 {
            return Err(format!("{side}.attn_layers has {count} sub-layers, which is no multiple of {parts}"));
        }
        Ok(count / parts)
    }

    fn heads(&self, side: &str) -> Result<i64, String> {
        let name = format!("{side}.attn_layers.layers.0.1.to_q.weight");
        let inner = self.size(&name, 0)?;
        if inner % HEAD_WIDTH != 0 {
            return Err(format!("{name} has {inner} rows, which are no whole heads of {HEAD_WIDTH}"));
        }
        Ok(inner / HEAD_WIDTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shapes(network: &NetworkConfig) -> Shapes {
        network.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
    }

    const UNTOLD: Untold = Untold { heads: 2, variant: None, scales: 3, unmasked: 0 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Whatever the shape, its tensors tell it.
        #[test]
        fn tensors_tell_the_shape(
            dim in 1i64..9, depths in (1i64..12, 1i64..12), heads in (1i64..5, 1i64..5), codes in 4i64..30, more in 0i64..9,
            tokens in 1i64..70, room in 1i64..3, scaled: bool,
        ) {
            let variant = if scaled { Variant::ResidualScaled } else { Variant::Plain };
            let network = NetworkConfig::EncoderDecoder(EncoderDecoderConfig {
                dim, encoder_depth: depths.0, decoder_depth: depths.1, encoder_heads: heads.0, decoder_heads: heads.1,
                encoder_tokens: codes + more, encoder_length: tokens + room, decoder_tokens: codes, decoder_length: tokens,
                variant, scales: 3, text: None,
            });
            let untold = Untold { variant: scaled.then_some(variant), ..UNTOLD };
            prop_assert_eq!(infer(&shapes(&network), untold), Ok(network));
            let network = NetworkConfig::Gpt(GptConfig {
                dim: dim * 2, depth: depths.0, heads: 2, input_tokens: codes + more, output_tokens: codes,
                block: tokens + room, unmasked: 2, text: None,
            });
            prop_assert_eq!(infer(&shapes(&network), Untold { unmasked: 2, ..UNTOLD }), Ok(network));
        }
    }

    #[test]
    fn what_is_not_told_is_named() {
        let fault = |change: &dyn Fn(&mut Shapes), scaled| {
            let variant = if scaled { Variant::Scaled } else { Variant::Plain };
            let network = EncoderDecoderConfig {
                dim: 8,
                encoder_depth: 2,
                decoder_depth: 1,
                encoder_heads: 1,
                decoder_heads: 1,
                encoder_tokens: 9,
                encoder_length: 17,
                decoder_tokens: 9,
                decoder_length: 16,
                variant,
                scales: 3,
                text: None,
            };
            let mut shapes = shapes(&NetworkConfig::EncoderDecoder(network));
            change(&mut shapes);
            infer(&shapes, UNTOLD).unwrap_err()
        };
        assert!(fault(&|_| {}, true).contains("--variant"));
        let without = |name: &'static str| move |shapes: &mut Shapes| shapes.retain(|key, _| key != name);
        assert!(
            fault(&without("decoder.token_emb.weight"), false).starts_with("decoder.token_emb.weight, which tells")
        );
        assert!(fault(&without("encoder.token_emb.weight"), false).contains("no network of ImageBART"));
        let sub_layer =
            |shapes: &mut Shapes| drop(shapes.insert("encoder.attn_layers.layers.4.0.bias".into(), vec![8]));
        assert!(fault(&sub_layer, false).contains("5 sub-layers, which is no multiple of 2"));
        let odd = |shapes: &mut Shapes| {
            drop(shapes.insert("decoder.attn_layers.layers.0.1.to_q.weight".into(), vec![100, 8]));
        };
        assert!(fault(&odd, false).contains("100 rows, which are no whole heads of 64"));
    }
}
