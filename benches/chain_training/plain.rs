//! The same networks, losses and optimizer as one writes them with tch's `nn`: a linear layer for each projection, attention as
//! minGPT spells it out, posteriors over all codes, `nn::AdamW`, moving averages variable by variable.

use super::Error;
use imagebart::diffusion::Schedule;
use imagebart::torch::weights::Weights;
use imagebart::transformer::{EncoderDecoderConfig, GptConfig, NetworkConfig};
use std::collections::BTreeMap;
use tch::nn::{self, OptimizerConfig};
use tch::{Device, Kind, Tensor};

/// A network, its optimizer and its averages.
pub struct Plain {
    config: NetworkConfig,
    tensors: BTreeMap<String, Tensor>,
    pub optimizer: nn::Optimizer,
    averages: Vec<(String, Tensor)>,
}

impl Plain {
    /// A network that starts from `weights`.
    pub fn new(config: &NetworkConfig, weights: &Weights, rate: f64, decay: f64) -> Result<Plain, Error> {
        let store = nn::VarStore::new(Device::Cpu);
        let (mut tensors, mut averages) = (BTreeMap::new(), Vec::new());
        for (name, tensor) in weights.tensors() {
            // Dots separate the paths of a store.
            let variable = store.root().var_copy(&name.replace('.', "/"), tensor);
            averages.push((name.clone(), tensor.copy()));
            tensors.insert(name.clone(), variable);
        }
        let adamw = nn::AdamW { beta1: 0.9, beta2: 0.95, wd: decay, eps: 1e-8, amsgrad: false };
        Ok(Plain { config: config.clone(), tensors, optimizer: adamw.build(&store, rate)?, averages })
    }

    /// Logits of x_{t-1}, `[batch, tokens, K]`, all rows at scale `t`.
    pub fn logits(&self, t: i64, x_t: &Tensor, before: &Tensor) -> Tensor {
        match &self.config {
            NetworkConfig::EncoderDecoder(config) => self.encoder_decoder(config, t, x_t, before),
            NetworkConfig::Gpt(config) => self.gpt(config, t, before),
        }
    }

    /// avg -= (1 - decay) (avg - p), as LitEma does.
    pub fn average(&mut self, decay: f64) {
        tch::no_grad(|| {
            for (name, average) in &mut self.averages {
                let step = (&*average - &self.tensors[name.as_str()]) * (1.0 - decay);
                *average -= step;
            }
        });
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    fn linear(&self, name: &str, x: &Tensor, bias: bool) -> Tensor {
        let bias = bias.then(|| self.get(&format!("{name}.bias")));
        x.linear(self.get(&format!("{name}.weight")), bias)
    }

    fn norm(&self, name: &str, x: &Tensor) -> Tensor {
        let weight = self.get(&format!("{name}.weight"));
        x.layer_norm(weight.size(), Some(weight), Some(self.get(&format!("{name}.bias"))), 1e-5, true)
    }

    /// softmax(q kᵀ / sqrt(width)) v, `[batch, tokens, heads · width]` each.
    fn attend(&self, [q, k, v]: [Tensor; 3], heads: i64, causal: bool) -> Tensor {
        let split = |x: &Tensor| {
            let size = x.size();
            x.view([size[0], size[1], heads, size[2] / heads]).transpose(1, 2)
        };
        let (q, k, v) = (split(&q), split(&k), split(&v));
        let size = q.size();
        let mut scores = q.matmul(&k.transpose(-2, -1)) * (1.0 / (size[3] as f64).sqrt());
        if causal {
            let mask = Tensor::ones([size[2], size[2]], (Kind::Float, Device::Cpu)).tril(0);
            scores = scores.masked_fill(&mask.eq(0.0), f64::NEG_INFINITY);
        }
        let mixed = scores.softmax(-1, Kind::Float).matmul(&v);
        mixed.transpose(1, 2).contiguous().view([size[0], size[2], size[1] * size[3]])
    }

    fn feed_forward(&self, up: &str, down: &str, x: &Tensor) -> Tensor {
        self.linear(down, &self.linear(up, x, true).gelu("none"), true)
    }

    fn gpt(&self, config: &GptConfig, t: i64, before: &Tensor) -> Tensor {
        let size = before.size();
        let scale = Tensor::full([size[0], 1], t, (Kind::Int64, Device::Cpu));
        let ids = Tensor::cat(&[scale, before.narrow(1, 0, size[1] - 1)], 1);
        let mut x = Tensor::embedding(self.get("tok_emb.weight"), &ids, -1, false, false)
            + self.get("pos_emb").narrow(1, 0, size[1]);
        for layer in 0..config.depth {
            let name = |part: &str| format!("blocks.{layer}.{part}");
            let normed = self.norm(&name("ln1"), &x);
            let qkv = ["attn.query", "attn.key", "attn.value"].map(|part| self.linear(&name(part), &normed, true));
            x = &x + self.linear(&name("attn.proj"), &self.attend(qkv, config.heads, true), true);
            x = &x + self.feed_forward(&name("mlp.0"), &name("mlp.2"), &self.norm(&name("ln2"), &x));
        }
        self.linear("head", &self.norm("ln_f", &x), false)
    }

    fn embed(&self, side: &str, ids: &Tensor) -> Tensor {
        let tokens = Tensor::embedding(self.get(&format!("{side}.token_emb.weight")), ids, -1, false, false);
        tokens + self.get(&format!("{side}.pos_emb.emb.weight")).narrow(0, 0, ids.size()[1])
    }

    /// `x + f(norm(x))`, attention to `context` or, without one, to itself.
    fn attention(&self, name: &str, x: &Tensor, context: Option<&Tensor>, heads: i64, causal: bool) -> Tensor {
        let normed = self.norm(&format!("{name}.0"), x);
        let project = |part: &str, of: &Tensor| self.linear(&format!("{name}.1.{part}"), of, false);
        let seen = context.unwrap_or(&normed);
        let qkv = [project("to_q", &normed), project("to_k", seen), project("to_v", seen)];
        x + self.linear(&format!("{name}.1.to_out"), &self.attend(qkv, heads, causal), true)
    }

    fn wide(&self, name: &str, x: &Tensor) -> Tensor {
        let (up, down) = (format!("{name}.1.net.0.0"), format!("{name}.1.net.2"));
        x + self.feed_forward(&up, &down, &self.norm(&format!("{name}.0"), x))
    }

    fn encoder_decoder(&self, config: &EncoderDecoderConfig, t: i64, x_t: &Tensor, before: &Tensor) -> Tensor {
        let size = x_t.size();
        let scale = Tensor::full([size[0], 1], t, (Kind::Int64, Device::Cpu));
        let mut x = self.embed("encoder", &Tensor::cat(&[&scale, x_t], 1));
        for layer in 0..config.encoder_depth {
            let name = |part: i64| format!("encoder.attn_layers.layers.{}", 2 * layer + part);
            x = self.attention(&name(0), &x, None, config.encoder_heads, false);
            x = self.wide(&name(1), &x);
        }
        let context = self.norm("encoder.norm", &x);
        let start = Tensor::zeros([size[0], 1], (Kind::Int64, Device::Cpu));
        let mut x = self.embed("decoder", &Tensor::cat(&[start, before.narrow(1, 0, size[1] - 1)], 1));
        for layer in 0..config.decoder_depth {
            let name = |part: i64| format!("decoder.attn_layers.layers.{}", 3 * layer + part);
            x = self.attention(&name(0), &x, None, config.decoder_heads, true);
            x = self.attention(&name(1), &x, Some(&context), config.decoder_heads, false);
            x = self.wide(&name(2), &x);
        }
        self.linear("decoder.to_logits", &self.norm("decoder.norm", &x), true)
    }
}

/// x_{t-1} and x_t of a batch, by torch's generator.
pub fn noise(x_0: &Tensor, schedule: &Schedule, codes: i64, t: u32) -> (Tensor, Tensor) {
    let (mut before, mut current) = (x_0.shallow_clone(), x_0.shallow_clone());
    for step in 1..=t {
        let redrawn = Tensor::rand(x_0.size(), (Kind::Float, Device::Cpu)).lt(f64::from(schedule.beta(step)));
        let next = Tensor::randint(codes, x_0.size(), (Kind::Int64, Device::Cpu)).where_self(&redrawn, &current);
        before = std::mem::replace(&mut current, next);
    }
    (before, current)
}

/// KL(q(x_{t-1} | x_t, x_0) || p), the posterior over all codes by Bayes' rule.
pub fn soft_loss(logits: &Tensor, schedule: &Schedule, t: u32, x_0: &Tensor, x_t: &Tensor) -> Tensor {
    let codes = logits.size()[2];
    let mix = |share: f64, ids: &Tensor| ids.one_hot(codes).to_kind(Kind::Float) * share + (1.0 - share) / codes as f64;
    let joint = mix(f64::from(schedule.cumulative(t - 1)), x_0) * mix(f64::from(schedule.alpha(t)), x_t);
    let posterior = &joint / joint.sum_dim_intlist(-1, true, Kind::Float);
    let log_p = logits.log_softmax(-1, Kind::Float);
    let divergence = &posterior * ((&posterior + 1e-30).log() - log_p);
    divergence.sum_dim_intlist(-1, false, Kind::Float).mean(Kind::Float)
}
