//! Features: how images are prepared, what a network must give, and what becomes of a set's statistics.

use super::reference::{features, picture};
use super::script::{module, twice};
use imagebart::evaluate::{
    Collector, FeatureInput, FeatureNetwork, FeatureResize, Features, NetworkError, Published, Statistics,
};
use imagebart::imaging::Rgb;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

type Error = Box<dyn std::error::Error>;

fn input(resize: FeatureResize, size: u32) -> FeatureInput {
    FeatureInput { resize, size, mean: vec![0.0], std: vec![1.0], flags: Vec::new() }
}

#[test]
fn images_are_resized_as_others_do() -> Result<(), Error> {
    let root = tempfile::tempdir()?;
    let file = root.path().join("pixels.pt");
    module(&file, 9, |images| images.permute([0, 2, 3, 1]).flatten(1, -1) * 255.0);
    let original = picture("original")?;
    for (resize, name) in [(FeatureResize::Clean, "clean"), (FeatureResize::Legacy, "legacy")] {
        let network = FeatureNetwork::load(&file, input(resize, 9), 24, Device::Cpu)?;
        let found = network.features(&[&original])?.features;
        let error = (found.view([9, 9, 3]) - features(name)?).abs().max().double_value(&[]);
        assert!(error < 2e-3, "{name}: off by {error}");
        // Images of other sizes, in one batch.
        let small = Rgb { width: 9, height: 9, pixels: vec![7; 9 * 9 * 3] };
        let both = network.features(&[&original, &small])?.features;
        assert!((both.get(1) - 7.0).abs().max().double_value(&[]) < 1e-4);
    }
    let plain = FeatureNetwork::load(&file, input(FeatureResize::None, 9), 24, Device::Cpu)?;
    let small = Rgb { width: 9, height: 9, pixels: vec![7; 9 * 9 * 3] };
    assert!(matches!(plain.features(&[&original, &small]), Err(NetworkError::Sizes { .. })));
    Ok(())
}

#[test]
fn pixels_are_normalised_by_channel() -> Result<(), Error> {
    let root = tempfile::tempdir()?;
    let file = root.path().join("means.pt");
    module(&file, 4, |images| images.mean_dim([2i64, 3].as_slice(), true, Kind::Float));
    twice(&file);
    let input = FeatureInput { mean: vec![0.2, 0.4, 0.6], std: vec![0.5, 0.25, 0.1], ..input(FeatureResize::None, 4) };
    let network = FeatureNetwork::load(&file, input, 4, Device::Cpu)?;
    assert_eq!((network.dims(), network.classes(), network.fingerprint().len()), (3, Some(3), 64));
    let image = Rgb { width: 4, height: 4, pixels: [51, 102, 255].repeat(16) };
    let Features { features, logits } = network.features(&[&image, &image])?;
    for (channel, expected) in [(0, 0.0), (1, 0.0), (2, 4.0)] {
        assert!((features.double_value(&[1, channel]) - expected).abs() < 1e-5);
    }
    assert_eq!(logits.ok_or("no logits")?.size(), [2, 3]);
    Ok(())
}

#[test]
fn what_gives_no_features_is_refused() -> Result<(), Error> {
    let root = tempfile::tempdir()?;
    let file = root.path().join("wrong.pt");
    let load = || FeatureNetwork::load(&file, input(FeatureResize::Clean, 8), 8, Device::Cpu);
    let refused = || load().map(drop).unwrap_err().to_string();
    assert!(refused().contains("cannot open the feature network"));
    std::fs::write(&file, "nothing")?;
    assert!(refused().contains("is not a TorchScript module"));
    module(&file, 8, |images| images.sum(Kind::Float));
    assert!(refused().contains("its features for 2 images have the shape []"), "{}", refused());
    module(&file, 4, |images| images.view([-1, 48]));
    assert!(refused().contains("must take a batch of images"), "{}", refused());
    Ok(())
}

#[test]
fn statistics_come_back_with_the_same_facts_alone() -> Result<(), Error> {
    let root = tempfile::tempdir()?;
    let file = root.path().join("statistics.safetensors");
    let rows = features("real")?;
    let mut collector = Collector::new(16, Device::Cpu)?;
    for features in rows.chunk(3, 0) {
        collector.add(&Features { features, logits: None })?;
    }
    let facts = |resize: &str| BTreeMap::from([("resize".to_owned(), resize.to_owned())]);
    let statistics = collector.finish()?;
    statistics.write(&file, &facts("clean"))?;
    let read = Statistics::read(&file, &facts("clean"))?;
    assert_eq!(read.gaussian.rows, Some(80));
    assert_eq!(read.features.as_ref(), Some(&rows));
    assert_eq!(read.gaussian.covariance, statistics.gaussian.covariance);
    let refused = Statistics::read(&file, &facts("legacy")).unwrap_err().to_string();
    assert!(refused.contains("resize is clean there, legacy here"), "{refused}");

    let published = root.path().join("published.npz");
    let Statistics { gaussian, .. } = statistics;
    Tensor::write_npz(&[("mu", &gaussian.mean), ("sigma", &gaussian.covariance)], &published)?;
    let Published::Statistics(found) = Published::read(&published)? else { return Err("no statistics".into()) };
    assert_eq!((found.mean, found.rows), (gaussian.mean, None));
    let images = Tensor::zeros([2, 5, 4, 3], (Kind::Uint8, Device::Cpu));
    Tensor::write_npz(&[("arr_0", &images)], &published)?;
    let Published::Images(found) = Published::read(&published)? else { return Err("no images".into()) };
    assert_eq!(found.size(), [2, 5, 4, 3]);
    Tensor::write_npz(&[("other", &images)], &published)?;
    assert!(Published::read(&published).unwrap_err().to_string().contains("neither mu and sigma nor arr_0, but other"));
    std::fs::write(&published, "no zip")?;
    assert!(Published::read(&published).unwrap_err().to_string().contains("is not a file of feature statistics"));
    Ok(())
}
