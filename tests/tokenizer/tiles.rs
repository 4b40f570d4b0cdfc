//! Tiles of a picture against the whole of it.

use imagebart::imaging::Rgb;
use imagebart::random::{Purpose, RowKey};
use imagebart::torch::weights::Weights;
use imagebart::vqgan::{Tiles, Tokenizer, TokenizerOptions, VqganConfig};

/// Two pixels a token, 64 codes, and as many groups in its norms.
fn tokenizer(norm_groups: i64) -> Tokenizer {
    let config: VqganConfig = serde_json::from_value(serde_json::json!({
        "ddconfig": {"double_z": false, "z_channels": 8, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
                     "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
                     "norm_groups": norm_groups},
        "embed_dim": 8, "n_embed": 64,
    }))
    .unwrap();
    let mut tensors = Weights::init(&config.tensors(), 5).unwrap().into_tensors();
    // Fresh networks give faint pictures.
    for (name, factor) in [("quantize.embedding.weight", 256.0), ("decoder.conv_out.weight", 8.0)] {
        let stronger = &tensors[name] * factor;
        tensors.insert(name.to_owned(), stronger);
    }
    if norm_groups == 0 {
        // The middle has attention; without its output it adds nothing.
        for part in ["weight", "bias"] {
            let _ = tensors.get_mut(&format!("decoder.mid.attn_1.proj_out.{part}")).unwrap().zero_();
        }
    }
    let weights = Weights::from_tensors("test weights", tensors).unwrap();
    Tokenizer::new(config, &weights, TokenizerOptions::default()).unwrap()
}

fn grid(index: u64, (rows, columns): (u32, u32)) -> Vec<u16> {
    let key = RowKey::new(1, "tiles", index, 0);
    (0..rows * columns).map(|at| key.below(Purpose::Init, at, 64) as u16).collect()
}

/// Two pictures, whole and in tiles, and the largest difference of their bytes.
fn both(tokenizer: &Tokenizer, size: (u32, u32), tiles: &Tiles) -> (Vec<Rgb>, u8) {
    let grids = [grid(0, size), grid(1, size)];
    let grids: Vec<&[u16]> = grids.iter().map(Vec::as_slice).collect();
    let whole = tokenizer.decode(&grids, size).unwrap();
    let tiled = tokenizer.decode_tiled(&grids, size, tiles).unwrap();
    let differences = whole.iter().zip(&tiled).flat_map(|(whole, tiled)| {
        assert_eq!((whole.width, whole.height), (tiled.width, tiled.height));
        whole.pixels.iter().zip(&tiled.pixels).map(|(whole, tiled)| whole.abs_diff(*tiled))
    });
    let largest = differences.max().unwrap();
    (tiled, largest)
}

#[test]
fn tiles_are_the_whole_picture_where_margins_are_as_wide_as_the_reach() {
    let tokenizer = tokenizer(0);
    assert_eq!(tokenizer.config().decoding_reach(), 12);
    let tiles = Tiles { size: (32, 30), overlap: 26, margin: 12 };
    let (pictures, difference) = both(&tokenizer, (40, 36), &tiles);
    // Sums may be added in another order, and then a byte is cut off on the other side of a whole number.
    eprintln!("bytes differ by {difference} at most");
    assert!(difference <= 1, "{difference}");
    let shades: std::collections::BTreeSet<u8> = pictures[0].pixels.iter().copied().collect();
    assert!(shades.len() > 30, "the picture is lively: {} shades", shades.len());
    // One token of the neighbour is not enough.
    let (_, difference) = both(&tokenizer, (40, 36), &Tiles { size: (20, 36), overlap: 3, margin: 1 });
    assert!(difference > 8, "{difference}");
}

#[test]
fn norms_see_a_tile_alone() {
    let tokenizer = tokenizer(32);
    let (_, difference) = both(&tokenizer, (40, 36), &Tiles { size: (32, 30), overlap: 26, margin: 12 });
    assert!(difference > 0, "statistics differ between tiles");
    // Tiles that are the whole picture.
    let (_, difference) = both(&tokenizer, (20, 20), &Tiles { size: (20, 20), overlap: 3, margin: 1 });
    assert_eq!(difference, 0);
}

#[test]
fn grids_that_do_not_fit_are_refused() {
    let tokenizer = tokenizer(0);
    let tiles = Tiles { size: (8, 8), overlap: 3, margin: 1 };
    let error = tokenizer.decode_tiled(&[&[0; 99]], (10, 10), &tiles).unwrap_err().to_string();
    assert_eq!(error, "token grid 0 of the batch has 99 tokens, its shape says 100");
    assert!(tokenizer.decode_tiled(&[], (10, 10), &tiles).unwrap().is_empty());
}
