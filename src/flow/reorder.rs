//! Puts the results of parallel workers back into order.

use super::engine::lock;
use super::error::Stopped;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

/// A window of result slots. Workers put results in as they come; whoever completes the front sends it on, so no thread
/// is spent on sending, and a slow row holds the others up only once the window is full.
pub(super) struct Reorder<X> {
    pending: Mutex<Pending<X>>,
    room: Condvar,
    /// Slots ahead of the oldest missing result.
    window: u64,
}

struct Pending<X> {
    /// Number of the result in the front slot.
    next: u64,
    slots: VecDeque<Option<X>>,
    /// One worker is sending: the others only put in.
    sending: bool,
    stopped: bool,
}

impl<X> Reorder<X> {
    pub fn new(window: usize) -> Reorder<X> {
        let pending = Pending { next: 0, slots: VecDeque::new(), sending: false, stopped: false };
        Reorder { pending: Mutex::new(pending), room: Condvar::new(), window: window.max(1) as u64 }
    }

    /// Puts in result `number`, after waiting for it to come within the window, and sends what is complete. The oldest
    /// missing result never waits, so the window always moves.
    pub fn put(&self, number: u64, result: X, mut send: impl FnMut(X) -> Result<(), Stopped>) -> Result<(), Stopped> {
        let mut pending = lock(&self.pending);
        while !pending.stopped && number - pending.next >= self.window {
            pending = self.room.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        if pending.stopped {
            return Err(Stopped);
        }
        let slot = (number - pending.next) as usize;
        if pending.slots.len() <= slot {
            pending.slots.resize_with(slot + 1, || None);
        }
        pending.slots[slot] = Some(result);
        if pending.sending {
            return Ok(());
        }
        pending.sending = true;
        while let Some(front) = pending.slots.front_mut().and_then(Option::take) {
            pending.slots.pop_front();
            pending.next += 1;
            drop(pending);
            self.room.notify_all();
            send(front)?;
            pending = lock(&self.pending);
        }
        pending.sending = false;
        Ok(())
    }

    /// Sends all waiting workers away.
    pub fn stop(&self) {
        lock(&self.pending).stopped = true;
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn results_leave_in_order_whatever_the_order_they_come_in() {
        let reorder = Reorder::new(4);
        let mut sent = Vec::new();
        for number in [2u64, 0, 3, 1, 5, 4] {
            let send = |n| {
                sent.push(n);
                Ok(())
            };
            reorder.put(number, number, send).unwrap();
        }
        assert_eq!(sent, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_result_outside_the_window_waits_for_the_front() {
        let reorder = Reorder::new(2);
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            let (reorder, late) = (&reorder, sender.clone());
            scope.spawn(move || reorder.put(2, 2, |n| late.send(n).map_err(|_| Stopped)));
            reorder.put(1, 1, |n| sender.send(n).map_err(|_| Stopped)).unwrap();
            assert!(receiver.try_recv().is_err(), "0 is missing");
            reorder.put(0, 0, |n| sender.send(n).map_err(|_| Stopped)).unwrap();
            assert_eq!(receiver.iter().take(3).collect::<Vec<_>>(), [0, 1, 2]);
        });
    }

    #[test]
    fn a_stop_sends_waiting_workers_away() {
        let reorder = Reorder::new(1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| reorder.put(1, 1, |_| Ok(())));
            reorder.stop();
            assert_eq!(waiting.join().unwrap(), Err(Stopped));
        });
        assert_eq!(reorder.put(0, 0, |_| Ok(())), Err(Stopped));
    }
}
