//! What a picture of the demo can show, and the words for it: kinds, colours and sizes of shapes, and how two of them lie.

use std::fmt;

/// What the shapes are: the unit circle and polygons within it, as (x, y) with y downwards.
///
/// Four of them, and six colours: a small shape is about two tokens wide, where more kinds would look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Circle,
    Square,
    Triangle,
    Cross,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Circle, Kind::Square, Kind::Triangle, Kind::Cross];

    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Circle => "circle",
            Kind::Square => "square",
            Kind::Triangle => "triangle",
            Kind::Cross => "cross",
        }
    }

    /// The corners for radius 1; none for the circle.
    pub(super) fn corners(self) -> &'static [(f32, f32)] {
        match self {
            Kind::Circle => &[],
            Kind::Square => &[(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
            Kind::Triangle => &[(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)],
            Kind::Cross => &[
                (-0.34, -1.0),
                (0.34, -1.0),
                (0.34, -0.34),
                (1.0, -0.34),
                (1.0, 0.34),
                (0.34, 0.34),
                (0.34, 1.0),
                (-0.34, 1.0),
                (-0.34, 0.34),
                (-1.0, 0.34),
                (-1.0, -0.34),
                (-0.34, -0.34),
            ],
        }
    }
}

/// A shape's colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Colour {
    Red,
    Yellow,
    Green,
    Blue,
    Purple,
    Black,
}

impl Colour {
    pub const ALL: [Colour; 6] =
        [Colour::Red, Colour::Yellow, Colour::Green, Colour::Blue, Colour::Purple, Colour::Black];

    pub(super) fn word(self) -> &'static str {
        match self {
            Colour::Red => "red",
            Colour::Yellow => "yellow",
            Colour::Green => "green",
            Colour::Blue => "blue",
            Colour::Purple => "purple",
            Colour::Black => "black",
        }
    }

    /// The colour as drawn, RGB.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Colour::Red => [206, 38, 38],
            Colour::Yellow => [246, 208, 30],
            Colour::Green => [40, 150, 70],
            Colour::Blue => [35, 90, 205],
            Colour::Purple => [120, 50, 160],
            Colour::Black => [32, 32, 36],
        }
    }
}

/// A shape's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    Small,
    Large,
}

impl Size {
    pub const ALL: [Size; 2] = [Size::Small, Size::Large];

    fn word(self) -> &'static str {
        match self {
            Size::Small => "small",
            Size::Large => "large",
        }
    }

    /// Width and height of its place in cells of [`CELL`](super::scenes::CELL) pixels. Two large shapes fit side by side.
    pub(super) fn cells(self) -> u32 {
        match self {
            Size::Small => 2,
            Size::Large => 3,
        }
    }
}

/// Where the first shape lies, seen from the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    Above,
    Below,
    LeftOf,
    RightOf,
}

impl Relation {
    pub const ALL: [Relation; 4] = [Relation::Above, Relation::Below, Relation::LeftOf, Relation::RightOf];

    fn words(self) -> &'static str {
        match self {
            Relation::Above => "above",
            Relation::Below => "below",
            Relation::LeftOf => "to the left of",
            Relation::RightOf => "to the right of",
        }
    }

    /// The same seen from the first shape.
    pub fn inverse(self) -> Relation {
        match self {
            Relation::Above => Relation::Below,
            Relation::Below => Relation::Above,
            Relation::LeftOf => Relation::RightOf,
            Relation::RightOf => Relation::LeftOf,
        }
    }
}

/// How a shape looks: "a large red circle".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    pub size: Size,
    pub colour: Colour,
    pub kind: Kind,
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} {} {}", self.size.word(), self.colour.word(), self.kind.word())
    }
}

/// What is drawn, in words: "a large red circle above a small blue square".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caption {
    pub first: Look,
    pub relation: Relation,
    pub second: Look,
}

impl Caption {
    /// Reads a caption back from its words; `None` where it is not one of this data set.
    pub fn parse(text: &str) -> Option<Caption> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let look = |words: &[&str]| match *words {
            ["a", size, colour, kind] => Some(Look {
                size: Size::ALL.into_iter().find(|known| known.word() == size)?,
                colour: Colour::ALL.into_iter().find(|known| known.word() == colour)?,
                kind: Kind::ALL.into_iter().find(|known| known.word() == kind)?,
            }),
            _ => None,
        };
        let (first, rest) = words.split_at_checked(4)?;
        let (relation, second) = rest.split_at_checked(rest.len().checked_sub(4)?)?;
        let relation = relation.join(" ");
        Some(Caption {
            first: look(first)?,
            relation: Relation::ALL.into_iter().find(|known| known.words() == relation)?,
            second: look(second)?,
        })
    }

    /// The same picture told from the other shape.
    pub fn turned(self) -> Caption {
        Caption { first: self.second, relation: self.relation.inverse(), second: self.first }
    }
}

impl fmt::Display for Caption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.first, self.relation.words(), self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_parse_back() {
        for relation in Relation::ALL {
            for kind in Kind::ALL {
                for colour in Colour::ALL {
                    for size in Size::ALL {
                        let first = Look { size, colour, kind };
                        let second = Look { size: Size::Small, colour: Colour::Black, kind: Kind::Cross };
                        let caption = Caption { first, relation, second };
                        assert_eq!(Caption::parse(&caption.to_string()), Some(caption));
                        assert_eq!(Caption::parse(&caption.turned().to_string()), Some(caption.turned()));
                        assert_eq!(caption.turned().turned(), caption);
                    }
                }
            }
        }
        for other in ["", "a red circle", "a large red circle", "a large red circle near a small blue square"] {
            assert_eq!(Caption::parse(other), None, "{other}");
        }
        assert_eq!(Caption::parse("a large red circle above a small blue square, and more"), None);
    }
}
