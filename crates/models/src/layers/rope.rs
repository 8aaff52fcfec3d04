//! Angles of rotary position embeddings.

use tensor::Tensor;
use tensor::ops::Angles;

/// `theta^(-i/n)` for `i < n`: the frequencies of a rotated span of `2n` columns.
pub(crate) fn inverse_frequencies(theta: f32, n: usize) -> Vec<f32> {
    (0..n).map(|i| 1.0 / theta.powf(i as f32 / n as f32)).collect()
}

/// Angles where frequency `i` turns with the position on axis `axes[i]`.
pub(crate) fn angles_on_axes(
    positions: &[[u32; 3]],
    frequencies: &[f32],
    axes: &[usize],
) -> Angles {
    let turned = positions.iter().flat_map(|position| {
        frequencies.iter().zip(axes).map(|(frequency, &axis)| position[axis] as f32 * frequency)
    });
    angles(positions.len(), frequencies.len(), turned)
}

/// Cosines and sines `[n_rows, n]` of angles in row order.
fn angles(n_rows: usize, n: usize, turned: impl Iterator<Item = f32>) -> Angles {
    let mut cos = Tensor::scratch::<f32>(&[n_rows, n]);
    let mut sin = Tensor::scratch::<f32>(&[n_rows, n]);
    let places = cos.as_mut_slice::<f32>().iter_mut().zip(sin.as_mut_slice::<f32>());
    for ((cos, sin), angle) in places.zip(turned) {
        (*sin, *cos) = angle.sin_cos();
    }
    Angles { cos, sin }
}

/// Cosine and sine of small whole positions, computed once: towers ask for few of them, often.
#[derive(Debug)]
pub(crate) struct AngleTable {
    n_frequencies: usize,
    angles: Angles,
}

impl AngleTable {
    /// Angles of positions `0..n_positions`.
    pub(crate) fn new(frequencies: &[f32], n_positions: usize) -> Self {
        let turned = (0..n_positions).flat_map(|position| {
            frequencies.iter().map(move |frequency| position as f32 * frequency)
        });
        let n = frequencies.len();
        Self { n_frequencies: n, angles: angles(n_positions, n, turned) }
    }

    /// Rows of two halves: the angles of a pair's first position, then those of its second.
    pub(crate) fn pairs(&self, positions: &[(usize, usize)]) -> Angles {
        let gather = |table: &Tensor| {
            let mut rows = Tensor::scratch::<f32>(&[positions.len(), 2 * self.n_frequencies]);
            let halves = rows.as_mut_slice::<f32>().chunks_exact_mut(self.n_frequencies);
            let positions = positions.iter().flat_map(|&(first, second)| [first, second]);
            halves.zip(positions).for_each(|(to, at)| to.copy_from_slice(table.row(at)));
            rows
        };
        Angles { cos: gather(&self.angles.cos), sin: gather(&self.angles.sin) }
    }
}
