//! A whole training step: the trainer's against the plain network's, from a batch of latents to new parameters and averages.

use super::plain::{Plain, noise, soft_loss};
use super::{Error, best, median, phases};
use imagebart::chain::ScaleConfig;
use imagebart::config::ScheduleValue;
use imagebart::diffusion::Schedule;
use imagebart::random::{Purpose, RowKey};
use imagebart::torch::weights::Weights;
use imagebart::training::{Batch, Conditioning, LearningRate, Position, Trainer, TrainerSettings};
use imagebart::transformer::{EncoderDecoderConfig, GptConfig, NetworkConfig, Placement, Variant};
use std::time::Instant;
use tch::Tensor;

pub const CODES: i64 = 512;
pub const BATCH: usize = 32;
pub const DECAY: f64 = 0.01;
pub const RATE: f64 = 1e-4;
pub const EMA: f64 = 0.999;
const SCALES: u32 = 3;
const WIDTH: i64 = 192;
const ROUNDS: usize = 9;

/// A network to train, at its scale.
pub struct Case {
    pub name: &'static str,
    pub scale: u32,
    pub tokens: i64,
    pub network: NetworkConfig,
}

/// Measures the cases of as many tokens as the arguments name; all where they name none.
pub fn run(arguments: &[String]) -> Result<(), Error> {
    println!("step, width {WIDTH}, batches of {BATCH}, {CODES} codes, {} threads, fp32", tch::get_num_threads());
    println!(
        "network          tokens  parameters   ours ms  plain ms   ratio (best; medians)   ours: grids/s  tokens/s"
    );
    let named: Vec<i64> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let all = [encoder_decoder(64), encoder_decoder(256), gpt(64), gpt(256)];
    let cases: Vec<Case> = all.into_iter().filter(|case| named.is_empty() || named.contains(&case.tokens)).collect();
    for case in &cases {
        steps(case)?;
    }
    cases.iter().try_for_each(phases::print)
}

fn encoder_decoder(tokens: i64) -> Case {
    let network = NetworkConfig::EncoderDecoder(EncoderDecoderConfig {
        dim: WIDTH,
        encoder_depth: 3,
        decoder_depth: 3,
        encoder_heads: 3,
        decoder_heads: 3,
        encoder_tokens: CODES,
        encoder_length: tokens + 1,
        decoder_tokens: CODES,
        decoder_length: tokens,
        variant: Variant::Plain,
        scales: i64::from(SCALES),
        text: None,
    });
    Case { name: "encoder-decoder", scale: 2, tokens, network }
}

fn gpt(tokens: i64) -> Case {
    let network = NetworkConfig::Gpt(GptConfig {
        dim: WIDTH,
        depth: 6,
        heads: 4,
        input_tokens: CODES,
        output_tokens: CODES,
        block: tokens,
        unmasked: 0,
        text: None,
    });
    Case { name: "gpt", scale: SCALES, tokens, network }
}

impl Case {
    pub fn schedule(&self) -> Result<Schedule, Error> {
        Ok(Schedule::new(&ScheduleValue::Name("geometric".to_owned()), SCALES)?)
    }

    pub fn weights(&self) -> Result<Weights, Error> {
        Ok(Weights::init(&self.network.tensors(), 1)?)
    }

    /// Batch `step` of random grids.
    pub fn batch(&self, step: u64) -> Batch {
        let rows: Vec<RowKey> = (0..BATCH as u64).map(|row| RowKey::new(1, "bench", step * 100 + row, 0)).collect();
        let token = |row: &RowKey, at: i64| row.below(Purpose::Init, at as u32, CODES as u32) as u16;
        Batch {
            position: Position { epoch: 0, step },
            tokens: rows.iter().flat_map(|row| (0..self.tokens).map(move |at| token(row, at))).collect(),
            labels: vec![None; BATCH],
            captions: vec![None; BATCH],
            rows,
        }
    }
}

/// The ids of a batch, int64 `[batch, tokens]`.
pub fn grids(batch: &Batch) -> Tensor {
    let ids: Vec<i64> = batch.tokens.iter().map(|id| i64::from(*id)).collect();
    Tensor::from_slice(&ids).view([batch.len() as i64, -1])
}

fn trainer(case: &Case) -> Result<Trainer, Error> {
    let settings = TrainerSettings {
        seed: 1,
        rate: LearningRate { warm_up_steps: 0, max_decay_steps: u64::MAX, start: RATE, max: RATE, min: RATE },
        weight_decay: DECAY,
        clip: None,
        ema: EMA,
        condition_dropout: 0.0,
        checkpoint_activations: false,
    };
    let scale = ScaleConfig { scales: vec![case.scale], network: case.network.clone(), alpha: 1.0 };
    let (weights, schedule) = (case.weights()?, case.schedule()?);
    Ok(Trainer::new(&scale, &schedule, CODES, weights, Conditioning::None, settings, Placement::cpu())?)
}

fn steps(case: &Case) -> Result<(), Error> {
    let mut ours = trainer(case)?;
    let (schedule, weights) = (case.schedule()?, case.weights()?);
    let mut plain = Plain::new(&case.network, &weights, RATE, DECAY)?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        let batch = case.batch(round as u64);
        let start = Instant::now();
        let stepped = ours.step(std::slice::from_ref(&batch))?;
        let took = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let x_0 = grids(&batch);
        let (before, x_t) = noise(&x_0, &schedule, CODES, case.scale);
        let logits = plain.logits(i64::from(case.scale), &x_t, &before);
        let loss = soft_loss(&logits, &schedule, case.scale, &x_0, &x_t);
        plain.optimizer.backward_step(&loss);
        plain.average(EMA);
        let by_plain = loss.double_value(&[]);
        let plain_took = start.elapsed().as_secs_f64();
        if (by_plain - stepped.loss).abs() > 0.1 {
            return Err(
                format!("{}: the losses {} and {by_plain} are not of one network", case.name, stepped.loss).into()
            );
        }
        // The first round warms up.
        if round > 0 {
            times[0].push(took);
            times[1].push(plain_took);
        }
    }
    let [ours, plain] = &times;
    let (fast, rows) = (best(ours), BATCH as f64);
    println!(
        "{:15} {:7} {:11} {:9.1} {:9.1}   {:5.2}; {:5.2}            {:9.0} {:9.0}",
        case.name,
        case.tokens,
        case.network.parameters(),
        fast * 1e3,
        best(plain) * 1e3,
        best(plain) / fast,
        median(plain) / median(ours),
        rows / fast,
        rows * case.tokens as f64 / fast,
    );
    Ok(())
}
