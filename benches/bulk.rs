//! Bulk runs as a whole: what of one is not the token loop, what guidance and choosing cost, and a long table of prompts.
//!
//! `cargo bench --bench bulk` runs all parts; `-- table`, `-- demo` or `-- large` some of them. All ratios are of one run, on the
//! CPU, with one thread for tensors and one for images: a core for the token loop, and one for what is to be hidden behind it.

use imagebart::chain::{Chain, ChainConfig, ModelDirectory, Row, RowCondition, ScaleSettings};
use imagebart::config::{ChainSection, ConditionSection, Needs, Pipeline};
use imagebart::jobs::sample::{SampleOptions, SampleSummary, sample};
use imagebart::progress::{Display, peak_memory};
use imagebart::random::RowKey;
use imagebart::text::{WordCounts, train};
use imagebart::torch::device::{DeviceChoice, set_threads};
use imagebart::torch::weights::{self, Weights};
use imagebart::transformer::Placement;
use imagebart::vqgan::{Tokenizer, TokenizerOptions, VqganConfig};
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error>;

/// Rows that are drawn at once: what runs on the CPU take when nobody says.
const BATCH: usize = 16;

/// A chain, and the tokenizer beside it.
struct Shape {
    name: &'static str,
    chain: &'static str,
    /// Channels of the tokenizer's levels, the finest first, and its blocks for each.
    tokenizer: (&'static [u32], u32),
}

/// The demo's chain: 64×64 pixels, 8×8 tokens, three scales. Its weights are random here, and it has a null condition.
const DEMO: Shape = Shape {
    name: "demo",
    chain: r#"
    grid = [8, 8]
    codebook_size = 217
    schedule = "alphacum:1,0.97,0.9,0"
    scale = [
        {network = "encoder-decoder", dim = 128, encoder_depth = 2, decoder_depth = 2, heads = 2},
        {network = "encoder-decoder", dim = 128, encoder_depth = 2, decoder_depth = 2, heads = 2},
        {network = "gpt", dim = 128, depth = 4, heads = 4},
    ]"#,
    tokenizer: (&[32, 32, 64, 64], 1),
};
/// 200 million parameters in three scales, and the first levels of the authors' tokenizer: a sixteenth of a 256×256 image.
const LARGE: Shape = Shape {
    name: "200 M",
    chain: r#"
    grid = [8, 8]
    codebook_size = 1024
    scale = [
        {network = "encoder-decoder", dim = 768, encoder_depth = 4, decoder_depth = 4, heads = 12},
        {network = "encoder-decoder", dim = 768, encoder_depth = 4, decoder_depth = 4, heads = 12},
        {network = "gpt", dim = 768, depth = 10, heads = 12},
    ]"#,
    tokenizer: (&[128, 128, 256, 256], 2),
};
/// As little of a chain as there can be: one token, one layer.
const STUB: Shape = Shape {
    name: "stub",
    chain: r#"
    grid = [1, 1]
    codebook_size = 64
    scale = [{network = "gpt", dim = 16, depth = 1, heads = 1}]"#,
    tokenizer: (&[32], 1),
};

/// A model of `shape` with random weights at `root`. Returns the chain's shape.
fn model(root: &Path, shape: &Shape) -> Result<ChainConfig, Error> {
    std::fs::create_dir_all(root)?;
    let mut words = WordCounts::new()?;
    words.add("a large red circle to the left of a small blue square")?;
    let text = train(words, 300, &root.join("text-tokenizer.json"))?;
    std::fs::write(root.join("text-tokenizer.json"), text.bytes())?;
    let section: ChainSection = toml::from_str(shape.chain)?;
    let condition = ConditionSection {
        kind: "text".to_owned(),
        vocabulary: Some(u32::try_from(text.vocabulary())?),
        length: Some(12),
        ..ConditionSection::default()
    };
    let config = ChainConfig::from_sections(&section, &condition, None)?;
    let (channels, blocks) = shape.tokenizer;
    let base = channels.first().copied().unwrap_or(32);
    let multiples: Vec<u32> = channels.iter().map(|channels| channels / base).collect();
    let side = u64::from(config.grid.0) << (channels.len() - 1);
    let vqgan: VqganConfig = serde_json::from_value(serde_json::json!({
        "ddconfig": {"double_z": false, "z_channels": 64, "resolution": side, "in_channels": 3, "out_ch": 3, "ch": base,
                     "ch_mult": multiples, "num_res_blocks": blocks, "attn_resolutions": [], "dropout": 0.0},
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

/// Seconds an image takes, without what a run costs once: of two runs of different lengths, `draws` images a row. And for what
/// share of the second one's time the token loop waited.
fn per_image(root: &Path, draws: usize, [few, many]: [usize; 2], settings: &[&str]) -> Result<(f64, f64), Error> {
    let (short, long) = (run(root, few, settings)?, run(root, many, settings)?);
    let seconds = (long.seconds - short.seconds) / ((many - few) * draws) as f64;
    let busy = long.stages.iter().find(|stage| stage.stage == "draw").map_or(f64::NAN, |draw| draw.busy_while_fed);
    Ok((seconds, 1.0 - busy))
}

/// Draws and decodes batches as a run does, without a run around them.
struct Alone {
    chain: Chain,
    tokenizer: Tokenizer,
    batch: Vec<Row>,
    grid: (u32, u32),
}

impl Alone {
    fn new(model: &Path, config: &ChainConfig) -> Result<Alone, Error> {
        set_threads(NonZeroUsize::MIN);
        let directory = ModelDirectory::open(model)?;
        let row = |index: usize| Row {
            key: RowKey::new(0, "bench", index as u64, 0),
            condition: RowCondition::Text(vec![1; 12]),
            settings: vec![ScaleSettings::default(); config.scales() as usize].into(),
        };
        Ok(Alone {
            chain: directory.load(Placement::cpu())?,
            tokenizer: directory.load_tokenizer(TokenizerOptions::default())?,
            batch: (0..BATCH).map(row).collect(),
            grid: config.grid,
        })
    }

    /// Seconds an image of `batches` takes: its tokens, and its pixels.
    fn measure(&self, batches: usize) -> Result<(f64, f64), Error> {
        let images = (batches * BATCH) as f64;
        let start = Instant::now();
        let mut grids = Vec::new();
        for _ in 0..batches {
            grids = self.chain.sample(&self.batch)?;
        }
        let tokens = start.elapsed().as_secs_f64() / images;
        let start = Instant::now();
        for _ in 0..batches {
            for grids in grids.chunks(4) {
                let grids: Vec<&[u16]> = grids.iter().map(Vec::as_slice).collect();
                self.tokenizer.decode(&grids, self.grid)?;
            }
        }
        Ok((tokens, start.elapsed().as_secs_f64() / images))
    }
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Whole runs of `batches` against the token loop alone, in turn.
fn token_loop(shape: &Shape, rounds: usize, batches: usize, costs: bool) -> Result<(), Error> {
    let root = tempfile::tempdir()?;
    let config = model(&root.path().join("model"), shape)?;
    let alone = Alone::new(&root.path().join("model"), &config)?;
    alone.measure(1)?;
    let rows = [BATCH, BATCH * (batches + 1)];
    let (mut shares, mut guided, mut chosen) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (whole, waits) = per_image(root.path(), 1, rows, &[])?;
        let (tokens, pixels) = alone.measure(batches)?;
        shares.push(tokens / whole);
        println!(
            "{:<6} {:.2} images/s of the token loop's {:.2}: {:.3}; waits {:.3}; decoding alone takes {:.3} of its time",
            shape.name,
            1.0 / whole,
            1.0 / tokens,
            tokens / whole,
            waits,
            pixels / tokens
        );
        if costs {
            guided.push(per_image(root.path(), 1, rows, &["sample.guidance=2"])?.0 / whole);
            let few = rows.map(|rows| rows / 8);
            let choose = ["choose.scorer=likelihood", "choose.draw=8"];
            chosen.push(8.0 * per_image(root.path(), 8, few, &choose)?.0 / whole);
        }
    }
    println!("{:<6} whole run     {:.3} of the token loop's rate, median of {rounds}", shape.name, median(shares));
    if costs {
        println!("{:<6} guidance      {:.2} times the cost of a row", shape.name, median(guided));
        println!("{:<6} 1 in 8        {:.2} times the cost of a row", shape.name, median(chosen));
    }
    Ok(())
}

fn table() -> Result<(), Error> {
    let root = tempfile::tempdir()?;
    model(&root.path().join("model"), &STUB)?;
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
        let named = |part: &str| arguments.iter().any(|argument| argument == part);
        named(part) || !["table", "demo", "large"].into_iter().any(named)
    };
    if wants("table") {
        table()?;
    }
    if wants("demo") {
        token_loop(&DEMO, 15, 2, true)?;
    }
    if wants("large") {
        token_loop(&LARGE, 3, 3, false)?;
    }
    Ok(())
}
