//! The byte budget over everything in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A counter of bytes with a limit. Its one customer is the source, so that bytes are taken in the stream's order.
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    freed: Notify,
}

impl Budget {
    pub fn new(limit: u64) -> Arc<Budget> {
        Arc::new(Budget { limit, used: AtomicU64::new(0), peak: AtomicU64::new(0), freed: Notify::new() })
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes taken now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were ever taken at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The most that one row may take when `held` rows have to fit at once. Without this clamp a batch could wait for a
    /// row that waits for the budget the batch holds.
    pub fn share(&self, held: u64) -> u64 {
        self.limit / held.max(1)
    }

    /// Waits for `bytes`, at most the limit of them; `None` when `stop` comes first.
    pub async fn take(self: &Arc<Self>, bytes: u64, stop: &CancellationToken) -> Option<Hold> {
        let bytes = bytes.min(self.limit);
        // `notify_one` leaves a mark when nobody waits, so no release between the try and the wait is lost.
        while !self.try_take(bytes) {
            tokio::select! {
                () = stop.cancelled() => return None,
                () = self.freed.notified() => {}
            }
        }
        Some(Hold::One(Arc::new(Permit { budget: self.clone(), bytes })))
    }

    fn try_take(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                true
            }
            Err(_) => false,
        }
    }
}

/// Bytes taken from the budget, given back on drop.
pub(super) struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.freed.notify_one();
    }
}

/// What a row holds of the budget. The rows that one row became share its permit: it is free when the last is written.
#[derive(Clone)]
pub(super) enum Hold {
    One(#[allow(dead_code, reason = "held for its drop")] Arc<Permit>),
    Batch(Arc<[Hold]>),
}

impl Hold {
    pub fn batch(holds: Vec<Hold>) -> Hold {
        Hold::Batch(holds.into())
    }

    /// The holds of `n` rows that came out of a batch of `n` rows, so that each row frees its own bytes.
    pub fn split(self, n: usize) -> Vec<Hold> {
        match &self {
            Hold::Batch(holds) if holds.len() == n => holds.to_vec(),
            _ => vec![self; n],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn bytes(hold: &Hold) -> u64 {
        match hold {
            Hold::One(permit) => permit.bytes,
            Hold::Batch(holds) => holds.iter().map(bytes).sum(),
        }
    }

    #[tokio::test]
    async fn a_row_larger_than_the_budget_takes_all_of_it() {
        let (budget, stop) = (Budget::new(10), CancellationToken::new());
        let all = budget.take(u64::MAX, &stop).await.unwrap();
        assert_eq!((bytes(&all), budget.used()), (10, 10));
        assert!(budget.take(1, &stop).now_or_never().is_none(), "waits while the budget is used up");
        drop(all);
        assert_eq!(bytes(&budget.take(4, &stop).await.unwrap()), 4);
        assert_eq!((budget.used(), budget.peak()), (0, 10));
    }

    #[tokio::test]
    async fn a_release_wakes_the_waiter_and_a_stop_sends_it_away() {
        let (budget, stop) = (Budget::new(10), CancellationToken::new());
        let first = budget.take(6, &stop).await.unwrap();
        let mut second = Box::pin(budget.take(6, &stop));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let second = second.await.unwrap();
        let mut third = Box::pin(budget.take(6, &stop));
        assert!(third.as_mut().now_or_never().is_none());
        stop.cancel();
        assert!(third.await.is_none());
        assert_eq!(bytes(&second), 6);
    }

    #[tokio::test]
    async fn rows_of_a_batch_free_their_own_bytes_and_copies_share_theirs() {
        let (budget, stop) = (Budget::new(10), CancellationToken::new());
        let holds = vec![budget.take(3, &stop).await.unwrap(), budget.take(4, &stop).await.unwrap()];
        let mut rows = Hold::batch(holds).split(2);
        let copy = rows[1].clone();
        drop(rows.remove(0));
        assert_eq!(budget.used(), 4);
        drop(rows);
        assert_eq!(budget.used(), 4, "a copy still holds them");
        drop(copy);
        assert_eq!(budget.used(), 0);
        let odd = Hold::batch(vec![budget.take(3, &stop).await.unwrap()]).split(2);
        assert_eq!((odd.len(), budget.used()), (2, 3));
    }

    #[test]
    fn a_share_leaves_room_for_all_held_rows() {
        assert_eq!(Budget::new(100).share(0), 100);
        assert_eq!(Budget::new(100).share(8), 12);
        assert_eq!(Budget::new(3).share(8), 0);
    }
}
