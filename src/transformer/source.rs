//! What a network is told before it predicts x_{t-1}: scale, condition and x_t, checked.

use super::{NetworkConfig, TransformerError};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// The condition of each row of a batch, as token ids (int64).
#[derive(Clone, Copy, Debug)]
pub enum ConditionIds<'a> {
    /// The network is unconditional.
    None,
    /// `[batch]`: class numbers; a learned null class is one of them.
    Class(&'a Tensor),
    /// `[batch, length]`: ids of the text tokenizer, [`TextConfig::padding`](super::TextConfig::padding) behind a short text,
    /// [`TextConfig::null`](super::TextConfig::null) at every position for no condition.
    Text(&'a Tensor),
}

/// What a network predicts x_{t-1} from. All ids are int64, on the CPU or the network's device; those on the CPU are checked.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// `[batch]`: the scale t of each row, 1..=T.
    pub scale: &'a Tensor,
    pub condition: ConditionIds<'a>,
    /// `[batch, tokens]`: x_t, row-major. A GPT never sees it.
    pub x_t: Option<&'a Tensor>,
}

/// A source on the network's device.
#[derive(Debug)]
pub(super) struct Ids {
    pub batch: i64,
    /// `[batch]`
    pub scale: Tensor,
    /// `[batch]`
    pub class: Option<Tensor>,
    /// `[batch, length]`
    pub text: Option<Tensor>,
    /// `[batch, tokens]`
    pub x_t: Option<Tensor>,
}

impl Ids {
    /// Tokens before x_t or x that share its positions: `[t]` or `[t, class]`.
    pub fn prompt(&self) -> i64 {
        if self.class.is_some() { 2 } else { 1 }
    }
}

/// Ids of the shape `[batch]` or `[batch, tokens]`, on the network's device.
pub(super) fn placed(
    what: &'static str,
    ids: &Tensor,
    shape: &[i64],
    allowed: Range<i64>,
    device: Device,
) -> Result<Tensor, TransformerError> {
    let found = ids.size();
    let kind = ids.f_kind()?;
    if found != shape || kind != Kind::Int64 {
        let expected = format!("{shape:?} of int64");
        return Err(TransformerError::Shape { what, found, kind, expected });
    }
    if ids.device() == Device::Cpu && ids.numel() > 0 {
        let (least, most) = (ids.f_min()?.f_int64_value(&[])?, ids.f_max()?.f_int64_value(&[])?);
        for id in [least, most] {
            if !allowed.contains(&id) {
                return Err(TransformerError::Id { what, id, first: allowed.start, end: allowed.end });
            }
        }
    }
    Ok(ids.f_to_device(device)?)
}

impl Source<'_> {
    /// Checks the source against a network's shape and puts it on its device.
    pub(super) fn placed(&self, config: &NetworkConfig, device: Device) -> Result<Ids, TransformerError> {
        let batch = self.scale.size().first().copied().unwrap_or(0);
        let (inputs, scales) = match config {
            NetworkConfig::EncoderDecoder(config) => (config.encoder_tokens, 1..config.scales + 1),
            NetworkConfig::Gpt(config) => (config.input_tokens, 1..config.input_tokens),
        };
        let scale = placed("scale", self.scale, &[batch], scales, device)?;
        let mut ids = Ids { batch, scale, class: None, text: None, x_t: None };
        match (self.condition, config.text()) {
            (ConditionIds::Text(text), Some(shape)) => {
                ids.text = Some(placed("text", text, &[batch, shape.length], 0..shape.rows(), device)?);
            }
            (ConditionIds::Class(class), None) => {
                ids.class = Some(placed("class", class, &[batch], 0..inputs, device)?);
            }
            (ConditionIds::None, None) => {}
            (_, Some(_)) => return Err(TransformerError::Condition("the network is conditioned on text")),
            (ConditionIds::Text(_), None) => return Err(TransformerError::Condition("the network takes no text")),
        }
        if let NetworkConfig::EncoderDecoder(config) = config {
            let x_t = self.x_t.ok_or(TransformerError::NoSource)?;
            let tokens = x_t.size().get(1).copied().unwrap_or(0);
            let longest = config.decoder_length.min(config.encoder_length - ids.prompt());
            if !(1..=longest).contains(&tokens) {
                return Err(TransformerError::Length { what: "x_t", tokens, longest });
            }
            ids.x_t = Some(placed("x_t", x_t, &[batch, tokens], 0..config.decoder_tokens, device)?);
        }
        Ok(ids)
    }
}
