//! The law of the pictures: what may be where, in numbers. Lengths in pixels, y grows downwards.

use super::outline;
use crate::rng::Rng;

/// Shortest and longest side of a picture.
pub const SIDE_MIN: u32 = 112;
/// See [`SIDE_MIN`].
pub const SIDE_MAX: u32 = 448;
/// Longest side over shortest.
pub const ASPECT_MAX: u32 = 2;
/// Most shapes of a picture.
pub const N_SHAPES_MAX: usize = 4;
/// A shape's width as a share of the picture's short side.
pub const WIDTH_SHARE: (f32, f32) = (0.15, 0.45);
/// Centres are at least this share of the picture's width apart sideways.
pub const CENTRES_APART_SHARE: f32 = 0.1;
/// Shapes are turned by at most this many degrees.
pub const TURN_MAX: f32 = 15.0;
/// Shapes and the picture's edge keep this many pixels between them.
pub const GAP: f32 = 2.0;
/// Tries to place all shapes of one picture before its size is drawn anew.
const N_TRIES_MAX: usize = 200;

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// The four kinds of shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShapeKind {
    /// A circle.
    Circle,
    /// A square.
    Square,
    /// An equilateral triangle.
    Triangle,
    /// A five-pointed star.
    Star,
}

impl ShapeKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Circle, Self::Square, Self::Triangle, Self::Star];

    /// Its noun.
    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
        }
    }
}

/// The seven colours of shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Red.
    Red,
    /// Green.
    Green,
    /// Blue.
    Blue,
    /// Yellow.
    Yellow,
    /// Purple.
    Purple,
    /// Orange.
    Orange,
    /// Black.
    Black,
}

impl Colour {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Red, Self::Green, Self::Blue, Self::Yellow, Self::Purple, Self::Orange, Self::Black];

    /// Its adjective.
    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Yellow => "yellow",
            Self::Purple => "purple",
            Self::Orange => "orange",
            Self::Black => "black",
        }
    }

    /// Shades that anybody calls by that name.
    fn shades(self) -> [Rgb; 3] {
        match self {
            Self::Red => [[225, 30, 40], [196, 18, 30], [250, 48, 48]],
            Self::Green => [[20, 150, 60], [52, 182, 84], [12, 122, 22]],
            Self::Blue => [[30, 70, 220], [24, 108, 232], [18, 36, 156]],
            Self::Yellow => [[250, 222, 24], [252, 238, 62], [242, 208, 12]],
            Self::Purple => [[132, 42, 170], [152, 82, 202], [104, 22, 136]],
            Self::Orange => [[250, 140, 22], [240, 122, 14], [252, 158, 42]],
            Self::Black => [[12, 12, 12], [30, 30, 32], [18, 18, 22]],
        }
    }
}

/// One filled shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// What it is.
    pub kind: ShapeKind,
    /// What one calls its colour.
    pub colour: Colour,
    /// Its shade.
    pub rgb: Rgb,
    /// Middle of its box before turning.
    pub centre: [f32; 2],
    /// Width before turning.
    pub width: f32,
    /// Degrees, clockwise.
    pub turn: f32,
}

/// An empty picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Paper {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// A pale shade.
    pub background: Rgb,
}

/// Paper of a size and shade within the law.
pub fn paper(rng: &mut Rng) -> Paper {
    let long = rng.whole(SIDE_MIN, SIDE_MAX);
    let short = rng.whole(SIDE_MIN.max(long.div_ceil(ASPECT_MAX)), long);
    let (width, height) = if rng.chance(0.5) { (long, short) } else { (short, long) };
    Paper { width, height, background: background(rng) }
}

fn background(rng: &mut Rng) -> Rgb {
    let pale = |rng: &mut Rng| rng.whole(214, 255) as u8;
    match rng.below(3) {
        0 => [255; 3],
        1 => [pale(rng); 3],
        _ => [pale(rng), pale(rng), pale(rng)],
    }
}

/// `n_shapes` shapes on `paper`, from left to right; `None` when they did not find room.
pub fn shapes(rng: &mut Rng, paper: &Paper, n_shapes: usize) -> Option<Vec<Shape>> {
    let mut placed: Vec<Shape> = Vec::new();
    for _ in 0..N_TRIES_MAX {
        if placed.len() == n_shapes {
            break;
        }
        let candidate = shape(rng, paper);
        if is_inside(&candidate, paper)
            && placed.iter().all(|other| are_apart(&candidate, other, paper))
        {
            placed.push(candidate);
        }
    }
    placed.sort_by(|one, other| one.centre[0].total_cmp(&other.centre[0]));
    (placed.len() == n_shapes).then_some(placed)
}

fn shape(rng: &mut Rng, paper: &Paper) -> Shape {
    let (width, height) = (paper.width as f32, paper.height as f32);
    let colour = *rng.pick(&Colour::ALL);
    let shade = *rng.pick(&colour.shades());
    Shape {
        kind: *rng.pick(&ShapeKind::ALL),
        colour,
        rgb: varied(rng, shade),
        centre: [rng.between(0.0, width), rng.between(0.0, height)],
        width: width.min(height) * rng.between(WIDTH_SHARE.0, WIDTH_SHARE.1),
        turn: rng.between(-TURN_MAX, TURN_MAX),
    }
}

/// A shade close by.
fn varied(rng: &mut Rng, rgb: Rgb) -> Rgb {
    rgb.map(|channel| channel.saturating_add(rng.whole(0, 8) as u8).saturating_sub(4))
}

fn is_inside(shape: &Shape, paper: &Paper) -> bool {
    let fits = |value: f32, side: u32| value >= GAP && value <= side as f32 - GAP;
    outline::hull(shape).iter().all(|[x, y]| fits(*x, paper.width) && fits(*y, paper.height))
}

fn are_apart(one: &Shape, other: &Shape, paper: &Paper) -> bool {
    let sideways = (one.centre[0] - other.centre[0]).abs();
    sideways >= CENTRES_APART_SHARE * paper.width as f32
        && outline::gap(&outline::hull(one), &outline::hull(other)) >= GAP
}
