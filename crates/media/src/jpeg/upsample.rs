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
fn halves_sideways(near: &[u8], out: &mut [u8]) {
    let last = near.len() - 1;
    let at = |idx: usize| u16::from(near[idx]);
    for (idx, pair) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        pair[0] = ((3 * at(idx) + at(idx.saturating_sub(1)) + 1) / 4) as u8;
        pair[1] = ((3 * at(idx) + at((idx + 1).min(last)) + 2) / 4) as u8;
    }
}

/// One of the two rows that a row makes.
fn halves_down(near: &[u8], far: &[u8], is_upper: bool, out: &mut [u8]) {
    let bias = if is_upper { 1 } else { 2 };
    for (out, (&near, &far)) in out.iter_mut().zip(near.iter().zip(far)) {
        *out = ((3 * u16::from(near) + u16::from(far) + bias) / 4) as u8;
    }
}

/// Doubles the width of a row of sums of weight 4.
fn quarters(mixed: &[u16], out: &mut [u8]) {
    let last = mixed.len() - 1;
    for (idx, pair) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let near = 3 * mixed[idx];
        pair[0] = ((near + mixed[idx.saturating_sub(1)] + 8) / 16) as u8;
        pair[1] = ((near + mixed[(idx + 1).min(last)] + 7) / 16) as u8;
    }
}
