//! The first stage of every job that reads images: the units of a dataset, sample by sample.

use crate::datasets::{DatasetError, Entry, NotDownloaded, Output, Reader, Sample, Unit};
use crate::flow::{BoxError, Emitter};
use crate::reject::Reject;
use futures::future::BoxFuture;
use std::sync::Arc;

/// Entries a reader may be ahead of the byte budget. Few: what is in this channel is not yet accounted for.
const READER_LEAD: usize = 2;

/// Reads the units one after the other; `item` makes the flow's row of a sample that is `wanted`, by its unit and index. A unit
/// that fails is aborted, and the run goes on with the next. Rows without an image are counted in `not_downloaded`, once their
/// unit was read to its end.
pub async fn read<T: Send + 'static>(
    reader: Arc<dyn Reader>,
    units: Vec<Arc<Unit>>,
    wanted: impl Fn(&Unit, u64) -> bool,
    item: impl Fn(Arc<Unit>, Sample) -> BoxFuture<'static, Result<T, DatasetError>>,
    not_downloaded: NotDownloaded,
    mut out: Emitter<Unit, T, Reject>,
) -> Result<(), BoxError> {
    for unit in units {
        out.begin(unit.clone()).await?;
        let (sender, entries) = Output::channel(READER_LEAD);
        let missing = sender.not_downloaded().clone();
        let reading = {
            let (reader, unit) = (reader.clone(), unit.clone());
            tokio::spawn(async move { reader.read(&unit, &sender).await })
        };
        let mut failed = None;
        while let Ok(entry) = entries.recv().await {
            match entry {
                Entry::Sample(Sample { index, .. }) | Entry::Reject(Reject { index, .. }) if !wanted(&unit, index) => {}
                Entry::Sample(sample) => {
                    out.input(sample.image.len() as u64);
                    match item(unit.clone(), sample).await {
                        Ok(row) => out.row(row).await?,
                        Err(error) => {
                            failed = Some(error);
                            break;
                        }
                    }
                }
                Entry::Reject(reject) => out.reject(reject).await?,
            }
        }
        drop(entries);
        let read = reading.await;
        let ended = match (failed, read) {
            (Some(error), _) => Err(error),
            (None, Ok(read)) => read,
            (None, Err(panicked)) => return Err(format!("the reader of {} panicked: {panicked}", unit.name).into()),
        };
        match ended {
            Ok(()) => {
                not_downloaded.add_all(&missing);
                out.end().await?;
            }
            Err(DatasetError::Cancelled) => return Ok(()),
            Err(error) => {
                tracing::error!("unit {} failed and is left for the next run: {error}", unit.name);
                out.abort(error).await?;
            }
        }
    }
    Ok(())
}
