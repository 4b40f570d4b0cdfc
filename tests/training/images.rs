//! Batches of images: every image once an epoch, in an order that depends on nothing but seed, epoch and step.

use image::{ImageFormat, Rgb, RgbImage};
use imagebart::datasets::{DatasetOptions, Format, Unit, open};
use imagebart::imaging::{CropMode, Flip, Limits, Preprocess, Resize, Trim};
use imagebart::training::images::{Cursor, ImageBatch, ImageOptions, Images, ImagesError};
use std::collections::BTreeSet;
use std::io::Cursor as Bytes;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;

const SIDE: u32 = 4;

/// Pictures of one colour each, their number in it, and some files that are no pictures.
fn write(root: &Path, pictures: u8, broken: &[u8]) {
    for number in 0..pictures {
        let picture = RgbImage::from_pixel(7, 5, Rgb([number, 255 - number, 9]));
        let mut bytes = Bytes::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let bytes = if broken.contains(&number) { b"no picture".to_vec() } else { bytes.into_inner() };
        std::fs::write(root.join(format!("{number:03}.png")), bytes).unwrap();
    }
}

fn options() -> ImageOptions {
    ImageOptions { seed: 3, batch: 4, window: 6, workers: 2, budget: 1 << 20 }
}

fn images(root: &Path, options: ImageOptions, runtime: &Runtime) -> Images {
    let preprocess = Preprocess {
        size: SIDE,
        resize: Resize::PillowBox,
        crop: CropMode::Random,
        crops: 1,
        flip: Flip::Both,
        trim: Trim::None,
        limits: Limits::default(),
    };
    runtime.block_on(async {
        let settings = DatasetOptions { unit_rows: 5, ..DatasetOptions::default() };
        let reader = open(Format::Folder, root.to_str().unwrap(), settings).await.unwrap();
        let units: Vec<Arc<Unit>> = reader.units().await.unwrap().into_iter().map(Arc::new).collect();
        Images::new(reader, units, preprocess, options).unwrap()
    })
}

fn runtime(workers: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

/// The first `count` batches from `cursor` on.
fn batches(images: &Images, cursor: Cursor, count: usize, runtime: &Runtime) -> Vec<ImageBatch> {
    let _guard = runtime.enter();
    let mut feed = images.train(cursor);
    (0..count).map(|_| feed.next_batch().unwrap().expect("training never ends")).collect()
}

/// The numbers of a batch's pictures.
fn numbers(batch: &ImageBatch) -> Vec<u8> {
    let bytes = (SIDE * SIDE * 3) as usize;
    assert_eq!(batch.pixels.len(), batch.images * bytes);
    batch.pixels.chunks(bytes).map(|picture| picture[0]).collect()
}

#[test]
fn an_epoch_has_every_image_once_and_the_next_another_order() {
    let (root, runtime) = (tempfile::tempdir().unwrap(), runtime(2));
    write(root.path(), 27, &[3, 11]);
    let images = images(root.path(), options(), &runtime);
    // 25 images, of which batches of 4 leave one.
    let all = batches(&images, Cursor::default(), 12, &runtime);
    let epochs: Vec<Vec<u8>> = all.chunks(6).map(|epoch| epoch.iter().flat_map(numbers).collect()).collect();
    for (number, epoch) in epochs.iter().enumerate() {
        let different: BTreeSet<&u8> = epoch.iter().collect();
        assert_eq!((epoch.len(), different.len()), (24, 24), "{epoch:?}");
        assert!(!epoch.contains(&3) && !epoch.contains(&11));
        assert!(all[6 * number..6 * number + 6].iter().all(|batch| batch.next.epoch == number as u64));
    }
    assert_ne!(epochs[0], epochs[1]);
    // The image that is left over lies behind the last batch.
    let read = &all[11].read;
    assert_eq!((read.samples - read.rejected(), read.rejects["not_an_image"]), (49, read.rejected()));
    assert!((2..=4).contains(&read.rejected()), "{read:?}");
}

/// From any batch on the batches are those that a run from the beginning sees there, whatever reads them.
#[test]
fn a_run_that_goes_on_sees_the_same_batches() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 23, &[0, 7, 22]);
    let (one, many) = (runtime(1), runtime(3));
    let straight = batches(&images(root.path(), options(), &one), Cursor::default(), 16, &one);
    let other = images(root.path(), ImageOptions { workers: 5, budget: 1 << 16, ..options() }, &many);
    assert_eq!(straight, batches(&other, Cursor::default(), 16, &many));
    for (done, batch) in straight.iter().enumerate().take(12) {
        // As a checkpoint keeps it.
        let kept = serde_json::to_string(&batch.next).unwrap();
        let cursor: Cursor = serde_json::from_str(&kept).unwrap();
        assert_eq!(straight[done + 1..], batches(&other, cursor, 15 - done, &many), "after batch {done}");
    }
}

#[test]
fn a_single_pass_has_every_image_in_order() {
    let (root, runtime) = (tempfile::tempdir().unwrap(), runtime(2));
    write(root.path(), 11, &[4]);
    let images = images(root.path(), options(), &runtime).centred();
    let _guard = runtime.enter();
    let mut feed = images.once();
    let mut all = Vec::new();
    while let Some(batch) = feed.next_batch().unwrap() {
        all.push(numbers(&batch));
    }
    assert_eq!(all, [vec![0, 1, 2, 3], vec![5, 6, 7, 8], vec![9, 10]]);
}

#[test]
fn too_few_images_and_too_large_windows_are_told() {
    let (root, runtime) = (tempfile::tempdir().unwrap(), runtime(2));
    write(root.path(), 5, &[0, 1]);
    let few = images(root.path(), options(), &runtime);
    let _guard = runtime.enter();
    let error = few.train(Cursor::default()).next_batch().unwrap_err();
    assert!(matches!(error, ImagesError::TooFew { images: 3, batch: 4 }), "{error}");
}

/// Crops and mirror images are others in another epoch: of a picture whose pixels differ, an epoch shows one of several.
#[test]
fn crops_and_mirror_images_are_drawn_anew() {
    let (root, runtime) = (tempfile::tempdir().unwrap(), runtime(2));
    let picture = RgbImage::from_fn(20, 4, |x, _| Rgb([x as u8 * 10, 0, 0]));
    picture.save(root.path().join("one.png")).unwrap();
    let images = images(root.path(), ImageOptions { batch: 1, ..options() }, &runtime);
    let all = batches(&images, Cursor::default(), 40, &runtime);
    let places: BTreeSet<u8> = all.iter().map(|batch| batch.pixels[0].min(batch.pixels[9])).collect();
    let mirrored = all.iter().filter(|batch| batch.pixels[0] > batch.pixels[9]).count();
    assert!(places.len() > 8 && (8..32).contains(&mirrored), "{places:?}, {mirrored} mirrored");
}
