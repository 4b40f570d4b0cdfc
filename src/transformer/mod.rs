//! The networks of a chain: the encoder-decoder of scales 1..T-1 and the decoder-only GPT of scale T.
//!
//! Each network is described once, by a [`NetworkConfig`]: its shape, and through it the names, shapes and fresh values of
//! its tensors. Names are those of the released checkpoints, below `transformer.`. [`Network`] runs it: all tokens at once with
//! teacher forcing, or token by token.
//!
//! # Sequences
//!
//! The encoder reads `[t, x_t...]`, with a class `[t, class, x_t...]`; the decoder `[sos, x_0 .. x_{n-2}]`, where sos is code 0,
//! and predicts `x_0 .. x_{n-1}` of x_{t-1}. The GPT reads `[t, x_0 .. x_{n-2}]`, with a class `[t, class, x_0 .. x_{n-2}]`.
//! The scale number, classes and codes are ids of one embedding and count through one list of positions.
//!
//! A text condition of L tokens stands between t and what follows: the encoder reads `[t, text..., x_t...]`, the GPT
//! `[t, text..., x_0 .. x_{n-2}]`. It has an embedding and positions of its own, so that codes keep their positions (t has 0, the
//! first code 1) and a network without text can be continued with one:
//!
//! | tensor | encoder-decoder | GPT |
//! |---|---|---|
//! | embedding, `[V + 2, dim]` | `encoder.text_emb.weight` | `text_emb.weight` |
//! | positions | `encoder.text_pos_emb.emb.weight` `[L, dim]` | `text_pos_emb` `[1, L, dim]` |
//!
//! V is the text tokenizer's vocabulary. Rows V and V + 1 of the embedding are learned: padding, behind a text shorter than L,
//! and null, at every position of a row without condition (guidance). Every text so has L tokens, and no step needs a mask. The
//! GPT's prompt tokens see one another (`unmasked` = 1 + L).
//!
//! # Steps
//!
//! [`Network::begin`] runs the encoder (or the prompt) and allocates the caches: keys and values `[batch, heads, tokens, width]`
//! of every self-attention, and those of the encoder's output for every cross-attention, computed there once.
//! [`Decoding::next`] writes one position of the caches and reads those before it. It never waits for the device, and leaves no
//! memory behind: its temporaries come from libtorch's caching allocator. To be captured in a CUDA graph a step would still need
//! its position on the device (it selects views of the caches and a row of the positions by a number of the host), attention
//! over the whole cache under a mask, and fixed buffers for the previous token and the logits.

mod config;
mod encoder_decoder;
mod flops;
mod gpt;
mod layers;
mod network;
mod parameters;
mod released;
mod source;
mod tape;
mod tensors;
#[cfg(test)]
mod tests;

pub use config::{EncoderDecoderConfig, GptConfig, HEAD_WIDTH, NetworkConfig, NetworkError, TextConfig, Variant};
pub use network::{Decoding, Network, Placement, TransformerError};
pub use source::{ConditionIds, Source};
