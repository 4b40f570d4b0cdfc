//! Bulk runs as a whole: what of one is not the token loop, what guidance and choosing cost, and a long table of prompts.
//!
//! `cargo bench --bench bulk` runs both parts; `-- loop` or `-- table` one of them. All ratios are of one run, on the CPU, with one
//! thread for tensors and one for images.

use imagebart::chain::{Chain, ChainConfig, ModelDirectory, Row, RowCondition, ScaleSettings};
use imagebart::config::{ChainSection, ConditionSection, Needs, Pipeline};
use imagebart::jobs::sample::{SampleOptions, SampleSummary, sample};
use imagebart::progress::{Display, peak_memory};
use imagebart::random::RowKey;
use imagebart::text::{WordCounts, train};
use imagebart::torch::device::{DeviceChoice, set_threads};
use imagebart::torch::weights::{self, Weights};
use imagebart::transformer::Placement;
use imagebart::vqgan::VqganConfig;
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error>;

/// The demo's chain: 64×64 pixels, 8×8 tokens, three scales.
const DEMO: &str = r#"
    grid = [8, 8]
    codebook_size = 512
    schedule = "geometric"
    scale = [
        {network = "encoder-decoder", dim = 128, encoder_depth = 3, decoder_depth = 3, heads = 2},
        {network = "encoder-decoder", dim = 128, encoder_depth = 2, decoder_depth = 3, heads = 2},
        {network = "gpt", dim = 128, depth = 6, heads = 4},
    ]"#;
/// As little of a chain as there can be: one token, one layer.
const STUB: &str = r#"
    grid = [1, 1]
    codebook_size = 64
    scale = [{network = "gpt", dim = 16, depth = 1, heads = 1}]"#;

/// A model of `chain` with random weights at `root`, whose tokenizer has `levels` of 32 channels. Returns the chain's shape.
fn model(root: &Path, chain: &str, levels: usize) -> Result<ChainConfig, Error> {
    std::fs::create_dir_all(root)?;
    let mut words = WordCounts::new()?;
    words.add("a large red circle to the left of a small blue square")?;
    let text = train(words, 300, &root.join("text-tokenizer.json"))?;
    std::fs::write(root.join("text-tokenizer.json"), text.bytes())?;
    let section: ChainSection = toml::from_str(chain)?;
    let condition = ConditionSection {
        kind: "text".to_owned(),
        vocabulary: Some(u32::try_from(text.vocabulary())?),
        length: Some(12),
        ..ConditionSection::default()
    };
    let config = ChainConfig::from_sections(&section, &condition, None)?;
    let side = u64::from(config.grid.0) << (levels - 1);
    let vqgan: VqganConfig = serde_json::from_value(serde_json::json!({
        "ddconfig": {"double_z": false, "z_channels": 32, "resolution": side, "in_channels": 3, "out_ch": 3, "ch": 32,
                     "ch_mult": vec![1; levels], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
        "embed_dim": 16, "n_embed": config.codebook_size,
    }))?;
    let file = root.join("tokenizer.safetensors");
    let tokenizer = Weights::init(&vqgan.tensors(), 5)?;
    weights::write(&file, &tokenizer.into_tensors(), &vqgan.to_metadata())?;
    let fingerprint = weights::WeightsFile::open(&file)?.load_all()?.fingerprint().to_owned();
    ModelDirectory::write_config(root, &config, &fingerprint)?;
    for network in &config.networks {
        let weights = Weights::init(&network.network.tensors(), 1)?;
        let first = network.scales.first().copied().unwrap_or(1);
        ModelDirectory::write_scale(root, first, &network.network, weights.tensors())?;
    }
    Ok(config)
}

/// One run of `rows` captions with `settings`, its output thrown away.
fn run(root: &Path, rows: usize, settings: &[&str]) -> Result<SampleSummary, Error> {
    let mut csv = String::from("prompt\n");
    (0..rows).try_for_each(|row| writeln!(csv, "a large red circle to the left of a small blue square {}", row % 7))?;
    let table = root.join("prompts.csv");
    std::fs::write(&table, csv)?;
    let text = format!(
        "[chain]\nmodel = \"{}\"\n[output]\nurl = \"{}\"\n[run]\nthreads = 1\ndecode_workers = 1\n[sample]\nprompts = \"{}\"\n",
        root.join("model").display(),
        root.join("out").display(),
        table.display()
    );
    let overrides: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
    let pipeline = Pipeline::parse_for(Needs::Sample, &text, "bench", &overrides)?;
    let options = SampleOptions { device: DeviceChoice::Cpu, overwrite: true, ..SampleOptions::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(runtime.block_on(sample(&pipeline, &options, &Display::plain(), CancellationToken::new()))?)
}

/// Seconds a row of the table, without what a run costs once: of two runs of different lengths.
fn per_row(root: &Path, [few, many]: [usize; 2], settings: &[&str]) -> Result<f64, Error> {
    let [few_took, many_took] = [run(root, few, settings)?.seconds, run(root, many, settings)?.seconds];
    Ok((many_took - few_took) / (many - few) as f64)
}

fn token_loop() -> Result<(), Error> {
    const BATCH: usize = 16;
    let root = tempfile::tempdir()?;
    let config = model(&root.path().join("model"), DEMO, 4)?;
    let rows = [BATCH, 7 * BATCH];
    let whole = per_row(root.path(), rows, &[])?;

    set_threads(NonZeroUsize::MIN);
    let chain: Chain = ModelDirectory::open(root.path().join("model"))?.load(Placement::cpu())?;
    let batch = |number: usize| -> Vec<Row> {
        let row = |index: usize| Row {
            key: RowKey::new(number as u64, "bench", index as u64, 0),
            condition: RowCondition::Text(vec![1; 12]),
            settings: vec![ScaleSettings::default(); config.scales() as usize].into(),
        };
        (0..BATCH).map(row).collect()
    };
    chain.sample(&batch(0))?;
    let start = Instant::now();
    (1..7).try_for_each(|number| chain.sample(&batch(number)).map(drop))?;
    let alone = start.elapsed().as_secs_f64() / (6 * BATCH) as f64;
    println!(
        "whole run    {:.2} rows/s, token loop alone {:.2}: {:.3} of its rate",
        1.0 / whole,
        1.0 / alone,
        alone / whole
    );
    let guided = per_row(root.path(), rows, &["sample.guidance=2"])?;
    println!("guidance     {:.2} times the cost of a row", guided / whole);
    let few = [2, 2 + rows[1] / 8];
    let chosen = per_row(root.path(), few, &["choose.scorer=likelihood", "choose.draw=8"])?;
    println!("1 in 8       {:.2} times the cost of a row", chosen / whole);
    Ok(())
}

fn table() -> Result<(), Error> {
    let root = tempfile::tempdir()?;
    model(&root.path().join("model"), STUB, 2)?;
    let settings = ["sample.batch_size=1024", "sample.unit_rows=8192", "tokenizer.batch_size=1024"];
    let mut peaks = Vec::new();
    for rows in [20_000, 100_000] {
        let summary = run(root.path(), rows, &settings)?;
        peaks.push(peak_memory().unwrap_or(0));
        println!("{rows:>7} rows in {:.1} s: {:.0} rows/s", summary.seconds, rows as f64 / summary.seconds);
        for stage in &summary.stages {
            let busy = stage.busy * summary.seconds;
            println!("        {:<8} {:.0} rows/s while busy", stage.stage, rows as f64 / busy.max(1e-9));
        }
    }
    if let [few, many] = peaks[..] {
        println!("memory       {} MiB, {} MiB after five times the rows", few >> 20, many >> 20);
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    imagebart::torch::steady_heap();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wants = |part: &str| {
        let named = arguments.iter().any(|argument| argument == "loop" || argument == "table");
        !named || arguments.iter().any(|argument| argument == part)
    };
    if wants("table") {
        table()?;
    }
    if wants("loop") {
        token_loop()?;
    }
    Ok(())
}
