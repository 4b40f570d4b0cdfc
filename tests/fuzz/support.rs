//! What the targets share: a dataset in memory, read to its end, and a limit on what may be allocated meanwhile.

use cap::Cap;
use imagebart::datasets::{DatasetError, DatasetOptions, Entry, Location, ReadAhead, Reader, read_unit};
use imagebart::retry::Retries;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// The largest image that readers may hand on.
pub const MAX_BYTES: u64 = 1 << 16;
/// All that a target may have allocated at a time, the corpus' own few megabytes included: whatever an input claims of itself.
pub const MAX_ALLOCATED: usize = 64 << 20;

/// An allocator that ends the process, and so the fuzzing, where an input makes us ask for more.
pub type Limited = Cap<System>;

/// The allocator of every target.
pub const fn limited() -> Limited {
    Cap::new(System, MAX_ALLOCATED)
}

/// Options with small limits, so that an input of a few kilobytes can be too large in every way.
pub fn options() -> DatasetOptions {
    let retries = Retries { attempts: 1, backoff: Duration::ZERO, ..Retries::default() };
    let read_ahead = ReadAhead { chunk: 512, parallel: 1, retries };
    DatasetOptions { max_bytes: MAX_BYTES, unit_rows: 3, read_ahead, ..DatasetOptions::default() }
}

/// Reads everything that a reader of the directory `d` finds in these files of it.
///
/// # Panics
/// Where a reader breaks its promises: entries that do not count up, an image above the limit, a fault that is none of the store's.
pub fn read(files: &[(&str, &[u8])], reader: impl FnOnce(Location) -> Arc<dyn Reader>) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let store = Arc::new(InMemory::new());
            for (name, bytes) in files {
                store.put(&Path::from(format!("d/{name}")), bytes.to_vec().into()).await.expect("memory takes all");
            }
            let store: Arc<dyn ObjectStore> = store;
            match read_all(&*reader(Location::in_store(store, "d"))).await {
                Ok(()) | Err(DatasetError::Config(_)) => {}
                Err(error) => panic!("{error}"),
            }
        });
    });
}

async fn read_all(reader: &dyn Reader) -> Result<(), DatasetError> {
    for unit in reader.units().await? {
        for (at, entry) in (0u64..).zip(read_unit(reader, &unit).await?) {
            match entry {
                Entry::Sample(sample) => {
                    assert_eq!(sample.index, at);
                    assert!(sample.image.len() as u64 <= MAX_BYTES, "an image of {} bytes", sample.image.len());
                }
                Entry::Reject(reject) => assert_eq!(reject.index, at),
            }
        }
    }
    Ok(())
}
