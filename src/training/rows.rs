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
pub(super) enum Ids {
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
    pub(super) fn ids(&self, batch: &Batch, dropout: f64, device: Device) -> Result<Ids, RowsError> {
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
