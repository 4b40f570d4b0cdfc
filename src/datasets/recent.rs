//! What was learned of the files read last: directories of archives, footers.

use super::{DatasetError, Source};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// How many files are remembered: as many as are read at a time, and some.
const REMEMBERED: usize = 8;

/// Values by file, each made once while it is remembered.
pub(super) struct Recent<T> {
    slots: Mutex<VecDeque<Slot<T>>>,
}

/// A file and its value, once that is made.
type Slot<T> = (Source, Arc<OnceCell<Arc<T>>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Recent { slots: Mutex::default() }
    }
}

impl<T> fmt::Debug for Recent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").finish_non_exhaustive()
    }
}

impl<T> Recent<T> {
    /// The value of `file`, made by `make` if it is not remembered. A failure is not.
    pub(super) async fn get(
        &self,
        file: &Source,
        make: impl Future<Output = Result<T, DatasetError>>,
    ) -> Result<Arc<T>, DatasetError> {
        let cell = self.cell(file);
        cell.get_or_try_init(|| async { make.await.map(Arc::new) }).await.cloned()
    }

    fn cell(&self, file: &Source) -> Arc<OnceCell<Arc<T>>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let known = slots.iter().position(|(known, _)| known == file).and_then(|at| slots.remove(at));
        let slot = known.unwrap_or_else(|| (file.clone(), Arc::default()));
        let cell = Arc::clone(&slot.1);
        slots.push_back(slot);
        if slots.len() > REMEMBERED {
            slots.pop_front();
        }
        cell
    }
}
