//! Editing images: known tokens stay, the chain fills in the others.
//!
//! The networks were trained on grids x_t that the forward process has noised as a whole. The default keeps it so. A row's known
//! tokens take one path through the forward process, x_0 to x_T, drawn once from the row's key. Every grid x_t a network reads
//! has them as they are on this path, so it is as noisy where it is known as where it was drawn; and what scale t draws is
//! replaced at known places by the path's x_{t-1}, at scale 1 by the clean tokens. Each pair (x_t, x_{t-1}) of known tokens thus
//! has the distribution q(x_{t-1}, x_t | x_0) the networks learned from, and later tokens of the raster see them as context.
//!
//! A repeat redraws x_t from x_{t-1}, known and free tokens alike, by the whole step q(x_t | x_{t-1}) of the forward process, and
//! runs the scale again: free tokens then answer to known ones that come later in the raster, which they could not see when they
//! were drawn. Where a step leaves nothing of x_{t-1} (beta = 1) a repeat only starts over, so there is one pass.
//!
//! The authors (`compat = "authors"`) give all scales the clean tokens, un-noised. Their networks then read grids of a kind they
//! never saw, half clean and half noisy, trust the clean half no more than a noisy one, and must predict clean tokens at
//! scales that were trained to predict noisy ones. Their repeats redraw less and less of the grid, (1 - k/n) beta_t, so that
//! x_t is less noisy than the scale expects.

use super::config::ChainConfig;
use super::error::SampleError;
use super::loaded::Chain;
use super::rows::Row;
use super::walk::{Compat, Step, Visit, Walk};
use super::windows::Windows;
use crate::config::ScheduleValue;
use crate::diffusion::{Schedule, StepDraws, forward};
use crate::random::RowKey;
use std::collections::BTreeMap;
use tch::{Kind, TchError, Tensor};

/// The most candidates of a pass.
pub(super) const MAX_CANDIDATES: u32 = 4096;

/// One image to edit.
#[derive(Clone, Debug)]
pub struct EditRow {
    /// Key, condition and settings of what is drawn.
    pub row: Row,
    /// The image's tokens, row-major. Those that are free count only when the edit starts below the last scale.
    pub tokens: Vec<u16>,
    /// Which tokens stay: see [`PixelMask::tokens`](super::PixelMask::tokens).
    pub known: Vec<bool>,
}

/// How a batch is edited.
#[derive(Clone, Debug, Default)]
pub struct EditOptions {
    pub compat: Compat,
    /// Passes of each scale (index t - 1); empty for [`Chain::default_repeats`].
    pub repeats: Vec<u32>,
    /// Of each scale's passes (index t - 1) so many candidates are drawn, and one stays by how well the known tokens fit it; empty
    /// for one each.
    pub candidates: Vec<u32>,
    /// The scale to start from, with the image noised to its level: fewer scales change less. `None` is the last scale, from
    /// pure noise, where nothing of the free tokens' image is left.
    pub start: Option<u32>,
}

impl EditOptions {
    /// The options with passes and start decided, for a chain described by `config` and `schedule`.
    ///
    /// # Errors
    /// A start or a number of passes out of range, or a list of the wrong length.
    pub fn resolve(&self, config: &ChainConfig, schedule: &Schedule) -> Result<EditOptions, SampleError> {
        let scales = config.scales();
        let start = self.start.unwrap_or(scales);
        if !(1..=scales).contains(&start) {
            return Err(SampleError::Scale { scale: start, scales });
        }
        if self.compat == Compat::Authors && start != scales {
            return Err(SampleError::Strength { scale: start, scales });
        }
        let repeats = match self.repeats.as_slice() {
            [] => default_repeats(config, schedule, self.compat),
            given if given.len() == scales as usize => given.to_vec(),
            given => return Err(SampleError::Repeats { found: given.len(), scales }),
        };
        match (1..).zip(&repeats).find(|(_, passes)| !(1..=u32::from(u16::MAX)).contains(*passes)) {
            Some((scale, &value)) => Err(SampleError::Repeat { scale, value }),
            None => Ok(EditOptions {
                compat: self.compat,
                repeats,
                candidates: self.candidates(scales)?,
                start: Some(start),
            }),
        }
    }

    /// Whether any pass has more than one candidate.
    pub fn has_candidates(&self) -> bool {
        self.candidates.iter().any(|&candidates| candidates > 1)
    }

    /// The candidates of scales 1..=T.
    fn candidates(&self, scales: u32) -> Result<Vec<u32>, SampleError> {
        let candidates = match self.candidates.as_slice() {
            [] => vec![1; scales as usize],
            given if given.len() == scales as usize => given.to_vec(),
            given => return Err(SampleError::Candidates { found: given.len(), scales }),
        };
        match (1..).zip(&candidates).find(|(_, candidates)| !(1..=MAX_CANDIDATES).contains(*candidates)) {
            Some((scale, &value)) => Err(SampleError::Candidate { scale, value }),
            None => Ok(candidates),
        }
    }
}

/// Passes of each scale (index t - 1) where the user names none: the authors' 3 with the geometric schedule, else 5; one at the
/// last scale, which starts from noise. With [`Compat::Authors`] the geometric schedule has 3 there too, as theirs.
pub fn default_repeats(config: &ChainConfig, schedule: &Schedule, compat: Compat) -> Vec<u32> {
    let scales = config.scales();
    let geometric = config.schedule == ScheduleValue::Name("geometric".to_owned());
    let passes = |scale: u32| match (geometric, compat) {
        (true, Compat::Authors) => 3,
        (false, Compat::Authors) if scale == scales => 1,
        (_, Compat::None) if schedule.beta(scale) >= 1.0 => 1,
        (true, _) => 3,
        (false, _) => 5,
    };
    (1..=scales).map(passes).collect()
}

/// The random numbers of an edit beside those that choose tokens. Usually the rows' own; given ones reproduce another program's.
#[derive(Debug)]
pub struct EditNoise {
    /// x_T of free tokens: int64 `[batch, tokens]`.
    pub start: Tensor,
    /// The draws before repeat k > 0 of scale t, by (t, k).
    pub repeats: BTreeMap<(u32, u32), StepDraws>,
}

impl Chain {
    /// Passes of each scale where the user names none: see [`default_repeats`].
    pub fn default_repeats(&self, compat: Compat) -> Vec<u32> {
        default_repeats(self.config(), self.schedule(), compat)
    }

    /// Edits a batch: x_0 of each row, row-major, its known tokens as they were.
    ///
    /// # Errors
    /// A row that does not fit the chain; options out of range; logits that are NaN or infinite, with rows and scale.
    pub fn edit(&self, rows: &[EditRow], options: &EditOptions) -> Result<Vec<Vec<u16>>, SampleError> {
        let steps = self.edit_with(rows, options, None, false)?;
        Ok(steps.into_iter().next_back().map(|step| step.tokens).unwrap_or_default())
    }

    /// As [`edit`](Chain::edit), and tells what each pass read and drew; with random numbers of the caller's, if there are.
    pub fn edit_steps(
        &self,
        rows: &[EditRow],
        options: &EditOptions,
        noise: Option<EditNoise>,
    ) -> Result<Vec<Step>, SampleError> {
        self.edit_with(rows, options, noise, true)
    }

    fn edit_with(
        &self,
        rows: &[EditRow],
        options: &EditOptions,
        noise: Option<EditNoise>,
        trace: bool,
    ) -> Result<Vec<Step>, SampleError> {
        let plan = self.plan(options)?;
        let drawn: Vec<&Row> = rows.iter().map(|row| &row.row).collect();
        self.check_rows(&drawn)?;
        let known = self.known(rows)?;
        let tokens = self.config().tokens();
        let clean =
            self.grids("the image", &rows.iter().map(|row| row.tokens.as_slice()).collect::<Vec<_>>(), tokens)?;
        let (Some(known), false) = (known, rows.is_empty()) else { return Ok(Vec::new()) };
        let keys: Vec<RowKey> = drawn.iter().map(|row| row.key).collect();
        let mut noise = match noise {
            Some(noise) => noise,
            None => self.edit_noise(&drawn, &keys, &plan)?,
        };
        let levels = self.levels(&clean, &keys, options.compat)?;
        let first = plan.first().map_or(0, |pass| pass.scale);
        let start = match first == self.config().scales() {
            true => at(&levels, first)?.f_where_self(&known, &noise.start)?,
            false => at(&levels, first)?.shallow_clone(),
        };
        let mut visits = Vec::with_capacity(plan.len());
        for pass in plan {
            let repeat = (pass.scale, u32::from(pass.pass));
            let draws = noise.repeats.remove(&repeat);
            let draws = if pass.pass == 0 { None } else { Some(draws.ok_or_else(|| missing(repeat))?) };
            visits.push(Visit {
                scale: pass.scale,
                pass: pass.pass,
                noise: draws.map(|draws| (pass.redraw, draws)),
                known: Some((known.shallow_clone(), at(&levels, pass.scale - 1)?.shallow_clone())),
                candidates: pass.candidates,
            });
        }
        let windows = Windows::new(self.config(), None)?;
        let walk = Walk { rows: &drawn, windows, start, visits, compat: options.compat, likelihood: false };
        Ok(self.walk(&walk, trace)?.steps)
    }

    /// All passes in order.
    fn plan(&self, options: &EditOptions) -> Result<Vec<Pass>, SampleError> {
        let options = options.resolve(self.config(), self.schedule())?;
        let mut plan = Vec::new();
        for scale in (1..=options.start.unwrap_or_else(|| self.config().scales())).rev() {
            let passes = options.repeats.get(scale as usize - 1).copied().unwrap_or(0) as u16;
            plan.extend((0..passes).map(|pass| Pass {
                scale,
                pass,
                redraw: self.redraw(&options, scale, pass, passes),
                candidates: options.candidates.get(scale as usize - 1).copied().unwrap_or(1),
            }));
        }
        Ok(plan)
    }

    /// The probability that a repeat redraws a token.
    fn redraw(&self, options: &EditOptions, scale: u32, pass: u16, passes: u16) -> f64 {
        let beta = f64::from(self.schedule().beta(scale));
        match options.compat {
            Compat::None => beta,
            Compat::Authors => (1.0 - f64::from(pass) / f64::from(passes)) * beta,
        }
    }

    /// Known places: bool `[batch, tokens]`, on the device.
    fn known(&self, rows: &[EditRow]) -> Result<Option<Tensor>, SampleError> {
        let expected = self.config().tokens();
        if let Some(row) = rows.iter().position(|row| row.known.len() != expected) {
            let found = rows[row].known.len();
            return Err(SampleError::Grid { row, what: "the mask", found, expected });
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let known: Vec<bool> = rows.iter().flat_map(|row| row.known.iter().copied()).collect();
        let known = Tensor::f_from_slice(&known)?.f_view([rows.len() as i64, expected as i64])?;
        Ok(Some(known.f_to_kind(Kind::Bool)?.f_to_device(self.placement().device)?))
    }

    /// What the image's tokens are at each level 0..=T: on their path through the forward process, or always clean.
    fn levels(&self, clean: &Tensor, keys: &[RowKey], compat: Compat) -> Result<Vec<Tensor>, TchError> {
        let levels = 0..=self.config().scales();
        match compat {
            Compat::Authors => Ok(levels.map(|_| clean.shallow_clone()).collect()),
            Compat::None => {
                let path = forward(clean, self.schedule(), self.config().codebook_size.into(), keys)?;
                levels.map(|level| path.at(level)).collect()
            }
        }
    }

    /// The rows' own random numbers.
    fn edit_noise(&self, rows: &[&Row], keys: &[RowKey], plan: &[Pass]) -> Result<EditNoise, TchError> {
        let (tokens, codes) = (self.config().tokens() as i64, self.config().codebook_size.into());
        let mut repeats = BTreeMap::new();
        for pass in plan.iter().filter(|pass| pass.pass > 0) {
            let draws = StepDraws::new(keys, (pass.scale, pass.pass), tokens, codes, self.placement().device)?;
            repeats.insert((pass.scale, u32::from(pass.pass)), draws);
        }
        Ok(EditNoise { start: self.noise(rows, self.config().tokens())?, repeats })
    }
}

/// One pass of one scale.
struct Pass {
    scale: u32,
    pass: u16,
    /// Probability of redrawing a token before it, unless it is the first.
    redraw: f64,
    candidates: u32,
}

fn at(levels: &[Tensor], level: u32) -> Result<&Tensor, TchError> {
    levels.get(level as usize).ok_or_else(|| TchError::Shape(format!("no level {level}")))
}

fn missing((scale, pass): (u32, u32)) -> TchError {
    TchError::Shape(format!("no random numbers were given for repeat {pass} of scale {scale}"))
}
