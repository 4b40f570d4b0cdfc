//! Where the dead entries of a codebook are placed anew.

use crate::random::{Purpose, RowKey};
use tch::{Device, Kind, TchError, Tensor};

/// Euclidean distances one by one, not through a product of matrices, which would leave a distance between equal rows.
const EXACT: i64 = 2;

/// Up to `count` rows of the features `[N, D]`, each drawn with a chance in proportion to its squared distance from the nearest of
/// the entries `alive` (`[K, D]`) and of the rows drawn before it (k-means++, Arthur and Vassilvitskii 2007). Drawn evenly instead,
/// nearly all would lie in what most of an image is, where entries stand already. Fewer, when no row lies apart from all these.
pub fn far_rows(features: &Tensor, alive: &Tensor, count: usize, key: RowKey) -> Result<Vec<i64>, TchError> {
    let (rows, width) = features.size2()?;
    let nearest = match alive.size2()?.0 {
        0 => Tensor::f_ones([rows], (Kind::Float, features.device()))?,
        _ => Tensor::f_cdist(features, alive, 2.0, EXACT)?.f_min_dim(1, false)?.0,
    };
    let mut squares: Vec<f64> = Vec::try_from(nearest.f_square()?.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?;
    let flat = features.f_detach()?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?.f_view(-1)?;
    let flat = Vec::<f32>::try_from(flat)?;
    let features: Vec<&[f32]> = flat.chunks_exact(usize::try_from(width).unwrap_or(1).max(1)).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let position = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
        let Some(row) = draw(&squares, key.uniform(Purpose::Restart, position).into()) else { break };
        for (square, feature) in squares.iter_mut().zip(&features) {
            let apart = feature.iter().zip(features[row]).map(|(a, b)| f64::from(a - b).powi(2));
            *square = square.min(apart.sum());
        }
        chosen.push(row as i64);
    }
    Ok(chosen)
}

/// The index that the number `at`, in `[0, 1)`, stands for, with chances in proportion to the weights; none when all are zero, or
/// one is no number.
fn draw(weights: &[f64], at: f64) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    if !(total > 0.0 && total.is_finite()) {
        return None;
    }
    let mut left = at * total;
    let passed = |weight: &f64| {
        left -= weight;
        left < 0.0 && *weight > 0.0
    };
    // Rounding can leave a rest behind the last weight.
    weights.iter().position(passed).or_else(|| weights.iter().rposition(|&weight| weight > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_few_where_features_are_alike() -> Result<(), TchError> {
        // A thousand features of plain ground and four of drawings, of which an entry stands for the ground.
        let mut values: Vec<f32> = (0..1000).map(|i| i as f32 * 1e-5).collect();
        values.extend([3.0, 5.0, 5.0, 8.0]);
        let features = Tensor::from_slice(&values).view([-1, 1]);
        let alive = Tensor::from_slice(&[0.005f32]).view([1, 1]);
        for seed in 0..20 {
            let mut rows = far_rows(&features, &alive, 3, RowKey::new(seed, "test", 0, 0))?;
            rows.sort_unstable();
            assert!(matches!(rows[..], [1000, 1001 | 1002, 1003]), "{rows:?}");
        }
        Ok(())
    }

    #[test]
    fn no_two_entries_are_placed_at_the_same_feature() -> Result<(), TchError> {
        let features = Tensor::from_slice(&[1.0f32, 2.0, 2.0, 1.0, 4.0]).view([-1, 1]);
        let none = Tensor::zeros([0, 1], (Kind::Float, Device::Cpu));
        assert_eq!(far_rows(&features, &none, 9, RowKey::new(7, "test", 0, 0))?.len(), 3);
        assert_eq!(far_rows(&features, &features, 9, RowKey::new(7, "test", 0, 0))?, Vec::<i64>::new());
        let odd = Tensor::from_slice(&[1.0f32, f32::NAN]).view([-1, 1]);
        assert_eq!(far_rows(&odd, &features, 9, RowKey::new(7, "test", 0, 0))?, Vec::<i64>::new());
        Ok(())
    }

    #[test]
    fn draws_follow_the_weights() {
        let found = [0.0, 0.24, 0.26, 0.99, 1.0].map(|at| draw(&[0.0, 1.0, 0.0, 3.0, 0.0], at));
        assert_eq!(found, [Some(1), Some(1), Some(3), Some(3), Some(3)]);
        assert_eq!(draw(&[0.0], 0.5), None);
    }
}
