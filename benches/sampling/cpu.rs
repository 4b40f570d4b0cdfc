//! The figures of the CPU.

use super::networks::{CODES, Shapes, TOKENS, random};
use super::{Error, best, median};
use imagebart::torch::kernels::{Instructions, linear as linear_of};
use imagebart::transformer::{ConditionIds, Network, Placement, Source};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const IDS: (Kind, Device) = (Kind::Int64, Device::Cpu);
const BATCH: i64 = 4;

/// Seconds of `begin` and of every step, each token the likeliest.
fn decode(network: &Network, source: &Source) -> Result<(f64, Vec<f64>), Error> {
    let start = Instant::now();
    let mut decoding = network.begin(source)?;
    let begun = start.elapsed().as_secs_f64();
    let (mut steps, mut token) = (Vec::new(), None);
    for _ in 0..TOKENS {
        let start = Instant::now();
        token = Some(decoding.next(token.as_ref())?.f_argmax(-1, false)?);
        steps.push(start.elapsed().as_secs_f64());
    }
    Ok((begun, steps))
}

/// Cached sampling of 256 tokens against the authors' way: the encoder once, the decoder over the whole prefix at every step.
pub fn encoder_decoder() -> Result<(), Error> {
    let network = random(&Shapes::released()?.encoder_decoder, Placement::cpu())?;
    let scale = Tensor::f_full([BATCH], 1, IDS)?;
    let x_t = Tensor::f_randint(CODES, [BATCH, TOKENS], IDS)?;
    let source = Source { scale: &scale, condition: ConditionIds::None, x_t: Some(&x_t) };
    let _guard = tch::no_grad_guard();

    decode(&network, &source)?;
    let (begun, steps) = decode(&network, &source)?;
    let cached = begun + steps.iter().sum::<f64>();
    println!("encoder-decoder, dim 1152, enc 32, dec 6, batch {BATCH}, {TOKENS} tokens");
    println!("  cached: {cached:.2} s (encoder and cross-attention keys {begun:.2} s)");
    println!("  a step: {:.2} ms (best {:.2})", median(&steps) * 1e3, best(&steps) * 1e3);
    let windows: Vec<f64> = steps.chunks(32).map(median).collect();
    let (low, high) = (best(&windows), windows.iter().copied().fold(0.0, f64::max));
    let listed: Vec<String> = windows.iter().map(|time| format!("{:.2}", time * 1e3)).collect();
    println!("  medians of 32 positions each, ms: {}; slowest / fastest {:.2}", listed.join(" "), high / low);

    let start = Instant::now();
    let context = network.encode(&source)?;
    let encoder = start.elapsed().as_secs_f64();
    let lengths: Vec<i64> = std::iter::once(1).chain((32..=TOKENS).step_by(32)).collect();
    let mut times = vec![Vec::new(); lengths.len()];
    for _ in 0..2 {
        for (length, times) in lengths.iter().zip(&mut times) {
            let start = Instant::now();
            let _ = network.decode(&source, &context, &x_t.f_narrow(1, 0, *length)?)?;
            times.push(start.elapsed().as_secs_f64());
        }
    }
    let times: Vec<f64> = times.iter().map(|times| best(times)).collect();
    let recomputed = encoder + integral(&lengths, &times);
    println!("  recomputed: {recomputed:.1} s, measured at {} prefix lengths and interpolated between", lengths.len());
    println!("  ratio {:.1}", recomputed / cached);
    Ok(())
}

/// The sum over all lengths 1..=last of times known at some, linear between them.
fn integral(lengths: &[i64], times: &[f64]) -> f64 {
    let mut sum = times.first().copied().unwrap_or(0.0);
    for (lengths, times) in lengths.windows(2).zip(times.windows(2)) {
        for length in lengths[0] + 1..=lengths[1] {
            let share = (length - lengths[0]) as f64 / (lengths[1] - lengths[0]) as f64;
            sum += times[0] + (times[1] - times[0]) * share;
        }
    }
    sum
}

/// A feed-forward's first layer, for as many layers as do not fit any cache: ours and libtorch's, against reading the weights.
pub fn linear() -> Result<(), Error> {
    const LAYERS: usize = 24;
    let (inputs, outputs) = (1152, 4608);
    let options = (Kind::Float, Device::Cpu);
    let _guard = tch::no_grad_guard();
    let weights = (0..LAYERS).map(|_| Tensor::f_randn([outputs, inputs], options)).collect::<Result<Vec<_>, _>>()?;
    let bytes = LAYERS as f64 * (inputs * outputs) as f64 * 4.0;
    println!("linear layers 1152 to 4608, {:.0} MB of weights; ms for all, best of 5", bytes / 1e6);
    for rows in [1, 4, 8, 16, 32] {
        let x = Tensor::f_randn([rows, inputs], options)?;
        let (mut read, mut ours, mut torchs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..5 {
            read.push(time(&weights, |weight| weight.f_sum(Kind::Float))?);
            ours.push(time(&weights, |weight| linear_of(&x, weight, None, Instructions::Best))?);
            torchs.push(time(&weights, |weight| x.f_linear(weight, None::<&Tensor>))?);
        }
        let [read, ours, torchs] = [read, ours, torchs].map(|times| best(&times) * 1e3);
        println!(
            "  {rows:>2} rows: read once {read:.1}, ours {ours:.1}, libtorch {torchs:.1}; libtorch / ours {:.2}",
            torchs / ours
        );
    }
    Ok(())
}

/// Seconds to do `work` for all weights.
fn time(weights: &[Tensor], work: impl Fn(&Tensor) -> Result<Tensor, tch::TchError>) -> Result<f64, Error> {
    let start = Instant::now();
    for weight in weights {
        let _ = work(weight)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// A cached step of the GPT at batch 1 against reading as many bytes once.
pub fn gpt() -> Result<(), Error> {
    let config = Shapes::released()?.gpt;
    let network = random(&config, Placement::cpu())?;
    let scale = Tensor::f_full([1], 2, IDS)?;
    let source = Source { scale: &scale, condition: ConditionIds::None, x_t: None };
    let parameters = config.parameters();
    let buffer = Tensor::f_ones([parameters], (Kind::Float, Device::Cpu))?;
    let mut reads = Vec::new();
    let mut all = Vec::new();
    for _ in 0..3 {
        for _ in 0..5 {
            let start = Instant::now();
            let _ = buffer.f_sum(Kind::Float)?;
            reads.push(start.elapsed().as_secs_f64());
        }
        let (_, steps) = decode(&network, &source)?;
        all.extend_from_slice(&steps[1..]);
    }
    let bytes = parameters as f64 * 4.0;
    println!("gpt, 36 layers, dim 1216, batch 1: {:.0} M parameters, {:.2} GB", parameters as f64 / 1e6, bytes / 1e9);
    println!(
        "  read once: {:.1} ms (median {:.1}), {:.1} GB/s",
        best(&reads) * 1e3,
        median(&reads) * 1e3,
        bytes / best(&reads) / 1e9
    );
    println!("  a step: {:.1} ms (best {:.1})", median(&all) * 1e3, best(&all) * 1e3);
    println!("  ratio of medians {:.2}, of bests {:.2}", median(&all) / median(&reads), best(&all) / best(&reads));
    Ok(())
}
