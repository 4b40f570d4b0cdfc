//! Generated images beside the reference images whose features lie nearest to theirs: copies of training images would be seen here.

use super::pictures::Source;
use crate::evaluate::{MetricError, nearest};
use crate::imaging::Rgb;
use crate::jobs::JobError;
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Kind, TchError, Tensor};

/// Generated images that are shown: the ones nearest to a reference image, and as many from the start.
const SHOWN: usize = 6;
/// Neighbours beside each of them.
const BESIDE: u32 = 3;

/// A generated image with its neighbours, the nearest first, and their distances.
#[derive(Clone, Debug)]
pub struct Neighbourhood {
    /// Number of the image among the generated ones.
    pub number: u64,
    pub image: Rgb,
    pub nearest: Vec<(f64, Rgb)>,
}

/// What a report shows of neighbours.
#[derive(Clone, Debug, Default)]
pub struct Neighbourhoods {
    /// Median distance of a generated image from its nearest reference image.
    pub median: f64,
    /// Where that distance is smallest.
    pub closest: Vec<Neighbourhood>,
    /// The first ones, which nothing chose.
    pub first: Vec<Neighbourhood>,
}

/// The nearest reference rows of every generated row: numbers and Euclidean distances, nearest first.
#[derive(Clone, Debug, Default, PartialEq)]
struct Found(Vec<Vec<(u64, f64)>>);

impl Neighbourhoods {
    /// Looks for the neighbours of `generated` among `reference` features, `[rows, dims]` each, and reads the images that are shown.
    ///
    /// # Errors
    /// What reading and libtorch report.
    pub fn find(
        (generated, made): (&Tensor, &Source),
        (reference, real): (&Tensor, &Source),
    ) -> Result<Neighbourhoods, JobError> {
        let found = Found::between(generated, reference).map_err(JobError::failed)?;
        let order = found.order();
        let (closest, first): (Vec<usize>, Vec<usize>) =
            (order.iter().copied().take(SHOWN).collect(), (0..found.0.len()).take(SHOWN).collect());
        let shown: BTreeSet<u64> = closest.iter().chain(&first).map(|row| *row as u64).collect();
        let beside = closest.iter().chain(&first).filter_map(|row| found.0.get(*row)).flatten();
        let beside: BTreeSet<u64> = beside.map(|(number, _)| *number).collect();
        let (made, real) = (made.pick(&shown)?, real.pick(&beside)?);
        let shown = |rows: &[usize]| rows.iter().filter_map(|row| found.shown(*row, &made, &real)).collect();
        let median = order.get(order.len() / 2).and_then(|row| found.distance(*row)).unwrap_or(0.0);
        Ok(Neighbourhoods { median, closest: shown(&closest), first: shown(&first) })
    }
}

impl Found {
    fn between(generated: &Tensor, reference: &Tensor) -> Result<Found, MetricError> {
        let rows = reference.size().first().copied().unwrap_or(0);
        let count = BESIDE.min(u32::try_from(rows).unwrap_or(BESIDE));
        let (numbers, squares) = nearest(generated, reference, count)?;
        let flat = |tensor: &Tensor, kind: Kind| -> Result<Tensor, TchError> {
            tensor.f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_flatten(0, -1)
        };
        let numbers = Vec::<i64>::try_from(flat(&numbers, Kind::Int64)?)?;
        let squares = Vec::<f64>::try_from(flat(&squares, Kind::Double)?)?;
        let pairs: Vec<(u64, f64)> =
            numbers.into_iter().zip(squares).map(|(number, square)| (number.unsigned_abs(), square.sqrt())).collect();
        Ok(Found(pairs.chunks(count.max(1) as usize).map(<[_]>::to_vec).collect()))
    }

    /// From a row to its nearest neighbour.
    fn distance(&self, row: usize) -> Option<f64> {
        self.0.get(row)?.first().map(|(_, distance)| *distance)
    }

    /// Rows by the distance of their nearest neighbours.
    fn order(&self) -> Vec<usize> {
        let distance = |row: &usize| self.distance(*row).unwrap_or(f64::INFINITY);
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        order.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        order
    }

    fn shown(&self, row: usize, made: &BTreeMap<u64, Rgb>, real: &BTreeMap<u64, Rgb>) -> Option<Neighbourhood> {
        let number = row as u64;
        let beside = self.0.get(row)?.iter();
        let nearest = beside.filter_map(|(number, distance)| Some((*distance, real.get(number)?.clone()))).collect();
        Some(Neighbourhood { number, image: made.get(&number)?.clone(), nearest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gray images of these shades, one pixel each, and their features: the shades.
    fn shades(values: &[u8]) -> (Tensor, Source) {
        let pixels: Vec<u8> = values.iter().flat_map(|value| [*value; 3]).collect();
        let features = Tensor::from_slice(values).to_kind(Kind::Float).view([-1, 1]);
        (features, Source::Array(Tensor::from_slice(&pixels).view([-1, 1, 1, 3])))
    }

    #[test]
    fn the_closest_stand_first_beside_their_neighbours() {
        let (made, real) = (shades(&[10, 90, 200, 50, 120, 30, 160, 251]), shades(&[250, 93, 20, 140]));
        let found = Neighbourhoods::find((&made.0, &made.1), (&real.0, &real.1)).unwrap();
        let shades = |it: &Neighbourhood| it.nearest.iter().map(|(_, image)| image.pixels[0]).collect::<Vec<_>>();
        let closest = &found.closest[..2];
        assert_eq!(closest.iter().map(|it| (it.number, it.image.pixels[0])).collect::<Vec<_>>(), [(7, 251), (1, 90)]);
        assert_eq!((shades(&closest[0]), shades(&closest[1])), (vec![250, 140, 93], vec![93, 140, 20]));
        assert_eq!(closest[1].nearest[0].0, 3.0);
        assert_eq!(found.first.iter().map(|it| it.number).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        // Distances 1, 3, 10, 10, 20, 20, 30, 50.
        assert_eq!(found.median, 20.0);
        let few = Neighbourhoods::find((&made.0, &made.1), (&real.0.narrow(0, 0, 2), &real.1)).unwrap();
        assert_eq!(few.first[0].nearest.len(), 2);
    }
}
