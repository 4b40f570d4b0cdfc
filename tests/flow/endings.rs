//! How runs end: panics, errors, aborted units, broken rules.

use crate::support::{Log, Rows, Seen, assert_clean, endless, engine, run};
use imagebart::flow::{BoxError, Emitter, Engine, Flow, FlowError, Report};
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Where a run breaks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    ReadCall,
    Read,
    Map,
    Init,
    Step,
    Write,
}

const PLACES: [(Place, &str); 6] = [
    (Place::ReadCall, "read"),
    (Place::Read, "read"),
    (Place::Map, "decode"),
    (Place::Init, "tokenize"),
    (Place::Step, "tokenize"),
    (Place::Write, "write"),
];

/// An endless run through all kinds of stages, in which `act` is called at every place.
async fn through(
    engine: &Engine,
    act: impl Fn(Place) -> Result<(), BoxError> + Clone + Send + Sync + 'static,
) -> (Result<Report<u32>, FlowError>, usize) {
    let [read, map, init, step, write] = std::array::from_fn(|_| act.clone());
    let mut sink = Rows::new(move |_| {
        let write = write.clone();
        async move { write(Place::Write) }
    });
    let result = Flow::source(
        engine,
        "read",
        |_: &u64| 1,
        move |mut out: Emitter<u32, u64, u64>| {
            let early = read(Place::ReadCall);
            async move {
                early?;
                out.begin(Arc::new(0)).await?;
                for row in 0.. {
                    out.row(row).await?;
                    if row == 20 {
                        read(Place::Read)?;
                    }
                }
                Ok(())
            }
        },
    )
    .map("decode", 3, move |row| {
        if row == 20 {
            map(Place::Map).unwrap();
        }
        vec![Ok(row)]
    })
    .batch(4)
    .device(
        "tokenize",
        move || init(Place::Init),
        move |(), batch: Vec<u64>| {
            if batch.contains(&20) {
                step(Place::Step)?;
            }
            Ok(batch)
        },
    )
    .sink("write", &mut sink)
    .await;
    (result, sink.abandoned)
}

#[test]
fn a_panic_in_any_stage_is_an_error_that_names_it() {
    for (place, name) in PLACES {
        // Again and again: which thread notices first is a race that the panic must always win.
        for _ in 0..20 {
            let engine = engine(1000, 2);
            let (result, abandoned) = run(through(&engine, move |here| {
                assert!(here != place, "boom at {place:?}");
                Ok(())
            }));
            match result {
                Err(FlowError::Panicked { stage, message }) => {
                    assert_eq!((stage, message), (name, format!("boom at {place:?}")));
                }
                other => panic!("{place:?}: {other:?}"),
            }
            assert_eq!(abandoned, 1);
            assert_clean(&engine);
            assert!(engine.is_stopped());
        }
    }
}

#[test]
fn an_error_of_any_stage_is_the_runs_and_names_it() {
    for (place, name) in PLACES.into_iter().filter(|(place, _)| *place != Place::Map) {
        let engine = engine(1000, 2);
        let (result, abandoned) =
            run(through(
                &engine,
                move |here| if here == place { Err(format!("no luck at {place:?}").into()) } else { Ok(()) },
            ));
        let error = result.unwrap_err();
        assert_eq!(error.source().unwrap().to_string(), format!("no luck at {place:?}"));
        match error {
            FlowError::Init { stage, .. } => assert_eq!((place, stage), (Place::Init, name)),
            FlowError::Failed { stage, .. } => assert_eq!(stage, name),
            other => panic!("{place:?}: {other:?}"),
        }
        assert_eq!(abandoned, 1);
        assert_clean(&engine);
    }
}

#[test]
fn a_device_that_cannot_start_ends_the_run_before_any_unit() {
    let engine = engine(1000, 2);
    let read = Arc::new(AtomicBool::new(false));
    let reading = read.clone();
    let mut sink = Rows::new(|_| async { Ok(()) });
    let result = run(Flow::source(
        &engine,
        "read",
        |_: &u64| 1,
        move |out| {
            reading.store(true, Ordering::Relaxed);
            endless(out)
        },
    )
    .batch(2)
    .device("good", || Ok(()), |(), batch: Vec<u64>| Ok(batch))
    .batch(2)
    .device("bad", || Err::<(), _>("no such device".into()), |(), batch: Vec<u64>| Ok(batch))
    .sink("write", &mut sink));
    assert!(matches!(result, Err(FlowError::Init { stage: "bad", .. })), "{result:?}");
    assert!(!read.load(Ordering::Relaxed));
    assert_eq!(sink.begun, 0);
    assert_clean(&engine);
}

#[test]
fn a_device_lives_and_dies_on_its_own_thread() {
    type Places = Arc<Mutex<Vec<(&'static str, std::thread::ThreadId)>>>;
    fn note(places: &Places, what: &'static str) {
        places.lock().unwrap().push((what, std::thread::current().id()));
    }
    /// Neither `Send` nor `Sync`.
    struct Model(Places, std::marker::PhantomData<*const ()>);
    impl Drop for Model {
        fn drop(&mut self) {
            note(&self.0, "drop");
        }
    }
    let places = Places::default();
    let init = places.clone();
    let engine = engine(1000, 2);
    run(Flow::source(
        &engine,
        "read",
        |_: &u64| 1,
        |mut out: Emitter<u32, u64, u64>| async move {
            out.begin(Arc::new(0)).await?;
            out.row(1).await?;
            out.end().await?;
            Ok(())
        },
    )
    .batch(2)
    .device(
        "tokenize",
        move || {
            note(&init, "init");
            Ok(Model(init, std::marker::PhantomData))
        },
        |model: &mut Model, batch: Vec<u64>| {
            note(&model.0, "step");
            Ok(batch)
        },
    )
    .sink("write", Log::default()))
    .unwrap();
    let places = places.lock().unwrap();
    assert_eq!(places.iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["init", "step", "drop"]);
    assert!(places.iter().all(|(_, thread)| *thread == places[0].1 && *thread != std::thread::current().id()));
}

#[test]
fn an_aborted_unit_is_reported_and_the_run_goes_on() {
    let engine = engine(1000, 2);
    let mut log = Log::default();
    let report = run(Flow::source(
        &engine,
        "read",
        |_: &u64| 1,
        |mut out: Emitter<u32, u64, u64>| async move {
            for unit in 0..3 {
                out.begin(Arc::new(unit)).await?;
                for row in 0..3 {
                    out.row(u64::from(unit) * 10 + row).await?;
                }
                if unit == 1 { out.abort(std::io::Error::other("connection reset")).await? } else { out.end().await? }
            }
            Ok(())
        },
    )
    .batch(2)
    .device("tokenize", || Ok(()), |(), batch: Vec<u64>| Ok(batch))
    .sink("write", &mut log))
    .unwrap();
    use Seen::{Abort, Begin, End, Finish, Row};
    let unit = |n: u32, rows: &[u64]| [vec![Begin(n)], rows.iter().map(|&row| Row(row)).collect()].concat();
    let lost = [unit(1, &[10, 11]), vec![Abort(1, "connection reset".into())]].concat();
    let kept = |n, rows| [unit(n, rows), vec![End(n)]].concat();
    assert_eq!(log.0, [kept(0, &[0, 1, 2]), lost, kept(2, &[20, 21, 22]), vec![Finish]].concat());
    assert_eq!((report.units_ended, report.aborted.len(), report.rows), (2, 1, 8));
    assert_eq!((*report.aborted[0].unit, report.aborted[0].error.to_string()), (1, "connection reset".to_owned()));
}

/// The error of a source that does what `read` does, and the engine it ran on.
fn broken<Fut>(read: impl FnOnce(Emitter<u32, u64, u64>) -> Fut + Send + 'static) -> String
where
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let engine = engine(1000, 2);
    let result = run(Flow::source(&engine, "read", |_: &u64| 1, read).sink("write", Log::default()));
    assert_clean(&engine);
    result.unwrap_err().to_string()
}

#[test]
fn events_in_a_wrong_order_are_the_sources_error() {
    let rule = |what: &str| format!("stage `read` broke the flow's rules: {what}");
    assert_eq!(broken(|mut out| async move { Ok(out.row(1).await?) }), rule("it sent a row outside a unit"));
    assert_eq!(broken(|mut out| async move { Ok(out.reject(1).await?) }), rule("it sent a reject outside a unit"));
    assert_eq!(broken(|mut out| async move { Ok(out.end().await?) }), rule("it ended a unit that was not begun"));
    assert_eq!(
        broken(|mut out| async move { Ok(out.abort("x").await?) }),
        rule("it aborted a unit that was not begun")
    );
    assert_eq!(broken(|mut out| async move { Ok(out.begin(Arc::new(1)).await?) }), rule("it left a unit open"));
    let twice = broken(|mut out| async move {
        out.begin(Arc::new(1)).await?;
        Ok(out.begin(Arc::new(2)).await?)
    });
    assert_eq!(twice, rule("it began a unit inside a unit"));
    let kept = broken(|out| async move {
        tokio::spawn(async move {
            let _out = out;
            std::future::pending::<()>().await;
        });
        Ok(())
    });
    assert_eq!(kept, rule("it returned, but its emitter was not dropped"));
}

#[test]
fn an_error_inside_a_unit_is_not_mistaken_for_an_open_unit() {
    let failed = broken(|mut out| async move {
        out.begin(Arc::new(1)).await?;
        Err("the list is gone".into())
    });
    assert_eq!(failed, "stage `read` failed");
}

#[test]
fn a_device_that_loses_rows_breaks_the_run() {
    let engine = engine(1000, 2);
    let result = run(Flow::source(&engine, "read", |_: &u64| 1, endless)
        .batch(4)
        .device(
            "tokenize",
            || Ok(()),
            |(), mut batch: Vec<u64>| {
                batch.pop();
                Ok(batch)
            },
        )
        .sink("write", Log::default()));
    let message = "stage `tokenize` broke the flow's rules: it was given a batch of 4 rows and returned 3";
    assert_eq!(result.unwrap_err().to_string(), message);
    assert_clean(&engine);
}

#[test]
fn an_engine_carries_one_flow() {
    let engine = engine(1000, 2);
    let flow = || {
        Flow::source(&engine, "read", |_: &u64| 1, |_: Emitter<u32, u64, u64>| async { Ok(()) })
            .sink("write", Log::default())
    };
    assert_eq!(run(flow()).unwrap().rows, 0);
    assert!(matches!(run(flow()), Err(FlowError::Protocol { stage: "write", .. })));
}
