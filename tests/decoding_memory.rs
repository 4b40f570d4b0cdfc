//! Decoding in tiles keeps to its bound. Alone in its process, so that nothing else moves the figure.

mod skip;

use imagebart::random::{Purpose, RowKey};
use imagebart::torch::weights::Weights;
use imagebart::vqgan::{Tiles, Tokenizer, TokenizerOptions, VqganConfig};

/// Rows and columns of a grid whose attention alone takes 128 MiB.
const GRID: (u32, u32) = (64, 64);
const BOUND: u64 = 16 << 20;
/// Weights packed for the kernels, the picture's bytes, what the heap keeps.
const BESIDES: u64 = 24 << 20;

fn tokenizer() -> Tokenizer {
    let config: VqganConfig = serde_json::from_value(serde_json::json!({
        "ddconfig": {"double_z": false, "z_channels": 8, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
                     "ch_mult": [1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
        "embed_dim": 8, "n_embed": 64,
    }))
    .unwrap();
    let weights = Weights::init(&config.tensors(), 5).unwrap();
    Tokenizer::new(config, &weights, TokenizerOptions::default()).unwrap()
}

/// The most bytes this process ever had resident; `None` where the system does not tell.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[test]
fn tiles_keep_to_the_bound() {
    imagebart::torch::steady_heap();
    imagebart::torch::device::set_threads(std::num::NonZeroUsize::MIN);
    let tokenizer = tokenizer();
    let key = RowKey::new(1, "memory", 0, 0);
    let grid: Vec<u16> = (0..GRID.0 * GRID.1).map(|at| key.below(Purpose::Init, at, 64) as u16).collect();
    // What the first decoding takes once and for all.
    tokenizer.decode(&[&grid[..64]], (8, 8)).unwrap();
    let Some(before) = peak() else {
        skip::skipped(format_args!("memory of decoding: no VmHWM in /proc/self/status"));
        return;
    };
    let config = tokenizer.config();
    let tiles = Tiles::within(config, GRID, 4, BOUND).unwrap().expect("tiles");
    tokenizer.decode_tiled(&[&grid], GRID, &tiles).unwrap();
    let tiled = peak().unwrap() - before;
    tokenizer.decode(&[&grid], GRID).unwrap();
    let whole = peak().unwrap() - before;
    let mib = |bytes: u64| bytes >> 20;
    eprintln!("{} MiB in tiles of {:?}, {} MiB whole", mib(tiled), tiles.size, mib(whole));
    assert!(tiled < BOUND + BESIDES, "{tiled}");
    let estimate = config.decoding_bytes(GRID, 4);
    assert!((estimate / 2..estimate * 2).contains(&whole), "{whole} where {estimate} was estimated");
}
