//! The Fréchet distance of two Gaussians (Dowson and Landau 1982; as FID: Heusel et al., NeurIPS 2017, eq. 6).

use super::{Gaussian, MetricError, numbers, rows};
use tch::{Kind, TchError, Tensor};

/// Rows whose contributions are computed at once.
const BLOCK: i64 = 4096;

/// What to do with covariances that do not have full rank: too few rows, or features that never vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Singular {
    Refuse,
    /// The distance is defined for them, too; its bias is large.
    Allow,
}

/// A Fréchet distance and its parts.
#[derive(Debug)]
pub struct Frechet {
    /// means + covariances.
    pub distance: f64,
    /// |m₁ - m₂|².
    pub means: f64,
    /// tr(S₁ + S₂ - 2 (S₁ S₂)^½).
    pub covariances: f64,
    /// Ranks of the first and the second covariance.
    pub ranks: (i64, i64),
    centre: Tensor,
    slope: Tensor,
    curvature: Tensor,
}

/// The distance of `generated` features from those of a `reference`.
///
/// The trace of the square root is the sum of the roots of the eigenvalues of S₂^½ S₁ S₂^½, which are those of S₁ S₂; S₂^½ is the
/// symmetric root, and all of it symmetric eigen-decompositions in float64. Unlike the root of S₁ S₂ itself (scipy's `sqrtm`), they
/// neither fail near singular matrices nor turn complex. What eigenvalues lie beyond the smaller of the ranks are rounding errors,
/// and left out.
///
/// # Errors
/// [`MetricError::Dims`]; [`MetricError::Singular`], unless it is allowed.
pub fn frechet(generated: &Gaussian, reference: &Gaussian, singular: Singular) -> Result<Frechet, MetricError> {
    let (dims, found) = (reference.dims(), generated.dims());
    if dims != found {
        return Err(MetricError::Dims { expected: dims, found });
    }
    let (values, vectors) = symmetric(&reference.covariance)?.f_linalg_eigh("L")?;
    let ranks = (rank(&symmetric(&generated.covariance)?.f_linalg_eigvalsh("L")?)?, rank(&values)?);
    for (set, rank) in [("generated", ranks.0), ("reference", ranks.1)] {
        if rank < dims && singular == Singular::Refuse {
            return Err(MetricError::Singular { set, rank, dims });
        }
    }
    let half = vectors.f_mul(&largest(&values, ranks.1)?.f_sqrt()?)?.f_matmul(&vectors.f_tr()?)?;
    let product = half.f_matmul(&symmetric(&generated.covariance)?)?.f_matmul(&half)?;
    let (squares, vectors) = symmetric(&product)?.f_linalg_eigh("L")?;
    let roots = largest(&squares, ranks.0.min(ranks.1))?.f_sqrt()?;
    let trace = |matrix: &Tensor| matrix.f_trace()?.f_double_value(&[]);
    let shift = generated.mean.f_sub(&reference.mean)?;
    let means = shift.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    let root = roots.f_sum(Kind::Double)?.f_double_value(&[])?;
    let covariances = trace(&generated.covariance)? + trace(&reference.covariance)? - 2.0 * root;
    Ok(Frechet {
        distance: means + covariances,
        means,
        covariances,
        ranks,
        centre: generated.mean.shallow_clone(),
        slope: shift.f_mul_scalar(2.0)?,
        curvature: curvature(&half, &roots, &vectors)?,
    })
}

impl Frechet {
    /// What each generated row adds to the distance, to first order and up to a constant: the derivatives by the mean and by the
    /// covariance, along the row. Their mean over a resample, less that over all rows, is how far the distance moves with it.
    ///
    /// # Errors
    /// [`MetricError::Dims`].
    pub fn contributions(&self, features: &Tensor) -> Result<Vec<f64>, MetricError> {
        let (count, found) = super::shape(features)?;
        let expected = self.centre.size().first().copied().unwrap_or(0);
        if expected != found {
            return Err(MetricError::Dims { expected, found });
        }
        let mut contributions = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        for from in (0..count).step_by(BLOCK as usize) {
            let centred = rows(features, from, BLOCK)?.f_to_device(self.centre.device())?.f_sub(&self.centre)?;
            let square = centred.f_matmul(&self.curvature)?.f_mul(&centred)?;
            let square = square.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
            contributions.extend(numbers(&square.f_add(&centred.f_mv(&self.slope)?)?)?);
        }
        Ok(contributions)
    }
}

/// What rounding made of a symmetric matrix, symmetric again.
fn symmetric(matrix: &Tensor) -> Result<Tensor, TchError> {
    matrix.f_add(&matrix.f_tr()?)?.f_div_scalar(2.0)
}

/// How many of a covariance's eigenvalues lie above rounding errors of the largest one.
fn rank(values: &Tensor) -> Result<i64, TchError> {
    let dims = values.size().first().copied().unwrap_or(0) as f64;
    let least = values.f_max()?.f_double_value(&[])?.max(0.0) * f64::EPSILON * dims;
    values.f_gt(least)?.f_sum(Kind::Int64)?.f_int64_value(&[])
}

/// Ascending eigenvalues, 0 but for the `count` largest ones; none is below 0.
fn largest(values: &Tensor, count: i64) -> Result<Tensor, TchError> {
    let kept = values.f_clamp_min(0.0)?;
    let dropped = kept.size().first().copied().unwrap_or(0) - count;
    let _ = kept.f_narrow(0, 0, dropped.max(0))?.f_zero_()?;
    Ok(kept)
}

/// The distance's derivative by S₁: I - T, where T = S₂^½ (S₂^½ S₁ S₂^½)^-½ S₂^½ carries the first Gaussian to the second
/// (Takatsu, "Wasserstein geometry of Gaussian measures", 2011). `roots` and `vectors` are of the matrix in the middle.
fn curvature(half: &Tensor, roots: &Tensor, vectors: &Tensor) -> Result<Tensor, TchError> {
    let least = roots.f_max()?.f_double_value(&[])? * 1e-10;
    let inverse = roots.f_reciprocal()?.f_masked_fill(&roots.f_le(least)?, 0.0)?;
    let carried = half.f_matmul(vectors)?;
    let carried = carried.f_mul(&inverse)?.f_matmul(&carried.f_tr()?)?;
    let dims = roots.size().first().copied().unwrap_or(0);
    Tensor::f_eye(dims, (Kind::Double, roots.device()))?.f_sub(&carried)
}
