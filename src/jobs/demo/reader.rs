//! Reads a picture of the demo by rules: which two shapes it shows, and what of a caption that makes right.
//!
//! No network: what is drawn is judged by something that cannot have learned to please. Pixels are sorted by colour, connected
//! ones make a shape, and the shape is what it fits best of all kinds drawn at its area and place, sharp or blurred. A blot
//! that fits no kind well has none.

use super::DemoError;
use super::scenes::{GROUND, SIDE, outline};
use super::words::{Caption, Colour, Kind, Look, Relation, Size};
use crate::imaging::Rgb;
use tiny_skia::{FillRule, Mask, Transform};

/// What a caption says: size, colour and kind of two shapes, and how they lie.
pub const ATTRIBUTES: u32 = 7;
/// Pixels of one colour that make a shape; the smallest shape has about ninety.
const LEAST_SHAPE: usize = 36;
/// Pixels away from both shapes that make something else.
const LEAST_OTHER: usize = 12;
/// Pixels round a shape that its blurred edge may reach.
const EDGE: usize = 2;
/// How far a drawing may be from the best kind's, as a share of its area.
const WORST_FIT: f32 = 0.30;
/// The radius in pixels at which small ends and large begins, and the least and the most that are either.
const RADII: [f32; 3] = [5.0, 9.0, 14.0];
/// Rounds of blurring that drawings of the kinds are compared with.
const BLURS: usize = 4;

const WIDTH: usize = SIDE as usize;
const PIXELS: usize = WIDTH * WIDTH;

/// A shape that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    pub colour: Colour,
    /// `None` where it looks like none of them.
    pub kind: Option<Kind>,
    /// `None` where it is too small or too large.
    pub size: Option<Size>,
    /// In pixels.
    pub centre: (f32, f32),
    pub radius: f32,
    /// How far it is from the kind it looks like most, as a share of its area.
    pub misfit: f32,
}

/// What a picture shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The largest first, two at most.
    pub shapes: Vec<Seen>,
    /// Whether there is something else besides.
    pub more: bool,
}

/// How much of a caption a picture has right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Of the two shapes, how many have their size, colour and kind.
    pub sizes: u32,
    pub colours: u32,
    pub kinds: u32,
    /// 1 where they lie as told.
    pub relations: u32,
    /// Whether there are two shapes and nothing else.
    pub clean: bool,
}

impl Score {
    /// How many attributes are right, of [`ATTRIBUTES`].
    pub fn right(&self) -> u32 {
        self.sizes + self.colours + self.kinds + self.relations
    }

    /// Whether the picture shows what the caption says and nothing else.
    pub fn is_perfect(&self) -> bool {
        self.clean && self.right() == ATTRIBUTES
    }
}

/// Reads a picture of 64×64 pixels.
///
/// # Errors
/// A picture of another size.
pub fn read(picture: &Rgb) -> Result<Reading, DemoError> {
    if (picture.width, picture.height) != (SIDE, SIDE) || picture.pixels.len() != 3 * PIXELS {
        return Err(DemoError::Side { width: picture.width, height: picture.height });
    }
    let pixels: Vec<[f32; 3]> =
        picture.pixels.chunks_exact(3).map(|rgb| [rgb[0].into(), rgb[1].into(), rgb[2].into()]).collect();
    let colours: Vec<Option<Colour>> = pixels.iter().map(colour).collect();
    let mut blots = blots(&colours);
    blots.sort_by_key(|blot| std::cmp::Reverse(blot.len()));
    blots.retain(|blot| blot.len() >= LEAST_SHAPE);
    blots.truncate(2);

    let mut rest: Vec<Option<()>> = colours.iter().map(|colour| colour.map(drop)).collect();
    let mut shapes = Vec::with_capacity(blots.len());
    for blot in &blots {
        let near = grown(blot);
        for &at in &near {
            rest[at] = None;
        }
        if let Some(colour) = blot.first().and_then(|&at| colours[at]) {
            let own = near.into_iter().filter(|&at| colours[at].is_none_or(|other| other == colour));
            shapes.push(seen(colour, &coverage(&pixels, blot, own))?);
        }
    }
    let more = self::blots(&rest).iter().any(|blot| blot.len() >= LEAST_OTHER);
    Ok(Reading { shapes, more })
}

impl Reading {
    /// What the picture has right of a caption: the more favourable of the two ways to say which shape is which.
    pub fn score(&self, caption: &Caption) -> Score {
        let (a, b) = (self.shapes.first(), self.shapes.get(1));
        let (one, other) = (agreement(a, b, caption), agreement(b, a, caption));
        let better = if other.right() > one.right() { other } else { one };
        Score { clean: self.shapes.len() == 2 && !self.more, ..better }
    }

    /// A caption of the picture, beginning with the larger shape; `None` where it does not show two shapes and nothing else.
    pub fn caption(&self) -> Option<Caption> {
        let [first, second] = self.shapes.as_slice() else { return None };
        let look = |seen: &Seen| Some(Look { size: seen.size?, colour: seen.colour, kind: seen.kind? });
        let caption = Caption { first: look(first)?, relation: relation(first, second), second: look(second)? };
        Some(caption).filter(|_| !self.more)
    }
}

fn agreement(first: Option<&Seen>, second: Option<&Seen>, caption: &Caption) -> Score {
    let mut score = Score::default();
    for (seen, look) in [(first, &caption.first), (second, &caption.second)] {
        let Some(seen) = seen else { continue };
        score.sizes += u32::from(seen.size == Some(look.size));
        score.colours += u32::from(seen.colour == look.colour);
        score.kinds += u32::from(seen.kind == Some(look.kind));
    }
    let lie = first.zip(second).is_some_and(|(first, second)| relation(first, second) == caption.relation);
    Score { relations: u32::from(lie), ..score }
}

/// Where the first lies, seen from the second.
fn relation(first: &Seen, second: &Seen) -> Relation {
    let (x, y) = (first.centre.0 - second.centre.0, first.centre.1 - second.centre.1);
    match (x.abs() > y.abs(), x < 0.0, y < 0.0) {
        (true, true, _) => Relation::LeftOf,
        (true, false, _) => Relation::RightOf,
        (false, _, true) => Relation::Above,
        (false, _, false) => Relation::Below,
    }
}

fn difference(a: &[f32; 3], b: &[f32; 3]) -> [f32; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn product(a: &[f32; 3], b: &[f32; 3]) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// How much of `pixel` is `colour` where the rest is ground, and the square of what that leaves unexplained.
fn mixture(pixel: &[f32; 3], colour: &[f32; 3]) -> (f32, f32) {
    let ground = GROUND.map(f32::from);
    let (to_pixel, to_colour) = (difference(pixel, &ground), difference(colour, &ground));
    let share = (product(&to_pixel, &to_colour) / product(&to_colour, &to_colour).max(1.0)).clamp(0.0, 1.0);
    let left = difference(&to_pixel, &to_colour.map(|part| part * share));
    (share, product(&left, &left))
}

/// The colour that covers at least half of a pixel.
fn colour(pixel: &[f32; 3]) -> Option<Colour> {
    let all = Colour::ALL.map(|colour| (colour, mixture(pixel, &colour.rgb().map(f32::from))));
    let (colour, (share, _)) = all.into_iter().min_by(|a, b| a.1.1.total_cmp(&b.1.1))?;
    Some(colour).filter(|_| share >= 0.5)
}

fn neighbours(at: usize) -> impl Iterator<Item = usize> {
    let (x, y) = (at % WIDTH, at / WIDTH);
    let steps = [(x > 0, -1), (x + 1 < WIDTH, 1), (y > 0, -(WIDTH as isize)), (y + 1 < WIDTH, WIDTH as isize)];
    steps.into_iter().filter(|(inside, _)| *inside).filter_map(move |(_, step)| at.checked_add_signed(step))
}

/// Connected pixels of one kind.
fn blots<T: Copy + PartialEq>(pixels: &[Option<T>]) -> Vec<Vec<usize>> {
    let mut visited = vec![false; pixels.len()];
    let mut all = Vec::new();
    for start in 0..pixels.len() {
        if visited[start] || pixels[start].is_none() {
            continue;
        }
        visited[start] = true;
        let mut blot = vec![start];
        let mut next = 0;
        while let Some(&at) = blot.get(next) {
            next += 1;
            for neighbour in neighbours(at) {
                if !visited[neighbour] && pixels[neighbour] == pixels[start] {
                    visited[neighbour] = true;
                    blot.push(neighbour);
                }
            }
        }
        all.push(blot);
    }
    all
}

/// A blot and what is within [`EDGE`] steps of it.
fn grown(blot: &[usize]) -> Vec<usize> {
    let mut inside = vec![false; PIXELS];
    let mut all = blot.to_vec();
    blot.iter().for_each(|&at| inside[at] = true);
    let mut start = 0;
    for _ in 0..EDGE {
        let end = all.len();
        for i in start..end {
            for neighbour in neighbours(all[i]) {
                if !inside[neighbour] {
                    inside[neighbour] = true;
                    all.push(neighbour);
                }
            }
        }
        start = end;
    }
    all
}

/// How much of each pixel a shape covers: measured by its own colour, which need not be quite the one it is named after.
fn coverage(pixels: &[[f32; 3]], blot: &[usize], own: impl Iterator<Item = usize>) -> Vec<f32> {
    let middle = |channel: usize| {
        let mut values: Vec<f32> = blot.iter().map(|&at| pixels[at][channel]).collect();
        values.sort_by(f32::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    let colour = [middle(0), middle(1), middle(2)];
    let mut coverage = vec![0.0; PIXELS];
    for at in own {
        coverage[at] = mixture(&pixels[at], &colour).0;
    }
    coverage
}

/// The shape that covers the pixels so.
fn seen(colour: Colour, coverage: &[f32]) -> Result<Seen, DemoError> {
    let (mut area, mut x, mut y) = (0.0, 0.0, 0.0);
    for (at, share) in coverage.iter().enumerate() {
        area += share;
        x += share * ((at % WIDTH) as f32 + 0.5);
        y += share * ((at / WIDTH) as f32 + 0.5);
    }
    let mass = (x / area, y / area);
    let mut best: Option<Seen> = None;
    for kind in Kind::ALL {
        let (unit, drop) = measures(kind);
        let radius = (area / unit).sqrt();
        let centre = (mass.0, mass.1 - drop * radius);
        let mut drawn = draw(kind, centre, radius)?;
        for _ in 0..BLURS {
            let misfit = drawn.iter().zip(coverage).map(|(a, b)| (a - b).abs()).sum::<f32>() / area;
            if best.is_none_or(|best| misfit < best.misfit) {
                best = Some(Seen { colour, kind: Some(kind), size: size(radius), centre, radius, misfit });
            }
            drawn = blurred(&drawn);
        }
    }
    let best = best.ok_or(DemoError::Drawing)?;
    Ok(Seen { kind: best.kind.filter(|_| best.misfit <= WORST_FIT), ..best })
}

fn size(radius: f32) -> Option<Size> {
    let [least, between, most] = RADII;
    match radius {
        _ if radius < least || radius > most => None,
        _ if radius < between => Some(Size::Small),
        _ => Some(Size::Large),
    }
}

/// Area of a kind of radius 1, and how far its centre of mass lies below its centre.
fn measures(kind: Kind) -> (f32, f32) {
    match kind {
        Kind::Circle => (std::f32::consts::PI, 0.0),
        Kind::Square => (1.72 * 1.72, 0.0),
        Kind::Triangle => (1.8, 0.2),
        Kind::Cross => (2.0 * 2.0 * 0.68 - 0.68 * 0.68, 0.0),
    }
}

/// How much of each pixel a shape covers.
pub(super) fn draw(kind: Kind, centre: (f32, f32), radius: f32) -> Result<Vec<f32>, DemoError> {
    let mut mask = Mask::new(SIDE, SIDE).ok_or(DemoError::Drawing)?;
    let path = outline(kind, centre, radius).ok_or(DemoError::Drawing)?;
    mask.fill_path(&path, FillRule::Winding, true, Transform::identity());
    Ok(mask.data().iter().map(|&share| f32::from(share) / 255.0).collect())
}

/// Blurred by [1 2 1] / 4 both ways; nothing lies beyond the picture.
fn blurred(shares: &[f32]) -> Vec<f32> {
    let along = |from: &[f32], step: usize, inside: fn(usize) -> usize| -> Vec<f32> {
        let one = |at: usize| {
            let before = if inside(at) > 0 { from[at - step] } else { 0.0 };
            let after = if inside(at) + 1 < WIDTH { from[at + step] } else { 0.0 };
            0.25 * (before + 2.0 * from[at] + after)
        };
        (0..from.len()).map(one).collect()
    };
    along(&along(shares, 1, |at| at % WIDTH), WIDTH, |at| at / WIDTH)
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
