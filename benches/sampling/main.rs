//! Sampling tokens: the cached path against recomputation, against the time its weights take to be read, and whole chains on a
//! GPU.
//!
//! `cargo bench --bench sampling` measures on the CPU, each ratio within one run; `-- linear`, `-- encoder-decoder` or `-- gpt` only one
//! part. `-- --device cuda` measures images a second of FFHQ-2 in bf16 at batch 50 and 256; `-- --device cpu --tiny` runs the same
//! code on a small chain, to see that it works.

mod cpu;
mod networks;
mod throughput;

use imagebart::torch::device::DeviceChoice;
use networks::Shapes;

type Error = Box<dyn std::error::Error>;
type Measure = fn() -> Result<(), Error>;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    println!("{} threads", tch::get_num_threads());
    if let Some(at) = arguments.iter().position(|argument| argument == "--device") {
        let choice = arguments.get(at + 1).map_or("auto", String::as_str).parse::<DeviceChoice>()?;
        let (shapes, batches) =
            if has("--tiny") { (Shapes::tiny()?, [2, 3]) } else { (Shapes::released()?, [50, 256]) };
        return throughput::run(&choice.resolve()?, &shapes, &batches);
    }
    let parts: [(&str, Measure); 3] =
        [("linear", cpu::linear), ("encoder-decoder", cpu::encoder_decoder), ("gpt", cpu::gpt)];
    let named = parts.iter().any(|(name, _)| has(name));
    parts.into_iter().filter(|(name, _)| !named || has(name)).try_for_each(|(_, measure)| measure())
}

/// The middle one of seconds.
fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The shortest of seconds.
fn best(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}
