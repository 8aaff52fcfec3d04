//! Rotary position embedding in its "rotate half" form.
//!
//! Contract. `x` f32 `[rows, width]`, heads of `2h` columns side by side; `angles` holds cosines
//! and sines f32 `[rows, h]`. In every head given, for `i < h`: `x[i], x[i+h]` become
//! `x[i] cos - x[i+h] sin, x[i+h] cos + x[i] sin`. In place.

use super::misuse;
use crate::device::Device;
use crate::simd::{Isa, Kernel, LANES, Lanes, launch};
use crate::tensor::Tensor;
use crate::threads::Threads;
use std::ops::Range;
use types::Result;

/// Cosine and sine of every row and frequency.
#[derive(Debug)]
pub struct Angles {
    /// f32 `[rows, h]`.
    pub cos: Tensor,
    /// f32 `[rows, h]`.
    pub sin: Tensor,
}

impl Angles {
    /// Angles where frequency `i` turns with the position on axis `axes[i]`.
    ///
    /// `positions` is u32 `[rows, 3]`, `frequencies` f32 `[h]`, `axes` u32 `[h]`, each below 3.
    /// Errors: shapes that do not fit.
    pub fn on_axes(
        device: &Device,
        positions: &Tensor,
        frequencies: &Tensor,
        axes: &Tensor,
    ) -> Result<Self> {
        if positions.row_len() != 3 || axes.n_elements() != frequencies.n_elements() {
            return Err(misuse("angles", "positions, frequencies and axes do not fit"));
        }
        match device {
            Device::Cpu(_) => Ok(angles_cpu(positions, frequencies, axes)),
            Device::Cuda(_) => Err(misuse("angles", "not on a GPU yet")),
        }
    }
}

fn angles_cpu(positions: &Tensor, frequencies: &Tensor, axes: &Tensor) -> Angles {
    let shape = [positions.n_rows(), frequencies.n_elements()];
    let (mut cos, mut sin) = (Tensor::scratch::<f32>(&shape), Tensor::scratch::<f32>(&shape));
    let turned = positions.as_slice::<u32>().chunks_exact(3).flat_map(|position| {
        let frequencies = frequencies.as_f32().iter().zip(axes.as_slice::<u32>());
        frequencies.map(|(frequency, &axis)| position[axis as usize] as f32 * frequency)
    });
    let places = cos.as_mut_slice::<f32>().iter_mut().zip(sin.as_mut_slice::<f32>());
    for ((cos, sin), angle) in places.zip(turned) {
        (*sin, *cos) = angle.sin_cos();
    }
    Angles { cos, sin }
}

/// Rotates the heads of `heads` in every row.
///
/// Errors: shapes that do not fit.
pub fn rotary(device: &Device, x: &mut Tensor, angles: &Angles, heads: Range<usize>) -> Result<()> {
    let half = angles.cos.row_len();
    let rows_fit = angles.cos.n_rows() == x.n_rows() && angles.cos.shape() == angles.sin.shape();
    if !rows_fit || heads.end * 2 * half > x.row_len() {
        return Err(misuse("rotary", "the angles do not fit the input"));
    }
    match device {
        Device::Cpu(threads) => run_cpu(threads, Isa::best(), x, (angles, heads)),
        Device::Cuda(_) => return Err(misuse("rotary", "not on a GPU yet")),
    }
    Ok(())
}

/// Elements of one task: some 10 µs of work.
const TASK_ELEMENTS: usize = 64 * 1024;

fn run_cpu(threads: &Threads, isa: Isa, x: &mut Tensor, (angles, heads): (&Angles, Range<usize>)) {
    let (width, half) = (x.row_len(), angles.cos.row_len());
    let task_rows = (TASK_ELEMENTS / width).max(1);
    let (cos, sin) = (angles.cos.as_f32(), angles.sin.as_f32());
    threads.for_each_chunk(x.as_mut_slice::<f32>(), task_rows * width, &|task, x| {
        let start = task * task_rows * half;
        let (cos, sin) = (&cos[start..], &sin[start..]);
        // SAFETY: the angles cover the rows, the heads lie inside each.
        unsafe { launch(isa, Rotate { x, cos, sin, width, half, heads: heads.clone() }) };
    });
}

struct Rotate<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    width: usize,
    half: usize,
    heads: Range<usize>,
}

impl Kernel for Rotate<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for (row, x) in self.x.chunks_exact_mut(self.width).enumerate() {
            let cos = &self.cos[row * self.half..(row + 1) * self.half];
            let sin = &self.sin[row * self.half..(row + 1) * self.half];
            for head in
                x.chunks_exact_mut(2 * self.half).take(self.heads.end).skip(self.heads.start)
            {
                // SAFETY: a head has twice as many elements as there are angles.
                unsafe { rotate_head::<L>(head, cos, sin) };
            }
        }
    }
}

#[inline(always)]
unsafe fn rotate_head<L: Lanes>(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let (low, high) = head.split_at_mut(half);
    let whole = half / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        // SAFETY: sixteen elements from `start` on exist in all four.
        unsafe {
            let (cos, sin) = (L::load(cos[start..].as_ptr()), L::load(sin[start..].as_ptr()));
            let (a, b) = (L::load(low[start..].as_ptr()), L::load(high[start..].as_ptr()));
            a.mul(cos).sub(b.mul(sin)).store(low[start..].as_mut_ptr());
            b.mul(cos).add(a.mul(sin)).store(high[start..].as_mut_ptr());
        }
    }
    for i in whole..half {
        let (a, b) = (low[i], high[i]);
        low[i] = a * cos[i] - b * sin[i];
        high[i] = b * cos[i] + a * sin[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cases::{Random, assert_close, bits, everywhere};

    /// Rows, heads in a row, half a head: odd, real (32, 40, 64), more than a task.
    const CASES: &[(usize, usize, usize)] =
        &[(1, 1, 1), (2, 3, 5), (3, 6, 32), (2, 4, 40), (5, 4, 64), (200, 8, 36)];

    fn check((n_rows, n_heads, half): (usize, usize, usize)) {
        let mut random = Random((n_rows + n_heads + half) as u64);
        let x = random.tensor(&[n_rows, n_heads * 2 * half]);
        let angles =
            Angles { cos: random.tensor(&[n_rows, half]), sin: random.tensor(&[n_rows, half]) };
        let heads = 0..n_heads.div_ceil(2);
        let mut expected: Vec<f64> = x.as_f32().iter().map(|&v| f64::from(v)).collect();
        for row in 0..n_rows {
            for head in heads.clone() {
                for i in 0..half {
                    let (cos, sin) = (angles.cos.row(row)[i], angles.sin.row(row)[i]);
                    let at = row * n_heads * 2 * half + head * 2 * half + i;
                    let (a, b) = (f64::from(x.as_f32()[at]), f64::from(x.as_f32()[at + half]));
                    expected[at] = a * f64::from(cos) - b * f64::from(sin);
                    expected[at + half] = b * f64::from(cos) + a * f64::from(sin);
                }
            }
        }
        let mut first = None;
        for (threads, isa) in everywhere() {
            let mut y = Tensor::from_slice(x.shape(), x.as_f32());
            run_cpu(&threads, isa, &mut y, (&angles, heads.clone()));
            assert_close(y.as_f32(), &expected, 1e-6, &format!("{n_rows} {n_heads} {half}"));
            assert_eq!(&bits(&y), first.get_or_insert(bits(&y)), "{isa:?} has other bits");
        }
    }

    #[test]
    fn heads_are_rotated_and_the_others_left() {
        CASES.iter().for_each(|&size| check(size));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let device = Device::all_cpus();
        let angles =
            Angles { cos: Tensor::zeros::<f32>(&[2, 4]), sin: Tensor::zeros::<f32>(&[2, 4]) };
        let mut x = Tensor::zeros::<f32>(&[2, 16]);
        assert!(rotary(&device, &mut x, &angles, 0..3).is_err());
        let mut x = Tensor::zeros::<f32>(&[3, 16]);
        assert!(rotary(&device, &mut x, &angles, 0..1).is_err());
    }
}
