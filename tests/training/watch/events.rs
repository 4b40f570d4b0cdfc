//! Journals: what others read in them, and what is left of one when its run is killed.

use super::{Told, folder, history, told, train};
use imagebart::training::watch::{History, Journal};
use proptest::prelude::*;

#[tokio::test]
async fn every_value_is_told_once_and_in_order() {
    let folder = folder();
    train(&folder, 0, 25).await;
    let names = folder.names().await.unwrap();
    let expected = ["0000000000", "0000000010", "0000000020"];
    assert_eq!(names, expected.map(|start| format!("events.out.tfevents.{start}.imagebart")));
    let told = told(&folder).await;
    let losses: Vec<_> = told.iter().filter(|(_, name, _)| name == "train/loss").collect();
    // Step 25 was never flushed.
    assert_eq!(losses.len(), 24);
    for (step, loss) in (1..).zip(losses) {
        assert_eq!((loss.0, &loss.2), (step, &Told::Scalar((1.0 / step as f64) as f32)));
    }
    let pictures: Vec<_> = told.into_iter().filter(|(_, name, _)| name == "samples").collect();
    let picture = |step: i64| (step, "samples".to_owned(), Told::Picture(format!("picture of {step}").into(), 3, 2));
    assert_eq!(pictures, [7, 14, 21].map(picture));
}

#[tokio::test]
async fn values_that_are_no_numbers_are_told() {
    let folder = folder();
    let mut journal = Journal::open(folder.clone(), 0).await.unwrap();
    let odd = [f64::NAN, f64::INFINITY, -0.0, 1e300];
    for (step, value) in (1..).zip(odd) {
        journal.scalars(step, &[("x", value)]);
    }
    journal.flush().await.unwrap();
    let found: Vec<u32> = told(&folder)
        .await
        .into_iter()
        .map(|(_, _, told)| match told {
            Told::Scalar(value) => value.to_bits(),
            Told::Picture(..) => panic!("no picture was shown"),
        })
        .collect();
    assert_eq!(found, odd.map(|value| (value as f32).to_bits()));
    assert_eq!(history(&folder).await.series("x").len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Killed at any steps, each time gone on from a checkpoint that was there: the curves are those of an undisturbed run.
    #[test]
    fn a_resumed_run_has_the_curves_of_an_undisturbed_one(
        kills in prop::collection::vec((1..60u64, any::<prop::sample::Index>()), 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (undisturbed, killed) = (folder(), folder());
            train(&undisturbed, 0, 60).await;
            let mut from = 0;
            for (after, checkpoint) in kills {
                let end = (from + after).min(60);
                train(&killed, from, end).await;
                // The newest checkpoint may be damaged: any that was reached will do.
                from = checkpoint.index(end as usize / 10 + 1) as u64 * 10;
            }
            train(&killed, from, 60).await;
            assert_eq!(told(&killed).await, told(&undisturbed).await);
            assert_eq!(killed.names().await.unwrap(), undisturbed.names().await.unwrap());
            assert_eq!(history(&killed).await, history(&undisturbed).await);
        });
    }
}

#[tokio::test]
async fn a_checkpoint_within_a_segment_cuts_it() {
    let folder = folder();
    train(&folder, 0, 8).await;
    let mut journal = Journal::open(folder.clone(), 5).await.unwrap();
    journal.scalars(6, &[("train/loss", 6.0)]);
    journal.flush().await.unwrap();
    let history = history(&folder).await;
    let steps: Vec<u64> = history.series("train/loss").iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    assert_eq!(history.series("train/loss").last(), Some(&(6, 6.0)));
}

#[tokio::test]
async fn sealing_without_news_writes_nothing() {
    let folder = folder();
    let mut journal = Journal::open(folder.clone(), 0).await.unwrap();
    journal.seal(10).await.unwrap();
    journal.flush().await.unwrap();
    assert!(folder.names().await.unwrap().is_empty());
    journal.scalars(11, &[("x", 1.0)]);
    journal.seal(20).await.unwrap();
    journal.seal(20).await.unwrap();
    journal.scalars(20, &[("x", 2.0)]);
    journal.seal(20).await.unwrap();
    journal.scalars(20, &[("x", 3.0)]);
    journal.seal(30).await.unwrap();
    assert_eq!(history(&folder).await.series("x"), [(11, 1.0), (20, 2.0), (20, 3.0)]);
    let message = Journal::open(folder.clone(), 10_000_000_000).await.expect_err("refused").to_string();
    assert!(message.contains("10000000000"), "{message}");
}

/// Other files of the run are none of the journal's business.
#[tokio::test]
async fn other_files_are_left_alone() {
    let folder = folder();
    let others = ["events.out.tfevents.12.imagebart", "events.out.tfevents.1700000000.host", "model.safetensors"];
    for name in others {
        folder.put(name, "theirs").await.unwrap();
    }
    train(&folder, 0, 4).await;
    Journal::open(folder.clone(), 0).await.unwrap();
    assert_eq!(folder.names().await.unwrap(), others);
    assert_eq!(history(&folder).await, History::default());
}

#[tokio::test]
async fn of_broken_segments_what_can_be_read_is() {
    let whole = folder();
    train(&whole, 0, 30).await;
    let name = "events.out.tfevents.0000000010.imagebart";
    let file = whole.get(name).await.unwrap().unwrap();
    for cut in 0..file.len() {
        let folder = folder();
        train(&folder, 0, 30).await;
        folder.put(name, file.slice(..cut)).await.unwrap();
        let history = History::read(&folder).await.unwrap();
        let steps: Vec<u64> = history.series("train/loss").iter().map(|(step, _)| *step).collect();
        let (before, after) = (&steps[..10], &steps[steps.len() - 10..]);
        assert!(before.iter().eq(&(1..=10).collect::<Vec<_>>()) && after.iter().eq(&(21..=30).collect::<Vec<_>>()));
        assert!(history.problems.len() <= 1 && history.problems.iter().all(|problem| problem.starts_with(name)));
    }
    let mut flipped = file.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    whole.put(name, flipped).await.unwrap();
    let history = History::read(&whole).await.unwrap();
    assert_eq!(history.problems.len(), 1);
    assert!(history.series("train/loss").len() > 20);
    // A run that goes on behind the break tells it all again from its checkpoint on, and is whole again.
    train(&whole, 10, 30).await;
    assert_eq!(super::history(&whole).await.series("train/loss").len(), 30);
}

#[tokio::test]
async fn the_first_and_the_last_picture_are_kept() {
    let folder = folder();
    train(&folder, 0, 60).await;
    let pictures = &history(&folder).await.pictures["samples"];
    assert_eq!((pictures.first.step, pictures.last.step), (7, 56));
    assert_eq!((&pictures.last.file[..], pictures.last.width, pictures.last.height), (&b"picture of 56"[..], 3, 2));
}
