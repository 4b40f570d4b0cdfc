//! Real crops through the reference tokenizer give the reference token grids.

use crate::skip;

use imagebart::imaging::{Limits, decode};
use imagebart::random::RowKey;
use imagebart::torch::weights::WeightsFile;
use imagebart::vqgan::{Tokenizer, TokenizerOptions};
use std::path::PathBuf;

fn folder(test: &str, variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        skip::skipped(format_args!("{test}: {variable} is not set"));
    }
    folder
}

#[test]
fn reference_crops_give_the_reference_tokens() {
    let test = "reference_crops_give_the_reference_tokens";
    let Some(data) = folder(test, "IMAGEBART_DATA_DIR") else { return };
    let Some(tokens) = folder(test, "IMAGEBART_TOKENS_DIR") else { return };
    let path = tokens.join("tokenizer.safetensors");
    let tokenizer = Tokenizer::load(path, None, TokenizerOptions::default()).unwrap();
    assert_eq!(tokenizer.codebook_size(), 230);
    let mut reference = WeightsFile::open(tokens.join("tokens.safetensors")).unwrap();
    let names: Vec<String> =
        reference.names().filter_map(|name| name.strip_prefix("tokens.")).map(str::to_owned).collect();
    assert_eq!(names.len(), 40);

    let (mut known, mut equal) = (0, 0);
    for batch in names.chunks(8) {
        let crops: Vec<Vec<u8>> = batch
            .iter()
            .map(|name| std::fs::read(data.join("reference/center_bicubic256").join(name)).unwrap())
            .map(|bytes| decode(&bytes, &Limits::default()).unwrap().pixels)
            .collect();
        let images: Vec<&[u8]> = crops.iter().map(Vec::as_slice).collect();
        let rows: Vec<RowKey> = (0..images.len() as u64).map(|index| RowKey::new(0, "reference", index, 0)).collect();
        let ours = tokenizer.encode(&images, (256, 256), &rows).unwrap();
        for (name, ours) in batch.iter().zip(ours) {
            let expected = reference.read(&format!("tokens.{name}")).unwrap();
            assert_eq!(expected.size(), [16, 16]);
            let expected = Vec::<i64>::try_from(expected.flatten(0, -1)).unwrap();
            assert_eq!(ours.len(), expected.len());
            assert!(ours.iter().all(|&token| token < 230));
            let pairs = || ours.iter().zip(&expected).filter(|&(_, &expected)| expected >= 0);
            known += pairs().count();
            equal += pairs().filter(|&(&ours, &expected)| i64::from(ours) == expected).count();
        }
    }
    eprintln!("{equal} of {known} tokens that are no outliers are equal");
    assert!(equal as f64 >= 0.999 * known as f64);
}
