//! The encoder-decoder of scales 1..T-1 (code: `XTransformer` and its scaled and residual kin).

use super::config::EncoderDecoderConfig;
use super::layers::{Cache, CrossAttention, Embedding, FeedForward, Linear, Mask, Memory, Norm, SelfAttention};
use super::layers::{Stacked, Torch};
use super::parameters::Parameters;
use super::source::Ids;
use super::tape::{Tape, inputs};
use super::{HEAD_WIDTH, Placement, TransformerError};
use tch::{Kind, Tensor};

/// Code 0 stands before the first token: there is no separate symbol.
const START: i64 = 0;

/// An encoder over `[t, condition..., x_t...]` and a causal decoder that attends to it.
#[derive(Debug)]
pub(super) struct EncoderDecoder {
    config: EncoderDecoderConfig,
    placement: Placement,
    encoder: Side<EncoderLayer>,
    text: Option<TextEmbedding>,
    decoder: Side<DecoderLayer>,
    to_logits: Linear,
    /// `[T]`, of the scaled variants.
    log_scalors: Option<Tensor>,
    residual: Option<Residual>,
}

/// Embeddings, layers and final norm of a side.
#[derive(Debug)]
struct Side<Layer> {
    tokens: Embedding,
    positions: Embedding,
    layers: Vec<Layer>,
    norm: Norm,
}

#[derive(Debug)]
struct EncoderLayer {
    attention: SelfAttention,
    feed_forward: FeedForward,
}

#[derive(Debug)]
struct DecoderLayer {
    attention: SelfAttention,
    cross: CrossAttention,
    feed_forward: FeedForward,
}

/// Embedding and positions of a text condition.
#[derive(Debug)]
pub(super) struct TextEmbedding {
    pub tokens: Embedding,
    pub positions: Embedding,
}

impl TextEmbedding {
    /// `[batch, length]` to `[batch, length, dim]`.
    pub fn forward(&self, ids: &Tensor) -> Torch<Tensor> {
        let (_, length) = ids.size2()?;
        self.tokens.rows(ids)?.f_add(&self.positions.range(0, length)?)
    }
}

/// The term log(alpha_t onehot(x_t) + (1 - alpha_t) / K) of the logits: `[T + 1]` numbers, of scale t in row t.
#[derive(Debug)]
struct Residual {
    /// Where a code is not x_t.
    base: Tensor,
    /// Where it is.
    peak: Tensor,
}

impl Residual {
    /// alpha_t = 1 - beta_t for t in 0..=T, in float32 as the authors compute it.
    fn new(alphas: &[f32], codes: i64, placement: Placement) -> Torch<Residual> {
        let log = |value: &dyn Fn(f32) -> f32| -> Torch<Tensor> {
            let values: Vec<f32> = alphas.iter().map(|&alpha| value(alpha)).collect();
            Tensor::f_from_slice(&values)?.f_log()?.f_to_device(placement.device)
        };
        let rest = |alpha: f32| (1.0 - alpha) / codes as f32;
        Ok(Residual { base: log(&rest)?, peak: log(&|alpha| alpha + rest(alpha))? })
    }

    /// The term for `x_t` `[batch, tokens]` of rows of scale `scale` `[batch]`: `[batch, tokens, codes]` float32.
    fn term(&self, scale: &Tensor, x_t: &Tensor, codes: i64) -> Torch<Tensor> {
        let (batch, tokens) = x_t.size2()?;
        let of_scale = |values: &Tensor| values.f_index_select(0, scale)?.f_view([batch, 1, 1]);
        let base = of_scale(&self.base)?.f_repeat([1, tokens, codes])?;
        let peak = of_scale(&self.peak)?.f_expand([batch, tokens, 1], false)?;
        base.f_scatter(2, &x_t.f_unsqueeze(2)?, &peak)
    }
}

fn attention(parameters: &Parameters, name: &str, heads: i64) -> Result<SelfAttention, TransformerError> {
    let projections = ["to_q", "to_k", "to_v"].map(|projection| format!("{name}.1.{projection}"));
    Ok(SelfAttention {
        norm: Norm::new(parameters, &format!("{name}.0"))?,
        qkv: Stacked::new(parameters, &projections, false)?,
        out: Linear::new(parameters, &format!("{name}.1.to_out"), true)?,
        heads,
    })
}

fn cross_attention(parameters: &Parameters, name: &str, heads: i64) -> Result<CrossAttention, TransformerError> {
    let projections = ["to_k", "to_v"].map(|projection| format!("{name}.1.{projection}"));
    Ok(CrossAttention {
        norm: Norm::new(parameters, &format!("{name}.0"))?,
        query: Linear::new(parameters, &format!("{name}.1.to_q"), false)?,
        kv: Stacked::new(parameters, &projections, false)?,
        out: Linear::new(parameters, &format!("{name}.1.to_out"), true)?,
        heads,
    })
}

fn feed_forward(parameters: &Parameters, name: &str) -> Result<FeedForward, TransformerError> {
    Ok(FeedForward {
        norm: Norm::new(parameters, &format!("{name}.0"))?,
        up: Linear::new(parameters, &format!("{name}.1.net.0.0"), true)?,
        down: Linear::new(parameters, &format!("{name}.1.net.2"), true)?,
    })
}

/// A side whose layers `layer` makes from the names of its sub-layers.
fn side<Layer>(
    parameters: &Parameters,
    side: &str,
    depth: i64,
    sublayers: i64,
    layer: impl Fn(&dyn Fn(i64) -> String) -> Result<Layer, TransformerError>,
) -> Result<Side<Layer>, TransformerError> {
    let named = |layer: i64| move |part: i64| format!("{side}.attn_layers.layers.{}", sublayers * layer + part);
    Ok(Side {
        tokens: Embedding::new(parameters, &format!("{side}.token_emb.weight"))?,
        positions: Embedding::new(parameters, &format!("{side}.pos_emb.emb.weight"))?,
        layers: (0..depth).map(|index| layer(&named(index))).collect::<Result<_, _>>()?,
        norm: Norm::new(parameters, &format!("{side}.norm"))?,
    })
}

impl EncoderDecoder {
    pub fn new(
        config: &EncoderDecoderConfig,
        parameters: &Parameters,
        alphas: &[f32],
    ) -> Result<EncoderDecoder, TransformerError> {
        let variant = config.variant;
        if variant.is_residual() && alphas.len() as i64 != config.scales + 1 {
            return Err(TransformerError::Alphas { found: alphas.len(), scales: config.scales });
        }
        let encoder = side(parameters, "encoder", config.encoder_depth, 2, |name| {
            Ok(EncoderLayer {
                attention: attention(parameters, &name(0), config.encoder_heads)?,
                feed_forward: feed_forward(parameters, &name(1))?,
            })
        })?;
        let decoder = side(parameters, "decoder", config.decoder_depth, 3, |name| {
            Ok(DecoderLayer {
                attention: attention(parameters, &name(0), config.decoder_heads)?,
                cross: cross_attention(parameters, &name(1), config.decoder_heads)?,
                feed_forward: feed_forward(parameters, &name(2))?,
            })
        })?;
        let text = |_| -> Result<TextEmbedding, TransformerError> {
            Ok(TextEmbedding {
                tokens: Embedding::new(parameters, "encoder.text_emb.weight")?,
                positions: Embedding::new(parameters, "encoder.text_pos_emb.emb.weight")?,
            })
        };
        let placement = parameters.placement;
        Ok(EncoderDecoder {
            encoder,
            text: config.text.map(text).transpose()?,
            decoder,
            to_logits: Linear::new(parameters, "decoder.to_logits", true)?,
            log_scalors: if variant.is_scaled() { Some(parameters.get("log_scalors")?) } else { None },
            residual: match variant.is_residual() {
                true => Some(Residual::new(alphas, config.decoder_tokens, placement)?),
                false => None,
            },
            config: config.clone(),
            placement,
        })
    }

    /// The encoder's output after its final norm, `[batch, 1 + condition + tokens, dim]`.
    pub fn encode<'a>(&'a self, ids: &'a Ids, tape: &Tape<'a>) -> Torch<Tensor> {
        let mut x = tape.segment(&[], |_| self.embed(ids))?;
        for layer in &self.encoder.layers {
            x = tape.segment(&[&x], |x| match x {
                [x] => layer.feed_forward.forward(&layer.attention.forward(x, &Mask::Full)?),
                _ => Err(inputs("an encoder layer", x)),
            })?;
        }
        tape.segment(&[&x], |x| match x {
            [x] => self.encoder.norm.forward(x),
            _ => Err(inputs("a norm", x)),
        })
    }

    /// Embeds `[t, condition..., x_t...]`.
    fn embed(&self, ids: &Ids) -> Torch<Tensor> {
        let scale = ids.scale.f_unsqueeze(1)?;
        let x_t = ids.x_t.as_ref();
        let class = ids.class.as_ref().map(|class| class.f_unsqueeze(1)).transpose()?;
        // Scale, class and codes are ids of one embedding and share its positions; a text stands between t and x_t.
        let shared: Vec<&Tensor> = [Some(&scale), class.as_ref(), x_t].into_iter().flatten().collect();
        let shared = Tensor::f_cat(&shared, 1)?;
        let (_, length) = shared.size2()?;
        let x = self.encoder.tokens.rows(&shared)?.f_add(&self.encoder.positions.range(0, length)?)?;
        let (Some(embedding), Some(text)) = (&self.text, &ids.text) else { return Ok(x) };
        let (t, x_t) = (x.f_narrow(1, 0, 1)?, x.f_narrow(1, 1, length - 1)?);
        Tensor::f_cat(&[t, embedding.forward(text)?, x_t], 1)
    }

    /// The logits of decoder inputs `[batch, m]`, given the encoder's output: `[batch, m, codes]` float32.
    pub fn decode<'a>(&'a self, ids: &Ids, context: &Tensor, input: &'a Tensor, tape: &Tape<'a>) -> Torch<Tensor> {
        let mut x = tape.segment(&[], |_| {
            let (_, length) = input.size2()?;
            self.decoder.tokens.rows(input)?.f_add(&self.decoder.positions.range(0, length)?)
        })?;
        for layer in &self.decoder.layers {
            x = tape.segment(&[&x, context], |inputs_of| match inputs_of {
                [x, context] => {
                    let x = layer.attention.forward(x, &Mask::Causal)?;
                    let x = layer.cross.forward(&x, &layer.cross.memory(context)?)?;
                    layer.feed_forward.forward(&x)
                }
                _ => Err(inputs("a decoder layer", inputs_of)),
            })?;
        }
        let logits = self.to_logits.forward(&self.decoder.norm.forward(&x)?)?;
        self.finish(ids, logits, 0)
    }

    /// The decoder's input for targets x `[batch, m]`: `[sos, x_0 .. x_{m-2}]`.
    pub fn shifted(&self, x: &Tensor) -> Torch<Tensor> {
        let (batch, length) = x.size2()?;
        Tensor::f_cat(&[self.start(batch)?.f_unsqueeze(1)?, x.f_narrow(1, 0, length - 1)?], 1)
    }

    fn start(&self, batch: i64) -> Torch<Tensor> {
        Tensor::f_full([batch], START, (Kind::Int64, self.placement.device))
    }

    /// What the variant does to logits `[batch, m, codes]` of positions `first..`.
    fn finish(&self, ids: &Ids, logits: Tensor, first: i64) -> Torch<Tensor> {
        let mut logits = logits.f_to_kind(Kind::Float)?;
        let (batch, length, codes) = logits.size3()?;
        if let Some(log_scalors) = &self.log_scalors {
            let of_scale = log_scalors.f_index_select(0, &ids.scale.f_sub_scalar(1)?)?;
            logits = logits.f_mul(&of_scale.f_to_kind(Kind::Float)?.f_exp()?.f_view([batch, 1, 1])?)?;
        }
        if let (Some(residual), Some(x_t)) = (&self.residual, &ids.x_t) {
            logits = logits.f_add(&residual.term(&ids.scale, &x_t.f_narrow(1, first, length)?, codes)?)?;
        }
        Ok(logits)
    }

    /// What the steps of a batch need: the encoder and the cross-attentions' keys and values run here, once.
    pub fn begin(&self, ids: Ids) -> Torch<EncoderDecoderState> {
        let context = self.encode(&ids, &Tape::Plain)?;
        let length = ids.x_t.as_ref().and_then(|x_t| x_t.size().get(1).copied()).unwrap_or(0);
        let shape = [ids.batch, self.config.decoder_heads, length, HEAD_WIDTH];
        let layers = self
            .decoder
            .layers
            .iter()
            .map(|layer| Ok((Cache::new(shape, self.placement)?, layer.cross.memory(&context)?.settled()?)));
        Ok(EncoderDecoderState { layers: layers.collect::<Torch<_>>()?, ids, length })
    }

    /// Reads the `tokens` `[batch, m]` of positions `first..`, behind the token before them (`None`: there is none), without the last
    /// one, and keeps what the next steps need of it.
    pub fn extend(
        &self,
        state: &mut EncoderDecoderState,
        previous: Option<&Tensor>,
        tokens: &Tensor,
        first: i64,
    ) -> Torch<()> {
        let previous = previous.map_or_else(|| self.start(state.ids.batch), |token| Ok(token.shallow_clone()))?;
        let (_, count) = tokens.size2()?;
        let read = Tensor::f_cat(&[previous.f_unsqueeze(1)?, tokens.f_narrow(1, 0, count - 1)?], 1)?;
        let mut x = self.decoder.tokens.rows(&read)?.f_add(&self.decoder.positions.range(first, count)?)?;
        let mask = Mask::behind(first, count, self.placement.device)?;
        for (layer, (cache, memory)) in self.decoder.layers.iter().zip(&mut state.layers) {
            x = layer.attention.extend(&x, &mask, cache, first)?;
            x = layer.feed_forward.forward(&layer.cross.forward(&x, memory)?)?;
        }
        Ok(())
    }

    /// The logits `[batch, codes]` of `position`, after the token before it (`None`: the first).
    pub fn step(&self, state: &mut EncoderDecoderState, previous: Option<&Tensor>, position: i64) -> Torch<Tensor> {
        let token = previous.map_or_else(|| self.start(state.ids.batch), |token| Ok(token.shallow_clone()))?;
        let mut x = self.decoder.tokens.rows(&token)?.f_add(&self.decoder.positions.range(position, 1)?)?;
        for (layer, (cache, memory)) in self.decoder.layers.iter().zip(&mut state.layers) {
            x = layer.attention.step(&x, cache, position)?;
            x = layer.cross.step(&x, memory)?;
            x = layer.feed_forward.step(&x)?;
        }
        let logits = self.to_logits.step(&self.decoder.norm.forward(&x)?)?;
        self.finish(&state.ids, logits.f_unsqueeze(1)?, position)?.f_squeeze_dim(1)
    }
}

/// Caches and memories of the decoder's layers for one batch.
#[derive(Debug)]
pub(super) struct EncoderDecoderState {
    layers: Vec<(Cache, Memory)>,
    ids: Ids,
    /// Tokens to predict.
    pub length: i64,
}
