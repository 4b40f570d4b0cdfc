//! What a network is told of a batch's rows: classes or texts as ids, some of them withheld.

use super::Batch;
use crate::chain::Condition;
use crate::random::Purpose;
use crate::text::{TextError, TextTokenizer};
use crate::transformer::{ConditionIds, TextConfig};
use tch::{Device, TchError, Tensor};

/// Why a batch of latents cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error(
        "the chain is conditioned on a class, and a row of the latents has no label: encode a dataset that has labels, or set \
         condition.kind to \"none\""
    )]
    NoLabel,
    #[error("a row of the latents has the label {label}, condition.classes allows 0 to {}", classes.saturating_sub(1))]
    Label { label: i32, classes: u32 },
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("a batch could not be brought to the device: {0}")]
    Torch(#[from] TchError),
}

/// How rows become the ids of a condition.
#[derive(Debug)]
pub enum Conditioning {
    None,
    /// The class `classes` stands for none, where there is such a one.
    Class {
        classes: u32,
        null: bool,
    },
    Text {
        shape: TextConfig,
        tokenizer: Box<TextTokenizer>,
    },
}

/// The ids of a batch's conditions, on the device.
#[derive(Debug)]
pub(crate) enum Ids {
    None,
    /// int64 `[batch]`.
    Class(Tensor),
    /// int64 `[batch, length]`.
    Text(Tensor),
}

impl Ids {
    /// For a network.
    pub fn condition(&self) -> ConditionIds<'_> {
        match self {
            Ids::None => ConditionIds::None,
            Ids::Class(ids) => ConditionIds::Class(ids),
            Ids::Text(ids) => ConditionIds::Text(ids),
        }
    }
}

impl Conditioning {
    /// That of a chain; `tokenizer` is needed where it is conditioned on text.
    pub fn new(condition: &Condition, tokenizer: Option<TextTokenizer>) -> Option<Conditioning> {
        match *condition {
            Condition::None => Some(Conditioning::None),
            Condition::Class { classes, null } => Some(Conditioning::Class { classes, null }),
            Condition::Text(shape) => tokenizer.map(|it| Conditioning::Text { shape, tokenizer: Box::new(it) }),
        }
    }

    /// Whether rows can be shown without their condition.
    pub fn has_null(&self) -> bool {
        matches!(self, Conditioning::Text { .. } | Conditioning::Class { null: true, .. })
    }

    /// The ids of a batch. Each row is shown without its condition with probability `dropout`, decided by its own random
    /// numbers; a row without a caption always is.
    pub(crate) fn ids(&self, batch: &Batch, dropout: f64, device: Device) -> Result<Ids, RowsError> {
        let withheld = |row: usize| {
            let key = batch.rows.get(row);
            key.is_some_and(|key| f64::from(key.uniform(Purpose::Dropout, 0)) < dropout)
        };
        match self {
            Conditioning::None => Ok(Ids::None),
            Conditioning::Class { classes, null } => {
                let mut ids = Vec::with_capacity(batch.len());
                for (row, label) in batch.labels.iter().enumerate() {
                    let label = label.ok_or(RowsError::NoLabel)?;
                    let class = u32::try_from(label).ok().filter(|class| class < classes);
                    let class = class.ok_or(RowsError::Label { label, classes: *classes })?;
                    ids.push(i64::from(if *null && withheld(row) { *classes } else { class }));
                }
                Ok(Ids::Class(Tensor::f_from_slice(&ids)?.f_to_device(device)?))
            }
            Conditioning::Text { shape, tokenizer } => {
                let length = usize::try_from(shape.length).unwrap_or(0);
                let mut ids = Vec::with_capacity(batch.len() * length);
                for (row, caption) in batch.captions.iter().enumerate() {
                    match caption {
                        Some(caption) if !withheld(row) => {
                            ids.extend(tokenizer.encode(caption, length)?.ids.into_iter().map(i64::from));
                        }
                        _ => ids.extend(std::iter::repeat_n(shape.null(), length)),
                    }
                }
                Ok(Ids::Text(Tensor::f_from_slice(&ids)?.f_view([-1, shape.length])?.f_to_device(device)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RowKey;
    use std::sync::Arc;

    fn batch(labels: &[Option<i32>]) -> Batch {
        Batch {
            position: Default::default(),
            tokens: vec![0; labels.len()],
            labels: labels.to_vec(),
            captions: labels.iter().map(|label| label.map(|label| Arc::from(format!("number {label}")))).collect(),
            rows: (0..labels.len() as u64).map(|row| RowKey::new(1, "rows", row, 0)).collect(),
        }
    }

    fn ids(conditioning: &Conditioning, batch: &Batch, dropout: f64) -> Result<Vec<i64>, RowsError> {
        match conditioning.ids(batch, dropout, Device::Cpu)? {
            Ids::None => Ok(Vec::new()),
            Ids::Class(ids) | Ids::Text(ids) => Ok(Vec::try_from(ids.flatten(0, -1))?),
        }
    }

    #[test]
    fn labels_must_be_there_and_in_range() {
        let class = Conditioning::Class { classes: 10, null: false };
        assert_eq!(ids(&class, &batch(&[Some(3), Some(9)]), 0.5).unwrap(), [3, 9]);
        let message = |labels: &[Option<i32>]| ids(&class, &batch(labels), 0.0).unwrap_err().to_string();
        assert!(message(&[Some(3), None]).contains("has no label"));
        assert!(message(&[Some(10)]).contains("label 10, condition.classes allows 0 to 9"));
        assert!(message(&[Some(-1)]).contains("label -1"));
        assert!(ids(&Conditioning::None, &batch(&[None]), 0.0).unwrap().is_empty());
    }

    #[test]
    fn as_many_conditions_are_withheld_as_asked() {
        let class = Conditioning::Class { classes: 10, null: true };
        let rows = batch(&vec![Some(4); 4000]);
        let withheld = |dropout| ids(&class, &rows, dropout).unwrap().iter().filter(|&&id| id == 10).count();
        assert_eq!((withheld(0.0), withheld(1.0)), (0, 4000));
        assert!((340..460).contains(&withheld(0.1)), "{}", withheld(0.1));
    }
}
