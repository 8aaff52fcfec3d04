//! The one inner loop of all matrix products: a few rows times a few panels of sixteen columns.
//!
//! Every output element is one accumulator that takes its products strictly in order of k. So its
//! bits do not depend on the tile's shape, and thereby on no neighbour, chunk or thread.

use crate::simd::{LANES, Lanes, Loadable};

/// A tile's left side: `rows` rows of f32, `stride` elements apart.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) data: *const f32,
    pub(super) stride: usize,
}

impl Rows {
    /// The rows from `first` on.
    ///
    /// # Safety
    /// There are that many rows.
    #[inline(always)]
    pub(super) unsafe fn from(self, first: usize) -> Self {
        // SAFETY: passed on to the caller.
        Self { data: unsafe { self.data.add(first * self.stride) }, stride: self.stride }
    }
}

/// A tile's right side: element `(k, column)` of panel `p` is at `p * panel + k * step + column`.
#[derive(Clone, Copy)]
pub(super) struct Panels<W> {
    pub(super) data: *const W,
    pub(super) panel: usize,
    pub(super) step: usize,
}

/// `R` rows times `P` panels over `depth` products each.
///
/// # Safety
/// As [`Lanes`]; both sides have the rows, panels and depth asked for.
#[inline(always)]
pub(super) unsafe fn tile<L: Lanes, W: Loadable, const R: usize, const P: usize>(
    rows: Rows,
    panels: Panels<W>,
    depth: usize,
) -> [[L; P]; R] {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut sums = [[L::splat(0.0); P]; R];
        let rows: [*const f32; R] = std::array::from_fn(|r| rows.data.add(r * rows.stride));
        for k in 0..depth {
            let mut columns = [L::splat(0.0); P];
            for (p, column) in columns.iter_mut().enumerate() {
                *column = W::load(panels.data.add(p * panels.panel + k * panels.step));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = L::splat(*rows[r].add(k));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = sum.fma(value, column);
                }
            }
        }
        sums
    }
}

/// What is done with a finished tile of at most `TILE_ROWS` rows.
pub(super) trait Sink {
    /// Takes `sums` of panel `panel` and row `row`.
    ///
    /// # Safety
    /// As [`Lanes`]; row and panel lie inside the output.
    unsafe fn put<L: Lanes>(&mut self, row: usize, panel: usize, sums: L);
}

/// The product of `n_rows` rows and `n_panels` panels, handed to `sink` tile by tile.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
pub(super) unsafe fn product<L: Lanes, W: Loadable>(
    (rows, n_rows): (Rows, usize),
    (panels, n_panels): (Panels<W>, usize),
    depth: usize,
    sink: &mut impl Sink,
) {
    let mut row = 0;
    // SAFETY: each step stays inside the rows and panels given.
    unsafe {
        while row < n_rows {
            let part = rows.from(row);
            let left = n_rows - row;
            row += if L::TILE_ROWS >= 8 && left >= 8 {
                strip::<L, W, 8, 3>(part, (panels, n_panels), depth, (row, sink))
            } else if L::TILE_ROWS >= 8 && left >= 4 {
                strip::<L, W, 4, 4>(part, (panels, n_panels), depth, (row, sink))
            } else if left >= 4 {
                strip::<L, W, 4, 1>(part, (panels, n_panels), depth, (row, sink))
            } else if left >= 2 {
                strip::<L, W, 2, 2>(part, (panels, n_panels), depth, (row, sink))
            } else if L::TILE_ROWS >= 8 {
                strip::<L, W, 1, 8>(part, (panels, n_panels), depth, (row, sink))
            } else {
                strip::<L, W, 1, 4>(part, (panels, n_panels), depth, (row, sink))
            };
        }
    }
}

/// `R` rows times all panels, `P` at a time and the rest two or one at a time; returns `R`.
#[inline(always)]
unsafe fn strip<L: Lanes, W: Loadable, const R: usize, const P: usize>(
    rows: Rows,
    (panels, n_panels): (Panels<W>, usize),
    depth: usize,
    (row, sink): (usize, &mut impl Sink),
) -> usize {
    let mut panel = 0;
    // SAFETY: each step stays inside the panels given.
    unsafe {
        while panel < n_panels {
            let part = Panels { data: panels.data.add(panel * panels.panel), ..panels };
            let left = n_panels - panel;
            panel += if left >= P {
                finish(tile::<L, W, R, P>(rows, part, depth), (row, panel), sink)
            } else if left >= 2 {
                finish(tile::<L, W, R, 2>(rows, part, depth), (row, panel), sink)
            } else {
                finish(tile::<L, W, R, 1>(rows, part, depth), (row, panel), sink)
            };
        }
    }
    R
}

#[inline(always)]
unsafe fn finish<L: Lanes, const R: usize, const P: usize>(
    sums: [[L; P]; R],
    (row, panel): (usize, usize),
    sink: &mut impl Sink,
) -> usize {
    for (r, sums) in sums.into_iter().enumerate() {
        for (p, sums) in sums.into_iter().enumerate() {
            // SAFETY: the tile lies inside the output, because its sides do.
            unsafe { sink.put(row + r, panel + p, sums) };
        }
    }
    P
}

/// Number of panels that hold `n` columns.
pub(super) fn n_panels(n_columns: usize) -> usize {
    n_columns.div_ceil(LANES)
}
