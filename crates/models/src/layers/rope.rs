//! Angles of rotary position embeddings.

use tensor::ops::{Angles, gather_rows};
use tensor::{Device, Tensor};
use types::Result;

/// `theta^(-i/n)` for `i < n`: the frequencies of a rotated span of `2n` columns.
pub(crate) fn inverse_frequencies(theta: f32, n: usize) -> Vec<f32> {
    (0..n).map(|i| 1.0 / theta.powf(i as f32 / n as f32)).collect()
}

/// Angles where frequency `i` turns with the position on axis `axes[i]`, on the device.
#[derive(Debug)]
pub(crate) struct AxisRotation {
    frequencies: Tensor,
    axes: Tensor,
}

impl AxisRotation {
    pub(crate) fn new(device: &Device, frequencies: &[f32], axes: &[usize]) -> Result<Self> {
        let axes: Vec<u32> = axes.iter().map(|&axis| axis as u32).collect();
        let frequencies = Tensor::from_slice(&[frequencies.len()], frequencies);
        Ok(Self {
            frequencies: frequencies.to_device_for_good(device)?,
            axes: Tensor::from_slice(&[axes.len()], &axes).to_device_for_good(device)?,
        })
    }

    /// The angles of `positions`, u32 `[rows, 3]`.
    pub(crate) fn angles(&self, device: &Device, positions: &Tensor) -> Result<Angles> {
        Angles::on_axes(device, positions, &self.frequencies, &self.axes)
    }
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
    pub(crate) fn new(device: &Device, frequencies: &[f32], n_positions: usize) -> Result<Self> {
        let turned = (0..n_positions).flat_map(|position| {
            frequencies.iter().map(move |frequency| position as f32 * frequency)
        });
        let n = frequencies.len();
        let Angles { cos, sin } = angles(n_positions, n, turned);
        let (cos, sin) = (cos.to_device_for_good(device)?, sin.to_device_for_good(device)?);
        Ok(Self { n_frequencies: n, angles: Angles { cos, sin } })
    }

    /// Rows of two halves: the angles of a pair's first position, then those of its second.
    pub(crate) fn pairs(&self, device: &Device, positions: &[(u32, u32)]) -> Result<Angles> {
        let flat: Vec<u32> =
            positions.iter().flat_map(|&(first, second)| [first, second]).collect();
        let flat = Tensor::from_slice(&[flat.len()], &flat).to_device(device)?;
        let shape = [positions.len(), 2 * self.n_frequencies];
        let gather = |table| Ok(gather_rows(device, table, &flat)?.reshaped(&shape));
        Ok(Angles { cos: gather(&self.angles.cos)?, sin: gather(&self.angles.sin)? })
    }
}
