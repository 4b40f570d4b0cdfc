//! A spawned task that ends with its owner: reads that run ahead are stopped when nobody waits for them any more.

use super::DatasetError;
use tokio::task::JoinHandle;

/// A running task; dropping it aborts it.
#[derive(Debug)]
pub(super) struct Task<T>(JoinHandle<Result<T, DatasetError>>);

impl<T: Send + 'static> Task<T> {
    pub(super) fn spawn(future: impl Future<Output = Result<T, DatasetError>> + Send + 'static) -> Task<T> {
        Task(tokio::spawn(future))
    }

    /// Its result. A task that was stopped from outside (the runtime is shutting down) counts as cancelled.
    pub(super) async fn join(mut self) -> Result<T, DatasetError> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(DatasetError::Cancelled),
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
