//! The demo's pictures: two coloured shapes on a plain ground, with a class and a caption that say what is drawn.
//!
//! A scene is a pure function of (split, seed, index): its draws are counter-based, so that picture 1234 is the same whether or
//! not the others are drawn.

use super::DemoError;
use super::split::{Arrangement, Split};
use super::words::{Caption, Colour, Kind, Look, Relation, Size};
use crate::imaging::Rgb;
use crate::random::{Purpose, RowKey};
use tiny_skia::{Color, FillRule, Paint, Path, PathBuilder, Pixmap, Transform};

/// Width and height of a picture in pixels.
pub const SIDE: u32 = 64;

/// Width and height in pixels of the cells that a shape's place is made of: some three hundred different ones make up all
/// pictures, so that a small tokenizer can learn them in an hour.
pub const CELL: u32 = 8;

/// The ground's colour, RGB.
pub const GROUND: [u8; 3] = [238, 236, 228];

/// One shape of a scene; centre and radius in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub look: Look,
    pub centre: (f32, f32),
    pub radius: f32,
}

/// Two shapes of different colours, one beside or above the other without touching it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scene {
    pub first: Shape,
    pub second: Shape,
    pub relation: Relation,
}

/// How many classes there are: colours times kinds of the first shape.
pub const CLASSES: u32 = (Colour::ALL.len() * Kind::ALL.len()) as u32;

/// The class's name, such as "red circle"; `None` outside `0..CLASSES`.
pub fn class_name(label: u32) -> Option<String> {
    let kinds = Kind::ALL.len() as u32;
    let colour = Colour::ALL.get((label / kinds) as usize)?;
    let kind = Kind::ALL.get((label % kinds) as usize)?;
    Some(format!("{} {}", colour.word(), kind.word()))
}

impl Scene {
    /// Picture `index` of a split of the data set of `seed`.
    pub fn new(split: Split, seed: u64, index: u64) -> Scene {
        let row = RowKey::new(seed, &format!("demo/scenes/{}", split.name()), index, 0);
        let even = |position: u32| row.below(Purpose::Init, position, 2) == 0;
        let arrangements = split.arrangements();
        let chosen = row.below(Purpose::Init, 0, arrangements.len() as u32) as usize;
        let Arrangement { near, relation, far } = arrangements[chosen];
        // The caption begins with either of the two.
        let (first, second, relation) = if even(1) { (near, far, relation) } else { (far, near, relation.inverse()) };
        let sizes = [2, 3].map(|position| if even(position) { Size::Small } else { Size::Large });
        let below = |position: u32, bound: u32| row.below(Purpose::Init, position, bound);
        let corners = place(relation, sizes.map(Size::cells), below);
        let shape = |i: usize, (colour, kind): (Colour, Kind)| Shape {
            look: Look { size: sizes[i], colour, kind },
            centre: (centre(corners[i].0, sizes[i]), centre(corners[i].1, sizes[i])),
            radius: half(sizes[i]) - 1.0,
        };
        Scene { first: shape(0, first), second: shape(1, second), relation }
    }

    /// The class: `4 · colour + kind` of the first shape, in the order of [`Colour::ALL`] and [`Kind::ALL`].
    pub fn label(&self) -> u32 {
        let Look { colour, kind, .. } = self.first.look;
        let colour = Colour::ALL.iter().position(|&known| known == colour).unwrap_or(0);
        let kind = Kind::ALL.iter().position(|&known| known == kind).unwrap_or(0);
        (colour * Kind::ALL.len() + kind) as u32
    }

    /// What is drawn, in words.
    pub fn caption(&self) -> Caption {
        Caption { first: self.first.look, relation: self.relation, second: self.second.look }
    }

    /// Draws the scene, anti-aliased, [`SIDE`] pixels wide and high.
    pub fn draw(&self) -> Result<Rgb, DemoError> {
        let mut canvas = Pixmap::new(SIDE, SIDE).ok_or(DemoError::Drawing)?;
        canvas.fill(Color::from_rgba8(GROUND[0], GROUND[1], GROUND[2], 255));
        for shape in [&self.first, &self.second] {
            let [r, g, b] = shape.look.colour.rgb();
            let mut paint = Paint { anti_alias: true, ..Paint::default() };
            paint.set_color_rgba8(r, g, b, 255);
            let path = outline(shape.look.kind, shape.centre, shape.radius).ok_or(DemoError::Drawing)?;
            canvas.fill_path(&path, &paint, FillRule::Winding, Transform::identity(), None);
        }
        // The ground is opaque, so premultiplied and straight colours are the same.
        let pixels = canvas.data().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
        Ok(Rgb { width: SIDE, height: SIDE, pixels })
    }
}

/// Half the width of a shape's place, in pixels.
fn half(size: Size) -> f32 {
    (size.cells() * CELL) as f32 / 2.0
}

/// The middle of a shape's place that begins at a cell, in pixels.
fn centre(cell: u32, size: Size) -> f32 {
    (cell * CELL) as f32 + half(size)
}

/// The upper left cells of two places that are `cells` wide and high: at least a cell apart along the relation's axis, nearly in
/// line across it. `below(position, bound)` draws below a bound.
fn place(relation: Relation, cells: [u32; 2], below: impl Fn(u32, u32) -> u32) -> [(u32, u32); 2] {
    let side = SIDE / CELL;
    let (near, far) = match relation {
        Relation::Above | Relation::LeftOf => (0, 1),
        Relation::Below | Relation::RightOf => (1, 0),
    };
    // Along the axis: of the cells left, some lie before and some between the two.
    let left = side - cells[0] - cells[1] - 1;
    let before = below(4, left + 1);
    let between = 1 + below(5, left - before + 1);
    let mut along = [before; 2];
    along[far] = before + cells[near] + between;
    // Across it: a common line, and up to a cell off it each.
    let line = below(6, side - cells[0].max(cells[1]) + 1);
    let across =
        [(0, 7), (1, 8)].map(|(i, position)| (line + below(position, 3)).saturating_sub(1).min(side - cells[i]));
    [0, 1].map(|i| match relation {
        Relation::Above | Relation::Below => (across[i], along[i]),
        Relation::LeftOf | Relation::RightOf => (along[i], across[i]),
    })
}

/// A shape's edge, in pixels.
pub(super) fn outline(kind: Kind, (x, y): (f32, f32), radius: f32) -> Option<Path> {
    let corners = kind.corners().iter().map(|&(dx, dy)| (x + dx * radius, y + dy * radius));
    let mut path = PathBuilder::new();
    if kind == Kind::Circle {
        path.push_circle(x, y, radius);
    }
    for (i, (x, y)) in corners.enumerate() {
        if i == 0 {
            path.move_to(x, y);
        } else {
            path.line_to(x, y);
        }
    }
    if kind != Kind::Circle {
        path.close();
    }
    path.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bounding box `[left, top, right, bottom]` of the pixels of exactly this colour.
    fn extent(picture: &Rgb, colour: [u8; 3]) -> [u32; 4] {
        let mut found = [u32::MAX, u32::MAX, 0, 0];
        for (i, pixel) in picture.pixels.chunks_exact(3).enumerate() {
            if pixel == colour {
                let (x, y) = (i as u32 % picture.width, i as u32 / picture.width);
                found = [found[0].min(x), found[1].min(y), found[2].max(x), found[3].max(y)];
            }
        }
        assert!(found[0] <= found[2], "no pixel of {colour:?}");
        found
    }

    #[test]
    fn captions_say_what_the_pixels_show() {
        for index in 0..500 {
            let scene = Scene::new(Split::Training, 3, index);
            let picture = scene.draw().unwrap();
            let first = extent(&picture, scene.first.look.colour.rgb());
            let second = extent(&picture, scene.second.look.colour.rgb());
            let caption = scene.caption().to_string();
            let (holds, words) = match scene.relation {
                Relation::Above => (first[3] < second[1], " above "),
                Relation::Below => (first[1] > second[3], " below "),
                Relation::LeftOf => (first[2] < second[0], " to the left of "),
                Relation::RightOf => (first[0] > second[2], " to the right of "),
            };
            assert!(holds && caption.contains(words), "{index}: {caption}: {first:?} {second:?}");
            let (before, after) = caption.split_once(words).unwrap();
            for (text, shape, box_) in [(before, scene.first, first), (after, scene.second, second)] {
                assert_eq!(text, shape.look.to_string());
                let width = box_[2] - box_[0] + 1;
                assert_eq!(width > 16, shape.look.size == Size::Large, "{index}: {text} is {width} wide");
            }
            assert_eq!(class_name(scene.label()).unwrap(), before.splitn(3, ' ').nth(2).unwrap());
        }
    }

    #[test]
    fn shapes_stay_inside_and_the_ground_shows_round_them() {
        for index in 0..500 {
            let picture = Scene::new(Split::Test, 11, index).draw().unwrap();
            let side = SIDE as usize;
            for i in 0..side {
                for (x, y) in [(i, 0), (i, side - 1), (0, i), (side - 1, i)] {
                    let at = (y * side + x) * 3;
                    assert_eq!(picture.pixels[at..at + 3], GROUND, "{index}: ({x}, {y})");
                }
            }
        }
    }

    #[test]
    fn edges_are_anti_aliased() {
        let picture = Scene::new(Split::Training, 0, 0).draw().unwrap();
        let colours: std::collections::HashSet<&[u8]> = picture.pixels.chunks_exact(3).collect();
        assert!(colours.len() > 6, "only {} colours", colours.len());
    }

    #[test]
    fn a_scene_depends_on_split_seed_and_index_alone() {
        let scene = Scene::new(Split::Test, 5, 9);
        assert_eq!(scene, Scene::new(Split::Test, 5, 9));
        assert_ne!(scene, Scene::new(Split::Test, 5, 10));
        assert_ne!(scene, Scene::new(Split::Test, 6, 9));
        assert_ne!(scene, Scene::new(Split::Training, 5, 9));
    }

    #[test]
    fn every_class_is_drawn_and_has_a_name() {
        let seen: std::collections::BTreeSet<u32> =
            (0..2000).map(|i| Scene::new(Split::Training, 0, i).label()).collect();
        assert_eq!(seen.len() as u32, CLASSES);
        assert!(seen.iter().all(|&label| class_name(label).is_some()));
        assert_eq!(class_name(CLASSES), None);
    }
}
