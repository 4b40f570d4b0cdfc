//! Marks for pictures that the reader has read.

use super::DemoError;
use super::reader::{ATTRIBUTES, Reading, Score, Seen, draw};
use super::scenes::Shape;
use serde::Serialize;

/// The share of a shape that must be visible, and hidden, for a completion to be judged by it.
const TORN: f32 = 0.25;
/// Pixels that the centre of a completed shape may be away from where it was.
const NEAR: f32 = 6.0;

/// Shares of right attributes, each between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Marks {
    /// Pictures that were judged.
    pub pictures: u64,
    /// Of all seven attributes; and of sizes, colours, kinds and relations.
    pub attributes: f64,
    pub sizes: f64,
    pub colours: f64,
    pub kinds: f64,
    pub relations: f64,
    /// Pictures of two shapes and nothing else, and those with everything right.
    pub clean: f64,
    pub perfect: f64,
}

impl Marks {
    /// Of scores.
    pub fn of(scores: &[Score]) -> Marks {
        let count = scores.len().max(1) as f64;
        let share = |of: fn(&Score) -> u32, each: u32| {
            f64::from(scores.iter().map(of).sum::<u32>()) / (count * f64::from(each))
        };
        Marks {
            pictures: scores.len() as u64,
            attributes: share(Score::right, ATTRIBUTES),
            sizes: share(|score| score.sizes, 2),
            colours: share(|score| score.colours, 2),
            kinds: share(|score| score.kinds, 2),
            relations: share(|score| score.relations, 1),
            clean: share(|score| score.clean.into(), 1),
            perfect: share(|score| score.is_perfect().into(), 1),
        }
    }
}

/// How completions of one half agree with the other half, which was given. Of test pictures with a shape that both halves
/// show a quarter of at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    pub pictures: u64,
    /// Shapes across the tear whose colour, kind and size came out as they were: a third of the point for each.
    pub shapes: f64,
    /// Pictures of two whole shapes and nothing else.
    pub clean: f64,
}

/// Whether the tear goes through the shape, with enough of it on both sides.
pub fn is_torn(shape: &Shape) -> Result<bool, DemoError> {
    let coverage = draw(shape.look.kind, shape.centre, shape.radius)?;
    let (upper, _) = coverage.split_at(coverage.len() / 2);
    let share = upper.iter().sum::<f32>() / coverage.iter().sum::<f32>().max(1.0);
    Ok((TORN..=1.0 - TORN).contains(&share))
}

impl Agreement {
    /// How the shapes came out that were across the tear.
    pub fn of<'a>(readings: &[Reading], torn: impl Iterator<Item = &'a [Shape]>) -> Agreement {
        let (mut right, mut of, mut clean) = (0u32, 0u32, 0u32);
        for (reading, shapes) in readings.iter().zip(torn) {
            clean += u32::from(reading.shapes.len() == 2 && !reading.more);
            for shape in shapes {
                of += 3;
                let away =
                    |seen: &Seen| (seen.centre.0 - shape.centre.0).abs().max((seen.centre.1 - shape.centre.1).abs());
                let nearest = reading.shapes.iter().min_by(|a, b| away(a).total_cmp(&away(b)));
                if let Some(seen) = nearest.filter(|seen| away(seen) <= NEAR) {
                    right += u32::from(seen.colour == shape.look.colour)
                        + u32::from(seen.kind == Some(shape.look.kind))
                        + u32::from(seen.size == Some(shape.look.size));
                }
            }
        }
        let share = |part: u32, all: u32| f64::from(part) / f64::from(all.max(1));
        Agreement {
            pictures: readings.len() as u64,
            shapes: share(right, of),
            clean: share(clean, u32::try_from(readings.len()).unwrap_or(u32::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::Rgb;
    use crate::jobs::demo::reader::read;
    use crate::jobs::demo::scenes::{GROUND, Scene};
    use crate::jobs::demo::split::Split;

    /// Perfect completions agree; halves that were never drawn do not.
    #[test]
    fn agreement_is_of_the_torn_shapes() {
        let scenes: Vec<Scene> = (0..200).map(|index| Scene::new(Split::Test, 0, index)).collect();
        let torn: Vec<Vec<Shape>> = scenes
            .iter()
            .map(|scene| [scene.first, scene.second].into_iter().filter(|shape| is_torn(shape).unwrap()).collect())
            .collect();
        let judged = |spoil: fn(&mut Rgb)| {
            let mut readings = Vec::new();
            for (scene, _) in scenes.iter().zip(&torn).filter(|(_, torn)| !torn.is_empty()) {
                let mut picture = scene.draw().unwrap();
                spoil(&mut picture);
                readings.push(read(&picture).unwrap());
            }
            Agreement::of(&readings, torn.iter().filter(|torn| !torn.is_empty()).map(Vec::as_slice))
        };
        let whole = judged(|_| {});
        assert!(whole.pictures >= 20, "{whole:?}");
        assert_eq!((whole.shapes, whole.clean), (1.0, 1.0));
        let half = judged(|picture| {
            let half = picture.pixels.len() / 2;
            picture.pixels[..half].copy_from_slice(&GROUND.repeat(half / 3));
        });
        assert!(half.shapes < 0.75, "{half:?}");
    }

    #[test]
    fn marks_are_shares() {
        let all = Score { sizes: 2, colours: 2, kinds: 2, relations: 1, clean: true };
        let marks = Marks::of(&[all, Score { kinds: 0, clean: false, ..all }]);
        assert_eq!((marks.pictures, marks.sizes, marks.kinds, marks.clean, marks.perfect), (2, 1.0, 0.5, 0.5, 0.5));
        assert!((marks.attributes - 12.0 / 14.0).abs() < 1e-9);
    }
}
