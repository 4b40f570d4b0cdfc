//! The Inception Score (Salimans et al., "Improved techniques for training GANs", NeurIPS 2016).

use super::{MetricError, checked, numbers, shape};
use tch::{Kind, Tensor};

/// An Inception Score: exp(E KL(p(y|x) ‖ p(y))), mean over splits.
#[derive(Clone, Debug, PartialEq)]
pub struct InceptionScore {
    /// Mean over the splits.
    pub score: f64,
    /// Standard deviation over the splits (the population's, as the original code's `np.std`).
    pub spread: f64,
    /// What each row adds to the score, to first order and up to a constant.
    pub contributions: Vec<f64>,
}

/// The score of a classifier's `logits`, `[rows, classes]`, over `splits` consecutive parts of the rows: part i is rows
/// i·n/splits up to (i+1)·n/splits. In float64.
///
/// # Errors
/// [`MetricError::TooFew`] below one row a split; [`MetricError::NotFinite`].
pub fn inception_score(logits: &Tensor, splits: u32) -> Result<InceptionScore, MetricError> {
    let (count, _) = shape(logits)?;
    let splits = i64::from(splits.max(1));
    if count < splits {
        let (needed, found) = (splits as u64, count as u64);
        return Err(MetricError::TooFew { metric: "the Inception Score", needed, found });
    }
    let mut scores = Vec::with_capacity(splits as usize);
    let mut contributions = Vec::with_capacity(count as usize);
    for split in 0..splits {
        let (from, to) = (split * count / splits, (split + 1) * count / splits);
        let part = checked(&logits.f_narrow(0, from, to - from)?, from as u64)?;
        let log_p = part.f_log_softmax(1, Kind::Double)?;
        let p = log_p.f_exp()?;
        let marginal = p.f_mean_dim([0i64].as_slice(), true, Kind::Double)?.f_log()?;
        // A class that nothing is of has p = 0 and log 0.
        let divergence = p.f_mul(&log_p.f_sub(&marginal)?)?.f_nan_to_num(0.0, None::<f64>, None::<f64>)?;
        let divergence = numbers(&divergence.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?)?;
        let score = (divergence.iter().sum::<f64>() / divergence.len() as f64).exp();
        contributions.extend(divergence.iter().map(|it| score * it));
        scores.push(score);
    }
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let variance = scores.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / scores.len() as f64;
    Ok(InceptionScore { score: mean, spread: variance.sqrt(), contributions })
}
