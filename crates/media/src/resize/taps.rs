//! Which source pixels make a destination pixel, and with what weights.

use std::ops::Range;

/// Fractional bits of a weight: what an i32 leaves free beside an 8-bit pixel and two bits of
/// headroom for sums that overshoot.
pub(super) const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// A resampling kernel.
pub(super) struct Filter {
    /// Half its width, in destination pixels when shrinking and source pixels when enlarging.
    support: f64,
    /// Its height at a distance from the centre.
    weight: fn(f64) -> f64,
}

impl Filter {
    pub(super) const BICUBIC: Self = Self { support: 2.0, weight: cubic };
    pub(super) const BILINEAR: Self = Self { support: 1.0, weight: triangle };
}

/// The weights of every destination pixel along one axis.
pub(super) struct Taps {
    /// First source pixel of each destination pixel.
    starts: Vec<usize>,
    /// One past the last weight of each destination pixel, in `weights`.
    ends: Vec<usize>,
    /// Weights of all destination pixels, one after the other, in units of 2^-22.
    weights: Vec<i32>,
}

impl Taps {
    /// The weights of those of `n_out` pixels that are wanted, where these are made of `n_in`.
    pub(super) fn new((n_in, n_out): (u32, u32), wanted: Range<u32>, filter: &Filter) -> Self {
        let mut taps = Self { starts: Vec::new(), ends: Vec::new(), weights: Vec::new() };
        let ratio = f64::from(n_in) / f64::from(n_out);
        let mut exact = Vec::new();
        for pixel in wanted {
            let centre = (f64::from(pixel) + 0.5) * ratio;
            let start = weigh(&mut exact, centre, ratio.max(1.0), n_in, filter);
            taps.starts.push(start);
            taps.weights.extend(exact.iter().map(|&weight| fixed(weight)));
            taps.ends.push(taps.weights.len());
        }
        taps
    }

    /// Number of destination pixels.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// For each destination pixel the first source pixel and the weights from there on.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let mut begin = 0;
        self.starts.iter().zip(&self.ends).map(move |(&start, &end)| {
            let weights = &self.weights[begin..end];
            begin = end;
            (start, weights)
        })
    }
}

/// Fills `weights` with the normalised weights around `centre`; returns the first pixel's index.
fn weigh(weights: &mut Vec<f64>, centre: f64, scale: f64, n_in: u32, filter: &Filter) -> usize {
    let support = filter.support * scale;
    // Conversion to an integer truncates and saturates: below zero is pixel 0.
    let start = (centre - support + 0.5) as u32;
    let end = ((centre + support + 0.5) as u32).min(n_in);
    // The reciprocal first, as the reference does: a division here would round otherwise.
    let shrink = 1.0 / scale;
    weights.clear();
    weights.extend((start..end).map(|pixel| {
        let distance = (f64::from(pixel) - centre + 0.5) * shrink;
        (filter.weight)(distance)
    }));
    let sum: f64 = weights.iter().sum();
    if sum != 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    start as usize
}

/// A weight in units of 2^-22, halves rounded away from zero.
fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << WEIGHT_BITS);
    (scaled + 0.5_f64.copysign(weight)) as i32
}

fn cubic(distance: f64) -> f64 {
    const A: f64 = -0.5;
    let x = distance.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn triangle(distance: f64) -> f64 {
    (1.0 - distance.abs()).max(0.0)
}
