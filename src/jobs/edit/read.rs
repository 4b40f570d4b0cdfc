//! The images to edit, one by one, in the order of what is drawn over them.

use super::prepare::{Edit, Source};
use crate::datasets::{Pairs, Unit};
use crate::flow::{BoxError, Emitter};
use crate::jobs::sample::{Interpreter, Requests};
use crate::reject::Reject;
use std::sync::Arc;

/// What is drawn in the `units`, which are in their order, by the requests of `interpreter`, each over the pair of its row. A unit
/// whose files cannot be read is aborted, and the run goes on with the next.
pub(super) async fn read(
    (pairs, interpreter): (Pairs, Interpreter),
    units: Vec<Arc<Unit>>,
    mut out: Emitter<Unit, Edit, Reject>,
) -> Result<(), BoxError> {
    let (mut requests, mut rows) = (Requests::new(interpreter), pairs.start());
    for unit in units {
        out.begin(unit.clone()).await?;
        let mut failed = None;
        let mut last: Option<(u64, Arc<Source>)> = None;
        for number in unit.range.clone().unwrap_or_default() {
            let found = requests.holding(number).await?;
            let (start, request) = found.ok_or("the table of images has become shorter")?;
            // Rows of tables count from 1.
            let row = request.row.at.saturating_sub(1);
            let draw = request.draw(number.saturating_sub(start), number, unit.clone());
            let shared = last.as_ref().filter(|(last, _)| *last == row).map(|(_, source)| source.clone());
            let is_first = shared.is_none();
            let source = match shared {
                Some(source) => source,
                None => match rows.get(row).await {
                    Ok(pair) => {
                        let file = pairs.source(row);
                        // A table's rows are named by their keys, files by their paths.
                        let parent = if matches!(pairs, Pairs::Table(_)) { request.key.clone() } else { file.into() };
                        Arc::new(Source::new(parent, file, pair))
                    }
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                },
            };
            if is_first {
                out.input(source.bytes());
            }
            last = Some((row, source.clone()));
            out.row(Edit { draw, source, is_first }).await?;
        }
        match failed {
            None => out.end().await?,
            Some(error) => {
                tracing::error!("unit {} failed and is left for the next run: {error}", unit.name);
                out.abort(error).await?;
            }
        }
    }
    Ok(())
}
