//! Training a chain on the CPU: the loader alone, and a step of a chain's networks against the same networks written plainly.
//!
//! `cargo bench --bench chain_training` measures both; `-- loader` or `-- step` one of them, `-- step 64` grids of 64 tokens alone. The loader's figure is meant for one core:
//! `taskset -c 0 cargo bench --bench chain_training -- loader`. Steps of ours and of the plain network alternate within one run.

mod loader;
mod phases;
mod plain;
mod step;

type Error = Box<dyn std::error::Error>;
type Measure = fn(&[String]) -> Result<(), Error>;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let parts: [(&str, Measure); 2] = [("loader", loader::run), ("step", step::run)];
    let named = parts.iter().any(|(name, _)| has(name));
    parts.into_iter().filter(|(name, _)| !named || has(name)).try_for_each(|(_, measure)| measure(&arguments))
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
