//! Interpolation of subsampled components to the full size, row by row.
//!
//! Where a component is halved, its samples lie in the middle between two full ones, and the
//! nearer weighs 3/4. The rounding is libjpeg's: it alternates, so that no colour drifts. Other
//! ratios, and components of at most two columns, repeat samples.

use super::frame::{Component, Frame};

/// Gives the rows of one component at full size.
pub(super) struct Upsampler<'a> {
    component: &'a Component,
    /// Full samples for each sample of the component.
    ratio_h: usize,
    ratio_v: usize,
    /// Weighted sum of two rows of samples.
    mixed: Vec<u16>,
}

/// Fewest columns of a component that are interpolated sideways.
const MIN_WIDTH: usize = 3;

impl<'a> Upsampler<'a> {
    pub(super) fn new(frame: &Frame, component: &'a Component) -> Self {
        let (ratio_h, ratio_v) = (frame.max_h / component.h, frame.max_v / component.v);
        Self { component, ratio_h, ratio_v, mixed: vec![0; component.width] }
    }

    /// Samples that [`Self::row`] writes: the picture's width, rounded up to whole samples.
    pub(super) fn width(&self) -> usize {
        self.component.width * self.ratio_h
    }

    /// Writes the full row `row` to `out`.
    #[inline(always)]
    pub(super) fn row(&mut self, row: usize, out: &mut [u8]) {
        let near = self.component.row(row / self.ratio_v);
        let is_wide = self.component.width >= MIN_WIDTH;
        match (self.ratio_h, self.ratio_v) {
            (1, 1) => out.copy_from_slice(near),
            (2, 1) if is_wide => halves_sideways(near, out),
            (1, 2) => halves_down(near, self.neighbour(row), row.is_multiple_of(2), out),
            (2, 2) if is_wide => {
                let neighbour = self.component.row(self.neighbour_row(row));
                for (mixed, (&near, &far)) in self.mixed.iter_mut().zip(near.iter().zip(neighbour))
                {
                    *mixed = 3 * u16::from(near) + u16::from(far);
                }
                quarters(&self.mixed, out);
            }
            (ratio, _) => {
                let copies = out.chunks_exact_mut(ratio).zip(near);
                copies.for_each(|(copies, &sample)| copies.fill(sample));
            }
        }
    }

    fn neighbour(&self, row: usize) -> &'a [u8] {
        self.component.row(self.neighbour_row(row))
    }

    /// Of the component, the row on the other side of the full row `row` at half height.
    fn neighbour_row(&self, row: usize) -> usize {
        let near = row / 2;
        if row.is_multiple_of(2) {
            near.saturating_sub(1)
        } else {
            (near + 1).min(self.component.height - 1)
        }
    }
}

/// Doubles a row's width.
#[inline(always)]
fn halves_sideways(near: &[u8], out: &mut [u8]) {
    double(near, out, |near, left, right| {
        let (near, left, right) = (3 * u16::from(near), u16::from(left), u16::from(right));
        [((near + left + 1) / 4) as u8, ((near + right + 2) / 4) as u8]
    });
}

/// One of the two rows that a row makes.
#[inline(always)]
fn halves_down(near: &[u8], far: &[u8], is_upper: bool, out: &mut [u8]) {
    let bias = if is_upper { 1 } else { 2 };
    for (out, (&near, &far)) in out.iter_mut().zip(near.iter().zip(far)) {
        *out = ((3 * u16::from(near) + u16::from(far) + bias) / 4) as u8;
    }
}

/// Doubles the width of a row of sums of weight 4.
#[inline(always)]
fn quarters(mixed: &[u16], out: &mut [u8]) {
    double(mixed, out, |near, left, right| {
        [((3 * near + left + 8) / 16) as u8, ((3 * near + right + 7) / 16) as u8]
    });
}

/// Makes two samples of each and its neighbours left and right; at the ends it is its own.
#[inline(always)]
fn double<T: Copy>(row: &[T], out: &mut [u8], pair: impl Fn(T, T, T) -> [u8; 2]) {
    let pairs = out.as_chunks_mut::<2>().0;
    let [first, middle @ .., last] = pairs else { return };
    let n = row.len();
    *first = pair(row[0], row[0], row[1]);
    *last = pair(row[n - 1], row[n - 2], row[n - 1]);
    for (out, ((&left, &near), &right)) in
        middle.iter_mut().zip(row.iter().zip(&row[1..]).zip(&row[2..]))
    {
        *out = pair(near, left, right);
    }
}
