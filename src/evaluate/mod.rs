//! How good images are: the field's metrics, each as its source defines it, over tensors and plain buffers.
//!
//! - [`FeatureNetwork`]: features of images by a TorchScript module of the user's, and [`Statistics`] of a whole set of them;
//! - [`Moments`] and [`frechet()`]: Fréchet distance of features (FID), from means and covariances that are summed as features come;
//! - [`kernel_distance()`] and [`Kid`]: the unbiased kernel distance and its spread over subsets;
//! - [`inception_score()`]: from a classifier's logits;
//! - [`Manifolds`]: improved precision and recall, density and coverage, from exact neighbours;
//! - [`ssim()`], [`mean_difference()`]: images beside their reconstructions;
//! - [`Likelihood`]: the variational bound of a chain on token grids;
//! - [`Estimate`]: a metric with what each row adds to it, and from that its bootstrap interval.
//!
//! Features are `[rows, dims]` in any floating-point type; all sums are float64. What touches files says so: [`FeatureNetwork`] and [`Statistics`].
//!
//! ```
//! use imagebart::evaluate::{Moments, Singular, frechet};
//! use tch::{Device, Kind, Tensor};
//!
//! let mut moments = Moments::new(4, Device::Cpu)?;
//! let features = Tensor::f_arange(80, (Kind::Float, Device::Cpu))?.f_sin()?.f_view([20, 4])?;
//! for batch in features.f_chunk(3, 0)? {
//!     moments.add(&batch)?; // as they come
//! }
//! let gaussian = moments.gaussian()?;
//! assert!(frechet(&gaussian, &gaussian, Singular::Allow)?.distance.abs() < 1e-9);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bootstrap;
mod frechet;
mod inception;
mod kernel;
mod likelihood;
mod moments;
mod neighbours;
mod network;
mod pictures;
mod similarity;
mod statistics;

pub use bootstrap::{Difference, Estimate, Interval, difference};
pub use frechet::{Frechet, Singular, frechet};
pub use inception::{InceptionScore, inception_score};
pub use kernel::{Kid, KidSettings, kernel_distance};
pub use likelihood::{Likelihood, LikelihoodError};
pub use moments::{Gaussian, Moments};
pub use neighbours::{Manifolds, nearest, radii};
pub use network::{FeatureInput, FeatureNetwork, FeatureResize, Features, NetworkError};
pub use pictures::{PictureError, mean_difference};
pub use similarity::{Window, ssim};
pub use statistics::{Collector, Published, Statistics, StatisticsError};

use tch::{Kind, TchError, Tensor};

/// Why a metric has no value.
#[derive(Debug, thiserror::Error)]
pub enum MetricError {
    #[error("row {row} of the features has a value that is not finite: the network or its input is broken")]
    NotFinite { row: u64 },
    #[error("{metric} needs at least {needed} rows, and there are {found}")]
    TooFew { metric: &'static str, needed: u64, found: u64 },
    #[error("features of {found} dimensions cannot be compared with {expected}: they are of another network or layer")]
    Dims { expected: i64, found: i64 },
    #[error("features must be [rows, dims], not of shape {0:?}")]
    Shape(Vec<i64>),
    #[error(
        "the covariance of the {set} features is singular (rank {rank} of {dims}): take more than {dims} different images, \
         or features of fewer dimensions"
    )]
    Singular { set: &'static str, rank: i64, dims: i64 },
    #[error("{0}")]
    Settings(&'static str),
    #[error("libtorch could not compute a metric: {0}")]
    Torch(#[from] TchError),
}

/// Features as float64 `[rows, dims]`, all finite. `before` rows came earlier.
fn checked(features: &Tensor, before: u64) -> Result<Tensor, MetricError> {
    let [_, _] = features.size()[..] else { return Err(MetricError::Shape(features.size())) };
    let finite = features.f_isfinite()?.f_all_dim(1, false)?;
    if finite.f_all()?.f_int64_value(&[])? == 0 {
        let row = finite.f_logical_not()?.f_to_kind(Kind::Int64)?.f_argmax(0, false)?.f_int64_value(&[])?;
        return Err(MetricError::NotFinite { row: before + row as u64 });
    }
    Ok(features.f_detach()?.f_to_kind(Kind::Double)?)
}

/// Rows and dimensions.
fn shape(features: &Tensor) -> Result<(i64, i64), MetricError> {
    match features.size()[..] {
        [rows, dims] => Ok((rows, dims)),
        _ => Err(MetricError::Shape(features.size())),
    }
}

/// Rows `from` up to `from + count`, or as many as there are, as float64.
fn rows(features: &Tensor, from: i64, count: i64) -> Result<Tensor, TchError> {
    let rows = features.size().first().copied().unwrap_or(0);
    features.f_narrow(0, from, count.min(rows - from))?.f_to_kind(Kind::Double)
}

/// A vector on the CPU as numbers.
fn numbers(vector: &Tensor) -> Result<Vec<f64>, TchError> {
    Vec::try_from(vector.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Double)?.f_flatten(0, -1)?)
}
