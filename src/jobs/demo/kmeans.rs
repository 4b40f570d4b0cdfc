//! k-means over feature vectors: Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii, SODA 2007).
//!
//! Plain single-threaded f32: the codebook depends on the features and the seed alone.

use crate::random::{Purpose, RowKey};

/// Centres of `points` (`[n, dim]`, row-major) as `[k, dim]`, row-major, after `rounds` rounds of Lloyd's algorithm.
/// Centres that lose all their points stay where they are. Without points or dimensions there are no centres.
pub fn centres(points: &[f32], dim: usize, k: usize, rounds: usize, seed: u64) -> Vec<f32> {
    if dim == 0 || points.len() < dim {
        return Vec::new();
    }
    let mut centres = start(points, dim, k, seed);
    for _ in 0..rounds {
        let nearest = Nearest::new(&centres, dim);
        let mut sums = vec![0f64; centres.len()];
        let mut counts = vec![0u32; k];
        for point in points.chunks_exact(dim) {
            let centre = nearest.index(point);
            counts[centre] += 1;
            for (sum, value) in sums[centre * dim..].iter_mut().zip(point) {
                *sum += f64::from(*value);
            }
        }
        for ((centre, sum), count) in centres.chunks_exact_mut(dim).zip(sums.chunks_exact(dim)).zip(counts) {
            for (value, sum) in centre.iter_mut().zip(sum) {
                *value = if count == 0 { *value } else { (sum / f64::from(count)) as f32 };
            }
        }
    }
    centres
}

/// k-means++: each centre a point drawn with probability proportional to its squared distance to those before.
fn start(points: &[f32], dim: usize, k: usize, seed: u64) -> Vec<f32> {
    let row = RowKey::new(seed, "demo/kmeans", 0, 0);
    let count = points.len() / dim;
    let mut centres = Vec::with_capacity(k * dim);
    let mut distances = vec![f64::INFINITY; count];
    for draw in 0..k {
        let chosen = if draw == 0 {
            row.below(Purpose::Init, 0, u32::try_from(count).unwrap_or(u32::MAX)) as usize
        } else {
            let total: f64 = distances.iter().sum();
            let mut left = total * f64::from(row.uniform(Purpose::Init, draw as u32));
            let passed = distances.iter().position(|distance| {
                left -= distance;
                left < 0.0
            });
            passed.unwrap_or(count - 1)
        };
        let centre = &points[chosen * dim..(chosen + 1) * dim];
        centres.extend_from_slice(centre);
        for (distance, point) in distances.iter_mut().zip(points.chunks_exact(dim)) {
            let square: f32 = point.iter().zip(centre).map(|(a, b)| (a - b) * (a - b)).sum();
            *distance = distance.min(f64::from(square));
        }
    }
    centres
}

/// Finds nearest centres: |e|² − 2 z·e, the centres transposed so that the inner loop runs over them and vectorises.
struct Nearest {
    squares: Vec<f32>,
    /// `[dim, k]`, times −2.
    transposed: Vec<f32>,
}

impl Nearest {
    fn new(centres: &[f32], dim: usize) -> Nearest {
        let k = centres.len() / dim;
        let squares = centres.chunks_exact(dim).map(|centre| centre.iter().map(|v| v * v).sum()).collect();
        let transposed = (0..dim * k).map(|i| -2.0 * centres[(i % k) * dim + i / k]).collect();
        Nearest { squares, transposed }
    }

    fn index(&self, point: &[f32]) -> usize {
        let mut scores = self.squares.clone();
        for (&value, row) in point.iter().zip(self.transposed.chunks_exact(self.squares.len())) {
            for (score, factor) in scores.iter_mut().zip(row) {
                *score += value * factor;
            }
        }
        let best = scores.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
        best.map_or(0, |(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 30 points round each of the corners of a square.
    fn clouds() -> Vec<f32> {
        let row = RowKey::new(0, "clouds", 0, 0);
        let noise = |i: usize| row.uniform(Purpose::Init, i as u32) - 0.5;
        let corner = |i: usize| [(i % 2) as f32 * 10.0, (i / 2 % 2) as f32 * 10.0];
        (0..120).flat_map(|i| [corner(i)[0] + noise(2 * i), corner(i)[1] + noise(2 * i + 1)]).collect()
    }

    #[test]
    fn finds_the_clouds() {
        // A mean of 30 points lies within 0.3 of its corner: five standard deviations.
        let tens = |value: f32| ((value / 10.0).round() as i32, (value / 10.0 - (value / 10.0).round()).abs() < 0.03);
        let found = centres(&clouds(), 2, 4, 10, 3);
        assert!(found.iter().all(|&value| tens(value).1), "{found:?}");
        let mut found: Vec<[i32; 2]> = found.chunks_exact(2).map(|c| [tens(c[0]).0, tens(c[1]).0]).collect();
        found.sort_unstable();
        assert_eq!(found, [[0, 0], [0, 1], [1, 0], [1, 1]]);
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(centres(&clouds(), 2, 7, 2, 3), centres(&clouds(), 2, 7, 2, 3));
        assert_ne!(centres(&clouds(), 2, 7, 0, 3), centres(&clouds(), 2, 7, 0, 4));
    }

    #[test]
    fn fewer_points_than_centres_are_no_trouble() {
        assert_eq!(centres(&[1.0, 2.0], 2, 3, 5, 0), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
        assert!(centres(&[], 2, 3, 5, 0).is_empty());
        assert!(centres(&[1.0], 0, 3, 5, 0).is_empty());
    }
}
