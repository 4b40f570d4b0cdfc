//! What the engine costs: nanoseconds a row through all kinds of stages, and the parallel map against a plain loop.
//!
//! `cargo bench --bench pipeline`. Rows of a real run take milliseconds each: the overhead should stay in microseconds.

use imagebart::flow::{BoxError, Emitter, Engine, EngineConfig, Flow, Report, Sink};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Takes rows and does nothing with them.
struct Nowhere;

impl Sink<u32, u64, u64> for Nowhere {
    async fn begin(&mut self, _unit: &Arc<u32>) -> Result<(), BoxError> {
        Ok(())
    }
    async fn row(&mut self, row: u64) -> Result<(), BoxError> {
        black_box(row);
        Ok(())
    }
    async fn reject(&mut self, _reject: u64) -> Result<(), BoxError> {
        Ok(())
    }
    async fn end(&mut self, _unit: &Arc<u32>) -> Result<(), BoxError> {
        Ok(())
    }
    async fn abort(&mut self, _unit: &Arc<u32>, _error: &BoxError) -> Result<(), BoxError> {
        Ok(())
    }
}

fn source(engine: &Engine, rows: u64) -> Flow<u32, u64, u64> {
    Flow::source(
        engine,
        "read",
        |_: &u64| 1000,
        move |mut out: Emitter<u32, u64, u64>| async move {
            out.begin(Arc::new(0)).await?;
            for row in 0..rows {
                out.row(row).await?;
            }
            out.end().await?;
            Ok(())
        },
    )
}

/// Some arithmetic that takes its time: xorshift, `rounds` times.
fn work(seed: u64, rounds: u64) -> u64 {
    (0..rounds).fold(seed | 1, |x, _| {
        let x = x ^ (x << 13);
        let x = x ^ (x >> 7);
        x ^ (x << 17)
    })
}

fn timed<X>(f: impl FnOnce() -> X) -> (Duration, X) {
    let start = Instant::now();
    let result = f();
    (start.elapsed(), result)
}

/// Median of five runs.
fn median(mut run: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<_> = (0..5).map(|_| run()).collect();
    times.sort();
    times[2]
}

fn main() -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let cpus = std::thread::available_parallelism()?.get();
    println!("cpus: {cpus}");

    let rows = 100_000;
    let full = |workers| -> Report<u32> {
        let engine = Engine::new(EngineConfig::default());
        let flow = source(&engine, rows).map("decode", workers, |row| vec![Ok(row)]).batch(8).device(
            "tokenize",
            || Ok(()),
            |(), batch: Vec<u64>| Ok(batch),
        );
        runtime.block_on(flow.sink("write", Nowhere)).expect("the flow runs")
    };
    for workers in [1, cpus] {
        let time = median(|| timed(|| full(workers)).0);
        let each = time.as_nanos() as f64 / rows as f64;
        println!("overhead, source -> map({workers}) -> batch(8) -> device -> sink: {each:.0} ns/row");
    }

    // Rows of about the cost of a small JPEG's decoding.
    let (rows, rounds) = (1000, 500_000);
    let (calibration, _) = timed(|| black_box(work(1, rounds)));
    println!("parallel map, rows of {:.2} ms:", calibration.as_secs_f64() * 1e3);
    let mapped = |workers| {
        let engine = Engine::new(EngineConfig::default());
        let flow = source(&engine, rows).map("decode", workers, move |row| vec![Ok(work(row, rounds))]);
        runtime.block_on(flow.sink("write", Nowhere)).expect("the flow runs")
    };
    for workers in [1, cpus] {
        // Alternating, so that a change of the machine's speed hits both sides.
        let mut ratios: Vec<f64> = (0..5)
            .map(|_| {
                let (plain, _) = timed(|| {
                    (0..rows).for_each(|row| {
                        black_box(work(black_box(row), rounds));
                    })
                });
                let (flow, _) = timed(|| mapped(workers));
                plain.as_secs_f64() / flow.as_secs_f64()
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!("  {workers} workers: {:.2}x a plain loop", ratios[2]);
    }
    println!("{}", mapped(cpus).bottleneck());
    Ok(())
}
