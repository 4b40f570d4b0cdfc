//! How much a network computes: floating-point operations of its matrix products, two for each multiplication and addition.

use super::{EncoderDecoderConfig, GptConfig, HEAD_WIDTH, NetworkConfig};

/// Operations of a linear layer, for each of its positions.
fn linear(input: i64, output: i64) -> i64 {
    2 * input * output
}

/// Those of a feed-forward layer, for each position.
fn feed_forward(dim: i64) -> i64 {
    linear(dim, 4 * dim) + linear(4 * dim, dim)
}

/// Those of attention itself, for each query: products with `keys` keys and as many values of `width` numbers.
fn attention(keys: i64, width: i64) -> i64 {
    4 * keys * width
}

impl NetworkConfig {
    /// Operations of one forward pass by teacher forcing over a row of `tokens` tokens. Norms, softmax, embeddings and the
    /// like are not in it, nor what a causal mask could save.
    pub fn forward_flops(&self, tokens: i64, has_class: bool) -> i64 {
        let prompt = 1 + i64::from(has_class) + self.text().map_or(0, |text| text.length);
        match self {
            NetworkConfig::EncoderDecoder(config) => config.forward_flops(tokens, prompt),
            NetworkConfig::Gpt(config) => config.forward_flops(tokens, prompt),
        }
    }

    /// Operations of one step of training on a row: forward, and twice as much for the gradients of inputs and weights; another
    /// forward pass where activations are computed twice is not counted, as is the custom for MFU.
    pub fn training_flops(&self, tokens: i64, has_class: bool) -> i64 {
        3 * self.forward_flops(tokens, has_class)
    }
}

impl EncoderDecoderConfig {
    fn forward_flops(&self, tokens: i64, prompt: i64) -> i64 {
        let (read, dim) = (prompt + tokens, self.dim);
        let (encoder, decoder) = (self.encoder_heads * HEAD_WIDTH, self.decoder_heads * HEAD_WIDTH);
        let projections = |width| 4 * linear(dim, width);
        let encoder_layer = read * (projections(encoder) + attention(read, encoder) + feed_forward(dim));
        let cross = tokens * (2 * linear(dim, decoder) + attention(read, decoder)) + read * 2 * linear(dim, decoder);
        let decoder_layer = tokens * (projections(decoder) + attention(tokens, decoder) + feed_forward(dim)) + cross;
        self.encoder_depth * encoder_layer
            + self.decoder_depth * decoder_layer
            + tokens * linear(dim, self.decoder_tokens)
    }
}

impl GptConfig {
    fn forward_flops(&self, tokens: i64, prompt: i64) -> i64 {
        let (read, dim) = (prompt + tokens - 1, self.dim);
        let layer = 4 * linear(dim, dim) + attention(read, dim) + feed_forward(dim);
        read * (self.depth * layer + linear(dim, self.output_tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Variant;
    use super::*;

    /// Twice the parameters of the matrices for each token, and the attention: FFHQ-2's networks, by hand.
    #[test]
    fn operations_follow_the_parameters() {
        let gpt = NetworkConfig::Gpt(GptConfig {
            dim: 1216,
            depth: 36,
            heads: 16,
            input_tokens: 548,
            output_tokens: 548,
            block: 256,
            unmasked: 0,
            text: None,
        });
        let matrices = 36 * 12 * 1216 * 1216 + 1216 * 548;
        assert_eq!(gpt.forward_flops(256, false), 256 * (2 * matrices + 36 * 4 * 256 * 1216));

        let both = NetworkConfig::EncoderDecoder(EncoderDecoderConfig {
            dim: 1152,
            encoder_depth: 32,
            decoder_depth: 6,
            encoder_heads: 16,
            decoder_heads: 16,
            encoder_tokens: 548,
            encoder_length: 257,
            decoder_tokens: 548,
            decoder_length: 256,
            variant: Variant::Plain,
            scales: 2,
            text: None,
        });
        let (attention, feed_forward) = (4 * 1152 * 1024, 8 * 1152 * 1152);
        let encoder = 257 * 32 * (2 * (attention + feed_forward) + 4 * 257 * 1024);
        let decoder = 256 * 6 * (2 * (attention + feed_forward + attention / 2) + 4 * (256 + 257) * 1024);
        let cross_memory = 257 * 6 * 2 * (attention / 2);
        assert_eq!(both.forward_flops(256, false), encoder + decoder + cross_memory + 256 * 2 * 1152 * 548);
        assert_eq!(both.training_flops(256, false), 3 * both.forward_flops(256, false));
    }
}
