//! Shapes as polygons: their corners, their hulls, and how far two hulls are apart.

use super::law::{Shape, ShapeKind};
use std::f32::consts::TAU;

/// x and y.
pub type Point = [f32; 2];

/// Corners that stand for a circle where only its extent matters.
const N_CIRCLE_CORNERS: usize = 48;
/// Radius of a pentagram's inner corners over that of its tips.
const STAR_INNER: f32 = 0.382;
/// Height of an equilateral triangle over its side.
const TRIANGLE_HEIGHT: f32 = 0.866_025_4;

/// The corners of a shape where it stands, in order; a circle has `N_CIRCLE_CORNERS`.
pub fn corners(shape: &Shape) -> Vec<Point> {
    let half = shape.width / 2.0;
    let upright: Vec<Point> = match shape.kind {
        ShapeKind::Circle => ring(N_CIRCLE_CORNERS, |_| half),
        ShapeKind::Square => vec![[-half, -half], [half, -half], [half, half], [-half, half]],
        ShapeKind::Triangle => {
            let tall = half * TRIANGLE_HEIGHT;
            vec![[0.0, -tall], [half, tall], [-half, tall]]
        }
        ShapeKind::Star => {
            let radius = star_radius(half);
            ring(10, |idx| if idx % 2 == 0 { radius } else { radius * STAR_INNER })
        }
    };
    upright.into_iter().map(|corner| turned(shape, corner)).collect()
}

/// The corners of a convex polygon around a shape.
pub fn hull(shape: &Shape) -> Vec<Point> {
    let corners = corners(shape);
    match shape.kind {
        ShapeKind::Circle | ShapeKind::Square | ShapeKind::Triangle => corners,
        ShapeKind::Star => corners.into_iter().step_by(2).collect(),
    }
}

/// A lower bound of the distance between two convex polygons; negative when they may overlap.
pub fn gap(one: &[Point], other: &[Point]) -> f32 {
    widest_gap(one, other).max(widest_gap(other, one))
}

/// Radius of the tips of a star of this half width: its widest tips stand at 72° from the top.
fn star_radius(half_width: f32) -> f32 {
    half_width / (TAU / 5.0).sin()
}

/// `n` points around the origin, the first one on top.
fn ring(n: usize, radius: impl Fn(usize) -> f32) -> Vec<Point> {
    let point = |idx: usize| {
        let angle = TAU * idx as f32 / n as f32;
        [radius(idx) * angle.sin(), -radius(idx) * angle.cos()]
    };
    (0..n).map(point).collect()
}

fn turned(shape: &Shape, [x, y]: Point) -> Point {
    let (sin, cos) = shape.turn.to_radians().sin_cos();
    [shape.centre[0] + x * cos - y * sin, shape.centre[1] + x * sin + y * cos]
}

/// The widest gap seen along the outward normals of `one`'s sides.
fn widest_gap(one: &[Point], other: &[Point]) -> f32 {
    let sides = one.iter().zip(one.iter().cycle().skip(1));
    let gaps = sides.map(|(from, to)| {
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let len = dx.hypot(dy);
        let normal = [dy / len, -dx / len];
        let along =
            |point: &Point| (point[0] - from[0]) * normal[0] + (point[1] - from[1]) * normal[1];
        other.iter().map(along).fold(f32::INFINITY, f32::min)
    });
    gaps.fold(f32::NEG_INFINITY, f32::max)
}
