//! `gpt*` and `xtransformer*`: logits by teacher forcing, and token by token.

use super::fixture::{Fixture, Outcome, VALUES};
use imagebart::torch::weights::Weights;
use imagebart::transformer::{ConditionIds, Network, NetworkConfig, Placement, Source};
use serde_json::Value;
use tch::Tensor;

type Error = Box<dyn std::error::Error>;

/// The network as inference has it, and as training has it.
pub fn networks(fixture: &mut Fixture) -> Result<[Network; 2], Error> {
    let model = fixture.config.get("model").ok_or("the config has no model")?.clone();
    let scales = model.get("n_scales").and_then(Value::as_i64).ok_or("the config has no n_scales")?;
    let config = model.get("transformer_config").ok_or("the config has no transformer_config")?;
    let config = NetworkConfig::from_released(config, scales)?;
    let alphas = Vec::<f32>::try_from(fixture.read("w.alphats")?)?;
    let mut weights = fixture.weights("w.transformer.")?.into_tensors();
    for (name, shape) in config.buffers() {
        let buffer = weights.remove(&name).ok_or(format!("no buffer {name}"))?;
        assert_eq!(buffer.size(), shape, "{name}");
    }
    let shared = Network::new(&config, &weights, &alphas, Placement::cpu())?;
    let weights = Weights::from_tensors("the fixture", weights)?;
    let own = Network::load(&config, &weights, &alphas, Placement::cpu())?;
    Ok([own, shared])
}

/// Ids of a fixture: `[batch, 1]` where there is one a row.
fn column(ids: &Tensor, column: i64) -> Tensor {
    ids.select(1, column)
}

pub fn encoder_decoder(fixture: &mut Fixture) -> Outcome {
    let _guard = tch::no_grad_guard();
    let ids = |fixture: &mut Fixture, name: &str| fixture.read(&format!("in.{name}"));
    let (src, tgt, x, x_t) = (ids(fixture, "src")?, ids(fixture, "tgt")?, ids(fixture, "x")?, ids(fixture, "x_t")?);
    let scale = column(&ids(fixture, "scale")?, 0);
    let class = if fixture.has("in.cond") { Some(column(&ids(fixture, "cond")?, 0)) } else { None };
    let prompt = if class.is_some() { 2 } else { 1 };
    for network in networks(fixture)? {
        let source = Source { scale: &scale, condition: condition(&class), x_t: Some(&x_t) };
        // `src` is the same in one tensor; it is taken apart in case it is not.
        let apart = (column(&src, 0), class.is_some().then(|| column(&src, 1)), src.narrow(1, prompt, x_t.size()[1]));
        let read = Source { scale: &apart.0, condition: condition(&apart.1), x_t: Some(&apart.2) };
        fixture.close("out.enc", &network.encode(&read)?, VALUES)?;
        fixture.close("out.logits", &network.raw_logits(&read, &tgt)?, VALUES)?;
        fixture.close("out.logits_short", &network.raw_logits(&read, &tgt.narrow(1, 0, 3))?, VALUES)?;
        fixture.close("out.fwd_logits", &network.logits(&source, &x)?, VALUES)?;
        fixture.close("out.fwd_logits", &steps(&network, &source, &x)?, VALUES)?;
    }
    Ok(())
}

fn condition(class: &Option<Tensor>) -> ConditionIds<'_> {
    class.as_ref().map_or(ConditionIds::None, ConditionIds::Class)
}

pub fn gpt(fixture: &mut Fixture) -> Outcome {
    let _guard = tch::no_grad_guard();
    let (ids, prompt, z) = (fixture.read("in.ids")?, fixture.read("in.prompt")?, fixture.read("in.z")?);
    let scale = column(&prompt, 0);
    let class = (prompt.size()[1] > 1).then(|| column(&prompt, 1));
    let source = Source { scale: &scale, condition: condition(&class), x_t: None };
    let behind = prompt.size()[1];
    let tokens = ids.narrow(1, behind, ids.size()[1] - behind);
    for network in networks(fixture)? {
        fixture.close("out.full", &network.raw_logits(&source, &tokens)?, VALUES)?;
        fixture.close("out.fwd", &network.logits(&source, &z)?, VALUES)?;
        fixture.close("out.inc", &steps(&network, &source, &z)?, VALUES)?;
    }
    Ok(())
}

/// The logits of given tokens, one position after another.
fn steps(network: &Network, source: &Source, tokens: &Tensor) -> Result<Tensor, Error> {
    let mut decoding = network.begin(source)?;
    let mut logits = Vec::new();
    for position in 0..tokens.size()[1] {
        let previous = (position > 0).then(|| column(tokens, position - 1));
        logits.push(decoding.next(previous.as_ref())?);
    }
    Ok(Tensor::stack(&logits, 1))
}
