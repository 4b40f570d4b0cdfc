//! Precision, recall, density and coverage from exact nearest neighbours, in blocks.

use super::{MetricError, numbers, rows, shape};
use tch::{Kind, TchError, Tensor};

/// Rows of either side of a block of distances: 128 MiB in float64, and some times that on the way.
const BLOCK: i64 = 4096;

/// How two sets of features overlap, row by row; the metrics are means of these.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifolds {
    /// Of each generated row: 1 where a reference row has it within its radius, else 0. Kynkäänniemi et al., "Improved precision
    /// and recall metric for assessing generative models", NeurIPS 2019, eq. 1 and 2.
    pub precision: Vec<f64>,
    /// Of each reference row: 1 where a generated row has it within its radius, else 0.
    pub recall: Vec<f64>,
    /// Of each generated row: how many reference rows have it within their radius, over k. Naeem et al., "Reliable fidelity and
    /// diversity metrics for generative models", ICML 2020, eq. 4.
    pub density: Vec<f64>,
    /// Of each reference row: 1 where the nearest generated row lies within its radius, else 0 (eq. 5).
    pub coverage: Vec<f64>,
}

impl Manifolds {
    /// Compares `generated` with `reference` features, `[rows, dims]` each. A row's radius is the Euclidean distance to its `k`th
    /// neighbour in its own set; within means nearer than that. Distances are float64.
    ///
    /// # Errors
    /// [`MetricError::TooFew`] for k rows or fewer, [`MetricError::Dims`].
    pub fn between(generated: &Tensor, reference: &Tensor, k: u32) -> Result<Manifolds, MetricError> {
        let ((count, found), (of_reference, expected)) = (shape(generated)?, shape(reference)?);
        if found != expected {
            return Err(MetricError::Dims { expected, found });
        }
        let (own, other) = (radii(generated, k)?, radii(reference, k)?);
        let zeros = |rows: i64| Tensor::f_zeros([rows], (Kind::Double, reference.device()));
        let (mut recalled, mut covered) = (zeros(of_reference)?, zeros(of_reference)?);
        let (mut precision, mut density) = (Vec::new(), Vec::new());
        for i in (0..count).step_by(BLOCK as usize) {
            let left = Side::new(generated, i)?;
            let own = rows(&own, i, BLOCK)?.f_unsqueeze(1)?;
            let mut hits = zeros(left.count)?;
            for j in (0..of_reference).step_by(BLOCK as usize) {
                let right = Side::new(reference, j)?;
                let squares = left.squares(&right)?;
                let within = squares.f_lt_tensor(&rows(&other, j, BLOCK)?)?;
                hits = hits.f_add(&within.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?)?;
                let any = |mask: &Tensor| mask.f_any_dim(0, false)?.f_to_kind(Kind::Double);
                let mark = |marks: &Tensor, mask: &Tensor| -> Result<(), TchError> {
                    let mut part = marks.f_narrow(0, j, right.count)?;
                    part.f_copy_(&part.f_maximum(&any(mask)?)?)
                };
                mark(&recalled, &squares.f_lt_tensor(&own)?)?;
                mark(&covered, &within)?;
            }
            precision.extend(numbers(&hits.f_gt(0.0)?)?);
            density.extend(numbers(&hits.f_div_scalar(f64::from(k))?)?);
        }
        (recalled, covered) = (recalled.f_detach()?, covered.f_detach()?);
        Ok(Manifolds { precision, recall: numbers(&recalled)?, density, coverage: numbers(&covered)? })
    }
}

/// Of each row of `features`, the squared distance to its `k`th neighbour, not counting itself: float64 `[rows]`.
///
/// # Errors
/// [`MetricError::TooFew`] for k rows or fewer.
pub fn radii(features: &Tensor, k: u32) -> Result<Tensor, MetricError> {
    let (count, _) = shape(features)?;
    let k = i64::from(k.max(1));
    if count <= k {
        let (needed, found) = (k as u64 + 1, count as u64);
        return Err(MetricError::TooFew { metric: "the distance to a neighbour", needed, found });
    }
    // Distances are the same both ways: each pair of blocks is multiplied once.
    let starts = (0..count).step_by(BLOCK as usize);
    let mut best: Vec<Nearest> = starts.clone().map(|_| Nearest::new(k)).collect();
    for (row, i) in starts.clone().enumerate() {
        let left = Side::new(features, i)?;
        for (column, j) in starts.clone().enumerate().skip(row) {
            let mut squares = left.squares(&Side::new(features, j)?)?;
            if row == column {
                squares = squares.f_fill_diagonal_(f64::INFINITY, false)?;
            } else if let Some(best) = best.get_mut(column) {
                best.add(&squares.f_tr()?, i)?;
            }
            if let Some(best) = best.get_mut(row) {
                best.add(&squares, j)?;
            }
        }
    }
    let radii = best.into_iter().map(|mut best| Ok(best.squares()?.f_select(1, k - 1)?));
    Ok(Tensor::f_cat(&radii.collect::<Result<Vec<_>, MetricError>>()?, 0)?)
}

/// Of each row of `features`, its `k` nearest rows of `others`, nearest first: their numbers and squared distances, `[rows, k]`
/// int64 and float64.
///
/// # Errors
/// [`MetricError::TooFew`] for fewer than k others, [`MetricError::Dims`].
pub fn nearest(features: &Tensor, others: &Tensor, k: u32) -> Result<(Tensor, Tensor), MetricError> {
    let ((count, found), (of_others, expected)) = (shape(features)?, shape(others)?);
    if found != expected {
        return Err(MetricError::Dims { expected, found });
    }
    let k = i64::from(k.max(1));
    if of_others < k {
        let (needed, found) = (k as u64, of_others as u64);
        return Err(MetricError::TooFew { metric: "a list of neighbours", needed, found });
    }
    let (mut numbers, mut squares) = (Vec::new(), Vec::new());
    for i in (0..count).step_by(BLOCK as usize) {
        let left = Side::new(features, i)?;
        let mut best = Nearest::new(k);
        for j in (0..of_others).step_by(BLOCK as usize) {
            best.add(&left.squares(&Side::new(others, j)?)?, j)?;
        }
        squares.push(best.squares()?);
        numbers.push(best.numbers.ok_or(MetricError::Settings("no rows to look for neighbours in"))?);
    }
    Ok((Tensor::f_cat(&numbers, 0)?, Tensor::f_cat(&squares, 0)?))
}

/// A block of rows with their squared lengths.
struct Side {
    rows: Tensor,
    lengths: Tensor,
    count: i64,
}

impl Side {
    fn new(features: &Tensor, from: i64) -> Result<Side, TchError> {
        let rows = rows(features, from, BLOCK)?;
        let lengths = rows.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        let count = rows.size().first().copied().unwrap_or(0);
        Ok(Side { rows, lengths, count })
    }

    /// Squared distances, `[rows, rows of the other]`: |x|² + |y|² - 2 x·y, not below 0.
    fn squares(&self, other: &Side) -> Result<Tensor, TchError> {
        let mut squares = self.rows.f_matmul(&other.rows.f_tr()?)?;
        squares.f_mul_scalar_(-2.0)?.f_add_(&self.lengths.f_unsqueeze(1)?)?.f_add_(&other.lengths)?.f_clamp_min_(0.0)
    }
}

/// The k smallest of the columns seen so far, of each row.
struct Nearest {
    k: i64,
    squares: Option<Tensor>,
    numbers: Option<Tensor>,
}

impl Nearest {
    fn new(k: i64) -> Nearest {
        Nearest { k, squares: None, numbers: None }
    }

    /// Takes a block of squared distances whose first column is number `first`.
    fn add(&mut self, block: &Tensor, first: i64) -> Result<(), TchError> {
        let columns = block.size().get(1).copied().unwrap_or(0);
        let (mut squares, mut numbers) = block.f_topk(self.k.min(columns), 1, false, true)?;
        numbers = numbers.f_add_scalar(first)?;
        if let (Some(before), Some(named)) = (&self.squares, &self.numbers) {
            let (all, named) = (Tensor::f_cat(&[before, &squares], 1)?, Tensor::f_cat(&[named, &numbers], 1)?);
            let columns = all.size().get(1).copied().unwrap_or(0);
            let (best, places) = all.f_topk(self.k.min(columns), 1, false, true)?;
            (squares, numbers) = (best, named.f_gather(1, &places, false)?);
        }
        (self.squares, self.numbers) = (Some(squares), Some(numbers));
        Ok(())
    }

    /// `[rows, k]`, ascending.
    fn squares(&mut self) -> Result<Tensor, MetricError> {
        self.squares.take().ok_or(MetricError::Settings("no rows to look for neighbours in"))
    }
}
