//! Bytes, batches in waiting, times, and the watchdog.

use crate::support::{Log, Rows, Seen, assert_clean, engine, inside, items, queue, run, until};
use imagebart::flow::{BoxError, Emitter, Engine, EngineConfig, Flow, FlowError};
use std::io::Write;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

async fn emit(rows: std::ops::Range<u64>, mut out: Emitter<u32, u64, u64>) -> Result<(), BoxError> {
    out.begin(Arc::new(0)).await?;
    for row in rows {
        out.input(3);
        out.row(row).await?;
    }
    out.end().await?;
    Ok(())
}

#[test]
fn a_row_larger_than_the_budget_passes_alone() {
    let engine = engine(100, 8);
    let cost = |row: &u64| if *row == 5 { u64::MAX } else { 40 };
    let report = run(Flow::source(&engine, "read", cost, |out| emit(0..10, out))
        .map("decode", 2, |row| vec![Ok(row), Ok(row)])
        .sink("write", Log::default()))
    .unwrap();
    assert_eq!(report.rows, 20);
    assert_eq!(report.stats.peak, 100);
    assert_clean(&engine);
}

#[test]
fn a_batch_larger_than_the_budget_still_fills() {
    let engine = engine(100, 8);
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let seen = sizes.clone();
    run(Flow::source(&engine, "read", |_: &u64| 90, |out| emit(0..20, out))
        .map("decode", 3, |row| vec![Ok(row)])
        .batch(8)
        .device(
            "tokenize",
            || Ok(()),
            move |(), batch: Vec<u64>| {
                seen.lock().unwrap().push(batch.len());
                Ok(batch)
            },
        )
        .sink("write", Log::default()))
    .unwrap();
    assert_eq!(*sizes.lock().unwrap(), [8, 8, 4]);
    assert!(engine.snapshot().peak <= 100);
}

#[test]
fn bytes_are_held_until_the_sink_has_dealt_with_all_that_became_of_a_row() {
    let engine = engine(100, 8);
    let watch = engine.clone();
    let held = Arc::new(Mutex::new(Vec::new()));
    let seen = held.clone();
    let sink = Rows::new(move |_row| {
        seen.lock().unwrap().push(watch.snapshot().in_flight);
        async { Ok(()) }
    });
    run(Flow::source(&engine, "read", |_: &u64| 30, |out| emit(0..1, out))
        .map("decode", 1, |row| vec![Ok(row), Err(row), Ok(row)])
        .sink("write", sink))
    .unwrap();
    assert_eq!(*held.lock().unwrap(), [30, 30]);
    assert_clean(&engine);
}

#[test]
fn exactly_one_batch_waits_behind_the_one_in_work() {
    let engine = engine(1 << 20, 4);
    let (release, held) = mpsc::channel::<()>();
    let result = run(async {
        let flow = Flow::source(&engine, "read", |_: &u64| 1, |out| emit(0..u64::MAX, out))
            .batch(3)
            .device(
                "tokenize",
                || Ok(()),
                move |(), batch: Vec<u64>| {
                    let _ = held.recv();
                    Ok(batch)
                },
            )
            .sink("write", Log::default());
        let look = async {
            // The device is in its first batch, the second waits ready, and rows for the third wait outside.
            let stalled = |s: &imagebart::flow::Snapshot| {
                inside(s, "tokenize") == 1 && queue(s, "tokenize") == 1 && queue(s, "batch") == 4
            };
            until(&engine, stalled).await;
            for _ in 0..1000 {
                tokio::task::yield_now().await;
                assert_eq!(items(&engine.snapshot(), "batch"), 6);
            }
            engine.cancel();
            drop(release);
        };
        tokio::join!(flow, look).0
    });
    assert!(matches!(result, Err(FlowError::Cancelled)));
}

#[test]
fn batches_stay_whole_between_devices_and_one_waits_before_each() {
    let engine = engine(1 << 20, 4);
    let (release, held) = mpsc::channel::<()>();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sizes = seen.clone();
    let mut log = Log::default();
    let report = run(async {
        let flow = Flow::source(&engine, "read", |_: &u64| 1, |out| emit(0..20, out))
            .batch(3)
            .device_batches("upper", || Ok(()), |(), batch: Vec<u64>| Ok(batch))
            .device_batches("middle", || Ok(()), |(), batch: Vec<u64>| Ok(batch))
            .device(
                "lower",
                || Ok(()),
                move |(), batch: Vec<u64>| {
                    sizes.lock().unwrap().push(batch.len());
                    let _ = held.recv();
                    Ok(batch)
                },
            )
            .sink("write", &mut log);
        let look = async {
            // One batch in the last device, one before it, one that the device above has done, and so on up.
            let done = |s: &imagebart::flow::Snapshot| (items(s, "upper"), items(s, "middle"), inside(s, "lower"));
            until(&engine, |s| done(s) == (15, 9, 1)).await;
            for _ in 0..1000 {
                tokio::task::yield_now().await;
                assert_eq!(done(&engine.snapshot()), (15, 9, 1));
            }
            drop(release);
        };
        tokio::join!(flow, look).0
    });
    assert_eq!(report.unwrap().rows, 20);
    assert_eq!(*seen.lock().unwrap(), [3, 3, 3, 3, 3, 3, 2]);
    let rows: Vec<u64> =
        log.0.iter().filter_map(|seen| if let Seen::Row(row) = seen { Some(*row) } else { None }).collect();
    assert_eq!(rows, (0..20).collect::<Vec<_>>());
    assert_clean(&engine);
}

#[test]
fn times_and_counts_add_up() {
    let engine = engine(1 << 20, 4);
    let report = run(Flow::source(&engine, "read", |_: &u64| 3, |out| emit(0..500, out))
        .map("decode", 2, |row| vec![if row % 10 == 0 { Err(row) } else { Ok(row) }])
        .batch(7)
        .device("tokenize", || Ok(()), |(), batch: Vec<u64>| Ok(batch))
        .sink("write", Log::default()))
    .unwrap();
    let stats = &report.stats;
    assert_eq!((stats.bytes, stats.rows, stats.rejects, stats.units_ended), (1500, 450, 50, 1));
    let counts: Vec<_> = stats.stages.iter().map(|stage| (stage.name, stage.items)).collect();
    assert_eq!(counts, [("read", 500), ("decode", 500), ("batch", 450), ("tokenize", 450), ("write", 450)]);
    for stage in &stats.stages {
        let whole = stats.wall * stage.workers as u32;
        assert!(stage.busy + stage.starved + stage.blocked <= whole, "{stage:?} of {whole:?}");
        assert!(stage.name == "batch" || (stage.busy > Duration::ZERO && stage.busy <= stage.active * 2), "{stage:?}");
        assert!(stage.busy_while_fed() >= stage.busy_share(stats.wall));
    }
    assert_eq!(engine.snapshot().wall, stats.wall, "the clock stands still after the end");
}

/// Sends each line of the log to the test.
#[derive(Clone)]
struct Lines(tokio::sync::mpsc::UnboundedSender<String>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;
    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

#[test]
fn the_watchdog_names_the_stage_that_everything_waits_for() {
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let subscriber = tracing_subscriber::fmt().with_writer(Lines(sender)).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let watchdog = Some(Duration::from_millis(1));
    let engine = Engine::new(EngineConfig { budget_bytes: 1 << 20, capacity: 2, watchdog });
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(async {
        let flow = Flow::source(&engine, "read", |_: &u64| 1, |out| emit(0..100, out))
            .map("decode", 1, move |row| {
                if row == 1 {
                    let _ = held.lock().unwrap().recv();
                }
                vec![Ok(row)]
            })
            .sink("write", Log::default());
        let hear = async {
            loop {
                let line = lines.recv().await.unwrap();
                if line.contains("everything waits for stage `decode`") && line.contains("2 wait in its queue") {
                    break drop(release);
                }
            }
        };
        tokio::join!(flow, hear).0
    });
    assert_eq!(result.unwrap().rows, 100);
}
