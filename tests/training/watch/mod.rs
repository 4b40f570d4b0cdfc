//! What a run tells of itself: event files, their history, the report.

mod events;
mod report;

use event_files::{Told, read};
use imagebart::tables::OutputDir;
use imagebart::training::RunFolder;
use imagebart::training::watch::{History, Journal};
use object_store::memory::InMemory;
use object_store::path::Path;
use std::sync::Arc;

mod event_files;

fn folder() -> RunFolder {
    RunFolder::of(&OutputDir::new(Arc::new(InMemory::new()), Path::from("run"), None))
}

/// All that the files of a folder tell, in the order in which TensorBoard reads them: step, name, content.
async fn told(folder: &RunFolder) -> Vec<(i64, String, Told)> {
    let mut all = Vec::new();
    for name in folder.names().await.unwrap() {
        assert!(name.contains("tfevents"), "TensorBoard looks for this in a name: {name}");
        all.extend(read(&folder.get(&name).await.unwrap().unwrap()));
    }
    all
}

/// A run's training loop, as far as its journal is concerned: loss every step, a picture every seventh, checkpoints every tenth.
/// Killed after `end`, without a word.
async fn train(folder: &RunFolder, from: u64, end: u64) {
    let mut journal = Journal::open(folder.clone(), from).await.unwrap();
    for step in from + 1..=end {
        journal.scalars(step, &[("train/loss", 1.0 / step as f64), ("train/lr", 1e-4)]);
        if step % 7 == 0 {
            journal.image(step, "samples", format!("picture of {step}").as_bytes(), 3, 2);
        }
        if step % 2 == 0 {
            journal.flush().await.unwrap();
        }
        if step % 10 == 0 {
            journal.seal(step).await.unwrap();
        }
    }
}

/// The history without words about broken files.
async fn history(folder: &RunFolder) -> History {
    let history = History::read(folder).await.unwrap();
    assert_eq!(history.problems, [""; 0]);
    history
}
