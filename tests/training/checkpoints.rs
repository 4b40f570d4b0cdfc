//! Checkpoints: the newest whole one is gone on with, whatever a killed or failing run left beside it.

use imagebart::tables::OutputDir;
use imagebart::training::{Checkpoint, CheckpointError, Checkpoints, RunFolder};
use object_store::path::Path;
use object_store::{ObjectStore, memory::InMemory};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::Tensor;

fn identity(dim: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("dim".to_owned(), dim.to_owned()), ("seed".to_owned(), "1".to_owned())])
}

fn checkpoint(step: u64) -> Checkpoint {
    let tensors = BTreeMap::from([
        ("weights.a".to_owned(), Tensor::from_slice(&[step as f32, 0.5])),
        ("optimizer.a.steps".to_owned(), Tensor::from_slice(&[step as i32])),
    ]);
    Checkpoint { step, tensors, facts: json!({"epoch": step / 10}).as_object().unwrap().clone() }
}

fn folder(store: Arc<dyn ObjectStore>) -> RunFolder {
    RunFolder::of(&OutputDir::new(store, Path::from("run"), None)).below("scale-1")
}

async fn open(folder: &RunFolder, keep: u32) -> Checkpoints {
    Checkpoints::open(folder.clone(), identity("8"), keep).await.unwrap()
}

async fn newest(folder: &RunFolder) -> Option<u64> {
    open(folder, 2).await.latest().await.unwrap().map(|found| found.step)
}

#[tokio::test]
async fn the_last_and_the_best_are_kept() {
    let local = tempfile::tempdir().unwrap();
    let on_disk = RunFolder::of(&OutputDir::local(local.path()).unwrap()).below("scale-1");
    for folder in [folder(Arc::new(InMemory::new())), on_disk] {
        let checkpoints = open(&folder, 2).await;
        assert!(checkpoints.latest().await.unwrap().is_none());
        for (step, loss) in [(10, Some(3.0)), (20, Some(2.0)), (30, Some(2.5)), (40, None), (50, Some(f64::NAN))] {
            checkpoints.save(&checkpoint(step), loss).await.unwrap();
        }
        assert_eq!(checkpoints.best(), Some((20, 2.0)));
        let names = ["20", "40", "50"]
            .map(|step| [format!("step-00000000{step}.json"), format!("step-00000000{step}.safetensors")]);
        assert_eq!(folder.names().await.unwrap(), names.concat());

        let again = open(&folder, 2).await;
        let found = again.latest().await.unwrap().unwrap();
        assert_eq!((found.step, found.facts["epoch"].as_u64()), (50, Some(5)));
        assert_eq!(found.tensors["weights.a"], Tensor::from_slice(&[50.0f32, 0.5]));
        assert_eq!(found.tensors["optimizer.a.steps"], Tensor::from_slice(&[50i32]));
        assert_eq!((again.best(), again.load(20).await.unwrap().step), (Some((20, 2.0)), 20));
        // One that is written again replaces what was there.
        again.save(&checkpoint(50), Some(1.0)).await.unwrap();
        assert_eq!((again.best(), newest(&folder).await), (Some((50, 1.0)), Some(50)));
        Checkpoints::clear(&folder).await.unwrap();
        assert!(folder.names().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn half_written_ones_are_passed_over() {
    let folder = folder(Arc::new(InMemory::new()));
    let checkpoints = open(&folder, 3).await;
    for step in [10, 20, 30] {
        checkpoints.save(&checkpoint(step), None).await.unwrap();
    }
    let file = "step-0000000030.safetensors";
    let whole = folder.get(file).await.unwrap().unwrap();
    let mut flipped = whole.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [whole.slice(..whole.len() - 1).to_vec(), flipped, Vec::new()] {
        folder.put(file, damaged).await.unwrap();
        assert_eq!(newest(&folder).await, Some(20));
    }
    folder.delete(file).await.unwrap();
    assert_eq!(newest(&folder).await, Some(20));
    // Tensors whose record was never written are swept.
    folder.put("step-0000000040.safetensors", whole).await.unwrap();
    assert_eq!(newest(&folder).await, Some(20));
    assert!(!folder.names().await.unwrap().contains(&"step-0000000040.safetensors".to_owned()));

    for step in [10, 20] {
        folder.put(&format!("step-00000000{step}.safetensors"), vec![1, 2]).await.unwrap();
    }
    let message = open(&folder, 3).await.latest().await.unwrap_err().to_string();
    assert!(message.starts_with("no checkpoint at run/scale-1 is whole"), "{message}");
    assert_eq!(folder.names().await.unwrap().len(), 5, "nothing is deleted for it");
}

#[tokio::test]
async fn those_of_another_run_are_refused() {
    let folder = folder(Arc::new(InMemory::new()));
    open(&folder, 1).await.save(&checkpoint(10), None).await.unwrap();
    let error = Checkpoints::open(folder.clone(), identity("16"), 1).await.unwrap_err();
    assert!(matches!(error, CheckpointError::Other { .. }));
    assert!(error.to_string().contains("of another training run: dim: 16 here, 8 recorded; choose"), "{error}");
    folder.put("step-0000000010.json", "{").await.unwrap();
    let error = Checkpoints::open(folder, identity("8"), 1).await.unwrap_err();
    assert!(error.to_string().contains("run/scale-1/step-0000000010.json is damaged"), "{error}");
}

/// A checkpoint that the store does not take fails; the one before it is as it was.
#[tokio::test]
async fn a_failed_write_leaves_the_checkpoint_before() {
    let local = tempfile::tempdir().unwrap();
    let folder = RunFolder::of(&OutputDir::local(local.path()).unwrap()).below("scale-1");
    let checkpoints = open(&folder, 1).await;
    checkpoints.save(&checkpoint(10), Some(1.0)).await.unwrap();
    // No file can be renamed to the name of a folder that is not empty.
    let taken = local.path().join("scale-1/step-0000000020.safetensors");
    std::fs::create_dir_all(taken.join("x")).unwrap();
    let error = checkpoints.save(&checkpoint(20), None).await.unwrap_err().to_string();
    assert!(error.contains("step-0000000020.safetensors") && error.contains("those before it"), "{error}");
    assert_eq!((checkpoints.newest(), newest(&folder).await), (Some(10), Some(10)));
    checkpoints.save(&checkpoint(30), None).await.unwrap();
    assert_eq!(newest(&folder).await, Some(30));
}
