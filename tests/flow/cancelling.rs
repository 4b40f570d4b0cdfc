//! Cancellation: it reaches every stage, wherever that waits.

use crate::support::{Log, Rows, assert_clean, endless, engine, inside, items, queue, run, until};
use imagebart::flow::{Emitter, Engine, Flow, FlowError};
use std::sync::{Arc, Mutex, mpsc};

/// Cancels an endless run, once `wish` holds, whose sink never finishes its first row.
fn cancel_when(engine: &Engine, wish: impl Fn(&imagebart::flow::Snapshot) -> bool) {
    let mut sink = Rows::new(|_| std::future::pending());
    let result = run(async {
        let flow = Flow::source(engine, "read", |_: &u64| 10, endless)
            .map("decode", 2, |row| vec![Ok(row)])
            .batch(2)
            .device("tokenize", || Ok(()), |(), batch: Vec<u64>| Ok(batch))
            .sink("write", &mut sink);
        let cancel = async {
            until(engine, |s| s.units_begun == 1 && wish(s)).await;
            engine.cancel();
        };
        tokio::join!(flow, cancel).0
    });
    assert!(matches!(result, Err(FlowError::Cancelled)), "{result:?}");
    assert_eq!((sink.begun, sink.abandoned), (1, 1));
    assert_clean(engine);
}

#[test]
fn a_cancel_reaches_a_source_that_waits_for_budget() {
    cancel_when(&engine(60, 100), |s| s.in_flight == 60);
}

#[test]
fn a_cancel_reaches_every_stage_that_waits_for_room() {
    // Every channel is full and the sink does not move: nobody can do anything but wait.
    cancel_when(&engine(1 << 30, 1), |s| {
        let full = queue(s, "decode") == 1 && queue(s, "batch") == 1 && queue(s, "tokenize") == 1;
        full && queue(s, "write") == 4 && inside(s, "write") == 1
    });
}

#[test]
fn a_cancel_reaches_every_stage_that_waits_for_input() {
    let engine = engine(1000, 2);
    let result = run(async {
        let flow = Flow::source(
            &engine,
            "read",
            |_: &u64| 1,
            |mut out: Emitter<u32, u64, u64>| async move {
                out.begin(Arc::new(0)).await?;
                out.row(1).await?;
                std::future::pending().await
            },
        )
        .map("decode", 2, |row| vec![Ok(row)])
        .batch(1)
        .device("tokenize", || Ok(()), |(), batch: Vec<u64>| Ok(batch))
        .batch(2)
        .device("again", || Ok(()), |(), batch: Vec<u64>| Ok(batch))
        .sink("write", Log::default());
        let cancel = async {
            until(&engine, |s| s.units_begun == 1 && s.stages[4].items == 1).await;
            engine.cancel();
        };
        tokio::join!(flow, cancel).0
    });
    assert!(matches!(result, Err(FlowError::Cancelled)), "{result:?}");
    assert_clean(&engine);
}

#[test]
fn a_cancel_reaches_workers_that_wait_for_a_slower_one_and_waits_for_that() {
    let engine = engine(1000, 100);
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let result = run(async {
        let flow = Flow::source(&engine, "read", |_: &u64| 1, endless)
            .map("decode", 2, move |row| {
                if row == 0 {
                    let _ = held.lock().unwrap().recv();
                }
                vec![Ok(row)]
            })
            .sink("write", Log::default());
        let cancel = async {
            // Slots 0 to 7 are the window (`begin` has left it); the other worker stands there with the row after.
            until(&engine, |s| items(s, "decode") == 8).await;
            engine.cancel();
            until(&engine, |s| s.threads == 1).await;
            drop(release);
        };
        tokio::join!(flow, cancel).0
    });
    assert!(matches!(result, Err(FlowError::Cancelled)), "{result:?}");
    assert_clean(&engine);
}

#[test]
fn a_cancel_before_or_during_the_start_leaves_the_source_alone() {
    for early in [true, false] {
        let engine = engine(1000, 2);
        let canceller = engine.clone();
        let mut sink = Rows::new(|_| async { Ok(()) });
        if early {
            engine.cancel();
        }
        let result =
            run(Flow::source(&engine, "read", |_: &u64| 1, |_: Emitter<u32, u64, u64>| async { panic!("read") })
                .batch(2)
                .device(
                    "tokenize",
                    move || {
                        canceller.cancel();
                        Ok(())
                    },
                    |(), batch: Vec<u64>| Ok(batch),
                )
                .sink("write", &mut sink));
        assert!(matches!(result, Err(FlowError::Cancelled)), "{result:?}");
        assert_eq!(sink.begun, 0);
        assert_clean(&engine);
    }
}

#[test]
fn a_dropped_run_lets_its_threads_go() {
    let engine = engine(1000, 2);
    run(async {
        let flow = Flow::source(&engine, "read", |_: &u64| 1, endless)
            .map("decode", 2, |row| vec![Ok(row)])
            .sink("write", Rows::new(|_| std::future::pending()));
        tokio::select! {
            _ = flow => panic!("it has no end"),
            () = until(&engine, |s| queue(s, "write") == 2) => {}
        }
        until(&engine, |s| s.threads == 0).await;
    });
    assert!(engine.is_stopped());
}
