//! One way down the scales: what sampling and editing have in common.
//!
//! Every random number is made before the first token and uploaded with the batch; tokens, and whether the logits were sound,
//! stay on the device until the last one. So nothing in between waits for the device.

use super::candidates::Numbers;
use super::error::SampleError;
use super::loaded::Chain;
use super::rows::{Row, ScaleBatch};
use super::settings::ScaleSettings;
use super::windows::{Window, Windows};
use crate::diffusion::{StepDraws, redraw};
use crate::random::Purpose;
use crate::transformer::{Decoding, NetworkConfig, TransformerError};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Kind, TchError, Tensor};

/// Whose behaviour is followed where this crate does better than the released code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// This crate's own: all scales obey the temperature, edits give the networks what they were trained on.
    #[default]
    None,
    /// The released code's: encoder-decoder scales ignore the temperature, edits clamp clean tokens at all scales.
    Authors,
}

/// One pass of one scale, as it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// t of the network that predicted x_{t-1} from x_t.
    pub scale: u32,
    /// 0, or the number of the repeat.
    pub pass: u32,
    /// What the network read, row by row.
    pub x_t: Vec<Vec<u16>>,
    /// What was drawn, row by row: x_{t-1}.
    pub tokens: Vec<Vec<u16>>,
}

/// One pass of one scale, as it is to go.
#[derive(Debug)]
pub(super) struct Visit {
    pub scale: u32,
    pub pass: u16,
    /// What is done to the tokens before the network reads them: redrawn with this probability.
    pub noise: Option<(f64, StepDraws)>,
    /// Tokens that are not drawn: where (bool), and which (int64), both `[batch, tokens]`.
    pub known: Option<(Tensor, Tensor)>,
    /// So many are drawn, and one is kept by how well the known tokens fit it; see [`candidates`](super::candidates). At least 1.
    pub candidates: u32,
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    pub rows: &'a [&'a Row],
    /// How the networks see the grid.
    pub windows: Windows,
    /// x of the first visit's scale: int64 `[batch, tokens]`, on the device.
    pub start: Tensor,
    pub visits: Vec<Visit>,
    pub compat: Compat,
    /// Whether the likelihood of what is drawn is told.
    pub likelihood: bool,
}

/// What a batch was on its way.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub steps: Vec<Step>,
    /// Of each row the log-probability, in nats, that the networks themselves give all that was drawn; empty unless asked for.
    pub likelihood: Vec<f64>,
}

/// What a pass drew.
pub(super) struct Drawn {
    /// x_{t-1}: `[batch, tokens]`.
    pub tokens: Tensor,
    /// `[batch]`, finite where all logits of a row were sound.
    pub sound: Tensor,
    /// `[batch]` float64: the log-probability of what is asked for.
    pub likelihood: Option<Tensor>,
}

/// Which log-probabilities a pass sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Nothing,
    /// Of all tokens, by the network's own distribution.
    All,
    /// Of the known ones, by the guided distribution.
    Known,
}

impl Chain {
    /// Checks rows against the chain.
    pub(super) fn check_rows(&self, rows: &[&Row]) -> Result<(), SampleError> {
        rows.iter().enumerate().try_for_each(|(row, given)| given.check(row, self.config()))
    }

    /// Grids of `expected` tokens given by the caller, checked and on the device: int64 `[batch, tokens]`.
    pub(super) fn grids(&self, what: &'static str, grids: &[&[u16]], expected: usize) -> Result<Tensor, SampleError> {
        let codes = self.config().codebook_size;
        for (row, grid) in grids.iter().enumerate() {
            if grid.len() != expected {
                return Err(SampleError::Grid { row, what, found: grid.len(), expected });
            }
            if let Some(&token) = grid.iter().find(|&&token| u32::from(token) >= codes) {
                return Err(SampleError::Token { row, token, codes });
            }
        }
        let ids: Vec<i64> = grids.iter().flat_map(|grid| grid.iter().map(|&token| i64::from(token))).collect();
        let tensor = Tensor::f_from_slice(&ids)?.f_view([grids.len() as i64, expected as i64])?;
        Ok(tensor.f_to_device(self.placement().device)?)
    }

    /// Pure noise, each row's own: int64 `[batch, tokens]`, on the device.
    pub(super) fn noise(&self, rows: &[&Row], tokens: usize) -> Result<Tensor, TchError> {
        let codes = self.config().codebook_size;
        let below = |row: &Row, position| i64::from(row.key.at(0, 0).below(Purpose::Start, position, codes));
        let ids: Vec<i64> =
            rows.iter().flat_map(|row| (0..tokens as u32).map(|position| below(row, position))).collect();
        Tensor::f_from_slice(&ids)?.f_view([rows.len() as i64, tokens as i64])?.f_to_device(self.placement().device)
    }

    /// Goes all the way; each pass is told when `trace` asks for it, else only the last one.
    pub(super) fn walk(&self, walk: &Walk, trace: bool) -> Result<Walked, SampleError> {
        let _guard = tch::no_grad_guard();
        let batches = self.batches(walk)?;
        let numbers = Numbers::new(walk, self.placement().device)?;
        let mut grids = Vec::new();
        let mut sound = Vec::with_capacity(walk.visits.len());
        let mut likelihood = None;
        let mut tokens = walk.start.shallow_clone();
        let mut first = 0;
        for (index, visit) in walk.visits.iter().enumerate() {
            let x_t = match &visit.noise {
                Some((beta, draws)) => redraw(&tokens, *beta, &draws.uniforms, &draws.noise)?,
                None => tokens,
            };
            let batch = batches.get(&visit.scale).ok_or_else(|| self.no_scale(visit.scale))?;
            let drawn = self.visit((walk, visit), batch, &x_t, (&numbers, first))?;
            first += i64::from(visit.candidates);
            sound.push(drawn.sound);
            tokens = drawn.tokens;
            if let Some(more) = drawn.likelihood.filter(|_| walk.likelihood) {
                likelihood = Some(add(likelihood, more)?);
            }
            if trace || index + 1 == walk.visits.len() {
                grids.push((visit.scale, visit.pass, x_t, tokens.shallow_clone()));
            }
        }
        fetch(grids, &sound, likelihood.as_ref(), walk)
    }

    pub(super) fn no_scale(&self, scale: u32) -> SampleError {
        let scales = self.config().scales();
        match (1..=scales).contains(&scale) {
            true => SampleError::Elsewhere { scale },
            false => SampleError::Scale { scale, scales },
        }
    }

    /// The rows at each scale that is visited.
    fn batches(&self, walk: &Walk) -> Result<BTreeMap<u32, ScaleBatch>, SampleError> {
        let scales: BTreeSet<u32> = walk.visits.iter().map(|visit| visit.scale).collect();
        let batch = |scale| Ok((scale, self.scale_batch(walk.rows, scale, walk.compat)?));
        scales.into_iter().map(batch).collect()
    }

    /// The rows at one scale.
    pub(super) fn scale_batch(&self, rows: &[&Row], scale: u32, compat: Compat) -> Result<ScaleBatch, SampleError> {
        let network = self.network(scale).ok_or_else(|| self.no_scale(scale))?;
        let encoder_decoder = matches!(network.config(), NetworkConfig::EncoderDecoder(_));
        let fixed = compat == Compat::Authors && encoder_decoder;
        let settings = rows.iter().map(|row| {
            let settings = row.settings.get(scale as usize - 1).copied().unwrap_or_default();
            if fixed { ScaleSettings { temperature: 1.0, ..settings } } else { settings }
        });
        let settings: Vec<ScaleSettings> = settings.collect();
        Ok(ScaleBatch::new(rows, &settings, scale, self.config(), self.placement().device)?)
    }

    /// x_{t-1} drawn from x_t `[batch, tokens]`. `uniforms` is `[tokens, batch]`.
    pub(super) fn pass(
        &self,
        (walk, visit): (&Walk, &Visit),
        batch: &ScaleBatch,
        x_t: &Tensor,
        uniforms: &Tensor,
    ) -> Result<Drawn, SampleError> {
        let network = self.network(visit.scale).ok_or_else(|| self.no_scale(visit.scale))?;
        let measure = match (visit.candidates > 1, walk.likelihood) {
            (true, _) => Measure::Known,
            (false, true) => Measure::All,
            (false, false) => Measure::Nothing,
        };
        let mut pen = Pen::new(visit, batch, uniforms, (measure, walk.windows.tokens()));
        for (windows, rows) in walk.windows.bands() {
            let begin = |window: Window| {
                let wide = batch.widen(&window.cut(x_t)?)?;
                let decoding = network.begin(&batch.source(&wide)).map_err(|source| pen.failed(source))?;
                Ok((window, decoding))
            };
            let mut decodings = windows.into_iter().map(begin).collect::<Result<Vec<_>, SampleError>>()?;
            for row in rows {
                for (window, decoding) in &mut decodings {
                    pen.draw(row, window, decoding)?;
                }
            }
        }
        pen.drawn()
    }
}

/// What a pass has drawn so far, in raster order, and how it goes on.
struct Pen<'a> {
    visit: &'a Visit,
    batch: &'a ScaleBatch,
    /// `[tokens, batch]`
    uniforms: &'a Tensor,
    measure: Measure,
    /// `[batch]` each.
    tokens: Vec<Tensor>,
    sound: Option<Tensor>,
    likelihood: Option<Tensor>,
}

impl<'a> Pen<'a> {
    fn new(
        visit: &'a Visit,
        batch: &'a ScaleBatch,
        uniforms: &'a Tensor,
        (measure, tokens): (Measure, usize),
    ) -> Pen<'a> {
        Pen { visit, batch, uniforms, measure, tokens: Vec::with_capacity(tokens), sound: None, likelihood: None }
    }

    /// Draws what row `row` of the grid has under `window`.
    fn draw(&mut self, row: u32, window: &Window, decoding: &mut Decoding) -> Result<(), SampleError> {
        let run = window.run(row);
        let read = decoding.position() as usize;
        if read < run.start {
            // What the window has before it was drawn under others.
            let given: Vec<&Tensor> =
                (read..run.start).map(|local| self.at(window, local)).collect::<Result<_, _>>()?;
            let given = self.batch.widen(&Tensor::f_stack(&given, 1)?)?;
            let before = self.before(window, read)?;
            decoding.pass_over(before.as_ref(), &given).map_err(|source| self.failed(source))?;
        }
        for local in run {
            let before = self.before(window, local)?;
            let logits = decoding.next(before.as_ref()).map_err(|source| self.failed(source))?;
            self.token(logits)?;
        }
        Ok(())
    }

    /// Draws the next token from the network's logits `[width, K]`.
    fn token(&mut self, logits: Tensor) -> Result<(), TchError> {
        let (batch, position) = (self.batch, self.tokens.len() as i64);
        let own = if self.measure == Measure::All { Some(batch.conditional(&logits)?) } else { None };
        let logits = batch.guide(logits)?;
        let drawn = batch.draw.tokens(&logits, &self.uniforms.f_select(0, position)?)?;
        let Some((known, given)) = &self.visit.known else {
            if let Some(own) = own {
                self.add(log_probability(&own, &drawn.tokens)?)?;
            }
            return self.put(drawn.tokens, drawn.sound);
        };
        let known = known.f_select(1, position)?;
        let token = given.f_select(1, position)?.f_where_self(&known, &drawn.tokens)?;
        match (own, self.measure) {
            (Some(own), _) => self.add(log_probability(&own, &token)?)?,
            (None, Measure::Known) => {
                self.add(log_probability(&logits, &token)?.f_masked_fill(&known.f_logical_not()?, 0.0)?)?;
            }
            (None, _) => {}
        }
        self.put(token, drawn.sound)
    }

    /// The next token of all rows, and whether its logits were sound.
    fn put(&mut self, token: Tensor, sound: Tensor) -> Result<(), TchError> {
        self.tokens.push(token);
        self.sound = Some(add(self.sound.take(), sound)?);
        Ok(())
    }

    fn add(&mut self, log: Tensor) -> Result<(), TchError> {
        self.likelihood = Some(add(self.likelihood.take(), log)?);
        Ok(())
    }

    /// What was drawn at a place in a window: `[batch]`.
    fn at(&self, window: &Window, local: usize) -> Result<&Tensor, TchError> {
        let token = self.tokens.get(window.place(local));
        token.ok_or_else(|| TchError::Shape("a token is read before it is drawn".to_owned()))
    }

    /// The token before a place in a window, as the network sees it; none before the first.
    fn before(&self, window: &Window, local: usize) -> Result<Option<Tensor>, TchError> {
        let before = local.checked_sub(1).map(|before| self.batch.widen(self.at(window, before)?));
        before.transpose()
    }

    fn failed(&self, source: TransformerError) -> SampleError {
        SampleError::Network { scale: self.visit.scale, source: Box::new(source) }
    }

    fn drawn(self) -> Result<Drawn, SampleError> {
        let sound = self.sound.ok_or_else(|| TchError::Shape("a grid of no tokens".to_owned()))?;
        Ok(Drawn { tokens: Tensor::f_stack(&self.tokens, 1)?, sound, likelihood: self.likelihood })
    }
}

/// A sum so far and what comes to it.
fn add(sum: Option<Tensor>, more: Tensor) -> Result<Tensor, TchError> {
    match sum {
        Some(sum) => sum.f_add(&more),
        None => Ok(more),
    }
}

/// The log-probability of `tokens` `[batch]` by `logits` `[batch, K]`: float64 `[batch]`.
fn log_probability(logits: &Tensor, tokens: &Tensor) -> Result<Tensor, TchError> {
    logits.f_log_softmax(-1, Kind::Double)?.f_gather(-1, &tokens.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)
}

/// Brings grids and flags to the CPU in one copy: the only wait for the device.
fn fetch(
    grids: Vec<(u32, u16, Tensor, Tensor)>,
    sound: &[Tensor],
    likelihood: Option<&Tensor>,
    walk: &Walk,
) -> Result<Walked, SampleError> {
    let rows = walk.rows.len();
    let mut parts: Vec<Tensor> = Vec::with_capacity(grids.len() * 2 + 1);
    for (_, _, x_t, tokens) in &grids {
        parts.push(x_t.f_flatten(0, -1)?);
        parts.push(tokens.f_flatten(0, -1)?);
    }
    let per_grid = parts.first().map_or(0, Tensor::numel);
    parts.push(Tensor::f_stack(sound, 0)?.f_isfinite()?.f_to_kind(Kind::Int64)?.f_flatten(0, -1)?);
    // Bit for bit, in the same copy.
    parts.extend(likelihood.map(|sums| sums.f_view_dtype(Kind::Int64)).transpose()?);
    let all = Vec::<i64>::try_from(Tensor::f_cat(&parts, 0)?.f_to_device(Device::Cpu)?)?;
    let (tokens, rest) = all.split_at(per_grid * grids.len() * 2);
    let (flags, likelihood) = rest.split_at(rows * walk.visits.len());
    for (visit, flags) in walk.visits.iter().zip(flags.chunks_exact(rows)) {
        let bad: Vec<usize> = (0..rows).filter(|&row| flags[row] == 0).collect();
        if !bad.is_empty() {
            return Err(SampleError::NotFinite { scale: visit.scale, rows: bad });
        }
    }
    let tokens_of = |row: &[i64]| row.iter().map(|&id| id as u16).collect();
    let grid = |ids: &[i64]| -> Vec<Vec<u16>> { ids.chunks_exact(per_grid / rows).map(tokens_of).collect() };
    let steps = grids.iter().zip(tokens.chunks_exact(per_grid * 2)).map(|(&(scale, pass, ..), ids)| {
        let (x_t, tokens) = ids.split_at(per_grid);
        Step { scale, pass: pass.into(), x_t: grid(x_t), tokens: grid(tokens) }
    });
    let likelihood = likelihood.iter().map(|bits| f64::from_bits(bits.cast_unsigned())).collect();
    Ok(Walked { steps: steps.collect(), likelihood })
}
