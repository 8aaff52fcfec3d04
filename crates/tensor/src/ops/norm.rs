//! Layer norm and RMS norm over the last dimension, and RMS norm over heads.
//!
//! Contract. `x` f32 `[rows, n]`, weight and bias f32 `[n]`; result `[rows, n]` in the device's
//! compute type. Sums are f32 in a fixed order that depends on `n` alone; the variance is that of
//! the centred values. A norm whose weight is `1 + w`, or has none, is one whose weight was made so
//! when it was loaded.

use super::misuse;
use crate::cuda::{Arg, Cuda, Grid};
use crate::device::Device;
use crate::dtype::DType;
use crate::simd::{Isa, Kernel, LANES, Lanes, launch};
use crate::tensor::Tensor;
use crate::threads::Threads;
use std::ops::Range;
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
    run(device, x, (weight, Some(bias), epsilon))
}

/// `x / sqrt(mean of squares + epsilon) · weight`.
///
/// Errors: shapes that do not fit.
pub fn rms_norm(device: &Device, x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    if weight.row_len() != x.row_len() {
        return Err(misuse("rms_norm", "the weight does not fit the input"));
    }
    run(device, x, (weight, None, epsilon))
}

/// The RMS norm of each of the heads `heads` in every row, in place; `x` is of the compute type, a
/// head as long as the weight.
///
/// Errors: shapes that do not fit.
pub fn rms_norm_heads(
    device: &Device,
    x: &mut Tensor,
    weight: &Tensor,
    epsilon: f32,
    heads: Range<usize>,
) -> Result<()> {
    let fits = x.dtype() == device.compute_dtype() && weight.dtype() == DType::F32;
    if !fits || weight.row_len() == 0 || heads.end * weight.row_len() > x.row_len() {
        return Err(misuse("rms_norm_heads", "the heads or the weight do not fit the input"));
    }
    match device {
        Device::Cpu(threads) => heads_cpu(threads, Isa::best(), x, (weight, epsilon, heads)),
        Device::Cuda(cuda) => heads_cuda(cuda, x, (weight, epsilon, heads))?,
    }
    Ok(())
}

/// Weight, bias and epsilon; with a bias it is a layer norm, without it an RMS norm.
type Parameters<'a> = (&'a Tensor, Option<&'a Tensor>, f32);

fn run(device: &Device, x: &Tensor, parameters: Parameters<'_>) -> Result<Tensor> {
    let (weight, bias, _) = parameters;
    if [Some(x), Some(weight), bias].iter().flatten().any(|x| x.dtype() != DType::F32) {
        return Err(misuse("norm", "the input or the weight is not f32"));
    }
    match device {
        Device::Cpu(threads) => Ok(run_cpu(threads, Isa::best(), x, parameters)),
        Device::Cuda(cuda) => run_cuda(device, cuda, x, parameters),
    }
}

/// Elements of one task: some 10 µs of work.
const TASK_ELEMENTS: usize = 64 * 1024;

fn run_cpu(
    threads: &Threads,
    isa: Isa,
    x: &Tensor,
    (weight, bias, epsilon): Parameters<'_>,
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

fn heads_cpu(
    threads: &Threads,
    isa: Isa,
    x: &mut Tensor,
    (weight, epsilon, heads): (&Tensor, f32, Range<usize>),
) {
    let (width, weight) = (x.row_len(), weight.as_f32());
    let task_len = (TASK_ELEMENTS / width).max(1) * width;
    threads.for_each_chunk(x.as_mut_slice::<f32>(), task_len, &|_, x| {
        // SAFETY: the heads lie inside the rows, and each has the length of the weight.
        unsafe { launch(isa, NormHeads { x, width, weight, epsilon, heads: heads.clone() }) };
    });
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

struct NormHeads<'a> {
    x: &'a mut [f32],
    width: usize,
    weight: &'a [f32],
    epsilon: f32,
    heads: Range<usize>,
}

impl Kernel for NormHeads<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let dim = self.weight.len();
        for row in self.x.chunks_exact_mut(self.width) {
            let heads = row.chunks_exact_mut(dim).take(self.heads.end).skip(self.heads.start);
            for head in heads {
                // SAFETY: head and weight have `dim` elements.
                unsafe {
                    let squares = sum_over::<L, true>(head, 0.0) / dim as f32;
                    scale_head::<L>(head, 1.0 / (squares + self.epsilon).sqrt(), self.weight);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn scale_head<L: Lanes>(head: &mut [f32], scale: f32, weight: &[f32]) {
    let n = head.len();
    // SAFETY: reads and writes stay inside the head and the weight, which is as long.
    unsafe {
        let scale = L::splat(scale);
        for start in (0..n).step_by(LANES) {
            let left = n - start;
            let scaled = read_some::<L>(&head[start..], left).mul(scale);
            let value = scaled.mul(read_some::<L>(&weight[start..], left));
            let to = head[start..].as_mut_ptr();
            if left >= LANES { value.store(to) } else { value.store_first(to, left) }
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

/// Most threads of a block.
const THREADS_MAX: usize = 1024;
/// Elements that a thread reads at a time, and how often it does if a row is not too long: two
/// loads under way at once, and still many threads where there is only one row.
const GROUP: usize = 4;
const GROUPS_OF_THREAD: usize = 2;

fn run_cuda(
    device: &Device,
    cuda: &Cuda,
    x: &Tensor,
    (weight, bias, epsilon): Parameters<'_>,
) -> Result<Tensor> {
    let dtype = device.compute_dtype();
    let mut y = Tensor::scratch_on(device, dtype, x.shape())?;
    let n = x.row_len();
    let n_threads = n.div_ceil(GROUP * GROUPS_OF_THREAD).next_multiple_of(32);
    let grid = Grid::line(x.n_rows(), n_threads.clamp(32, THREADS_MAX) as u32);
    let what = if bias.is_some() { "layer_norm" } else { "rms_norm" };
    let mut args = vec![Arg::tensor(x), Arg::mut_tensor(&mut y), Arg::tensor(weight)];
    args.extend(bias.map(Arg::tensor));
    args.extend([Arg::I32(n as i32), Arg::F32(epsilon)]);
    cuda.launch("norm", &format!("{what}_{}", dtype.name()), grid, &args)?;
    Ok(y)
}

/// Warps of a block, each of which takes one head of one row.
const HEAD_WARPS: usize = 8;

fn heads_cuda(
    cuda: &Cuda,
    x: &mut Tensor,
    (weight, epsilon, heads): (&Tensor, f32, Range<usize>),
) -> Result<()> {
    let n_blocks = (x.n_rows() * heads.len()).div_ceil(HEAD_WARPS);
    let grid = Grid::line(n_blocks, (HEAD_WARPS * 32) as u32);
    let name = format!("rms_norm_heads_{}", x.dtype().name());
    let sizes = [x.n_rows(), x.row_len(), heads.start, heads.len(), weight.row_len()];
    let mut args = vec![Arg::mut_tensor(x), Arg::tensor(weight)];
    args.extend(sizes.map(|size| Arg::I32(size as i32)));
    args.push(Arg::F32(epsilon));
    cuda.launch("norm", &name, grid, &args)
}

#[cfg(test)]
#[path = "norm_tests.rs"]
mod tests;
