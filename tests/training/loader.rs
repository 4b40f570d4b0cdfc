//! Batches of latents: every row once an epoch, in an order that depends on nothing but seed, epoch and step.

use crate::tables_support::{dataset, provenance, rows};
use imagebart::tables::{LatentsReader, Manifest, OutputDir, Provenance, UnitWriter};
use imagebart::training::{Batch, Loader, LoaderError, LoaderOptions, Position};
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Writes latents whose first two tokens number their rows, and opens them.
async fn latents(units: &[u64], first: u64, provenance: Provenance) -> LatentsReader {
    let dir = OutputDir::new(Arc::new(InMemory::new()), Path::from("x"), None);
    let names: Vec<String> = (0..units.len()).map(|unit| format!("{unit:03}.tar")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let provenance = Arc::new(provenance);
    dir.begin(&Manifest::new(&provenance, dataset(&names))).await.unwrap();
    let mut number = first;
    for (unit, samples) in names.iter().zip(units) {
        let mut writer = UnitWriter::create(&dir, &provenance, *unit).unwrap();
        for mut row in rows(&provenance, *samples) {
            (row.tokens[0], row.tokens[1]) = ((number / 1000) as u16, (number % 1000) as u16);
            row.label = Some(number as i32);
            row.caption = Some(format!("row {number}"));
            writer.row(row).await.unwrap();
            number += 1;
        }
        writer.commit().await.unwrap();
    }
    LatentsReader::open(dir).await.unwrap()
}

fn runtime(workers: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

fn options(batch: usize) -> LoaderOptions {
    LoaderOptions { seed: 3, batch, window_rows: 20, ahead: 1 }
}

fn open(units: &[u64], options: LoaderOptions, runtime: &tokio::runtime::Runtime) -> Arc<Loader> {
    let tokenizer = provenance(1024).identity.tokenizer;
    runtime.block_on(async {
        let sources = vec![latents(units, 0, provenance(1024)).await];
        Arc::new(Loader::open(sources, &tokenizer, options).await.unwrap())
    })
}

/// The first `count` batches from `position` on.
fn batches(loader: &Arc<Loader>, position: Position, count: usize, runtime: &tokio::runtime::Runtime) -> Vec<Batch> {
    let _guard = runtime.enter();
    let mut feed = loader.train(position);
    (0..count).map(|_| feed.next_batch().unwrap().expect("training never ends")).collect()
}

fn numbers(batch: &Batch) -> Vec<i32> {
    let tokens = batch.tokens.len() / batch.len();
    for (row, label) in batch.labels.iter().enumerate() {
        let number = i32::from(batch.tokens[row * tokens]) * 1000 + i32::from(batch.tokens[row * tokens + 1]);
        assert_eq!(Some(number), *label, "tokens and labels are of one row");
        assert_eq!(batch.captions[row].as_deref(), Some(format!("row {number}").as_str()));
    }
    batch.labels.iter().map(|label| label.unwrap()).collect()
}

#[test]
fn an_epoch_has_every_row_once_and_the_next_another_order() {
    let runtime = runtime(2);
    // Two rows a sample: 74 rows, of which batches of 8 leave 2.
    let loader = open(&[5, 0, 9, 3, 12, 8], options(8), &runtime);
    assert_eq!((loader.rows(), loader.steps()), (74, 9));
    let all = batches(&loader, Position::default(), 18, &runtime);
    let epochs: Vec<Vec<i32>> = all.chunks(9).map(|epoch| epoch.iter().flat_map(numbers).collect()).collect();
    for (number, epoch) in epochs.iter().enumerate() {
        assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 72);
        assert!(
            all[9 * number..9 * number + 9]
                .iter()
                .zip(0..)
                .all(|(batch, step)| { batch.position == Position { epoch: number as u64, step } })
        );
        assert!(epoch.windows(2).any(|pair| pair[0] > pair[1]));
    }
    assert_ne!(epochs[0], epochs[1]);
    // Every row has random numbers of its own, in each epoch others.
    let keys: BTreeSet<String> = all.iter().flat_map(|batch| &batch.rows).map(|key| format!("{key:?}")).collect();
    assert_eq!(keys.len(), 144);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// From any position on the batches are those that a run from the beginning sees there, whatever reads them.
    #[test]
    fn a_run_that_goes_on_sees_the_same_batches(
        units in prop::collection::vec(0..14u64, 1..8),
        batch in 1..9usize,
        from in 0..60u64,
        workers in 1..4usize,
        ahead in 0..4usize,
    ) {
        prop_assume!(units.iter().sum::<u64>() * 2 >= batch as u64);
        let (one, many) = (runtime(1), runtime(workers));
        let loader = open(&units, options(batch), &one);
        let steps = loader.steps();
        let whole = batches(&loader, Position::default(), from as usize + 5, &one);
        let other = open(&units, LoaderOptions { ahead, ..options(batch) }, &many);
        for position in [Position { epoch: from / steps, step: from % steps }, Position { epoch: 0, step: from }] {
            prop_assert_eq!(&whole[from as usize..], &batches(&other, position, 5, &many)[..]);
        }
    }
}

#[test]
fn a_single_pass_has_every_row_in_order() {
    let runtime = runtime(2);
    let loader = open(&[5, 0, 9, 3], options(8), &runtime);
    let _guard = runtime.enter();
    let mut feed = loader.once();
    let mut all = Vec::new();
    while let Some(batch) = feed.next_batch().unwrap() {
        all.push(numbers(&batch));
    }
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 8, 8, 2]);
    assert_eq!(all.concat(), (0..34).collect::<Vec<i32>>());
    assert!(feed.next_batch().unwrap().is_none());
}

#[test]
fn sources_are_mixed_and_must_fit() {
    let runtime = runtime(2);
    let tokenizer = provenance(1024).identity.tokenizer;
    runtime.block_on(async {
        let open = |sources, batch| Loader::open(sources, &tokenizer, options(batch));
        let (one, two) = (latents(&[6], 0, provenance(1024)).await, latents(&[7], 12, provenance(1024)).await);
        let loader = Arc::new(open(vec![one, two], 13).await.unwrap());
        let seen = tokio::task::spawn_blocking({
            let loader = loader.clone();
            let handle = tokio::runtime::Handle::current();
            move || {
                let _guard = handle.enter();
                let mut feed = loader.train(Position::default());
                (0..2).flat_map(|_| numbers(&feed.next_batch().unwrap().unwrap())).collect::<BTreeSet<i32>>()
            }
        });
        assert_eq!(seen.await.unwrap(), (0..26).collect());

        let text = |result: Result<Loader, LoaderError>| result.err().expect("refused").to_string();
        let mut other = provenance(1024);
        other.identity.tokenizer = "beef".repeat(16);
        let refused = text(open(vec![latents(&[6], 0, other).await], 2).await);
        assert!(refused.contains("were made by the tokenizer beefbeef"), "{refused}");
        let sources = vec![latents(&[6], 0, provenance(1024)).await, latents(&[6], 0, provenance(2000)).await];
        let refused = text(open(sources, 2).await);
        assert!(refused.contains("codebook_size: 2000 here, 1024 recorded"), "{refused}");
        let refused = text(open(vec![latents(&[6], 0, provenance(1024)).await], 13).await);
        assert!(refused.contains("12 rows of latents make no batch of 13"), "{refused}");
        assert!(text(open(Vec::new(), 1).await).contains("no latents"));
    });
}

#[test]
fn damage_ends_the_feed_with_its_reason() {
    let runtime = runtime(2);
    let root = tempfile::tempdir().unwrap();
    let loader = runtime.block_on(async {
        let dir = OutputDir::local(root.path()).unwrap();
        let provenance = Arc::new(provenance(1024));
        dir.begin(&Manifest::new(&provenance, dataset(&["a.tar"]))).await.unwrap();
        crate::tables_support::write_unit(&dir, &provenance, "a.tar", 40).await.unwrap();
        let sources = vec![LatentsReader::open(dir).await.unwrap()];
        Arc::new(Loader::open(sources, &provenance.identity.tokenizer, options(4)).await.unwrap())
    });
    std::fs::remove_file(root.path().join("latents/a.tar.parquet")).unwrap();
    let _guard = runtime.enter();
    let mut feed = loader.train(Position::default());
    assert!(feed.next_batch().unwrap_err().to_string().contains("a.tar.parquet"));
    assert!(feed.next_batch().unwrap().is_none());
}
