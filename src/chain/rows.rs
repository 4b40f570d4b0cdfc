//! The rows of a batch: what the caller says of each, checked and brought to the device.

use super::config::{ChainConfig, Condition};
use super::draw::Draw;
use super::error::SampleError;
use super::settings::{self, ScaleSettings};
use crate::random::RowKey;
use crate::transformer::{ConditionIds, Source};
use std::sync::Arc;
use tch::{Device, TchError, Tensor};

/// What one image is drawn of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowCondition {
    /// The chain is unconditional.
    None,
    /// The learned null condition of a class- or text-conditional chain.
    Null,
    /// A class, below the chain's number of classes.
    Class(u32),
    /// Ids of the text tokenizer, at most the chain's length of them, padding included or not.
    Text(Vec<u32>),
}

/// One image to draw.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where its random numbers come from.
    pub key: RowKey,
    pub condition: RowCondition,
    /// How tokens are drawn at scales 1..=T (index t - 1).
    pub settings: Arc<[ScaleSettings]>,
}

impl Row {
    /// Checks a row, number `row` of its batch, against the chain.
    pub(super) fn check(&self, row: usize, config: &ChainConfig) -> Result<(), SampleError> {
        let mismatch = |given| Err(SampleError::Condition { row, given, condition: name(&config.condition) });
        match (&self.condition, &config.condition) {
            (RowCondition::None, Condition::None) => {}
            (RowCondition::Null, condition) if condition.has_null() => {}
            (RowCondition::Null, _) => return mismatch("the null condition"),
            (RowCondition::Class(class), Condition::Class { classes, .. }) if class < classes => {}
            (&RowCondition::Class(class), &Condition::Class { classes, .. }) => {
                return Err(SampleError::Class { row, class, classes });
            }
            (RowCondition::Text(ids), Condition::Text(text)) => {
                if ids.len() as u64 > text.length.unsigned_abs() {
                    return Err(SampleError::TextLength { row, found: ids.len(), length: text.length });
                }
                if let Some(&id) = ids.iter().find(|&&id| i64::from(id) > text.padding()) {
                    return Err(SampleError::TextId { row, id, vocabulary: text.vocabulary });
                }
            }
            (RowCondition::None, _) => return mismatch("no condition"),
            (RowCondition::Class(_), _) => return mismatch("a class"),
            (RowCondition::Text(_), _) => return mismatch("a text"),
        }
        settings::check(&self.settings, config.scales(), config.codebook_size, &config.condition)
            .map_err(|source| SampleError::Settings { row, source })
    }
}

fn name(condition: &Condition) -> &'static str {
    match condition {
        Condition::None => "unconditional",
        Condition::Class { null: false, .. } => "conditioned on a class, with no null class",
        Condition::Class { null: true, .. } => "conditioned on a class or the null class",
        Condition::Text(_) => "conditioned on text",
    }
}

/// Ids of a condition on the device.
#[derive(Debug)]
enum Ids {
    None,
    /// `[width]`
    Class(Tensor),
    /// `[width, length]`
    Text(Tensor),
}

/// A batch at one scale, on the device. Rows with guidance appear twice to the network: with their condition, and, behind
/// all rows, without.
#[derive(Debug)]
pub(super) struct ScaleBatch {
    /// `[width]`
    scale: Tensor,
    ids: Ids,
    guided: Option<Guided>,
    pub draw: Draw,
}

#[derive(Debug)]
struct Guided {
    /// The batch's row of each of the network's: `[width]`.
    rows: Tensor,
    /// Rows with guidance: `[guided]`; `None` when all have it.
    some: Option<Tensor>,
    /// `[guided, 1]`
    guidance: Tensor,
    batch: i64,
}

impl ScaleBatch {
    /// `rows`, checked, at `scale`, each with its settings there.
    pub fn new(
        rows: &[&Row],
        settings: &[ScaleSettings],
        scale: u32,
        config: &ChainConfig,
        device: Device,
    ) -> Result<ScaleBatch, TchError> {
        let wants = |row: usize| settings[row].is_guided() && rows[row].condition != RowCondition::Null;
        let twice: Vec<usize> = (0..rows.len()).filter(|&row| wants(row)).collect();
        let conditions = rows.iter().map(|row| &row.condition).chain(twice.iter().map(|_| &RowCondition::Null));
        let width = rows.len() + twice.len();
        Ok(ScaleBatch {
            scale: Tensor::f_from_slice(&vec![i64::from(scale); width])?.f_to_device(device)?,
            ids: ids(conditions, width, &config.condition, device)?,
            guided: Guided::new(rows.len(), &twice, settings, device)?,
            draw: Draw::new(settings, config.codebook_size, device)?,
        })
    }

    /// What the network is told, with `x_t` `[width, tokens]`.
    pub fn source<'a>(&'a self, x_t: &'a Tensor) -> Source<'a> {
        let condition = match &self.ids {
            Ids::None => ConditionIds::None,
            Ids::Class(ids) => ConditionIds::Class(ids),
            Ids::Text(ids) => ConditionIds::Text(ids),
        };
        Source { scale: &self.scale, condition, x_t: Some(x_t) }
    }

    /// From the batch's rows (dimension 0) to the network's.
    pub fn widen(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        match &self.guided {
            None => Ok(tensor.shallow_clone()),
            Some(guided) => tensor.f_index_select(0, &guided.rows),
        }
    }

    /// Of the network's logits `[width, K]` those of the rows with their conditions, as they are: `[batch, K]`.
    pub fn conditional(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        match &self.guided {
            None => Ok(logits.shallow_clone()),
            Some(guided) => logits.f_narrow(0, 0, guided.batch),
        }
    }

    /// From the network's logits `[width, K]` to the batch's, guidance applied: `[batch, K]`.
    pub fn guide(&self, logits: Tensor) -> Result<Tensor, TchError> {
        match &self.guided {
            None => Ok(logits),
            Some(guided) => guided.mix(&logits),
        }
    }
}

impl Guided {
    fn new(
        batch: usize,
        twice: &[usize],
        settings: &[ScaleSettings],
        device: Device,
    ) -> Result<Option<Guided>, TchError> {
        if twice.is_empty() {
            return Ok(None);
        }
        let index = |rows: Vec<i64>| Tensor::f_from_slice(&rows)?.f_to_device(device);
        let again = || twice.iter().map(|&row| row as i64);
        let guidance: Vec<f32> = twice.iter().map(|&row| settings[row].guidance).collect();
        Ok(Some(Guided {
            rows: index((0..batch as i64).chain(again()).collect())?,
            some: if twice.len() == batch { None } else { Some(index(again().collect())?) },
            guidance: Tensor::f_from_slice(&guidance)?.f_unsqueeze(1)?.f_to_device(device)?,
            batch: batch as i64,
        }))
    }

    /// null + g (conditional - null). What the condition makes impossible stays so, also where both logits are minus infinity.
    fn mix(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let all = logits.f_narrow(0, 0, self.batch)?;
        let null = logits.f_narrow(0, self.batch, logits.size2()?.0 - self.batch)?;
        let conditional = match &self.some {
            None => all.shallow_clone(),
            Some(rows) => all.f_index_select(0, rows)?,
        };
        let mixed = conditional.f_sub(&null)?.f_mul(&self.guidance)?.f_add(&null)?;
        let mixed = mixed.f_masked_fill(&conditional.f_isneginf()?, f64::NEG_INFINITY)?;
        match &self.some {
            None => Ok(mixed),
            Some(rows) => all.f_index_copy(0, rows, &mixed),
        }
    }
}

fn ids<'a>(
    conditions: impl Iterator<Item = &'a RowCondition>,
    width: usize,
    condition: &Condition,
    device: Device,
) -> Result<Ids, TchError> {
    match condition {
        Condition::None => Ok(Ids::None),
        Condition::Class { classes, .. } => {
            let class = |row: &RowCondition| match row {
                RowCondition::Class(class) => i64::from(*class),
                _ => i64::from(*classes),
            };
            let ids: Vec<i64> = conditions.map(class).collect();
            Ok(Ids::Class(Tensor::f_from_slice(&ids)?.f_to_device(device)?))
        }
        Condition::Text(text) => {
            let length = text.length.unsigned_abs() as usize;
            let mut ids = Vec::with_capacity(width * length);
            for row in conditions {
                let (given, fill) = match row {
                    RowCondition::Text(given) => (given.as_slice(), text.padding()),
                    _ => (&[][..], text.null()),
                };
                ids.extend(given.iter().map(|&id| i64::from(id)));
                ids.extend(std::iter::repeat_n(fill, length - given.len()));
            }
            Ok(Ids::Text(Tensor::f_from_slice(&ids)?.f_view([width as i64, text.length])?.f_to_device(device)?))
        }
    }
}
