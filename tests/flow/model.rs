//! Random runs against a plain loop: the sink must see exactly what the loop produces.

use crate::support::{Log, Seen, assert_clean, engine, run};
use imagebart::flow::{Emitter, Flow};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
enum Item {
    Row(u64),
    Reject(u64),
}

/// One unit: what is in it, and whether it is aborted after that.
#[derive(Clone, Debug)]
struct Plan {
    items: Vec<Item>,
    aborted: bool,
}

#[derive(Clone, Debug)]
struct Setting {
    workers: usize,
    batch: usize,
    capacity: usize,
    budget: u64,
    /// Decides how often workers give way to each other.
    noise: u64,
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let item = prop_oneof![4 => (0u64..1000).prop_map(Item::Row), 1 => (0u64..1000).prop_map(Item::Reject)];
    let plan = (prop::collection::vec(item, 0..25), prop::bool::weighted(0.2));
    prop::collection::vec(plan.prop_map(|(items, aborted)| Plan { items, aborted }), 0..6)
}

fn settings() -> impl Strategy<Value = Setting> {
    let setting = (1usize..5, 1usize..7, 1usize..5, prop_oneof![Just(0u64), 1u64..40, Just(1 << 20)], any::<u64>());
    setting.prop_map(|(workers, batch, capacity, budget, noise)| Setting { workers, batch, capacity, budget, noise })
}

/// The map: none to three rows from one, some of them rejects. The unit's number rides in the upper bits.
fn spread(row: u64) -> Vec<Result<u64, u64>> {
    (0..row % 4).map(|i| if (row + i).is_multiple_of(5) { Err(row * 10 + i) } else { Ok(row * 10 + i) }).collect()
}

/// The device: rejects some rows.
fn step(row: u64) -> Result<u64, u64> {
    if row.is_multiple_of(7) { Err(row + 1) } else { Ok(row + 2) }
}

fn tagged(unit: usize, row: u64) -> u64 {
    unit as u64 * 1_000_000 + row
}

/// What the device and the sink should see: a loop, with a batch that rejects overtake.
fn expected(plans: &[Plan], batch: usize) -> (Vec<Vec<u64>>, Vec<Seen>) {
    let (mut batches, mut seen) = (Vec::new(), Vec::new());
    for (unit, plan) in plans.iter().enumerate() {
        let mut filling = Vec::new();
        let mut flush = |filling: &mut Vec<u64>, seen: &mut Vec<Seen>| {
            if !filling.is_empty() {
                seen.extend(filling.iter().map(|&row| step(row).map_or_else(Seen::Reject, Seen::Row)));
                batches.push(std::mem::take(filling));
            }
        };
        seen.push(Seen::Begin(unit as u32));
        for item in &plan.items {
            let outcomes = match item {
                Item::Row(row) => spread(tagged(unit, *row)),
                Item::Reject(reject) => vec![Err(*reject)],
            };
            for outcome in outcomes {
                match outcome {
                    Err(reject) => seen.push(Seen::Reject(reject)),
                    Ok(row) => filling.push(row),
                }
                if filling.len() == batch {
                    flush(&mut filling, &mut seen);
                }
            }
        }
        if plan.aborted {
            seen.push(Seen::Abort(unit as u32, "the shard is gone".to_owned()));
        } else {
            flush(&mut filling, &mut seen);
            seen.push(Seen::End(unit as u32));
        }
    }
    seen.push(Seen::Finish);
    (batches, seen)
}

async fn emit(plans: Vec<Plan>, mut out: Emitter<u32, u64, u64>) -> Result<(), imagebart::flow::BoxError> {
    for (unit, plan) in plans.into_iter().enumerate() {
        out.begin(Arc::new(unit as u32)).await?;
        for item in plan.items {
            match item {
                Item::Row(row) => out.row(tagged(unit, row)).await?,
                Item::Reject(reject) => out.reject(reject).await?,
            }
        }
        if plan.aborted { out.abort("the shard is gone").await? } else { out.end().await? }
    }
    Ok(())
}

fn check(plans: &[Plan], setting: &Setting) -> Result<(), TestCaseError> {
    let engine = engine(setting.budget, setting.capacity);
    let (seen_batches, random) = (Arc::new(Mutex::new(Vec::new())), AtomicU64::new(setting.noise | 1));
    let (batches, input) = (seen_batches.clone(), plans.to_vec());
    let mut log = Log::default();
    // Costs up to 30: often more than the budget.
    let report = run(Flow::source(&engine, "read", |row: &u64| row % 31, |out| emit(input, out))
        .map("decode", setting.workers, move |row| {
            let turns = random.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed).rotate_left(17) % 8;
            (0..turns).for_each(|_| std::thread::yield_now());
            spread(row)
        })
        .batch(setting.batch)
        .device_rows(
            "tokenize",
            || Ok(()),
            move |(), batch: Vec<u64>| {
                batches.lock().unwrap().push(batch.clone());
                Ok(batch.into_iter().map(step).collect())
            },
        )
        .sink("write", &mut log))
    .map_err(|error| TestCaseError::fail(error.to_string()))?;

    let (batches, seen) = expected(plans, setting.batch);
    prop_assert_eq!(&*seen_batches.lock().unwrap(), &batches);
    prop_assert_eq!(&log.0, &seen);
    let count = |wish: fn(&Seen) -> bool| seen.iter().filter(|seen| wish(seen)).count() as u64;
    prop_assert_eq!(report.rows, count(|seen| matches!(seen, Seen::Row(_))));
    prop_assert_eq!(report.rejects, count(|seen| matches!(seen, Seen::Reject(_))));
    prop_assert_eq!(report.units_ended, count(|seen| matches!(seen, Seen::End(_))));
    prop_assert_eq!(report.aborted.len(), plans.iter().filter(|plan| plan.aborted).count());
    prop_assert!(report.stats.peak <= setting.budget, "{} of {}", report.stats.peak, setting.budget);
    assert_clean(&engine);
    prop_assert!(!engine.is_stopped());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_sink_sees_what_a_plain_loop_produces(plans in plans(), setting in settings()) {
        check(&plans, &setting)?;
    }

    /// Batches of batches, and a map over whole batches: permits of many rows in one event.
    #[test]
    fn nested_batches_never_starve_each_other(rows in 0u64..60, inner in 1usize..5, outer in 1usize..5, budget in 0u64..30) {
        let engine = engine(budget, 1);
        let mut log = Log::default();
        let report = run(Flow::source(&engine, "read", |_: &u64| 7, move |mut out: Emitter<u32, u64, u64>| async move {
            out.begin(Arc::new(0)).await?;
            for row in 0..rows {
                out.row(row).await?;
            }
            out.end().await?;
            Ok(())
        })
        .batch(inner)
        .map("whole", 2, |batch: Vec<u64>| vec![Ok(batch)])
        .batch(outer)
        .map("apart", 2, |batches: Vec<Vec<u64>>| batches.into_iter().flatten().map(Ok).collect())
        .batch(inner)
        .device("device", || Ok(()), |(), batch: Vec<u64>| Ok(batch))
        .sink("write", &mut log)).unwrap();
        let written: Vec<u64> = log.0.iter().filter_map(|seen| match seen { Seen::Row(row) => Some(*row), _ => None }).collect();
        prop_assert_eq!(written, (0..rows).collect::<Vec<_>>());
        prop_assert!(report.stats.peak <= budget);
        assert_clean(&engine);
    }
}
