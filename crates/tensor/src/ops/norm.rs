//! Layer norm and RMS norm over the last dimension.
//!
//! Contract. `x` f32 `[rows, n]`, weight and bias f32 `[n]`; result f32 `[rows, n]`. Sums are f32
//! in sixteen lanes that are added in a fixed order, the variance is that of the centred values.

use super::misuse;
use crate::device::Device;
use crate::simd::{Isa, Kernel, LANES, Lanes, launch};
use crate::tensor::Tensor;
use crate::threads::Threads;
use types::Result;

/// `(x - mean) / sqrt(variance + epsilon) · weight + bias`.
///
/// Errors: shapes that do not fit.
pub fn layer_norm(
    device: &Device,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    epsilon: f32,
) -> Result<Tensor> {
    if weight.row_len() != x.row_len() || bias.row_len() != x.row_len() {
        return Err(misuse("layer_norm", "the weight does not fit the input"));
    }
    match device {
        Device::Cpu(threads) => Ok(run_cpu(threads, Isa::best(), x, (weight, Some(bias), epsilon))),
        Device::Cuda(_) => Err(misuse("layer_norm", "not on a GPU yet")),
    }
}

/// `x / sqrt(mean of squares + epsilon) · weight`.
///
/// Errors: shapes that do not fit.
pub fn rms_norm(device: &Device, x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    if weight.row_len() != x.row_len() {
        return Err(misuse("rms_norm", "the weight does not fit the input"));
    }
    match device {
        Device::Cpu(threads) => Ok(run_cpu(threads, Isa::best(), x, (weight, None, epsilon))),
        Device::Cuda(_) => Err(misuse("rms_norm", "not on a GPU yet")),
    }
}

/// Elements of one task: some 10 µs of work.
const TASK_ELEMENTS: usize = 64 * 1024;

fn run_cpu(
    threads: &Threads,
    isa: Isa,
    x: &Tensor,
    (weight, bias, epsilon): (&Tensor, Option<&Tensor>, f32),
) -> Tensor {
    let mut y = Tensor::scratch::<f32>(x.shape());
    let n = x.row_len();
    let task_len = (TASK_ELEMENTS / n).max(1) * n;
    let (x, weight, bias) = (x.as_f32(), weight.as_f32(), bias.map(Tensor::as_f32));
    threads.for_each_chunk(y.as_mut_slice::<f32>(), task_len, &|task, y| {
        let x = &x[task * task_len..][..y.len()];
        // SAFETY: all slices have the lengths that the kernel reads.
        unsafe { launch(isa, Norm { x, y, weight, bias, epsilon }) };
    });
    y
}

struct Norm<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    weight: &'a [f32],
    /// With a bias it is a layer norm, without it an RMS norm.
    bias: Option<&'a [f32]>,
    epsilon: f32,
}

impl Kernel for Norm<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let n = self.weight.len();
        let rows = self.x.chunks_exact(n).zip(self.y.chunks_exact_mut(n));
        for (x, y) in rows {
            // SAFETY: rows, weight and bias have `n` elements.
            unsafe {
                let mean =
                    if self.bias.is_some() { sum_over::<L, false>(x, 0.0) / n as f32 } else { 0.0 };
                let variance = sum_over::<L, true>(x, mean) / n as f32;
                let scale = 1.0 / (variance + self.epsilon).sqrt();
                write_row::<L>((x, y), (mean, scale), self.weight, self.bias);
            }
        }
    }
}

/// The sum of all `x - shift`, or of their squares.
#[inline(always)]
unsafe fn sum_over<L: Lanes, const SQUARES: bool>(x: &[f32], shift: f32) -> f32 {
    // SAFETY: reads stay inside the row.
    unsafe {
        let shift = L::splat(shift);
        let mut sum = L::splat(0.0);
        for start in (0..x.len()).step_by(LANES) {
            let left = x.len() - start;
            let value = read_some::<L>(&x[start..], left).sub(shift);
            // Lanes beyond the row must add nothing, whatever the shift.
            let value = if left >= LANES { value } else { first_lanes(value, left) };
            sum = if SQUARES { sum.fma(value, value) } else { sum.add(value) };
        }
        sum.sum()
    }
}

#[inline(always)]
unsafe fn first_lanes<L: Lanes>(value: L, n: usize) -> L {
    // SAFETY: the array holds sixteen values.
    unsafe { L::load_first(value.to_array().as_ptr(), n) }
}

#[inline(always)]
unsafe fn write_row<L: Lanes>(
    (x, y): (&[f32], &mut [f32]),
    (mean, scale): (f32, f32),
    weight: &[f32],
    bias: Option<&[f32]>,
) {
    let n = x.len();
    // SAFETY: reads and writes stay inside the rows.
    unsafe {
        let (mean, scale) = (L::splat(mean), L::splat(scale));
        for start in (0..n).step_by(LANES) {
            let left = n - start;
            let scaled = read_some::<L>(&x[start..], left).sub(mean).mul(scale);
            let weight = read_some::<L>(&weight[start..], left);
            let value = match bias {
                Some(bias) => read_some::<L>(&bias[start..], left).fma(scaled, weight),
                None => scaled.mul(weight),
            };
            let to = y[start..].as_mut_ptr();
            if left >= LANES { value.store(to) } else { value.store_first(to, left) }
        }
    }
}

#[inline(always)]
unsafe fn read_some<L: Lanes>(from: &[f32], left: usize) -> L {
    // SAFETY: `from` has `left` elements or more.
    unsafe {
        if left >= LANES { L::load(from.as_ptr()) } else { L::load_first(from.as_ptr(), left) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cases::{Random, assert_close, bits, everywhere};

    /// Rows and columns: around the vector width, real widths, more than a task.
    const CASES: &[(usize, usize)] =
        &[(1, 1), (1, 15), (2, 16), (3, 17), (5, 33), (4, 160), (300, 256), (2, 1280), (0, 16)];
    const EPSILON: f32 = 1e-6;

    fn reference(x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
        let n = x.len() as f64;
        let mean: f64 = bias.map_or(0.0, |_| x.iter().map(|&v| f64::from(v)).sum::<f64>() / n);
        let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (variance + f64::from(EPSILON)).sqrt();
        let scaled =
            x.iter().zip(weight).map(|(&v, &w)| (f64::from(v) - mean) * scale * f64::from(w));
        scaled.enumerate().map(|(i, v)| v + bias.map_or(0.0, |bias| f64::from(bias[i]))).collect()
    }

    fn check((n_rows, n): (usize, usize), is_layer_norm: bool) {
        let mut random = Random((n_rows + n) as u64);
        // Far from zero, so that a variance without centring would show.
        let values: Vec<f32> = random.units(n_rows * n).iter().map(|v| v + 3.0).collect();
        let x = Tensor::from_slice(&[n_rows, n], &values);
        let (weight, bias) = (random.tensor(&[n]), random.tensor(&[n]));
        let bias = is_layer_norm.then_some(&bias);
        let expected: Vec<f64> = (0..n_rows)
            .flat_map(|row| reference(x.row(row), weight.as_f32(), bias.map(Tensor::as_f32)))
            .collect();
        let mut first = None;
        for (threads, isa) in everywhere() {
            let y = run_cpu(&threads, isa, &x, (&weight, bias, EPSILON));
            // A single column is all rounding error, scaled up by 1/sqrt(epsilon).
            assert_close(y.as_f32(), &expected, 2e-5, &format!("{n_rows} x {n}"));
            assert_eq!(&bits(&y), first.get_or_insert(bits(&y)), "{isa:?} has other bits");
        }
    }

    #[test]
    fn rows_are_normalised() {
        for &size in CASES {
            check(size, true);
            check(size, false);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let device = Device::all_cpus();
        let (x, weight) = (Tensor::zeros::<f32>(&[2, 8]), Tensor::zeros::<f32>(&[7]));
        assert!(rms_norm(&device, &x, &weight, EPSILON).is_err());
        assert!(layer_norm(&device, &x, &weight, &weight, EPSILON).is_err());
    }
}
