//! The whole chain of FFHQ-2 with random weights: images a second, what bounds them, and how far from it they are.
//!
//! The bound is the time to read both token loops' weights once per step at the bandwidth measured here, plus the encoder's and the
//! VQGAN decoder's operations at the matrix-multiply rate measured here. A step is launch-bound where the host needs nearly as
//! long to ask for it as the device to run it.

use super::networks::{Shapes, TOKENS};
use super::{Error, best, median};
use imagebart::torch::device::DeviceInUse;
use imagebart::torch::weights::Weights;
use imagebart::transformer::{ConditionIds, Decoding, Network, NetworkConfig, Placement, Source};
use imagebart::vqgan::ops::{self, Layout};
use imagebart::vqgan::{Vqgan, VqganConfig};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Images that the VQGAN decodes at a time.
const DECODED: i64 = 32;

struct Chain {
    gpt: Network,
    encoder_decoder: Network,
    vqgan: Vqgan,
    device: Device,
}

/// Waits until the device has done all it was asked for, and gives the seconds since `start`.
fn finished(device: Device, start: Instant) -> f64 {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
    start.elapsed().as_secs_f64()
}

/// Prints the figures of each batch size.
pub fn run(device: &DeviceInUse, shapes: &Shapes, batches: &[i64]) -> Result<(), Error> {
    let _guard = tch::no_grad_guard();
    println!("{}", device.line);
    let kind = Kind::BFloat16;
    let placement = Placement { device: device.device, kind };
    let layout = if device.device == Device::Cpu { Layout::Contiguous } else { Layout::ChannelsLast };
    let vqgan = Weights::init(&shapes.vqgan.tensors(), 1)?;
    let vqgan_placement = ops::Placement { device: device.device, kind, layout };
    let chain = Chain {
        gpt: super::networks::random(&shapes.gpt, placement)?,
        encoder_decoder: super::networks::random(&shapes.encoder_decoder, placement)?,
        vqgan: Vqgan::load(&shapes.vqgan, &vqgan, vqgan_placement, false)?,
        device: device.device,
    };
    let (bandwidth, rate) = measured(device.device, shapes.probe)?;
    println!("bandwidth {:.0} GB/s, matrix multiply {:.1} TFLOP/s in bf16", bandwidth / 1e9, rate / 1e12);
    for &batch in batches {
        chain.batch(shapes, batch, bandwidth, rate)?;
    }
    Ok(())
}

/// Bytes a second of reading, and bf16 operations a second of multiplying matrices of side `side`.
fn measured(device: Device, side: i64) -> Result<(f64, f64), Error> {
    let buffer = Tensor::f_ones([side * side * 16], (Kind::Float, device))?;
    let matrix = Tensor::f_rand([side, side], (Kind::Float, device))?.f_to_kind(Kind::BFloat16)?;
    let (mut reads, mut products) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let start = Instant::now();
        drop(buffer.f_sum(Kind::Float)?);
        reads.push(finished(device, start));
        let start = Instant::now();
        drop(matrix.f_matmul(&matrix)?);
        products.push(finished(device, start));
    }
    let bytes = buffer.numel() as f64 * 4.0;
    Ok((bytes / best(&reads), 2.0 * (side as f64).powi(3) / best(&products)))
}

/// Seconds of one token loop: in all, and what the host needed to ask for each step.
struct Loop {
    seconds: f64,
    asked: f64,
    tokens: Tensor,
}

impl Chain {
    fn batch(&self, shapes: &Shapes, batch: i64, bandwidth: f64, rate: f64) -> Result<(), Error> {
        let mut best = f64::INFINITY;
        let mut report = String::new();
        // The first round allocates.
        for _ in 0..3 {
            let start = Instant::now();
            let last = self.tokens(&self.gpt, 2, None, batch)?;
            let first = self.tokens(&self.encoder_decoder, 1, Some(&last.tokens), batch)?;
            let decoding = Instant::now();
            self.decode(&first.tokens)?;
            let decoded = finished(self.device, decoding);
            let seconds = finished(self.device, start);
            if seconds < best {
                best = seconds;
                report = format!(
                    "  gpt {:.2} s, encoder-decoder {:.2} s, VQGAN {decoded:.2} s\n  host's share of a step: gpt {:.0} %, \
                     encoder-decoder {:.0} % (near 100 %: launch-bound)",
                    last.seconds,
                    first.seconds,
                    100.0 * last.asked / last.seconds,
                    100.0 * first.asked / first.seconds
                );
            }
        }
        let bound = shapes.bytes_of_steps() / bandwidth + batch as f64 * shapes.operations() / rate;
        println!(
            "batch {batch}: {:.2} images/s, {:.0} % of the bound\n{report}",
            batch as f64 / best,
            100.0 * bound / best
        );
        Ok(())
    }

    /// Draws the tokens of one scale, each by one uniform number through the inverse of its distribution.
    fn tokens(&self, network: &Network, scale: i64, x_t: Option<&Tensor>, batch: i64) -> Result<Loop, Error> {
        let scale = Tensor::f_full([batch], scale, (Kind::Int64, self.device))?;
        let uniforms = Tensor::f_rand([TOKENS, batch, 1], (Kind::Float, self.device))?;
        let start = Instant::now();
        let mut decoding: Decoding = network.begin(&Source { scale: &scale, condition: ConditionIds::None, x_t })?;
        finished(self.device, start);
        let (mut asked, mut tokens) = (Vec::new(), Vec::new());
        for position in 0..TOKENS {
            let asking = Instant::now();
            let cumulative = decoding.next(tokens.last())?.f_softmax(-1, Kind::Float)?.f_cumsum(-1, Kind::Float)?;
            let below =
                cumulative.f_le_tensor(&uniforms.f_get(position)?)?.f_sum_dim_intlist(-1, false, Kind::Int64)?;
            tokens.push(below.f_clamp_max(network.config().codes() - 1)?);
            asked.push(asking.elapsed().as_secs_f64());
        }
        let tokens = Tensor::f_stack(&tokens, 1)?;
        let seconds = finished(self.device, start);
        Ok(Loop { seconds, asked: median(&asked) * TOKENS as f64, tokens })
    }

    fn decode(&self, tokens: &Tensor) -> Result<(), Error> {
        let (batch, _) = tokens.size2()?;
        let side = TOKENS.isqrt();
        for first in (0..batch).step_by(DECODED as usize) {
            let part = tokens.f_narrow(0, first, DECODED.min(batch - first))?.f_view([-1, side, side])?;
            drop(self.vqgan.decode(&self.vqgan.codebook.entries(&part)?)?);
        }
        Ok(())
    }
}

impl Shapes {
    /// Bytes of the weights that the steps of both token loops read, in bf16.
    fn bytes_of_steps(&self) -> f64 {
        let decoder = |config: &NetworkConfig| -> i64 {
            let step = |name: &str| name.starts_with("decoder.") && !cross(name);
            config.tensors().iter().filter(|tensor| step(&tensor.name)).map(|tensor| tensor.numel()).sum()
        };
        (self.gpt.parameters() + decoder(&self.encoder_decoder)) as f64 * TOKENS as f64 * 2.0
    }

    /// Operations for one image outside the token loops: encoder, cross-attention keys and values, VQGAN decoder.
    fn operations(&self) -> f64 {
        let length = (TOKENS + 1) as f64;
        let once = |name: &str| name.starts_with("encoder.attn_layers") || cross(name);
        let weights: i64 = self
            .encoder_decoder
            .tensors()
            .iter()
            .filter(|tensor| once(&tensor.name))
            .map(|tensor| tensor.numel())
            .sum();
        let attention = match &self.encoder_decoder {
            NetworkConfig::EncoderDecoder(config) => config.encoder_depth * config.encoder_heads * 64,
            NetworkConfig::Gpt(_) => 0,
        };
        2.0 * length * weights as f64 + 4.0 * length * length * attention as f64 + convolutions(&self.vqgan)
    }
}

/// Whether a tensor makes keys or values of the encoder's output.
fn cross(name: &str) -> bool {
    let number = name.strip_prefix("decoder.attn_layers.layers.").and_then(|rest| rest.split('.').next());
    let layer: Option<i64> = number.and_then(|number| number.parse().ok());
    layer.is_some_and(|layer| layer % 3 == 1) && (name.contains("to_k") || name.contains("to_v"))
}

/// Operations of the VQGAN decoder's convolutions for one image.
fn convolutions(config: &VqganConfig) -> f64 {
    let coarse = TOKENS.isqrt();
    let side = (coarse * config.downsampling()) as f64;
    let tensors = config.tensors();
    let decoder = tensors.iter().filter(|tensor| tensor.name.starts_with("decoder.") && tensor.shape.len() == 4);
    let pixels = |name: &str| match name.split('.').collect::<Vec<_>>()[..] {
        // Level 0 is the finest; the convolution behind an upsampling runs on the level it leads to.
        [_, "up", level, part, ..] => {
            let halvings = level.parse::<i32>().unwrap_or(0) - i32::from(part == "upsample");
            (side / 2f64.powi(halvings)).powi(2)
        }
        [_, "conv_out", ..] => side * side,
        _ => (coarse * coarse) as f64,
    };
    decoder.map(|tensor| 2.0 * tensor.numel() as f64 * pixels(&tensor.name)).sum()
}
