//! Whether the decisions beside samples are about them: a row for each, in their order.

use super::VerifyReport;
use super::with_causes;
use crate::tables::{DecisionRow, Decisions, OutputDir, Run, SamplesIdentity};
use sha2::{Digest, Sha256};

/// Digest of the keys of a unit's rows, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    rows: u64,
    hash: Sha256,
}

impl Keys {
    pub fn add(&mut self, key: &str) {
        self.rows += 1;
        self.hash.update((key.len() as u64).to_le_bytes());
        self.hash.update(key);
    }

    /// Whether `rows` have these keys.
    fn are_of(&self, rows: &[DecisionRow]) -> bool {
        let mut theirs = Keys::default();
        rows.iter().for_each(|row| theirs.add(&row.key));
        theirs.rows == self.rows && theirs.hash.finalize() == self.hash.clone().finalize()
    }
}

/// Checks the decisions of `dir`, if there are any, against the `samples` of that identity: the keys of their units, in order.
pub(super) async fn check(
    dir: &OutputDir<SamplesIdentity>,
    (samples, units): (Option<&SamplesIdentity>, &[(String, Keys)]),
    report: &mut VerifyReport,
) {
    let path = Decisions::path(dir);
    let decisions = match Decisions::read(dir).await {
        Ok(Some(decisions)) => decisions,
        Ok(None) => return,
        Err(error) => {
            let text = with_causes(&error);
            return report.add(&path, text.strip_prefix(&format!("{path}: ")).unwrap_or(&text));
        }
    };
    report.decisions = Some(decisions.rows.len() as u64);
    let again = "run `imagebart filter --overwrite`";
    if samples.is_some_and(|samples| samples.sha256() != decisions.samples) {
        return report.add(&path, format!("these decisions are about other samples than those beside them: {again}"));
    }
    let mut rest = decisions.rows.as_slice();
    for (unit, keys) in units {
        let length = usize::try_from(keys.rows).unwrap_or(usize::MAX).min(rest.len());
        let (own, others) = rest.split_at(length);
        rest = others;
        if !keys.are_of(own) {
            return report.add(&path, format!("its rows are not those of the unit {unit}, in their order: {again}"));
        }
    }
    if !rest.is_empty() {
        report.add(&path, format!("it has {} rows more than there are samples: {again}", rest.len()));
    }
}
