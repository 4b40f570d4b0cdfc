//! Mean and covariance of features, summed as they come.

use super::{MetricError, checked};
use tch::{Device, Kind, TchError, Tensor};

/// Sums over rows of features in float64, whose size does not grow with the rows. Two of them can be merged (Chan, Golub and
/// LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979): centred sums lose no digits to
/// a mean far from 0.
#[derive(Debug)]
pub struct Moments {
    count: u64,
    /// `[dims]`.
    mean: Tensor,
    /// Sum of outer products of the centred rows, `[dims, dims]`.
    scatter: Tensor,
}

/// A mean and a covariance: all that a Fréchet distance needs of features.
#[derive(Debug)]
pub struct Gaussian {
    /// float64 `[dims]`.
    pub mean: Tensor,
    /// The unbiased one, float64 `[dims, dims]`.
    pub covariance: Tensor,
    /// Rows it was made of, where that is known.
    pub rows: Option<u64>,
}

impl Moments {
    /// Sums over no rows.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn new(dims: i64, device: Device) -> Result<Moments, MetricError> {
        let zeros = |shape: &[i64]| Tensor::f_zeros(shape, (Kind::Double, device));
        Ok(Moments { count: 0, mean: zeros(&[dims])?, scatter: zeros(&[dims, dims])? })
    }

    /// Rows so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds features, `[rows, dims]` on the device of the sums.
    ///
    /// # Errors
    /// [`MetricError::NotFinite`] with the row counted from the first ever added, [`MetricError::Dims`].
    pub fn add(&mut self, features: &Tensor) -> Result<(), MetricError> {
        let rows = checked(features, self.count)?;
        let (count, dims) = super::shape(&rows)?;
        self.same_dims(dims)?;
        if count == 0 {
            return Ok(());
        }
        let mean = rows.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
        let centred = rows.f_sub(&mean)?;
        let scatter = centred.f_tr()?.f_matmul(&centred)?;
        self.merge(&Moments { count: count as u64, mean, scatter })
    }

    /// Adds the rows of other sums.
    ///
    /// # Errors
    /// [`MetricError::Dims`].
    pub fn merge(&mut self, other: &Moments) -> Result<(), MetricError> {
        self.same_dims(other.dims())?;
        let total = self.count + other.count;
        if other.count == 0 {
            return Ok(());
        }
        let share = other.count as f64 / total as f64;
        let shift = other.mean.f_sub(&self.mean)?;
        let between = shift.f_outer(&shift)?.f_mul_scalar(self.count as f64 * share)?;
        self.scatter = self.scatter.f_add(&other.scatter)?.f_add(&between)?;
        self.mean = self.mean.f_add(&shift.f_mul_scalar(share)?)?;
        self.count = total;
        Ok(())
    }

    /// Mean and unbiased covariance of the rows so far.
    ///
    /// # Errors
    /// [`MetricError::TooFew`] below two rows.
    pub fn gaussian(&self) -> Result<Gaussian, MetricError> {
        if self.count < 2 {
            return Err(MetricError::TooFew { metric: "a covariance", needed: 2, found: self.count });
        }
        let covariance = self.scatter.f_div_scalar((self.count - 1) as f64)?;
        Ok(Gaussian { mean: self.mean.shallow_clone(), covariance, rows: Some(self.count) })
    }

    fn dims(&self) -> i64 {
        self.mean.size().first().copied().unwrap_or(0)
    }

    fn same_dims(&self, found: i64) -> Result<(), MetricError> {
        let expected = self.dims();
        if found == expected { Ok(()) } else { Err(MetricError::Dims { expected, found }) }
    }
}

impl Gaussian {
    /// A mean `[dims]` and a covariance `[dims, dims]` of others, checked.
    ///
    /// # Errors
    /// [`MetricError::Shape`], [`MetricError::NotFinite`].
    pub fn new(mean: &Tensor, covariance: &Tensor, rows: Option<u64>) -> Result<Gaussian, MetricError> {
        let [dims] = mean.size()[..] else { return Err(MetricError::Shape(mean.size())) };
        if covariance.size() != [dims, dims] {
            return Err(MetricError::Shape(covariance.size()));
        }
        let mean = checked(&mean.f_unsqueeze(0)?, 0)?.f_squeeze_dim(0)?;
        Ok(Gaussian { mean, covariance: checked(covariance, 0)?, rows })
    }

    /// Dimensions of the features.
    pub fn dims(&self) -> i64 {
        self.mean.size().first().copied().unwrap_or(0)
    }

    /// The same on another device.
    ///
    /// # Errors
    /// No memory there.
    pub fn to_device(&self, device: Device) -> Result<Gaussian, TchError> {
        let (mean, covariance) = (self.mean.f_to_device(device)?, self.covariance.f_to_device(device)?);
        Ok(Gaussian { mean, covariance, rows: self.rows })
    }
}
