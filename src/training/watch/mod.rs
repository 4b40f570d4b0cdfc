//! What one sees of a training run: curves and pictures in TensorBoard's files, a report, a line on the terminal.
//!
//! ```
//! use imagebart::tables::OutputDir;
//! use imagebart::training::RunFolder;
//! use imagebart::training::watch::{History, Journal, Meter, ReportFacts, StepDone, names, report};
//! # use object_store::{memory::InMemory, path::Path};
//! # use std::{sync::Arc, time::Duration};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = RunFolder::of(&OutputDir::new(Arc::new(InMemory::new()), Path::from("run"), None));
//! let mut journal = Journal::open(folder.clone(), 0).await?; // or the step of the checkpoint that the run goes on from
//! let mut meter = Meter::new(200);
//! for step in 1..=200 {
//!     let took = Duration::from_millis(80); // of a training step
//!     meter.step(StepDone { rows: 32, tokens: 32 * 256, took, waited: Duration::ZERO });
//!     if step % 50 == 0 {
//!         let reading = meter.read(step, &[(names::LOSS, 1.0 / step as f64)]);
//!         journal.scalars(step, &reading.scalars);
//!         journal.flush().await?;
//!     }
//!     if step % 100 == 0 {
//!         journal.seal(step).await?; // then the checkpoint of this step is committed
//!     }
//! }
//! let history = History::read(&folder).await?;
//! assert_eq!(history.series(names::LOSS).len(), 4);
//! report::write(&folder, &ReportFacts::default(), &history).await?;
//! # Ok(()) }
//! ```

mod chart;
mod curves;
mod events;
mod history;
mod journal;
mod meter;
pub mod names;
pub mod report;

pub use events::Picture;
pub use history::{History, Pictures, Series};
pub use journal::{Journal, JournalError};
pub use meter::{Meter, Reading, StepDone, bits};
pub use report::{Bound, ReportFacts};
