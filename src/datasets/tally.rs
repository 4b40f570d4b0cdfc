//! Counts of what is neither a sample nor a reject.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many statuses are told apart. img2dataset has two of failure; what a file claims besides is no reason to grow.
const STATUSES: usize = 16;
const OTHERS: &str = "other";

/// Rows without an image, by the status that img2dataset gave them: `failed_to_download`, `failed_to_resize`. Clones share
/// their counts.
#[derive(Clone, Debug, Default)]
pub struct NotDownloaded(Arc<Mutex<BTreeMap<String, u64>>>);

impl NotDownloaded {
    /// Counts `rows` more of `status`.
    pub fn add(&self, status: &str, rows: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.contains_key(status) || counts.len() < STATUSES;
        let count = counts.entry(if known { status } else { OTHERS }.to_owned()).or_default();
        *count = count.saturating_add(rows);
    }

    /// Counts what `other` counted.
    pub fn add_all(&self, other: &NotDownloaded) {
        other.counts().iter().for_each(|(status, rows)| self.add(status, *rows));
    }

    /// Rows by status.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_statuses_share_a_count() {
        let tally = NotDownloaded::default();
        tally.add("failed_to_resize", 2);
        (0..100).for_each(|number| tally.clone().add(&format!("status {number}"), 1));
        let sum = NotDownloaded::default();
        sum.add("failed_to_resize", u64::MAX);
        sum.add_all(&tally);
        let counts = sum.counts();
        assert!(counts.len() <= STATUSES + 1, "{counts:?}");
        assert_eq!(counts["failed_to_resize"], u64::MAX);
        assert_eq!(
            counts.iter().filter(|(status, _)| status.as_str() != "failed_to_resize").map(|(_, n)| n).sum::<u64>(),
            100
        );
    }
}
