//! What images are drawn of: nothing, a class, or a text.

use crate::chain::{Condition, RowCondition};
use crate::config::LabelChoice;
use crate::jobs::JobError;
use std::sync::Arc;

/// What one image is drawn of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// No condition, or the learned null condition where the chain has one.
    Nothing,
    Class(u32),
    Prompt(Prompt),
}

/// A text, and what the networks see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub text: Arc<str>,
    /// As many ids as the chain's condition has.
    pub ids: Arc<[u32]>,
}

impl Subject {
    /// The row's condition for a chain with this `condition`.
    pub fn condition(&self, condition: &Condition) -> RowCondition {
        match self {
            Subject::Nothing => self::condition(condition, None),
            Subject::Class(label) => self::condition(condition, Some(*label)),
            Subject::Prompt(prompt) => RowCondition::Text(prompt.ids.to_vec()),
        }
    }

    /// As the table has it.
    pub fn label(&self) -> Option<i32> {
        match self {
            Subject::Class(label) => i32::try_from(*label).ok(),
            Subject::Nothing | Subject::Prompt(_) => None,
        }
    }

    /// As the table has it.
    pub fn prompt(&self) -> Option<Arc<str>> {
        match self {
            Subject::Prompt(prompt) => Some(prompt.text.clone()),
            Subject::Nothing | Subject::Class(_) => None,
        }
    }
}

/// What a row of a chain with this `condition` is drawn of.
pub fn condition(condition: &Condition, label: Option<u32>) -> RowCondition {
    match (label, condition) {
        (Some(label), _) => RowCondition::Class(label),
        (None, Condition::None) => RowCondition::None,
        (None, _) => RowCondition::Null,
    }
}

/// The classes that the rows of a run without a table take in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    None,
    /// 0 to n - 1.
    All(u32),
    List(Arc<[u32]>),
}

impl Labels {
    /// The class of row `number`.
    pub fn of(&self, number: u64) -> Option<u32> {
        match self {
            Labels::None => None,
            Labels::All(classes) => Some((number % u64::from((*classes).max(1))) as u32),
            Labels::List(list) => list.get((number % list.len().max(1) as u64) as usize).copied(),
        }
    }

    /// The classes that `choice` means for a chain with this `condition`.
    ///
    /// # Errors
    /// A choice that the chain has not.
    pub fn choose(choice: &LabelChoice, condition: &Condition) -> Result<Labels, JobError> {
        let refuse = |text: String| Err(JobError::Usage(format!("sample.labels: {text}")));
        match (choice, condition) {
            (LabelChoice::Auto, Condition::Class { classes, .. })
            | (LabelChoice::All, Condition::Class { classes, .. }) => Ok(Labels::All(*classes)),
            (LabelChoice::Auto, _) => Ok(Labels::None),
            (LabelChoice::None, Condition::Class { null: false, .. }) => refuse(
                "\"none\" needs a learned null class, which this chain has not (condition.null = true)".to_owned(),
            ),
            (LabelChoice::None, _) => Ok(Labels::None),
            (LabelChoice::All | LabelChoice::List(_), Condition::None) => {
                refuse("this chain is unconditional".to_owned())
            }
            (LabelChoice::All | LabelChoice::List(_), Condition::Text(_)) => {
                refuse("this chain is conditioned on text, not on classes".to_owned())
            }
            (LabelChoice::List(list), Condition::Class { classes, .. }) => {
                match list.iter().find(|label| *label >= classes) {
                    Some(label) => {
                        refuse(format!("class {label} is out of range; the chain has {classes}: 0 to {}", classes - 1))
                    }
                    None => Ok(Labels::List(list.clone().into())),
                }
            }
        }
    }

    /// As it stands in the identity.
    pub fn name(&self, condition: &Condition) -> String {
        match self {
            Labels::None if *condition == Condition::None => "none".to_owned(),
            Labels::None => "null".to_owned(),
            Labels::All(_) => "all".to_owned(),
            Labels::List(list) => list.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_take_the_classes_in_turn() {
        let classes = Condition::Class { classes: 3, null: false };
        let choose = |choice, condition| Labels::choose(&choice, &condition);
        let of = |labels: Labels| (0..5).map(|number| labels.of(number)).collect::<Vec<_>>();
        assert_eq!(of(choose(LabelChoice::Auto, classes).unwrap()), [0, 1, 2, 0, 1].map(Some));
        assert_eq!(of(choose(LabelChoice::List(vec![2, 0]), classes).unwrap()), [2, 0, 2, 0, 2].map(Some));
        assert_eq!(of(choose(LabelChoice::Auto, Condition::None).unwrap()), [None; 5]);
        let fault = |choice, condition| choose(choice, condition).unwrap_err().to_string();
        assert!(
            fault(LabelChoice::List(vec![3]), classes).contains("class 3 is out of range; the chain has 3: 0 to 2")
        );
        assert!(fault(LabelChoice::All, Condition::None).contains("unconditional"));
        assert!(fault(LabelChoice::None, classes).contains("null class"));
    }
}
