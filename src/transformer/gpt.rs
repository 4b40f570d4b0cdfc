//! The decoder-only network of the last scale (code: minGPT with a scale and class prompt).

use super::config::GptConfig;
use super::encoder_decoder::TextEmbedding;
use super::layers::{Cache, Embedding, FeedForward, Linear, Mask, Norm, SelfAttention, Stacked, Torch};
use super::parameters::Parameters;
use super::source::Ids;
use super::tape::{Tape, inputs};
use super::{Placement, TransformerError};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// A causal network over `[t, condition..., x_0 .. x_{n-2}]`.
#[derive(Debug)]
pub(super) struct Gpt {
    config: GptConfig,
    placement: Placement,
    tokens: Embedding,
    positions: Embedding,
    text: Option<TextEmbedding>,
    blocks: Vec<Block>,
    norm: Norm,
    head: Linear,
}

#[derive(Debug)]
struct Block {
    attention: SelfAttention,
    feed_forward: FeedForward,
}

fn block(parameters: &Parameters, layer: i64, heads: i64) -> Result<Block, TransformerError> {
    let name = |part: &str| format!("blocks.{layer}.{part}");
    let projections = ["attn.query", "attn.key", "attn.value"].map(name);
    Ok(Block {
        attention: SelfAttention {
            norm: Norm::new(parameters, &name("ln1"))?,
            qkv: Stacked::new(parameters, &projections, true)?,
            out: Linear::new(parameters, &name("attn.proj"), true)?,
            heads,
        },
        feed_forward: FeedForward {
            norm: Norm::new(parameters, &name("ln2"))?,
            up: Linear::new(parameters, &name("mlp.0"), true)?,
            down: Linear::new(parameters, &name("mlp.2"), true)?,
        },
    })
}

impl Gpt {
    pub fn new(config: &GptConfig, parameters: &Parameters) -> Result<Gpt, TransformerError> {
        let text = |_| -> Result<TextEmbedding, TransformerError> {
            Ok(TextEmbedding {
                tokens: Embedding::new(parameters, "text_emb.weight")?,
                positions: Embedding::new(parameters, "text_pos_emb")?,
            })
        };
        Ok(Gpt {
            config: config.clone(),
            placement: parameters.placement,
            tokens: Embedding::new(parameters, "tok_emb.weight")?,
            positions: Embedding::new(parameters, "pos_emb")?,
            text: config.text.map(text).transpose()?,
            blocks: (0..config.depth).map(|layer| block(parameters, layer, config.heads)).collect::<Result<_, _>>()?,
            norm: Norm::new(parameters, "ln_f")?,
            head: Linear::new(parameters, "head", false)?,
        })
    }

    /// Most tokens that fit behind the prompt of `ids`, the last of which is never read.
    pub fn longest(&self, ids: &Ids) -> i64 {
        self.config.block - ids.prompt() + 1
    }

    /// Embeds `[t, condition...]` and the tokens behind it.
    fn embed(&self, ids: &Ids, tokens: Option<&Tensor>) -> Torch<Tensor> {
        let scale = ids.scale.f_unsqueeze(1)?;
        let class = ids.class.as_ref().map(|class| class.f_unsqueeze(1)).transpose()?;
        let shared: Vec<&Tensor> = [Some(&scale), class.as_ref(), tokens].into_iter().flatten().collect();
        let shared = Tensor::f_cat(&shared, 1)?;
        let (_, length) = shared.size2()?;
        let x = self.tokens.rows(&shared)?.f_add(&self.positions.range(0, length)?)?;
        let (Some(embedding), Some(text)) = (&self.text, &ids.text) else { return Ok(x) };
        Tensor::f_cat(&[x.f_narrow(1, 0, 1)?, embedding.forward(text)?, x.f_narrow(1, 1, length - 1)?], 1)
    }

    /// Tokens of the prompt: `[t]`, `[t, class]` or `[t, text...]`.
    fn prompt(&self, ids: &Ids) -> i64 {
        ids.prompt() + self.config.text.map_or(0, |text| text.length)
    }

    /// Causal, but that the first `unmasked` tokens see one another.
    fn mask(&self, length: i64) -> Torch<Mask> {
        let unmasked = self.config.unmasked.min(length);
        if unmasked < 2 {
            return Ok(Mask::Causal);
        }
        let mask = Tensor::f_ones([length, length], (Kind::Bool, self.placement.device))?.f_tril(0)?;
        let _ = mask.f_narrow(0, 0, unmasked)?.f_narrow(1, 0, unmasked)?.f_fill_(1)?;
        Ok(Mask::Given(mask))
    }

    /// The logits at every position of `[t, condition..., tokens...]`: `[batch, prompt + tokens, codes]` float32.
    pub fn all_logits<'a>(&'a self, ids: &'a Ids, tokens: Option<&'a Tensor>, tape: &Tape<'a>) -> Torch<Tensor> {
        let mut x = tape.segment(&[], move |_| self.embed(ids, tokens))?;
        let (_, length, _) = x.size3()?;
        let mask = Rc::new(self.mask(length)?);
        for block in &self.blocks {
            let mask = mask.clone();
            x = tape.segment(&[&x], move |x| match x {
                [x] => block.feed_forward.forward(&block.attention.forward(x, &mask)?),
                _ => Err(inputs("a block", x)),
            })?;
        }
        self.head.forward(&self.norm.forward(&x)?)?.f_to_kind(Kind::Float)
    }

    /// The tokens that are read for targets x `[batch, m]`: all but the last.
    pub fn read(&self, x: &Tensor) -> Torch<Tensor> {
        let (_, length) = x.size2()?;
        x.f_narrow(1, 0, length - 1)
    }

    /// The logits of the targets whose [read](Gpt::read) tokens `[batch, m - 1]` are given: `[batch, m, codes]` float32.
    pub fn logits<'a>(&'a self, ids: &'a Ids, read: &'a Tensor, tape: &Tape<'a>) -> Torch<Tensor> {
        let (_, length) = read.size2()?;
        self.all_logits(ids, Some(read), tape)?.f_narrow(1, self.prompt(ids) - 1, length + 1)
    }

    /// What the steps of a batch need: the prompt runs here.
    pub fn begin(&self, ids: &Ids) -> Torch<GptState> {
        let mut x = self.embed(ids, None)?;
        let (batch, prompt, dim) = x.size3()?;
        let length = self.longest(ids);
        let shape = [batch, self.config.heads, prompt + length - 1, dim / self.config.heads];
        let mut caches = Vec::with_capacity(self.blocks.len());
        let mask = self.mask(prompt)?;
        for block in &self.blocks {
            let mut cache = Cache::new(shape, self.placement)?;
            x = block.feed_forward.forward(&block.attention.prefill(&x, &mask, &mut cache)?)?;
            caches.push(cache);
        }
        let first = self.finish(&x.f_select(1, prompt - 1)?)?;
        Ok(GptState { caches, first, prompt, shared: ids.prompt(), length })
    }

    /// Reads the `tokens` `[batch, m]` of positions `position..`, behind the token before them (`None`: there is none), without the
    /// last one, and keeps what the next steps need of it.
    pub fn extend(&self, state: &mut GptState, previous: Option<&Tensor>, tokens: &Tensor, position: i64) -> Torch<()> {
        let (_, count) = tokens.size2()?;
        let tokens = tokens.f_narrow(1, 0, count - 1)?;
        let (read, before) = match previous {
            Some(token) => (Tensor::f_cat(&[token.f_unsqueeze(1)?, tokens], 1)?, position - 1),
            None => (tokens, position),
        };
        let (_, count) = read.size2()?;
        if count == 0 {
            return Ok(());
        }
        let first = state.prompt + before;
        let mut x = self.tokens.rows(&read)?.f_add(&self.positions.range(state.shared + before, count)?)?;
        let mask = Mask::behind(first, count, self.placement.device)?;
        for (block, cache) in self.blocks.iter().zip(&mut state.caches) {
            x = block.feed_forward.forward(&block.attention.extend(&x, &mask, cache, first)?)?;
        }
        Ok(())
    }

    /// The logits `[batch, codes]` of `position`, after the token before it (`None`: the first).
    pub fn step(&self, state: &mut GptState, previous: Option<&Tensor>, position: i64) -> Torch<Tensor> {
        let Some(token) = previous else { return Ok(state.first.shallow_clone()) };
        let row = self.positions.range(state.shared + position - 1, 1)?;
        let mut x = self.tokens.rows(token)?.f_add(&row)?;
        for (block, cache) in self.blocks.iter().zip(&mut state.caches) {
            x = block.attention.step(&x, cache, state.prompt + position - 1)?;
            x = block.feed_forward.step(&x)?;
        }
        self.finish(&x)
    }

    /// `[batch, dim]` to float32 logits `[batch, codes]`.
    fn finish(&self, x: &Tensor) -> Torch<Tensor> {
        self.head.step(&self.norm.forward(x)?)?.f_to_kind(Kind::Float)
    }
}

/// Caches of the blocks for one batch, and the logits that the prompt gave.
#[derive(Debug)]
pub(super) struct GptState {
    caches: Vec<Cache>,
    first: Tensor,
    /// Tokens of the prompt, and those of them that share the positions of x.
    prompt: i64,
    shared: i64,
    /// Most tokens there is room for.
    pub length: i64,
}
