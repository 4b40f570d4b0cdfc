//! The metrics of features at their full sizes.
//!
//! `cargo bench --bench evaluate -- frechet`: the Fréchet distance of 2048 dimensions, against eigenvalues of the (unsymmetric) product
//! of the covariances, which is what torchmetrics takes.
//! `cargo bench --bench evaluate -- neighbours [ROWS]`: precision, recall, density and coverage of 2048 dimensions, and the process's
//! largest memory. Without arguments: the first, and neighbours of 10 000 rows.

use imagebart::evaluate::{Gaussian, Manifolds, MetricError, Moments, Singular, frechet};
use std::num::NonZeroUsize;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const DIMS: i64 = 2048;
const BATCH: i64 = 500;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    imagebart::torch::steady_heap();
    imagebart::torch::device::set_threads(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    tch::manual_seed(1);
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["frechet"] => distances(),
        ["neighbours"] => neighbours(50_000),
        ["neighbours", rows] => neighbours(rows.parse()?),
        [] => distances().and_then(|()| neighbours(10_000)),
        _ => Err("give nothing, frechet, or neighbours [ROWS]".into()),
    }
}

/// Features with eigenvalues over six orders of magnitude, as pooled features of an Inception network have.
struct Source {
    mix: Tensor,
}

impl Source {
    fn new() -> Result<Source, Failure> {
        let options = (Kind::Float, Device::Cpu);
        let spectrum = Tensor::f_logspace(0.0, -3.0, DIMS, 10.0, options)?;
        Ok(Source { mix: Tensor::f_randn([DIMS, DIMS], options)?.f_mul(&spectrum)?.f_div_scalar(45.0)? })
    }

    fn batch(&self, scale: f64) -> Result<Tensor, MetricError> {
        let noise = Tensor::f_randn([BATCH, DIMS], (Kind::Float, Device::Cpu))?;
        Ok(noise.f_matmul(&self.mix)?.f_mul_scalar(scale)?)
    }

    fn gaussian(&self, scale: f64) -> Result<Gaussian, MetricError> {
        let mut moments = Moments::new(DIMS, Device::Cpu)?;
        for _ in 0..10 {
            moments.add(&self.batch(scale)?)?;
        }
        moments.gaussian()
    }
}

fn distances() -> Result<(), Failure> {
    let source = Source::new()?;
    let start = Instant::now();
    let (first, second) = (source.gaussian(1.0)?, source.gaussian(1.1)?);
    println!("moments      {:.2} s for 10 000 rows with drawing them", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let found = frechet(&first, &second, Singular::Refuse)?;
    println!("frechet      {:.2} s: {:.9}", start.elapsed().as_secs_f64(), found.distance);
    let start = Instant::now();
    let product = first.covariance.f_matmul(&second.covariance)?;
    let root = product.f_linalg_eigvals()?.f_sqrt()?.f_real()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    let trace = |gaussian: &Gaussian| gaussian.covariance.f_trace()?.f_double_value(&[]);
    let plain = found.means + trace(&first)? + trace(&second)? - 2.0 * root;
    let error = ((plain - found.distance) / plain).abs();
    println!("eigenvalues  {:.2} s: {plain:.9}, apart by {error:.1e}", start.elapsed().as_secs_f64());
    let same = frechet(&first, &first, Singular::Refuse)?.distance;
    println!("identical    {same:.1e} of a trace of {:.1}", trace(&first)?);
    Ok(())
}

fn neighbours(rows: i64) -> Result<(), Failure> {
    let source = Source::new()?;
    let set = |scale: f64| -> Result<Tensor, Failure> {
        let batches: Result<Vec<Tensor>, MetricError> = (0..rows / BATCH).map(|_| source.batch(scale)).collect();
        Ok(Tensor::f_cat(&batches?, 0)?)
    };
    let (generated, reference) = (set(1.05)?, set(1.0)?);
    let start = Instant::now();
    let found = Manifolds::between(&generated, &reference, 3)?;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let [precision, recall] = [&found.precision, &found.recall].map(|values| mean(values));
    println!("neighbours   {:.1} s for {rows} x {DIMS}: {precision:.4}, {recall:.4}", start.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: unknown here");
    println!("memory       {peak}");
    Ok(())
}
