//! The engine: bounded stages over async channels, and nothing about images.
//!
//! A [`Flow`] is a chain of stages. One stream of events runs through it, in order:
//!
//! `begin(unit)`, then `row`s and `reject`s, then `end(unit)` or `abort(unit, error)`, then the next unit.
//!
//! All units share the one stream, so the next unit is read and decoded while the last one drains. The events around the
//! rows pass through every stage in their place: what the sink sees is what a plain loop over the input would produce,
//! whatever the number of workers. The one exception is documented at [`Flow::batch`].
//!
//! | stage | runs on | does |
//! |---|---|---|
//! | [`Flow::source`] | a tokio task | reads; takes each row's bytes from the budget |
//! | [`Flow::map`] | its own OS threads | a blocking function per row, in parallel, results in input order |
//! | [`Flow::batch`] | a tokio task | groups rows; a batch never spans units |
//! | [`Flow::device`] | one OS thread | owns a model and its device; the next batch waits ready |
//! | [`Flow::sink`] | the caller's task | writes, and gives each row's bytes back |
//!
//! **Memory.** Channels are bounded, and every row carries a permit for its bytes from the source to the sink. Permits are
//! taken in the stream's order, so the oldest row can always move on. A row's permit is clamped to the budget divided by
//! the number of rows that batches may hold back: a batch that waits for its last row can never starve it of budget.
//!
//! **Errors.** The first error wins: it cancels every stage and is what [`Flow::sink`] returns. A panic in a stage is
//! [`FlowError::Panicked`] with the stage's name. A unit that cannot be read is not an error of the run: its source aborts
//! it ([`Emitter::abort`]), the sink drops its partial output, and the [`Report`] lists it.
//!
//! **Cancellation.** [`Engine::cancel`] wakes every waiting stage. A user's function that is running is waited for, never
//! interrupted; the futures of the source and the sink are dropped where they stand. When [`Flow::sink`] returns, all
//! threads have been joined and all permits are back.
//!
//! **Accounting.** Each stage splits its workers' time into busy (inside the user's function), starved (waiting for
//! input) and blocked (waiting for output); [`StageSnapshot`] defines them for each kind of stage.
//!
//! ```
//! use imagebart::flow::{BoxError, Emitter, Engine, EngineConfig, Flow, Sink};
//! use std::sync::Arc;
//!
//! struct Sums(Vec<(String, u64)>);
//!
//! impl Sink<String, u64, String> for Sums {
//!     async fn begin(&mut self, unit: &Arc<String>) -> Result<(), BoxError> {
//!         self.0.push((unit.to_string(), 0));
//!         Ok(())
//!     }
//!     async fn row(&mut self, row: u64) -> Result<(), BoxError> {
//!         self.0.last_mut().ok_or("a row outside a unit")?.1 += row;
//!         Ok(())
//!     }
//!     async fn reject(&mut self, why: String) -> Result<(), BoxError> {
//!         assert_eq!(why, "13 is unlucky");
//!         Ok(())
//!     }
//!     async fn end(&mut self, _unit: &Arc<String>) -> Result<(), BoxError> {
//!         Ok(())
//!     }
//!     async fn abort(&mut self, _unit: &Arc<String>, _error: &BoxError) -> Result<(), BoxError> {
//!         self.0.pop();
//!         Ok(())
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! let engine = Engine::new(EngineConfig::default());
//! let mut sums = Sums(Vec::new());
//! let report = Flow::source(&engine, "read", |_row: &u64| 8, |mut out: Emitter<_, _, _>| async move {
//!     for unit in ["a", "b"] {
//!         out.begin(Arc::new(unit.to_string())).await?;
//!         for row in 10..15 {
//!             out.row(row).await?;
//!         }
//!         out.end().await?;
//!     }
//!     Ok(())
//! })
//! .map("decode", 2, |row| vec![if row == 13 { Err(format!("{row} is unlucky")) } else { Ok(row) }])
//! .batch(3)
//! .device("tokenize", || Ok(100), |offset, rows: Vec<u64>| Ok(rows.iter().map(|row| row + *offset).collect()))
//! .sink("write", &mut sums)
//! .await?;
//!
//! assert_eq!(sums.0, [("a".to_string(), 447), ("b".to_string(), 447)]);
//! assert_eq!((report.units_ended, report.rows, report.rejects), (2, 8, 2));
//! # Ok::<(), imagebart::flow::FlowError>(())
//! # }).unwrap();
//! ```

mod batch;
mod budget;
mod device;
mod engine;
mod error;
mod event;
mod map;
mod reorder;
mod report;
mod sink;
mod source;
mod stats;
mod watchdog;

pub use engine::{Engine, EngineConfig, Flow};
pub use error::{BoxError, FlowError, Stopped};
pub use report::{Aborted, Report};
pub use sink::Sink;
pub use source::Emitter;
pub use stats::{Kind, Snapshot, StageSnapshot};
