//! A chain that learns a distribution whose entropy is known reaches it.
//!
//! The toy: four tokens of four codes; each token but the first repeats the one before it with probability 0.7, else it is one
//! of the other three. Everything below is exact: sums over all 256 grids.

use imagebart::chain::{ChainConfig, ScaleConfig};
use imagebart::config::{ChainSection, ConditionSection, ScaleSection, ScheduleValue};
use imagebart::diffusion::Schedule;
use imagebart::random::{Purpose, RowKey};
use imagebart::torch::weights::Weights;
use imagebart::training::{Batch, Conditioning, LearningRate, Position, Trainer, TrainerSettings};
use imagebart::transformer::Placement;

const CODES: usize = 4;
const TOKENS: usize = 4;
const GRIDS: usize = CODES.pow(TOKENS as u32);
const STAY: f64 = 0.7;
const BATCH: usize = 128;

fn digits(grid: usize) -> [usize; TOKENS] {
    std::array::from_fn(|at| grid / CODES.pow(at as u32) % CODES)
}

/// The probability of a grid.
fn probability(grid: usize) -> f64 {
    let tokens = digits(grid);
    let step = |pair: &[usize]| if pair[0] == pair[1] { STAY } else { (1.0 - STAY) / (CODES - 1) as f64 };
    tokens.windows(2).map(step).product::<f64>() / CODES as f64
}

/// The probability that noise of this cumulative alpha makes `noised` of `clean`.
fn noise(clean: usize, noised: usize, cumulative: f64) -> f64 {
    let rest = (1.0 - cumulative) / CODES as f64;
    let pairs = digits(clean).into_iter().zip(digits(noised));
    pairs.map(|(a, b)| if a == b { cumulative + rest } else { rest }).product()
}

fn entropy(distribution: impl Iterator<Item = f64>) -> f64 {
    distribution.filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum()
}

/// Row `row` of the toy, drawn by its own random numbers.
fn grid(key: RowKey) -> [u16; TOKENS] {
    let mut tokens = [0u16; TOKENS];
    tokens[0] = key.below(Purpose::Init, 0, CODES as u32) as u16;
    for at in 1..TOKENS {
        let position = 2 * at as u32;
        tokens[at] = match f64::from(key.uniform(Purpose::Init, position)) < STAY {
            true => tokens[at - 1],
            false => {
                (tokens[at - 1] + 1 + key.below(Purpose::Init, position + 1, CODES as u32 - 1) as u16) % CODES as u16
            }
        };
    }
    tokens
}

fn batch(split: &str, number: u64, rows: usize) -> Batch {
    let keys: Vec<RowKey> = (0..rows as u64).map(|row| RowKey::new(9, split, number * rows as u64 + row, 0)).collect();
    Batch {
        position: Position::default(),
        tokens: keys.iter().flat_map(|key| grid(*key)).collect(),
        labels: vec![None; rows],
        captions: vec![None; rows],
        rows: keys,
    }
}

fn network(kind: &str, alpha: f64) -> ScaleSection {
    let depth = Some(2);
    match kind {
        "gpt" => ScaleSection { network: kind.to_owned(), dim: 32, depth, heads: Some(2), alpha, ..Default::default() },
        _ => ScaleSection {
            network: kind.to_owned(),
            dim: 32,
            encoder_depth: Some(1),
            decoder_depth: Some(1),
            heads: Some(1),
            alpha,
            ..Default::default()
        },
    }
}

fn chain(schedule: &str, scales: Vec<ScaleSection>) -> (ChainConfig, Schedule) {
    let section = ChainSection {
        schedule: ScheduleValue::Name(schedule.to_owned()),
        codebook_size: CODES as u32,
        grid: [2, 2],
        scale: scales,
        ..ChainSection::default()
    };
    let config = ChainConfig::from_sections(&section, &ConditionSection::default(), None).unwrap();
    let schedule = Schedule::new(&config.schedule, config.scales()).unwrap();
    (config, schedule)
}

/// Trains one network for `steps` and gives its loss on rows it has never seen, in nats a token.
fn trained(network: &ScaleConfig, schedule: &Schedule, steps: u64) -> f64 {
    let rate = LearningRate { warm_up_steps: 50, max_decay_steps: steps, start: 1e-4, max: 4e-3, min: 1e-5 };
    let settings = TrainerSettings {
        seed: 1,
        rate,
        weight_decay: 0.0,
        clip: Some(1.0),
        ema: 0.98,
        condition_dropout: 0.0,
        checkpoint_activations: false,
    };
    let weights = Weights::init(&network.network.tensors(), 1).unwrap();
    let codes = CODES as i64;
    let mut trainer =
        Trainer::new(network, schedule, codes, weights, Conditioning::None, settings, Placement::cpu()).unwrap();
    for step in 0..steps {
        let stepped = trainer.step(&[batch("training", step, BATCH)]).unwrap();
        assert!(!stepped.skipped);
    }
    let held_out = batch("validation", 0, 8192);
    trainer.measure(&held_out, network.scales[0]).unwrap().loss
}

fn close(what: &str, found: f64, known: f64) {
    let share = found / known - 1.0;
    println!("{what}: {found:.4} nats a token, known {known:.4} ({:+.2} %)", share * 100.0);
    assert!(share.abs() < 0.02, "{what}: {found} is not {known}");
}

#[test]
fn a_chain_reaches_the_entropy_of_its_data() {
    imagebart::torch::device::set_threads(std::num::NonZeroUsize::MIN);
    let data = entropy((0..GRIDS).map(probability));

    // One scale: plain autoregression, whose loss is the entropy of the data.
    let (config, schedule) = chain("alphacum:1,0", vec![network("gpt", 0.0)]);
    close("T = 1", trained(&config.networks[0], &schedule, 600), data / TOKENS as f64);

    // Two: H(x_0 | x_1) at scale 1; at scale 2, which sees nothing, the divergence of p(x_1) from q(x_1 | x_0): their mutual
    // information.
    let (config, schedule) = chain("alphacum:1,0.6,0", vec![network("encoder-decoder", 0.0), network("gpt", 1.0)]);
    let marginal = |noised| (0..GRIDS).map(|clean| probability(clean) * noise(clean, noised, 0.6)).sum::<f64>();
    let noised = entropy((0..GRIDS).map(marginal));
    let noise_alone = TOKENS as f64 * entropy((0..CODES).map(|code| 0.4 / 4.0 + if code == 0 { 0.6 } else { 0.0 }));
    let remaining = data + noise_alone - noised;
    close("T = 2, scale 1", trained(&config.networks[0], &schedule, 1000), remaining / TOKENS as f64);
    close("T = 2, scale 2", trained(&config.networks[1], &schedule, 1000), (noised - noise_alone) / TOKENS as f64);
}
