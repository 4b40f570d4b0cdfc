//! A network in one placement: logits by teacher forcing, and token by token.

use super::encoder_decoder::{EncoderDecoder, EncoderDecoderState};
use super::gpt::{Gpt, GptState};
use super::parameters::Parameters;
use super::source::{Ids, Source, placed};
use super::tape::Tape;
use super::{NetworkConfig, NetworkError};
use crate::torch::spec::Differences;
use crate::torch::weights::{Weights, WeightsError};
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

/// Where and how a network computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub device: Device,
    /// `Kind::Float` or `Kind::BFloat16`.
    pub kind: Kind,
}

impl Placement {
    /// float32 on the CPU.
    pub fn cpu() -> Placement {
        Placement { device: Device::Cpu, kind: Kind::Float }
    }

    /// A tensor in this device and dtype: itself, where it is so already.
    pub fn place(&self, tensor: &Tensor) -> std::result::Result<Tensor, TchError> {
        tensor.f_to_device(self.device)?.f_to_kind(self.kind)?.f_contiguous()
    }
}

/// Why a network could not be built or run.
#[derive(Debug, thiserror::Error)]
pub enum TransformerError {
    #[error(transparent)]
    Config(#[from] NetworkError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("the given tensors do not fit the network: {0}")]
    Tensors(Differences),
    #[error("the network has no tensor {tensor}")]
    NoTensor { tensor: String },
    #[error("the schedule has {found} alphas, a chain of {scales} scales needs {}", scales + 1)]
    Alphas { found: usize, scales: i64 },
    #[error("{what} is {found:?} of {kind:?}, it must be {expected}")]
    Shape { what: &'static str, found: Vec<i64>, kind: Kind, expected: String },
    #[error("{what} holds {id}, allowed are {first} to {}", end - 1)]
    Id { what: &'static str, id: i64, first: i64, end: i64 },
    #[error("the condition does not fit: {0}")]
    Condition(&'static str),
    #[error("an encoder-decoder needs x_t")]
    NoSource,
    #[error("{what} has {tokens} tokens, the network takes 1 to {longest}")]
    Length { what: &'static str, tokens: i64, longest: i64 },
    #[error("position {position}: every position but the first follows a token, the first follows none")]
    Previous { position: i64 },
    #[error("all {length} tokens are decoded")]
    Finished { length: i64 },
    #[error("the network is {0}")]
    Kind(&'static str),
    #[error("a network failed in libtorch: {0}")]
    Torch(#[from] TchError),
}

type Result<T> = std::result::Result<T, TransformerError>;

/// One scale's network.
///
/// ```
/// use imagebart::torch::weights::Weights;
/// use imagebart::transformer::{ConditionIds, GptConfig, Network, NetworkConfig, Placement, Source};
/// use tch::Tensor;
///
/// let config = NetworkConfig::Gpt(GptConfig {
///     dim: 32, depth: 2, heads: 2, input_tokens: 20, output_tokens: 20, block: 16, unmasked: 0, text: None,
/// });
/// let weights = Weights::init(&config.tensors(), 0)?;
/// let network = Network::load(&config, &weights, &[], Placement::cpu())?;
/// drop(weights);
/// let scale = Tensor::f_from_slice(&[3i64])?;
/// let mut decoding = network.begin(&Source { scale: &scale, condition: ConditionIds::None, x_t: None })?;
/// let mut token = None;
/// for _ in 0..16 {
///     token = Some(decoding.next(token.as_ref())?.f_argmax(-1, false)?);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    placement: Placement,
    body: Body,
}

#[derive(Debug)]
enum Body {
    EncoderDecoder(Box<EncoderDecoder>),
    Gpt(Box<Gpt>),
}

impl Network {
    /// A network for inference, with tensors of its own in the placement: those of one input stacked (query, key and value),
    /// the others shared with `weights` where they are in the placement already. `alphas` are alpha_t of the schedule for t in
    /// 0..=T; only the residual variants use them.
    ///
    /// # Errors
    /// Missing, unused and mismatched tensors, all in one message; alphas of the wrong number for a residual variant.
    pub fn load(config: &NetworkConfig, weights: &Weights, alphas: &[f32], placement: Placement) -> Result<Network> {
        config.validate()?;
        weights.check(&config.tensors())?;
        let _guard = tch::no_grad_guard();
        Network::build(config, &Parameters { tensors: weights.tensors(), placement, fuse: true }, alphas)
    }

    /// A network over given tensors, for training: it shares their storage, and gradients flow to them. They must be on the
    /// placement's device; where their dtype is another one, they are cast in use.
    ///
    /// # Errors
    /// As [`load`](Network::load).
    pub fn new(
        config: &NetworkConfig,
        tensors: &BTreeMap<String, Tensor>,
        alphas: &[f32],
        placement: Placement,
    ) -> Result<Network> {
        config.validate()?;
        let found = tensors.iter().map(|(name, tensor)| {
            let integer = tensor.f_kind().is_ok_and(|kind| kind == Kind::Int64);
            (name.as_str(), tensor.size(), integer)
        });
        let differences = Differences::between(&config.tensors(), found);
        if !differences.is_empty() {
            return Err(TransformerError::Tensors(differences));
        }
        Network::build(config, &Parameters { tensors, placement, fuse: false }, alphas)
    }

    fn build(config: &NetworkConfig, parameters: &Parameters, alphas: &[f32]) -> Result<Network> {
        let body = match config {
            NetworkConfig::EncoderDecoder(shape) => {
                Body::EncoderDecoder(Box::new(EncoderDecoder::new(shape, parameters, alphas)?))
            }
            NetworkConfig::Gpt(shape) => Body::Gpt(Box::new(Gpt::new(shape, parameters)?)),
        };
        Ok(Network { config: config.clone(), placement: parameters.placement, body })
    }

    /// The network's shape.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Where and how it computes.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Teacher forcing: the logits of every token of x_{t-1} `[batch, m]` given those before it, `[batch, m, K]` float32.
    /// Differentiable. An encoder-decoder takes the first m tokens of a longer grid too.
    ///
    /// # Errors
    /// Ids of a wrong shape or, where they are on the CPU, out of range.
    pub fn logits(&self, source: &Source, x: &Tensor) -> Result<Tensor> {
        let ids = source.placed(&self.config, self.placement.device)?;
        let input = self.teacher(&ids, x)?;
        Ok(self.taped(&ids, &input, &Tape::Plain)?)
    }

    /// Teacher forcing with activation checkpointing: adds to the parameters' gradients those of the loss that `loss` makes of
    /// the [logits](Network::logits). Only the layers' inputs are kept meanwhile; each layer runs once more, for its gradients.
    ///
    /// # Errors
    /// As [`logits`](Network::logits), and those of `loss`.
    pub fn backward(
        &self,
        source: &Source,
        x: &Tensor,
        loss: impl FnOnce(&Tensor) -> std::result::Result<Tensor, TchError>,
    ) -> Result<()> {
        let ids = source.placed(&self.config, self.placement.device)?;
        let input = self.teacher(&ids, x)?;
        let tape = Tape::inputs();
        loss(&self.taped(&ids, &input, &tape)?)?.f_backward()?;
        Ok(tape.backward()?)
    }

    /// What is read for targets x: an encoder-decoder's decoder input, or the tokens behind a GPT's prompt.
    fn teacher(&self, ids: &Ids, x: &Tensor) -> Result<Tensor> {
        let x = self.tokens("x", x, ids, self.longest(ids))?;
        Ok(match &self.body {
            Body::EncoderDecoder(network) => network.shifted(&x)?,
            Body::Gpt(network) => network.read(&x)?,
        })
    }

    fn taped<'a>(&'a self, ids: &'a Ids, input: &'a Tensor, tape: &Tape<'a>) -> std::result::Result<Tensor, TchError> {
        match &self.body {
            Body::EncoderDecoder(network) => network.decode(ids, &network.encode(ids, tape)?, input, tape),
            Body::Gpt(network) => network.logits(ids, input, tape),
        }
    }

    /// The encoder's output after its final norm, `[batch, 1 + condition + tokens, dim]`.
    ///
    /// # Errors
    /// As [`logits`](Network::logits); a GPT has no encoder.
    pub fn encode(&self, source: &Source) -> Result<Tensor> {
        let ids = source.placed(&self.config, self.placement.device)?;
        match &self.body {
            Body::EncoderDecoder(network) => Ok(network.encode(&ids, &Tape::Plain)?),
            Body::Gpt(_) => Err(TransformerError::Kind("a GPT, which has no encoder")),
        }
    }

    /// The logits of decoder inputs `[batch, m]` (`[sos, x_0 ...]`), given the [encoder's output](Network::encode) for the same
    /// source: `[batch, m, K]` float32.
    ///
    /// # Errors
    /// As [`logits`](Network::logits); a GPT has no decoder.
    pub fn decode(&self, source: &Source, context: &Tensor, input: &Tensor) -> Result<Tensor> {
        let ids = source.placed(&self.config, self.placement.device)?;
        match &self.body {
            Body::EncoderDecoder(network) => {
                let input = self.tokens("the decoder's input", input, &ids, self.longest(&ids))?;
                Ok(network.decode(&ids, context, &input, &Tape::Plain)?)
            }
            Body::Gpt(_) => Err(TransformerError::Kind("a GPT, which has no encoder")),
        }
    }

    /// The logits at every position of a sequence as the network reads it: an encoder-decoder's decoder input
    /// `[sos, x_0 ...]`, or the tokens behind a GPT's prompt, whose own positions come first. Float32.
    ///
    /// # Errors
    /// As [`logits`](Network::logits).
    pub fn raw_logits(&self, source: &Source, input: &Tensor) -> Result<Tensor> {
        let ids = source.placed(&self.config, self.placement.device)?;
        match &self.body {
            Body::EncoderDecoder(network) => {
                let input = self.tokens("the decoder's input", input, &ids, self.longest(&ids))?;
                Ok(network.decode(&ids, &network.encode(&ids, &Tape::Plain)?, &input, &Tape::Plain)?)
            }
            Body::Gpt(network) => {
                let input = self.tokens("the tokens behind the prompt", input, &ids, self.longest(&ids) - 1)?;
                Ok(network.all_logits(&ids, Some(&input), &Tape::Plain)?)
            }
        }
    }

    /// Starts decoding a batch: the encoder, or the prompt, runs once, and everything the steps write to is allocated.
    /// Nothing is recorded for gradients.
    ///
    /// # Errors
    /// As [`logits`](Network::logits).
    pub fn begin(&self, source: &Source) -> Result<Decoding<'_>> {
        let _guard = tch::no_grad_guard();
        let ids = source.placed(&self.config, self.placement.device)?;
        let batch = ids.batch;
        let (state, length) = match &self.body {
            Body::EncoderDecoder(network) => {
                let state = network.begin(ids)?;
                let length = state.length;
                (State::EncoderDecoder(network, state), length)
            }
            Body::Gpt(network) => {
                let state = network.begin(&ids)?;
                let length = state.length;
                (State::Gpt(network, state), length)
            }
        };
        Ok(Decoding { state, batch, length, codes: self.config.codes(), position: 0, device: self.placement.device })
    }

    /// Most tokens of a grid that the network predicts from this source.
    fn longest(&self, ids: &Ids) -> i64 {
        match &self.body {
            Body::EncoderDecoder(_) => ids.x_t.as_ref().and_then(|x_t| x_t.size().get(1).copied()).unwrap_or(0),
            Body::Gpt(network) => network.longest(ids),
        }
    }

    fn tokens(&self, what: &'static str, x: &Tensor, ids: &Ids, longest: i64) -> Result<Tensor> {
        let tokens = x.size().get(1).copied().unwrap_or(0);
        if !(1..=longest).contains(&tokens) {
            return Err(TransformerError::Length { what, tokens, longest });
        }
        placed(what, x, &[ids.batch, tokens], 0..self.config.codes(), self.placement.device)
    }
}

/// A batch being decoded, token by token.
#[derive(Debug)]
pub struct Decoding<'a> {
    state: State<'a>,
    batch: i64,
    length: i64,
    codes: i64,
    position: i64,
    device: Device,
}

#[derive(Debug)]
enum State<'a> {
    EncoderDecoder(&'a EncoderDecoder, EncoderDecoderState),
    Gpt(&'a Gpt, GptState),
}

impl Decoding<'_> {
    /// The position whose logits come next.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The logits `[batch, K]` float32 of the next position. `previous` `[batch]` is the token before it, drawn or given; `None`
    /// at the first position.
    ///
    /// # Errors
    /// A missing or wrong-shaped token, a step beyond the last position; out-of-range ids on the CPU, by libtorch.
    pub fn next(&mut self, previous: Option<&Tensor>) -> Result<Tensor> {
        let position = self.position;
        if position == self.length {
            return Err(TransformerError::Finished { length: self.length });
        }
        let _guard = tch::no_grad_guard();
        let previous = self.previous(previous)?;
        let logits = match &mut self.state {
            State::EncoderDecoder(network, state) => network.step(state, previous.as_ref(), position)?,
            State::Gpt(network, state) => network.step(state, previous.as_ref(), position)?,
        };
        self.position += 1;
        Ok(logits)
    }
    /// Passes over the next positions, whose `tokens` `[batch, m]` are known, all at once: what comes next is as after m calls of
    /// [`next`](Decoding::next), up to float noise. `previous` as there; the next call's is the last of `tokens`.
    ///
    /// # Errors
    /// As of [`next`](Decoding::next); no tokens, or more than there are positions left.
    pub fn pass_over(&mut self, previous: Option<&Tensor>, tokens: &Tensor) -> Result<()> {
        let count = tokens.size().get(1).copied().unwrap_or(0);
        let longest = self.length - self.position;
        if !(1..=longest).contains(&count) {
            return Err(TransformerError::Length { what: "what is known", tokens: count, longest });
        }
        let _guard = tch::no_grad_guard();
        let previous = self.previous(previous)?;
        let tokens = placed("the known tokens", tokens, &[self.batch, count], 0..self.codes, self.device)?;
        match &mut self.state {
            State::EncoderDecoder(network, state) => {
                network.extend(state, previous.as_ref(), &tokens, self.position)?
            }
            State::Gpt(network, state) => network.extend(state, previous.as_ref(), &tokens, self.position)?,
        }
        self.position += count;
        Ok(())
    }

    /// The token before the next position, checked.
    fn previous(&self, token: Option<&Tensor>) -> Result<Option<Tensor>> {
        if token.is_some() != (self.position > 0) {
            return Err(TransformerError::Previous { position: self.position });
        }
        token.map(|token| placed("the previous token", token, &[self.batch], 0..self.codes, self.device)).transpose()
    }
}
