//! The networks from outside: teacher forcing against steps, batches against single rows, what is refused.

use super::*;
use crate::torch::weights::{Init, Weights};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

const TOKENS: i64 = 12;
const CODES: i64 = 20;
const SCALES: i64 = 3;
const ALPHAS: [f32; 4] = [1.0, 0.8, 0.4, 0.0];
const TEXT: TextConfig = TextConfig { vocabulary: 9, length: 5 };

/// What a network is conditioned on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Given {
    Nothing,
    Class,
    Text,
}

fn encoder_decoder(variant: Variant, given: Given) -> NetworkConfig {
    NetworkConfig::EncoderDecoder(EncoderDecoderConfig {
        dim: 40,
        encoder_depth: 2,
        decoder_depth: 2,
        encoder_heads: 2,
        decoder_heads: 1,
        encoder_tokens: CODES + 3,
        encoder_length: TOKENS + 2,
        decoder_tokens: CODES,
        decoder_length: TOKENS,
        variant,
        scales: SCALES,
        text: (given == Given::Text).then_some(TEXT),
    })
}

fn gpt(given: Given) -> NetworkConfig {
    let (block, unmasked) = match given {
        Given::Nothing => (TOKENS, 0),
        Given::Class => (TOKENS + 1, 2),
        Given::Text => (TOKENS, 1 + TEXT.length),
    };
    NetworkConfig::Gpt(GptConfig {
        dim: 36,
        depth: 3,
        heads: 2,
        input_tokens: CODES + 3,
        output_tokens: CODES,
        block,
        unmasked,
        text: (given == Given::Text).then_some(TEXT),
    })
}

fn all() -> Vec<(NetworkConfig, Given)> {
    let mut all = Vec::new();
    for given in [Given::Nothing, Given::Class, Given::Text] {
        all.push((gpt(given), given));
        for variant in [Variant::Plain, Variant::Scaled, Variant::Residual, Variant::ResidualScaled] {
            all.push((encoder_decoder(variant, given), given));
        }
    }
    all
}

/// Weights that leave no term of a network at zero and no bias without effect.
fn weights(config: &NetworkConfig) -> Weights {
    let mut specs = config.tensors();
    for spec in &mut specs {
        let mean = if spec.init == Init::Constant(1.0) { 1.0 } else { 0.0 };
        spec.init = Init::NormalAbout(mean, 0.2);
    }
    Weights::init(&specs, 5).expect("weights")
}

fn load(config: &NetworkConfig, kind: Kind) -> Network {
    Network::load(config, &weights(config), &ALPHAS, Placement { device: Device::Cpu, kind }).expect("loads")
}

/// Ids of a batch: scale, class, text, x_t, x.
struct Batch {
    scale: Tensor,
    class: Tensor,
    text: Tensor,
    x_t: Tensor,
    x: Tensor,
}

impl Batch {
    fn new(rows: i64) -> Batch {
        tch::manual_seed(3);
        let ids = |low, high, shape: &[i64]| Tensor::randint_low(low, high, shape, (Kind::Int64, Device::Cpu));
        let text = ids(0, TEXT.vocabulary, &[rows, TEXT.length]);
        // A short text in the first row, no condition in the last.
        let _ = text.get(0).narrow(0, 3, 2).fill_(TEXT.padding());
        let _ = text.get(rows - 1).fill_(if rows > 1 { TEXT.null() } else { TEXT.padding() });
        Batch {
            scale: ids(1, SCALES + 1, &[rows]),
            class: ids(0, CODES + 3, &[rows]),
            text,
            x_t: ids(0, CODES, &[rows, TOKENS]),
            x: ids(0, CODES, &[rows, TOKENS]),
        }
    }

    fn source(&self, given: Given) -> Source<'_> {
        let condition = match given {
            Given::Nothing => ConditionIds::None,
            Given::Class => ConditionIds::Class(&self.class),
            Given::Text => ConditionIds::Text(&self.text),
        };
        Source { scale: &self.scale, condition, x_t: Some(&self.x_t) }
    }

    fn row(&self, row: i64) -> Batch {
        let one = |ids: &Tensor| ids.narrow(0, row, 1);
        let (scale, class, text) = (one(&self.scale), one(&self.class), one(&self.text));
        Batch { scale, class, text, x_t: one(&self.x_t), x: one(&self.x) }
    }
}

fn steps(network: &Network, source: &Source, x: &Tensor) -> Tensor {
    let mut decoding = network.begin(source).expect("begins");
    let mut logits = Vec::new();
    for position in 0..TOKENS {
        let previous = (position > 0).then(|| x.select(1, position - 1));
        logits.push(decoding.next(previous.as_ref()).expect("steps"));
    }
    Tensor::stack(&logits, 1)
}

fn greedy(network: &Network, source: &Source) -> Vec<Vec<i64>> {
    let mut decoding = network.begin(source).expect("begins");
    let (mut tokens, mut token) = (Vec::new(), None);
    for _ in 0..TOKENS {
        token = Some(decoding.next(token.as_ref()).expect("steps").argmax(-1, false));
        tokens.extend(token.as_ref().map(Tensor::copy));
    }
    Vec::try_from(Tensor::stack(&tokens, 1)).expect("ids")
}

fn largest(x: &Tensor) -> f64 {
    x.to_kind(Kind::Double).abs().max().double_value(&[])
}

#[test]
fn steps_give_the_logits_of_teacher_forcing() {
    let batch = Batch::new(4);
    for (config, given) in all() {
        let network = load(&config, Kind::Float);
        let logits = network.logits(&batch.source(given), &batch.x).expect("computes");
        assert_eq!(logits.size(), [4, TOKENS, CODES]);
        let difference = largest(&(steps(&network, &batch.source(given), &batch.x) - logits));
        assert!(difference < 2e-5, "{config:?} {given:?}: {difference:e}");
    }
}

/// Whatever is passed over at once, from nothing to all but a token.
#[test]
fn known_tokens_that_are_passed_over_are_read_as_in_steps() {
    let batch = Batch::new(3);
    for (config, given) in all() {
        let network = load(&config, Kind::Float);
        let (source, x) = (batch.source(given), &batch.x);
        let expected = steps(&network, &source, x);
        for gaps in [vec![(0, 1), (1, 2)], vec![(0, 5), (6, 4)], vec![(2, 9)], vec![(0, TOKENS - 1)]] {
            let mut decoding = network.begin(&source).expect("begins");
            let before = |position: i64| (position > 0).then(|| x.select(1, position - 1));
            while decoding.position() < TOKENS {
                let position = decoding.position();
                if let Some(&(first, count)) = gaps.iter().find(|(first, _)| *first == position) {
                    decoding.pass_over(before(position).as_ref(), &x.narrow(1, first, count)).expect("reads");
                }
                let position = decoding.position();
                let logits = decoding.next(before(position).as_ref()).expect("steps");
                let difference = largest(&(logits - expected.select(1, position)));
                assert!(difference < 2e-5, "{config:?} {given:?} {gaps:?} at {position}: {difference:e}");
            }
            let error = decoding.pass_over(before(TOKENS).as_ref(), &x.narrow(1, 0, 1)).expect_err("is at its end");
            assert_eq!(error.to_string(), "what is known has 1 tokens, the network takes 1 to 0");
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_batch() {
    let batch = Batch::new(7);
    for (config, given) in all() {
        let network = load(&config, Kind::Float);
        let together = greedy(&network, &batch.source(given));
        for (row, tokens) in together.iter().enumerate() {
            let alone = batch.row(row as i64);
            assert_eq!(greedy(&network, &alone.source(given))[0], *tokens, "row {row} of {config:?} {given:?}");
        }
        let distinct: std::collections::BTreeSet<_> = together.iter().collect();
        assert!(distinct.len() > 1, "{config:?} {given:?} ignores its source");
    }
}

#[test]
fn bf16_is_close_to_fp32() {
    let batch = Batch::new(3);
    for (config, given) in all() {
        let source = batch.source(given);
        let exact = load(&config, Kind::Float).logits(&source, &batch.x).expect("computes");
        let network = load(&config, Kind::BFloat16);
        let rough = network.logits(&source, &batch.x).expect("computes");
        assert_eq!(rough.kind(), Kind::Float);
        let deviation = exact.std(false).double_value(&[]);
        assert!(largest(&(&rough - &exact)) < 0.25 * deviation, "{config:?} {given:?}");
        let stepped = steps(&network, &source, &batch.x);
        assert_eq!(stepped.kind(), Kind::Float);
        assert!(largest(&(stepped - exact)) < 0.25 * deviation, "{config:?} {given:?}");
    }
}

#[test]
fn shared_tensors_learn() {
    let batch = Batch::new(2);
    for (config, given) in all() {
        let unused: Vec<String> = config.unused_tensors().into_iter().map(|tensor| tensor.name).collect();
        for kind in [Kind::Float, Kind::BFloat16] {
            let given_weights = weights(&config).into_tensors();
            let tensors: BTreeMap<String, Tensor> =
                given_weights.into_iter().map(|(name, tensor)| (name, tensor.set_requires_grad(true))).collect();
            let placement = Placement { device: Device::Cpu, kind };
            let network = Network::new(&config, &tensors, &ALPHAS, placement).expect("builds");
            let logits = network.logits(&batch.source(given), &batch.x).expect("computes");
            if kind == Kind::Float {
                let own = load(&config, kind).logits(&batch.source(given), &batch.x).expect("computes");
                assert!(largest(&(&logits - own)) < 2e-5, "{config:?} {given:?}");
            }
            logits.f_mul(&logits).and_then(|x| x.f_mean(Kind::Float)?.f_backward()).expect("differentiates");
            let scalors = |name: &str| name == "log_scalors" && !scaled(&config);
            for (name, tensor) in &tensors {
                let expected = !unused.contains(name) && !scalors(name);
                assert_eq!(tensor.grad().defined(), expected, "{name} of {config:?} {given:?}");
            }
            // A step of an optimizer is seen: the storage is shared.
            let moved = if matches!(config, NetworkConfig::Gpt(_)) { "ln_f.bias" } else { "decoder.norm.bias" };
            tch::no_grad(|| {
                let _ = tensors[moved].shallow_clone().f_add_scalar_(1.0).expect("adds");
            });
            let after = network.logits(&batch.source(given), &batch.x).expect("computes");
            assert!(largest(&(after - logits)) > 1e-3);
        }
    }
}

fn scaled(config: &NetworkConfig) -> bool {
    matches!(config, NetworkConfig::EncoderDecoder(config) if config.variant.is_scaled())
}

#[test]
fn mistakes_are_named() {
    let batch = Batch::new(2);
    let network = load(&encoder_decoder(Variant::Plain, Given::Nothing), Kind::Float);
    let fault = |source: &Source, x: &Tensor| network.logits(source, x).unwrap_err().to_string();
    let good = batch.source(Given::Nothing);
    let past = &batch.x + CODES;
    assert!(fault(&good, &past).contains("x holds"), "{}", fault(&good, &past));
    assert!(fault(&Source { x_t: Some(&past), ..good }, &batch.x).starts_with("x_t holds"));
    assert!(fault(&Source { x_t: None, ..good }, &batch.x).contains("needs x_t"));
    let floats = batch.x_t.to_kind(Kind::Float);
    assert!(fault(&Source { x_t: Some(&floats), ..good }, &batch.x).contains("[2, 12] of int64"));
    let scale = &batch.scale + SCALES;
    assert!(fault(&Source { scale: &scale, ..good }, &batch.x).contains("allowed are 1 to 3"));
    assert!(fault(&Source { scale: &batch.x_t, ..good }, &batch.x).starts_with("scale is [2, 12]"));
    assert!(fault(&batch.source(Given::Text), &batch.x).contains("takes no text"));
    let long = Tensor::cat(&[&batch.x, &batch.x], 1);
    assert!(fault(&good, &long).contains("x has 24 tokens, the network takes 1 to 12"));
    assert!(fault(&Source { x_t: Some(&long), ..good }, &batch.x).contains("x_t has 24 tokens"));
    let texted = load(&gpt(Given::Text), Kind::Float);
    assert!(texted.logits(&good, &batch.x).unwrap_err().to_string().contains("conditioned on text"));
    let short = batch.text.narrow(1, 0, 3);
    let source = Source { condition: ConditionIds::Text(&short), ..good };
    assert!(texted.logits(&source, &batch.x).unwrap_err().to_string().contains("text is [2, 3]"));
    assert!(texted.encode(&batch.source(Given::Text)).is_err());
}

#[test]
fn steps_come_in_order_and_end() {
    let batch = Batch::new(2);
    for config in [gpt(Given::Nothing), encoder_decoder(Variant::ResidualScaled, Given::Nothing)] {
        let network = load(&config, Kind::Float);
        let mut decoding = network.begin(&batch.source(Given::Nothing)).expect("begins");
        let token = batch.x.select(1, 0);
        assert!(matches!(decoding.next(Some(&token)), Err(TransformerError::Previous { position: 0 })));
        let _ = decoding.next(None).expect("steps");
        assert!(matches!(decoding.next(None), Err(TransformerError::Previous { position: 1 })));
        assert!(decoding.next(Some(&batch.x)).unwrap_err().to_string().contains("the previous token is [2, 12]"));
        assert_eq!(decoding.position(), 1);
        for _ in 1..TOKENS {
            let _ = decoding.next(Some(&token)).expect("steps");
        }
        assert!(matches!(decoding.next(Some(&token)), Err(TransformerError::Finished { length: TOKENS })));
    }
}

#[test]
fn weights_and_alphas_must_fit() {
    let config = encoder_decoder(Variant::Residual, Given::Nothing);
    let load = |weights: &Weights, alphas: &[f32]| Network::load(&config, weights, alphas, Placement::cpu());
    let error = load(&weights(&config), &ALPHAS[..2]).unwrap_err().to_string();
    assert_eq!(error, "the schedule has 2 alphas, a chain of 3 scales needs 4");
    let error = load(&weights(&gpt(Given::Nothing)), &ALPHAS).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("decoder.to_logits.weight"), "{error}");
    let error = Network::new(&config, &BTreeMap::new(), &ALPHAS, Placement::cpu()).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("log_scalors"), "{error}");
}

/// Parameters of a network that record gradients.
fn leaves(config: &NetworkConfig) -> BTreeMap<String, Tensor> {
    let leaf = |(name, tensor): (String, Tensor)| (name, tensor.set_requires_grad(true));
    weights(config).into_tensors().into_iter().map(leaf).collect()
}

#[test]
fn recomputed_activations_give_the_same_gradients() {
    let batch = Batch::new(3);
    for (config, given) in all() {
        let loss = |logits: &Tensor| logits.f_log_softmax(-1, Kind::Float)?.f_square()?.f_mean(Kind::Float);
        let gradients = |recompute: bool| {
            let leaves = leaves(&config);
            let network = Network::new(&config, &leaves, &ALPHAS, Placement::cpu()).expect("builds");
            match recompute {
                true => network.backward(&batch.source(given), &batch.x, loss).expect("computes"),
                false => {
                    loss(&network.logits(&batch.source(given), &batch.x).expect("computes")).expect("a loss").backward()
                }
            }
            leaves.into_iter().map(|(name, leaf)| (name, leaf.grad())).collect::<BTreeMap<_, _>>()
        };
        let (plain, recomputed) = (gradients(false), gradients(true));
        for (name, plain) in &plain {
            let recomputed = &recomputed[name];
            assert_eq!(plain.defined(), recomputed.defined(), "{name} of {config:?}");
            if plain.defined() {
                let difference = largest(&(plain - recomputed)) / largest(plain).max(1e-6);
                assert!(difference < 1e-4, "{name} of {config:?} {given:?}: {difference:e}");
            }
        }
    }
}
