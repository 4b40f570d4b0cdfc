//! Training a tokenizer on this machine's CPU: images a second, by shape of the network and layout of the activations.
//!
//! `cargo bench --bench train_tokenizer`; `STEPS=20` for steadier figures, `THREADS=1` for one thread. Seconds are those of the processor
//! where there is one thread: other work on the machine does not count then.

use imagebart::training::LearningRate;
use imagebart::training::tokenizer::{CodebookConfig, Rates, Trainer, TrainerConfig};
use imagebart::vqgan::VqganConfig;
use imagebart::vqgan::losses::LossConfig;
use imagebart::vqgan::ops::Layout;
use imagebart::vqgan::quantizer::Commitment;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const SIDE: i64 = 64;
const BATCH: i64 = 16;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn network(ch: i64, ch_mult: &[i64]) -> VqganConfig {
    VqganConfig {
        ch,
        ch_mult: ch_mult.to_vec(),
        num_res_blocks: 1,
        attn_resolutions: Vec::new(),
        resolution: SIDE,
        in_channels: 3,
        out_ch: 3,
        z_channels: 64,
        double_z: false,
        dropout: 0.0,
        tanh_out: false,
        embed_dim: 16,
        n_embed: 512,
        used: None,
        gumbel: false,
        norm_groups: imagebart::vqgan::config::NORM_GROUPS,
    }
}

fn trainer(network: VqganConfig, layout: Layout) -> Trainer {
    let rate = LearningRate { warm_up_steps: 0, max_decay_steps: u64::MAX, start: 0.0, max: 1e-4, min: 1e-6 };
    let config = TrainerConfig {
        network,
        losses: LossConfig { perceptual_weight: 0.0, ..LossConfig::starting_at(i64::MAX) },
        discriminator: None,
        commitment: Commitment { beta: 0.25, legacy: true },
        codebook: CodebookConfig { begin: 0, decay: Some(0.98), restart_after: Some(100), seed: 0 },
        ema: Some(0.995),
        rates: Rates { generator: rate, discriminator: rate },
        seed: 0,
        device: Device::Cpu,
        layout,
    };
    Trainer::new(config, None).expect("a trainer")
}

/// Seconds of a step, the fastest of several.
fn seconds(trainer: &mut Trainer, images: &Tensor, steps: usize) -> f64 {
    let mut best = f64::INFINITY;
    for step in 0..=steps {
        let start = Instant::now();
        trainer.step(std::slice::from_ref(images)).expect("a step");
        if step > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best
}

fn main() {
    imagebart::torch::steady_heap();
    tch::set_num_threads(number("THREADS", 2) as i32);
    let steps = number("STEPS", 5);
    let images = Tensor::rand([BATCH, 3, SIDE, SIDE], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
    let contiguous_images = images.contiguous();
    for (ch, ch_mult) in [(32, &[1, 1, 2, 2][..]), (32, &[1, 2, 2]), (64, &[1, 1, 2, 2])] {
        let each = |layout| {
            let mut trainer = trainer(network(ch, ch_mult), layout);
            seconds(&mut trainer, &contiguous_images, steps)
        };
        let (contiguous, last) = (each(Layout::Contiguous), each(Layout::ChannelsLast));
        let rate = |seconds: f64| BATCH as f64 / seconds;
        println!(
            "ch {ch}, ch_mult {ch_mult:?}: {:.1} images/s contiguous, {:.1} channels last ({:.2} times)",
            rate(contiguous),
            rate(last),
            contiguous / last
        );
    }
}
