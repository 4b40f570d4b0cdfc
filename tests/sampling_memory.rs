//! Sampling and editing hold no memory from one batch to the next. Alone in its process, so that nothing else moves the figure.

mod skip;

use imagebart::chain::{Chain, ChainConfig, EditOptions, EditRow, Row, RowCondition, ScaleSettings};
use imagebart::config::{ChainSection, ConditionSection, ScaleSection};
use imagebart::random::RowKey;
use imagebart::torch::weights::Weights;
use imagebart::transformer::Placement;

const BATCH: usize = 16;

/// Caches of a batch: 2 networks, 2 layers, keys and values, 32 rows (guided), 64 tokens, 64 numbers or more: 2 MiB and more.
fn chain() -> Chain {
    let encoder_decoder = ScaleSection {
        network: "encoder-decoder".to_owned(),
        dim: 16,
        encoder_depth: Some(1),
        decoder_depth: Some(2),
        heads: Some(1),
        ..ScaleSection::default()
    };
    let gpt =
        ScaleSection { network: "gpt".to_owned(), dim: 64, depth: Some(2), heads: Some(1), ..ScaleSection::default() };
    let section =
        ChainSection { codebook_size: 32, grid: [8, 8], scale: vec![encoder_decoder, gpt], ..ChainSection::default() };
    let condition =
        ConditionSection { kind: "class".to_owned(), classes: Some(4), null: true, ..ConditionSection::default() };
    let config = ChainConfig::from_sections(&section, &condition, None).unwrap();
    Chain::new(config, Placement::cpu(), |network| Ok(Weights::init(&network.network.tensors(), 1)?)).unwrap()
}

/// One batch of new images, one of edits.
fn batch(chain: &Chain, number: u64) {
    let settings = ScaleSettings { guidance: 2.0, top_k: Some(9), top_p: Some(0.9), ..ScaleSettings::default() };
    let row = |index: usize| Row {
        key: RowKey::new(number, "memory", index as u64, 0),
        condition: RowCondition::Class(index as u32 % 4),
        settings: vec![settings; 2].into(),
    };
    let rows: Vec<Row> = (0..BATCH).map(row).collect();
    let images = chain.sample(&rows).unwrap();
    let known: Vec<bool> = (0..64).map(|at| at < 20).collect();
    let edit = |(row, tokens): (Row, Vec<u16>)| EditRow { row, tokens, known: known.clone() };
    let edits: Vec<EditRow> = rows.into_iter().zip(images).map(edit).collect();
    chain.edit(&edits, &EditOptions { repeats: vec![1, 1], ..EditOptions::default() }).unwrap();
}

/// Resident bytes of this process; `None` where the system does not tell.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[test]
fn a_hundred_batches_hold_no_more_than_ten() {
    imagebart::torch::steady_heap();
    // Small operations wait for one another's threads more than they compute.
    imagebart::torch::device::set_threads(std::num::NonZeroUsize::MIN);
    let chain = chain();
    (0..10).for_each(|number| batch(&chain, number));
    let Some(before) = resident() else {
        skip::skipped(format_args!("memory of sampling: no VmRSS in /proc/self/status"));
        return;
    };
    (10..60).for_each(|number| batch(&chain, number));
    let grown = resident().unwrap().saturating_sub(before);
    eprintln!("100 batches of {BATCH}: {} KiB more than 20", grown / 1024);
    // One batch's caches left behind each time would be 200 MiB.
    assert!(grown < 32 << 20, "{grown} bytes more");
}
