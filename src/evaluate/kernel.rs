//! The kernel distance (Bińkowski et al., "Demystifying MMD GANs", ICLR 2018): the squared maximum mean discrepancy with the
//! kernel k(x, y) = (x·y / dims + 1)³, unbiased.

use super::{MetricError, numbers, rows, shape};
use crate::random::{Purpose, RowKey};
use tch::{Kind, TchError, Tensor};

/// Rows of one side of a block of the kernel matrix.
const BLOCK: i64 = 2048;

/// How the distance is estimated: over subsets, whose spread tells how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KidSettings {
    pub subsets: u32,
    /// Rows of a subset, of either side; fewer where a side has fewer.
    pub size: u32,
    pub seed: u64,
}

impl Default for KidSettings {
    /// 100 subsets of 1000, as torchmetrics and torch-fidelity take.
    fn default() -> Self {
        KidSettings { subsets: 100, size: 1000, seed: 0 }
    }
}

/// A kernel distance.
#[derive(Clone, Debug, PartialEq)]
pub struct Kid {
    /// Mean over the subsets.
    pub distance: f64,
    /// Standard deviation over the subsets (the population's, as numpy's `std`).
    pub spread: f64,
    /// What each generated row adds to it, to first order and up to a constant: twice its mean kernel with (at most 2 × size) generated
    /// rows, less that with as many reference rows.
    pub contributions: Vec<f64>,
}

impl Kid {
    /// The distance of `generated` from `reference` features, `[rows, dims]` each.
    ///
    /// # Errors
    /// [`MetricError::TooFew`] below two rows, [`MetricError::Dims`].
    pub fn between(generated: &Tensor, reference: &Tensor, settings: KidSettings) -> Result<Kid, MetricError> {
        let (count, of_reference) = sides(generated, reference)?;
        let size = i64::from(settings.size).min(count).min(of_reference);
        let mut distances = Vec::with_capacity(settings.subsets as usize);
        for subset in 0..u64::from(settings.subsets.max(1)) {
            let pick = |features: &Tensor, side: u32, rows: i64| -> Result<Tensor, MetricError> {
                let chosen = subset_of(RowKey::new(settings.seed, "kid", subset, side), rows, size);
                Ok(features.f_index_select(0, &Tensor::f_from_slice(&chosen)?.f_to_device(features.device())?)?)
            };
            distances.push(kernel_distance(&pick(generated, 0, count)?, &pick(reference, 1, of_reference)?)?);
        }
        let mean = distances.iter().sum::<f64>() / distances.len() as f64;
        let variance = distances.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / distances.len() as f64;
        let contributions = contributions(generated, reference, settings)?;
        Ok(Kid { distance: mean, spread: variance.sqrt(), contributions })
    }
}

/// The unbiased estimate over all rows of both sides, `[rows, dims]` each, in float64 and in blocks.
///
/// # Errors
/// [`MetricError::TooFew`] below two rows, [`MetricError::Dims`].
pub fn kernel_distance(generated: &Tensor, reference: &Tensor) -> Result<f64, MetricError> {
    let (n, m) = sides(generated, reference)?;
    let within = |features: &Tensor, count: i64| -> Result<f64, MetricError> {
        // The diagonal is k(x, x) = (|x|² / dims + 1)³.
        let mut diagonal = 0.0;
        for from in (0..count).step_by(BLOCK as usize) {
            let part = rows(features, from, BLOCK)?;
            let dims = part.size().get(1).copied().unwrap_or(1).max(1) as f64;
            let length = part.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
            let own = length.f_div_scalar(dims)?.f_add_scalar(1.0)?.f_pow_tensor_scalar(3)?;
            diagonal += own.f_sum(Kind::Double)?.f_double_value(&[])?;
        }
        Ok((kernel_sum(features, features)? - diagonal) / (count as f64 * (count - 1) as f64))
    };
    let between = kernel_sum(generated, reference)? / (n as f64 * m as f64);
    Ok(within(generated, n)? + within(reference, m)? - 2.0 * between)
}

/// Rows of both sides, which must go together.
fn sides(generated: &Tensor, reference: &Tensor) -> Result<(i64, i64), MetricError> {
    let ((n, found), (m, expected)) = (shape(generated)?, shape(reference)?);
    if found != expected {
        return Err(MetricError::Dims { expected, found });
    }
    match n.min(m) {
        rows if rows < 2 => Err(MetricError::TooFew { metric: "the kernel distance", needed: 2, found: rows as u64 }),
        _ => Ok((n, m)),
    }
}

/// Kernels of all pairs, `[rows of x, rows of y]`.
fn kernel(x: &Tensor, y: &Tensor) -> Result<Tensor, TchError> {
    let dims = x.size().get(1).copied().unwrap_or(1).max(1) as f64;
    x.f_matmul(&y.f_tr()?)?.f_div_scalar(dims)?.f_add_scalar(1.0)?.f_pow_tensor_scalar(3)
}

fn kernel_sum(x: &Tensor, y: &Tensor) -> Result<f64, MetricError> {
    let mut sum = 0.0;
    for i in (0..shape(x)?.0).step_by(BLOCK as usize) {
        let left = rows(x, i, BLOCK)?;
        for j in (0..shape(y)?.0).step_by(BLOCK as usize) {
            sum += kernel(&left, &rows(y, j, BLOCK)?)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        }
    }
    Ok(sum)
}

/// See [`Kid::contributions`].
fn contributions(generated: &Tensor, reference: &Tensor, settings: KidSettings) -> Result<Vec<f64>, MetricError> {
    let anchors = |features: &Tensor, side: u32| -> Result<Tensor, MetricError> {
        let count = shape(features)?.0;
        let chosen = subset_of(RowKey::new(settings.seed, "kid", u64::MAX, side), count, 2 * i64::from(settings.size));
        let chosen = Tensor::f_from_slice(&chosen)?.f_to_device(features.device())?;
        Ok(features.f_index_select(0, &chosen)?.f_to_kind(Kind::Double)?)
    };
    let (own, other) = (anchors(generated, 0)?, anchors(reference, 1)?);
    let mut contributions = Vec::new();
    for from in (0..shape(generated)?.0).step_by(BLOCK as usize) {
        let part = rows(generated, from, BLOCK)?;
        let mean = |anchors: &Tensor| kernel(&part, anchors)?.f_mean_dim([1i64].as_slice(), false, Kind::Double);
        contributions.extend(numbers(&mean(&own)?.f_sub(&mean(&other)?)?.f_mul_scalar(2.0)?)?);
    }
    Ok(contributions)
}

/// `size` different rows out of `count`, ascending (Floyd, in Bentley, "Programming pearls: a sample of brilliance", 1987).
fn subset_of(key: RowKey, count: i64, size: i64) -> Vec<i64> {
    if size >= count {
        return (0..count).collect();
    }
    let mut chosen = std::collections::BTreeSet::new();
    for (position, last) in (0u32..).zip(count - size..count) {
        let bound = u32::try_from(last + 1).unwrap_or(u32::MAX);
        let drawn = i64::from(key.below(Purpose::Subset, position, bound));
        if !chosen.insert(drawn) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}
